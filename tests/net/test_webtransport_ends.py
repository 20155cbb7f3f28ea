"""How WebTransport sessions and their streams end."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from fawa.net import tls
from fawa.net.capsules import Close, Drain, encode_capsule, from_http_code, to_http_code
from fawa.net.exchange import Disconnected
from fawa.net.session_streams import SESSION_GONE
from fawa.net.udp import Address
from fawa.net.webtransport import Session, Stream, StreamReset
from tests.net.quic_talk import SERVER, Weather, certificate
from tests.net.webtransport_talk import hall, until_over


@pytest.fixture(scope="module")
def cert(tmp_path_factory: pytest.TempPathFactory) -> tls.Certificate:
    return certificate(Path(tmp_path_factory.mktemp("tls")))


async def until_broken(stream: Stream) -> None:
    while True:
        await stream.receive()


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


async def test_a_stop_that_overtakes_the_stream_leaves_the_other_way_alone(
    cert: tls.Certificate, autojump_clock: MockClock
) -> None:
    heard: list[bytes | int | None] = []

    async def handler(session: Session) -> None:
        stream = await session.accept_stream()
        assert stream is not None
        heard.append(await stream.receive())
        with pytest.raises(StreamReset) as stopped:
            stream.push(b"x")
        heard.append(stopped.value.code)
        assert await stream.receive() == b""
        await until_over(session)

    async with hall(cert, handler) as there:
        page, session = await there.enter()
        client = there.client
        before = there.leftovers()
        assert client.h3 is not None
        number = client.h3.create_webtransport_stream(page.id)
        client.quic.send_stream_data(number, b"hello")
        client.quic.stop_stream(number, to_http_code(5))  # aioquic sends it before the octets
        client.flush()
        await trio.sleep(1)
        assert heard == [b"hello", 5]
        client.send_raw(number, b"", end=True)
        await trio.sleep(1)
        assert session.open_streams == 0
        after = there.leftovers()
        assert {name: after[name] - before[name] for name in after if after[name] > before[name]} == {}


async def test_what_is_owed_arrives_although_the_client_breaks_off_what_is_not_wanted(
    cert: tls.Certificate, autojump_clock: MockClock
) -> None:
    async def handler(session: Session) -> None:
        stream = await session.accept_stream()
        assert stream is not None
        stream.stop(9)  # which a client answers with RESET_STREAM
        stream.push(b"x" * 15_000)
        stream.finish()
        await until_over(session)

    async with hall(cert, handler) as there:
        page, session = await there.enter()
        late: list[int] = []

        def passes(data: bytes, to: Address) -> bool:
            if to != SERVER and len(data) > 1000:
                late.append(len(data))
                return not 3 <= len(late) <= 6
            return True

        there.there.network.passes = passes
        number = page.open(b"hello")
        await trio.sleep(5)
        assert there.client[number].stopped == to_http_code(9)
        assert there.client[number].reset is None
        assert len(there.client[number].body) == 15_000
        assert there.client[number].ended
        assert len(late) > 10
        assert session.open_streams == 0


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


async def test_a_close_waits_for_what_has_left_and_not_arrived(
    cert: tls.Certificate, autojump_clock: MockClock
) -> None:
    async def handler(session: Session) -> None:
        for turn in range(5):
            with session.open_uni() as stream:
                stream.push(b"%d" % turn * 2000)
                stream.finish()
                stream.flush()
        while not session.is_flushed:
            await trio.sleep(0.001)
        await session.close(1, "bye")

    async with hall(cert, handler) as there:
        lost: list[int] = []

        def passes(data: bytes, to: Address) -> bool:
            if to != SERVER and len(data) > 1000 and len(lost) < 4:
                lost.append(len(data))
                return False
            return True

        there.there.network.passes = passes
        page, _session = await there.enter()
        await there.client.until(lambda: page.capsules)
        assert len(lost) == 4
        assert [len(there.client[number].body) for number in page.pushed()] == [2000] * 5


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
