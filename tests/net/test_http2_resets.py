"""RST_STREAM, and the end of the connection, at every moment of a call over HTTP/2."""

from __future__ import annotations

import math

import pytest
import trio

from fawa.net.engine import H2ErrorCode
from fawa.net.exchange import Disconnected, Exchange
from fawa.net.http2 import H2Connection
from tests.net.talk import H2Client, Handler, frame, frames, head, line
from tests.net.test_http2 import echo, every_act, tell


async def test_reset_before_the_call_begins() -> None:
    begun: list[str] = []

    async def note(exchange: Exchange) -> None:
        begun.append(exchange.path)
        await echo(exchange)

    async with line(H2Connection, note) as talk:
        client = H2Client()
        for number in range(50):
            stream = client.open(head(f"/{number}"))
            client.h2.send_data(stream, b"abc")
            if number % 10:
                client.h2.reset_stream(stream, H2ErrorCode.CANCEL)
        await client.turn(talk)
        assert begun == ["/0", "/10", "/20", "/30", "/40"]
        assert len(talk.h2.exchanges) == 5
        assert talk.h2._unconsumed == 0


MOMENTS: dict[str, Handler] = {}


def moment(handler: Handler) -> Handler:
    MOMENTS[handler.__name__] = handler
    return handler


@moment
async def while_it_sleeps(exchange: Exchange) -> None:
    await trio.sleep_forever()


@moment
async def while_it_reads(exchange: Exchange) -> None:
    exchange.body_timeout = math.inf
    await exchange.read_all(1000)


@moment
async def while_it_reads_with_a_timeout(exchange: Exchange) -> None:
    await exchange.read_all(1000)


@moment
async def while_the_window_holds_it_back(exchange: Exchange) -> None:
    exchange.start(200, [])
    for _ in range(1000):
        await exchange.send(bytes(10_000))


@moment
async def while_its_answer_waits_for_the_window(exchange: Exchange) -> None:
    exchange.respond(200, [], bytes(200_000))


@moment
async def while_it_cleans_up(exchange: Exchange) -> None:
    try:
        await trio.sleep_forever()
    finally:
        for act in every_act(exchange):
            with pytest.raises(Disconnected):
                act()
        exchange.abort()


@moment
async def when_it_has_sent_all_and_does_something_else(exchange: Exchange) -> None:
    exchange.respond(200, [], b"done")
    await trio.sleep_forever()


@pytest.mark.parametrize("name", MOMENTS)
async def test_a_reset_cancels_its_call_and_no_other(name: str) -> None:
    async def handler(exchange: Exchange) -> None:
        await (echo if exchange.path == "/other" else MOMENTS[name])(exchange)

    async with line(H2Connection, handler) as talk:
        client = H2Client(consumes=False)
        other = client.open(head("/other"))
        streams = [client.open() for _ in range(5)]
        for stream in streams:
            client.h2.send_data(stream, b"abc")
        await client.turn(talk)
        assert set(talk.h2.exchanges) == {other, *streams}
        tasks = len(talk.conn._calls.child_tasks)
        for stream in streams:
            client.h2.reset_stream(stream, H2ErrorCode.CANCEL)
            await client.turn(talk)
            tasks -= 1
            assert len(talk.conn._calls.child_tasks) == tasks
        assert set(talk.h2.exchanges) == {other}
        assert talk.h2._unconsumed == 0
        assert talk.h2.engine.held_streams == []
        # Nothing is said about a stream that its owner has given up.
        client.h2.send_data(other, b"still here", end_stream=True)
        await talk.send(client.to_send())
        assert {stream for kind, _, stream, _ in frames(talk.take()) if kind != 8} == {other}


async def test_a_reset_after_the_answer_is_nothing_new() -> None:
    async with line(H2Connection, tell) as talk:
        client = H2Client()
        stream = client.open(end=True)
        await client.turn(talk)
        await talk.send(frame(3, 0, stream, bytes(4)) * 3)
        other = client.open(end=True)
        await client.turn(talk)
        assert client[other].ended


async def test_the_client_closes_with_calls_under_way() -> None:
    outcome: list[BaseException] = []

    async def wait(exchange: Exchange) -> None:
        try:
            await exchange.read_all(10)
        except BaseException as error:
            outcome.append(error)
            raise

    async with line(H2Connection, wait) as talk:
        client = H2Client()
        for _ in range(3):
            client.open()
        await client.turn(talk)
        await talk.half_close()
        assert talk.ended()
        assert [type(error) for error in outcome] == [trio.Cancelled] * 3


async def test_the_connection_breaks_with_calls_that_send() -> None:
    async def endless(exchange: Exchange) -> None:
        exchange.start(200, [])
        for _ in range(1000):
            await exchange.send(bytes(10_000))

    async with line(H2Connection, endless) as talk:
        client = H2Client()
        for _ in range(3):
            client.open()
        await talk.send(client.to_send())
        await talk.close()
        assert talk.lost() or talk.ended()
    assert talk.h2.exchanges == {}
