"""The protobuf wire of `canva.v1`: gRPC and Connect."""

from __future__ import annotations

from typing import Final

from fawa.board.events import CLEAR, DrawEvent, Entry, Problem, check
from fawa.board.history import History
from fawa.board.wire import Wire, newest, wiped
from fawa.proto.canva.v1 import canva_pb2 as pb

#: Bytes of the events in a history or replay. gRPC clients take messages of 4 MiB, but this many events, more
#: than 20,000, take long to encode, and everybody waits.
MOST_HISTORY: Final = 1_000_000


def decode_proto(request: pb.ClientDrawRequest) -> DrawEvent | Problem:
    """Return the event of a client's message, or what is wrong with it: `bad_field`."""
    if not request.HasField("draw_event"):
        return Problem("bad_field", "the request has no draw_event")
    sent = request.draw_event
    event = DrawEvent(
        sent.type, sent.color, sent.size, sent.prev_x, sent.prev_y, sent.curr_x, sent.curr_y, sent.client_id
    )
    return check(event) or event


class WireProto(Wire):
    """Each event is one `ClientDrawResponse`; the history too, once after joining, also when it is empty."""

    knows_undo = False
    has_lane = False

    def event(self, entry: Entry) -> bytes:
        return self.frame(_response(entry.event))

    def welcome(self, history: History, seq: int) -> list[bytes]:
        events = newest(map(_event, history.newest_first()), MOST_HISTORY)
        message = pb.ClientDrawResponse(
            initial_history=pb.History(events=map(pb.DrawEvent.FromString, events))
        )
        return [self.frame(message.SerializeToString())]

    def repaint(self, history: History, seq: int) -> list[bytes]:
        seen = (event for event in history.newest_first() if event.type != CLEAR)
        events = newest(map(_response, seen), MOST_HISTORY)
        return [self.frame(_response(wiped())), *map(self.frame, events)]


def _message(event: DrawEvent) -> pb.DrawEvent:
    return pb.DrawEvent(
        type=event.type,
        color=event.color,
        size=event.size,
        prev_x=event.prev_x,
        prev_y=event.prev_y,
        curr_x=event.curr_x,
        curr_y=event.curr_y,
        client_id=event.client_id,
    )


def _event(event: DrawEvent) -> bytes:
    return _message(event).SerializeToString()


def _response(event: DrawEvent) -> bytes:
    return pb.ClientDrawResponse(draw_event=_message(event)).SerializeToString()
