"""One board with those who are on it: commands go in by a seat, and what the engine wants is done here."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from types import TracebackType
from typing import Final, Protocol, assert_never

import attrs
import trio

from fawa.board.board import Board, Welcome
from fawa.board.commands import (
    Command,
    Committed,
    Cursor,
    Draw,
    Join,
    Leave,
    Profile,
    Resume,
    Tick,
)
from fawa.board.effects import Ack, Close, Effect, Expire, Flush, Gap, Publish, Refuse, WakeAt
from fawa.board.events import DrawEvent, Entry
from fawa.board.tape import Batch
from fawa.board.wire import Wire
from fawa.ops.logging import get_logger
from fawa.rooms.agenda import Agenda
from fawa.rooms.bus import Bus
from fawa.rooms.ids import new_client_id
from fawa.rooms.tokens import is_token_untrusted, resume_token

#: Close codes of `protocols/whiteboard.md` that come from here; the engine's own are in its effects.
SERVER_FAILED: Final = 1011
RESTARTING: Final = 1012
FULL: Final = 4413

_FAILED: Final = "the server failed; its log says why"

_log = get_logger("fawa.rooms")


@attrs.frozen
class CannotJoin(Exception):  # noqa: N818 - said as it is
    """The board takes no further client now."""

    #: A close code of `protocols/whiteboard.md`.
    code: int
    reason: str


class Connection(Protocol):
    """What the adapter of a client gives to a room. Nothing here may wait, nor raise: all would pay."""

    @property
    def wire(self) -> Wire:
        """The format that its client speaks."""

    @property
    def is_flushed(self) -> bool:
        """Whether everything that was pushed has left; looked at again and again while something has not."""

    def push(self, batch: Batch) -> bool:
        """Send the frames of a batch; returns whether all of it has left already.

        Until it has, nothing more is pushed: that bounds what waits on this side.
        """

    def close(self, code: int, reason: str) -> None:
        """Let the adapter's own task end with a code of `protocols/whiteboard.md`; called at most once."""


@attrs.frozen
class Claim:
    """What a client says that was here before; the token shows that it is true."""

    client_id: str
    token: str
    #: The last that it has seen.
    resume: Resume


#: What a client is to be told at once about what it did.
Answer = Ack | Refuse

_MORE: Final[list[Effect]] = [Flush()]


