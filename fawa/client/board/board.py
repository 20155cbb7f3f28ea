"""`Board`: one client on a board, and what keeps it there."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import MappingProxyType
from typing import Final

import msgspec
import trio
from grpclib.const import Status as Code
from grpclib.exceptions import GRPCError

from fawa.board.events import DrawEvent
from fawa.client.board import documents
from fawa.client.board.documents import Changed, Cursors, InOrder, Points, Presence, Snapshot, Status
from fawa.client.board.line import LOST, Closed, Line, Refused
from fawa.client.board.session import Session, Told, Unusable
from fawa.client.errors import CannotReach
from fawa.client.pool import background

#: Events that may be drawn and wait to be acknowledged; who draws more waits.
_MOST_PENDING: Final = 50_000
#: Snapshots, events and rejections that wait to be iterated over; beyond, see `Board._queue`.
_MOST_QUEUED: Final = 20_000
#: Seconds that what was drawn has to be taken after the end of the block.
LINGER: Final = 10.0

#: Connects; the block has the connection, and why it is no better one. It raises `CannotReach` and `Refused`.
Reacher = Callable[[], AbstractAsyncContextManager[tuple[Line, str]]]
#: What iterating over a board brings.
News = InOrder | Presence | Cursors | Status

#: By close code or HTTP status; any other is UNAVAILABLE.
_CODES: Final = {
    400: Code.INVALID_ARGUMENT,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    429: Code.RESOURCE_EXHAUSTED,
    1009: Code.RESOURCE_EXHAUSTED,
    4400: Code.INTERNAL,
    4401: Code.INTERNAL,
    4404: Code.NOT_FOUND,
    4409: Code.ABORTED,
    4413: Code.RESOURCE_EXHAUSTED,
}


class BoardOver(GRPCError):  # noqa: N818 - said as it is
    """The board lets this client on no more; `code` is the close code or the HTTP status that said so."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(_CODES.get(code, Code.UNAVAILABLE), reason)
        self.code = code


