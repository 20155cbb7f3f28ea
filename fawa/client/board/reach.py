"""How a board is reached: WebTransport if it comes in time, else WebSocket, with the reason."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Literal

import attrs
import trio
from grpclib.exceptions import GRPCError

from fawa.client.board.line import Line, Refused
from fawa.client.errors import CannotReach
from fawa.client.pool import background

#: Seconds that WebTransport has for itself, and that WebSocket waits for it once it is there itself.
HEAD_START: Final = 0.3
GRACE: Final = 0.7
#: Seconds for which a network that did not answer over UDP is not asked again.
_MEMORY: Final = 5 * 60.0

Transport = Literal["auto", "webtransport", "websocket"]
#: Opens a connection, which lasts as long as the block. It may raise `Refused` and `CannotReach`.
Open = Callable[[], AbstractAsyncContextManager[Line]]


@attrs.define(eq=False)
class _Attempt:
    """One way to connect, tried in a task of its own that then holds the connection open."""

    _open: Open
    #: Is unparked when any attempt is decided.
    _turn: trio.lowlevel.ParkingLot
    line: Line | None = None
    #: Why there is none, or the server's no.
    failure: str = ""
    refusal: Refused | None = None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    @property
    def is_decided(self) -> bool:
        """Whether there is a connection, or will be none."""
        return self.line is not None or bool(self.failure)

    @property
    def is_refused(self) -> bool:
        """Whether the server said no, which it will by any way; one that failed may do better by another."""
        return self.refusal is not None and self.refusal.status < 500

    async def run(self) -> None:
        """Connect, and keep the connection until this is cancelled."""
        with self.scope:
            try:
                async with self._open() as self.line:
                    self._turn.unpark_all()
                    await trio.sleep_forever()
            except Refused as refused:
                self.refusal = refused
                self.failure = f"{refused.text} (HTTP status {refused.status})"
            except GRPCError as error:
                self.failure = error.message or "the connection broke"
        self._turn.unpark_all()


@attrs.define(eq=False)
class Reach:
    """The ways to one board.

    Args:
        webtransport: opens a session.
        websocket: opens a WebSocket.
        transport: which of them may be used.

    """

    _webtransport: Open
    _websocket: Open
    _transport: Transport = "auto"
    #: Until when WebTransport is not tried, and why.
    _blocked_until: float = attrs.field(default=-math.inf, init=False)
    _blocked_why: str = attrs.field(default="", init=False)

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[tuple[Line, str]]:
        """Connect; returns the connection, which lasts as long as the block, and why it is no better one.

        Raises:
            CannotReach: there is none to be had.
            Refused: the server said no.

        """
        async with background() as nursery:
            try:
                if self._transport == "auto":
                    yield await self._race(nursery)
                else:
                    only = self._websocket if self._transport == "websocket" else self._webtransport
                    yield await self._alone(only, nursery), ""
            finally:
                nursery.cancel_scope.cancel()

    async def _alone(self, way: Open, nursery: trio.Nursery) -> Line:
        turn = trio.lowlevel.ParkingLot()
        attempt = _Attempt(way, turn)
        nursery.start_soon(attempt.run)
        await _until(lambda: attempt.is_decided, turn)
        if attempt.line is not None:
            return attempt.line
        raise attempt.refusal or CannotReach(attempt.failure)

    async def _race(self, nursery: trio.Nursery) -> tuple[Line, str]:
        turn = trio.lowlevel.ParkingLot()
        better, sure = _Attempt(self._webtransport, turn), _Attempt(self._websocket, turn)
        began = trio.current_time()
        if began < self._blocked_until:
            better.failure = self._blocked_why
        else:
            nursery.start_soon(better.run)
            with trio.move_on_after(HEAD_START):
                await _until(lambda: better.is_decided, turn)
        if better.line is None and not better.is_refused:
            nursery.start_soon(sure.run)
            await _until(lambda: better.is_decided or sure.is_decided, turn)
            if not better.is_decided:
                with trio.move_on_after(GRACE):
                    await _until(lambda: better.is_decided, turn)
        if better.line is not None:
            sure.scope.cancel()
            return better.line, ""
        if better.refusal is not None and better.is_refused:
            raise better.refusal
        was_silent = not better.failure
        if was_silent:
            better.scope.cancel()
            better.failure = f"UDP did not answer within {trio.current_time() - began:.1f} s"
        await _until(lambda: sure.is_decided, turn)
        if sure.line is not None:
            if was_silent:
                self._blocked_until = trio.current_time() + _MEMORY
                self._blocked_why = better.failure
            return sure.line, f"WebTransport could not be had: {better.failure}"
        if sure.refusal is not None:
            raise sure.refusal
        raise CannotReach(f"{sure.failure}; and by WebTransport: {better.failure}")


async def _until(holds: Callable[[], bool], turn: trio.lowlevel.ParkingLot) -> None:
    while not holds():
        await turn.park()
