"""Wire v1: JSON for clients that ask for no subprotocol; `protocols/whiteboard.md`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from fawa.board.events import CLEAR, Color, DrawEvent, Entry, Int32, Int64, Problem, TypeName
from fawa.board.faults import problem_of
from fawa.board.history import History
from fawa.board.wire import Wire, newest, wiped

#: Bytes of the events in a history or replay: what is left of 1 MB, the usual limit of clients, with room.
MOST_HISTORY: Final = 900_000


class _Event(msgspec.Struct, frozen=True, gc=False):
    """E as this wire has it; unknown fields are passed over."""

    type: TypeName
    color: Color = ""
    size: Int32 = 0
    prev_x: Int32 = 0
    prev_y: Int32 = 0
    curr_x: Int32 = 0
    curr_y: Int32 = 0
    client_id: str = ""
    time: Int64 = 0


class _Document(msgspec.Struct, frozen=True, gc=False):
    draw_event: _Event


_decoder: Final = msgspec.json.Decoder(_Document)
_encode: Final = msgspec.json.Encoder().encode


def decode_v1_untrusted(data: bytes) -> DrawEvent | Problem:
    """Return the event of a client's document, or what is wrong with it: `bad_json` or `bad_field`."""
    try:
        event = _decoder.decode(data).draw_event
    except (ValueError, RecursionError) as error:
        return problem_of(error)
    return DrawEvent(
        event.type,
        event.color,
        event.size,
        event.prev_x,
        event.prev_y,
        event.curr_x,
        event.curr_y,
        event.client_id,
        event.time,
    )


class WireV1(Wire):
    """Each event is one document; the history too, once after joining."""

    knows_undo = False
    has_lane = False

    def event(self, entry: Entry) -> bytes:
        return self.frame(_document(entry.event))

    def welcome(self, history: History, seq: int) -> list[bytes]:
        events = newest(map(_event, history.newest_first()), MOST_HISTORY)
        return [self.frame(b'{"initial_history":{"events":[' + b",".join(events) + b"]}}")] if events else []

    def repaint(self, history: History, seq: int) -> list[bytes]:
        events = newest(map(_document, _without_clear(history.newest_first())), MOST_HISTORY)
        return [self.frame(_document(wiped())), *map(self.frame, events)]


def _without_clear(events: Iterable[DrawEvent]) -> Iterator[DrawEvent]:
    return (event for event in events if event.type != CLEAR)


def _event(event: DrawEvent) -> bytes:
    return _encode(
        _Event(
            event.type,
            event.color,
            event.size,
            event.prev_x,
            event.prev_y,
            event.curr_x,
            event.curr_y,
            event.client_id,
            event.time,
        )
    )


def _document(event: DrawEvent) -> bytes:
    return b'{"draw_event":' + _event(event) + b"}"
