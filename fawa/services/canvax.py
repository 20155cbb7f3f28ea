"""`canva.v1`: the whiteboard over one bidirectional call, in whatever dialect it is made."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NoReturn, cast

import attrs
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from multidict import MultiDict

from fawa.board.effects import Refuse
from fawa.board.events import Problem
from fawa.board.tape import Batch
from fawa.board.wire_proto import WireProto, decode_proto
from fawa.net.exchange import Exchange
from fawa.proto.canva.v1.canva_grpc import CanvaServiceBase
from fawa.proto.canva.v1.canva_pb2 import ClientDrawRequest, ClientDrawResponse
from fawa.rooms.room import FULL, RESTARTING, SERVER_FAILED, CannotJoin, Room, Seat
from fawa.rpc.stream import Stream
from fawa.services.admission import Admission, Refused, Why
from fawa.services.base import Offer
from fawa.services.ratelimit import Bucket, Rate

#: Request metadata that names a browsers' board.
BOARD_KEY: Final = "fawa-board"

_WIRE: Final = WireProto(bytes)

_WHY: Final = {
    Why.MALFORMED: Status.INVALID_ARGUMENT,
    Why.UNKNOWN: Status.NOT_FOUND,
    Why.TOO_OFTEN: Status.RESOURCE_EXHAUSTED,
    Why.FULL: Status.RESOURCE_EXHAUSTED,
    Why.AWAY: Status.UNAVAILABLE,
}
#: By close code of `protocols/whiteboard.md`.
_CLOSED: Final = {
    SERVER_FAILED: Status.INTERNAL,
    RESTARTING: Status.UNAVAILABLE,
    4408: Status.RESOURCE_EXHAUSTED,
    FULL: Status.RESOURCE_EXHAUSTED,
}

#: Events longer than this, in bytes, are not kept decoded: histories are.
_LONG: Final = 4096


@attrs.define(eq=False)
class _Caller:
    """A call as its room sees it, see `fawa.rooms.room.Connection`.

    Holds one batch at a time, so what waits here is bounded by the engine's bound on a batch.
    """

    #: How the call ends, if not well.
    error: Exception | None = attrs.field(default=None, init=False)
    #: Cancels the call's tasks.
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    #: What is to be sent before the call ends (`Seat.mark`); None while there is no end in sight.
    _last: int | None = attrs.field(default=None, init=False)
    _batch: Batch | None = attrs.field(default=None, init=False)
    _news: trio.Event = attrs.field(factory=trio.Event, init=False)

    # For the room.

    @property
    def wire(self) -> WireProto:
        return _WIRE

    @property
    def is_flushed(self) -> bool:
        # `send_all` says so itself.
        return False

    def push(self, batch: Batch) -> bool:
        self._batch = batch
        self._news.set()
        return False

    def close(self, code: int, reason: str) -> None:
        self.fail(GRPCError(_CLOSED[code], reason))

    # For the call's tasks.

    def fail(self, error: Exception) -> None:
        """End the call."""
        self.error = self.error or error
        self.scope.cancel()

    def finish(self, last: int) -> None:
        """End the call once everything up to `last` has been sent."""
        self._last = last
        self._news.set()

    async def send_all(self, stream: Stream[Any, ClientDrawResponse], seat: Seat) -> None:
        """Send what the room has for the caller; one message waits for the one before."""
        while self._last is None or not seat.has_sent(self._last):
            await self._news.wait()
            self._news = trio.Event()
            if (batch := self._batch) is not None:
                self._batch = None
                for frame in batch.frames:
                    await stream.send_message(_message(frame))
                # May bring the next batch.
                seat.sent()


def _message(frame: bytes) -> ClientDrawResponse:
    return _decode(frame) if len(frame) <= _LONG else ClientDrawResponse.FromString(frame)


@lru_cache(maxsize=4096)
def _decode(frame: bytes) -> ClientDrawResponse:
    # Callers in step are given the very same frames, and encode each in their own dialect.
    return ClientDrawResponse.FromString(frame)


@attrs.frozen(eq=False)
class CanvaRpc(CanvaServiceBase):
    """The method."""

    admission: Admission
    #: Asked at each call, so that settings can change under it: events that are taken from a client.
    event_rate: Callable[[], Rate]

    async def Collaborate(self, stream: Stream[ClientDrawRequest, ClientDrawResponse]) -> None:
        """Join a board: one history, then every event in order, the caller's own included.

        A caller that has said all has finished, and is sent everything up to its own last event. One that is
        half-duplex goes on to be sent events until it leaves.
        """
        room = await self._room(stream)
        caller = _Caller()
        try:
            seat = room.join(caller)
        except CannotJoin as refused:
            raise GRPCError(_CLOSED[refused.code], refused.reason) from None
        with seat:
            await stream.send_initial_metadata()
            with caller.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._receive_all, stream, seat, caller)
                    # What goes wrong is kept and raised outside: a nursery would wrap it.
                    try:
                        await caller.send_all(stream, seat)
                    except Exception as error:
                        caller.fail(error)
                    nursery.cancel_scope.cancel()
        if caller.error is not None:
            raise caller.error

    async def _receive_all(
        self, stream: Stream[ClientDrawRequest, ClientDrawResponse], seat: Seat, caller: _Caller
    ) -> None:
        """Put on the board what the caller draws; see to the call's end when it has said all."""
        bucket = Bucket(self.event_rate())
        try:
            async for request in stream:
                event = decode_proto(request)
                if isinstance(event, Problem):
                    raise GRPCError(Status.INVALID_ARGUMENT, event.message)
                for answer in seat.draw(0, (event,)):
                    if isinstance(answer, Refuse):
                        raise GRPCError(Status.UNAVAILABLE, answer.problem.message)
                if wait := bucket.spend(1, trio.current_time()):
                    await trio.sleep(wait)
        except Exception as error:
            caller.fail(error)
        else:
            if not _is_half_duplex(stream):
                caller.finish(seat.mark())

    async def _room(self, stream: Stream[Any, Any]) -> Room:
        """Return the board that a call names, or the shared one.

        Raises:
            GRPCError: there is none, or this client may not try now.

        """
        peer, named = _peer(stream), _values(stream, BOARD_KEY)
        if len(named) > 1:
            raise GRPCError(
                Status.INVALID_ARGUMENT, f"{BOARD_KEY} is given {len(named)} times, and may be once"
            )
        try:
            if named:
                return await self.admission.find(named[0], peer, _values(stream, "x-forwarded-for"))
            return await self.admission.shared()
        except Refused as refused:
            raise GRPCError(_WHY[refused.why], refused.text) from None


def _values(stream: Stream[Any, Any], key: str) -> list[str]:
    """Return the request metadata under a key."""
    return [str(value).strip() for value in (stream.metadata or MultiDict()).getall(key, [])]


# What grpclib's stream has no word for is asked of our own call object here, and nowhere else.


def _is_half_duplex(stream: object) -> bool:
    return bool(cast("Any", stream).is_half_duplex)


def _peer(stream: object) -> str:
    exchange: Exchange = cast("Any", stream).exchange
    return exchange.peer


@attrs.define(eq=False)
class CanvaxService:
    """The service."""

    admission: Admission
    #: May be replaced while running; of each call from then on.
    event_rate: Rate = attrs.field(factory=lambda: Rate(2000, 1000))
    name: str = "canvax"

    async def run(self, task_status: trio.TaskStatus[Offer]) -> NoReturn:
        """Serve until cancelled."""
        task_status.started(Offer(rpc=(CanvaRpc(self.admission, lambda: self.event_rate),)))
        await trio.sleep_forever()
        raise AssertionError("slept for ever and woke up")
