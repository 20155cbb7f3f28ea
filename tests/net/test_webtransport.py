"""WebTransport sessions between our listener and aioquic's client, on a network in memory."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from fawa.net import tls
from fawa.net.capsules import Close, Drain, encode_capsule, from_http_code, to_http_code
from fawa.net.connection import Limits
from fawa.net.exchange import Disconnected, Exchange
from fawa.net.session_streams import SESSION_GONE, STREAM_REJECTED
from fawa.net.webtransport import Session, Stream, StreamReset, accept, admit
from tests.net.quic_talk import Client, Weather, certificate, listening
from tests.net.webtransport_talk import ask_for, echo, enter, hall, until_over


@pytest.fixture(scope="module")
def cert(tmp_path_factory: pytest.TempPathFactory) -> tls.Certificate:
    return certificate(Path(tmp_path_factory.mktemp("tls")))


async def until_all_ended(client: Client, numbers: list[int]) -> None:
    await client.until(lambda: all(client[number].ended for number in numbers))


async def until_broken(stream: Stream) -> None:
    while True:
        await stream.receive()


# Opening


async def test_the_opening(cert: tls.Certificate, autojump_clock: MockClock) -> None:
    async with hall(cert, until_over, protocols=("fawa.v2", "fawa.v1")) as there:
        page = await enter(
            there.client,
            [
                (b"sec-webtransport-http3-draft02", b"1"),
                (b"wt-available-protocols", b'"fawa.v1", "other";x="a, b"'),
                (b"wt-available-protocols", b'"fawa.v2";q=1'),
                (b"origin", b"https://app.example"),
            ],
        )
        assert page.answer.head[b"sec-webtransport-http3-draft"] == b"draft02"
        assert page.answer.head[b"wt-protocol"] == b'"fawa.v2"'
        assert there.sessions[0].protocol == "fawa.v2"
        assert there.sessions[0].exchange.version == "3"


@pytest.mark.parametrize(
    "offer", [b"", b'"other"', b"fawa.v2", b'"fawa.v2" "x"', b'"fawa.v2', b'"fawa.v2",', b"1, 2", b"\xff"]
)
async def test_without_a_protocol_that_both_speak(
    cert: tls.Certificate, offer: bytes, autojump_clock: MockClock
) -> None:
    async with hall(cert, until_over, protocols=("fawa.v2",)) as there:
        page = await enter(there.client, [(b"wt-available-protocols", offer)])
        assert b"wt-protocol" not in page.answer.head
        assert b"sec-webtransport-http3-draft" not in page.answer.head
        assert there.sessions[0].protocol is None


async def test_a_protocol_with_quotes_in_its_name(cert: tls.Certificate, autojump_clock: MockClock) -> None:
    async with hall(cert, until_over, protocols=('a "b" \\',)) as there:
        page = await enter(there.client, [(b"wt-available-protocols", b'"a \\"b\\" \\\\"')])
        assert page.answer.head[b"wt-protocol"] == b'"a \\"b\\" \\\\"'


async def test_pages_of_other_origins_may_not(cert: tls.Certificate, autojump_clock: MockClock) -> None:
    async with hall(cert) as there:
        page = ask_for(there.client, [(b"origin", b"https://evil.example")])
        await there.client.until(lambda: page.answer.ended)
        assert page.answer.status == 403
        assert b"https://evil.example may not connect" in page.answer.body
        await enter(there.client, [(b"origin", b"https://fawa.example")])


async def test_what_is_no_session(cert: tls.Certificate, autojump_clock: MockClock) -> None:
    async with hall(cert) as there:
        answer = await there.client.ask("/session", method="GET")
        assert answer.status == 400
        assert answer.body == b"/session is a WebTransport session: connect by extended CONNECT on HTTP/3\n"


async def test_a_connection_has_only_so_many_sessions(
    cert: tls.Certificate, autojump_clock: MockClock
) -> None:
    async with hall(cert) as there:
        pages = [await enter(there.client) for _ in range(8)]
        one = ask_for(there.client)
        await there.client.until(lambda: one.answer.ended)
        assert one.answer.status == 429
        pages[0].say(b"", end=True)
        await there.client.until(lambda: pages[0].answer.ended)
        await enter(there.client)
        assert await pages[1].ask(b"still here") == b"still here"


# Streams


@pytest.mark.parametrize("seed", range(4))
async def test_streams_are_whole_and_ordered_where_the_network_is_bad(
    cert: tls.Certificate, seed: int, autojump_clock: MockClock
) -> None:
    weather = Weather(loss=0.05, reorder=0.2, duplicate=0.1)
    async with hall(cert, weather=weather, seed=seed) as there:
        page, _ = await there.enter()
        chance = random.Random(seed)
        sent = {}
        for size in (0, 1, 1000, 70_000, 400_000):
            data = chance.randbytes(size)
            sent[page.open(data, end=True)] = data
        await there.client.until(lambda: all(there.client[number].ended for number in sent))
        assert {number: bytes(there.client[number].body) for number in sent} == sent
        one_way = chance.randbytes(90_000)
        page.open(one_way, uni=True, end=True)
        await there.client.until(lambda: any(there.client[number].ended for number in page.pushed()))
        assert [bytes(there.client[number].body) for number in page.pushed()] == [one_way]


async def test_a_stream_that_the_server_opens_both_ways(
    cert: tls.Certificate, autojump_clock: MockClock
) -> None:
    heard: list[bytes] = []

    async def handler(session: Session) -> None:
        with session.open_bidi() as stream:
            assert stream.is_bidirectional
            await stream.send(b"question")
            # What looks like HTTP/3 frames of the worst kind is none.
            while data := await stream.receive():
                heard.append(data)
            stream.finish()
        await until_over(session)

    async with hall(cert, handler) as there:
        await there.enter()
        client = there.client
        await client.until(lambda: client[1].body)
        assert client[1].body == b"question"
        client.send_raw(1, b"\x04\x00\x01\x00", end=False)
        client.send_raw(1, b"\x07\x00", end=True)
        await client.until(lambda: client[1].ended)
        assert b"".join(heard) == b"\x04\x00\x01\x00\x07\x00"
        await trio.sleep(1)
        assert there.leftovers()["streams"] == 0


@pytest.mark.parametrize("kind", ["bidi", "uni", "pushed", "served", "reset", "stopped"])
async def test_ten_thousand_streams_leave_nothing_behind(
    cert: tls.Certificate, kind: str, autojump_clock: MockClock
) -> None:
    async def handler(session: Session) -> None:
        if kind in ("pushed", "served"):
            for turn in range(10_000):
                with session.open_uni() if kind == "pushed" else session.open_bidi() as stream:
                    stream.push(b"%d" % turn)
                    stream.finish()
                    while not session.is_flushed:
                        await trio.sleep(0.01)
            await until_over(session)
        elif kind == "uni":
            while (stream := await session.accept_stream()) is not None:
                while await stream.receive():
                    pass
        else:
            await echo(session)

    async with hall(cert, handler, weather=Weather(delay=0.001)) as there:
        page, session = await there.enter()
        client = there.client
        before = there.leftovers()
        total = 10_000
        if kind in ("pushed", "served"):
            await client.until(lambda: len([n for n in client.answers if n % 4 in (1, 3)]) >= total)
        for start in range(0, total, 100) if kind not in ("pushed", "served") else ():
            numbers = [
                page.open(b"hello", uni=kind == "uni", end=kind in ("bidi", "uni")) for _ in range(100)
            ]
            if kind == "reset":
                for number in numbers:
                    page.reset(number, to_http_code(1))
            elif kind == "stopped":
                for number in numbers:
                    page.stop(number, to_http_code(2))
                    page.reset(number, to_http_code(1))
            elif kind == "bidi":
                await until_all_ended(client, numbers)
            if kind == "bidi" and start == 0:
                assert client[numbers[0]].body == b"hello"
            for number in numbers:
                client.answers.pop(number, None)
            assert client.h3 is not None
            for number in numbers:
                client.h3._stream.pop(number, None)
            await trio.sleep(0.1)
        await trio.sleep(2)
        after = there.leftovers()
        assert session.is_open
        assert {name: after[name] - before[name] for name in after if after[name] > before[name]} == {}
        assert session.is_flushed


async def test_a_client_that_opens_a_stream_for_each_message_never_starves(
    cert: tls.Certificate, autojump_clock: MockClock
) -> None:
    # More at one time than requests may be open, and many more in all.
    async with hall(cert, weather=Weather(delay=0.001)) as there:
        page, _ = await there.enter()
        client = there.client
        for _ in range(10):
            numbers = [page.open(b"x", end=True) for _ in range(1000)]
            assert not client.quic._streams_blocked_bidi
            await until_all_ended(client, numbers)
            for number in numbers:
                del client.answers[number]
            await trio.sleep(0.1)
        answer = await client.ask("/session", method="GET")
        assert answer.status == 400


async def test_streams_that_nobody_accepts_are_bounded(
    cert: tls.Certificate, autojump_clock: MockClock
) -> None:
    async with hall(cert, until_over, weather=Weather(delay=0.001)) as there:
        page, session = await there.enter()
        client = there.client
        for _ in range(40):
            for _ in range(100):
                page.open(b"x", uni=True, end=True)
            await trio.sleep(0.1)
        left = there.leftovers()
        assert left["waiting"] == left["streams"] == 2048
        # Those one way are over for the connection, so the newest were rejected; none both ways ever is.
        numbers = [page.open(b"y", uni=False) for _ in range(20)]
        await client.until(lambda: all(client[number].stopped for number in numbers))
        assert {client[number].stopped for number in numbers} == {STREAM_REJECTED}
        first = await session.accept_stream()
        assert first is not None
        assert await first.receive() == b"x"
        number = page.open(b"z")
        await trio.sleep(1)
        assert client[number].stopped is None


async def test_a_stream_that_nobody_reads_stops_its_sender_alone(
    cert: tls.Certificate, autojump_clock: MockClock
) -> None:
    taken: list[Stream] = []

    async def handler(session: Session) -> None:
        first = await session.accept_stream()
        assert first is not None
        taken.append(first)
        await echo(session)

    async with hall(cert, handler) as there:
        page, _ = await there.enter()
        number = page.open(b"x" * 4_000_000, end=True)
        await trio.sleep(5)
        [stream] = taken
        assert len(stream._buffer) <= Limits().stream_window
        assert await page.ask(b"others") == b"others"
        size = 0
        while data := await stream.receive():
            size += len(data)
        assert size == 4_000_000
        await trio.sleep(1)
        assert there.client.quic._streams[number].sender.is_finished


async def test_streams_that_nobody_reads_are_bounded_together(
    cert: tls.Certificate, autojump_clock: MockClock
) -> None:
    async with hall(cert, until_over) as there:
        page, session = await there.enter()
        for _ in range(30):
            page.open(b"x" * 1_000_000, end=True)
        await trio.sleep(10)
        held = sum(len(stream._buffer) for stream in session._streams._streams.values())
        assert 1_000_000 < held <= Limits().connection_window
        there.client.close()


async def test_a_peer_that_does_not_read_stops_the_sender(
    cert: tls.Certificate, autojump_clock: MockClock
) -> None:
    sent = [0]

    async def handler(session: Session) -> None:
        with session.open_uni() as stream:
            assert stream.is_flushed
            while True:
                await stream.send(b"x" * 10_000)
                sent[0] += 10_000
                if sent[0] > 300_000:
                    assert not stream.send_now(b"x" * 100_000)
                    assert not session.is_flushed

    async with hall(cert, handler, stingy=True, window=100_000, limits=Limits(write_timeout=5)) as there:
        _page, session = await there.enter()
        await trio.sleep(4)
        assert 100_000 < sent[0] < 3_000_000
        assert there.left == []
        await trio.sleep(10)
        # It took nothing for the write timeout.
        assert there.left == [session]


async def test_one_way_streams_that_the_peer_does_not_let_be_open_are_seen(
    cert: tls.Certificate, autojump_clock: MockClock
) -> None:
    opened = [0]

    async def handler(session: Session) -> None:
        while session.is_flushed:
            stream = session.open_uni()
            stream.push(b"x" * 100)
            stream.finish()
            opened[0] += 1
            await trio.sleep(0.001)
        await until_over(session)

    async with hall(cert, handler, stingy=True) as there:
        page, session = await there.enter()
        await trio.sleep(10)
        assert 128 < opened[0] < 500
        # Ending the session must not break the rule that holds these back.
        page.say(b"", end=True)
        await trio.sleep(1)
        assert there.left == [session]
        assert there.client.terminated is None
        assert (await there.client.ask("/x", method="GET")).status == 400


# Resets


async def test_codes_go_both_ways(cert: tls.Certificate, autojump_clock: MockClock) -> None:
    heard: list[int | None] = []

    async def handler(session: Session) -> None:
        stream = await session.accept_stream()
        assert stream is not None
        with pytest.raises(StreamReset) as reset:
            await until_broken(stream)
        heard.append(reset.value.code)
        stream.reset(77)
        other = await session.accept_stream()
        assert other is not None
        other.stop(4_000_000_000)
        await trio.sleep(3)
        with pytest.raises(StreamReset, match="stopped stream 8 with code 12") as stopped:
            other.push(b"x")
        heard.append(stopped.value.code)
        with pytest.raises(StreamReset):
            await other.drain()
        assert not other.is_flushed
        with pytest.raises(Disconnected):
            await other.receive()
        with pytest.raises(StreamReset):
            other.finish()
        third = await session.accept_stream()
        assert third is not None
        with pytest.raises(StreamReset) as strange:
            await until_broken(third)
        heard.append(strange.value.code)
        third.reset()
        await until_over(session)

    async with hall(cert, handler) as there:
        page, _session = await there.enter()
        client = there.client
        first = page.open(b"hello")
        await trio.sleep(1)
        page.reset(first, to_http_code(30))
        await client.until(lambda: client[first].reset is not None)
        assert from_http_code(client[first].reset or 0) == 77
        second = page.open(b"hello")
        await client.until(lambda: client[second].stopped is not None)
        assert from_http_code(client[second].stopped or 0) == 4_000_000_000
        page.stop(second, to_http_code(12))
        await trio.sleep(3)
        third = page.open(b"hello")
        await trio.sleep(1)
        page.reset(third, 0x10C)  # none of an application's
        await trio.sleep(1)
        assert there.left == []
        assert heard == [30, 12, None]


@pytest.mark.parametrize("seed", range(6))
async def test_resets_at_every_moment_leave_the_session_alone(
    cert: tls.Certificate, seed: int, autojump_clock: MockClock
) -> None:
    chance = random.Random(seed)
    async with hall(cert, weather=Weather(loss=0.05, reorder=0.2, duplicate=0.1), seed=seed) as there:
        page, session = await there.enter()
        client = there.client
        before = there.leftovers()
        for _ in range(200):
            uni = chance.random() < 0.3
            number = page.open(b"x" * chance.randrange(5000), uni=uni, end=chance.random() < 0.5)
            await trio.sleep(chance.random() * 0.02)
            for deed in chance.sample(["reset", "stop", "end"], k=chance.randrange(4)):
                stream = client.quic._streams.get(number)
                if stream is None:
                    break
                if deed == "reset":
                    page.reset(number, chance.randrange(2**60))
                elif deed == "stop" and not uni:
                    page.stop(number, to_http_code(chance.randrange(1000)))
                elif (
                    deed == "end"
                    and stream.sender._buffer_fin is None
                    and stream.sender._reset_error_code is None
                ):
                    client.send_raw(number, b"", end=True)
                await trio.sleep(chance.random() * 0.02)
            # No stream is left open by the client.
            if number in client.quic._streams:
                page.reset(number, 0)
        await trio.sleep(10)
        assert session.is_open
        assert await page.ask(b"still here") == b"still here"
        await trio.sleep(5)
        after = there.leftovers()
        after["quic"], after["queue"] = (
            before["quic"],
            before["queue"],
        )  # one way back, not read by the client
        assert after == before


# Datagrams


async def test_datagrams_both_ways(cert: tls.Certificate, autojump_clock: MockClock) -> None:
    async def handler(session: Session) -> None:
        while (data := await session.receive_datagram()) is not None:
            assert session.send_datagram(data)

    async with hall(cert, handler) as there:
        page, session = await there.enter()
        page.datagram(b"one")
        page.datagram(b"")
        await there.client.until(lambda: len(there.client.datagrams) == 2)
        assert there.client.datagrams == [b"one", b""]
        page.say(b"", end=True)
        await trio.sleep(1)
        assert there.left == [session]
        assert not session.send_datagram(b"late")


async def test_a_datagram_that_is_too_large_holds_up_nothing(
    cert: tls.Certificate, autojump_clock: MockClock
) -> None:
    async with hall(cert, until_over) as there:
        _, session = await there.enter()
        largest = next(size for size in range(1300, 0, -1) if session.send_datagram(b"x" * size))
        assert 1150 <= largest <= 1180
        assert session.send_datagram(b"small")
        await there.client.until(lambda: len(there.client.datagrams) == 2)
        assert [len(data) for data in there.client.datagrams] == [largest, 5]


async def test_only_so_many_datagrams_wait(cert: tls.Certificate, autojump_clock: MockClock) -> None:
    async with hall(cert, until_over) as there:
        page, session = await there.enter()
        sent = sum(session.send_datagram(b"x" * 1000) for _ in range(1000))
        assert sent == 64
        for number in range(1000):
            page.datagram(b"%d" % number)
            if not number % 20:
                await trio.sleep(0.05)
        await trio.sleep(1)
        assert session._streams.dropped == 1000 - 128
        assert await session.receive_datagram() == b"872"


async def test_a_client_that_takes_no_datagrams(cert: tls.Certificate, autojump_clock: MockClock) -> None:
    async with hall(cert, until_over) as there:
        _, session = await there.enter()
        there.client.quic.configuration.max_datagram_frame_size = None
        [link] = there.there.listener._links
        link.engine.quic._remote_max_datagram_frame_size = None
        assert not session.send_datagram(b"x")


# Before the answer


async def test_what_comes_before_the_answer_waits_and_the_rest_is_rejected(
    cert: tls.Certificate, autojump_clock: MockClock
) -> None:
    found = trio.Event()
    sessions: list[Session] = []

    async def app(exchange: Exchange) -> None:
        if admit(exchange, lambda origin: False):
            await found.wait()
            session = accept(exchange, allows=lambda origin: False)
            assert session is not None
            sessions.append(session)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(echo, session)
                while (data := await session.receive_datagram()) is not None:
                    session.send_datagram(data)

    async with listening(cert, app) as there:
        client = await there.connect(sessions=True)
        page = ask_for(client)
        page.say(bytes.fromhex("800078ae 00"))
        numbers = [page.open(b"%d" % turn, end=True) for turn in range(20)]
        for turn in range(20):
            page.datagram(b"%d" % turn)
        await client.until(lambda: client[numbers[-1]].reset is not None)
        assert {client[number].reset for number in numbers[16:]} == {STREAM_REJECTED}
        found.set()
        await client.until(lambda: all(client[number].ended for number in numbers[:16]))
        assert [bytes(client[number].body) for number in numbers[:16]] == [b"%d" % turn for turn in range(16)]
        await client.until(lambda: len(client.datagrams) == 16)
        assert client.datagrams == [b"%d" % turn for turn in range(4, 20)]
        assert sessions[0].draining


async def test_streams_of_a_session_that_is_refused_are_rejected(
    cert: tls.Certificate, autojump_clock: MockClock
) -> None:
    async def app(exchange: Exchange) -> None:
        await trio.sleep(1)
        exchange.respond_text(404, "no such board")

    async with listening(cert, app) as there:
        client = await there.connect(sessions=True)
        page = ask_for(client)
        number = page.open(b"hello")
        await client.until(lambda: client[number].reset is not None)
        assert page.answer.status == 404
        assert client[number].reset == client[number].stopped == STREAM_REJECTED
        late = page.open(b"hello")
        one_way = page.open(b"hello", uni=True)
        await client.until(lambda: client[late].reset is not None and client[one_way].stopped is not None)
        assert client[late].reset == client[one_way].stopped == STREAM_REJECTED
        assert client.terminated is None


@pytest.mark.parametrize("seed", range(5))
async def test_streams_that_overtake_their_request(
    cert: tls.Certificate, seed: int, autojump_clock: MockClock
) -> None:
    async with hall(cert, weather=Weather(loss=0.3, reorder=0.5), seed=seed) as there:
        page = ask_for(there.client)
        assert await page.ask(b"early") == b"early"


async def test_a_stream_of_what_can_be_no_session_ends_the_connection(
    cert: tls.Certificate, autojump_clock: MockClock
) -> None:
    async with hall(cert) as there:
        _page, _session = await there.enter()
        assert there.client.h3 is not None
        number = there.client.h3.create_webtransport_stream(3)
        there.client.send_raw(number, b"x")
        over = await there.client.until_over()
        assert over.error_code == 0x108
        assert "3 is the stream of no session" in over.reason_phrase


# The end


async def test_the_server_closes(cert: tls.Certificate, autojump_clock: MockClock) -> None:
    async def handler(session: Session) -> None:
        stream = session.open_uni()
        stream.push(b"x" * 100_000 + b"last words")
        stream.finish()
        await session.close(4404, "the board is gone")
        await session.close(1, "again")

    async with hall(cert, handler, weather=Weather(loss=0.1), seed=3) as there:
        page, session = await there.enter()
        client = there.client
        open_one = page.open(b"hello")
        await client.until(lambda: page.answer.ended)
        assert page.capsules == [Close(4404, "the board is gone")]
        assert client[page.pushed()[0]].body.endswith(b"last words")
        await client.until(lambda: client[open_one].reset is not None)
        assert client[open_one].reset == client[open_one].stopped == SESSION_GONE
        assert (session.close_code, session.close_reason) == (4404, "the board is gone")
        assert not session.is_open
        page.say(b"", end=True)
        await trio.sleep(1)
        assert there.left == [session]
        assert session.exchange.label == "webtransport 4404"


async def test_a_client_that_does_not_answer_a_close(
    cert: tls.Certificate, autojump_clock: MockClock
) -> None:
    async def handler(session: Session) -> None:
        await session.close(1, "bye")

    async with hall(cert, handler) as there:
        _, session = await there.enter()
        await trio.sleep(2)
        assert there.left == []
        await trio.sleep(2)
        assert there.left == [session]


@pytest.mark.parametrize(
    ("last", "code", "reason"),
    [
        (encode_capsule(Close(4000, "enough")), 4000, "enough"),
        (b"", 0, ""),
        (encode_capsule(Close(1, "a")) + b"garbage", 1, "a"),
    ],
)
async def test_the_client_closes(
    cert: tls.Certificate, last: bytes, code: int, reason: str, autojump_clock: MockClock
) -> None:
    raised: list[BaseException] = []

    async def handler(session: Session) -> None:
        stream = await session.accept_stream()
        assert stream is not None
        try:
            while True:
                await stream.receive()
        except Disconnected as error:
            raised.append(error)
        assert await session.accept_stream() is None
        assert await session.receive_datagram() is None
        assert not session.is_flushed
        for act in (session.open_uni, session.open_bidi, lambda: stream.push(b"x"), stream.finish):
            with pytest.raises(Disconnected):
                act()
        with pytest.raises(Disconnected):
            await stream.drain()

    async with hall(cert, handler) as there:
        page, session = await there.enter()
        number = page.open(b"hello")
        await trio.sleep(1)
        page.say(last, end=True)
        await there.client.until(lambda: page.answer.ended)
        assert (session.close_code, session.close_reason) == (code, reason)
        assert page.capsules == []
        await there.client.until(lambda: there.client[number].reset is not None)
        assert there.client[number].reset == SESSION_GONE
        assert len(raised) == 1
        assert there.left == [session]


@pytest.mark.parametrize(
    "garbage",
    [bytes.fromhex("6843 03 000000"), bytes.fromhex("6843 4800"), bytes.fromhex("6843 05 00000000 ff")],
)
async def test_garbage_capsules_end_the_session_alone(
    cert: tls.Certificate, garbage: bytes, autojump_clock: MockClock
) -> None:
    async with hall(cert) as there:
        page, session = await there.enter()
        other, _ = await there.enter()
        page.say(garbage)
        page.say(b"more")
        await there.client.until(lambda: page.answer.reset is not None)
        assert page.answer.reset == 0x10E
        assert session.close_code is None
        assert not session.is_open
        assert await other.ask(b"hello") == b"hello"
        assert there.left == [session]


async def test_a_capsule_that_is_cut_off_ends_the_session(
    cert: tls.Certificate, autojump_clock: MockClock
) -> None:
    async with hall(cert) as there:
        page, session = await there.enter()
        page.say(b"\x68", end=True)
        await there.client.until(lambda: page.answer.reset is not None)
        assert session.close_code is None
        assert there.left == [session]


async def test_unknown_capsules_are_skipped(cert: tls.Certificate, autojump_clock: MockClock) -> None:
    async with hall(cert) as there:
        page, session = await there.enter()
        page.say(bytes.fromhex("c000001122334455 06") + b"grease")
        page.say(b"\x17\x9f\xff\xff\xff" + b"x" * 3_000_000)
        await trio.sleep(5)
        assert await page.ask(b"hello") == b"hello"
        assert session.is_open


async def test_the_client_breaks_the_session_off(cert: tls.Certificate, autojump_clock: MockClock) -> None:
    async with hall(cert, until_over) as there:
        page, session = await there.enter()
        number = page.open(b"hello")
        await trio.sleep(1)
        page.reset(page.id, 0x10C)
        await there.client.until(lambda: there.client[number].reset is not None)
        assert there.client[number].reset == SESSION_GONE
        assert there.left == [session]
        assert session.close_code is None


async def test_draining_both_ways(cert: tls.Certificate, autojump_clock: MockClock) -> None:
    async def handler(session: Session) -> None:
        await session.wait_draining()
        assert session.draining
        await session.close(1012, "the server restarts")

    async with hall(cert, handler) as there:
        page, _session = await there.enter()
        there.there.listener.drain(20)
        await there.client.until(lambda: page.answer.ended)
        assert page.capsules == [Drain(), Close(1012, "the server restarts")]

    async with hall(cert, handler) as there:
        page, _session = await there.enter()
        page.say(encode_capsule(Drain()))
        await there.client.until(lambda: page.answer.ended)
        assert page.capsules == [Close(1012, "the server restarts")]


async def test_silence_is_outlived_and_a_dead_client_is_noticed(
    cert: tls.Certificate, autojump_clock: MockClock
) -> None:
    async def handler(session: Session) -> None:
        await session.keep_alive()

    async with hall(cert, handler) as there:
        _page, session = await there.enter()
        await trio.sleep(300)
        assert there.left == []
        there.there.network.passes = lambda data, to: False
        await trio.sleep(40)
        assert there.left == [session]
        assert there.there.listener.connections == 0


async def test_keeping_alive_ends_with_the_session(cert: tls.Certificate, autojump_clock: MockClock) -> None:
    async def handler(session: Session) -> None:
        await session.keep_alive()

    async with hall(cert, handler) as there:
        page, session = await there.enter()
        await trio.sleep(1)
        page.say(b"", end=True)
        await trio.sleep(1)
        assert there.left == [session]


async def test_a_code_that_there_is_not(cert: tls.Certificate, autojump_clock: MockClock) -> None:
    async with hall(cert, until_over) as there:
        _, session = await there.enter()
        with pytest.raises(ValueError, match="from 0 to 4294967295"):
            session.start_close(-1)
        assert session.is_open
