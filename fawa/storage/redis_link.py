"""The way to Redis: one client at a time, replaced when it fails; scripts run within a deadline.

A client of coredis runs tasks of its own, so a nursery here outlives it. After any failure of a connection
the client is thrown away with all its connections, and the next call has a new one made: that finds the new
primary after a failover, the new shape of a cluster, and leaves nothing half used behind.

There is never more than one attempt to connect, for whose outcome all calls wait, and a pause between two,
longer each time and jittered: daemons that lost the same Redis do not come back in step. Calls wait for a
Redis that has just gone away (it may be restarting), and fail at once while one is away for longer.

Once sent, a script is not cancelled half-way: it ends, or its own deadline ends it and its client. So its
caller knows what became of it, and no connection is left with an answer that nobody takes.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
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
from fawa.storage.base import OutOfReach, StorageError
from fawa.storage.redis_errors import explain, innermost, is_answer, is_passing
from fawa.storage.redis_url import RedisAddress

#: Seconds that a call waits for its turn and for a connection, and in which it may be tried again. As long
#: after Redis went away, calls wait no more.
PATIENCE: Final = 2.0

#: Seconds for an answer, and for a connection: to one server, and to find out which.
ANSWER_TIMEOUT: Final = 3.0
CONNECT_TIMEOUT: Final = 2.0
ATTEMPT_TIMEOUT: Final = 6.0

#: Seconds that `check` takes at most, less than who asks for readiness waits.
CHECK_TIMEOUT: Final = 1.5

#: Seconds between two attempts to connect, before jitter: doubled from the first to the last.
FIRST_PAUSE: Final = 0.05
LAST_PAUSE: Final = 2.0

#: Calls under way at once. Others wait their turn here, for a while: coredis queues without bound.
MAX_CALLS: Final = 64

#: Connections to one server.
MAX_CONNECTIONS: Final = 4

_PROBE: Final = "return 1"

_log = get_logger("fawa.storage.redis")

# Of each attempt that fails it logs a traceback; what is wrong is told here, when it begins and when it ends.
logging.getLogger("coredis").setLevel(logging.CRITICAL)


@attrs.define(eq=False)
class _Client:
    """A client, and how to end it."""

    redis: Any
    ended: trio.Event = attrs.field(factory=trio.Event, init=False)
    #: Why it was dropped.
    error: BaseException | None = attrs.field(default=None, init=False)
    #: Of the calls that use it.
    calls: set[trio.CancelScope] = attrs.field(factory=set, init=False)

    def end(self, error: BaseException) -> None:
        """Close its connections, and have no call wait for an answer that cannot come any more."""
        self.error = self.error or error
        self.ended.set()
        for call in self.calls:
            call.cancel()


@attrs.define(eq=False)
class _Outage:
    """Redis is away, or does not let us in."""

    began: float
    #: When the next attempt may be made.
    until: float
    pause: float
    failure: StorageError

    def is_over_patience(self) -> bool:
        """Tell whether calls should fail at once: waiting helps no more, or never did."""
        return not isinstance(self.failure, OutOfReach) or trio.current_time() - self.began >= PATIENCE

    def error(self) -> StorageError:
        """Return the failure, to be raised: each time another object, as many tasks may do so."""
        if isinstance(self.failure, OutOfReach):
            return OutOfReach(str(self.failure), self.failure.backend)
        return type(self.failure)(str(self.failure))


@attrs.define(eq=False)
class RedisLink:
    """Runs scripts; made by `redis_link`."""

    address: RedisAddress
    #: A key in the slot that everything here is in.
    _probe: str
    _tls: ssl.SSLContext | None
    _nursery: trio.Nursery
    _client: _Client | None = attrs.field(default=None, init=False)
    #: While an attempt to connect is under way: set at its end.
    _attempt: trio.Event | None = attrs.field(default=None, init=False)
    #: From the first failure until the next answer.
    _outage: _Outage | None = attrs.field(default=None, init=False)
    #: Of the clients; `_close` cancels them.
    _scopes: set[trio.CancelScope] = attrs.field(factory=set, init=False)
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
            OutOfReach: Redis is away; what it was doing when it went away may be done or not.
            OutOfSpace: Redis has reached its memory limit.
            StorageError: Redis refused.

        """
        until = trio.current_time() + PATIENCE
        async with self._turn(until):
            while True:
                client = await self._connected(until)
                try:
                    answer = await _within(ANSWER_TIMEOUT, client, script, keys, arguments)
                except (exceptions.RedisError, OSError) as error:
                    if is_answer(error):
                        self._is_there()
                        raise explain(self.address, error) from None
                    self._drop(client, error)
                    if not (again or is_passing(error)) or trio.current_time() >= until:
                        raise explain(self.address, error) from None
                else:
                    self._is_there()
                    return answer

    async def check(self) -> None:
        """Return when Redis answers.

        Raises:
            StorageError: it does not.

        """
        until = trio.current_time() + CHECK_TIMEOUT
        client = await self._connected(until)
        try:
            await _within(until - trio.current_time(), client, _PROBE, [self._probe], [])
        except (exceptions.RedisError, OSError) as error:
            # A client that is slow to answer is left to those who have more time.
            if not is_answer(error) and not isinstance(error, TimeoutError):
                self._drop(client, error)
            raise explain(self.address, error) from None
        self._is_there()

    @asynccontextmanager
    async def _turn(self, until: float) -> AsyncIterator[None]:
        with trio.CancelScope(deadline=until) as scope:
            await self._turns.acquire()
        if scope.cancelled_caught:
            raise OutOfReach(
                f"Redis at {self.address} is slower than it is asked: {MAX_CALLS} calls are under way.",
                "Redis",
            )
        try:
            yield
        finally:
            self._turns.release()

    # Connecting

    async def _connected(self, until: float) -> _Client:
        """Return the client, a new one when there is none.

        Raises:
            StorageError: there is none until then, or none can be hoped for.

        """
        with trio.CancelScope(deadline=until):
            while self._client is None:
                outage = self._outage
                is_pause = outage is not None and trio.current_time() < outage.until
                if (
                    outage is not None
                    and outage.is_over_patience()
                    and (is_pause or self._attempt is not None)
                ):
                    # Whoever comes first after the pause tries, and nobody else waits for that.
                    raise outage.error()
                if self._attempt is not None:
                    await self._attempt.wait()
                elif outage is not None and is_pause:
                    await trio.sleep_until(outage.until)
                else:
                    self._attempt = trio.Event()
                    self._nursery.start_soon(self._keep, self._attempt)
                    await self._attempt.wait()
            return self._client
        if self._outage is not None:
            raise self._outage.error()
        raise explain(self.address, TimeoutError("no connection in time"))

    async def _keep(self, attempt: trio.Event) -> None:
        """Try to connect, and have the client until it is dropped."""
        error: BaseException = TimeoutError(f"no connection within {ATTEMPT_TIMEOUT:g} seconds")
        client: _Client | None = None
        # Shielded, so that it lives as long as the link: when whoever uses that is cancelled, what they do to
        # clean up still has Redis.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + ATTEMPT_TIMEOUT) as scope:
            self._scopes.add(scope)
            try:
                async with self._clients() as redis:
                    await _evaluate(redis, _PROBE, [self._probe], [])
                    scope.deadline = math.inf
                    client = self._client = _Client(redis)
                    self._attempt = None
                    attempt.set()
                    await client.ended.wait()
            except Exception as raised:
                # At what is no Redis, coredis fails in ways of its own.
                error = innermost(raised)
            finally:
                self._scopes.discard(scope)
        if client is not None:
            if not client.ended.is_set() and not scope.cancelled_caught:
                _log.error("the Redis client has failed, another one takes its place", exc_info=error)
            client.end(error)
            if self._client is client:
                self._client = None
        elif not self._nursery.cancel_scope.cancel_called:
            self._fail(error)
            self._attempt = None
            attempt.set()

    def _close(self) -> None:
        for scope in self._scopes:
            scope.cancel()
        self._nursery.cancel_scope.cancel()

    def _drop(self, client: _Client, error: BaseException) -> None:
        """Do without this client from now on; other calls that use it fail and are tried again."""
        client.end(error)
        if self._client is client:
            self._client = None
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Note that Redis is away, and when to try next."""
        now = trio.current_time()
        failure = explain(self.address, error)
        outage = self._outage
        if outage is None:
            outage = self._outage = _Outage(now, now, FIRST_PAUSE, failure)
            _log.error("Redis is away", error=str(failure))
        outage.failure = failure
        outage.until = now + outage.pause * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
        outage.pause = min(2 * outage.pause, LAST_PAUSE)

    def _is_there(self) -> None:
        """Note that Redis has answered."""
        if self._outage is not None:
            seconds = round(trio.current_time() - self._outage.began, 3)
            self._outage = None
            _log.warning("Redis is back", redis=str(self.address), seconds=seconds)

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
            # Sentinels without a password take any; with one, it is the servers' (and the user is theirs).
            of_sentinels = {**common, "username": None}
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


@attrs.frozen(eq=False)
class InRedis:
    """What all stores in Redis have in common."""

    _link: RedisLink
    #: See `base.Dependency`.
    backend: str = attrs.field(default="redis", init=False)

    async def check(self) -> None:
        """Return when Redis answers."""
        await self._link.check()


async def _within(seconds: float, client: _Client, script: str, keys: list[str], arguments: list[Any]) -> Any:
    """Run a script; not cancelled from outside.

    Raises:
        coredis.exceptions.RedisError: it could not be run; if the connection was lost, it may have been.
        OSError: the same, with `TimeoutError` when there was no answer.

    """
    with trio.CancelScope(shield=True, deadline=trio.current_time() + seconds) as scope:
        client.calls.add(scope)
        try:
            return await _evaluate(client.redis, script, keys, arguments)
        except Exception as raised:
            error = innermost(raised)
            if isinstance(error, exceptions.RedisError | OSError):
                raise error from None
            # A client that was closed meanwhile fails in ways of its own.
            if not client.ended.is_set():
                raise
        finally:
            client.calls.discard(scope)
    if isinstance(client.error, exceptions.RedisError | OSError):
        raise client.error
    raise TimeoutError(f"no answer within {seconds:g} seconds")


async def _evaluate(redis: Any, script: str, keys: list[str], arguments: list[Any]) -> Any:
    """Run a script that the server likely knows; else send it."""
    try:
        return await redis.evalsha(_digest(script), keys=keys, args=arguments)
    except exceptions.NoScriptError:
        return await redis.eval(script, keys=keys, args=arguments)


@functools.cache
def _digest(script: str) -> str:
    """Return what the server calls the script. There are as many as there are constants."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def new_token() -> str:
    """Return what tells one caller from all others."""
    return secrets.token_hex(12)


@asynccontextmanager
async def redis_link(address: RedisAddress, ca: Path | None, probe: str) -> AsyncIterator[RedisLink]:
    """Open the way to Redis; what uses it ends before the context does.

    Args:
        address: where it is.
        ca: with TLS, PEM file of the authorities to trust in place of the system's.
        probe: a key in the slot of what is kept there.

    Raises:
        StorageError: the file of authorities cannot be read.

    """
    try:
        tls = ssl.create_default_context(cafile=ca) if address.tls else None
    except OSError as error:
        raise StorageError(f"the certificates in {ca} cannot be read: {error}. Check redis.ca.") from error
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        link = RedisLink(address, probe, tls, nursery)
        try:
            yield link
        except Exception as error:  # raised below, as it is and not in a group
            failure = error
        finally:
            link._close()
    if failure is not None:
        raise failure
