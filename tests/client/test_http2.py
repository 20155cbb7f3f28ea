"""HTTP/2 connections of a client: refused and reset streams, GOAWAY, the server's limits."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.client import Channel, ConnectionLost, connect
from fawa.client.http2 import H2Limits
from fawa.net.connection import Limits
from fawa.net.engine import Data, EndOfMessage, GoAway, H2ErrorCode, Request, RstStream
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
from tests.client.asking import ask, start
from tests.client.greet import GREET_BIDI_STREAM, GREET_CLIENT_STREAM, GREET_STREAM, SAY_HELLO, Greeter
from tests.client.server import Script, ScriptedServer, serving

Use = Callable[[Channel], Awaitable[str]]

#: What a script answers to each method.
ANSWERS: dict[str, Any] = {
    "/greet.v1.GreetService/SayHello": SayHelloResponse(resp="fine"),
    "/greet.v1.GreetService/GreetStream": GreetStreamResponse(part="fine"),
    "/greet.v1.GreetService/GreetClientStream": GreetClientStreamResponse(summary="fine"),
    "/greet.v1.GreetService/GreetBidiStream": GreetBidiStreamResponse(echo="fine"),
}


async def answer_whole(script: Script) -> int:
    """Read a whole request and answer it; returns how many bytes its body had."""
    request = await script.next(Request)
    size = 0
    while isinstance(event := await script.next(Data, EndOfMessage), Data):
        size += len(event.data)
    script.answer(request.stream_id, ANSWERS[request.path.decode()])
    await script.flush()
    return size


async def reset_next(script: Script, code: int = H2ErrorCode.REFUSED_STREAM) -> None:
    """Read the head of a request and reset it."""
    request = await script.next(Request)
    script.engine.stream(request.stream_id).reset(code)
    await script.flush()


async def unary(channel: Channel) -> str:
    return (await channel.unary(SAY_HELLO, SayHelloRequest())).message.resp


async def server_stream(channel: Channel) -> str:
    async with channel.server_stream(GREET_STREAM, GreetStreamRequest()) as parts:
        return "".join([part.part async for part in parts])


async def client_stream(channel: Channel) -> str:
    async with channel.client_stream(GREET_CLIENT_STREAM) as many:
        for name in "abc":
            await many.send(GreetClientStreamRequest(name=name))
        return (await many.reply()).summary


async def bidi(channel: Channel) -> str:
    """Send in one task and receive in another, both while the call may be made again."""
    answers = []
    async with channel.bidi(GREET_BIDI_STREAM) as talk:

        async def receive() -> None:
            answers.extend([answer.echo async for answer in talk])

        receiving = Asking()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receiving, receive)
            for name in "abc":
                await talk.send(GreetBidiStreamRequest(name=name))
                await trio.testing.wait_all_tasks_blocked()
            await talk.done_sending()
        receiving.check()
    return "".join(answers)


class Asking:
    """Keeps an error of a task, because a nursery would wrap it."""

    def __init__(self) -> None:
        self._error: GRPCError | None = None

    async def __call__(self, receive: Callable[[], Awaitable[None]]) -> None:
        try:
            await receive()
        except GRPCError as error:
            self._error = error

    def check(self) -> None:
        if self._error is not None:
            raise self._error


KINDS = pytest.mark.parametrize("use", [unary, server_stream, client_stream, bidi])


# Refused and reset streams


@KINDS
async def test_a_refused_call_is_made_once_more(use: Use) -> None:
    server = ScriptedServer()
    async with server.channel() as channel, trio.open_nursery() as nursery:
        asked = start(nursery, lambda: use(channel))
        script = await server.accept()
        await reset_next(script)
        size = await answer_whole(script)
        assert await asked.answer() == "fine"
        # All that had been sent was sent again: three messages of one letter, or one empty message.
        assert size == (24 if use in (client_stream, bidi) else 5)


@pytest.mark.parametrize("use", [unary, server_stream, client_stream])
async def test_a_call_that_is_refused_twice_fails(use: Use) -> None:
    server = ScriptedServer()
    async with server.channel() as channel, trio.open_nursery() as nursery:
        asked = start(nursery, lambda: use(channel))
        script = await server.accept()
        await reset_next(script)
        await reset_next(script)
        with pytest.raises(ConnectionLost, match="refused"):
            await asked.answer()


async def test_a_call_that_was_begun_is_not_made_again() -> None:
    server = ScriptedServer()
    async with server.channel() as channel, trio.open_nursery() as nursery:
        asked = start(nursery, lambda: server_stream(channel))
        script = await server.accept()
        request = await script.next(Request)
        script.head(request.stream_id)
        await script.flush()
        await trio.testing.wait_all_tasks_blocked()
        script.engine.stream(request.stream_id).reset(H2ErrorCode.REFUSED_STREAM)
        await script.flush()
        with pytest.raises(ConnectionLost, match="refused"):
            await asked.answer()


async def test_what_is_too_much_to_keep_is_not_sent_again() -> None:
    server = ScriptedServer()
    async with server.channel() as channel, trio.open_nursery() as nursery:

        async def call() -> None:
            async with channel.client_stream(GREET_CLIENT_STREAM) as many:
                while True:
                    await many.send(GreetClientStreamRequest(name="x" * 100_000))

        asked = start(nursery, call)
        script = await server.accept()
        request = await script.next(Request)
        received = 0
        while received < 1_000_000:
            received += len((await script.next(Data)).data)
            script.engine.release(request.stream_id)
            script.engine.release(0)
        script.engine.stream(request.stream_id).reset(H2ErrorCode.REFUSED_STREAM)
        await script.flush()
        with pytest.raises(ConnectionLost, match="refused"):
            await asked.answer()


@pytest.mark.parametrize(
    ("code", "status", "word"),
    [
        (H2ErrorCode.CANCEL, Status.CANCELLED, "CANCEL"),
        (H2ErrorCode.NO_ERROR, Status.INTERNAL, "NO_ERROR"),
        (H2ErrorCode.INTERNAL_ERROR, Status.INTERNAL, "INTERNAL_ERROR"),
        (H2ErrorCode.ENHANCE_YOUR_CALM, Status.RESOURCE_EXHAUSTED, "ENHANCE_YOUR_CALM"),
        (H2ErrorCode.INADEQUATE_SECURITY, Status.PERMISSION_DENIED, "INADEQUATE_SECURITY"),
        (0xABCD, Status.INTERNAL, "0xabcd"),
    ],
)
async def test_what_a_reset_means(code: int, status: Status, word: str) -> None:
    server = ScriptedServer()
    async with server.channel() as channel, trio.open_nursery() as nursery:
        asked = ask(nursery, channel)
        await reset_next(await server.accept(), code)
        with pytest.raises(GRPCError, match=word) as caught:
            await asked.answer()
        assert caught.value.status is status


async def test_a_reset_after_the_whole_answer_is_no_error() -> None:
    server = ScriptedServer()
    async with server.channel() as channel, trio.open_nursery() as nursery:

        async def call() -> str:
            async with channel.client_stream(GREET_CLIENT_STREAM) as many:
                await trio.testing.wait_all_tasks_blocked()
                await many.send(GreetClientStreamRequest(name="too late"))
                return (await many.reply()).summary

        asked = start(nursery, call)
        script = await server.accept()
        request = await script.next(Request)
        script.answer(request.stream_id, GreetClientStreamResponse(summary="fine"))
        script.engine.stream(request.stream_id).reset(H2ErrorCode.NO_ERROR)
        await script.flush()
        assert await asked.answer() == "fine"


async def test_a_sender_and_a_receiver_both_learn_of_an_early_answer() -> None:
    server = ScriptedServer()
    async with server.channel() as channel, trio.open_nursery() as nursery:

        async def call() -> str:
            async with channel.client_stream(GREET_CLIENT_STREAM) as many, trio.open_nursery() as senders:

                async def send() -> None:
                    while True:
                        await many.send(GreetClientStreamRequest(name="x" * 100_000))
                        await trio.lowlevel.checkpoint()

                senders.start_soon(send)
                answer = await many.recv()
                assert answer is not None
                assert await many.recv() is None
                senders.cancel_scope.cancel()
            return answer.summary

        asked = start(nursery, call)
        script = await server.accept()
        request = await script.next(Request)
        script.head(request.stream_id)
        await script.flush()
        await trio.testing.wait_all_tasks_blocked()
        script.message(request.stream_id, GreetClientStreamResponse(summary="fine"))
        script.end(request.stream_id)
        script.engine.stream(request.stream_id).reset(H2ErrorCode.NO_ERROR)
        await script.flush()
        assert await asked.answer() == "fine"


# GOAWAY and rotation


async def test_after_goaway_open_calls_finish_and_new_ones_go_elsewhere() -> None:
    server = ScriptedServer()
    async with server.channel() as channel, trio.open_nursery() as nursery:
        old = ask(nursery, channel)
        first = await server.accept()
        request = await first.next(Request)
        first.engine.goaway(request.stream_id)
        await first.flush()
        await trio.testing.wait_all_tasks_blocked()

        new = ask(nursery, channel)
        await answer_whole(await server.accept())
        assert await new.answer() == "fine"

        first.answer(request.stream_id, SayHelloResponse(resp="late"))
        await first.flush()
        assert await old.answer() == "late"
        # Nothing is open on the old connection any more, so the client says goodbye and closes it.
        await first.next(GoAway)
        with pytest.raises(EOFError):
            await first.next(Request)


async def test_calls_that_goaway_leaves_out_are_made_on_a_new_connection() -> None:
    server = ScriptedServer()
    async with server.channel() as channel, trio.open_nursery() as nursery:
        asked = [ask(nursery, channel) for _ in range(4)]
        first = await server.accept()
        ids = sorted([(await first.next(Request)).stream_id for _ in range(4)])
        first.engine.goaway(ids[1])
        for stream_id in ids[:2]:
            first.answer(stream_id, SayHelloResponse(resp="old"))
        await first.flush()
        second = await server.accept()
        for _ in range(2):
            await answer_whole(second)
        assert sorted([await call.answer() for call in asked]) == ["fine", "fine", "old", "old"]
        assert server.dialled == 2


async def test_goaway_in_two_steps_loses_no_call() -> None:
    server = ScriptedServer()
    async with server.channel() as channel, trio.open_nursery() as nursery:
        crossing = ask(nursery, channel)
        first = await server.accept()
        # Said before the request was read: it is still answered (section 6.8).
        first.engine.goaway(2**31 - 1)
        await first.flush()
        request = await first.next(Request)
        first.engine.goaway(request.stream_id)
        first.answer(request.stream_id, SayHelloResponse(resp="fine"))
        await first.flush()
        assert await crossing.answer() == "fine"
        assert server.dialled == 1


async def test_a_client_moves_on_before_the_engine_would_end_the_connection() -> None:
    server = ScriptedServer()
    async with server.channel(limits=H2Limits(max_requests=3)) as channel, trio.open_nursery() as nursery:

        async def serve() -> None:
            while True:
                nursery.start_soon(serve_one, await server.accept())

        async def serve_one(script: Script) -> None:
            with contextlib.suppress(EOFError):
                while True:
                    await answer_whole(script)

        nursery.start_soon(serve)
        for _ in range(10):
            assert await unary(channel) == "fine"
        assert server.dialled == 4
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("calls", "own", "servers", "connections"),
    [
        pytest.param(10_000, H2Limits(), Limits(), 4, id="by itself"),
        pytest.param(3_000, H2Limits(max_requests=4000), Limits(max_requests=100), 30, id="by GOAWAY"),
    ],
)
async def test_no_call_is_lost_when_connections_are_replaced(
    calls: int, own: H2Limits, servers: Limits, connections: int
) -> None:
    ports = set()

    async def greet(stream: Any) -> None:
        ports.add(stream.peer.addr()[1])
        request = await stream.recv_message()
        await stream.send_message(SayHelloResponse(resp=request.name))

    async with (
        serving(Greeter(unary=greet), limits=servers, patience=300) as server,
        connect(server.url, h2_limits=own) as channel,
        trio.open_nursery() as nursery,
    ):
        left = iter(range(calls))
        answers = set()

        async def caller() -> None:
            for n in left:
                reply = await channel.unary(SAY_HELLO, SayHelloRequest(name=str(n)))
                answers.add(int(reply.message.resp))

        for _ in range(32):
            nursery.start_soon(caller)
    assert answers == set(range(calls))
    assert len(ports) >= connections


# The server's limits


def settings(**values: int) -> bytes:
    """A SETTINGS frame (section 6.5), which zttp sends only at the beginning."""
    numbers = {"max_concurrent_streams": 3, "initial_window_size": 4}
    body = b"".join(
        numbers[name].to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in values.items()
    )
    return len(body).to_bytes(3, "big") + b"\4\0\0\0\0\0" + body


async def test_no_more_streams_are_open_than_the_server_allows() -> None:
    server = ScriptedServer()
    async with server.channel() as channel, trio.open_nursery() as nursery:
        first = ask(nursery, channel)
        script = await server.accept()
        await script.flush()
        await script.stream.send_all(settings(max_concurrent_streams=2))
        await answer_whole(script)
        assert await first.answer() == "fine"

        waiting = [ask(nursery, channel) for _ in range(5)]
        await trio.testing.wait_all_tasks_blocked()
        opened = [await script.next(Request) for _ in range(2)]
        with trio.move_on_after(0) as nothing:
            await script.next(Request)
        assert nothing.cancelled_caught

        # Each answer, whatever it is, lets another call in; and so does a larger limit.
        script.answer(opened[0].stream_id, SayHelloResponse(resp="fine"))
        script.engine.stream(opened[1].stream_id).reset(H2ErrorCode.CANCEL)
        await script.flush()
        opened = [await script.next(Request) for _ in range(2)]
        await script.stream.send_all(settings(max_concurrent_streams=3))
        opened.append(await script.next(Request))
        for request in opened:
            script.answer(request.stream_id, SayHelloResponse(resp="fine"))
        await script.flush()
        results = []
        for call in waiting:
            try:
                results.append(await call.answer())
            except GRPCError as error:
                results.append(error.status.name)
        assert sorted(results) == ["CANCELLED", "fine", "fine", "fine", "fine"]


async def test_calls_that_wait_for_a_stream_follow_to_the_next_connection() -> None:
    server = ScriptedServer()
    async with server.channel() as channel, trio.open_nursery() as nursery:
        old = ask(nursery, channel)
        first = await server.accept()
        request = await first.next(Request)
        await first.stream.send_all(settings(max_concurrent_streams=1))
        await trio.testing.wait_all_tasks_blocked()
        waiting = [ask(nursery, channel) for _ in range(3)]
        await trio.testing.wait_all_tasks_blocked()
        first.engine.goaway(request.stream_id)
        await first.flush()
        second = await server.accept()
        for _ in range(3):
            await answer_whole(second)
        assert [await call.answer() for call in waiting] == ["fine"] * 3
        first.answer(request.stream_id, SayHelloResponse(resp="late"))
        await first.flush()
        assert await old.answer() == "late"


async def test_a_waiting_call_that_is_cancelled_leaves_its_place_to_the_next() -> None:
    server = ScriptedServer()
    async with server.channel() as channel, trio.open_nursery() as nursery:
        busy = ask(nursery, channel)
        script = await server.accept()
        request = await script.next(Request)
        await script.stream.send_all(settings(max_concurrent_streams=1))
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as impatient:
            ask(impatient, channel)
            await trio.testing.wait_all_tasks_blocked()
            patient = ask(nursery, channel)
            await trio.testing.wait_all_tasks_blocked()
            impatient.cancel_scope.cancel()
        script.answer(request.stream_id, SayHelloResponse(resp="fine"))
        await script.flush()
        await answer_whole(script)
        assert [await busy.answer(), await patient.answer()] == ["fine", "fine"]


# A server that misbehaves


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="HTTP/1.1"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="SSH"),
        pytest.param(bytes(100), id="zeros"),
        pytest.param(b"\0\0\4\7\0\0\0\0\0abcd", id="GOAWAY too short"),
    ],
)
async def test_what_is_not_http_2_ends_the_connection(words: bytes) -> None:
    server = ScriptedServer()
    async with server.channel() as channel, trio.open_nursery() as nursery:
        asked = start(nursery, lambda: client_stream(channel))
        script = await server.accept()
        await script.stream.send_all(words)
        await script.hang_up()
        with pytest.raises(ConnectionLost, match=r"server\.test (sent what is not HTTP/2|closed)"):
            await asked.answer()


async def test_a_server_that_ignores_the_window_is_stopped() -> None:
    server = ScriptedServer()
    limits = H2Limits(stream_window=65535)
    async with server.channel(limits=limits) as channel, channel.bidi(GREET_BIDI_STREAM) as talk:
        script = await server.accept()
        request = await script.next(Request)
        script.head(request.stream_id)
        await script.flush()
        await talk.recv_initial_metadata()
        # Nobody receives. The prefix of a message of 2 MiB, and then its bytes.
        message = (5 + 16379).to_bytes(3, "big") + b"\0\0" + request.stream_id.to_bytes(4, "big")
        message += b"\0" + (2 << 20).to_bytes(4, "big") + bytes(16379)
        frame = (16384).to_bytes(3, "big") + b"\0\0" + request.stream_id.to_bytes(4, "big") + bytes(16384)
        await script.stream.send_all(message + 50 * frame)
        reset = await script.next(RstStream)
        assert (reset.stream_id, reset.error_code) == (request.stream_id, H2ErrorCode.FLOW_CONTROL_ERROR)
        with pytest.raises(GRPCError, match="FLOW_CONTROL_ERROR"):
            await talk.recv()
