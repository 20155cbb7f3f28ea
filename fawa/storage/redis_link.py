"""The way to Redis: one client at a time, replaced when it fails; scripts run within a deadline.

A client of coredis runs tasks of its own, so a nursery here outlives it. After any failure of a connection
the client is thrown away with all its connections, and the next call makes a new one: that finds the new
primary after a failover, the new shape of a cluster, and leaves nothing half used behind.

A call is not cancelled half-way: it ends, or its own deadline (`CALL_TIMEOUT`) ends it and its client. So its
caller knows what became of it, and no connection is left with an answer that nobody takes.
"""

from __future__ import annotations

import random
import secrets
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import coredis
import trio
from coredis import exceptions
from coredis.connection import TCPLocation
from coredis.retry import NoRetryPolicy

from fawa.ops.logging import get_logger
from fawa.storage.base import OutOfSpace, StorageError
from fawa.storage.redis_url import RedisAddress

#: Seconds that one call takes at most, with what it waits for a connection and is tried again.
CALL_TIMEOUT: Final = 5.0

#: Seconds for a connection, and for one answer.
CONNECT_TIMEOUT: Final = 2.0
ANSWER_TIMEOUT: Final = 3.0

#: Seconds before the second try of a call that a failover, a restart or a lost connection stopped; doubled
#: each time and jittered, so that daemons which lost the same Redis do not come back in step.
RETRY_DELAY: Final = 0.05

#: Seconds in which a call may be tried again.
RETRY_TIMEOUT: Final = 2.0

#: Seconds, jittered, in which calls fail at once after one could not reach Redis in all its tries: nobody
#: waits for what is not there, and Redis is not stormed when it is back.
AWAY: Final = 0.5

#: Calls under way at once. Others wait their turn here: coredis queues without bound.
MAX_CALLS: Final = 64

#: Connections to one server.
MAX_CONNECTIONS: Final = 4

#: The server is starting, is no primary (any more), or a cluster moves slots: the same call soon works.
_PASSING: Final = (
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "MOVED",
    "ASK",
    "UNBLOCKED",
)

_log = get_logger("fawa.storage.redis")


@attrs.define(eq=False)
class _Client:
    """A client, and how to end it."""

    redis: Any
    ended: trio.Event = attrs.field(factory=trio.Event)


@attrs.define(eq=False)
class RedisLink:
    """Runs scripts; made by `redis_link`."""

    address: RedisAddress
    _tls: ssl.SSLContext | None
    _nursery: trio.Nursery
    _client: _Client | None = None
    #: Why Redis could not be reached, and until when that is told without a try.
    _away: StorageError | None = attrs.field(default=None, init=False)
    _away_until: float = attrs.field(default=0.0, init=False)
    #: Of the clients; `_close` cancels them.
    _scopes: set[trio.CancelScope] = attrs.field(factory=set, init=False)
    _opening: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    _turns: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(MAX_CALLS), init=False)

    async def run(
        self, script: str, keys: list[str], arguments: list[str | bytes | int | float], *, again: bool = True
    ) -> Any:
        """Run a Lua script and return what it returns; text comes as bytes.

        Args:
            script: what to run.
            keys: every key that it touches, all in one slot.
            arguments: its other arguments.
            again: whether it may run twice, when a connection was lost before the answer came.

        Raises:
            OutOfSpace: Redis has reached its memory limit.
            StorageError: Redis cannot be reached, or refused.

        """
        await trio.lowlevel.checkpoint_if_cancelled()
        async with self._turns:
            if self._away is not None and trio.current_time() < self._away_until:
                raise self._away
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CALL_TIMEOUT):
                return await self._run(script, keys, arguments, again)
            self._drop(self._client)
            raise StorageError(
                f"Redis at {self.address} did not answer within {CALL_TIMEOUT:g} seconds. "
                "Check that it runs, and that the network is up."
            )

    async def _run(self, script: str, keys: list[str], arguments: list[Any], again: bool) -> Any:
        """Try until it works, fails for good, or the deadline ends it."""
        delay = RETRY_DELAY
        until = trio.current_time() + RETRY_TIMEOUT
        while True:
            client: _Client | None = None
            try:
                client = await self._connected()
                answer = await client.redis.eval(script, keys=keys, args=arguments)
            except (exceptions.RedisError, OSError) as error:
                if not isinstance(error, exceptions.ResponseError) or _is_passing(error):
                    self._drop(client)
                refused = client is None or _is_passing(error) or _not_sent(error)
                retry = _may_pass(error) and (again or refused)
                if not retry or trio.current_time() + 2 * delay > until:
                    failure = _explain(self.address, error)
                    if not isinstance(error, exceptions.ResponseError):
                        self._away = failure
                        self._away_until = trio.current_time() + AWAY * random.uniform(0.5, 1.5)  # noqa: S311
                    raise failure from error
                await trio.sleep(delay * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
                delay *= 2
            else:
                return answer

    async def _connected(self) -> _Client:
        """Return the client, a new one when there is none."""
        async with self._opening:
            if self._client is None:
                self._client = await self._nursery.start(self._keep)
            return self._client

    async def _keep(self, task_status: trio.TaskStatus[_Client]) -> None:
        """Have a client until it is dropped."""
        started = False
        try:
            # Lives as long as the link: when its user is cancelled, what it does to clean up still has Redis.
            async with self._until_closed(), self._clients() as redis:
                client = _Client(redis)
                task_status.started(client)
                started = True
                await client.ended.wait()
        except (exceptions.RedisError, OSError, ExceptionGroup) as error:
            cause = _first(error)
            if not isinstance(cause, exceptions.RedisError | OSError):
                raise
            if not started:
                raise cause from error
            # Its calls have told already; a new client is made for the next.
            _log.debug("a Redis client ended with an error", error=str(cause))

    @asynccontextmanager
    async def _until_closed(self) -> AsyncIterator[None]:
        with trio.CancelScope(shield=True) as scope:  # noqa: ASYNC100 - the user's, while it yields
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)

    def _close(self) -> None:
        for scope in self._scopes:
            scope.cancel()
        self._nursery.cancel_scope.cancel()

    def _drop(self, client: _Client | None) -> None:
        """Do without this client from now on; other calls that use it fail and are tried again."""
        if client is not None:
            client.ended.set()
            if self._client is client:
                self._client = None

    @asynccontextmanager
    async def _clients(self) -> AsyncIterator[Any]:
        address = self.address
        common: dict[str, Any] = {
            "username": address.username,
            "password": address.password,
            "ssl_context": self._tls,
            "stream_timeout": ANSWER_TIMEOUT,
            "connect_timeout": CONNECT_TIMEOUT,
        }
        locations = [TCPLocation(host, port) for host, port in address.nodes]
        if address.kind == "cluster":
            async with coredis.RedisCluster(
                startup_nodes=locations,
                max_connections=MAX_CONNECTIONS,
                max_connections_per_node=True,
                skip_full_coverage_check=True,
                retry_policy=NoRetryPolicy(),
                **common,
            ) as cluster:
                yield cluster
        elif address.kind == "sentinel":
            # Sentinels have passwords of their own, if any; TLS is for them as for the servers.
            of_sentinels = {key: common[key] for key in ("ssl_context", "stream_timeout", "connect_timeout")}
            async with (
                coredis.Sentinel(
                    locations, sentinel_kwargs=of_sentinels, retry_policy=NoRetryPolicy(), **common
                ) as sentinel,
                sentinel.primary_for(
                    address.service, db=address.database, max_connections=MAX_CONNECTIONS
                ) as primary,
            ):
                yield primary
        else:
            async with coredis.Redis(
                *address.nodes[0],
                db=address.database,
                max_connections=MAX_CONNECTIONS,
                retry_policy=NoRetryPolicy(),
                **common,
            ) as server:
                yield server


