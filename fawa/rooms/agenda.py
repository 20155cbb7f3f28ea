"""What rooms want done later: a list that they write and `Rooms` works off."""

from __future__ import annotations

import heapq
import itertools
import math
from typing import Generic, TypeVar

import attrs
import trio

T = TypeVar("T")


@attrs.define(eq=False)
class Alarms(Generic[T]):
    """Who is to be woken when, in seconds on trio's clock. An earlier alarm of the same one makes way.

    Holds one alarm for each, and at most as many again that have made way.
    """

    _heap: list[tuple[float, int, T]] = attrs.field(factory=list, init=False)
    _at: dict[T, float] = attrs.field(factory=dict, init=False)
    _numbers: itertools.count[int] = attrs.field(factory=itertools.count, init=False)
    _sleep: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    def set(self, who: T, at: float) -> None:
        """Wake `who` at `at`, or earlier if an alarm stands for it that is earlier."""
        if self._at.get(who, math.inf) <= at:
            return
        self._at[who] = at
        heapq.heappush(self._heap, (at, next(self._numbers), who))
        if len(self._heap) > 2 * len(self._at):
            self._heap = [entry for entry in self._heap if self._at.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)
        self._sleep.deadline = min(self._sleep.deadline, at)

    def forget(self, who: T) -> None:
        """Do not wake `who`."""
        self._at.pop(who, None)

    async def next(self) -> T:
        """Wait for the next alarm, and return whose it is."""
        while True:
            while self._heap and self._at.get(self._heap[0][2]) != self._heap[0][0]:
                heapq.heappop(self._heap)
            due = self._heap[0][0] if self._heap else math.inf
            if due <= trio.current_time():
                who = heapq.heappop(self._heap)[2]
                del self._at[who]
                return who
            with trio.CancelScope(deadline=due) as self._sleep:
                await trio.sleep_forever()


@attrs.define(eq=False)
class Agenda(Generic[T]):
    """Where rooms note what they want to be called for. Holds each room once in each list."""

    #: Seconds in which what is to be flushed is gathered; 0: rooms flush at once.
    tick: float
    alarms: Alarms[T] = attrs.field(factory=Alarms, init=False)
    #: Something has been pushed that has not left yet.
    sending: set[T] = attrs.field(factory=set, init=False)
    _dirty: dict[T, None] = attrs.field(factory=dict, init=False)
    _over: dict[T, None] = attrs.field(factory=dict, init=False)
    _news: trio.Event = attrs.field(factory=trio.Event, init=False)
    _end: trio.Event = attrs.field(factory=trio.Event, init=False)

    @property
    def at_once(self) -> bool:
        """Whether rooms flush by themselves when there is something."""
        return self.tick == 0

    def flush(self, room: T) -> None:
        """Flush the room soon."""
        self._dirty[room] = None
        self._news.set()

    def poll(self, room: T) -> None:
        """Look again and again at the room's connections, as long as it is sending."""
        if room not in self.sending:
            self.sending.add(room)
            self._news.set()

    def wake(self, room: T, at: float) -> None:
        """Wake the room at `at` on trio's clock, or when it was to be woken anyway if that is earlier."""
        self.alarms.set(room, at)

    def expire(self, room: T) -> None:
        """Take the room away, if nobody has come to it by then."""
        self._over[room] = None
        self._end.set()

    async def wait_news(self) -> None:
        """Wait until a room is to be flushed, or is sending: for what came since the last `take_dirty`."""
        await self._news.wait()

    def take_dirty(self) -> list[T]:
        """Return and forget the rooms that are to be flushed."""
        self._news = trio.Event()
        rooms = list(self._dirty)
        self._dirty.clear()
        return rooms

    async def wait_over(self) -> list[T]:
        """Wait for rooms to take away; return and forget them."""
        await self._end.wait()
        self._end = trio.Event()
        rooms = list(self._over)
        self._over.clear()
        return rooms

    def forget(self, room: T) -> None:
        """The room is gone."""
        self.alarms.forget(room)
        self.sending.discard(room)
        self._dirty.pop(room, None)
