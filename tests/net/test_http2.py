"""Conversations over HTTP/2, with an `h2` client at the other end."""

from __future__ import annotations

import math
from collections.abc import Callable

import h2.events
import pytest
import trio
from trio.testing import MockClock

from fawa.net.connection import Limits
from fawa.net.engine import H2ErrorCode
from fawa.net.exchange import Disconnected, Exchange
from fawa.net.http2 import H2Connection
from tests.net.talk import DATE, POST, H2Client, frame, frames, head, line, settle


async def tell(exchange: Exchange) -> None:
    """Answer with the path and the length of the body."""
    body = await exchange.read_all(100_000_000)
    exchange.start(200, [(b"path", exchange.path.encode())])
    exchange.push(b"%d" % len(body))
    exchange.finish([(b"method", exchange.method.encode())])


async def echo(exchange: Exchange) -> None:
    """Answer each piece as it comes."""
    exchange.start(200, [])
    exchange.body_timeout = math.inf
    while piece := await exchange.receive():
        await exchange.send(piece)
    exchange.finish()


async def ignore(exchange: Exchange) -> None:
    exchange.respond(200, [], b"done")


def every_act(exchange: Exchange) -> list[Callable[[], None]]:
    """Return all that an application may say in answer."""
    return [lambda: exchange.start(200, []), lambda: exchange.push(b"x"), exchange.finish]


async def test_one_call() -> None:
    async with line(H2Connection, tell) as talk:
        client = H2Client()
        stream = client.open(head("/a"))
        client.h2.send_data(stream, b"12345", end_stream=True)
        await client.turn(talk)
        answer = client[stream]
        assert (answer.status, bytes(answer.body), answer.trailers) == (200, b"5", [(b"method", b"POST")])
        assert answer.headers == [(b"path", b"/a"), DATE]
        assert answer.ended
        assert answer.reset is None


async def test_interim_responses() -> None:
    async def tell_before(exchange: Exchange) -> None:
        exchange.inform(104, [(b"location", b"/uploads/1")])
        await tell(exchange)

    async with line(H2Connection, tell_before) as talk:
        client = H2Client()
        stream = client.open(head("/a"))
        await client.turn(talk)
        [interim] = [e for e in client.events if isinstance(e, h2.events.InformationalResponseReceived)]
        assert interim.headers == [(b":status", b"104"), (b"location", b"/uploads/1")]
        client.h2.send_data(stream, b"12345", end_stream=True)
        await client.turn(talk)
        assert (client[stream].status, bytes(client[stream].body)) == (200, b"5")


@pytest.mark.parametrize("sizes", [[], [1], [13, 40]])
async def test_many_streams_whose_bodies_arrive_interleaved(sizes: list[int]) -> None:
    async with line(H2Connection, echo) as talk:
        client = H2Client()
        streams = [client.open(head(f"/{number}")) for number in range(20)]
        for turn in range(5):
            for stream in streams:
                client.h2.send_data(stream, b"%d-%d " % (stream, turn), end_stream=turn == 4)
            await client.turn(talk, sizes)
        for stream in streams:
            assert bytes(client[stream].body) == b"".join(b"%d-%d " % (stream, turn) for turn in range(5))
            assert client[stream].ended


async def test_a_stream_that_waits_holds_up_no_other() -> None:
    go = trio.Event()

    async def one_waits(exchange: Exchange) -> None:
        if exchange.path == "/slow":
            await go.wait()
        exchange.respond(200, [], exchange.path.encode())

    async with line(H2Connection, one_waits) as talk:
        client = H2Client()
        slow = client.open(head("/slow"), end=True)
        quick = [client.open(head("/quick"), end=True) for _ in range(3)]
        await client.turn(talk)
        assert [client[stream].ended for stream in [slow, *quick]] == [False, True, True, True]
        go.set()
        await client.turn(talk)
        assert bytes(client[slow].body) == b"/slow"


async def test_answers_without_bodies() -> None:
    async def bare(exchange: Exchange) -> None:
        if exchange.path == "/respond":
            exchange.respond(404, [])
        else:
            exchange.start(204, [], end=True)

    async with line(H2Connection, bare) as talk:
        client = H2Client()
        streams = [client.open(head(path, "GET"), end=True) for path in ("/respond", "/start")]
        await client.turn(talk)
        assert [(client[s].status, client[s].ended) for s in streams] == [(404, True), (204, True)]


