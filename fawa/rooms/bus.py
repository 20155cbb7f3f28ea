"""The bus: what puts the events of a board in order, for all replicas that serve it."""

from __future__ import annotations

from typing import Protocol

from fawa.board.events import Entry, Proposal


class Bus(Protocol):
    """Takes events and says which place in the order they have: acknowledges them.

    A board's events are told to its clients once they are committed, not before. A bus that answers later
    than `publish` hands what it has committed to `Room.commit`.
    """

    def publish(
        self, code: str, epoch: str, after: int, proposals: tuple[Proposal, ...]
    ) -> tuple[Entry, ...]:
        """Hand events over, without waiting; return those that are committed by now, oldest first.

        Args:
            code: of the board.
            epoch: of the board.
            after: seq of the newest event that the board knows.
            proposals: the events, in the order in which they came.

        """


class LocalBus:
    """The bus of boards that this process alone serves: what is handed over is committed."""

    def publish(
        self,
        code: str,
        epoch: str,
        after: int,
        proposals: tuple[Proposal, ...],
    ) -> tuple[Entry, ...]:
        """Number the events."""
        return tuple(
            Entry(seq, proposal.op, proposal.event) for seq, proposal in enumerate(proposals, after + 1)
        )
