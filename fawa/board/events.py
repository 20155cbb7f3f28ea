"""What happens on a board: events, their order, and what makes one invalid."""

from __future__ import annotations

from typing import Annotated, Final

import attrs
import msgspec

#: Wipes the board.
CLEAR: Final = "clear"
#: Keeps a connection alive; neither stored nor sent to anybody.
PING: Final = "ping"
#: With a stroke, takes that stroke of its sender back; without one, an event like any other.
UNDO: Final = "undo"

#: The largest number that JavaScript and JSON keep exact.
LARGEST: Final = (1 << 53) - 1

Int32 = Annotated[int, msgspec.Meta(ge=-(1 << 31), le=(1 << 31) - 1)]
Int64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
#: 0 or a number counted from 1.
Count = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
#: A number counted from 1.
Number = Annotated[int, msgspec.Meta(ge=1, le=LARGEST)]
#: Lengths are in Unicode code points.
TypeName = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
Color = Annotated[str, msgspec.Meta(max_length=64)]


class DrawEvent(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One thing that happens on a board; E of `protocols/whiteboard.md`, which says what the fields mean."""

    type: TypeName
    color: Color = ""
    size: Int32 = 0
    prev_x: Int32 = 0
    prev_y: Int32 = 0
    curr_x: Int32 = 0
    curr_y: Int32 = 0
    client_id: str = ""
    #: Unix milliseconds by the client's clock, 0 when it does not say.
    time: Int64 = 0
    #: Which of its sender's strokes this belongs to, counted from 1; 0 for none.
    stroke: Count = 0

    @property
    def undoes(self) -> bool:
        """Whether this takes a stroke back."""
        return self.stroke != 0 and self.type == UNDO


class Proposal(msgspec.Struct, frozen=True, gc=False):
    """An event that has no place in the order yet: what a board hands to the bus."""

    #: The sender's number for it, counted from 1; 0 where the wire has none.
    op: int
    event: DrawEvent


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A committed event: one that has its place in the board's order."""

    #: Counted from 1, without gaps within an epoch.
    seq: Number
    #: The sender's number for it, counted from 1; 0 where the wire has none.
    op: Count
    event: DrawEvent


@attrs.frozen
class Problem:
    """Why something was not taken; `protocols/whiteboard.md` has the codes."""

    code: str
    #: For a person: what was wrong, and where.
    message: str


def check(event: DrawEvent) -> Problem | None:
    """Return what is wrong with an event that did not come through a JSON decoder, None if it is valid."""
    try:
        msgspec.convert(msgspec.structs.asdict(event), DrawEvent)
    except msgspec.ValidationError as error:
        return Problem("bad_field", str(error))
    return None


def stamped(event: DrawEvent, client_id: str) -> DrawEvent:
    """Return the event as sent by `client_id`."""
    # Written out, as it is on the path of every event and `replace` takes four times as long.
    return DrawEvent(
        event.type,
        event.color,
        event.size,
        event.prev_x,
        event.prev_y,
        event.curr_x,
        event.curr_y,
        client_id,
        event.time,
        event.stroke,
    )
