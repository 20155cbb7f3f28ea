"""When connections are to be looked at next: an alarm for each that wants one, and one sleep for all."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

import attrs
import trio

#: What is due later than twice so many seconds is late by as much, at most: one look then does for many.
_GRID: Final = 0.008

Who = TypeVar("Who")


@attrs.define(eq=False)
class Alarm(Generic[Who]):
    """An entry of the timers."""

    at: float
    #: Whom it is for; `None` once it is not wanted any more.
    who: Who | None


class Timers(Generic[Who]):
    """Alarms, by the times on trio's clock at which they are due."""

    def __init__(self) -> None:
        self._alarms: list[tuple[float, int, Alarm[Who]]] = []
        self._turn = itertools.count()
        self._sleep = trio.CancelScope()

    def set(self, who: Who, at: float) -> Alarm[Who]:
        """Set an alarm; whoever sleeps takes note of it with the next `tidy`."""
        if at - trio.current_time() > 2 * _GRID:
            at = math.ceil(at / _GRID) * _GRID
        alarm = Alarm(at, who)
        heapq.heappush(self._alarms, (at, next(self._turn), alarm))
        return alarm

    def tidy(self) -> float:
        """Sleep until the next alarm that is still wanted; returns when that is."""
        alarms = self._alarms
        while alarms and alarms[0][2].who is None:
            heapq.heappop(alarms)
        at = alarms[0][0] if alarms else math.inf
        if at != self._sleep.deadline:
            self._sleep.deadline = at
        return at

    async def sleep(self) -> None:
        """Sleep until an alarm is due."""
        with trio.CancelScope(deadline=self.tidy()) as self._sleep:
            await trio.sleep_forever()

    def due(self, now: float) -> Iterator[tuple[Alarm[Who], Who]]:
        """Take out the alarms that are due, and whom they are for; more may be set meanwhile."""
        while self._alarms and self._alarms[0][0] <= now:
            alarm = heapq.heappop(self._alarms)[2]
            if alarm.who is not None:
                yield alarm, alarm.who
