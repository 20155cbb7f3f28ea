"""What a board remembers: the newest events as they are, older ones folded into a snapshot."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from fawa.board.events import CLEAR, DrawEvent, Entry
from fawa.board.strokes import Run, Snapshot, Stroke, fold


class History:
    """The log and the snapshot.

    The log has events that were taken back too, with the undo, because who resumes was sent them. The
    snapshot and what the methods below return have only what still can be seen.
    """

    def __init__(self, limit: int, snapshot: int) -> None:
        """Make an empty history of at most `limit` entries and about `snapshot` bytes of older strokes."""
        self._limit = limit
        #: Consecutive; if there is a clear among them, it is the first.
        self.log: deque[Entry] = deque()
        self.snapshot = Snapshot(snapshot)
        #: Of each stroke that the log draws or undoes: the newest entry that does.
        self._drawn: dict[Stroke, int] = {}
        self._undone: dict[Stroke, int] = {}

    def add(self, entry: Entry) -> bool:
        """Remember an entry; returns whether it takes back what somebody may see."""
        event = entry.event
        took_back = False
        if event.type == CLEAR:
            self.snapshot.clear()
            self.log.clear()
            self._drawn.clear()
            self._undone.clear()
        elif event.stroke:
            stroke = (event.client_id, event.stroke)
            if event.undoes:
                took_back = self.snapshot.remove(stroke)
                # What is not remembered any more, some may see still.
                took_back |= not self.snapshot.is_whole
                took_back |= self._drawn.get(stroke, 0) > self._undone.get(stroke, 0)
                self._undone[stroke] = entry.seq
            else:
                self._drawn[stroke] = entry.seq
        self.log.append(entry)
        if len(self.log) > self._limit:
            self._fold(self.log.popleft())
        return took_back

    def since(self, seq: int) -> list[Entry] | None:
        """Return the entries after `seq`, None if they are not all here."""
        if not self.log or not self.log[0].seq - 1 <= seq <= self.log[-1].seq:
            return None
        missed: list[Entry] = []
        for entry in reversed(self.log):
            if entry.seq <= seq:
                break
            missed.append(entry)
        missed.reverse()
        return missed

    def runs(self) -> list[Run]:
        """Return what can be seen, oldest first."""
        seen = fold(entry.event for entry in self.log if self._is_seen(entry) and entry.event.type != CLEAR)
        return [*self.snapshot.runs, *seen]

    def newest_first(self) -> Iterator[DrawEvent]:
        """Iterate over the events that can be seen, and a clear if the log has it, newest first."""
        for entry in reversed(self.log):
            if self._is_seen(entry):
                yield entry.event
        for run in reversed(list(self.snapshot.runs)):
            yield from reversed(list(run.events()))

    def _is_seen(self, entry: Entry) -> bool:
        """Whether an entry of the log is one that nobody has taken back, and not itself an undo."""
        event = entry.event
        if not event.stroke:
            return True
        return not event.undoes and self._undone.get((event.client_id, event.stroke), 0) < entry.seq

    def _fold(self, entry: Entry) -> None:
        """Fold the oldest entry, which has left the log."""
        event = entry.event
        if event.type != CLEAR and self._is_seen(entry):
            self.snapshot.add(event)
        if event.stroke:
            newest = self._undone if event.undoes else self._drawn
            stroke = (event.client_id, event.stroke)
            if newest.get(stroke) == entry.seq:
                del newest[stroke]