@attrs.define(eq=False)
class Room:
    """One board's shell. Methods do not wait, so what they do happens at once for everybody else.

    A fault of the engine ends this room alone: its clients are closed with 1011 and find the last copy of the
    board when they return.
    """

    board: Board
    _bus: Bus
    _agenda: Agenda[Room]
    _counts: Counter[str]
    #: Signs resume tokens.
    _secret: bytes = attrs.field(repr=False)
    #: A fault has ended it.
    failed: bool = attrs.field(default=False, init=False)
    #: Changed since the last copy, or never copied.
    unsaved: bool = attrs.field(default=True, init=False)
    #: Unix seconds of the last copy.
    saved_at: float = attrs.field(default=0.0, init=False)
    _numbers: itertools.count[int] = attrs.field(factory=lambda: itertools.count(1), init=False)
    #: By the number of their connection.
    _seats: dict[int, Seat] = attrs.field(factory=dict, init=False)
    #: Those whose last batch has not left yet.
    _sending: dict[int, Seat] = attrs.field(factory=dict, init=False)
    _flushing: bool = attrs.field(default=False, init=False)
    #: Somebody joins, and has to be told who it is before anything else.
    _joining: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._agenda.wake(self, self.board.wake_at)

    @property
    def code(self) -> str:
        """The board's code."""
        return self.board.code

    @property
    def is_sending(self) -> bool:
        """Whether something that was pushed has not left yet."""
        return bool(self._sending)

    @property
    def has_expired(self) -> bool:
        """Whether nobody has been here for so long that the board is to leave memory."""
        return self.board.is_empty and self.board.wake_at == math.inf

    @property
    def needs_copy(self) -> bool:
        """Whether the board has changed since it was copied last."""
        return self.unsaved or self.board.changed_since_save

    def join(
        self, connection: Connection, name: str = "", color: str = "", claim: Claim | None = None
    ) -> Seat:
        """Take a seat. What its client is to be told first comes by `Connection.push` after this returned.

        Args:
            connection: the client's.
            name: shown to others.
            color: of the client's cursor.
            claim: who it says it was before; without a good token it is somebody new.

        Raises:
            CannotJoin: there are as many as may be (4413), or the board has failed (1011).

        """
        resume, client_id = None, self._free_id()
        if claim is not None and self._is_true(claim):
            resume, client_id = claim.resume, claim.client_id
        seat = Seat(self, connection, client_id, next(self._numbers))
        self._seats[seat.number] = seat
        self._joining = True
        try:
            self._apply(Join(client_id, seat.number, connection.wire, name, color, resume))
        finally:
            self._joining = False
        if seat.refused is not None:
            raise seat.refused
        if self.failed:
            raise CannotJoin(SERVER_FAILED, _FAILED)
        seat.welcome = self.board.welcome(client_id)
        self._counts["joined"] += 1
        if resume is not None:
            self._counts["resumed"] += 1
        return seat

    def _is_true(self, claim: Claim) -> bool:
        return is_token_untrusted(self._secret, self.code, claim.client_id, claim.token)

    def _free_id(self) -> str:
        while (client_id := new_client_id()) in self.board.peers:
            pass
        return client_id

    def token(self, client_id: str) -> str:
        """Return what a client shows to be taken for the same when it returns."""
        return resume_token(self._secret, self.code, client_id)

    # What seats ask for.

    def ask(self, seat: Seat, command: Draw | Cursor | Profile) -> list[Answer]:
        """Have the board do what a client wants; returns what it is to be told at once."""
        return self._apply(command) if seat.number in self._seats else []

    def leave(self, seat: Seat) -> None:
        """A client has gone."""
        if seat.number in self._seats:
            self._forget(seat)
            self._counts["left"] += 1
            self._apply(Leave(seat.client_id, seat.number))

    def end_of(self, seat: Seat) -> int:
        """Return where the events end that are committed by now, on the tape of a client."""
        state = self.board.peers.get(seat.client_id)
        return 0 if state is None else state.channel.tape.end

    # What happens to all.

    def commit(self, entries: tuple[Entry, ...]) -> None:
        """Take what the bus has put in order, oldest first."""
        self._apply(Committed(entries))

    def tick(self) -> None:
        """The time has come that the board wanted to be woken at."""
        self._apply(Tick())

    def flush(self) -> None:
        """Give every client what is next for it, unless its last batch has not left yet."""
        self._feed_all(list(self._seats.values()))

    def poll(self) -> None:
        """Give those what is next for them whose last batch has left meanwhile."""
        self._feed_all([seat for seat in self._sending.values() if seat.connection.is_flushed])

    def _feed_all(self, seats: list[Seat]) -> None:
        if self._flushing or self.failed:
            return
        self._flushing = True
        try:
            now = trio.current_time()
            for seat in seats:
                if seat.number in self._sending:
                    if not seat.connection.is_flushed:
                        continue
                    del self._sending[seat.number]
                    self._has_left(seat, now)
                if not seat.closed:
                    self._feed(seat, now)
        except Exception as error:
            self.fail(error)
        finally:
            self._flushing = False
        if self._sending:
            self._agenda.poll(self)

    def _feed(self, seat: Seat, now: float) -> None:
        board = self.board
        while (batch := board.take(seat.client_id, now)) is not None:
            if not seat.connection.push(batch):
                self._sending[seat.number] = seat
                return
            if not self._has_left(seat, now):
                return

    def _has_left(self, seat: Seat, now: float) -> bool:
        """Tell the board that what was pushed has left; returns whether there may be more for the client."""
        effects = self.board.flushed(seat.client_id, seat.number, now)
        if not effects:
            return False
        # That there is more for this very client is seen next.
        if effects != _MORE:
            self._perform(effects)
        return True

    def sent(self, seat: Seat) -> None:
        """Give a client what is next for it, as everything that was pushed to it has left."""
        if seat.number in self._sending and not self.failed:
            try:
                now = trio.current_time()
                del self._sending[seat.number]
                self._has_left(seat, now)
                state = self.board.peers.get(seat.client_id)
                if state is not None and seat.number in self._seats:
                    if not state.reel:
                        seat.reached = state.place.position
                    self._feed(seat, now)
            except Exception as error:
                self.fail(error)

    def close_all(self, code: int, reason: str) -> None:
        """Close every client's connection; each leaves when its adapter has ended."""
        for seat in list(self._seats.values()):
            self._close(seat, code, reason)

    def save(self) -> bytes | None:
        """Return a copy of the board, None if that fails, which ends the room."""
        try:
            return self.board.save()
        except Exception as error:
            self.fail(error)
            return None

    def fail(self, error: Exception) -> None:
        """End the room because of a fault."""
        self.failed = True
        self._counts["failed"] += 1
        _log.error("a board failed", code=self.code, clients=len(self._seats), exc_info=error)
        self.close_all(SERVER_FAILED, _FAILED)
        self._seats.clear()
        self._sending.clear()
        self._agenda.expire(self)

    def _apply(self, command: Command) -> list[Answer]:
        """Have the board do something; returns what its peer is to be told at once."""
        if self.failed:
            return []
        try:
            return self._perform(self.board.apply(command, trio.current_time()))
        except Exception as error:
            self.fail(error)
            return []

    def _perform(self, effects: list[Effect]) -> list[Answer]:
        answers: list[Answer] = []
        for effect in effects:
            match effect:
                case Flush():
                    self._flush_soon()
                case Publish():
                    board = self.board
                    entries = self._bus.publish(board.code, board.epoch, board.seq, effect.entries)
                    if entries:
                        answers += self._perform(board.apply(Committed(entries), trio.current_time()))
                case Ack() | Refuse():
                    answers.append(effect)
                case Close():
                    self._close_seat(effect)
                case WakeAt():
                    self._agenda.wake(self, effect.time)
                case Expire():
                    self._agenda.expire(self)
                case Gap():
                    raise RuntimeError(f"the bus has left out what is before {effect.got} ({effect})")
                case _:
                    assert_never(effect)
        return answers

    def _flush_soon(self) -> None:
        if self._agenda.at_once and not self._joining and not self._flushing:
            self.flush()
        else:
            self._agenda.flush(self)

    def _close_seat(self, close: Close) -> None:
        seat = self._seats.get(close.connection)
        if seat is None:
            return
        self._forget(seat)
        if close.code == FULL:
            seat.refused = CannotJoin(close.code, close.reason)
        else:
            self._close(seat, close.code, close.reason)

    def _close(self, seat: Seat, code: int, reason: str) -> None:
        if not seat.closed:
            seat.closed = True
            self._counts[f"closed {code}"] += 1
            seat.connection.close(code, reason)

    def _forget(self, seat: Seat) -> None:
        self._seats.pop(seat.number, None)
        self._sending.pop(seat.number, None)


