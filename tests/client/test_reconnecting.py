"""Connections that break, servers that go and come back: what is tried again, and what is not."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.client import CannotReach, Channel, ConnectionLost, connect
from fawa.net.engine import Request
from fawa.proto.greet.v1.greet_pb2 import (
    GreetClientStreamRequest,
    GreetStreamRequest,
    GreetStreamResponse,
    SayHelloRequest,
    SayHelloResponse,
)
from tests.client.asking import ask, start
from tests.client.greet import GREET_CLIENT_STREAM, GREET_STREAM, SAY_HELLO, Greeter
from tests.client.server import ScriptedServer, serving


async def greet(channel: Channel) -> str:
    return (await channel.unary(SAY_HELLO, SayHelloRequest(name="Ada"))).message.resp


async def collect(channel: Channel) -> str:
    async with channel.client_stream(GREET_CLIENT_STREAM) as many:
        await many.send(GreetClientStreamRequest(name="Ada"))
        return (await many.reply()).summary


async def answer_next(server: ScriptedServer, text: str = "fine") -> None:
    script = await server.accept()
    request = await script.next(Request)
    script.answer(request.stream_id, SayHelloResponse(resp=text))
    await script.flush()
    await script.hang_up()


# A connection that breaks during a call


async def test_a_call_without_side_effects_is_made_again() -> None:
    server = ScriptedServer()
    async with server.channel() as channel, trio.open_nursery() as nursery:
        asked = ask(nursery, channel)
        first = await server.accept()
        await first.next(Request)
        await first.hang_up()
        await answer_next(server)
        assert await asked.answer() == "fine"


async def test_it_is_made_again_only_once() -> None:
    server = ScriptedServer()
    async with server.channel() as channel, trio.open_nursery() as nursery:
        asked = ask(nursery, channel)
        for _ in range(2):
            script = await server.accept()
            await script.next(Request)
            await script.hang_up()
        with pytest.raises(ConnectionLost, match="closed the connection"):
            await asked.answer()
        assert server.dialled == 2


async def test_a_call_that_may_have_acted_is_not_made_again() -> None:
    server = ScriptedServer()
    async with server.channel() as channel, trio.open_nursery() as nursery:
        asked = start(nursery, lambda: collect(channel))
        script = await server.accept()
        await script.next(Request)
        await script.hang_up()
        with pytest.raises(ConnectionLost) as caught:
            await asked.answer()
        assert caught.value.status is Status.UNAVAILABLE
        assert server.dialled == 1


async def test_messages_that_came_before_the_break_are_given_out() -> None:
    server = ScriptedServer()
    async with server.channel() as channel, trio.open_nursery() as nursery:

        async def serve() -> None:
            script = await server.accept()
            request = await script.next(Request)
            script.head(request.stream_id)
            script.message(request.stream_id, GreetStreamResponse(part="one"))
            await script.flush()
            await script.hang_up()

        nursery.start_soon(serve)
        async with channel.server_stream(GREET_STREAM, GreetStreamRequest()) as parts:
            first = await parts.recv()
            assert first is not None
            assert first.part == "one"
            for _ in range(2):
                with pytest.raises(ConnectionLost):
                    await parts.recv()


async def test_places_of_connections_that_could_not_be_made_are_free_again() -> None:
    server = ScriptedServer()
    server.down = True
    async with server.channel("connect", http="1.1", most=1) as channel:
        for _ in range(3):
            with pytest.raises(CannotReach):
                await greet(channel)


@pytest.mark.parametrize(("dialect", "http"), [("grpc", "2"), ("connect", "2"), ("connect", "1.1")])
async def test_a_server_that_dies_ends_every_call(dialect: Any, http: Any) -> None:
    hanging = trio.Event()
    waiting = 0

    async def hang(stream: Any) -> None:
        nonlocal waiting
        waiting += 1
        if waiting == 5:
            hanging.set()
        await trio.sleep_forever()

    failed: list[GRPCError] = []

    async def call(channel: Channel) -> None:
        with pytest.raises(GRPCError) as caught:
            await collect(channel)
        failed.append(caught.value)

    async with serving(Greeter(client_stream=hang)) as server:
        url = server.url
        async with connect(url, dialect=dialect, http=http) as channel:
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(call, channel)
                with trio.fail_after(30):
                    await hanging.wait()
                await server.stop()
            assert [error.status for error in failed] == [Status.UNAVAILABLE] * 5
            # It is missed for a while, and then given up.
            with pytest.raises(CannotReach, match=f"cannot reach {url}: connection refused"):
                await greet(channel)


# A server that is away


async def test_a_server_that_was_never_there_fails_calls_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer()
    server.down = True
    async with server.channel() as channel:
        for attempt in range(1, 4):
            with pytest.raises(CannotReach, match="cannot reach") as caught:
                await greet(channel)
            assert caught.value.status is Status.UNAVAILABLE
            assert server.dialled == attempt
    assert trio.current_time() == 0


async def test_calls_that_wait_for_one_connection_share_its_failure(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Slow(ScriptedServer):
        async def dial(self) -> trio.abc.Stream:
            await trio.sleep(3)
            return await super().dial()

    server = Slow()
    server.down = True
    async with server.channel() as channel, trio.open_nursery() as nursery:
        calls = [ask(nursery, channel) for _ in range(10)]
        for call in calls:
            with pytest.raises(CannotReach):
                await call.answer()
        assert server.dialled == 1
    assert trio.current_time() == 3


async def test_a_caller_that_gives_up_dialling_leaves_it_to_the_next(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Slow(ScriptedServer):
        async def dial(self) -> trio.abc.Stream:
            await trio.sleep(3)
            return await super().dial()

    server = Slow()
    async with server.channel() as channel, trio.open_nursery() as nursery:
        async with trio.open_nursery() as impatient:
            ask(impatient, channel)
            await trio.testing.wait_all_tasks_blocked()
            patient = ask(nursery, channel)
            await trio.sleep(1)
            impatient.cancel_scope.cancel()
        await answer_next(server)
        assert await patient.answer() == "fine"


async def test_a_server_that_was_there_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer()
    async with server.channel() as channel, trio.open_nursery() as nursery:
        first = ask(nursery, channel)
        await answer_next(server)
        assert await first.answer() == "fine"
        await trio.testing.wait_all_tasks_blocked()

        server.down = True
        second = ask(nursery, channel)
        await trio.sleep(0.7)
        server.down = False
        back = trio.current_time()
        await answer_next(server, "back")
        assert await second.answer() == "back"
        # The longest pause is the last one, of 0.8 s.
        assert trio.current_time() - back <= 0.8


async def test_it_is_not_waited_for_long(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer()
    async with server.channel() as channel, trio.open_nursery() as nursery:
        first = ask(nursery, channel)
        await answer_next(server)
        await first.answer()
        await trio.testing.wait_all_tasks_blocked()

        server.down = True
        away = trio.current_time()
        with pytest.raises(CannotReach):
            await greet(channel)
        # Five tries, with pauses of 0.1, 0.2, 0.4 and 0.8 s of which chance takes up to half.
        assert server.dialled == 1 + 5
        assert 0.75 <= trio.current_time() - away <= 1.5

        # From then on nobody waits for it.
        gone = trio.current_time()
        with pytest.raises(CannotReach):
            await greet(channel)
        assert (server.dialled, trio.current_time()) == (7, gone)

        server.down = False
        again = ask(nursery, channel)
        await answer_next(server, "back")
        assert await again.answer() == "back"


async def test_a_restarted_server_is_found_again() -> None:
    async with serving(Greeter()) as server:
        port = int(server.endpoint.address.rpartition(":")[2])
        async with connect(server.url) as channel:
            assert await greet(channel) == "Hello, Ada!"
            await server.stop()
            async with serving(Greeter(), port=port):
                assert await greet(channel) == "Hello, Ada!"
