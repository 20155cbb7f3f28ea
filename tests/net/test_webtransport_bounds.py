"""What one WebTransport session may cost, and that nothing is left of what is over."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from fawa.net import tls
from fawa.net.capsules import to_http_code
from fawa.net.connection import Limits
from fawa.net.session_streams import STREAM_REJECTED
from fawa.net.webtransport import Session, Stream
from tests.net.quic_talk import Client, Weather, certificate
from tests.net.webtransport_talk import ask_for, echo, enter, hall, until_over


@pytest.fixture(scope="module")
def cert(tmp_path_factory: pytest.TempPathFactory) -> tls.Certificate:
    return certificate(Path(tmp_path_factory.mktemp("tls")))


async def until_all_ended(client: Client, numbers: list[int]) -> None:
    await client.until(lambda: all(client[number].ended for number in numbers))


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


@pytest.mark.parametrize("kind", ["bidi", "uni", "pushed", "served", "reset", "empty", "stopped"])
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
            while (taken := await session.accept_stream()) is not None:
                while await taken.receive():
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
                page.open(
                    b"" if kind == "empty" else b"hello", uni=kind == "uni", end=kind in ("bidi", "uni")
                )
                for _ in range(100)
            ]
            if kind == "empty":
                await trio.sleep(0.05)  # only what says whose they are has come
            if kind in ("reset", "empty"):
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
        assert len(session._streams._under_way) < 1000
        assert session._streams.has_arrived()
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
