"""Conversations of v2 clients with a board, document by document, as an adapter would hold them."""

from __future__ import annotations

from typing import assert_never

import attrs

from fawa.board import commands, wire_v2
from fawa.board.board import Board, BoardLimits
from fawa.board.effects import Ack, Publish, Refuse
from fawa.board.events import Entry, Problem
from fawa.board.wire_v2 import WireV2, decode_v2_untrusted

V2 = WireV2(bytes)
LIMITS = wire_v2.Limits(message=65536, rate=1000, ping=25)


@attrs.define(eq=False)
class Client:
    """One client's side."""

    client_id: str
    connection: int = 0
    #: Documents that have reached it and that nobody has looked at.
    received: list[str] = attrs.field(factory=list)
    is_reading: bool = True
    is_here: bool = False


class Conversation:
    """A board, the clients called `me` and `other`, and a bus that commits at once."""

    def __init__(self, limits: BoardLimits | None = None) -> None:
        self.board = Board("ABC123", "k3v9", limits or BoardLimits(), 0.0)
        self.clients = {"me": Client("A1B2C3D4"), "other": Client("Z9Y8X7W6")}
        self.connections = 0
        self.now = 0.0

    def step(self, step: dict[str, str]) -> None:
        """Do one step of a story; fails when a client does not get what the step says."""
        client = self.clients[step.get("who", "me")]
        match step:
            case {"gets": text}:
                assert client.received, f"{text} did not come"
                assert client.received.pop(0) == text
            case {"sends": text}:
                self.receive(client, text.encode())
            case {"does": "connect"}:
                self.connections += 1
                client.connection = self.connections
                client.received.clear()
                client.is_reading, client.is_here = True, False
            case {"does": "disconnect"}:
                client.is_here = False
                self.tell(commands.Leave(client.client_id, client.connection))
            case {"does": "stop reading"}:
                client.is_reading = False
            case {"does": "read"}:
                client.is_reading = True
                self.tell(commands.Flushed(client.client_id, client.connection))
            case {"board": "read-only"}:
                self.tell(commands.ReadOnly(True, step["reason"]))
            case {"board": "writable"}:
                self.tell(commands.ReadOnly(False))
            case _:
                raise AssertionError(f"no step is like {step}")
        self.flush()

    def receive(self, client: Client, data: bytes) -> None:
        message = decode_v2_untrusted(data)
        me = client.client_id
        match message:
            case Problem():
                self.send(client, wire_v2.encode_error(message))
            case wire_v2.Hello():
                self.greet(client, message)
            case wire_v2.Draw():
                self.tell(commands.Draw(me, message.op, message.events))
            case wire_v2.CursorAt():
                self.tell(commands.Cursor(me, message.x, message.y))
            case wire_v2.Profile():
                self.tell(commands.Profile(me, message.name, message.color))
            case wire_v2.Ping():
                self.send(client, wire_v2.encode_pong(message.number))
            case _:
                assert_never(message)

    def greet(self, client: Client, hello: wire_v2.Hello) -> None:
        resume = None
        if hello.resume is not None:
            assert (hello.resume.client_id, hello.resume.token) == (
                client.client_id,
                "secret-of-" + client.client_id,
            )
            resume = commands.Resume(hello.resume.epoch, hello.resume.seq)
        client.is_here = True
        self.tell(commands.Join(client.client_id, client.connection, V2, hello.name, hello.color, resume))
        welcome = self.board.welcome(client.client_id)
        self.send(
            client,
            wire_v2.encode_hello(
                client_id=welcome.client_id,
                token="secret-of-" + client.client_id,
                code=self.board.code,
                epoch=welcome.epoch,
                seq=welcome.seq,
                op=welcome.op,
                recovered=welcome.recovered,
                limits=LIMITS,
                read_only=welcome.read_only,
            ),
        )

    def tell(self, command: commands.Command) -> None:
        for effect in self.board.apply(command, self.now):
            match effect:
                case Publish(proposals):
                    entries = [
                        Entry(seq, one.op, one.event) for seq, one in enumerate(proposals, self.board.seq + 1)
                    ]
                    self.tell(commands.Committed(tuple(entries)))
                case Refuse(peer, op, problem):
                    self.send(self.client(peer), wire_v2.encode_error(problem, op))
                case Ack(peer, op):
                    self.send(self.client(peer), wire_v2.encode_ack(op))
                case _:
                    pass

    def client(self, client_id: str) -> Client:
        return next(one for one in self.clients.values() if one.client_id == client_id)

    def send(self, client: Client, document: bytes) -> None:
        client.received.append(document.decode())

    def flush(self) -> None:
        """Give everybody who reads all there is."""
        while self.board.has_news(self.now):
            for client in self.clients.values():
                batch = self.board.take(client.client_id, self.now)
                for document in batch.frames if batch is not None else ():
                    self.send(client, document)
                if client.is_reading:
                    self.tell(commands.Flushed(client.client_id, client.connection))
