"""Clients as frames reach them: each decodes the bytes it is sent and keeps what it would show."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Protocol

import attrs

from fawa.board.events import DrawEvent
from fawa.proto.canva.v1 import canva_pb2 as pb


@attrs.frozen
class Segment:
    """What can be seen of an event."""

    type: str
    color: str
    size: int
    line: tuple[int, int, int, int]
    client_id: str


Picture = list[Segment]


def segment(event: DrawEvent) -> Segment:
    line = (event.prev_x, event.prev_y, event.curr_x, event.curr_y)
    return Segment(event.type, event.color, event.size, line, event.client_id)


def picture(events: Iterable[DrawEvent]) -> Picture:
    """Return what a board looks like after these events; the plainest way to say so."""
    seen: list[DrawEvent] = []
    for event in events:
        if event.type == "clear":
            seen = []
        elif event.type == "undo" and event.stroke:
            taken_back = (event.client_id, event.stroke)
            seen = [one for one in seen if (one.client_id, one.stroke) != taken_back]
        else:
            seen.append(event)
    return [segment(event) for event in seen]


class Screen(Protocol):
    """What one client shows."""

    @property
    def picture(self) -> Picture: ...

    def feed(self, frame: bytes) -> None:
        """Take one frame; fails when no client of this wire would expect it."""
        ...


@attrs.define(eq=False)
class V1Screen:
    """A client of wire v1."""

    picture: Picture = attrs.field(factory=list)
    frames: int = 0

    def feed(self, frame: bytes) -> None:
        document = json.loads(frame)
        assert len(document) == 1
        if "initial_history" in document:
            assert self.frames == 0
            assert document["initial_history"]["events"], "a history is sent only if there is one"
            for event in document["initial_history"]["events"]:
                self._show(event)
        else:
            self._show(document["draw_event"])
        self.frames += 1

    def _show(self, event: dict[str, Any]) -> None:
        fields = {"type", "color", "size", "prev_x", "prev_y", "curr_x", "curr_y", "client_id", "time"}
        assert event.keys() == fields
        assert event["type"] != "ping"
        assert len(event["client_id"]) == 8
        if event["type"] == "clear":
            self.picture = []
        else:
            self.picture.append(segment(DrawEvent(**event)))


@attrs.define(eq=False)
class ProtoScreen:
    """A gRPC client."""

    picture: Picture = attrs.field(factory=list)
    frames: int = 0

    def feed(self, frame: bytes) -> None:
        message = pb.ClientDrawResponse.FromString(frame)
        kind = message.WhichOneof("message")
        assert (kind == "initial_history") == (self.frames == 0), "exactly one history, and first"
        events = [message.draw_event] if kind == "draw_event" else message.initial_history.events
        for event in events:
            assert event.type != "ping"
            assert len(event.client_id) == 8
            if event.type == "clear":
                self.picture = []
            else:
                line = (event.prev_x, event.prev_y, event.curr_x, event.curr_y)
                self.picture.append(Segment(event.type, event.color, event.size, line, event.client_id))
        self.frames += 1


@attrs.define(eq=False)
class V2Screen:
    """A client of wire v2, without what it says."""

    seq: int = 0
    #: Numbers of its own events that have come back or were acknowledged, in this order.
    acknowledged: list[int] = attrs.field(factory=list)
    client_id: str = ""
    #: What is shown, with the stroke of each segment.
    shown: list[tuple[Segment, int]] = attrs.field(factory=list)
    #: A snapshot of which more is to come.
    incomplete: bool = False
    snapshots: int = 0
    people: dict[str, tuple[str, str]] = attrs.field(factory=dict)
    cursors: dict[str, tuple[int, int]] = attrs.field(factory=dict)
    status: tuple[bool, str] = (False, "")

    @property
    def picture(self) -> Picture:
        return [shown for shown, _stroke in self.shown]

    def feed(self, frame: bytes) -> None:
        assert frame.endswith(b"\n")
        assert frame.count(b"\n") == 1
        document = json.loads(frame)
        ((kind, value),) = document.items()
        assert not self.incomplete or kind == "snapshot"
        getattr(self, f"_{kind}")(value)

    def _event(self, told: dict[str, Any]) -> None:
        seq, op = told.pop("seq"), told.pop("op", 0)
        assert seq == self.seq + 1, f"event {seq} came after {self.seq}"
        self.seq = seq
        event = DrawEvent(**told)
        if event.client_id == self.client_id and op:
            self.acknowledged.append(op)
        if event.type == "clear":
            self.shown = []
        elif event.type == "undo" and event.stroke:
            gone = (event.client_id, event.stroke)
            self.shown = [(one, stroke) for one, stroke in self.shown if (one.client_id, stroke) != gone]
        else:
            self.shown.append((segment(event), event.stroke))

    def _snapshot(self, told: dict[str, Any]) -> None:
        assert told["first"] != self.incomplete
        if told["first"]:
            assert told["seq"] >= self.seq
            self.seq, self.shown = told["seq"], []
        assert told["seq"] == self.seq
        self.incomplete = not told["last"]
        for stroke in told["strokes"]:
            points = stroke["points"]
            assert len(points) >= 4
            assert len(points) % 2 == 0
            for at in range(0, len(points) - 2, 2):
                line = tuple(points[at : at + 4])
                one = Segment(stroke["type"], stroke["color"], stroke["size"], line, stroke["client_id"])
                self.shown.append((one, stroke.get("stroke", 0)))
        self.snapshots += 1

    def _ack(self, told: dict[str, int]) -> None:
        self.acknowledged += range(1, told["op"] + 1)

    def _presence(self, told: dict[str, Any]) -> None:
        if told["all"]:
            assert not told["gone"]
            self.people, self.cursors = {}, {}
        for one in told["gone"]:
            self.people.pop(one, None)
            self.cursors.pop(one, None)
        for one in told["here"]:
            self.people[one["client_id"]] = (one["name"], one["color"])

    def _cursors(self, told: list[dict[str, Any]]) -> None:
        assert told
        for one in told:
            self.cursors[one["client_id"]] = (one["x"], one["y"])

    def _status(self, told: dict[str, Any]) -> None:
        self.status = (told["read_only"], told["reason"])