def new_token() -> str:
    """Return what tells one caller from all others."""
    return secrets.token_hex(12)


@asynccontextmanager
async def redis_link(address: RedisAddress, ca: Path | None = None) -> AsyncIterator[RedisLink]:
    """Open the way to Redis; what uses it ends before the context does.

    Args:
        address: where it is.
        ca: with TLS, PEM file of the authorities to trust in place of the system's.

    Raises:
        StorageError: the file of authorities cannot be read.

    """
    try:
        tls = ssl.create_default_context(cafile=ca) if address.tls else None
    except OSError as error:
        raise StorageError(
            f"the certificates in {ca} cannot be read: {error}. Check storage.redis_ca."
        ) from error
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        link = RedisLink(address, tls, nursery)
        try:
            yield link
        except Exception as error:  # raised below, as it is and not in a group
            failure = error
        finally:
            link._close()
    if failure is not None:
        raise failure


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _causes(error: BaseException | None) -> str:
    """Write an error with what led to it: coredis tells the reason of a failed connection only as cause."""
    texts: list[str] = []
    while error is not None and len(texts) < 4:
        error = _first(error)
        if (text := str(error) or type(error).__name__) not in texts:
            texts.append(text)
        error = error.__cause__
    return ": ".join(texts)


def _is_passing(error: BaseException) -> bool:
    kinds = (
        exceptions.BusyLoadingError,
        exceptions.ReadOnlyError,
        exceptions.ClusterDownError,
        exceptions.TryAgainError,
        exceptions.AskError,
        exceptions.StalePrimaryError,
    )
    return isinstance(error, kinds) or str(error).startswith(_PASSING)


def _not_sent(error: BaseException) -> bool:
    return isinstance(error, exceptions.SentinelError) or "establish a connection" in str(error)


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, exceptions.AuthenticationError | exceptions.AuthorizationError):
        return False
    if isinstance(error, exceptions.ResponseError):
        return _is_passing(error)
    return "certificate" not in _causes(error).lower()


def _explain(address: RedisAddress, error: BaseException) -> StorageError:
    """Say what went wrong and what to do."""
    text = _causes(error)
    if text.startswith("OOM") or "OOM command not allowed" in text or "'maxmemory'" in text:
        return OutOfSpace(
            f"Redis at {address} has reached its memory limit ({text}). Raise maxmemory there, or free some."
        )
    if isinstance(error, exceptions.AuthenticationError | exceptions.AuthorizationError):
        return StorageError(
            f"Redis at {address} refused ({text}). Check user and password in storage.redis_url, and that "
            "the user may run EVAL on keys that begin with {fawa."
        )
    if "certificate" in text.lower():
        return StorageError(
            f"Redis at {address} has a certificate that is not trusted ({text}). Set storage.redis_ca."
        )
    if isinstance(error, exceptions.ResponseError):
        return StorageError(f"Redis at {address} refused: {text}")
    return StorageError(
        f"Redis at {address} cannot be reached ({text}). Check that it runs, and the address."
    )
