"""HTTP/2 flow control both ways, with counted bytes (RFC 9113 section 5.2)."""

from __future__ import annotations

import h2.settings
import pytest
import trio
from trio.testing import MockClock

from fawa.net.connection import HIGH_WATER, Limits
from fawa.net.engine import H2ErrorCode
from fawa.net.exchange import Disconnected, Exchange
from fawa.net.http2 import H2Connection
from tests.net.talk import DATA, PING, WINDOW_UPDATE, H2Client, Line, frame, frames, head, line, settle

MIB = 1024 * 1024


async def count(exchange: Exchange) -> None:
    """Read the body as it comes, answer with its length."""
    while await exchange.receive():
        pass
    exchange.respond(200, [], b"%d" % exchange.bytes_in)


async def upload(talk: Line, client: H2Client, stream: int, size: int, *, pad: int | None = None) -> int:
    """Send up to `size` body bytes as the windows allow; returns how many that were."""
    sent = 0
    while sent < size:
        room = client.h2.local_flow_control_window(stream)
        piece = min(size - sent, 16_384, room) if pad is None else min(size - sent, 1000, room - pad - 1)
        if piece <= 0:
            break
        client.h2.send_data(stream, bytes(piece), pad_length=pad)
        sent += piece
        await client.turn(talk)
    return sent


async def finish(talk: Line, client: H2Client, stream: int) -> bytes:
    """End the body and return the answer's."""
    client.h2.end_stream(stream)
    await client.turn(talk)
    assert client[stream].ended
    return bytes(client[stream].body)


# From the client to us


async def test_who_does_not_read_stops_its_own_stream_and_no_other() -> None:
    go = trio.Event()

    async def some_wait(exchange: Exchange) -> None:
        if exchange.path == "/stuck":
            await go.wait()
        await count(exchange)

    async with line(H2Connection, some_wait) as talk:
        client = H2Client()
        stuck, flowing = client.open(head("/stuck")), client.open(head("/flowing"))
        assert await upload(talk, client, stuck, 5 * MIB) == 65_535
        assert talk.h2._unconsumed == talk.h2.exchanges[stuck].buffered == 65_535
        assert await upload(talk, client, flowing, 20 * MIB) == 20 * MIB
        assert await finish(talk, client, flowing) == b"%d" % (20 * MIB)
        assert talk.h2._unconsumed == 65_535
        go.set()
        await client.turn(talk)
        assert await upload(talk, client, stuck, 5 * MIB) == 5 * MIB
        assert await finish(talk, client, stuck) == b"%d" % (5 * MIB + 65_535)
        assert talk.h2._unconsumed == 0


async def test_streams_that_are_stuck_with_most_of_the_connections_window_stop_no_other() -> None:
    go = trio.Event()

    async def stop_after_a_while(exchange: Exchange) -> None:
        while exchange.path == "/stuck" and exchange.bytes_in < 200_000 and await exchange.receive():
            pass
        if exchange.path == "/stuck":
            await go.wait()
        await count(exchange)

    limits = Limits(stream_window=MIB, connection_window=8 * MIB)
    async with line(H2Connection, stop_after_a_while, limits=limits) as talk:
        client = H2Client()
        stuck = [client.open(head("/stuck")) for _ in range(7)]
        for stream in stuck:
            sent = await upload(talk, client, stream, 20 * MIB)
            # A stream that has been read has the whole window.
            assert MIB - 65_536 <= talk.h2.exchanges[stream].buffered <= MIB
            assert sent < 2 * MIB
        assert 6 * MIB < talk.h2._unconsumed <= 7 * MIB
        flowing = client.open(head("/flowing"))
        assert await upload(talk, client, flowing, 20 * MIB) == 20 * MIB
        assert await finish(talk, client, flowing) == b"%d" % (20 * MIB)
        go.set()
        await client.turn(talk)
        for stream in stuck:
            await finish(talk, client, stream)
        assert talk.h2._unconsumed == 0
        last = client.open()
        assert await upload(talk, client, last, 20 * MIB) == 20 * MIB


