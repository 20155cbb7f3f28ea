"""Exchanges that turn to another protocol, over either HTTP version: bytes both ways, as they are."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from fawa.net.connection import HIGH_WATER, Limits
from fawa.net.exchange import Disconnected, Exchange, Interrupted
from fawa.net.http1 import H1Connection
from fawa.net.http2 import H2Connection
from tests.net.sockets_talk import BOTH, OPENING, Connect, over_http1, over_http2
from tests.net.talk import DATE, H2Client, h11_answer, h11_answers, head, line, lockstep_pair, request, settle

UPGRADE = request("/", "GET", *OPENING)


async def echo(exchange: Exchange) -> None:
    """Send bytes back as they come, to the client's end."""
    if exchange.protocol != "websocket":
        exchange.respond_text(200, f"protocol {exchange.protocol!r}")
        return
    exchange.upgrade([(b"mode", b"echo")])
    while data := await exchange.receive():
        await exchange.send(data)
    exchange.push(b"bye")
    exchange.finish()


@pytest.mark.parametrize("connect", BOTH)
@pytest.mark.parametrize("sizes", [[], [1], [3, 5]])
async def test_bytes_go_both_ways_as_they_are(connect: Connect, sizes: list[int]) -> None:
    async with connect(echo) as client:
        assert client.status == (101 if connect is over_http1 else 200)
        assert (b"mode", b"echo") in client.headers
        # What would be a request, or its end, is neither.
        sent = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n0\r\n\r\n"
        await client.send(sent, sizes)
        assert await client.raw() == sent
        await client.end()
        assert await client.raw() == b"bye"
        assert client.over()


async def test_the_answer_on_http_1_says_what_is_spoken_now() -> None:
    async with over_http1(echo) as client:
        answer = [(b"connection", b"Upgrade"), (b"upgrade", b"websocket"), (b"mode", b"echo"), DATE]
        assert client.headers == answer


@pytest.mark.parametrize("connect", BOTH)
async def test_no_timeout_of_http_ends_it(autojump_clock: MockClock, connect: Connect) -> None:
    limits = Limits(header_timeout=5, idle_timeout=10, body_timeout=20, write_timeout=30)
    async with connect(echo, limits=limits) as client:
        await trio.sleep(1e6)
        await client.send(b"still here")
        assert await client.raw() == b"still here"
        assert not client.over()


@pytest.mark.parametrize(
    "asking",
    [
        request(),
        request("/", "POST", *OPENING),
        request("/", "GET", "upgrade: websocket"),
        request("/", "GET", "connection: keep-alive", "upgrade: websocket"),
        request("/", "GET", "connection: upgrade"),
        request("/", "GET", *OPENING, version="1.0"),
    ],
)
async def test_what_is_no_upgrade_on_http_1(asking: bytes) -> None:
    async with line(H1Connection, echo) as talk:
        method = asking.split()[0].decode()
        [answer] = h11_answers(await talk.say(asking), [method], ended=talk.ended())
        assert (answer.status, answer.body) == (200, b"protocol ''\n")


@pytest.mark.parametrize(
    "option", ["connection: keep-alive, UpGrade", "connection: a\r\nconnection: upgrade"]
)
async def test_how_an_upgrade_may_be_asked_for(option: str) -> None:
    async with line(H1Connection, echo) as talk:
        assert (await talk.say(request("/", "GET", option, "upgrade: WebSocket"))).startswith(
            b"HTTP/1.1 101 "
        )


async def test_an_upgrade_nobody_asked_for_is_a_mistake_of_ours() -> None:
    async def force(exchange: Exchange) -> None:
        with pytest.raises(ValueError, match="asked for no"):
            exchange.upgrade([])
        exchange.respond(200, [])

    async with line(H1Connection, force) as talk:
        assert h11_answers(await talk.say(request()), ["GET"])[0].status == 200
    async with line(H2Connection, force) as talk:
        client = H2Client()
        number = client.open(head(), end=True)
        await client.turn(talk)
        assert client[number].status == 200


