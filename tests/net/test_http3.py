"""Requests over HTTP/3 between our listener and aioquic's client, on a network in memory."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import ErrorCode

from fawa.net import tls
from fawa.net.connection import HIGH_WATER, Limits
from fawa.net.exchange import Disconnected, Exchange
from fawa.net.udp import Address
from tests.net.quic_talk import SERVER, Client, Weather, certificate, echo, listening


@pytest.fixture(scope="module")
def cert(tmp_path_factory: pytest.TempPathFactory) -> tls.Certificate:
    return certificate(Path(tmp_path_factory.mktemp("tls")))


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def test_a_request_and_its_answer(cert: tls.Certificate, autojump_clock: trio.abc.Clock) -> None:
    seen: list[Exchange] = []

    async def handler(exchange: Exchange) -> None:
        seen.append(exchange)
        await echo(exchange)

    async with listening(cert, handler) as there:
        client = await there.connect()
        answer = await client.ask("/here?and=now", b"hello")
        assert (answer.status, bytes(answer.body)) == (200, b"hello")
        assert answer.head[b"path"] == b"/here"
        assert answer.head[b"host"] == b"fawa.example"
        assert answer.trailers == {b"size": b"5"}
        [exchange] = seen
        assert (exchange.version, exchange.scheme, exchange.query) == ("3", "https", "and=now")
        assert exchange.peer.startswith("198.51.100.1:")
        assert (exchange.bytes_in, exchange.bytes_out, exchange.status) == (5, 5, 200)


async def test_interim_responses(cert: tls.Certificate, autojump_clock: trio.abc.Clock) -> None:
    async def tell_before(exchange: Exchange) -> None:
        exchange.inform(104, [(b"location", b"/uploads/1")])
        body = await exchange.receive()
        exchange.inform(103, [])
        exchange.respond(200, [], body)

    async with listening(cert, tell_before) as there:
        client = await there.connect()
        number = client.open()
        await client.until(lambda: client[number].head)
        assert client[number].head == {b":status": b"104", b"location": b"/uploads/1"}
        client.send(number, b"hello", end=True)
        await client.until(lambda: client[number].ended)
        answer = client[number]
        assert [head[b":status"] for head in answer.interim] == [b"104", b"103"]
        assert (answer.status, bytes(answer.body)) == (200, b"hello")


@pytest.mark.parametrize("seed", range(4))
async def test_bodies_are_whole_and_ordered_where_the_network_is_bad(
    cert: tls.Certificate, seed: int, autojump_clock: trio.abc.Clock
) -> None:
    weather = Weather(loss=0.05, reorder=0.2, duplicate=0.1)
    async with listening(cert, weather=weather, seed=seed) as there:
        client = await there.connect()
        bodies = [noise(size, seed) for size in (0, 1, 70_000, 400_000)]
        numbers = []
        for body in bodies:
            number = client.open()
            client.send(number, body, end=True)
            numbers.append(number)
        for number, body in zip(numbers, bodies, strict=True):
            await client.until(lambda number=number: client[number].ended)  # type: ignore[misc]
            assert bytes(client[number].body) == body
            assert client[number].trailers == {b"size": b"%d" % len(body)}


async def test_an_application_that_does_not_read_stops_its_own_client_alone(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    go = trio.Event()

    async def handler(exchange: Exchange) -> None:
        if exchange.path == "/slow":
            await go.wait()
        await echo(exchange)

    window = 100_000
    limits = Limits(stream_window=window, connection_window=8 * window)
    async with listening(cert, handler, limits=limits) as there:
        client = await there.connect(window=8_000_000)
        body = noise(3_000_000)
        slow = client.open("/slow")
        client.send(slow, body, end=True)
        await trio.sleep(30)
        [link] = there.listener._links
        assert sum(link.engine.quic.held.values()) <= window
        assert link.h3.exchanges[slow].buffered <= window
        # Another stream has its own window, and what it uses of the connection's comes back.
        assert (await client.ask("/fast", noise(2_000_000, 2))).body == noise(2_000_000, 2)
        go.set()
        await client.until(lambda: client[slow].ended)
        assert bytes(client[slow].body) == body


async def test_streams_that_nobody_reads_do_not_take_more_than_the_connection_window(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    async def handler(exchange: Exchange) -> None:
        await trio.sleep(1000)
        exchange.respond(200, [])

    limits = Limits(stream_window=100_000, connection_window=250_000)
    async with listening(cert, handler, limits=limits) as there:
        client = await there.connect()
        for _ in range(20):
            client.send(client.open(), noise(1_000_000))
        await trio.sleep(20)
        [link] = there.listener._links
        # Heads and control streams, which nobody has to read, come on top.
        assert 100_000 < link.engine.quic._local_max_data.used <= 252_000
        client.close()


async def test_a_client_that_does_not_read_stops_the_application(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    sent = 0
    outcome: list[BaseException] = []

    async def handler(exchange: Exchange) -> None:
        nonlocal sent
        exchange.start(200, [])
        try:
            while True:
                await exchange.send(bytes(10_000))
                sent += 10_000
        except Disconnected as error:
            outcome.append(error)
            raise

    limits = Limits(write_timeout=20)
    async with listening(cert, handler, limits=limits) as there:
        client = await there.connect(window=100_000, stingy=True)
        number = client.open(end=True)
        await trio.sleep(10)
        assert 100_000 < sent < 100_000 + 2 * HIGH_WATER
        assert not outcome
        await client.until(lambda: client[number].reset is not None)
        assert "took nothing for 20 s" in str(outcome[0])
        assert client[number].reset == ErrorCode.H3_INTERNAL_ERROR


async def test_a_finished_answer_that_the_client_does_not_take_is_given_up(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.respond(200, [], bytes(500_000))

    async with listening(cert, handler, limits=Limits(write_timeout=20)) as there:
        client = await there.connect(window=100_000, stingy=True)
        number = client.open(end=True)
        await client.until(lambda: client[number].reset is not None)
        assert client[number].reset == ErrorCode.H3_REQUEST_CANCELLED


@pytest.mark.parametrize("what", ["reset", "stop"])
@pytest.mark.parametrize("moment", [0.0, 0.005, 0.015, 0.025, 0.1, 1.0])
async def test_a_request_given_up_at_any_moment_cancels_its_call(
    cert: tls.Certificate, what: str, moment: float, autojump_clock: trio.abc.Clock
) -> None:
    ends: list[str] = []

    async def handler(exchange: Exchange) -> None:
        if exchange.path == "/other":
            exchange.respond(200, [], b"fine")
            return
        try:
            exchange.start(200, [])
            while True:
                await exchange.send(b"x" * 1000)
                await exchange.receive()
                await trio.sleep(0.01)
        except trio.Cancelled:
            ends.append("cancelled")
            raise
        except Disconnected:
            ends.append("disconnected")
            raise

    async with listening(cert, handler) as there:
        client = await there.connect()
        number = client.open()
        client.send(number, b"some")
        await trio.sleep(moment)
        if what == "reset":
            client.quic.reset_stream(number, ErrorCode.H3_REQUEST_CANCELLED)
        else:
            client.quic.stop_stream(number, ErrorCode.H3_REQUEST_CANCELLED)
        client.flush()
        await trio.sleep(5)
        assert len(ends) <= 1
        [link] = there.listener._links
        assert not link.h3.exchanges
        assert (await client.ask("/other")).body == b"fine"


async def test_an_answer_before_the_end_of_the_body_asks_for_no_more(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.respond_text(413, "too much")

    async with listening(cert, handler) as there:
        client = await there.connect()
        number = client.open()
        client.send(number, b"some")
        await client.until(lambda: client[number].ended and client[number].stopped is not None)
        assert client[number].status == 413
        assert client[number].stopped == ErrorCode.H3_NO_ERROR
        assert client[number].reset is None
        client.send_raw(client.quic.get_next_available_stream_id(), b"")
        assert (await client.ask()).status == 413


async def test_a_silent_client_runs_into_the_body_timeout(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    async with listening(cert, _read, limits=Limits(body_timeout=7)) as there:
        client = await there.connect()
        number = client.open()
        client.send(number, b"some")
        await client.until(lambda: client[number].ended)
        assert client[number].status == 408


async def _read(exchange: Exchange) -> None:
    exchange.respond(200, [], await exchange.read_all(100))


async def test_a_head_that_is_too_large_for_the_setting(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    async with listening(cert, limits=Limits(max_header=2000)) as there:
        client = await there.connect()
        # The second is small on the wire: each field is one octet that refers to the static table.
        for fields in ([(b"long", b"x" * 3000)], [(b"accept", b"*/*")] * 100):
            number = client.open(headers=fields, end=True)
            await client.until(lambda number=number: client[number].ended)  # type: ignore[misc]
            assert client[number].status == 431
        assert (await client.ask()).status == 200


GOOD = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a"), (b":path", b"/")]
MALFORMED = {
    "upper case": [*GOOD, (b"Upper", b"x")],
    "connection": [*GOOD, (b"connection", b"close")],
    "no method": GOOD[1:],
    "no path": GOOD[:3],
    "no scheme": [GOOD[0], *GOOD[2:]],
    "empty path": [*GOOD[:3], (b":path", b"")],
    "path with a space": [*GOOD[:3], (b":path", b"/a b")],
    "two methods": [GOOD[0], *GOOD],
    "unknown pseudo-header": [*GOOD, (b":what", b"x")],
    "pseudo-header behind a field": [*GOOD[:3], (b"a", b"b"), GOOD[3]],
    "method that is no token": [(b":method", b"G\xe9T"), *GOOD[1:]],
    "line feed": [*GOOD, (b"a", b"b\nc")],
    "protocol without CONNECT": [*GOOD, (b":protocol", b"websocket")],
    "length that is none": [*GOOD, (b"content-length", b"-1")],
    "length that is not kept": [*GOOD, (b"content-length", b"5")],
}


@pytest.mark.parametrize("headers", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_request_costs_its_stream_alone(
    cert: tls.Certificate, headers: list[tuple[bytes, bytes]], autojump_clock: trio.abc.Clock
) -> None:
    async with listening(cert) as there:
        client = await there.connect()
        assert client.h3 is not None
        number = client.quic.get_next_available_stream_id()
        client.h3.send_headers(number, headers, end_stream=True)
        client.flush()
        await client.until(lambda: client[number].reset is not None)
        assert client[number].reset == ErrorCode.H3_MESSAGE_ERROR
        assert not client[number].head
        assert (await client.ask()).status == 200
        await trio.sleep(1)
        [link] = there.listener._links
        assert not link.engine.quic.held
        assert not link.engine._deaf


async def test_a_body_longer_than_declared_cancels_the_call(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    async with listening(cert) as there:
        client = await there.connect()
        number = client.open(headers=[(b"content-length", b"3")])
        client.send(number, b"1234", end=True)
        await client.until(lambda: client[number].reset is not None)
        assert client[number].reset == ErrorCode.H3_MESSAGE_ERROR
        assert (await client.ask()).status == 200


def frame(kind: int, payload: bytes) -> bytes:
    return encode_uint_var(kind) + encode_uint_var(len(payload)) + payload


FATAL = {
    "settings on a request stream": (frame(0x4, b""), ErrorCode.H3_FRAME_UNEXPECTED),
    "data before headers": (frame(0x0, b"x"), ErrorCode.H3_FRAME_UNEXPECTED),
    "a frame type of HTTP/2": (frame(0x8, b""), ErrorCode.H3_FRAME_UNEXPECTED),
    "header section that is noise": (frame(0x1, b"\xff" * 40), ErrorCode.QPACK_DECOMPRESSION_FAILED),
    "reference to a dynamic table": (frame(0x1, b"\x02\x00\x80"), ErrorCode.QPACK_DECOMPRESSION_FAILED),
    "endless headers": (b"\x01" + encode_uint_var(2**30) + bytes(1000), ErrorCode.H3_EXCESSIVE_LOAD),
}


@pytest.mark.parametrize(("data", "code"), FATAL.values(), ids=FATAL.keys())
async def test_what_is_no_http3_ends_the_connection_and_no_other(
    cert: tls.Certificate, data: bytes, code: int, autojump_clock: trio.abc.Clock
) -> None:
    async with listening(cert) as there:
        client, other = await there.connect(), await there.connect()
        client.send_raw(client.quic.get_next_available_stream_id(), data)
        assert (await client.until_over()).error_code == code
        assert (await other.ask()).status == 200


async def test_unknown_frames_and_streams_are_skipped(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    async with listening(cert) as there:
        client = await there.connect()
        client.send_raw(client.quic.get_next_available_stream_id(is_unidirectional=True), b"\x21grease")
        number = client.open()
        client.send_raw(number, frame(0x21, b"grease"))
        client.send(number, b"body", end=True)
        await client.until(lambda: client[number].ended)
        assert client[number].body == b"body"


async def test_streams_leave_nothing_behind(cert: tls.Certificate, autojump_clock: trio.abc.Clock) -> None:
    async with listening(cert, weather=Weather(delay=0.0001)) as there:
        client = await there.connect()
        for turn in range(3000):
            if turn % 10 == 9:
                number = client.open()
                client.quic.reset_stream(number, ErrorCode.H3_REQUEST_CANCELLED)
                client.quic.stop_stream(number, ErrorCode.H3_REQUEST_CANCELLED)
                client.flush()
                client.answers.pop(number, None)
            else:
                assert (await client.ask(body=b"hello")).body == b"hello"
        await trio.sleep(5)
        [link] = there.listener._links
        engine = link.engine
        assert not link.h3.exchanges
        assert not engine.quic.held
        assert not engine._deaf
        # What is left are the control streams: three each way.
        assert len(engine.quic._streams) <= 6
        assert len(engine.h3._stream) <= 6
        assert len(engine.quic._streams_queue) <= 6


async def test_a_request_whose_answer_is_unwanted_before_it_comes(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    asked: list[str] = []

    async def handler(exchange: Exchange) -> None:
        asked.append(exchange.path)
        exchange.respond_text(200, "answer")

    async with listening(cert, handler) as there:
        client = await there.connect()
        assert client.h3 is not None
        number = client.quic.get_next_available_stream_id()
        fields = {":method": "GET", ":scheme": "https", ":authority": "fawa.example", ":path": "/unwanted"}
        head = [(name.encode(), value.encode()) for name, value in fields.items()]
        client.h3.send_headers(number, head, end_stream=True)
        client.quic.stop_stream(number, ErrorCode.H3_REQUEST_CANCELLED)  # aioquic sends it before the head
        client.flush()
        await client.until(lambda: client[number].reset is not None)
        assert (await client.ask("/wanted")).status == 200
        assert asked == ["/wanted"]
        await trio.sleep(1)
        [link] = there.listener._links
        assert number not in link.engine.quic._streams
        assert number not in link.engine.h3._stream


async def test_an_answer_is_whole_although_the_client_breaks_off_a_body_that_is_not_wanted(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.respond_text(200, "x" * 15_000)

    async with listening(cert, handler) as there:
        client = await there.connect()
        late: list[int] = []

        def passes(data: bytes, to: Address) -> bool:
            if to != SERVER and len(data) > 1000:
                late.append(len(data))
                return not 3 <= len(late) <= 6
            return True

        there.network.passes = passes
        number = client.open()  # its body never ends
        await client.until(lambda: client[number].stopped is not None)
        await client.until(lambda: client[number].ended)
        assert client[number].stopped == ErrorCode.H3_NO_ERROR
        assert client[number].reset is None
        assert len(client[number].body) == 15_001
        assert len(late) > 10


async def test_draining_refuses_new_requests_and_finishes_open_ones(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    go = trio.Event()

    async def handler(exchange: Exchange) -> None:
        await go.wait()
        exchange.respond(200, [], b"done")

    async with listening(cert, handler) as there:
        client, idle = await there.connect(), await there.connect()
        number = client.open(end=True)
        await trio.sleep(1)
        there.listener.drain(30)
        assert (await idle.until_over()).error_code == ErrorCode.H3_NO_ERROR
        await trio.sleep(1)
        refused = client.open(end=True)
        await client.until(lambda: client[refused].reset is not None)
        assert client[refused].reset == ErrorCode.H3_REQUEST_REJECTED
        late = there.client()
        await trio.sleep(1)
        assert not late.established
        go.set()
        assert (await client.until_over()).error_code == ErrorCode.H3_NO_ERROR
        assert client[number].body == b"done"
        assert client[number].ended


async def test_the_grace_of_a_drain_ends(cert: tls.Certificate, autojump_clock: trio.abc.Clock) -> None:
    async with listening(cert, lambda e: trio.sleep_forever()) as there:
        client = await there.connect()
        client.open(end=True)
        await trio.sleep(1)
        there.listener.drain(5)
        before = trio.current_time()
        await client.until_over()
        assert 5 <= trio.current_time() - before < 6


async def test_a_dead_client_does_not_hold_up_a_drain(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    async with listening(cert) as there:
        client = await there.connect()
        there.network.passes = lambda data, to: False
        there.listener.drain(60)
        await trio.sleep(3)
        assert there.listener.connections == 0
        client.close()


async def test_a_client_that_goes_without_a_word_does_not_hold_up_a_drain(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    async with listening(cert) as there:
        client = await there.connect()
        await client.ask()
        began = trio.current_time()
        # It answers the PING, and takes nothing that comes after.
        there.network.passes = lambda data, to: to == SERVER or trio.current_time() == began
        there.listener.drain(60)
        await trio.sleep(5)
        assert there.listener.connections == 0
        client.close()


async def test_another_protocol_over_a_stream(cert: tls.Certificate, autojump_clock: trio.abc.Clock) -> None:
    async def handler(exchange: Exchange) -> None:
        assert exchange.protocol == "websocket"
        exchange.upgrade([(b"chosen", b"yes")])
        while data := await exchange.receive():
            exchange.push(data.upper())
            exchange.flush()
            await exchange.wait_flushed()
            assert exchange.is_flushed
        exchange.finish()

    async with listening(cert, handler) as there:
        client = await there.connect()
        number = _connect(client)
        client.send(number, b"hello")
        await client.until(lambda: client[number].body == b"HELLO")
        assert client[number].head[b"chosen"] == b"yes"
        client.send(number, b"", end=True)
        await client.until(lambda: client[number].ended)


def _connect(client: Client) -> int:
    return client.open("/ws", "CONNECT", [(b":protocol", b"websocket")])


async def test_a_connection_that_ends_cancels_its_calls(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    cancelled: list[str] = []

    async def handler(exchange: Exchange) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(exchange.path)

    async with listening(cert, handler) as there:
        client = await there.connect()
        for path in ("/a", "/b"):
            client.open(path)
        await trio.sleep(1)
        client.close()
        await trio.sleep(0.1)
        assert sorted(cancelled) == ["/a", "/b"]
        await trio.sleep(5)
        assert there.listener.connections == 0
