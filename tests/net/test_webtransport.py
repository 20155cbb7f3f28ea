"""WebTransport sessions between our listener and aioquic's client, on a network in memory."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from fawa.net import tls
from fawa.net.exchange import Exchange
from fawa.net.session_streams import STREAM_REJECTED
from fawa.net.webtransport import Session, accept, admit
from tests.net.quic_talk import Weather, certificate, listening
from tests.net.webtransport_talk import ask_for, echo, enter, hall, until_over


@pytest.fixture(scope="module")
def cert(tmp_path_factory: pytest.TempPathFactory) -> tls.Certificate:
    return certificate(Path(tmp_path_factory.mktemp("tls")))


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