async def test_a_request_that_asks_may_be_answered_as_any_other() -> None:
    async def decline(exchange: Exchange) -> None:
        exchange.respond(404, [], exchange.protocol.encode())

    async with line(H1Connection, decline) as talk:
        for _ in range(2):
            [answer] = h11_answers(await talk.say(UPGRADE), ["GET"])
            assert (answer.status, answer.body) == (404, b"websocket")
        answers = h11_answers(await talk.say(UPGRADE + request()), ["GET", "GET"])
        assert [answer.body for answer in answers] == [b"websocket", b""]


@pytest.mark.parametrize("sizes", [[], [1], [7, 3]])
async def test_an_upgrade_on_a_connection_that_has_served_before(sizes: list[int]) -> None:
    async with line(H1Connection, echo) as talk:
        await talk.say(request("/", "POST", body=b"\x81\x00" * 10), sizes)
        assert (await talk.say(UPGRADE, sizes)).startswith(b"HTTP/1.1 101 ")
        assert await talk.say(b"one", sizes) == b"one"


async def test_an_upgrade_sent_while_the_answer_before_it_is_under_way() -> None:
    go = trio.Event()

    async def slow_first(exchange: Exchange) -> None:
        if not exchange.protocol:
            await go.wait()
        await echo(exchange)

    async with line(H1Connection, slow_first) as talk:
        await talk.send(request())
        await talk.send(UPGRADE)
        go.set()
        await settle()
        first, rest = h11_answer(talk.take(), "GET")
        assert first.body == b"protocol ''\n"
        assert rest.startswith(b"HTTP/1.1 101 ")
        assert await talk.say(b"one") == b"one"


EARLY = [
    [],
    [len(UPGRADE)],
    [1],
    [len(UPGRADE) + 3],
    *([len(UPGRADE) - short, 1000] for short in (1, 2, 3, 4)),
]


@pytest.mark.parametrize("sizes", EARLY)
@pytest.mark.parametrize("early", [b"\x81\x85\0\0\0\0early", UPGRADE, b"\r\n\r\n", b"\n"])
async def test_bytes_before_the_answer_are_refused(sizes: list[int], early: bytes) -> None:
    go = trio.Event()

    async def later(exchange: Exchange) -> None:
        await go.wait()
        await echo(exchange)

    async with line(H1Connection, later) as talk:
        await talk.send(UPGRADE + early, sizes)
        go.set()
        await settle()
        [answer] = h11_answers(talk.take(), ["GET"], ended=talk.ended())
        assert answer.status == 400
        assert b"before the upgrade" in answer.body
        assert talk.ended()


async def test_a_body_is_not_part_of_an_upgrade() -> None:
    async with line(H1Connection, echo) as talk:
        [answer] = h11_answers(
            await talk.say(request("/", "GET", *OPENING, body=b"body")), ["GET"], ended=True
        )
        assert answer.status == 400
        assert talk.ended()


async def test_a_client_that_has_ended_its_side_before_the_answer_still_gets_it() -> None:
    go = trio.Event()

    async def later(exchange: Exchange) -> None:
        await go.wait()
        await echo(exchange)

    async with line(H1Connection, later) as talk:
        await talk.send(UPGRADE)
        await talk.half_close()
        go.set()
        await settle()
        assert talk.take().endswith(b"\r\n\r\nbye")
        assert talk.ended()


@pytest.mark.parametrize("connect", BOTH)
async def test_who_does_not_read_stops_the_peer(connect: Connect) -> None:
    go = trio.Event()
    got = []

    async def late(exchange: Exchange) -> None:
        exchange.upgrade([])
        await go.wait()
        while data := await exchange.receive():
            got.append(len(data))
        exchange.finish()

    # Lockstep would stop the client's own task, so it is a socket's buffer that fills up here.
    async with connect(late) as client, trio.open_nursery() as nursery:
        size = 1_500_000
        if connect is over_http2:
            size = 65_535  # the window
        for start in range(0, size, 15_000):
            nursery.start_soon(client.send, bytes(min(15_000, size - start)))
            await settle()
        exchange = next(iter(client.talk.h2.exchanges.values())) if connect is over_http2 else None
        held = exchange.buffered if exchange else client.talk.conn._exchange.buffered  # type: ignore[union-attr]
        assert 0 < held <= 256 * 1024 + 65_536
        go.set()
        await client.end()
        assert sum(got) == size


