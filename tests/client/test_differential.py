"""HTTP/2 as the client speaks it, heard by another implementation: `h2`, which refuses what is wrong."""

from __future__ import annotations

import random

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest
import trio
import trio.testing
from google.protobuf.message import Message
from grpclib.const import Status

from fawa.client import Channel
from fawa.proto.greet.v1.greet_pb2 import (
    GreetBidiStreamRequest,
    GreetBidiStreamResponse,
    GreetClientStreamRequest,
    GreetClientStreamResponse,
    GreetStreamRequest,
    GreetStreamResponse,
    SayHelloRequest,
    SayHelloResponse,
)
from fawa.rpc.envelope import EnvelopeReader, pack
from tests.client.asking import start
from tests.client.greet import GREET_BIDI_STREAM, GREET_CLIENT_STREAM, GREET_STREAM, SAY_HELLO
from tests.client.server import AUTHORITY, ScriptedServer, open_channel


class Hyper:
    """Greets like the real one, in gRPC over `h2`; keeps to the client's windows, and sees that it keeps to
    its own."""

    def __init__(self, stream: trio.abc.Stream, *, window: int = 65535) -> None:
        self._stream = stream
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        self._window = window
        self.heads: list[dict[str, str]] = []
        self._readers: dict[int, EnvelopeReader] = {}
        self._names: dict[int, list[str]] = {}
        self._paths: dict[int, str] = {}
        self._out: dict[int, bytes] = {}

    async def run(self) -> None:
        self._h2.initiate_connection()
        self._h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: self._window})
        while True:
            self._send_bodies()
            if data := self._h2.data_to_send():
                await self._stream.send_all(data)
            data = bytes(await self._stream.receive_some())
            if not data:
                return
            for event in self._h2.receive_data(data):
                self._act(event)

    def _act(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            assert event.stream_id is not None
            assert event.headers is not None
            head = {str(name): str(value) for name, value in event.headers}
            self.heads.append(head)
            self._paths[event.stream_id] = head[":path"].rpartition("/")[2]
            self._readers[event.stream_id] = EnvelopeReader(1 << 22, gzip=False, fault=Status.INTERNAL)
            self._names[event.stream_id] = []
        elif isinstance(event, h2.events.DataReceived):
            assert event.stream_id is not None
            assert event.data is not None
            assert event.flow_controlled_length is not None
            for payload in self._readers[event.stream_id].feed(event.data):
                self._names[event.stream_id].append(SayHelloRequest.FromString(payload).name)
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            assert event.stream_id is not None
            self._answer(event.stream_id)

    def _answer(self, stream_id: int) -> None:
        names = self._names[stream_id]
        answers: dict[str, list[Message]] = {
            "SayHello": [SayHelloResponse(resp="".join(names))],
            "GreetStream": [GreetStreamResponse(part=name) for name in names * 3],
            "GreetClientStream": [GreetClientStreamResponse(summary="".join(names))],
            "GreetBidiStream": [GreetBidiStreamResponse(echo=name) for name in names],
        }
        self._h2.send_headers(stream_id, [(":status", "200"), ("content-type", "application/grpc")])
        self._out[stream_id] = b"".join(
            pack(message.SerializeToString()) for message in answers[self._paths[stream_id]]
        )

    def _send_bodies(self) -> None:
        for stream_id in list(self._out):
            while body := self._out[stream_id]:
                room = min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)
                if room <= 0:
                    break
                self._h2.send_data(stream_id, body[:room])
                self._out[stream_id] = body[room:]
            if not body:
                self._h2.send_headers(stream_id, [("grpc-status", "0")], end_stream=True)
                del self._out[stream_id]


async def use_all(channel: Channel, name: str) -> None:
    reply = await channel.unary(SAY_HELLO, SayHelloRequest(name=name))
    assert reply.message.resp == name
    async with channel.server_stream(GREET_STREAM, GreetStreamRequest(name=name)) as parts:
        assert [part.part async for part in parts] == [name] * 3
    async with channel.client_stream(GREET_CLIENT_STREAM) as many:
        for _ in range(3):
            await many.send(GreetClientStreamRequest(name=name))
        assert (await many.reply()).summary == name * 3
    async with channel.bidi(GREET_BIDI_STREAM) as talk:
        for _ in range(3):
            await talk.send(GreetBidiStreamRequest(name=name))
        await talk.done_sending()
        assert [answer.echo async for answer in talk] == [name] * 3


@pytest.mark.parametrize("window", [1000, 65535, 1_000_000])
async def test_h2_understands_the_client(window: int, seed: int) -> None:
    server = ScriptedServer()
    chance = random.Random(seed)
    async with server.channel() as channel, trio.open_nursery() as nursery:
        first = start(nursery, lambda: use_all(channel, "first"))
        hyper = Hyper((await server.accept()).stream, window=window)
        nursery.start_soon(hyper.run)
        # Once its SETTINGS are known: h2 itself cannot recover from a window that shrinks below nothing.
        await first.answer()
        async with trio.open_nursery() as users:
            for _ in range(8):
                users.start_soon(use_all, channel, "x" * chance.choice([0, 1, 16384, 65536, 100_000]))
        nursery.cancel_scope.cancel()
    assert len(hyper.heads) == 9 * 4
    for head in hyper.heads:
        assert (head[":method"], head[":scheme"], head[":authority"]) == ("POST", "http", AUTHORITY)
        assert "host" not in head


async def test_the_scheme_is_that_of_the_connection() -> None:
    ours, theirs = trio.testing.memory_stream_pair()

    async def dial() -> trio.abc.Stream:
        return theirs

    hyper = Hyper(ours)
    async with (
        trio.open_nursery() as nursery,
        open_channel(dial, AUTHORITY, "grpc", http="2", scheme="https") as channel,
    ):
        nursery.start_soon(hyper.run)
        await use_all(channel, "Ada")
    assert {head[":scheme"] for head in hyper.heads} == {"https"}
