"""Old events in little room: runs of segments that follow one another.

Folding keeps the order of segments exactly, as segments of different strokes cover each other: an event joins
the last run or begins one, and never an older run.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from fawa.board.events import DrawEvent

#: One stroke: who drew it, and its number.
Stroke = tuple[str, int]

#: Points of the longest run; so the longest is about 24 KB of JSON, and goes into one document.
MOST_POINTS: Final = 1000
#: Bytes that a run takes beside its points, about.
_RUN_COST: Final = 300

_point: Final = struct.Struct("<ii")
#: Bytes of a point.
POINT: Final = _point.size


@attrs.define(eq=False)
class Run:
    """Events that differ in their coordinates alone, each beginning where the one before ended.

    (In their time too; that of the first is kept.)
    """

    type: str
    color: str
    size: int
    client_id: str
    time: int
    stroke: int
    #: x and y of each point as int32, little endian; at least two points.
    points: bytearray
    #: The last point.
    x: int
    y: int

    @classmethod
    def of(cls, event: DrawEvent) -> Run:
        """Return a run of one event."""
        points = bytearray(_point.pack(event.prev_x, event.prev_y) + _point.pack(event.curr_x, event.curr_y))
        return cls(
            event.type,
            event.color,
            event.size,
            event.client_id,
            event.time,
            event.stroke,
            points,
            event.curr_x,
            event.curr_y,
        )

    @classmethod
    def restored(
        cls, kind: str, color: str, size: int, client_id: str, time: int, stroke: int, points: bytes
    ) -> Run:
        """Return a run of these points, at least two."""
        x, y = _point.unpack_from(points, len(points) - POINT)
        return cls(kind, color, size, client_id, time, stroke, bytearray(points), x, y)

    def join(self, event: DrawEvent) -> bool:
        """Take an event in if it goes on from the last point; returns whether it does."""
        if (
            event.prev_x != self.x
            or event.prev_y != self.y
            or event.client_id != self.client_id
            or event.stroke != self.stroke
            or event.type != self.type
            or event.color != self.color
            or event.size != self.size
            or len(self.points) >= MOST_POINTS * POINT
        ):
            return False
        self.points += _point.pack(event.curr_x, event.curr_y)
        self.x, self.y = event.curr_x, event.curr_y
        return True

    def numbers(self) -> tuple[int, ...]:
        """Return x0, y0, x1, y1 and so on."""
        return struct.unpack(f"<{len(self.points) // 4}i", self.points)

    def events(self) -> Iterator[DrawEvent]:
        """Iterate over the events, oldest first."""
        points = _point.iter_unpack(self.points)
        before_x, before_y = next(points)
        for x, y in points:
            yield DrawEvent(
                self.type,
                self.color,
                self.size,
                before_x,
                before_y,
                x,
                y,
                self.client_id,
                self.time,
                self.stroke,
            )
            before_x, before_y = x, y


def fold(events: Iterable[DrawEvent]) -> list[Run]:
    """Return the runs that `expand` makes these events of, but for their times."""
    runs: list[Run] = []
    for event in events:
        if not runs or not runs[-1].join(event):
            runs.append(Run.of(event))
    return runs


def expand(runs: Iterable[Run]) -> Iterator[DrawEvent]:
    """Iterate over the events of all runs, oldest first."""
    for run in runs:
        yield from run.events()


class Snapshot:
    """Folded events, bounded in bytes; beyond the bound the oldest runs go."""

    __slots__ = ("_last", "_limit", "_next", "_runs", "_strokes", "is_whole", "size")

    def __init__(self, limit: int) -> None:
        """Make an empty snapshot of at most about `limit` bytes."""
        self._limit = limit
        #: By a number that counts up: oldest first, and each can go without a search.
        self._runs: OrderedDict[int, Run] = OrderedDict()
        self._strokes: dict[Stroke, list[int]] = {}
        self._next = 0
        self._last: Run | None = None
        #: Bytes taken, about.
        self.size = 0
        #: Whether nothing has gone beyond the bound.
        self.is_whole = True

    @property
    def runs(self) -> Iterable[Run]:
        """All runs, oldest first."""
        return self._runs.values()

    def add(self, event: DrawEvent) -> None:
        """Fold an event in, as the newest."""
        if self._last is not None and self._last.join(event):
            self.size += POINT
            self._bound()
        else:
            self.put(Run.of(event))

    def put(self, run: Run) -> None:
        """Add a run as the newest."""
        self._runs[self._next] = self._last = run
        if run.stroke:
            self._strokes.setdefault((run.client_id, run.stroke), []).append(self._next)
        self._next += 1
        self.size += _RUN_COST + len(run.points)
        self._bound()

    def remove(self, stroke: Stroke) -> bool:
        """Take a stroke out; returns whether it was there."""
        numbers = self._strokes.pop(stroke, None)
        if numbers is None:
            return False
        for number in numbers:
            self.size -= _RUN_COST + len(self._runs.pop(number).points)
        self._last = next(reversed(self._runs.values()), None)
        return True

    def clear(self) -> None:
        """Take everything out."""
        self._runs.clear()
        self._strokes.clear()
        self._last = None
        self.size = 0
        self.is_whole = True

    def _bound(self) -> None:
        while self.size > self._limit and self._runs:
            _number, run = self._runs.popitem(last=False)
            self.is_whole = False
            self.size -= _RUN_COST + len(run.points)
            if run.stroke:
                numbers = self._strokes[run.client_id, run.stroke]
                del numbers[0]
                if not numbers:
                    del self._strokes[run.client_id, run.stroke]
            if not self._runs:
                self._last = None