async def test_the_connections_window_bounds_what_all_streams_hold() -> None:
    go = trio.Event()

    async def stuck(exchange: Exchange) -> None:
        while exchange.bytes_in < 40_000 and await exchange.receive():
            pass
        await go.wait()
        await count(exchange)

    async with line(H2Connection, stuck, limits=Limits(connection_window=2 * MIB)) as talk:
        client = H2Client()
        streams = [client.open() for _ in range(20)]
        for stream in streams:
            await upload(talk, client, stream, 20 * MIB)
        assert MIB < talk.h2._unconsumed <= 2 * MIB
        assert sum(exchange.buffered for exchange in talk.h2.exchanges.values()) == talk.h2._unconsumed
        # A client that has no window left can still be heard.
        client.h2.reset_stream(streams[0])
        await client.turn(talk)
        assert streams[0] not in talk.h2.exchanges
        go.set()
        await client.turn(talk)
        assert talk.h2._unconsumed == 0


@pytest.mark.parametrize("pad", [0, 100, 255])
async def test_padding_takes_no_window_away(pad: int) -> None:
    limits = Limits(stream_window=65_536, connection_window=100_000)
    async with line(H2Connection, count, limits=limits) as talk:
        client = H2Client()
        stream = client.open()
        assert await upload(talk, client, stream, 500_000, pad=pad) == 500_000
        assert await finish(talk, client, stream) == b"500000"


@pytest.mark.parametrize("read", [False, True])
async def test_frames_of_nothing_but_padding(read: bool) -> None:
    """No application ever reads them, so their window comes back by itself."""

    async def perhaps_read(exchange: Exchange) -> None:
        if exchange.path == "/padded" and not read:
            await trio.sleep_forever()
        await count(exchange)

    limits = Limits(stream_window=65_536, connection_window=100_000)
    async with line(H2Connection, perhaps_read, limits=limits) as talk:
        client = H2Client()
        stream, other = client.open(head("/padded")), client.open(head("/other"))
        client.h2.send_data(stream, b"abc")
        for _ in range(3000):
            client.h2.send_data(stream, b"", pad_length=255)
            if client.h2.local_flow_control_window(stream) < 1000:
                await client.turn(talk)
                if client.h2.local_flow_control_window(stream) < 1000:
                    break
        # Where data lies unread, the window stays with it: the padding is not told from the data.
        assert (client.h2.local_flow_control_window(stream) < 1000) != read
        assert await upload(talk, client, other, 500_000) == 500_000


async def test_window_that_comes_back_while_only_padding_arrives_is_not_a_way_round_the_bound() -> None:
    """Data, then padding in a read of its own: what lies unread must not grow by such pairs."""

    async def stuck(exchange: Exchange) -> None:
        await trio.sleep_forever()

    async with line(H2Connection, stuck) as talk:
        client = H2Client()
        stream = client.open()
        for _ in range(100):
            for size, pad in ((16_000, None), (0, 255)):
                if client.h2.local_flow_control_window(stream) > size + 256:
                    client.h2.send_data(stream, bytes(size), pad_length=pad)
                    await client.turn(talk)
        assert talk.h2.exchanges[stream].buffered <= 65_535


async def test_who_sends_more_than_the_window_loses_that_stream() -> None:
    async def stuck(exchange: Exchange) -> None:
        if exchange.path == "/stuck":
            await trio.sleep_forever()
        await count(exchange)

    limits = Limits(stream_window=65_536)
    async with line(H2Connection, stuck, limits=limits) as talk:
        client = H2Client()
        bad, good = client.open(head("/stuck")), client.open(head("/good"))
        await client.turn(talk)
        for _ in range(20):
            await talk.send(frame(DATA, 0, bad, bytes(16_384)))
        client.h2._inbound_flow_control_window_manager.max_window_size = 2**31 - 1  # of no interest here
        client.receive(talk.take())
        assert client[bad].reset == H2ErrorCode.FLOW_CONTROL_ERROR
        assert bad not in talk.h2.exchanges
        assert talk.h2._unconsumed == 0
        assert await upload(talk, client, good, 60_000) == 60_000
        assert await finish(talk, client, good) == b"60000"