async def test_what_the_request_says_of_itself() -> None:
    seen: list[Exchange] = []

    async def look(exchange: Exchange) -> None:
        seen.append(exchange)
        exchange.respond(200, [])

    async with line(H2Connection, look) as talk:
        client = H2Client()
        client.open(head("/a/%C3%A9?q=1&r", "PUT", (b"x", b"1"), (b"x", b"2")), end=True)
        await client.turn(talk)
    [exchange] = seen
    assert (exchange.method, exchange.path, exchange.query) == ("PUT", "/a/%C3%A9", "q=1&r")
    assert (exchange.version, exchange.scheme, exchange.authority) == ("2", "http", "h")
    assert exchange.peer == "192.0.2.1:4711"
    assert [value for name, value in exchange.headers if name == b"x"] == [b"1", b"2"]
    assert (exchange.header(b"x"), exchange.header(b"y"), exchange.header(b"y", b"z")) == (b"1", None, b"z")


async def test_an_empty_data_frame_is_not_the_end() -> None:
    async with line(H2Connection, tell) as talk:
        client = H2Client()
        stream = client.open()
        for _ in range(3):
            client.h2.send_data(stream, b"")
            await client.turn(talk)
        client.h2.send_data(stream, b"abc", end_stream=True)
        await client.turn(talk)
        assert bytes(client[stream].body) == b"3"


async def test_request_trailers_end_the_body() -> None:
    async with line(H2Connection, tell) as talk:
        client = H2Client()
        stream = client.open()
        client.h2.send_data(stream, b"abc")
        await client.turn(talk)
        client.h2.send_headers(stream, [(b"x", b"y")], end_stream=True)
        await client.turn(talk)
        assert bytes(client[stream].body) == b"3"


async def test_a_ping_is_answered() -> None:
    async with line(H2Connection, tell) as talk:
        client = H2Client()
        client.h2.ping(b"12345678")
        await client.turn(talk)
        assert [e.ping_data for e in client.events if isinstance(e, h2.events.PingAckReceived)] == [
            b"12345678"
        ]


# The end of streams


async def test_an_answer_before_the_end_of_the_body_resets_without_error() -> None:
    async with line(H2Connection, ignore) as talk:
        client = H2Client()
        stream = client.open()
        client.h2.send_data(stream, b"abc")
        await client.turn(talk)
        assert (bytes(client[stream].body), client[stream].ended) == (b"done", True)
        assert client[stream].reset == H2ErrorCode.NO_ERROR
        # What was on its way is of no concern to anybody.
        await talk.send(frame(0, 0, stream, b"late") + frame(0, 1, stream, b"later"))
        other = client.open(end=True)
        await client.turn(talk)
        assert client[other].ended


@pytest.mark.parametrize("begun", [False, True])
async def test_a_fault_in_the_application(begun: bool) -> None:
    async def fail(exchange: Exchange) -> None:
        if begun:
            exchange.start(200, [])
        raise RuntimeError("a fault")

    async with line(H2Connection, fail) as talk:
        client = H2Client()
        for _ in range(2):
            stream = client.open(end=True)
            await client.turn(talk)
            answer = client[stream]
            expected = (200, False, H2ErrorCode.INTERNAL_ERROR) if begun else (500, True, None)
            assert (answer.status, answer.ended, answer.reset) == expected


async def test_an_application_that_does_not_finish_is_reset() -> None:
    async def half(exchange: Exchange) -> None:
        exchange.start(200, [])
        exchange.push(b"half")

    async with line(H2Connection, half) as talk:
        client = H2Client()
        stream = client.open(end=True)
        await client.turn(talk)
        assert (bytes(client[stream].body), client[stream].reset) == (b"half", H2ErrorCode.INTERNAL_ERROR)


