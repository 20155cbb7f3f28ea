"""Deadlines and cancellation: whoever has enough is not kept waiting, and the server learns of it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.client import CannotReach, Channel, connect
from fawa.net.engine import H2ErrorCode, Request, RstStream
from fawa.proto.greet.v1.greet_pb2 import (
    GreetBidiStreamRequest,
    GreetClientStreamRequest,
    GreetStreamRequest,
    SayHelloRequest,
    SayHelloResponse,
)
from tests.client.greet import GREET_BIDI_STREAM, GREET_CLIENT_STREAM, GREET_STREAM, SAY_HELLO, Greeter
from tests.client.server import ScriptedServer, serving

Use = Callable[[Channel, float | None], Awaitable[object]]


async def unary(channel: Channel, timeout: float | None) -> None:
    await channel.unary(SAY_HELLO, SayHelloRequest(), timeout=timeout)


async def server_stream(channel: Channel, timeout: float | None) -> None:
    async with channel.server_stream(GREET_STREAM, GreetStreamRequest(), timeout=timeout) as parts:
        await parts.recv()


async def client_stream(channel: Channel, timeout: float | None) -> None:
    async with channel.client_stream(GREET_CLIENT_STREAM, timeout=timeout) as many:
        await many.reply()


async def bidi(channel: Channel, timeout: float | None) -> None:
    async with channel.bidi(GREET_BIDI_STREAM, timeout=timeout) as talk:
        await talk.recv_initial_metadata()


async def sending_to_a_full_window(channel: Channel, timeout: float | None) -> None:
    async with channel.client_stream(GREET_CLIENT_STREAM, timeout=timeout) as many:
        while True:
            await many.send(GreetClientStreamRequest(name="x" * 100_000))


KINDS = [unary, server_stream, client_stream, bidi, sending_to_a_full_window]


@pytest.mark.parametrize("use", KINDS)
async def test_a_silent_server_does_not_hold_a_call_beyond_its_deadline(
    use: Use, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer()
    async with server.channel() as channel, trio.open_nursery() as nursery:

        async def call() -> None:
            began = trio.current_time()
            with pytest.raises(GRPCError, match=r"longer than 7\.5 s") as caught:
                await use(channel, 7.5)
            assert caught.value.status is Status.DEADLINE_EXCEEDED
            assert trio.current_time() - began == 7.5

        nursery.start_soon(call)
        script = await server.accept()
        request = await script.next(Request)
        # The server knew; and it is told that nobody waits any more.
        assert (b"grpc-timeout", b"7500000u") in request.headers
        reset = await script.next(RstStream)
        assert (reset.stream_id, reset.error_code) == (request.stream_id, H2ErrorCode.CANCEL)


@pytest.mark.parametrize("use", KINDS)
async def test_the_way_to_the_server_counts(use: Use, autojump_clock: trio.testing.MockClock) -> None:
    class Unreachable(ScriptedServer):
        async def dial(self) -> trio.abc.Stream:
            await trio.sleep_forever()
            raise AssertionError("it slept for ever")

    async with Unreachable().channel() as channel:
        with pytest.raises(GRPCError, match="longer than 2 s") as caught:
            await use(channel, 2)
        assert caught.value.status is Status.DEADLINE_EXCEEDED


async def test_the_server_is_told_what_remains(autojump_clock: trio.testing.MockClock) -> None:
    class Slow(ScriptedServer):
        async def dial(self) -> trio.abc.Stream:
            await trio.sleep(3)
            return await super().dial()

    server = Slow()
    async with server.channel("connect") as channel, trio.open_nursery() as nursery:
        nursery.start_soon(unary, channel, 10.0)
        script = await server.accept()
        assert (b"connect-timeout-ms", b"7000") in (await script.next(Request)).headers
        nursery.cancel_scope.cancel()


async def test_a_call_without_a_deadline_waits(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer()
    async with server.channel(patience=math.inf) as channel, trio.open_nursery() as nursery:
        nursery.start_soon(unary, channel, None)
        script = await server.accept()
        request = await script.next(Request)
        assert not any(name == b"grpc-timeout" for name, _ in request.headers)
        await trio.sleep(1_000_000)
        script.answer(request.stream_id, SayHelloResponse())
        await script.flush()


@pytest.mark.parametrize("dialect", ["grpc", "grpc-web", "connect", "connect-json"])
async def test_handlers_know_the_deadline(dialect: Any) -> None:
    remaining: list[float] = []

    async def look(stream: Any) -> None:
        remaining.append(stream.deadline.time_remaining())
        await stream.send_message(SayHelloResponse())

    async with serving(Greeter(unary=look)) as server, connect(server.url, dialect=dialect) as channel:
        await channel.unary(SAY_HELLO, SayHelloRequest(), timeout=100)
    assert 0 < remaining[0] <= 100.001


async def test_a_call_whose_deadline_has_passed_stays_ended(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer()
    async with server.channel() as channel, channel.bidi(GREET_BIDI_STREAM, timeout=1) as talk:
        for _ in range(2):
            with pytest.raises(GRPCError) as caught:
                await talk.recv()
            assert caught.value.status in (Status.DEADLINE_EXCEEDED, Status.CANCELLED)
        # The server need not wait until the block ends.
        script = await server.accept()
        request = await script.next(Request)
        assert (await script.next(RstStream)).stream_id == request.stream_id


# Cancellation


@pytest.fixture(params=[("grpc", "2"), ("connect", "1.1")], ids=["HTTP/2", "HTTP/1.1"])
def way(request: pytest.FixtureRequest) -> Any:
    return request.param


async def test_cancelling_a_call_cancels_its_handler() -> None:
    begun = trio.Event()

    async def wait(stream: Any) -> None:
        begun.set()
        await trio.sleep_forever()

    greeter = Greeter(unary=wait)
    async with serving(greeter) as server, connect(server.url) as channel:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(unary, channel, None)
            await begun.wait()
            nursery.cancel_scope.cancel()
        with trio.fail_after(30):
            await greeter.until_ended(1)


async def test_cancelling_a_call_over_http_1_closes_its_connection() -> None:
    server = ScriptedServer()
    async with server.channel("connect", http="1.1") as channel:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(unary, channel, None)
            script = await server.accept()
            await script.stream.receive_some()
            nursery.cancel_scope.cancel()
        assert await script.stream.receive_some() == b""


async def test_leaving_the_block_cancels_the_handler(way: Any) -> None:
    async def for_ever(stream: Any) -> None:
        await stream.recv_message()
        while True:
            await stream.send_message(GREET_STREAM.method.response_type(part="more"))
            await trio.lowlevel.checkpoint()

    greeter = Greeter(server_stream=for_ever)
    async with serving(greeter) as server, connect(server.url, dialect=way[0], http=way[1]) as channel:
        async with channel.server_stream(GREET_STREAM, GreetStreamRequest()) as parts:
            await parts.recv()
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with channel.server_stream(GREET_STREAM, GreetStreamRequest()) as parts:
                await parts.recv()
                raise ZeroDivisionError
        with trio.fail_after(30):
            await greeter.until_ended(2)
        # And the channel goes on.
        assert (await channel.unary(SAY_HELLO, SayHelloRequest(name="Ada"))).message.resp == "Hello, Ada!"


async def test_a_task_that_still_receives_when_the_block_ends_is_told() -> None:
    server = ScriptedServer()
    async with (
        server.channel() as channel,
        trio.open_nursery() as nursery,
        channel.bidi(GREET_BIDI_STREAM) as talk,
    ):

        async def receive() -> None:
            with pytest.raises(GRPCError, match="given up on this side") as caught:
                await talk.recv()
            assert caught.value.status is Status.CANCELLED

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()


async def test_calls_that_are_open_when_the_channel_closes_end(way: Any) -> None:
    dialect, http = way
    server = ScriptedServer()
    async with trio.open_nursery() as nursery:
        async with server.channel(dialect, http=http) as channel:

            async def call() -> None:
                with pytest.raises(GRPCError, match="closed") as caught:
                    await unary(channel, None)
                assert caught.value.status is Status.UNAVAILABLE

            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(CannotReach, match="channel is closed"):
            await unary(channel, None)


async def test_closing_a_channel_does_not_wait_for_a_server_that_takes_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Stuck(ScriptedServer):
        """Its connections take no byte."""

        async def dial(self) -> trio.abc.Stream:
            stream = await super().dial()
            assert isinstance(stream, trio.StapledStream)
            stream.send_stream.send_all_hook = trio.sleep_forever
            return stream

    async with Stuck().channel() as channel, trio.open_nursery() as nursery:
        nursery.start_soon(unary, channel, None)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert trio.current_time() < 5


async def test_what_was_said_last_still_leaves() -> None:
    server = ScriptedServer()
    async with server.channel() as channel, channel.bidi(GREET_BIDI_STREAM) as talk:
        await talk.send(GreetBidiStreamRequest(name="bye"))
    script = await server.accept()
    request = await script.next(Request)
    assert (await script.next(RstStream)).stream_id == request.stream_id
    with pytest.raises(EOFError):
        await script.next(Request)
