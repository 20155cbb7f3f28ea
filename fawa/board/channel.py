"""What all peers on one wire share: the tape, and frames made for several of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

from fawa.board.events import Entry
from fawa.board.tape import Batch, Tape, batches_of
from fawa.board.wire import Wire

#: Batches kept for peers in step, and reels. More than one, as some may lag behind; all are forgotten with
#: the next news.
_MOST_KEPT: Final = 8
#: A tape this short, in bytes, is not looked through for frames that everybody has taken.
_SHORT: Final = 64 << 10


class Place(NamedTuple):
    """How far a peer has been told of what goes on: the state of the tape, and versions of the lane."""

    position: int
    presence: int = 0
    cursors: int = 0


#: Batches that bring somebody up to where the tape was when they were made.
Reel = tuple[Batch, ...]


class Channel:
    """One wire's frames on one board."""

    def __init__(self, wire: Wire, limit: int, batch: int, slowest: Callable[[Wire], int]) -> None:
        """Make an empty channel.

        Args:
            wire: the format.
            limit: the most that the tape holds, in bytes.
            batch: size of the batches of a reel, in bytes.
            slowest: returns the lowest position of a peer on this wire.

        """
        self.wire = wire
        self.tape = Tape()
        #: Peers on this wire.
        self.users = 0
        self._limit = limit
        self._batch = batch
        self._slowest = slowest
        #: The tape is looked through when it is longer than this, in bytes.
        self._long = min(_SHORT, limit)
        #: What follows a place, and the place behind it.
        self.batches: dict[Place, tuple[Batch, Place]] = {}
        self._reels: dict[str, Reel] = {}
        #: Seq of the newest undo that these clients do not understand, and from when on they are sent the
        #: board anew for it.
        self.undone = 0
        self.repaint_at = -math.inf

    def append(self, entry: Entry) -> None:
        """Add an event."""
        self.tape.append(self.wire.event(entry))
        self._forget()
        if self.tape.size > self._long:
            # What everybody has taken goes first. Beyond the limit somebody's backlog goes too, a quarter at
            # once, as forgetting costs the same for one frame as for many.
            self.tape.trim(self._slowest(self.wire))
            if self.tape.size > self._limit:
                self.tape.cut(self._limit - self._limit // 4)
            self._long = min(self._limit, max(_SHORT, 2 * self.tape.size))

    def undo(self, seq: int, now: float, pause: float) -> None:
        """Note that these clients must be sent the board anew, not more often than every `pause` seconds."""
        if self.repaint_at <= now:
            self.repaint_at = max(now, self.repaint_at + pause)
        self.undone = seq
        self._forget()

    def keep(self, place: Place, batch: Batch, after: Place) -> None:
        """Remember a batch for other peers at the same place."""
        if len(self.batches) < _MOST_KEPT:
            self.batches[place] = (batch, after)

    def reel(self, name: str, make: Callable[[], list[bytes]]) -> Reel:
        """Return the frames of this name in batches, made if there are none."""
        reel = self._reels.get(name)
        if reel is None:
            reel = batches_of(make(), self._batch)
            if len(self._reels) < _MOST_KEPT:
                self._reels[name] = reel
        return reel

    def _forget(self) -> None:
        self.batches.clear()
        self._reels.clear()
