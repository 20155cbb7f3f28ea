"""Which connection a call gets: kept, replaced, and made anew."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, Generic, TypeVar

import attrs
import trio

from fawa import restarts
from fawa.client.errors import CannotReach
from fawa.client.exchange import Pool, Shared
from fawa.client.http1 import H1Client

Made = TypeVar("Made")
#: Makes a byte stream or raises `CannotReach`.
Dial = Callable[[], Awaitable[trio.abc.Stream]]
#: Makes a connection for many exchanges or raises `CannotReach`.
DialShared = Callable[[], Awaitable[Shared]]

#: HTTP/1.1 connections of one channel.
MOST_H1: Final = 16
#: Tries to get a server back that was reached before: with the pauses in between, a second or two.
_TRIES: Final = 5


@asynccontextmanager
async def background() -> AsyncIterator[trio.Nursery]:
    """Open a nursery for tasks that end by themselves; what the block raises comes out as it is."""
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except trio.Cancelled:
            raise
        except BaseException as error:
            failure = error
    if failure is not None:
        raise failure


@attrs.define
class Reconnecting(Generic[Made]):
    """Dials; a server that was reached before may be starting again, so it is tried for a while.

    Nothing is sent before there is a connection, so trying again is always safe. The pauses grow and are
    jittered. A server that was never reached, or did not come back, is given one try a call.
    """

    dial: Callable[[], Awaitable[Made]]
    _reached: bool = attrs.field(default=False, init=False)

    async def __call__(self) -> Made:
        """Return a new connection.

        Raises:
            CannotReach: there is none to be had.

        """
        failures = 0
        while True:
            try:
                made = await self.dial()
            except CannotReach:
                failures += 1
                if not self._reached or failures == _TRIES:
                    self._reached = False
                    raise
                await trio.sleep(restarts.pause(failures, random.random()))  # noqa: S311 - jitter, not a secret
            else:
                self._reached = True
                return made


class SharedPool(Pool):
    """One connection, HTTP/2 or HTTP/3, for new exchanges; older ones finish what is open on them."""

    def __init__(self, dial: DialShared, nursery: trio.Nursery) -> None:
        self._dial = dial
        self._nursery = nursery
        self._current: Shared | None = None
        self._all: set[Shared] = set()
        self._dialling = trio.Lock()
        #: How often no connection could be made, and why the last time.
        self._failures = 0
        self._reason = ""
        self._closed = False

    async def acquire(self) -> Shared:
        while True:
            connection = self._current
            if connection is None or not connection.is_usable:
                connection = await self._renew()
            if await connection.acquire():
                return connection

    async def _renew(self) -> Shared:
        """Return a usable connection, made by whichever caller comes first."""
        failures = self._failures
        async with self._dialling:
            if self._current is not None and self._current.is_usable:
                return self._current
            if failures != self._failures:
                # Whoever came first has failed while this one waited: all share the answer.
                raise CannotReach(self._reason)
            try:
                connection = await _dial(self._dial, closed=self._closed)
            except CannotReach as error:
                self._failures += 1
                self._reason = error.message or ""
                raise
            self._current = connection
            self._nursery.start_soon(self._run, connection)
            return connection

    async def _run(self, connection: Shared) -> None:
        self._all.add(connection)
        if self._closed:
            connection.end()
        try:
            await connection.run()
        finally:
            self._all.discard(connection)

    def close(self) -> None:
        self._closed = True
        for connection in self._all:
            connection.end()


class H1Pool(Pool):
    """HTTP/1.1 connections, one for each exchange under way; callers beyond `most` wait."""

    def __init__(self, dial: Dial, nursery: trio.Nursery, address: str, most: int = MOST_H1) -> None:
        self._dial = dial
        self._nursery = nursery
        self._address = address
        self._room = trio.Semaphore(most)
        #: Connections that rest; the one used last is used next.
        self._idle: list[H1Client] = []
        self._all: set[H1Client] = set()
        self._closed = False

    async def acquire(self) -> H1Client:
        await self._room.acquire()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
        try:
            stream = await _dial(self._dial, closed=self._closed)
        except BaseException:
            self._room.release()
            raise
        connection = H1Client(stream, self._address, self._free)
        self._nursery.start_soon(self._run, connection)
        return connection

    def _free(self, connection: H1Client) -> None:
        self._room.release()
        if connection.is_usable:
            self._idle.append(connection)

    async def _run(self, connection: H1Client) -> None:
        self._all.add(connection)
        if self._closed:
            connection.end()
        try:
            await connection.run()
        finally:
            self._all.discard(connection)
            if connection in self._idle:
                self._idle.remove(connection)

    def close(self) -> None:
        self._closed = True
        for connection in self._all:
            connection.end()


async def _dial(dial: Callable[[], Awaitable[Made]], *, closed: bool) -> Made:
    if closed:
        raise CannotReach("the channel is closed: its block has ended")
    return await dial()
