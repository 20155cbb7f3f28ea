"""People at a whiteboard, each with a client that others wrote: `websockets` in wire v1 or v2, and grpcio."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import attrs
import grpc  # type: ignore[import-untyped]
import pytest
import websockets
from websockets.sync.client import ClientConnection, connect

from tests.daemon import PATIENCE
from tests.interop.grpcio_channel import Conversation, channel_to
from tests.interop.target import Target

Document = dict[str, Any]


@attrs.frozen
class Answer:
    """Of plain HTTP."""

    status: int
    headers: dict[str, str]
    body: str


def ask(target: Target, path: str, method: str = "GET", **headers: str) -> Answer:
    """Make a request of plain HTTP."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(target.url + path, method=method, headers=fields)
    context = target.ssl_context() if target.certificate else None
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE, context=context) as reply:
            return Answer(reply.status, dict(reply.headers.items()), reply.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, dict(error.headers.items()), error.read().decode())


def new_board(target: Target) -> str:
    """Return the code of a new board."""
    code: str = json.loads(ask(target, "/create", "POST").body)["code"]
    return code


def xs(documents: list[Document]) -> list[int]:
    """Return the `curr_x` of the events in documents of either wire, histories and snapshots included."""
    found: list[int] = []
    for document in documents:
        match document:
            case {"draw_event": event} | {"event": event}:
                found.append(event["curr_x"])
            case {"initial_history": {"events": events}}:
                found += [event["curr_x"] for event in events]
            case {"snapshot": {"strokes": strokes}}:
                for stroke in strokes:
                    found += stroke.get("points", [])[2::2]
    return found


@attrs.define(eq=False)
class Person:
    """Somebody with a WebSocket of the package `websockets`."""

    socket: ClientConnection
    #: The server's hello, in wire v2.
    hello: Document = attrs.field(factory=dict)
    heard: list[Document] = attrs.field(factory=list)

    def say(self, *documents: Any) -> None:
        for document in documents:
            self.socket.send(document if isinstance(document, str) else json.dumps(document))

    def draw(self, *events: int) -> None:
        """Draw in wire v1, a segment for each number."""
        self.say(*({"draw_event": {"type": "draw", "curr_x": x}} for x in events))

    def draw_v2(self, op: int, *events: int) -> None:
        self.say({"draw": {"op": op, "events": [{"type": "draw", "curr_x": x} for x in events]}})

    def hear_until(self, holds: Callable[[list[Document]], bool]) -> list[Document]:
        """Return all that has been heard once it is enough."""
        while not holds(self.heard):
            self.heard.append(json.loads(self.socket.recv(PATIENCE)))
        return self.heard

    def hear_xs(self, *expected: int) -> None:
        """Check that exactly these events come, in this order."""
        heard = xs(self.hear_until(lambda documents: len(xs(documents)) >= len(expected)))
        assert heard == list(expected)

    def _hear_on(self) -> NoReturn:
        while True:
            self.heard.append(json.loads(self.socket.recv(PATIENCE)))

    def farewell(self) -> tuple[int, str]:
        """Return the server's close code and reason; what comes before is heard."""
        with pytest.raises(websockets.ConnectionClosed) as closed:
            self._hear_on()
        frame = closed.value.rcvd
        assert frame is not None, "there was no close frame"
        return frame.code, frame.reason


@contextlib.contextmanager
def person(target: Target, code: str, *, v2: bool = False, **hello: Any) -> Iterator[Person]:
    """Connect to a board; in wire v2 say hello."""
    scheme = "wss" if target.certificate else "ws"
    with connect(
        f"{scheme}://{target.address}/ws/canva?code={code}",
        subprotocols=[websockets.Subprotocol("fawa.v2")] if v2 else None,
        ssl=target.ssl_context() if target.certificate else None,
        open_timeout=PATIENCE,
        proxy=None,
    ) as socket:
        somebody = Person(socket)
        if v2:
            somebody.say({"hello": hello})
            somebody.hello = json.loads(socket.recv(PATIENCE))["hello"]
        yield somebody


def resume_of(hello: Document, seq: int) -> Document:
    """Return what somebody says who was here before."""
    return {**{key: hello[key] for key in ("client_id", "token", "epoch")}, "seq": seq}


@attrs.define(eq=False)
class Collaborator:
    """Somebody who calls Collaborate with grpcio's bidirectional client."""

    canva: Any
    said: Conversation
    answers: Any
    heard: list[Any] = attrs.field(factory=list)
    _came: queue.Queue[Any] = attrs.field(factory=queue.Queue)

    def draw(self, *events: int) -> None:
        for x in events:
            self.say(type="draw", curr_x=x)

    def say(self, **event: Any) -> None:
        self.said.say(self.canva.ClientDrawRequest(draw_event=self.canva.DrawEvent(**event)))

    def hear_history(self) -> list[int]:
        """Wait for the history, which comes first; return its events."""
        self.heard.append(self._came.get(timeout=PATIENCE))
        assert self.heard[0].WhichOneof("message") == "initial_history"
        return self.xs()

    def hear_xs(self, *expected: int) -> None:
        """Check that exactly these events come, in this order, the history's first."""
        while len(found := self.xs()) < len(expected):
            message = self._came.get(timeout=PATIENCE)
            assert message is not None, f"the call has ended: {self.answers.code()} {self.answers.details()}"
            self.heard.append(message)
        assert found == list(expected)

    def xs(self) -> list[int]:
        found: list[int] = []
        for message in self.heard:
            if message.WhichOneof("message") == "initial_history":
                found += [event.curr_x for event in message.initial_history.events]
            else:
                found.append(message.draw_event.curr_x)
        return found

    def farewell(self) -> tuple[Any, str]:
        """Return the status of the call once it has ended."""
        while (message := self._came.get(timeout=PATIENCE)) is not None:
            self.heard.append(message)
        return self.answers.code(), self.answers.details()

    def _read(self) -> None:
        with contextlib.suppress(grpc.RpcError):  # `farewell` tells
            for message in self.answers:
                self._came.put(message)
        self._came.put(None)


@contextlib.contextmanager
def collaborator(
    target: Target, canva: Any, canva_grpc: Any, code: str | None = None, *more: tuple[str, str]
) -> Iterator[Collaborator]:
    """Call Collaborate, on a browsers' board or the shared one."""
    with channel_to(target) as channel:
        said = Conversation()
        metadata = [*([] if code is None else [("fawa-board", code)]), *more]
        answers = canva_grpc.CanvaServiceStub(channel).Collaborate(iter(said), metadata=metadata)
        somebody = Collaborator(canva, said, answers)
        reader = threading.Thread(target=somebody._read)
        reader.start()
        try:
            yield somebody
        finally:
            said.hang_up()
            answers.cancel()
            reader.join()
