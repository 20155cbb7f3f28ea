"""Neither side gets far ahead of the other: what is buffered is counted, in bytes."""

from __future__ import annotations

from typing import Final

import attrs
import trio
import trio.testing

from fawa.client.http2 import H2Limits
from fawa.client.wire import HIGH_WATER
from fawa.net.engine import Data, EndOfMessage, Request
from fawa.proto.greet.v1.greet_pb2 import (
    GreetBidiStreamRequest,
    GreetBidiStreamResponse,
    GreetClientStreamRequest,
    GreetClientStreamResponse,
    GreetStreamRequest,
    GreetStreamResponse,
    SayHelloResponse,
)
from tests.client.asking import ask, start
from tests.client.greet import GREET_BIDI_STREAM, GREET_CLIENT_STREAM, GREET_STREAM
from tests.client.server import Script, ScriptedServer

INITIAL_WINDOW: Final = 65535
SIZE: Final = 50_000
PART: Final = GreetStreamResponse(part="x" * SIZE)


@attrs.define(eq=False)
class Counting(trio.abc.Stream):
    """A stream that counts what is read from it and written to it."""

    _inner: trio.abc.Stream
    read: int = 0
    written: int = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytes(await self._inner.receive_some(max_bytes))
        self.read += len(data)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(data)
        self.written += len(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._inner.aclose()


class CountingServer(ScriptedServer):
    """Counts on the client's side of its last connection."""

    counting: Counting

    async def dial(self) -> trio.abc.Stream:
        self.counting = Counting(await super().dial())
        return self.counting


# The client is slower than the server


async def send_parts(script: Script, stream_id: int, count: int) -> None:
    """Send as the client's window allows, and read its WINDOW_UPDATEs until all has gone."""
    script.head(stream_id)
    for _ in range(count):
        script.message(stream_id, PART)
    script.end(stream_id)
    while script.engine.pending(stream_id):
        await script.take_in()
    await script.flush()


async def test_a_client_that_does_not_receive_stops_the_server() -> None:
    server = CountingServer()
    limits = H2Limits(stream_window=300_000)
    async with (
        server.channel(limits=limits) as channel,
        trio.open_nursery() as nursery,
        channel.server_stream(GREET_STREAM, GreetStreamRequest()) as parts,
    ):
        script = await server.accept()
        request = await script.next(Request)
        nursery.start_soon(send_parts, script, request.stream_id, 200)

        # Nothing taken: not more than the first window, and frame headers.
        await trio.testing.wait_all_tasks_blocked()
        assert INITIAL_WINDOW <= server.counting.read < INITIAL_WINDOW + 1000

        for taken in range(1, 201):
            part = await parts.recv()
            assert part == PART
            await trio.testing.wait_all_tasks_blocked()
            ahead = server.counting.read - taken * SIZE
            # The window, and the half of it that may be buffered while window is given back.
            assert ahead < 1.5 * 300_000 + SIZE + 10_000
        assert await parts.recv() is None


async def test_the_window_is_used_whole() -> None:
    server = CountingServer()
    limits = H2Limits(stream_window=300_000)
    async with (
        server.channel(limits=limits) as channel,
        trio.open_nursery() as nursery,
        channel.server_stream(GREET_STREAM, GreetStreamRequest()) as parts,
    ):
        script = await server.accept()
        request = await script.next(Request)
        nursery.start_soon(send_parts, script, request.stream_id, 50)
        await parts.recv()
        await trio.testing.wait_all_tasks_blocked()
        assert server.counting.read - SIZE >= 300_000 - SIZE
        assert len([part async for part in parts]) == 49


async def test_streams_that_nobody_receives_do_not_stop_others() -> None:
    server = ScriptedServer()
    limits = H2Limits(stream_window=INITIAL_WINDOW, connection_window=200_000)
    async with server.channel(limits=limits) as channel, trio.open_nursery() as nursery:

        async def neglect() -> None:
            async with channel.server_stream(GREET_STREAM, GreetStreamRequest()) as parts:
                await parts.recv_initial_metadata()
                await trio.sleep_forever()

        for _ in range(10):
            nursery.start_soon(neglect)
        script = await server.accept()
        for _ in range(10):
            request = await script.next(Request)
            script.head(request.stream_id)
            for _ in range(10):
                script.message(request.stream_id, PART)
        # Ten times the stream's window is more than three times the connection's.
        await script.flush()
        asked = ask(nursery, channel)
        request = await script.next(Request)
        script.answer(request.stream_id, SayHelloResponse(resp="x" * 30_000))
        await script.flush()
        async with trio.open_nursery() as reading:

            async def read_on() -> None:
                while True:
                    await script.take_in()

            reading.start_soon(read_on)
            assert await asked.answer() == "x" * 30_000
            reading.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def test_a_client_over_http_1_that_does_not_receive_stops_reading() -> None:
    server = CountingServer()
    async with (
        server.channel("connect", http="1.1") as channel,
        trio.open_nursery() as nursery,
        channel.server_stream(GREET_STREAM, GreetStreamRequest()) as parts,
    ):
        stream = (await server.accept()).stream
        await stream.receive_some()
        payload = PART.SerializeToString()
        message = b"\0" + len(payload).to_bytes(4, "big") + payload
        end = b"\2\0\0\0\2{}"
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/connect+proto\r\ncontent-length: %d\r\n\r\n"
        body = message * 200 + end
        nursery.start_soon(stream.send_all, head % len(body) + body)
        await trio.testing.wait_all_tasks_blocked()
        assert server.counting.read <= 2 * HIGH_WATER
        for taken in range(1, 201):
            assert await parts.recv() == PART
            await trio.testing.wait_all_tasks_blocked()
            assert server.counting.read - taken * SIZE <= 2 * HIGH_WATER + SIZE
        assert await parts.recv() is None


# The server is slower than the client


async def test_a_server_that_does_not_read_stops_the_sender() -> None:
    server = CountingServer()
    sent = 0
    async with server.channel() as channel, trio.open_nursery() as nursery:

        async def call() -> str:
            nonlocal sent
            async with channel.client_stream(GREET_CLIENT_STREAM) as many:
                for _ in range(200):
                    await many.send(GreetClientStreamRequest(name="x" * SIZE))
                    sent += 1
                return (await many.reply()).summary

        asked = start(nursery, call)
        script = await server.accept()
        request = await script.next(Request)
        await trio.testing.wait_all_tasks_blocked()
        # On the wire not more than the window; in the client not more than the mark and one message.
        assert server.counting.written < INITIAL_WINDOW + 1000
        assert sent * SIZE < INITIAL_WINDOW + HIGH_WATER + SIZE

        received = 0
        while isinstance(event := await script.next(Data, EndOfMessage), Data):
            received += len(event.data)
            script.engine.release(request.stream_id)
            script.engine.release(0)
            assert sent * SIZE - received < INITIAL_WINDOW + HIGH_WATER + 2 * SIZE
        assert received == 200 * (SIZE + 4 + 5)
        script.answer(request.stream_id, GreetClientStreamResponse(summary="all"))
        await script.flush()
        assert await asked.answer() == "all"


async def test_a_connection_that_takes_nothing_stops_all_senders(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Stuck(ScriptedServer):
        async def dial(self) -> trio.abc.Stream:
            stream = await super().dial()
            assert isinstance(stream, trio.StapledStream)
            stream.send_stream.send_all_hook = trio.sleep_forever
            return stream

    sent = 0
    async with Stuck().channel() as channel, trio.open_nursery() as nursery:

        async def call() -> None:
            nonlocal sent
            async with channel.bidi(GREET_BIDI_STREAM) as talk:
                while True:
                    await talk.send(GreetBidiStreamRequest(name="x" * 10_000))
                    sent += 10_000

        for _ in range(8):
            nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        # Each may overshoot by one message.
        assert HIGH_WATER / 2 < sent <= HIGH_WATER + 8 * INITIAL_WINDOW
        nursery.cancel_scope.cancel()


async def test_both_ways_at_once() -> None:
    server = ScriptedServer()
    count = 100
    async with server.channel() as channel, trio.open_nursery() as nursery:

        async def echo() -> None:
            script = await server.accept()
            request = await script.next(Request)
            script.head(request.stream_id)
            received = 0
            while isinstance(event := await script.next(Data, EndOfMessage), Data):
                received += len(event.data)
                script.engine.release(request.stream_id)
                script.engine.release(0)
            assert received == count * (SIZE + 9)
            for _ in range(count):
                script.message(request.stream_id, GreetBidiStreamResponse(echo="x" * SIZE))
            script.end(request.stream_id)
            while script.engine.pending(request.stream_id):
                await script.take_in()
            await script.flush()

        nursery.start_soon(echo)
        async with channel.bidi(GREET_BIDI_STREAM) as talk:

            async def send() -> None:
                for _ in range(count):
                    await talk.send(GreetBidiStreamRequest(name="x" * SIZE))
                await talk.done_sending()

            nursery.start_soon(send)
            assert [len(answer.echo) async for answer in talk] == [SIZE] * count