@pytest.mark.parametrize("end", [False, True])
async def test_an_answer_broken_off_is_reset_once(end: bool) -> None:
    async def abort(exchange: Exchange) -> None:
        exchange.start(200, [])
        exchange.abort()
        exchange.abort()

    async with line(H2Connection, abort) as talk:
        client = H2Client()
        stream = client.open(end=end)
        await talk.send(client.to_send())
        resets = [f for f in frames(bytes(talk.received)) if f[0] == 3]
        assert resets == [(3, 0, stream, H2ErrorCode.INTERNAL_ERROR.to_bytes(4, "big"))]
        await client.turn(talk)


async def test_after_an_abort_there_is_nobody_to_answer() -> None:
    outcome: list[str] = []

    async def abort(exchange: Exchange) -> None:
        exchange.start(200, [])
        exchange.abort()
        for act in every_act(exchange):
            with pytest.raises(Disconnected):
                act()
            outcome.append("refused")

    async with line(H2Connection, abort) as talk:
        client = H2Client()
        stream = client.open(end=True)
        await client.turn(talk)
        assert client[stream].reset == H2ErrorCode.INTERNAL_ERROR
        assert len(outcome) == 3


@pytest.mark.parametrize(
    "field", [(b"x", b"a\r\nb"), (b"X", b"a"), (b"connection", b"close"), (b":path", b"/")]
)
async def test_headers_that_cannot_be_sent(field: tuple[bytes, bytes]) -> None:
    """The fault is the application's; the client's next responses must not suffer (RFC 7541 section 2.2)."""

    async def inject(exchange: Exchange) -> None:
        good = (b"a-good-one", exchange.path.encode())
        exchange.start(200, [good, field] if exchange.path == "/bad" else [good])
        exchange.finish()

    async with line(H2Connection, inject) as talk:
        client = H2Client()
        streams = [client.open(head(path), end=True) for path in ("/first", "/bad", "/next", "/next")]
        await client.turn(talk)
        assert [client[stream].status for stream in streams] == [200, 500, 200, 200]
        assert client[streams[3]].headers == [(b"a-good-one", b"/next"), DATE]


async def test_trailers_that_cannot_be_sent() -> None:
    async def inject(exchange: Exchange) -> None:
        exchange.start(200, [])
        exchange.finish([(b"x", b"a\nb")])

    async with line(H2Connection, inject) as talk:
        client = H2Client()
        stream = client.open(end=True)
        await client.turn(talk)
        assert client[stream].reset == H2ErrorCode.INTERNAL_ERROR


# Limits of the connection


async def test_one_stream_too_many_is_refused_and_may_be_tried_again() -> None:
    async with line(H2Connection, echo, limits=Limits(max_streams=3)) as talk:
        client = H2Client()
        streams = [client.open() for _ in range(4)]
        client.h2.send_data(streams[3], b"abc")
        await client.turn(talk)
        assert [client[s].reset for s in streams] == [None, None, None, H2ErrorCode.REFUSED_STREAM]
        client.h2.end_stream(streams[0])
        await client.turn(talk)
        again = client.open(end=True)
        await client.turn(talk)
        assert client[again].ended
        assert talk.h2._unconsumed == 0


async def test_the_engine_announces_and_enforces_128_streams() -> None:
    async with line(H2Connection, echo) as talk:
        client = H2Client()
        await client.turn(talk)
        assert client.h2.remote_settings.max_concurrent_streams == 128
        for _ in range(128):
            client.open()
        await client.turn(talk)
        assert len(talk.h2.exchanges) == 128
        encoded = client.h2.encoder.encode(POST)
        await talk.send(frame(1, 4, 257, encoded))
        assert (3, 0, 257, H2ErrorCode.REFUSED_STREAM.to_bytes(4, "big")) in list(frames(talk.take()))


@pytest.mark.parametrize("body", [False, True])
async def test_a_head_over_a_stricter_limit_is_431(body: bool) -> None:
    async with line(H2Connection, tell, limits=Limits(max_header=1000)) as talk:
        client = H2Client()
        good = client.open(head("/", "GET", (b"x", b"y" * 800)), end=True)
        bad = client.open(head("/", "GET", (b"x", b"y" * 1000)), end=not body)
        await client.turn(talk)
        assert [client[s].status for s in (good, bad)] == [200, 431]
        assert client[bad].reset == (H2ErrorCode.NO_ERROR if body else None)
        assert talk.h2.exchanges == {}


