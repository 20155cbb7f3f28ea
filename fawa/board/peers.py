"""A peer as the board knows it, and the ladder that one which reads slowly is taken down."""

from __future__ import annotations

import math
from typing import Final

import attrs

from fawa.board.channel import Channel, Place, Reel
from fawa.board.tape import Batch

#: Who needs this many snapshots within so many seconds, and was never in step in between, cannot keep up.
MOST_SNAPSHOTS: Final = 3
SNAPSHOT_SPAN: Final = 60.0


@attrs.define(eq=False)
class PeerState:
    """One client on one connection."""

    client_id: str
    connection: int
    channel: Channel
    #: Whether a resume succeeded: what follows at once is exactly what was missed.
    recovered: bool
    #: The last of its numbered events that the board had taken when it joined, 0 for none.
    op: int
    #: What follows at once brings it up to this event.
    joined_seq: int
    #: The number that its next event must have, 0 for any: after joining it knows best what to send.
    next_op: int = attrs.field(default=0, kw_only=True)
    #: How far it has been given what goes on, once the reel is through.
    place: Place
    #: Seq of the event up to which it was last given the whole board.
    painted: int
    #: What it is given first, and the next batch of that.
    reel: Reel = ()
    next_batch: int = 0
    #: What was taken for it and has not left, and when it was taken.
    sent: Batch | None = None
    sent_at: float = 0.0
    #: Snapshots it has needed since it was last in step, and when it needed the first.
    snapshots: int = 0
    first_snapshot: float = 0.0

    @property
    def has_reel(self) -> bool:
        """Whether there is something that it is given first."""
        return self.next_batch < len(self.reel)

    def give(self, reel: Reel, place: Place, painted: int) -> None:
        """Give it these batches, and then what comes after `place`."""
        self.reel = reel
        self.next_batch = 0
        self.place = place
        self.painted = painted

    def take_batch(self) -> Batch:
        """Return the next batch of the reel; the reel is let go with its last."""
        batch = self.reel[self.next_batch]
        self.next_batch += 1
        if not self.has_reel:
            self.reel, self.next_batch = (), 0
        return batch

    def fell_behind(self, now: float) -> None:
        """Count a snapshot that replaces what waited."""
        if self.snapshots == 0 or now - self.first_snapshot > SNAPSHOT_SPAN:
            self.snapshots, self.first_snapshot = 0, now
        self.snapshots += 1

    def is_hopeless(self, now: float) -> bool:
        """Whether another snapshot now would be one too many."""
        return self.snapshots >= MOST_SNAPSHOTS - 1 and now - self.first_snapshot <= SNAPSHOT_SPAN

    def overdue_at(self, stall: float, batch: int) -> float:
        """Return when what was taken must have left: `stall` seconds for each full `batch` bytes of it.

        `math.inf` when nothing is under way.
        """
        if self.sent is None:
            return math.inf
        return self.sent_at + stall * max(1.0, self.sent.size / batch)
