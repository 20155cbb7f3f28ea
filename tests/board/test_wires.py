"""Every frame format: what goes in comes out, and nothing a stranger sends gets further than a problem."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from fawa.board import wire_v2
from fawa.board.events import DrawEvent, Entry, Problem, check
from fawa.board.history import History
from fawa.board.presence import News, Person, Status
from fawa.board.wire import line
from fawa.board.wire_proto import WireProto, decode_proto
from fawa.board.wire_v1 import WireV1, decode_v1_untrusted
from fawa.board.wire_v2 import MOST_PEOPLE, MOST_STROKES, WireV2, decode_v2_untrusted
from fawa.proto.canva.v1 import canva_pb2 as pb
from tests.board.screens import ProtoScreen, V1Screen, V2Screen, picture, segment

V1, V2, PROTO = WireV1(bytes), WireV2(line), WireProto(bytes)

int32 = st.integers(-(1 << 31), (1 << 31) - 1)
text = st.text(st.characters(codec="utf-8"), max_size=32)
number = st.integers(1, (1 << 53) - 1)
drawn = st.builds(
    DrawEvent,
    type=text.filter(lambda name: name not in {"", "clear", "undo", "ping"}),
    color=text,
    size=int32,
    prev_x=int32,
    prev_y=int32,
    curr_x=int32,
    curr_y=int32,
    client_id=st.text("ABC123", min_size=8, max_size=8),
    time=st.integers(-(1 << 63), (1 << 63) - 1),
)
stroked = st.builds(lambda event, stroke: msgspec.structs.replace(event, stroke=stroke), drawn, number)
fields_of_all = [*DrawEvent.__struct_fields__, "draw_event", "draw", "hello", "cursor", "profile", "ping"]
names = st.text(max_size=3) | st.sampled_from([*fields_of_all, "op", "events", "x", "y", "name", "resume"])
#: What JSON has, and what it has not.
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@given(drawn)
def test_v1_says_what_it_hears(event: DrawEvent) -> None:
    assert decode_v1_untrusted(V1.event(Entry(1, 5, event))) == event


@given(stroked)
def test_v1_leaves_the_stroke_out(event: DrawEvent) -> None:
    assert decode_v1_untrusted(V1.event(Entry(1, 5, event))) == msgspec.structs.replace(event, stroke=0)


@given(drawn)
def test_protobuf_says_what_it_hears(event: DrawEvent) -> None:
    event = msgspec.structs.replace(event, time=0)
    told = pb.ClientDrawResponse.FromString(PROTO.event(Entry(1, 5, event)))
    assert decode_proto(pb.ClientDrawRequest(draw_event=told.draw_event)) == event


@given(st.lists(drawn | stroked, min_size=1, max_size=5), number)
def test_v2_hears_what_is_said(events: list[DrawEvent], op: int) -> None:
    said = {"draw": {"op": op, "events": [msgspec.structs.asdict(event) for event in events]}}
    assert decode_v2_untrusted(json.dumps(said).encode()) == wire_v2.Draw(op, tuple(events))


@given(drawn | stroked, number, st.integers(0, 9))
def test_v2_tells_all_of_an_event(event: DrawEvent, seq: int, op: int) -> None:
    told = json.loads(V2.event(Entry(seq, op, event)))["event"]
    assert (told.pop("seq"), told.pop("op", 0)) == (seq, op)
    assert DrawEvent(**told) == event


@given(st.lists(drawn | stroked | st.builds(DrawEvent, type=st.just("clear"), client_id=st.just("ABCABCAB"))))
def test_every_wire_shows_a_latecomer_the_same(events: list[DrawEvent]) -> None:
    history = History(3, 1 << 20)
    for seq, event in enumerate(events, 1):
        history.add(Entry(seq, 0, event))
    for wire, make in ((V1, V1Screen), (V2, V2Screen), (PROTO, ProtoScreen)):
        welcomed = make()
        for frame in wire.welcome(history, len(events)):
            welcomed.feed(frame)
        assert welcomed.picture == picture(events)
        if wire is not PROTO:
            repainted = make()
            for frame in wire.repaint(history, len(events)):
                repainted.feed(frame)
            assert repainted.picture == picture(events)


@given(st.binary() | st.text().map(str.encode) | junk.map(lambda value: json.dumps(value).encode()))
def test_strangers_get_no_further_than_a_problem(data: bytes) -> None:
    for decode in (decode_v1_untrusted, decode_v2_untrusted):
        told = decode(data)
        if isinstance(told, Problem):
            assert 0 < len(told.message) <= 200
        if isinstance(told, DrawEvent):
            assert check(told) is None


@given(names, junk)
def test_nor_do_those_who_know_the_names(kind: str, value: Any) -> None:
    data = json.dumps({kind: value}).encode()
    told_v1 = decode_v1_untrusted(data)
    assert isinstance(told_v1, Problem | DrawEvent)
    told = decode_v2_untrusted(data)
    if isinstance(told, Problem):
        assert told.code in {"bad_json", "bad_field", "unknown_message"}
    else:
        assert kind in {"hello", "draw", "cursor", "profile", "ping"}


@given(st.dictionaries(names, junk))
def test_nor_do_those_who_know_more_of_them(fields: dict[str, Any]) -> None:
    for said in ({"draw_event": fields}, {"draw": {"op": 1, "events": [fields]}}):
        data = json.dumps(said).encode()
        told = decode_v1_untrusted(data)
        if isinstance(told, DrawEvent):
            assert check(told) is None
        drawing = decode_v2_untrusted(data)
        if isinstance(drawing, wire_v2.Draw):
            assert all(check(event) is None for event in drawing.events)


@given(st.binary())
def test_a_protobuf_message_is_an_event_or_a_problem(data: bytes) -> None:
    try:
        request = pb.ClientDrawRequest.FromString(data)
    except DecodeError:
        return
    told = decode_proto(request)
    assert isinstance(told, Problem) or check(told) is None


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (pb.DrawEvent(), "type"),
        (pb.DrawEvent(type="a" * 33), "type"),
        (pb.DrawEvent(type="draw", color="a" * 65), "color"),
    ],
)
def test_a_bad_protobuf_event(event: pb.DrawEvent, field: str) -> None:
    told = decode_proto(pb.ClientDrawRequest(draw_event=event))
    assert isinstance(told, Problem)
    assert told.code == "bad_field"
    assert field in told.message


def test_a_protobuf_message_without_an_event() -> None:
    assert decode_proto(pb.ClientDrawRequest()) == Problem("bad_field", "the request has no draw_event")


def long_history() -> tuple[History, list[DrawEvent]]:
    """Return a history that is too long for one document of any kind, and its events."""
    events = [
        DrawEvent("draw", "#" * 64, 3, -2_000_000_000, at, at, 2_000_000_000, "ABCABCAB", 0, at)
        for at in range(1, 12_000)
    ]
    history = History(len(events), 1)
    for seq, event in enumerate(events, 1):
        history.add(Entry(seq, 0, event))
    return history, events


def test_a_long_history_is_told_from_its_newest_part() -> None:
    history, events = long_history()
    for wire, make, most in ((V1, V1Screen, 900_000), (PROTO, ProtoScreen, 1_000_000)):
        screen = make()
        (frame,) = wire.welcome(history, len(events))
        assert most - 300 < len(frame) < 1.01 * most
        screen.feed(frame)
        assert screen.picture == [segment(event) for event in events[-len(screen.picture) :]]
        frames = wire.repaint(history, len(events))
        assert 0.99 * most < sum(map(len, frames)) < most


def test_a_long_snapshot_comes_in_pieces() -> None:
    history, events = long_history()
    frames = V2.repaint(history, len(events))
    assert all(len(frame) < MOST_STROKES + 500 for frame in frames)
    assert len(frames) > 30
    screen = V2Screen()
    for frame in frames:
        screen.feed(frame)
        assert screen.incomplete == (frame is not frames[-1])
    assert screen.picture == picture(events)


def test_a_crowd_comes_in_pieces() -> None:
    people = [(f"P{number:07}", Person(str(number))) for number in range(2 * MOST_PEOPLE + 1)]
    screen = V2Screen()
    frames = V2.presence(News(True, people, [], None))
    assert len(frames) == 3
    for frame in frames:
        screen.feed(frame)
    assert screen.people == {client_id: (person.name, "") for client_id, person in people}
    frames = V2.presence(News(False, people, ["P0000000", "P0000001"], Status(True, "why")))
    assert len(frames) == 4
    for frame in frames:
        screen.feed(frame)
    assert len(screen.people) == len(people)
    assert screen.status == (True, "why")
    frames = V2.cursors([(client_id, (1, 2)) for client_id, _person in people])
    assert len(frames) == 3


def test_wires_without_a_lane_say_so() -> None:
    with pytest.raises(NotImplementedError, match="WireV1 has no presence"):
        V1.presence(News(True, [], [], None))
    with pytest.raises(NotImplementedError, match="WireProto has no cursors"):
        PROTO.cursors([])
    assert V1.acknowledge(1) == []