class Board:
    """One client on a board.

    Iterating over it brings what happens, from the whole board as it is (`Snapshot`) on: `Event`, one's own
    included, in the order that everybody is told; `Presence`, `Cursors` and `Status`, the latest of each; and
    `Rejected`. One task iterates, any may draw.

    Where the connection breaks another one is made, for as long as it takes; then what was missed is told,
    or a new `Snapshot`, and what was drawn meanwhile is sent, once. What the server itself loses, as a power
    cut makes it lose the last seconds, no client brings back.
    """

    def __init__(self, reach: Reacher, session: Session) -> None:
        """Make one that `_run` then runs: see `open_board`."""
        #: "webtransport" or "websocket"; empty while there is no connection.
        self.transport = ""
        #: Why it is not WebTransport, or why there is no connection; else empty.
        self.why = ""
        self._reach = reach
        self._session = session
        #: What is to be told in order. Where nobody iterates for long it is emptied (`_is_behind`), and
        #: whoever iterates again is told the whole board anew.
        self._queue: deque[InOrder] = deque()
        self._is_behind = False
        self._changed: set[Changed] = set()
        self._next_stroke = 1
        #: Set, and replaced, whenever anything has happened that anybody may wait for.
        self._bell = trio.Event()
        #: Why there never was a connection.
        self._failure: GRPCError | None = None
        self._has_joined = False
        self._left = trio.Event()
        self._whole = trio.CancelScope()
        #: Of the conversation on the current connection, if there is one.
        self._talking: trio.CancelScope | None = None

    # What there is to see.

    @property
    def client_id(self) -> str:
        """Whose events are yours."""
        return self._session.client_id

    @property
    def people(self) -> Presence:
        """Who is on the board now."""
        return Presence(MappingProxyType(dict(self._session.people)))

    @property
    def cursors(self) -> Cursors:
        """Where the pointers of others are."""
        return Cursors(MappingProxyType(dict(self._session.cursors)))

    @property
    def status(self) -> Status:
        """How the board is reached."""
        return Status(self.transport, self.why, self._session.read_only)

    @property
    def pending(self) -> int:
        """How many events were drawn that the board has not taken yet."""
        return self._session.pending

    def __aiter__(self) -> AsyncIterator[News]:
        return self

    async def __anext__(self) -> News:
        """Return what happened next.

        Raises:
            BoardOver: there is no coming back to this board.

        """
        if self._is_behind:
            self._begin_again()
        while True:
            # First what everything else stands on, last what passes soonest.
            if Changed.STATUS in self._changed:
                self._changed.discard(Changed.STATUS)
                return self.status
            if Changed.PEOPLE in self._changed:
                self._changed.discard(Changed.PEOPLE)
                return self.people
            if self._queue:
                return self._queue.popleft()
            if Changed.CURSORS in self._changed:
                self._changed.discard(Changed.CURSORS)
                return self.cursors
            self._see_alive()
            await self._bell.wait()

    # What there is to do.

    async def draw(self, points: Points, *, color: str = "#000000", size: int = 3, stroke: int = 0) -> int:
        """Draw a line through points, in pixels from the upper left corner; one point is a dot.

        It is taken in at once, and goes out when there is a connection; waits while very much is pending.
        Returns the number of the stroke: to go on with it, give it here, to take it back, to `undo`.

        Raises:
            BoardOver: there is no coming back to this board.
            ValueError: a board does not take that.

        """
        if not stroke:
            stroke, self._next_stroke = self._next_stroke, self._next_stroke + 1
        await self.put(*documents.segments(points, color, size, stroke))
        return stroke

    async def clear(self) -> None:
        """Wipe the board, for everybody.

        Raises:
            BoardOver: as `draw`.

        """
        await self.put(documents.clear())

    async def undo(self, stroke: int) -> None:
        """Take a stroke of your own back.

        Raises:
            BoardOver: as `draw`.
            ValueError: there is no such number.

        """
        await self.put(documents.undo(stroke))

    async def put(self, *events: DrawEvent) -> None:
        """Put events on the board, of any type; their time is now where they have none.

        Raises:
            BoardOver: as `draw`.
            ValueError: a board does not take one of them; then none was taken.

        """
        for event in events:
            documents.see_valid(event)
        now = int(time.time() * 1000)
        for event in events:
            while self._session.pending >= _MOST_PENDING:
                self._see_alive()
                await self._bell.wait()
            self._see_alive()
            self._session.draw([event if event.time else msgspec.structs.replace(event, time=now)])
            self._ring()
        await trio.lowlevel.checkpoint()

    def move(self, x: int, y: int) -> None:
        """Show others where the pointer is; the latest wins."""
        documents.see_valid(DrawEvent("draw", curr_x=x, curr_y=y))
        self._session.move(x, y)
        self._ring()

    def change(self, name: str, color: str) -> None:
        """Be called otherwise."""
        self._session.change(name, color)
        self._ring()

    async def settle(self) -> None:
        """Wait until the board has taken all that was drawn.

        Raises:
            BoardOver: it never will.

        """
        while self._session.pending:
            self._see_alive()
            await self._bell.wait()

    def _see_alive(self) -> None:
        if (over := self._session.over) is not None:
            raise BoardOver(over.code, over.reason)

    def _ring(self) -> None:
        self._bell.set()
        self._bell = trio.Event()

    def _begin_again(self) -> None:
        """Have the whole board told, as what has been told was thrown away."""
        self._queue.clear()
        self._is_behind = False
        self._session.forget()
        if self._talking is not None:
            self._talking.cancel()

    # What keeps it there.

    async def _run(self) -> None:
        """Connect and converse, again and again."""
        session = self._session
        with self._whole:
            while session.over is None and self._failure is None and not self._left.is_set():
                await trio.sleep_until(session.retry_at)
                retry_after = 0.0
                try:
                    async with self._reach() as (line, why):
                        closed = await self._converse(line, why)
                        if self._left.is_set():
                            await line.close()
                except Refused as refused:
                    closed, retry_after = Closed(refused.status, refused.text), refused.retry_after
                except CannotReach as error:
                    closed = Closed(LOST, error.message or "there is no connection")
                self._lost(closed, retry_after)

    def _lost(self, closed: Closed, retry_after: float) -> None:
        """There is no connection any more, or was none."""
        if not self._has_joined:
            code, reason = closed.code, closed.reason
            self._failure = CannotReach(reason) if code == LOST else BoardOver(code, reason)
            self._ring()
            return
        self.transport, self.why = "", closed.reason
        self._session.end(closed.code, closed.reason, trio.current_time(), retry_after)
        self._changed.add(Changed.STATUS)
        self._ring()

    async def _converse(self, line: Line, why: str) -> Closed:
        """Converse on a connection to its end; returns how it ended."""
        session = self._session
        self.transport, self.why = line.transport, why
        session.begin(trio.current_time())
        closed = Closed(LOST, "the connection was given up on this side")
        with trio.CancelScope() as self._talking:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, line)
                try:
                    await self._read(line)
                except Closed as said:
                    closed = said
                except Unusable as error:
                    closed = Closed(LOST, str(error))
                nursery.cancel_scope.cancel()
        self._talking = None
        return closed

    async def _read(self, line: Line) -> None:
        session = self._session
        while not session.hang_up:
            data = None
            with trio.move_on_at(session.deadline):
                data = await line.receive()
            if data is None:
                raise Closed(LOST, "the server says nothing any more")
            for told in session.take_untrusted(data, trio.current_time()):
                self._tell(told)
            self._has_joined |= session.live
            self._ring()
        raise Closed(LOST, session.hang_up)

    async def _write(self, line: Line) -> None:
        try:
            while True:
                bell = self._bell
                document = self._session.next_document(trio.current_time())
                if document is not None:
                    await line.send(document)
                else:
                    with trio.move_on_at(self._session.wake_at):
                        await bell.wait()
        except Closed:
            pass  # the reader is about to learn why

    def _tell(self, told: Told) -> None:
        if isinstance(told, Changed):
            self._changed.add(told)
            return
        if isinstance(told, Snapshot):
            # All before it counts no more, but for what was rejected.
            self._queue = deque(one for one in self._queue if isinstance(one, documents.Rejected))
            self._is_behind = False
        elif self._is_behind or len(self._queue) >= _MOST_QUEUED:
            self._queue.clear()
            self._is_behind = True
            return
        self._queue.append(told)

    async def _join(self) -> None:
        """Wait for the first connection.

        Raises:
            BoardOver: the server said no.
            CannotReach: there is none to be had.

        """
        while not self._has_joined:
            if self._failure is not None:
                raise self._failure
            await self._bell.wait()

    def _leave(self) -> None:
        """End `_run`: with a goodbye where there is a connection."""
        self._left.set()
        if self._talking is not None:
            self._talking.cancel()
        else:
            self._whole.cancel()

    async def _take_leave(self) -> None:
        """Let what was drawn be taken.

        Raises:
            BoardOver: it was not.

        """
        with trio.move_on_after(LINGER):
            await self.settle()
        if self._session.pending:
            raise BoardOver(LOST, f"{self._session.pending} events could not be put on the board: {self.why}")


@asynccontextmanager
async def open_board(reach: Reacher, name: str = "", color: str = "") -> AsyncIterator[Board]:
    """Join the board that is reached so, until the block ends; see `join_board`."""
    # Jitter, not a secret.
    board = Board(reach, Session(name, color, random.random))
    async with background() as nursery:
        nursery.start_soon(board._run)
        try:
            await board._join()
            yield board
            await board._take_leave()
        finally:
            board._leave()