@pytest.mark.parametrize("connect", BOTH)
async def test_what_is_pushed_waits_for_a_flush(connect: Connect) -> None:
    opened: list[Exchange] = []

    async def hold(exchange: Exchange) -> None:
        exchange.upgrade([])
        opened.append(exchange)
        await exchange.receive()
        exchange.finish()

    async with connect(hold) as client:
        [exchange] = opened
        states = [exchange.is_flushed]
        exchange.push(b"one")
        exchange.push(b"two")
        assert await client.raw() == b""
        states.append(exchange.is_flushed)
        exchange.flush()
        assert await client.raw() == b"onetwo"
        states.append(exchange.is_flushed)
        assert states == [True, False, True]
        await exchange.wait_flushed()
        exchange.push(b"three")
        await exchange.drain()
        assert await client.raw() == b"three"
        await client.end()


@pytest.mark.parametrize("connect", BOTH)
async def test_what_is_sent_now_comes_after_what_was_pushed(connect: Connect) -> None:
    opened: list[Exchange] = []

    async def hold(exchange: Exchange) -> None:
        exchange.upgrade([])
        opened.append(exchange)
        await exchange.receive()
        exchange.finish()

    async with connect(hold) as client:
        [exchange] = opened
        exchange.push(b"one")
        assert not exchange.send_now(b"two"), "the writer is yet to send it"
        assert not exchange.send_now(b"three")
        assert await client.raw() == b"onetwothree"
        assert exchange.is_flushed
        assert exchange.bytes_out == len(b"onetwothree")
        await client.end()


@pytest.mark.parametrize("connect", BOTH)
async def test_who_is_gone_takes_nothing(autojump_clock: MockClock, connect: Connect) -> None:
    opened: list[Exchange] = []

    async def hold(exchange: Exchange) -> None:
        exchange.upgrade([])
        opened.append(exchange)
        await trio.sleep_forever()

    async with connect(hold) as client:
        await client.talk.close()
    [exchange] = opened
    with pytest.raises(Disconnected):
        exchange.push(b"late")
    with pytest.raises(Disconnected):
        exchange.send_now(b"late")
    exchange.flush()
    assert not exchange.is_flushed
    with pytest.raises(Disconnected):
        await exchange.wait_flushed()


async def test_a_peer_that_takes_nothing_is_told_by_is_flushed_and_cut_by_abort(
    autojump_clock: MockClock,
) -> None:
    opened: list[Exchange] = []

    async def hold(exchange: Exchange) -> None:
        exchange.upgrade([])
        opened.append(exchange)
        await exchange.receive()

    async with line(H1Connection, hold, pair=lockstep_pair(), reads=False) as talk:
        await talk.send(UPGRADE)
        [exchange] = opened
        exchange.push(bytes(HIGH_WATER))
        exchange.flush()
        await settle()
        assert not exchange.is_flushed
        exchange.push(bytes(HIGH_WATER))
        with trio.move_on_after(0) as waiting:
            await exchange.drain()
        assert waiting.cancelled_caught
        exchange.abort()
        await settle()
        assert talk.lost()
        # The connection does not wait for its write timeout.
        with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):
            await talk.stream.send_all(b"anybody there?")


async def test_abort_on_http_2_resets_the_stream_and_no_other() -> None:
    async def fickle(exchange: Exchange) -> None:
        exchange.upgrade([])
        if exchange.path == "/abort":
            exchange.abort()
            return
        await exchange.send(await exchange.receive())
        exchange.finish()

    async with over_http2(fickle, "/stay") as client:
        other = client.http2.open(  # type: ignore[attr-defined]
            head("/abort", "CONNECT", (b":protocol", b"websocket"))
        )
        await client.http2.turn(client.talk)  # type: ignore[attr-defined]
        assert client.http2[other].reset is not None  # type: ignore[attr-defined]
        await client.send(b"here")
        assert await client.raw() == b"here"


