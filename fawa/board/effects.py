"""What a board wants done; the shell does it."""

from __future__ import annotations

import attrs

from fawa.board.events import Problem, Proposal


@attrs.frozen
class Publish:
    """Hand events to the bus; it answers, at once or later, with the command `Committed`."""

    entries: tuple[Proposal, ...]


@attrs.frozen
class Refuse:
    """Tell a peer that none of the events of its draw `op` was taken."""

    peer: str
    op: int
    problem: Problem


@attrs.frozen
class Ack:
    """Tell a peer that its events up to `op` have been taken before."""

    peer: str
    op: int


@attrs.frozen
class Close:
    """Close a connection. The board has forgotten it already: no `Leave` is needed, nor does one harm."""

    peer: str
    #: Which of the peer's connections.
    connection: int
    #: A close code of `protocols/whiteboard.md`.
    code: int
    reason: str


@attrs.frozen
class Flush:
    """Some peers have something to take."""


@attrs.frozen
class WakeAt:
    """Send the command `Tick` at this time, in seconds on the shell's clock."""

    time: float


@attrs.frozen
class Expire:
    """Nobody has been here for `BoardLimits.idle`: save the board if you like, and forget it."""


@attrs.frozen
class Gap:
    """The bus left something out: neither the entry `got` nor any after it was applied.

    Find the entries from `expected` on and commit them, or make the board anew in another epoch.
    """

    expected: int
    got: int


Effect = Publish | Refuse | Ack | Close | Flush | WakeAt | Expire | Gap
