"""What an HTTP/1.1 client may take of time and room, and what it hears when it takes more."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from fawa.net.connection import HIGH_WATER, READ_UNANSWERED, WRITE_SIZE, Limits
from fawa.net.exchange import BodyTimeout, BodyTooLarge, Disconnected, Exchange
from fawa.net.http1 import H1Connection
from tests.net.talk import Answer, Line, h11_answers, line, lockstep_pair, request, settle


async def tell(exchange: Exchange) -> None:
    body = await exchange.read_all(10_000_000)
    exchange.respond(200, [(b"length", b"%d" % len(body))], exchange.path.encode())


def heard(talk: Line, *methods: str) -> list[Answer]:
    return h11_answers(talk.take(), methods, ended=talk.ended())


# Room


@pytest.mark.parametrize("sizes", [[], [1000]])
@pytest.mark.parametrize(
    ("max_header", "fields", "status"),
    [
        (65536, ["x: " + "y" * 15000] * 4, 200),
        (65536, ["x: " + "y" * 15000] * 5, 431),
        (65536, ["x: " + "y" * 17000], 431),  # zttp takes no line longer than 16 KiB
        (65536, ["a: b"] * 99, 200),
        (65536, ["a: b"] * 100, 431),  # and with `host` no more than 100 fields
        (2000, ["x: " + "y" * 1900], 200),
        (2000, ["x: " + "y" * 2000], 431),
        (2000, ["a: b"] * 90, 200),
    ],
)
async def test_heads_up_to_the_limit(
    max_header: int, fields: list[str], status: int, sizes: list[int]
) -> None:
    async with line(H1Connection, tell, limits=Limits(max_header=max_header)) as talk:
        await talk.send(request("/a", "GET", *fields), sizes)
        [answer] = heard(talk, "GET")
        assert answer.status == status
        assert talk.ended() == (status == 431)


async def test_a_head_that_never_ends_is_refused_at_the_limit() -> None:
    async with line(H1Connection, tell, limits=Limits(max_header=2000)) as talk:
        await talk.send(b"GET / HTTP/1.1\r\nx: ")
        for _ in range(19):
            await talk.send(b"y" * 100)
        assert talk.received == b""
        await talk.send(b"y" * 100)
        assert heard(talk, "GET")[0].status == 431


async def test_requests_sent_ahead_do_not_count_as_one_head() -> None:
    async with line(H1Connection, tell, limits=Limits(max_header=1000)) as talk:
        await talk.send(request("/a") * 100)
        assert len(heard(talk, *["GET"] * 100)) == 100


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (request("/", "GET", "host: again"), 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\nhost: h\r\n\r\n", 400),
        (request("/", "POST", "content-length: 1", "transfer-encoding: chunked") + b"0\r\n\r\n", 400),
        (request("/", "POST", "transfer-encoding: gzip, chunked") + b"0\r\n\r\n", 501),
        (request("/", "POST", "transfer-encoding: gzip", "transfer-encoding: chunked") + b"0\r\n\r\n", 501),
        (request("/", "POST", "transfer-encoding: chunked", version="1.0") + b"0\r\n\r\n", 400),
        (request("/", "POST", "transfer-encoding: chunked") + b"x\r\n", 400),
    ],
)
@pytest.mark.parametrize("sizes", [[], [1]])
async def test_what_cannot_be_understood_is_refused_once(sent: bytes, status: int, sizes: list[int]) -> None:
    async with line(H1Connection, tell) as talk:
        await talk.send(request("/good"))
        await talk.send(sent, sizes)
        assert talk.ended()
        good, bad = heard(talk, "GET", "POST")
        assert (good.body, bad.status) == (b"/good", status)
        assert bad.header(b"connection") == b"close"
        assert bad.body.endswith(b"\n")


async def test_a_malformed_body_behind_an_answer_that_has_begun_breaks_it_off() -> None:
    outcome: list[BaseException] = []

    async def echo(exchange: Exchange) -> None:
        exchange.start(200, [])
        try:
            while piece := await exchange.receive():
                await exchange.send(piece)
        except BaseException as error:
            outcome.append(error)
            raise

    async with line(H1Connection, echo) as talk:
        await talk.send(request("/", "POST", "transfer-encoding: chunked"))
        await talk.send(b"3\r\nabc\r\n")
        await talk.send(b"worse\r\n")
        assert talk.ended()
        assert talk.take().endswith(b"3\r\nabc\r\n")
        assert [type(error) for error in outcome] == [Disconnected]


async def test_a_stray_newline_does_no_harm() -> None:
    for probe in (b"\n", b"\r\n", b"\0", b"\r\n\r\n", b"\x16\x03\x01\x02\x00"):
        async with line(H1Connection, tell) as talk:
            await talk.send(probe)
            await talk.half_close()
            assert talk.ended()


async def test_a_body_over_the_readers_limit_is_413() -> None:
    async def small(exchange: Exchange) -> None:
        exchange.respond(200, [], await exchange.read_all(10))

    async with line(H1Connection, small) as talk:
        await talk.send(request("/", "POST", body=b"12345678901") + request("/ok"))
        answers = heard(talk, "POST", "GET")
        assert answers[0].status == 413
        assert b"10 bytes" in answers[0].body

    async def small_and_late(exchange: Exchange) -> None:
        exchange.start(200, [])
        with pytest.raises(BodyTooLarge):
            await exchange.read_all(10)
        await exchange.read_all(0)

    async with line(H1Connection, small_and_late) as talk:
        await talk.send(request("/", "POST", "content-length: 40") + bytes(20))
        await talk.send(bytes(20))
        assert talk.ended()
        assert not talk.take().endswith(b"0\r\n\r\n")


async def test_a_reader_that_does_not_read_stops_the_client() -> None:
    go = trio.Event()

    async def later(exchange: Exchange) -> None:
        await go.wait()
        await tell(exchange)

    accepted = 0
    async with (
        line(H1Connection, later, pair=lockstep_pair()) as talk,
        trio.open_nursery() as nursery,
    ):

        async def send() -> None:
            nonlocal accepted
            await talk.stream.send_all(request("/", "POST", "content-length: 2000000"))
            for _ in range(200):
                await talk.stream.send_all(bytes(10_000))
                accepted += 10_000

        nursery.start_soon(send)
        await settle()
        assert 256 * 1024 - 10_000 <= accepted <= 256 * 1024 + 10_000
        go.set()
        await settle()
        assert heard(talk, "POST")[0].header(b"length") == b"2000000"


async def test_requests_sent_ahead_are_not_gathered_without_bound() -> None:
    go = trio.Event()

    async def first_is_slow(exchange: Exchange) -> None:
        if exchange.path == "/0":
            await go.wait()
        exchange.respond(200, [], exchange.path.encode())

    accepted = 0
    async with (
        line(H1Connection, first_is_slow, pair=lockstep_pair()) as talk,
        trio.open_nursery() as nursery,
    ):

        async def send() -> None:
            nonlocal accepted
            for number in range(500):
                await talk.stream.send_all(request(f"/{number}", "POST", "x: " + "y" * 2000))
                accepted += 2000

        nursery.start_soon(send)
        await settle()
        assert accepted <= 256 * 1024 + 4000
        go.set()
        await settle()
        bodies = [answer.body for answer in heard(talk, *["POST"] * 500)]
        assert bodies == [b"/%d" % number for number in range(500)]


async def test_a_client_that_reads_no_answers_is_not_answered_without_bound() -> None:
    answered = 0

    async def large(exchange: Exchange) -> None:
        nonlocal answered
        answered += 1
        exchange.respond(200, [], bytes(10_000))

    async with line(H1Connection, large, pair=lockstep_pair(), reads=False) as talk:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk.send, request("/") * 5000)
            await settle()
            # What is on its way, and what has gathered behind it.
            assert 0 < answered * 10_000 <= 2 * (HIGH_WATER + 20_000)
            assert talk.conn.queued <= HIGH_WATER + 20_000
            talk.start_reading()
            await settle()
        assert talk.take().count(b"HTTP/1.1 200 OK") == answered == 5000


async def test_a_client_that_reads_nothing_is_not_read_from_without_bound() -> None:
    """Small requests make answers of a size of their own: what is read while nothing is taken is bounded."""

    async def small(exchange: Exchange) -> None:
        exchange.respond(204, [])

    accepted = 0
    async with (
        line(H1Connection, small, pair=lockstep_pair(), reads=False) as talk,
        trio.open_nursery() as nursery,
    ):

        async def send() -> None:
            nonlocal accepted
            for _ in range(2000):
                await talk.stream.send_all(request("/" + "x" * 1000))
                accepted += 1000

        nursery.start_soon(send)
        await settle()
        assert accepted <= READ_UNANSWERED + 256 * 1024 + 10_000
        talk.start_reading()
    assert accepted == 2_000_000


# Time


async def test_a_head_that_drips_has_only_so_much_time(autojump_clock: MockClock) -> None:
    async with line(H1Connection, tell, limits=Limits(header_timeout=15)) as talk:
        began = trio.current_time()
        for byte in request("/", "GET", "x: " + "y" * 100):
            await talk.send(bytes([byte]))
            if talk.ended():
                break
            await trio.sleep(1)
        assert trio.current_time() - began == 15
        [answer] = heard(talk, "GET")
        assert (answer.status, answer.header(b"connection")) == (408, b"close")


async def test_each_further_head_has_as_much(autojump_clock: MockClock) -> None:
    async with line(H1Connection, tell, limits=Limits(header_timeout=15, idle_timeout=100)) as talk:
        await trio.sleep(10)
        await talk.send(request("/a"))
        await trio.sleep(99)
        assert not talk.ended()
        await talk.send(b"G")
        await trio.sleep(14)
        await talk.send(b"E")
        await trio.sleep(0.5)
        assert not talk.ended()
        await trio.sleep(1)
        assert talk.ended()
        assert [answer.status for answer in heard(talk, "GET", "GET")] == [200, 408]


async def test_a_silent_connection_is_closed_without_a_word(autojump_clock: MockClock) -> None:
    async with line(H1Connection, tell, limits=Limits(header_timeout=15)) as talk:
        await trio.sleep(14)
        assert not talk.ended()
        await trio.sleep(2)
        assert talk.ended()
        assert talk.take() == b""


async def test_an_idle_connection_is_closed_without_a_word(autojump_clock: MockClock) -> None:
    async with line(H1Connection, tell, limits=Limits(idle_timeout=300)) as talk:
        for _ in range(3):
            assert (await talk.say(request("/a"))).endswith(b"/a")
            await trio.sleep(299)
        assert not talk.ended()
        await trio.sleep(2)
        assert talk.ended()
        assert talk.take() == b""


async def test_a_call_under_way_is_not_idle(autojump_clock: MockClock) -> None:
    async def hours(exchange: Exchange) -> None:
        await trio.sleep(10_000)
        exchange.respond(200, [], b"done")

    async with line(H1Connection, hours) as talk:
        await talk.send(request("/a"))
        await trio.sleep(10_001)
        assert heard(talk, "GET")[0].body == b"done"


async def test_a_body_that_does_not_come_is_408(autojump_clock: MockClock) -> None:
    async with line(H1Connection, tell, limits=Limits(body_timeout=60)) as talk:
        await talk.send(request("/", "POST", "content-length: 10"))
        for _ in range(5):
            await trio.sleep(59)  # each byte buys time for the next
            await talk.send(b"x")
        assert talk.received == b""
        await trio.sleep(61)
        [answer] = heard(talk, "POST")
        assert answer.status == 408
        assert b"60 s" in answer.body
        await trio.sleep(61)
        assert talk.ended()
        assert talk.take() == b""


async def test_a_body_that_does_not_come_breaks_an_answer_off(autojump_clock: MockClock) -> None:
    async def echo(exchange: Exchange) -> None:
        exchange.start(200, [])
        while piece := await exchange.receive():
            await exchange.send(piece)

    async with line(H1Connection, echo) as talk:
        await talk.send(request("/", "POST", "content-length: 10") + b"abc")
        await trio.sleep(61)
        assert talk.ended()
        assert talk.take().endswith(b"3\r\nabc\r\n")


async def test_a_call_may_wait_longer_for_its_body(autojump_clock: MockClock) -> None:
    async def patient(exchange: Exchange) -> None:
        exchange.body_timeout = math.inf
        await tell(exchange)

    async def impatient(exchange: Exchange) -> None:
        exchange.body_timeout = 1
        with pytest.raises(BodyTimeout):
            await exchange.receive()
        exchange.respond(200, [], b"had enough")

    async with line(H1Connection, patient) as talk:
        await talk.send(request("/", "POST", "content-length: 1"))
        await trio.sleep(10_000)
        await talk.send(b"x")
        assert heard(talk, "POST")[0].header(b"length") == b"1"
    async with line(H1Connection, impatient) as talk:
        await talk.send(request("/", "POST", "content-length: 1"))
        await trio.sleep(2)
        assert heard(talk, "POST")[0].body == b"had enough"


async def test_a_client_that_reads_nothing_is_given_up(autojump_clock: MockClock) -> None:
    outcome: list[tuple[type[BaseException], float, int]] = []

    async def endless(exchange: Exchange) -> None:
        exchange.start(200, [])
        try:
            for _ in range(1000):
                await exchange.send(bytes(50_000))
        except BaseException as error:
            outcome.append((type(error), trio.current_time() - began, exchange.bytes_out))
            raise

    async with line(
        H1Connection, endless, limits=Limits(write_timeout=60), pair=lockstep_pair(), reads=False
    ) as talk:
        began = trio.current_time()
        await talk.send(request("/"))
        await trio.sleep(59)
        assert not talk.lost()
        await trio.sleep(2)
        assert talk.lost()
    [(error, after, size)] = outcome
    assert error in (Disconnected, trio.Cancelled)
    assert after == 60
    assert size <= 2 * (HIGH_WATER + 50_000)


async def test_a_client_that_reads_slowly_is_served_to_the_end(autojump_clock: MockClock) -> None:
    """A piece in 50 seconds is slow, but it is something: the write timeout is for nothing at all."""
    size = 3_000_000

    async def large(exchange: Exchange) -> None:
        exchange.start(200, [(b"content-length", b"%d" % size)])
        for _ in range(size // 50_000):
            await exchange.send(bytes(50_000))
        exchange.finish()

    async with line(
        H1Connection, large, limits=Limits(write_timeout=60), pair=lockstep_pair(), reads=False
    ) as talk:
        await talk.send(request("/"))
        while len(talk.received) < size:
            await trio.sleep(50)
            talk.received += await talk.stream.receive_some(WRITE_SIZE)
        assert not talk.lost()
        assert trio.current_time() > 40 * 50