async def test_a_stream_over_the_window_before_its_call_began() -> None:
    begun: list[str] = []

    async def note(exchange: Exchange) -> None:
        begun.append(exchange.path)
        await count(exchange)

    client = H2Client()
    stream = client.open(head("/a"))
    first = client.to_send() + frame(DATA, 0, stream, bytes(16_384)) * 12
    async with line(H2Connection, note, limits=Limits(stream_window=65_536), first=first) as talk:
        client.receive(talk.take())
        assert client[stream].reset == H2ErrorCode.FLOW_CONTROL_ERROR
        assert (begun, talk.h2.exchanges, talk.h2._unconsumed) == ([], {}, 0)


# From us to the client


async def endless(exchange: Exchange) -> None:
    exchange.start(200, [])
    for _ in range(10_000):
        await exchange.send(bytes(10_000))
    exchange.finish()


async def test_a_client_without_window_blocks_the_sender_and_no_other(autojump_clock: MockClock) -> None:
    outcome: list[tuple[str, int]] = []

    async def serve(exchange: Exchange) -> None:
        if exchange.path != "/blocked":
            await count(exchange)
            return
        try:
            await endless(exchange)
        except Disconnected as error:
            outcome.append((str(error), exchange.bytes_out))
            raise

    async with line(H2Connection, serve, limits=Limits(write_timeout=60)) as talk:
        client = H2Client(window=0)
        blocked = client.open(head("/blocked"), end=True)
        await client.turn(talk)
        pending = talk.h2.engine.pending(blocked)
        assert HIGH_WATER <= pending <= HIGH_WATER + 10_000
        # Other streams go on: here one every few seconds, with window for each.
        for _ in range(11):
            await trio.sleep(5)
            other = client.open(head("/other"), end=True)
            client.h2.increment_flow_control_window(1000, other)
            await client.turn(talk)
            assert bytes(client[other].body) == b"0"
        assert client[blocked].reset is None
        await trio.sleep(6)
        await client.turn(talk)
        assert client[blocked].reset == H2ErrorCode.INTERNAL_ERROR
        [(text, size)] = outcome
        assert "took nothing for 60 s" in text
        assert size == pending
        assert not talk.ended()


async def test_a_client_that_gives_window_slowly_is_served_to_the_end(autojump_clock: MockClock) -> None:
    async def large(exchange: Exchange) -> None:
        exchange.start(200, [])
        for _ in range(50):
            await exchange.send(bytes(20_000))
        exchange.finish()

    async with line(H2Connection, large, limits=Limits(write_timeout=60)) as talk:
        client = H2Client(window=0)
        stream = client.open(end=True)
        await client.turn(talk)
        while not client[stream].is_over:
            await trio.sleep(50)
            client.h2.increment_flow_control_window(8_000, stream)
            client.h2.increment_flow_control_window(8_000)
            await client.turn(talk)
        assert len(client[stream].body) == 1_000_000
        assert client[stream].ended


async def test_an_answer_that_waits_for_the_window_is_an_open_stream(autojump_clock: MockClock) -> None:
    async def large(exchange: Exchange) -> None:
        exchange.respond(200, [], bytes(100_000))

    async with line(H2Connection, large, limits=Limits(max_streams=3, write_timeout=60)) as talk:
        client = H2Client(consumes=False, window=0)
        streams = [client.open(end=True) for _ in range(4)]
        await client.turn(talk)
        assert [client[s].reset for s in streams] == [None, None, None, H2ErrorCode.REFUSED_STREAM]
        for _ in range(10):
            await trio.sleep(50)
            client.h2.increment_flow_control_window(10_000, streams[0])
            await client.turn(talk)
        assert (len(client[streams[0]].body), client[streams[0]].ended) == (100_000, True)
        # The others gave nothing.
        assert [client[s].reset for s in streams[1:3]] == [H2ErrorCode.CANCEL] * 2
        assert talk.h2.exchanges == {}


