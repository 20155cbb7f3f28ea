"""Wire v2: JSON for subprotocol `fawa.v2`; `protocols/whiteboard.md`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Final, TypeVar

import attrs
import msgspec
from msgspec import UNSET, UnsetType

from fawa.board.events import PING, UNDO, Color, Count, DrawEvent, Entry, Int32, Number, Problem
from fawa.board.faults import problem_of, shortened
from fawa.board.history import History
from fawa.board.presence import News, Status
from fawa.board.strokes import Run
from fawa.board.wire import Wire

T = TypeVar("T")

#: Events in one draw.
MOST_EVENTS: Final = 256
#: Bytes of the strokes in one snapshot document.
MOST_STROKES: Final = 48_000
#: People in one presence document, and cursors in one of cursors.
MOST_PEOPLE: Final = 256

Name = Annotated[str, msgspec.Meta(max_length=40)]
#: What the server gave out and the client shows again.
_Given = Annotated[str, msgspec.Meta(max_length=256)]


class ResumeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client says that was here before; whether it is true is for the server's token to tell."""

    client_id: _Given
    token: _Given
    epoch: _Given
    #: Of the last event it has seen, 0 for none.
    seq: Count


class Hello(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first document of a client."""

    name: Name = ""
    color: Color = ""
    resume: ResumeRequest | None = None


class Draw(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Events, 1 to 256 of them."""

    #: Of the first event; each further one counts one more.
    op: Number
    events: Annotated[tuple[DrawEvent, ...], msgspec.Meta(min_length=1)]


class CursorAt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the client's pointer is, in pixels from the board's upper left corner."""

    x: Int32
    y: Int32


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another name or colour; None: as before."""

    name: Name | None = None
    color: Color | None = None


@attrs.frozen
class Ping:
    """Is answered with a pong of the same number."""

    number: int


ClientMessage = Hello | Draw | CursorAt | Profile | Ping


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Exactly one of these, which the decoder cannot say; see `decode_v2_untrusted`."""

    draw: Draw | UnsetType = UNSET
    cursor: CursorAt | UnsetType = UNSET
    hello: Hello | UnsetType = UNSET
    profile: Profile | UnsetType = UNSET
    ping: Count | UnsetType = UNSET


_KINDS: Final = frozenset(_Document.__struct_fields__)
_decoder: Final = msgspec.json.Decoder(_Document)
_encode: Final = msgspec.json.Encoder().encode


def decode_v2_untrusted(data: bytes) -> ClientMessage | Problem:
    """Return what a client says, or what is wrong with it.

    The codes are `bad_json`, `unknown_message`, `bad_field` and `too_many_events`.
    """
    try:
        document = _decoder.decode(data)
    except (ValueError, RecursionError) as error:
        return _problem(data, error)
    said = [message for kind in _KINDS if (message := getattr(document, kind)) is not UNSET]
    if len(said) != 1:
        return _ONE_KEY
    message = said[0]
    if isinstance(message, int):
        return Ping(message)
    if isinstance(message, Draw):
        return _checked(message)
    answer: ClientMessage = message
    return answer


_ONE_KEY: Final = Problem("bad_json", "a document is a JSON object with exactly one key")


def _checked(draw: Draw) -> Draw | Problem:
    if len(draw.events) > MOST_EVENTS:
        return Problem(
            "too_many_events",
            f"there are {len(draw.events)} events in one draw, and at most {MOST_EVENTS} may be",
        )
    for number, event in enumerate(draw.events):
        if event.type == PING:
            return Problem(
                "bad_field", f"a ping is a document of its own - at `$.draw.events[{number}].type`"
            )
        if event.type == UNDO and not event.stroke:
            return Problem("bad_field", f"an undo names a `stroke` - at `$.draw.events[{number}]`")
    return draw


def _problem(data: bytes, error: Exception) -> Problem:
    """Return what is wrong with a document that is not one of ours."""
    if isinstance(error, msgspec.ValidationError):
        try:
            document = msgspec.json.decode(data)
        except (ValueError, RecursionError) as worse:
            return problem_of(worse)
        if not isinstance(document, dict) or len(document) != 1:
            return _ONE_KEY
        (kind,) = document
        if kind not in _KINDS:
            return Problem("unknown_message", shortened(f"there is no message {kind!r}"))
    return problem_of(error)


class Limits(msgspec.Struct, frozen=True):
    """What the server's hello says of its limits."""

    #: Bytes of a document.
    message: int
    #: Events a second; more are read later, not lost.
    rate: int
    #: Seconds between the server's pings.
    ping: float
    #: In one draw.
    events: int = MOST_EVENTS


def encode_hello(
    *,
    client_id: str,
    token: str,
    code: str,
    epoch: str,
    seq: int,
    op: int,
    recovered: bool,
    limits: Limits,
    read_only: bool,
) -> bytes:
    """Return the answer to a client's hello; `whiteboard.md` says what the fields mean."""
    return _encode(
        {
            "hello": {
                "client_id": client_id,
                "token": token,
                "code": code,
                "epoch": epoch,
                "seq": seq,
                "op": op,
                "recovered": recovered,
                "limits": {
                    "message": limits.message,
                    "events": limits.events,
                    "rate": limits.rate,
                    "ping": limits.ping,
                },
                "read_only": read_only,
            }
        }
    )


def encode_error(problem: Problem, op: int = 0) -> bytes:
    """Return the document that tells a client what was not taken; with `op`, which draw."""
    error: dict[str, str | int] = {"code": problem.code, "message": problem.message}
    if op:
        error["op"] = op
    return _encode({"error": error})


def encode_ack(op: int) -> bytes:
    """Return the document that tells a client that its events up to `op` have been taken before."""
    return _encode({"ack": {"op": op}})


def encode_pong(number: int) -> bytes:
    """Return the answer to a ping."""
    return _encode({"pong": number})


def encode_drain(retry_after_ms: int) -> bytes:
    """Return the document that says that the server goes away, and after how long to come back."""
    return _encode({"drain": {"retry_after_ms": retry_after_ms}})


def encode_status(status: Status) -> bytes:
    """Return the document that says whether the board takes events."""
    return _encode({"status": {"read_only": status.read_only, "reason": status.reason}})


class _Told(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """E as told to clients: all fields but for `op` and `stroke` are there in any case."""

    type: str
    color: str
    size: int
    prev_x: int
    prev_y: int
    curr_x: int
    curr_y: int
    client_id: str
    time: int
    seq: int
    op: int = 0
    stroke: int = 0


class _Stroke(msgspec.Struct, frozen=True, omit_defaults=True):
    """S: a run of events."""

    type: str
    color: str
    size: int
    client_id: str
    time: int
    points: tuple[int, ...]
    stroke: int = 0


class WireV2(Wire):
    """Numbered events, snapshots in pieces, presence and cursors."""

    knows_undo = True
    has_lane = True

    def event(self, entry: Entry) -> bytes:
        event = entry.event
        told = _Told(
            event.type,
            event.color,
            event.size,
            event.prev_x,
            event.prev_y,
            event.curr_x,
            event.curr_y,
            event.client_id,
            event.time,
            entry.seq,
            entry.op,
            event.stroke,
        )
        return self.frame(b'{"event":' + _encode(told) + b"}")

    def welcome(self, history: History, seq: int) -> list[bytes]:
        return self.repaint(history, seq)

    def repaint(self, history: History, seq: int) -> list[bytes]:
        pieces = _pieces(map(_stroke, history.runs())) or [[]]
        return [
            self.frame(
                b'{"snapshot":{"seq":%d,"first":%b,"last":%b,"strokes":[%b]}}'
                % (seq, _json(number == 0), _json(number == len(pieces) - 1), b",".join(strokes))
            )
            for number, strokes in enumerate(pieces)
        ]

    def acknowledge(self, op: int) -> list[bytes]:
        return [self.frame(encode_ack(op))]

    def presence(self, news: News) -> list[bytes]:
        frames = []
        if news.status is not None:
            frames.append(self.frame(encode_status(news.status)))
        if news.all or news.here or news.gone:
            for number, here in enumerate(_chunks(news.here)):
                people = [
                    {"client_id": client_id, "name": person.name, "color": person.color}
                    for client_id, person in here
                ]
                first = number == 0
                told = {"all": news.all and first, "here": people, "gone": news.gone if first else []}
                frames.append(self.frame(_encode({"presence": told})))
        return frames

    def cursors(self, cursors: list[tuple[str, tuple[int, int]]]) -> list[bytes]:
        return [
            self.frame(
                _encode({"cursors": [{"client_id": client_id, "x": x, "y": y} for client_id, (x, y) in some]})
            )
            for some in _chunks(cursors)
        ]


def _stroke(run: Run) -> bytes:
    return _encode(_Stroke(run.type, run.color, run.size, run.client_id, run.time, run.numbers(), run.stroke))


def _json(flag: bool) -> bytes:
    return b"true" if flag else b"false"


def _pieces(strokes: Iterator[bytes]) -> list[list[bytes]]:
    """Return the strokes in groups of at most `MOST_STROKES` bytes."""
    pieces: list[list[bytes]] = []
    room = 0
    for stroke in strokes:
        room -= len(stroke)
        if room < 0:
            pieces.append([])
            room = MOST_STROKES - len(stroke)
        pieces[-1].append(stroke)
    return pieces


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Iterate over the items in groups of `MOST_PEOPLE`; one empty group if there are none."""
    for start in range(0, max(len(items), 1), MOST_PEOPLE):
        yield items[start : start + MOST_PEOPLE]