@attrs.define(eq=False)
class Seat:
    """A client's place on a board, from joining to leaving; leaves when its context ends.

    After the room has closed the connection, or the client has left, nothing that is said here has an effect.
    """

    room: Room
    connection: Connection
    client_id: str
    #: Which of the room's connections this is.
    number: int
    #: What the client is told when it joins.
    welcome: Welcome = attrs.field(init=False)
    #: The room has closed the connection.
    closed: bool = attrs.field(default=False, init=False)
    refused: CannotJoin | None = attrs.field(default=None, init=False)
    #: Up to where it has been sent everything, for all that `sent` knows.
    reached: int = attrs.field(default=-1, init=False)

    @property
    def token(self) -> str:
        """What the client shows to resume."""
        return self.room.token(self.client_id)

    def draw(self, op: int, events: tuple[DrawEvent, ...]) -> list[Answer]:
        """Put events on the board; returns what the client is to be told beside the events themselves.

        Args:
            op: the client's number for the first of them, 0 if its wire has none.
            events: valid ones (`fawa.board.events.check`).

        """
        return self.room.ask(self, Draw(self.client_id, op, events))

    def move(self, x: int, y: int) -> None:
        """The client's pointer has moved; int32 pixels."""
        self.room.ask(self, Cursor(self.client_id, x, y))

    def change(self, name: str | None, color: str | None) -> None:
        """The client has another name or colour; None: as before."""
        self.room.ask(self, Profile(self.client_id, name, color))

    def sent(self) -> None:
        """Everything that was pushed has left. For adapters that know when; the others are asked."""
        self.room.sent(self)

    def mark(self) -> int:
        """Return where the events end that are committed now; see `has_sent`."""
        return self.room.end_of(self)

    def has_sent(self, mark: int) -> bool:
        """Whether the client has been sent all that came before a mark, by an adapter that calls `sent`."""
        return self.reached >= mark

    def leave(self) -> None:
        """Give the seat up."""
        self.room.leave(self)

    def __enter__(self) -> Seat:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()
