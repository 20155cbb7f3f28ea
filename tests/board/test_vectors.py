"""The golden vectors of `protocols/`, which the page's tests read too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest

from fawa.board import wire_v2
from fawa.board.board import BoardLimits
from fawa.board.events import DrawEvent, Entry, Problem
from fawa.board.history import History
from fawa.board.presence import News, Person, Status
from fawa.board.strokes import Run, expand
from fawa.board.wire_v1 import WireV1, decode_v1_untrusted
from fawa.board.wire_v2 import WireV2, decode_v2_untrusted
from tests.board.conversation import Conversation

PROTOCOLS = Path(__file__).parents[2] / "protocols"
V1_FILE: dict[str, Any] = json.loads((PROTOCOLS / "whiteboard_v1.json").read_text("utf-8"))
V2_FILE: dict[str, Any] = json.loads((PROTOCOLS / "whiteboard_v2.json").read_text("utf-8"))

V1, V2 = WireV1(bytes), WireV2(bytes)


def vectors(file: dict[str, Any], side: str) -> list[Any]:
    """Return the documents of one side, named."""
    found = [one for one in file["documents"] if one["side"] == side]
    assert found
    assert len({one["name"] for one in found}) == len(found)
    return [pytest.param(one, id=one["name"]) for one in found]


def history_of(events: list[DrawEvent]) -> History:
    """Return a history that remembers all events."""
    history = History(1000, 1 << 20)
    for seq, event in enumerate(events, 1):
        history.add(Entry(seq, 0, event))
    return history


@pytest.mark.parametrize("vector", vectors(V1_FILE, "client"))
def test_v1_client(vector: dict[str, Any]) -> None:
    told = decode_v1_untrusted(vector["text"].encode())
    if "error" in vector:
        assert isinstance(told, Problem)
        assert told.code == vector["error"]
        assert 0 < len(told.message) <= 200
    else:
        assert isinstance(told, DrawEvent)
        assert {"draw_event": without_stroke(told)} == vector["value"]


def without_stroke(event: DrawEvent) -> dict[str, Any]:
    fields = msgspec.structs.asdict(event)
    assert fields.pop("stroke") == 0
    return fields


@pytest.mark.parametrize("vector", vectors(V1_FILE, "server"))
def test_v1_server(vector: dict[str, Any]) -> None:
    match vector["value"]:
        case {"draw_event": fields}:
            frames = [V1.event(Entry(1, 0, DrawEvent(**fields)))]
        case {"initial_history": {"events": events}}:
            frames = V1.welcome(history_of([DrawEvent(**fields) for fields in events]), 0)
        case other:
            raise AssertionError(f"no server says {other}")
    assert [frame.decode() for frame in frames] == [vector["text"]]
    assert json.loads(vector["text"]) == vector["value"]


@pytest.mark.parametrize("vector", vectors(V2_FILE, "client"))
def test_v2_client(vector: dict[str, Any]) -> None:
    told = decode_v2_untrusted(vector["text"].encode())
    if "error" in vector:
        assert isinstance(told, Problem)
        assert told.code == vector["error"]
        assert 0 < len(told.message) <= 200
    else:
        assert not isinstance(told, Problem)
        assert meaning(told) == vector["value"]


def meaning(message: wire_v2.ClientMessage) -> dict[str, Any]:
    """Return a client's message as the vectors have it, with all defaults."""
    match message:
        case wire_v2.Ping():
            return {"ping": message.number}
        case wire_v2.CursorAt():
            return {"cursor": json.loads(msgspec.json.encode(message))}
        case _:
            return {type(message).__name__.lower(): json.loads(msgspec.json.encode(message))}


def told_by_server(value: dict[str, Any]) -> list[bytes]:
    """Return what our encoders make of a server's message."""
    ((kind, told),) = value.items()
    match kind:
        case "hello":
            limits = wire_v2.Limits(**told["limits"])
            return [wire_v2.encode_hello(**{**told, "limits": limits})]
        case "event":
            fields = {name: value for name, value in told.items() if name not in {"seq", "op"}}
            return [V2.event(Entry(told["seq"], told.get("op", 0), DrawEvent(**fields)))]
        case "snapshot":
            runs = [run_of(stroke) for stroke in told["strokes"]]
            return V2.repaint(history_of(list(expand(runs))), told["seq"])
        case "presence":
            here = [(one["client_id"], Person(one["name"], one["color"])) for one in told["here"]]
            return V2.presence(News(told["all"], here, told["gone"], None))
        case "cursors":
            return V2.cursors([(one["client_id"], (one["x"], one["y"])) for one in told])
        case "status":
            return V2.presence(News(False, [], [], Status(**told)))
        case "error":
            return [wire_v2.encode_error(Problem(told["code"], told["message"]), told.get("op", 0))]
        case "ack":
            return V2.acknowledge(told["op"])
        case "drain":
            return [wire_v2.encode_drain(told["retry_after_ms"])]
        case "pong":
            return [wire_v2.encode_pong(told)]
        case _:
            raise AssertionError(f"no server says {kind}")


def run_of(stroke: dict[str, Any]) -> Run:
    points = b"".join(number.to_bytes(4, "little", signed=True) for number in stroke["points"])
    return Run.restored(
        stroke["type"],
        stroke["color"],
        stroke["size"],
        stroke["client_id"],
        stroke["time"],
        stroke.get("stroke", 0),
        points,
    )


@pytest.mark.parametrize("vector", vectors(V2_FILE, "server"))
def test_v2_server(vector: dict[str, Any]) -> None:
    assert [frame.decode() for frame in told_by_server(vector["value"])] == [vector["text"]]
    assert json.loads(vector["text"]) == vector["value"]


def test_the_v2_vectors_have_every_document_and_error() -> None:
    documents = V2_FILE["documents"]
    said = {side: set[str]() for side in ("client", "server")}
    for one in documents:
        said[one["side"]] |= one.get("value", {}).keys()
    assert said == {
        "client": {"hello", "draw", "cursor", "profile", "ping"},
        "server": {
            *("hello", "snapshot", "event", "ack", "presence", "cursors", "status", "error", "drain", "pong"),
        },
    }
    told = {one["value"]["error"]["code"] for one in documents if "error" in one.get("value", {})}
    documented = (PROTOCOLS / "whiteboard.md").read_text("utf-8")
    assert told == {
        *("bad_json", "unknown_message", "bad_field", "too_many_events", "unexpected_hello"),
        *("read_only", "out_of_order"),
    }
    assert all(f"\n| `{code}` |" in documented for code in told)


@pytest.mark.parametrize("story", [pytest.param(one, id=one["name"]) for one in V2_FILE["stories"]])
def test_v2_story(story: dict[str, Any]) -> None:
    talk = Conversation(attrs.evolve(BoardLimits(), **story.get("limits", {})))
    for step in story["steps"]:
        talk.step(step)
    assert {name: client.received for name, client in talk.clients.items()} == {"me": [], "other": []}