# Time


async def test_an_idle_connection_says_goodbye(autojump_clock: MockClock) -> None:
    async with line(H2Connection, tell, limits=Limits(idle_timeout=300)) as talk:
        client = H2Client()
        for _ in range(3):
            stream = client.open(end=True)
            await client.turn(talk)
            await trio.sleep(299)
        assert not talk.ended()
        await trio.sleep(2)
        assert talk.ended()
        client.receive(talk.take())
        assert (client.goaways, client.goaway_code) == ([stream], H2ErrorCode.NO_ERROR)


async def test_a_connection_that_says_nothing_is_closed(autojump_clock: MockClock) -> None:
    for first in (b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0"):
        async with line(H2Connection, tell, limits=Limits(header_timeout=15)) as talk:
            await talk.send(first)
            await trio.sleep(14)
            assert not talk.ended()
            await trio.sleep(2)
            assert talk.ended()


async def test_a_call_under_way_is_not_idle(autojump_clock: MockClock) -> None:
    async with line(H2Connection, echo) as talk:
        client = H2Client()
        stream = client.open()
        await client.turn(talk)
        await trio.sleep(100_000)
        client.h2.send_data(stream, b"abc", end_stream=True)
        await client.turn(talk)
        assert bytes(client[stream].body) == b"abc"
        await trio.sleep(299)
        assert not talk.ended()


async def test_a_body_that_does_not_come(autojump_clock: MockClock) -> None:
    async def begun(exchange: Exchange) -> None:
        exchange.start(200, [])
        await exchange.receive()

    for handler, expected in [(tell, (408, None)), (begun, (200, H2ErrorCode.INTERNAL_ERROR))]:
        async with line(H2Connection, handler, limits=Limits(body_timeout=60)) as talk:
            client = H2Client()
            stream, other = client.open(), client.open(end=True)
            await client.turn(talk)
            await trio.sleep(59)
            assert not client[stream].is_over
            await trio.sleep(2)
            await client.turn(talk)
            status, reset = expected
            assert client[stream].status == status
            # The rest of the body is not wanted, or the answer is broken off.
            assert client[stream].reset == (H2ErrorCode.NO_ERROR if reset is None else reset)
            assert client[other].status


async def test_drain_finishes_what_is_open_and_refuses_the_rest(autojump_clock: MockClock) -> None:
    async with line(H2Connection, echo) as talk:
        client = H2Client()
        open_one = client.open()
        await client.turn(talk)
        talk.conn.start_drain()
        late = client.open()  # sent before the client knew
        await talk.send(client.to_send())
        client.receive(talk.take())
        assert client.goaways[0] == 2**31 - 1
        await client.turn(talk)  # the client's answer to the PING
        assert client.goaways == [2**31 - 1, late]
        await talk.send(frame(1, 5, late + 2, client.h2.encoder.encode(POST)))
        assert (3, 0, late + 2, H2ErrorCode.REFUSED_STREAM.to_bytes(4, "big")) in list(frames(talk.take()))
        for stream in (open_one, late):
            assert not talk.ended()
            talk.h2.start_drain()  # once is enough
            await talk.send(frame(0, 1, stream, b"end"))
        await settle()
        assert talk.ended()
        data = [
            (stream, payload) for kind, _, stream, payload in frames(talk.take()) if kind == 0 and payload
        ]
        assert data == [(open_one, b"end"), (late, b"end")]


async def test_drain_of_an_idle_connection_does_not_wait_long_for_the_client(
    autojump_clock: MockClock,
) -> None:
    async with line(H2Connection, echo) as talk:
        client = H2Client()
        await client.turn(talk)
        began = trio.current_time()
        talk.conn.start_drain()
        await trio.sleep(3)  # no answer to the PING
        assert talk.ended()
        assert trio.current_time() - began == 3
        client.receive(talk.take())
        assert client.goaways == [2**31 - 1, 0]


async def test_drain_when_the_client_is_gone_is_over_at_once() -> None:
    async with line(H2Connection, echo) as talk:
        client = H2Client()
        client.open()
        await client.turn(talk)
        talk.conn.start_drain()
        await talk.close()
        assert talk.h2.exchanges == {}
        talk.conn.start_drain()