@pytest.mark.parametrize("connect", BOTH)
async def test_a_peer_that_goes_away_ends_the_application(
    autojump_clock: MockClock, connect: Connect
) -> None:
    ends = []

    async def hold(exchange: Exchange) -> None:
        exchange.upgrade([])
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            ends.append("cancelled")
            raise

    async with connect(hold) as client:
        await client.talk.close()
        await settle()
        if connect is over_http2:
            assert ends == ["cancelled"]
    assert ends == ["cancelled"]


@pytest.mark.parametrize("connect", BOTH)
async def test_the_end_of_the_service_interrupts_it_once(connect: Connect) -> None:
    told: list[bool] = []

    async def say_goodbye(exchange: Exchange) -> None:
        exchange.upgrade([])
        try:
            await exchange.receive()
        except Interrupted:
            told.append(exchange.draining)
        await exchange.send(b"going")
        while await exchange.receive():
            pass
        exchange.finish()

    async with connect(say_goodbye) as client:
        client.talk.conn.start_drain()
        assert await client.raw() == b"going"
        assert told == [True]
        assert not client.over()
        await client.end()
        await client.raw()
        assert client.over()
        await settle()
        assert client.talk.ended()


async def test_an_upgrade_answered_after_the_end_of_the_service_began_is_interrupted_too() -> None:
    go = trio.Event()
    told: list[bool] = []

    async def late(exchange: Exchange) -> None:
        await go.wait()
        exchange.upgrade([])
        with pytest.raises(Interrupted):
            await exchange.receive()
        told.append(exchange.draining)
        exchange.finish()

    async with line(H1Connection, late) as talk:
        await talk.send(UPGRADE)
        talk.conn.start_drain()
        go.set()
        await settle()
        assert talk.ended()
    async with line(H2Connection, late) as talk:
        go = trio.Event()
        client = H2Client()
        client.open(head("/", "CONNECT", (b":protocol", b"websocket")))
        await client.turn(talk)
        talk.conn.start_drain()
        go.set()
        await client.turn(talk)
        await settle()
    assert told == [True, True]


async def test_moving_to_a_new_connection_does_not_interrupt_what_is_open() -> None:
    limits = Limits(max_requests=2)
    async with over_http2(echo, limits=limits) as client:
        http2 = client.http2  # type: ignore[attr-defined]
        http2.open(head("/", "POST"), end=True)
        await http2.turn(client.talk)
        assert http2.goaways
        await client.send(b"on and on")
        assert await client.raw() == b"on and on"
        # The end of the service does, also then.
        client.talk.conn.start_drain()
        await settle()


async def test_connect_without_a_protocol_is_refused() -> None:
    async with line(H2Connection, echo) as talk:
        client = H2Client()
        number = client.open([(b":method", b"CONNECT"), (b":authority", b"h")])
        await client.turn(talk)
        assert client[number].reset is not None


async def test_who_waits_for_a_stream_that_is_reset_learns_it_at_once(autojump_clock: MockClock) -> None:
    opened: list[Exchange] = []
    ends: list[float] = []

    async def hold(exchange: Exchange) -> None:
        exchange.upgrade([])
        opened.append(exchange)
        await trio.sleep_forever()

    async def wait() -> None:
        with pytest.raises(Disconnected):
            await opened[0].wait_flushed()
        ends.append(trio.current_time())

    async with over_http2(hold) as client, trio.open_nursery() as nursery:
        http2 = client.http2  # type: ignore[attr-defined]
        http2.consumes = False
        opened[0].push(bytes(100_000))
        nursery.start_soon(wait)
        assert len(await client.raw()) == 65_535
        http2.h2.reset_stream(client.stream)  # type: ignore[attr-defined]
        now = trio.current_time()
        await http2.turn(client.talk)
        assert ends == [now]


async def test_a_stream_that_was_on_its_way_when_the_service_ended_knows_it() -> None:
    async def tell(exchange: Exchange) -> None:
        exchange.respond(200, [], str(exchange.draining).encode())

    async with line(H2Connection, tell) as talk:
        client = H2Client()
        early = client.open(head(), end=True)
        await client.turn(talk)
        late = client.open(head(), end=True)
        talk.conn.start_drain()
        await client.turn(talk)
        assert (bytes(client[early].body), bytes(client[late].body)) == (b"False", b"True")
