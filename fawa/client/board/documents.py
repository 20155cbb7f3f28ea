"""Wire v2 as a client sees it: what is said, and what is told of it; `protocols/whiteboard.md`. Pure."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import msgspec
from msgspec import UNSET, UnsetType

from fawa.board.events import CLEAR, UNDO, DrawEvent, check

# What comes in iterating over a board.


class Event(msgspec.Struct, frozen=True, gc=False):
    """One thing that happened on the board. Everybody is told the same events in the same order."""

    #: "draw", "clear", "undo" (of all segments of `client_id` with this `stroke`), or another.
    type: str
    #: Place in that order, counted from 1.
    seq: int = 0
    color: str = ""
    size: int = 0
    prev_x: int = 0
    prev_y: int = 0
    curr_x: int = 0
    curr_y: int = 0
    client_id: str = ""
    #: Unix milliseconds by the clock of who did it, 0 when it does not say.
    time: int = 0
    #: The sender's own number for it, 0 for none.
    op: int = 0
    #: Segments of one `client_id` with the same number are one stroke; 0 for none.
    stroke: int = 0


class Stroke(msgspec.Struct, frozen=True):
    """Consecutive segments, between each two neighbours of `points`: x0, y0, x1, y1 and so on."""

    type: str
    points: tuple[int, ...]
    color: str = ""
    size: int = 0
    client_id: str = ""
    time: int = 0
    stroke: int = 0


@attrs.frozen
class Snapshot:
    """The board as it is: what was drawn before counts no more."""

    strokes: tuple[Stroke, ...]


class Person(msgspec.Struct, frozen=True):
    """Somebody on the board."""

    client_id: str
    name: str = ""
    color: str = ""


@attrs.frozen
class Presence:
    """Who is on the board now, by client ID; you too."""

    people: Mapping[str, Person]


@attrs.frozen
class Cursors:
    """Where the pointers of others are, as x and y by client ID."""

    at: Mapping[str, tuple[int, int]]


@attrs.frozen
class Status:
    """How the board is reached."""

    #: "webtransport" or "websocket"; empty while there is no connection.
    transport: str
    #: Why it is not WebTransport, or why there is no connection; else empty.
    why: str
    #: The board takes no events now; those drawn meanwhile wait.
    read_only: bool


@attrs.frozen
class Rejected:
    """The board will never take so many of your events, because of what the message says."""

    events: int
    code: str
    message: str


class Changed(enum.Enum):
    """What is to be told anew, as it is when somebody looks."""

    PEOPLE = "people"
    CURSORS = "cursors"
    STATUS = "status"


#: What is told in order, nothing left out.
InOrder = Snapshot | Event | Rejected


# What the server says. Of what it says beside this a client knows nothing.


class Limits(msgspec.Struct, frozen=True):
    """Of the server; sizes in bytes."""

    message: int = 65_536
    #: In one draw.
    events: int = 256
    #: Seconds between the server's pings.
    ping: float = 25.0


class Hello(msgspec.Struct, frozen=True):
    """The answer to the client's."""

    client_id: str
    token: str
    code: str
    epoch: str
    op: int
    recovered: bool
    limits: Limits = Limits()
    read_only: bool = False


class Piece(msgspec.Struct, frozen=True):
    """A part of a snapshot."""

    seq: int
    first: bool
    last: bool
    strokes: tuple[Stroke, ...]


class Ack(msgspec.Struct, frozen=True):
    """Events up to `op` have been taken."""

    op: int


class People(msgspec.Struct, frozen=True):
    """Who has come, changed or gone."""

    all: bool = False
    here: tuple[Person, ...] = ()
    gone: tuple[str, ...] = ()


class CursorOf(msgspec.Struct, frozen=True):
    """One that has moved."""

    client_id: str
    x: int
    y: int


class ReadOnly(msgspec.Struct, frozen=True):
    """Whether the board takes events."""

    read_only: bool


class Error(msgspec.Struct, frozen=True):
    """A document was not taken."""

    code: str
    message: str = ""
    op: int = 0


class Drain(msgspec.Struct, frozen=True):
    """The server goes away."""

    retry_after_ms: int


class _Document(msgspec.Struct, frozen=True):
    """One of these, or none that is known."""

    event: Event | UnsetType = UNSET
    cursors: tuple[CursorOf, ...] | UnsetType = UNSET
    ack: Ack | UnsetType = UNSET
    presence: People | UnsetType = UNSET
    snapshot: Piece | UnsetType = UNSET
    hello: Hello | UnsetType = UNSET
    status: ReadOnly | UnsetType = UNSET
    error: Error | UnsetType = UNSET
    drain: Drain | UnsetType = UNSET


Said = Event | tuple[CursorOf, ...] | Ack | People | Piece | Hello | ReadOnly | Error | Drain

_KINDS: Final = _Document.__struct_fields__
_decoder: Final = msgspec.json.Decoder(_Document)


def decode_untrusted(data: bytes) -> Said | None:
    """Return what a document says, `None` where it is of a kind that is not known.

    Raises:
        ValueError: it is no document.

    """
    try:
        document = _decoder.decode(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    for kind in _KINDS:
        said: Said | UnsetType = getattr(document, kind)
        if said is not UNSET:
            return said
    return None


# What the client says.

Points = Sequence[tuple[int, int]]


def segments(points: Points, color: str, size: int, stroke: int) -> list[DrawEvent]:
    """Return the events of a line through `points`; one point is a dot.

    Raises:
        ValueError: there is no point.

    """
    if not points:
        raise ValueError("there is nothing to draw without a point")
    pairs = itertools.pairwise(points) if len(points) > 1 else [(points[0], points[0])]
    return [DrawEvent("draw", color, size, x0, y0, x1, y1, stroke=stroke) for (x0, y0), (x1, y1) in pairs]


def expanded(stroke: Stroke, number: int) -> list[DrawEvent]:
    """Return the events of a stroke, as one of one's own with this number.

    Raises:
        ValueError: it has no point, or half of one.

    """
    numbers = iter(stroke.points)
    points = list(zip(numbers, numbers, strict=True))
    events = segments(points, stroke.color, stroke.size, number)
    return [msgspec.structs.replace(one, type=stroke.type, time=stroke.time) for one in events]


def undo(stroke: int) -> DrawEvent:
    """Return the event that takes a stroke of one's own back."""
    return DrawEvent(UNDO, stroke=stroke)


def clear() -> DrawEvent:
    """Return the event that wipes the board."""
    return DrawEvent(CLEAR)


def see_valid(event: DrawEvent) -> None:
    """See that a board takes an event.

    Raises:
        ValueError: it does not; the text says why.

    """
    if (problem := check(event)) is not None:
        raise ValueError(f"a board does not take such an event: {problem.message}")
    if event.type == "ping":
        raise ValueError("a ping is no event of wire v2")
    if event.type == UNDO and not event.stroke:
        raise ValueError("an undo names the stroke that it takes back")
