"""HTTP/3 connections of a client, over a network in memory that loses, reorders and duplicates."""

from __future__ import annotations

import base64
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.client import CannotReach, Channel, ConnectionLost
from fawa.client.errors import Refused
from fawa.client.wire import HIGH_WATER
from fawa.net.connection import Limits
from fawa.net.quic_client import QuicTrust
from fawa.net.quic_engine import ErrorCode
from fawa.net.quic_packets import QuicLimits
from fawa.net.tls import Certificate
from fawa.proto.greet.v1.greet_pb2 import (
    GreetBidiStreamRequest,
    GreetClientStreamRequest,
    GreetClientStreamResponse,
    GreetStreamRequest,
    GreetStreamResponse,
    SayHelloRequest,
    SayHelloResponse,
)
from tests.client.asking import ask, start
from tests.client.greet import (
    GREET_BIDI_STREAM,
    GREET_CLIENT_STREAM,
    GREET_STREAM,
    SAY_HELLO,
    Greeter,
    use_all,
)
from tests.client.quic_server import ROUGH, Quic, quic, scripted
from tests.net.quic_talk import Weather, certificate

Clock = trio.testing.MockClock

WINDOW = 200_000
SIZE = 50_000
#: What compression cannot make much smaller: it is base64, which has 6 bits in 8.
PART = GreetStreamResponse(part=base64.b64encode(random.Random(1).randbytes(SIZE * 3 // 4)).decode())


@pytest.fixture(scope="module")
def cert(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("tls"))


def nothing_left(there: Quic) -> None:
    """See that what exchanges took has been given back."""
    for client in there.clients:
        assert client._exchanges == {}
        assert client._promised == 0
        assert client.engine.quic.held == {}
        if not client.lost:
            assert client.engine._deaf == set()
            # Only the three streams of either side that are there for the whole connection.
            assert len(client.engine.quic._streams) <= 6
            assert len(client.engine.h3._stream) <= 6


# Calls


@pytest.mark.parametrize("dialect", ["grpc", "connect", "grpc-web", "connect-json"])
@pytest.mark.parametrize("weather", [Weather(), ROUGH], ids=["calm", "rough"])
async def test_all_four_kinds(
    autojump_clock: Clock, cert: Certificate, dialect: str, weather: Weather, seed: int
) -> None:
    async with quic(cert, Greeter(), weather=weather, seed=seed) as there:
        async with there.channel(dialect) as channel, trio.open_nursery() as users:
            for _ in range(3):
                users.start_soon(use_all, channel)
        assert len(there.clients) == 1
        nothing_left(there)


async def test_nothing_grows_with_the_number_of_calls(autojump_clock: Clock, cert: Certificate) -> None:
    async with quic(cert, Greeter(), limits=Limits(max_streams=4)) as there, there.channel() as channel:
        for n in range(300):
            if n % 3:
                assert await ask_now(channel) == "Hello, Ada!"
            else:
                async with channel.bidi(GREET_BIDI_STREAM) as talk:
                    await talk.send(GreetBidiStreamRequest(name="x"))
        await trio.sleep(5)
        nothing_left(there)
        assert len(there.clients) == 1


async def ask_now(channel: Channel, name: str = "Ada") -> str:
    return (await channel.unary(SAY_HELLO, SayHelloRequest(name=name))).message.resp


# Deadlines and cancellation


async def test_a_deadline_ends_the_call_on_both_sides(autojump_clock: Clock, cert: Certificate) -> None:
    async with scripted(cert) as there, there.channel() as channel, trio.open_nursery() as nursery:
        asked = start(nursery, lambda: channel.unary(SAY_HELLO, SayHelloRequest(), timeout=2))
        script = await there.next()
        assert dict(script.exchange.headers)[b"grpc-timeout"]
        began = trio.current_time()
        with pytest.raises(GRPCError, match="longer than 2 s") as caught:
            await asked.answer()
        assert caught.value.status is Status.DEADLINE_EXCEEDED
        assert trio.current_time() - began < 2.1
        await trio.sleep(1)
        assert not script.exchange.is_live
        nothing_left(there)


async def test_leaving_the_block_cancels_the_handler(autojump_clock: Clock, cert: Certificate) -> None:
    async def wait(stream: Any) -> None:
        await stream.recv_message()
        await trio.sleep_forever()

    greeter = Greeter(bidi=wait)
    async with quic(cert, greeter) as there, there.channel() as channel:
        async with channel.bidi(GREET_BIDI_STREAM) as talk:
            await talk.send(GreetBidiStreamRequest(name="x" * 300_000))
            while not greeter.begun:
                await trio.sleep(0.1)
        with trio.fail_after(1):
            await greeter.until_ended(1)
        assert await ask_now(channel) == "Hello, Ada!"
        await trio.sleep(1)
        nothing_left(there)


# Resets


@pytest.mark.parametrize(
    ("code", "status", "word"),
    [
        (ErrorCode.H3_REQUEST_CANCELLED, Status.CANCELLED, "H3_REQUEST_CANCELLED"),
        (ErrorCode.H3_EXCESSIVE_LOAD, Status.RESOURCE_EXHAUSTED, "H3_EXCESSIVE_LOAD"),
        (ErrorCode.H3_INTERNAL_ERROR, Status.INTERNAL, "H3_INTERNAL_ERROR"),
        (ErrorCode.H3_NO_ERROR, Status.INTERNAL, "H3_NO_ERROR"),
        (0x1234567, Status.INTERNAL, "0x1234567"),
    ],
)
async def test_what_a_reset_means(
    autojump_clock: Clock, cert: Certificate, code: int, status: Status, word: str
) -> None:
    async with scripted(cert) as there, there.channel() as channel, trio.open_nursery() as nursery:
        asked = ask(nursery, channel)
        (await there.next()).reset(code)
        with pytest.raises(GRPCError, match=word) as caught:
            await asked.answer()
        assert caught.value.status is status
        asked = ask(nursery, channel)
        (await there.next()).answer(SayHelloResponse(resp="fine"))
        assert await asked.answer() == "fine"
        assert len(there.clients) == 1


async def test_a_refused_call_is_made_once_more(autojump_clock: Clock, cert: Certificate) -> None:
    async with scripted(cert) as there, there.channel() as channel, trio.open_nursery() as nursery:
        asked = ask(nursery, channel)
        (await there.next()).reset(ErrorCode.H3_REQUEST_REJECTED)
        (await there.next()).answer(SayHelloResponse(resp="fine"))
        assert await asked.answer() == "fine"
        asked = ask(nursery, channel)
        for _ in range(2):
            (await there.next()).reset(ErrorCode.H3_REQUEST_REJECTED)
        with pytest.raises(Refused):
            await asked.answer()


async def test_an_early_answer_is_no_error(autojump_clock: Clock, cert: Certificate) -> None:
    """The server answers before the request is whole, and then wants no more of it."""
    async with scripted(cert) as there, there.channel() as channel, trio.open_nursery() as nursery:

        async def collect() -> str:
            async with channel.client_stream(GREET_CLIENT_STREAM) as many:
                for _ in range(100):
                    await many.send(GreetClientStreamRequest(name="x" * SIZE))
                return (await many.reply()).summary

        asked = start(nursery, collect)
        (await there.next()).answer(GreetClientStreamResponse(summary="enough"))
        assert await asked.answer() == "enough"
        await trio.sleep(1)
        nothing_left(there)


@pytest.mark.parametrize("seed", range(8))
async def test_an_early_answer_that_is_overtaken(autojump_clock: Clock, cert: Certificate, seed: int) -> None:
    """STOP_SENDING comes before the response that it is about."""
    weather = Weather(loss=0.3, reorder=0.5)
    async with (
        scripted(cert, weather=weather, seed=seed) as there,
        there.channel() as channel,
        trio.open_nursery() as nursery,
    ):

        async def collect() -> str:
            async with channel.client_stream(GREET_CLIENT_STREAM) as many:
                await many.send(GreetClientStreamRequest(name="x"))
                while not answered.is_set():
                    await trio.sleep(0.01)
                    await many.send(GreetClientStreamRequest(name="x"))
                return (await many.reply()).summary

        answered = trio.Event()
        asked = start(nursery, collect)
        (await there.next()).answer(GreetClientStreamResponse(summary="y" * 10_000))
        await trio.sleep(0.1)
        answered.set()
        assert await asked.answer() == "y" * 10_000


async def test_a_response_that_ends_before_it_began(autojump_clock: Clock, cert: Certificate) -> None:
    async with scripted(cert) as there, there.channel() as channel, trio.open_nursery() as nursery:
        asked = ask(nursery, channel)
        script = await there.next()
        script.exchange.conn.engine.send_raw(script.exchange.id, b"", end=True)
        script.exchange.conn.wake()
        with pytest.raises(GRPCError, match="before it began") as caught:
            await asked.answer()
        assert caught.value.status is Status.INTERNAL
        script.reset(0)


async def test_a_malformed_response_costs_its_call_alone(autojump_clock: Clock, cert: Certificate) -> None:
    async with scripted(cert) as there, there.channel() as channel, trio.open_nursery() as nursery:
        asked = ask(nursery, channel)
        script = await there.next()
        script.exchange.conn.engine.send_headers(script.exchange.id, [(b":status", b"abc")])
        script.exchange.conn.wake()
        with pytest.raises(GRPCError, match="H3_MESSAGE_ERROR"):
            await asked.answer()
        script.reset(0)
        asked = ask(nursery, channel)
        (await there.next()).answer(SayHelloResponse(resp="fine"))
        assert await asked.answer() == "fine"
        assert len(there.clients) == 1


async def test_interim_responses_are_passed_over(autojump_clock: Clock, cert: Certificate) -> None:
    async with scripted(cert) as there, there.channel() as channel, trio.open_nursery() as nursery:
        asked = ask(nursery, channel)
        script = await there.next()
        script.exchange.conn.engine.send_headers(script.exchange.id, [(b":status", b"103"), (b"link", b"x")])
        script.answer(SayHelloResponse(resp="fine"))
        assert await asked.answer() == "fine"


# GOAWAY


async def test_after_goaway_open_calls_finish_and_new_ones_go_elsewhere(
    autojump_clock: Clock, cert: Certificate
) -> None:
    async with scripted(cert) as there, there.channel() as channel, trio.open_nursery() as nursery:
        first = ask(nursery, channel)
        script = await there.next()
        there.links[0].h3.start_drain()
        await trio.sleep(1)
        second = ask(nursery, channel)
        (await there.next()).answer(SayHelloResponse(resp="elsewhere"))
        assert await second.answer() == "elsewhere"
        assert len(there.clients) == 2
        script.answer(SayHelloResponse(resp="fine"))
        assert await first.answer() == "fine"
        await trio.sleep(1)
        assert there.clients[0].lost
        assert not there.clients[1].lost
        assert len(there.links) == 1


async def test_calls_that_goaway_leaves_out_are_made_on_a_new_connection(
    autojump_clock: Clock, cert: Certificate
) -> None:
    async with scripted(cert) as there, there.channel() as channel, trio.open_nursery() as nursery:
        asked = [ask(nursery, channel) for _ in range(3)]
        scripts = sorted([await there.next() for _ in range(3)], key=lambda script: script.exchange.id)
        there.links[0].engine.goaway(scripts[1].exchange.id)
        scripts[0].answer(SayHelloResponse(resp="fine"))
        for _ in range(2):
            (await there.next()).answer(SayHelloResponse(resp="fine"))
        assert [await one.answer() for one in asked] == ["fine"] * 3
        assert len(there.clients) == 2
        for script in scripts[1:]:
            script._done.set()
        await trio.sleep(1)
        nothing_left(there)


async def test_a_drained_connection_that_rests_is_closed(autojump_clock: Clock, cert: Certificate) -> None:
    async with quic(cert, Greeter()) as there, there.channel() as channel:
        assert await ask_now(channel) == "Hello, Ada!"
        there.links[0].h3.start_drain()
        await trio.sleep(1)
        assert there.clients[0].lost
        assert there.links == []


@pytest.mark.parametrize("frame", [b"\x07\x01\x02", b"\x07\x01\x04\x07\x01\x08", b"\x07\x00"])
async def test_goaway_that_makes_no_sense_ends_the_connection(
    autojump_clock: Clock, cert: Certificate, frame: bytes
) -> None:
    async with scripted(cert) as there, there.channel() as channel, trio.open_nursery() as nursery:
        asked = ask(nursery, channel)
        await there.next()
        link = there.links[0]
        link.engine.send_raw(3, frame)  # the control stream
        link.h3.wake()
        # The call has no side effects, so it is made again; but not for ever.
        (await there.next()).answer(SayHelloResponse(resp="fine"))
        assert await asked.answer() == "fine"
        assert there.clients[0].engine.over
        assert len(there.clients) == 2


# The server's limit of streams


async def test_no_more_streams_are_open_than_the_server_allows(
    autojump_clock: Clock, cert: Certificate
) -> None:
    async with scripted(cert, limits=Limits(max_streams=3)) as there:
        async with there.channel() as channel, trio.open_nursery() as nursery:
            asked = [ask(nursery, channel, str(n)) for n in range(10)]
            for n in range(10):
                script = await there.next()
                await trio.sleep(1)
                assert len(there.links[0].h3.exchanges) <= 3
                assert not there.clients[0].engine.quic._streams_blocked_bidi
                script.answer(SayHelloResponse(resp=str(n)))
            assert sorted([await one.answer() for one in asked]) == [str(n) for n in range(10)]
        assert len(there.clients) == 1


async def test_calls_that_wait_for_a_stream_follow_to_the_next_connection(
    autojump_clock: Clock, cert: Certificate
) -> None:
    async with (
        scripted(cert, limits=Limits(max_streams=1)) as there,
        there.channel() as channel,
        trio.open_nursery() as nursery,
    ):
        first = ask(nursery, channel)
        script = await there.next()
        second = ask(nursery, channel)
        await trio.sleep(1)
        there.links[0].h3.start_drain()
        (await there.next()).answer(SayHelloResponse(resp="second"))
        assert await second.answer() == "second"
        script.answer(SayHelloResponse(resp="first"))
        assert await first.answer() == "first"


async def test_a_waiting_call_that_is_cancelled_leaves_its_place_to_the_next(
    autojump_clock: Clock, cert: Certificate
) -> None:
    async with (
        scripted(cert, limits=Limits(max_streams=1)) as there,
        there.channel() as channel,
        trio.open_nursery() as nursery,
    ):
        first = ask(nursery, channel)
        script = await there.next()
        with trio.move_on_after(1):
            await ask_now(channel)
        second = ask(nursery, channel)
        await trio.sleep(1)
        script.answer(SayHelloResponse(resp="first"))
        (await there.next()).answer(SayHelloResponse(resp="second"))
        assert [await first.answer(), await second.answer()] == ["first", "second"]


# Backpressure

LIMITS = QuicLimits(max_streams=0, stream_window=WINDOW, connection_window=2 * WINDOW)


async def test_a_client_that_does_not_receive_stops_the_server(
    autojump_clock: Clock, cert: Certificate
) -> None:
    sent = 0

    async def pour(stream: Any) -> None:
        nonlocal sent
        await stream.recv_message()
        for _ in range(100):
            await stream.send_message(PART)
            sent += 1

    async with (
        quic(cert, Greeter(server_stream=pour)) as there,
        there.channel(limits=LIMITS) as channel,
        channel.server_stream(GREET_STREAM, GreetStreamRequest()) as parts,
    ):
        await parts.recv_initial_metadata()
        await trio.sleep(20)
        (exchange,) = there.clients[0]._exchanges.values()
        assert WINDOW - SIZE <= exchange.buffered <= WINDOW
        for taken in range(1, 101):
            assert await parts.recv() == PART
            await trio.sleep(1)
            assert exchange.buffered <= WINDOW
            assert sent - taken <= (WINDOW + HIGH_WATER) / (SIZE * 3 / 4) + 2
        assert await parts.recv() is None


async def test_streams_that_nobody_receives_do_not_stop_others(
    autojump_clock: Clock, cert: Certificate
) -> None:
    async def pour(stream: Any) -> None:
        await stream.recv_message()
        while True:
            await stream.send_message(PART)

    async with (
        quic(cert, Greeter(server_stream=pour)) as there,
        there.channel(limits=LIMITS) as channel,
        trio.open_nursery() as nursery,
    ):

        async def neglect() -> None:
            async with channel.server_stream(GREET_STREAM, GreetStreamRequest()) as parts:
                await parts.recv_initial_metadata()
                await trio.sleep_forever()

        # Ten times a stream's window is five times the connection's.
        for _ in range(10):
            nursery.start_soon(neglect)
        await trio.sleep(20)
        assert await ask_now(channel, "x" * 100_000) == "Hello, " + "x" * 100_000 + "!"
        nursery.cancel_scope.cancel()


async def test_a_server_that_does_not_read_stops_the_sender(autojump_clock: Clock, cert: Certificate) -> None:
    sent = 0
    go_on = trio.Event()

    async def stop(stream: Any) -> None:
        await go_on.wait()
        async for _ in stream:
            pass
        await stream.send_message(GreetClientStreamResponse(summary="all"))

    async with (
        quic(cert, Greeter(client_stream=stop)) as there,
        there.channel() as channel,
        trio.open_nursery() as nursery,
    ):

        async def send() -> str:
            nonlocal sent
            async with channel.client_stream(GREET_CLIENT_STREAM) as many:
                for _ in range(200):
                    await many.send(GreetClientStreamRequest(name="x" * SIZE))
                    sent += 1
                return (await many.reply()).summary

        asked = start(nursery, send)
        await trio.sleep(20)
        window = there.links[0].engine.limits.stream_window
        assert window < (sent + 1) * SIZE < window + HIGH_WATER + 2 * SIZE
        go_on.set()
        assert await asked.answer() == "all"


# Loss of the connection


async def test_a_server_that_falls_silent(autojump_clock: Clock, cert: Certificate) -> None:
    async with scripted(cert) as there, there.channel() as channel, trio.open_nursery() as nursery:

        async def collect() -> None:
            async with channel.client_stream(GREET_CLIENT_STREAM) as many:
                await many.reply()

        asked = start(nursery, collect)
        script = await there.next()
        there.cut()
        began = trio.current_time()
        with pytest.raises(ConnectionLost, match="Idle timeout"):
            await asked.answer()
        # The silence that ends it is counted from the first probe without an answer.
        assert 29 < trio.current_time() - began < 42
        script._done.set()


async def test_a_connection_on_which_nothing_happens_lives_on(
    autojump_clock: Clock, cert: Certificate
) -> None:
    async with scripted(cert) as there, there.channel() as channel, trio.open_nursery() as nursery:
        asked = ask(nursery, channel)
        script = await there.next()
        await trio.sleep(1000)
        script.answer(SayHelloResponse(resp="late"))
        assert await asked.answer() == "late"
        await trio.sleep(1000)
        asked = ask(nursery, channel)
        (await there.next()).answer(SayHelloResponse(resp="later"))
        assert await asked.answer() == "later"
        assert len(there.clients) == 1


async def test_a_server_that_has_forgotten_the_connection_says_so(
    autojump_clock: Clock, cert: Certificate
) -> None:
    async with scripted(cert) as there, there.channel() as channel, trio.open_nursery() as nursery:
        asked = ask(nursery, channel)
        (await there.next()).answer(SayHelloResponse(resp="fine"))
        assert await asked.answer() == "fine"
        # As after a restart that nobody was told of.
        there.there.listener._forget(there.links[0])
        began = trio.current_time()
        asked = ask(nursery, channel)
        (await there.next()).answer(SayHelloResponse(resp="again"))
        assert await asked.answer() == "again"
        assert trio.current_time() - began < 1
        assert "does not know it any more" in there.clients[0]._reason()


async def test_a_server_that_closes_the_connection(autojump_clock: Clock, cert: Certificate) -> None:
    async with scripted(cert) as there, there.channel() as channel, trio.open_nursery() as nursery:

        async def collect() -> None:
            async with channel.client_stream(GREET_CLIENT_STREAM) as many:
                await many.reply()

        asked = start(nursery, collect)
        script = await there.next()
        there.links[0].engine.close(ErrorCode.H3_INTERNAL_ERROR, "out of luck")
        there.links[0].h3.wake()
        with pytest.raises(ConnectionLost, match="localhost broke: out of luck"):
            await asked.answer()
        script._done.set()


async def test_closing_the_channel_ends_open_calls_and_tells_the_server(
    autojump_clock: Clock, cert: Certificate
) -> None:
    async with scripted(cert) as there, trio.open_nursery() as nursery:
        async with there.channel() as channel:
            asked = start(nursery, partial(collect_nothing, channel))
            await there.next()
        with pytest.raises(ConnectionLost, match="closed on this side"):
            await asked.answer()
        await trio.sleep(1)
        assert there.links == []


@pytest.mark.parametrize("frame", [b"\x00\x01x", b"\x04\x00"])
async def test_what_is_not_http_3_ends_the_connection(
    autojump_clock: Clock, cert: Certificate, frame: bytes
) -> None:
    async with scripted(cert) as there, there.channel() as channel, trio.open_nursery() as nursery:
        asked = start(nursery, lambda: collect_nothing(channel))
        await there.next()
        link = there.links[0]
        link.engine.send_raw(3, frame)  # the control stream
        link.h3.wake()
        with pytest.raises(ConnectionLost, match="broke: "):
            await asked.answer()


async def collect_nothing(channel: Channel) -> None:
    async with channel.client_stream(GREET_CLIENT_STREAM) as many:
        await many.reply()


# No connection


async def test_certificates_that_are_not_trusted(
    autojump_clock: Clock, cert: Certificate, tmp_path: Path
) -> None:
    other = certificate(tmp_path)
    trusts: list[tuple[str, QuicTrust, str]] = [
        ("localhost", QuicTrust(str(other.path), None), r"not trusted \(self-signed certificate\)"),
        (
            "example.org",
            QuicTrust(str(cert.path), None),
            r"not trusted \(hostname 'example\.org' doesn't match",
        ),
        (
            "192.0.2.7",
            QuicTrust(str(cert.path), None),
            r"not trusted \(hostname '192\.0\.2\.7' doesn't match",
        ),
    ]
    async with quic(cert, Greeter()) as there:
        for host, trust, complaint in trusts:
            began = trio.current_time()
            with pytest.raises(CannotReach, match=complaint):
                await there.dial(there.dialer(host, trust))
            assert trio.current_time() - began < 1
        await trio.sleep(1)
        # The server has been told why, and keeps nothing.
        assert there.links == []


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
async def test_names_and_addresses_of_the_certificate(
    autojump_clock: Clock, cert: Certificate, host: str
) -> None:
    async with quic(cert, Greeter()) as there:
        client = await there.dial(there.dialer(host))
        assert client.is_usable
        client.leave()


async def test_any_certificate_is_accepted_on_demand(autojump_clock: Clock, cert: Certificate) -> None:
    async with quic(cert, Greeter()) as there:
        client = await there.dial(there.dialer("example.org", QuicTrust(None, None, verify=False)))
        assert client.is_usable
        client.leave()


@pytest.mark.parametrize("seed", range(3))
async def test_a_handshake_in_bad_weather(autojump_clock: Clock, cert: Certificate, seed: int) -> None:
    dark = Weather(loss=0.3, reorder=0.3, duplicate=0.2)
    async with quic(cert, Greeter(), weather=dark, seed=seed) as there, there.channel() as channel:
        assert await ask_now(channel) == "Hello, Ada!"