async def test_the_end_of_a_connection_waits_for_answers_that_wait_for_the_window() -> None:
    async def large(exchange: Exchange) -> None:
        exchange.respond(200, [], bytes(300_000))

    async with line(H2Connection, large, limits=Limits(max_requests=3)) as talk:
        client = H2Client()
        streams = [client.open(end=True) for _ in range(3)]
        await client.turn(talk)
        assert [(len(client[s].body), client[s].ended) for s in streams] == [(300_000, True)] * 3
        assert client.goaways == [2**31 - 1, streams[-1]]
        assert talk.ended()


async def test_an_early_answer_is_whole_before_the_rest_of_the_request_is_given_up() -> None:
    async def refuse(exchange: Exchange) -> None:
        exchange.respond(400, [], bytes(300_000))

    async with line(H2Connection, refuse) as talk:
        client = H2Client()
        stream = client.open()
        client.h2.send_data(stream, bytes(10_000))
        await client.turn(talk)
        assert (len(client[stream].body), client[stream].ended) == (300_000, True)
        assert client[stream].reset == H2ErrorCode.NO_ERROR


async def test_a_window_update_behind_data_that_nobody_reads_is_still_seen() -> None:
    """The handler waits to send while its inbound is full; what frees it comes behind more data."""

    async def send_then_read(exchange: Exchange) -> None:
        exchange.start(200, [])
        for _ in range(100):
            await exchange.send(bytes(10_000))
        exchange.push(b"%d" % len(await exchange.read_all(10 * MIB)))
        exchange.finish()

    async with line(H2Connection, send_then_read) as talk:
        client = H2Client(consumes=False)
        stream = client.open()
        await client.turn(talk)
        sent = 0
        while room := client.h2.local_flow_control_window(stream):
            size = min(room, 10_000)
            client.h2.send_data(stream, bytes(size))
            sent += size
        await talk.send(client.to_send() + frame(WINDOW_UPDATE, 0, stream, (2 * MIB).to_bytes(4, "big")))
        client.h2._get_stream_by_id(stream)._inbound_window_manager.window_opened(2 * MIB)
        await client.turn(talk)
        assert len(client[stream].body) == 1_000_000
        client.h2.end_stream(stream)
        await client.turn(talk)
        assert bytes(client[stream].body[1_000_000:]) == b"%d" % sent


async def test_a_client_that_changes_its_mind_about_the_window() -> None:
    """A smaller initial window makes open ones negative (RFC 9113 section 6.9.2)."""

    async def large(exchange: Exchange) -> None:
        exchange.respond(200, [], bytes(200_000))

    async with line(H2Connection, large) as talk:
        client = H2Client(consumes=False, window=50_000)
        stream = client.open(end=True)
        await client.turn(talk)
        assert len(client[stream].body) == 50_000
        client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10_000})
        await client.turn(talk)
        client.h2.increment_flow_control_window(30_000, stream)  # 10,000 less than nothing
        await client.turn(talk)
        assert len(client[stream].body) == 50_000
        client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**30})
        await client.turn(talk)
        assert (len(client[stream].body), client[stream].ended) == (200_000, True)


async def test_a_ping_is_answered_while_a_stream_is_blocked() -> None:
    async with line(H2Connection, endless) as talk:
        client = H2Client(window=0)
        client.open(end=True)
        await client.turn(talk)
        answer = await talk.say(frame(PING, 0, 0, b"anyone??"))
        assert (PING, 1, 0, b"anyone??") in list(frames(answer))


async def test_what_the_application_has_read_it_keeps_when_the_stream_goes() -> None:
    """Window of a stream that ends with data unread goes back to the connection."""

    async def stuck(exchange: Exchange) -> None:
        await trio.sleep_forever()

    async with line(H2Connection, stuck, limits=Limits(connection_window=200_000)) as talk:
        client = H2Client()
        for _ in range(50):
            stream = client.open()
            assert await upload(talk, client, stream, 60_000) == 60_000
            client.h2.reset_stream(stream)
            await client.turn(talk)
        await settle()
        assert talk.h2._unconsumed == 0
