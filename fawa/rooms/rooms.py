"""All boards of this process: made, found, flushed, woken, copied, taken away."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import attrs
import trio

from fawa.board.board import Board, BoardLimits
from fawa.ops.logging import Repeats, get_logger
from fawa.rooms.agenda import Agenda
from fawa.rooms.bus import Bus, LocalBus
from fawa.rooms.ids import new_code, new_epoch
from fawa.rooms.room import RESTARTING, Room
from fawa.storage.base import BoardStore, NotFound, StorageError

#: The board of all gRPC clients that name none. No code is like it, so no browser comes to it by chance.
SHARED: Final = "*"

#: Seconds between two looks whether what was pushed has left, while something has not.
_POLL: Final = 0.02
#: Seconds between two removals of expired copies.
_SWEEP: Final = 60.0
#: Seconds that the last copies may take when the daemon ends.
_LAST_COPIES: Final = 10.0
#: Seconds between two reports that copies cannot be stored.
_REPORT: Final = 60.0

_log = get_logger("fawa.rooms")


class UnknownBoard(Exception):  # noqa: N818 - said as it is
    """There is no board under that code."""


class TooManyBoards(Exception):  # noqa: N818
    """There are as many boards as there may be."""


class Draining(Exception):  # noqa: N818
    """The daemon is about to end: nobody joins any more."""


@attrs.frozen(kw_only=True)
class RoomsSettings:
    """What can be set about boards. Times are seconds, sizes bytes."""

    #: Bounds of each board that is made from now on.
    limits: BoardLimits = attrs.field(factory=BoardLimits)
    #: After events have gone out, further ones are gathered for so long; 0 sends each at once.
    tick: float = 0.004
    #: How long a copy of a board is kept; 0 keeps none.
    grace: float = 86400.0
    #: Time between two copies of a board that changes.
    autosave: float = 5.0
    #: Of all copies together.
    max_kept: int = 1 << 30
    #: Boards at once, the shared one not counted.
    max_boards: int = 10_000


@attrs.define(eq=False)
class Rooms:
    """The boards. They outlive a crash of `run`, which is what works for them in the background."""

    #: Signs resume tokens.
    secret: bytes = attrs.field(repr=False)
    _settings: RoomsSettings = attrs.field(factory=RoomsSettings)
    bus: Bus = attrs.field(factory=LocalBus)
    #: The time in Unix seconds.
    clock: Callable[[], float] = time.time
    #: Boards `created`, `revived`, `expired` and `failed`; clients `joined`, `resumed`, `left` and
    #: `closed <code>`; copies `saved` and
    #: `swept` away.
    counts: Counter[str] = attrs.field(factory=Counter, init=False)
    _rooms: dict[str, Room] = attrs.field(factory=dict, init=False)
    _agenda: Agenda[Room] = attrs.field(init=False)
    #: While `run` runs.
    _store: BoardStore | None = attrs.field(default=None, init=False)
    _draining: bool = attrs.field(default=False, init=False)
    _gone_ladder: Counter[str] = attrs.field(factory=Counter, init=False)
    _reports: Repeats = attrs.field(factory=lambda: Repeats(_REPORT), init=False)

    def __attrs_post_init__(self) -> None:
        self._agenda = Agenda(self._settings.tick)

    @property
    def settings(self) -> RoomsSettings:
        """What is in force; may be replaced while running."""
        return self._settings

    @settings.setter
    def settings(self, settings: RoomsSettings) -> None:
        self._settings = settings
        self._agenda.tick = settings.tick

    @property
    def boards(self) -> int:
        """How many boards there are."""
        return len(self._rooms)

    def __contains__(self, code: object) -> bool:
        """Whether the board of that code is in memory."""
        return code in self._rooms

    @property
    def clients(self) -> int:
        """How many clients there are on all boards."""
        return sum(len(room.board.peers) for room in self._rooms.values())

    @property
    def backlog(self) -> int:
        """How many bytes wait for clients of all boards to read them, what is under way counted too."""
        return sum(room.board.backlog for room in self._rooms.values())

    @property
    def ladder(self) -> Counter[str]:
        """Steps taken down the ladder for slow clients: `lane`, `snapshot`, `closed`."""
        return sum((room.board.counts for room in self._rooms.values()), self._gone_ladder)

    # Finding boards

    async def create(self) -> Room:
        """Make a board under a new code, which is good even if the daemon is killed right after.

        Raises:
            TooManyBoards: there are as many as may be.
            Draining: the daemon is about to end.

        """
        while (code := new_code()) in self._rooms or await self._is_kept(code):
            pass
        self._check_draining()
        self._check_number()
        room = self._open(code)
        self.counts["created"] += 1
        await self._copy(room)
        return room

    async def find(self, code: str) -> Room:
        """Return the board under a code, brought back from its copy if need be.

        Raises:
            UnknownBoard: there is none.
            TooManyBoards: it cannot be brought back now.
            StorageError: whether there is a copy cannot be told now.
            Draining: the daemon is about to end.

        """
        self._check_draining()
        room = self._living(code)
        if room is not None:
            return room
        saved = await self._load(code)
        # Somebody else may have brought it back meanwhile.
        room = self._living(code)
        if room is not None:
            return room
        self._check_draining()
        if code != SHARED:
            self._check_number()
        try:
            room = self._open(code, saved)
        except ValueError as error:
            _log.error("the copy of a board cannot be read", code=code, error=str(error))
            raise UnknownBoard(f"there is no board {code}") from error
        self.counts["revived"] += 1
        return room

    async def shared(self) -> Room:
        """Return the board of those who name none.

        Raises:
            StorageError: whether there is a copy cannot be told now.
            Draining: the daemon is about to end.

        """
        try:
            return await self.find(SHARED)
        except UnknownBoard:
            return self._living(SHARED) or self._open(SHARED)

    def _living(self, code: str) -> Room | None:
        room = self._rooms.get(code)
        return None if room is None or room.failed else room

    def _check_draining(self) -> None:
        if self._draining:
            raise Draining("the server is about to restart: come back in a moment")

    def _check_number(self) -> None:
        if len(self._rooms) - (SHARED in self._rooms) >= self._settings.max_boards:
            most = self._settings.max_boards
            raise TooManyBoards(f"there are {most} boards, as many as may be (board.max_boards): try later")

    def _open(self, code: str, saved: bytes | None = None) -> Room:
        board = Board(code, new_epoch(), self._settings.limits, trio.current_time(), saved)
        room = Room(board, self.bus, self._agenda, self.counts, self.secret)
        self._rooms[code] = room
        return room

    async def _load(self, code: str) -> bytes:
        if self._settings.grace == 0:
            raise UnknownBoard(f"there is no board {code}")
        if self._store is None:
            raise StorageError(
                "the copies of boards are out of reach, as the service 'board' is starting again"
            )
        try:
            return await self._store.get(code, self.clock())
        except NotFound:
            raise UnknownBoard(f"there is no board {code}") from None

    async def _is_kept(self, code: str) -> bool:
        """Whether a code is in use by a copy; in doubt it is not, as codes seldom meet by chance."""
        try:
            return bool(await self._load(code))
        except (UnknownBoard, StorageError):
            return False

    # In the background

    async def run(
        self, store: BoardStore, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Work for the boards until cancelled; then copies of all that has changed are stored."""
        self._store = store
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._flush_loop)
                nursery.start_soon(self._wake_loop)
                nursery.start_soon(self._take_away_loop)
                nursery.start_soon(self._copy_loop)
                nursery.start_soon(self._sweep_loop)
                task_status.started()
            raise AssertionError("the loops of a nursery that nobody cancelled have ended")
        finally:
            with trio.move_on_after(_LAST_COPIES, shield=True) as last:
                await self._copy_all()
            if last.cancelled_caught:
                _log.error("not all boards were copied", seconds=_LAST_COPIES)
            self._store = None

    async def _flush_loop(self) -> None:
        agenda = self._agenda
        flushed = -math.inf
        while True:
            if agenda.sending:
                with trio.move_on_after(_POLL):
                    await agenda.wait_news()
            else:
                await agenda.wait_news()
            if trio.current_time() < flushed + agenda.tick:
                # What comes meanwhile goes out together; what comes after a pause goes at once.
                await trio.sleep_until(flushed + agenda.tick)
                await trio.lowlevel.checkpoint()  # what has come by the same moment goes along
            for room in agenda.take_dirty():
                room.flush()
                await trio.lowlevel.checkpoint()
            for room in list(agenda.sending):
                room.poll()
                if not room.is_sending:
                    agenda.sending.discard(room)
                await trio.lowlevel.checkpoint()
            flushed = trio.current_time()

    async def _wake_loop(self) -> None:
        while True:
            (await self._agenda.alarms.next()).tick()
            await trio.lowlevel.checkpoint()

    async def _take_away_loop(self) -> None:
        while True:
            for room in await self._agenda.wait_over():
                if room.failed or room.has_expired:
                    await self._take_away(room)

    async def _take_away(self, room: Room) -> None:
        """Take a room out of memory, once there is a copy of it, if nobody has come to it by then."""
        code, board = room.code, room.board
        if not room.failed:
            await self._copy(room)
            if self._settings.grace == 0 and self._store is not None:
                with self._reporting():
                    await self._store.delete(code)
            if not room.failed and not room.has_expired:
                return
        if self._rooms.get(code) is room:
            del self._rooms[code]
        self._agenda.forget(room)
        self._gone_ladder += board.counts
        if not room.failed:
            self.counts["expired"] += 1
        _log.debug("a board has left memory", boards=len(self._rooms), failed=room.failed)

    async def _copy_loop(self) -> None:
        while True:
            await trio.sleep(self._settings.autosave)
            await self._copy_all()

    async def _copy_all(self) -> None:
        for room in list(self._rooms.values()):
            # One that rests is copied anew before its copy expires.
            due = room.saved_at + self._settings.grace / 2
            if self._living(room.code) is room and (room.needs_copy or due <= self.clock()):
                await self._copy(room)

    async def _copy(self, room: Room) -> None:
        if self._store is None or self._settings.grace == 0:
            return
        now = self.clock()
        room.unsaved = True
        saved = room.save()
        if saved is not None:
            with self._reporting():
                await self._store.put(room.code, saved, now + self._settings.grace)
                room.unsaved, room.saved_at = False, now
                self.counts["saved"] += 1

    async def _sweep_loop(self) -> None:
        while True:
            if self._store is not None:
                with self._reporting():
                    swept = await self._store.sweep(self.clock(), self._settings.max_kept)
                    self.counts["swept"] += swept
            await trio.sleep(_SWEEP)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Report that the store fails; boards go on without it."""
        try:
            yield
        except StorageError as error:
            held = self._reports.due("store", trio.current_time())
            if held is not None:
                _log.error("copies of boards are not stored", error=str(error), more=held)

    # The end

    def drain(self) -> None:
        """Let nobody join any more, and close all connections: the daemon is about to end."""
        self._draining = True
        for room in list(self._rooms.values()):
            room.flush()
            room.close_all(RESTARTING, "the server restarts")
