"""What can be asked of a board. A command of a peer that is not here any more does nothing."""

from __future__ import annotations

import attrs

from fawa.board.events import DrawEvent, Entry
from fawa.board.wire import Wire


@attrs.frozen
class Resume:
    """The last that a returning client has seen. That it is who it says it is has been verified."""

    epoch: str
    #: Of the last event it has seen, 0 for none.
    seq: int


@attrs.frozen
class Join:
    """Somebody comes, or comes back on another connection."""

    #: The client's id: 8 characters of A-Z and 0-9.
    peer: str
    #: Differs from that of every earlier connection of this peer.
    connection: int
    wire: Wire
    #: Shown to others; at most 40 characters.
    name: str = ""
    #: Of the cursor; a CSS colour of at most 64 characters.
    color: str = ""
    resume: Resume | None = None


@attrs.frozen
class Leave:
    """A connection has ended. Ignored when it is not the peer's any more."""

    peer: str
    connection: int


@attrs.frozen
class Draw:
    """A peer's events, valid but for their `client_id`, which is set here.

    A ping is dropped where events have no numbers; where they have, no decoder lets one through.
    """

    peer: str
    #: Of the first event; each further one counts one more. 0 where the wire has none.
    op: int
    events: tuple[DrawEvent, ...]


@attrs.frozen
class Committed:
    """What the bus has put in order, oldest first. Entries that came before are passed over."""

    entries: tuple[Entry, ...]


@attrs.frozen
class Flushed:
    """All that was taken for a peer has left. Ignored when the connection is not the peer's any more."""

    peer: str
    connection: int


@attrs.frozen
class Cursor:
    """A peer's pointer has moved; int32 pixels from the board's upper left corner."""

    peer: str
    x: int
    y: int


@attrs.frozen
class Profile:
    """A peer has another name or colour; None: as before."""

    peer: str
    name: str | None = None
    color: str | None = None


@attrs.frozen
class ReadOnly:
    """The board stops (the bus is away) or resumes taking events.

    What the bus has not committed by now it never will: those events count as not taken, and whoever numbers
    its events sends them anew.
    """

    on: bool
    #: For a person.
    reason: str = ""


@attrs.frozen
class Tick:
    """A time has come that `WakeAt` named. More of them do no harm."""


Command = Join | Leave | Draw | Committed | Flushed | Cursor | Profile | ReadOnly | Tick
