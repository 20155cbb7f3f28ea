"""HTTP/2 peers that mean harm: each is closed or answered, within bounds, and does the daemon no harm."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest
import trio

from fawa.net.connection import READ_UNANSWERED, Limits
from fawa.net.engine import PREFACE, H2ErrorCode
from fawa.net.exchange import Exchange
from fawa.net.http2 import H2Connection
from tests.net.talk import (
    CONTINUATION,
    DATA,
    GOAWAY,
    HEADERS,
    PING,
    POST,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    H2Client,
    Line,
    frame,
    frames,
    head,
    line,
    lockstep_pair,
    settle,
)

HELLO = PREFACE + frame(SETTINGS, 0, 0)
PUSH_PROMISE = 5
PRIORITY = 2


async def answer(exchange: Exchange) -> None:
    exchange.respond(200, [], b"here")


async def wait(exchange: Exchange) -> None:
    await trio.sleep_forever()


def block(*more: tuple[bytes, bytes]) -> bytes:
    """Return an HPACK block of a request that uses no table, so that it fits any connection."""
    return b"".join(b"\x10" + literal(name) + literal(value) for name, value in [*head("/", "POST"), *more])


def literal(text: bytes) -> bytes:
    """Encode a string literal (RFC 7541 section 5.2)."""
    size = len(text)
    if size < 127:
        return bytes([size]) + text
    out = bytearray([127])
    size -= 127
    while size >= 128:
        out.append(size % 128 + 128)
        size //= 128
    return bytes([*out, size]) + text


def goaway_code(talk: Line) -> int | None:
    """Return the code of the GOAWAY among what was received."""
    codes = [
        int.from_bytes(payload[4:8], "big")
        for kind, _, _, payload in frames(talk.received, whole=False)
        if kind == GOAWAY
    ]
    return codes[-1] if codes else None


async def is_served(talk: Line, stream: int) -> bool:
    """Tell whether a call on the connection is answered."""
    talk.take()
    await talk.send(frame(HEADERS, 5, stream, block()))
    return any(kind == DATA and payload == b"here" for kind, _, _, payload in frames(talk.take()))


# What ends the connection

ENDINGS = {
    "no preface": (b"GET / HTTP/1.1\r\nhost: h\r\n\r\n", H2ErrorCode.PROTOCOL_ERROR),
    "half a preface, then noise": (PREFACE[:10] + b"\xff" * 20, H2ErrorCode.PROTOCOL_ERROR),
    "noise behind the preface": (PREFACE + b"\xff" * 64, H2ErrorCode.FRAME_SIZE_ERROR),
    "no SETTINGS": (PREFACE + frame(PING, 0, 0, bytes(8)), H2ErrorCode.PROTOCOL_ERROR),
    "a frame of 16 MiB": (HELLO + frame(DATA, 0, 1, length=2**24 - 1), H2ErrorCode.FRAME_SIZE_ERROR),
    "a frame one byte too large": (HELLO + frame(DATA, 0, 1, length=16_385), H2ErrorCode.FRAME_SIZE_ERROR),
    "a PING of 4 bytes": (HELLO + frame(PING, 0, 0, bytes(4)), H2ErrorCode.FRAME_SIZE_ERROR),
    "a PING on a stream": (HELLO + frame(PING, 0, 1, bytes(8)), H2ErrorCode.PROTOCOL_ERROR),
    "SETTINGS of 5 bytes": (HELLO + frame(SETTINGS, 0, 0, bytes(5)), H2ErrorCode.FRAME_SIZE_ERROR),
    "SETTINGS on a stream": (HELLO + frame(SETTINGS, 0, 1), H2ErrorCode.PROTOCOL_ERROR),
    "an ACK with content": (HELLO + frame(SETTINGS, 1, 0, bytes(6)), H2ErrorCode.FRAME_SIZE_ERROR),
    "a window over 2^31-1": (
        HELLO + frame(SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff"),
        H2ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "a frame size under 16,384": (
        HELLO + frame(SETTINGS, 0, 0, b"\0\5\0\0\0\1"),
        H2ErrorCode.PROTOCOL_ERROR,
    ),
    "a WINDOW_UPDATE of nothing": (HELLO + frame(WINDOW_UPDATE, 0, 0, bytes(4)), H2ErrorCode.PROTOCOL_ERROR),
    "a WINDOW_UPDATE over 2^31-1": (
        HELLO + frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"),
        H2ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "DATA on the connection": (HELLO + frame(DATA, 0, 0, b"x"), H2ErrorCode.PROTOCOL_ERROR),
    "DATA before HEADERS": (HELLO + frame(DATA, 0, 1, b"x"), H2ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM of an idle stream": (HELLO + frame(RST_STREAM, 0, 1, bytes(4)), H2ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE of an idle stream": (
        HELLO + frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1"),
        H2ErrorCode.PROTOCOL_ERROR,
    ),
    "HEADERS on an even stream": (HELLO + frame(HEADERS, 5, 2, block()), H2ErrorCode.PROTOCOL_ERROR),
    "stream ids that go down": (
        HELLO + frame(HEADERS, 5, 5, block()) + frame(HEADERS, 5, 3, block()),
        H2ErrorCode.PROTOCOL_ERROR,
    ),
    "PUSH_PROMISE from a client": (
        HELLO + frame(PUSH_PROMISE, 4, 1, b"\0\0\0\2" + block()),
        H2ErrorCode.PROTOCOL_ERROR,
    ),
    "padding longer than the frame": (
        HELLO + frame(HEADERS, 4, 1, block()) + frame(DATA, 8, 1, b"\xffabc"),
        H2ErrorCode.PROTOCOL_ERROR,
    ),
    "CONTINUATION of nothing": (HELLO + frame(CONTINUATION, 4, 1, block()), H2ErrorCode.PROTOCOL_ERROR),
    "something else within a head": (
        HELLO + frame(HEADERS, 0, 1, block()[:5]) + frame(PING, 0, 0, bytes(8)),
        H2ErrorCode.PROTOCOL_ERROR,
    ),
    "CONTINUATION of another stream": (
        HELLO + frame(HEADERS, 0, 1, block()[:5]) + frame(CONTINUATION, 4, 3, block()[5:]),
        H2ErrorCode.PROTOCOL_ERROR,
    ),
    "a header index that is not there": (
        HELLO + frame(HEADERS, 5, 1, b"\xfe"),
        H2ErrorCode.COMPRESSION_ERROR,
    ),
    "a header number without end": (
        HELLO + frame(HEADERS, 5, 1, b"\xff" * 100),
        H2ErrorCode.COMPRESSION_ERROR,
    ),
    "a header table of 4 GiB": (
        HELLO + frame(HEADERS, 5, 1, b"\x3f\xe1\xff\xff\xff\x0f" + block()),
        H2ErrorCode.COMPRESSION_ERROR,
    ),
    "half a header": (HELLO + frame(HEADERS, 5, 1, block()[:-1]), H2ErrorCode.COMPRESSION_ERROR),
}


@pytest.mark.parametrize("sizes", [[], [1]])
@pytest.mark.parametrize("name", ENDINGS)
async def test_what_breaks_the_protocol_ends_the_connection(name: str, sizes: list[int]) -> None:
    sent, code = ENDINGS[name]
    async with line(H2Connection, wait) as talk:
        await talk.send(sent, sizes)
        assert talk.ended()
        assert goaway_code(talk) == code


# What ends a stream

STREAM_ENDINGS = {
    "a WINDOW_UPDATE of nothing": frame(HEADERS, 4, 1, block()) + frame(WINDOW_UPDATE, 0, 1, bytes(4)),
    "a WINDOW_UPDATE over 2^31-1": frame(HEADERS, 4, 1, block())
    + frame(WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff"),
    "no path": frame(HEADERS, 5, 1, b"\x82\x86"),
    "a header in capitals": frame(HEADERS, 5, 1, block((b"Host", b"h"))),
    "a header with a line break": frame(HEADERS, 5, 1, block((b"x", b"a\r\nb: c"))),
    "a header of another time": frame(HEADERS, 5, 1, block((b"transfer-encoding", b"chunked"))),
    "two paths": frame(HEADERS, 5, 1, block((b":path", b"/b"))),
    "a pseudo-header of an answer": frame(HEADERS, 5, 1, block((b":status", b"200"))),
    "a length that is not kept": frame(HEADERS, 4, 1, block((b"content-length", b"5")))
    + frame(DATA, 1, 1, b"four"),
    "trailers with a pseudo-header": frame(HEADERS, 4, 1, block()) + frame(HEADERS, 5, 1, block()),
}


@pytest.mark.parametrize("sizes", [[], [1]])
@pytest.mark.parametrize("name", STREAM_ENDINGS)
async def test_what_breaks_a_stream_ends_that_stream(name: str, sizes: list[int]) -> None:
    async def read(exchange: Exchange) -> None:
        await exchange.read_all(1000)
        await answer(exchange)

    async with line(H2Connection, read) as talk:
        await talk.send(HELLO)
        await talk.send(STREAM_ENDINGS[name], sizes)
        resets = [stream for kind, _, stream, _ in frames(talk.take(), whole=False) if kind == RST_STREAM]
        assert resets == [1]
        assert talk.h2.exchanges == {}
        assert await is_served(talk, 3)


# Floods


async def test_continuation_without_end() -> None:
    """CVE-2024-27316 and its kin: a head that goes on and on."""
    async with line(H2Connection, wait, pair=lockstep_pair()) as talk:
        sent = 0
        await talk.send(HELLO + frame(HEADERS, 0, 1, block()))
        while not talk.ended() and sent < 10_000_000:
            await talk.send(frame(CONTINUATION, 0, 1, b"\x10\x01x" + literal(bytes(16_000))))
            sent += 16_000
        assert talk.ended()
        assert sent <= 200_000


async def test_continuation_of_nothing_without_end() -> None:
    async with line(H2Connection, wait) as talk:
        await talk.send(HELLO + frame(HEADERS, 0, 1, block()) + frame(CONTINUATION, 0, 1) * 100_000)
        assert talk.ended()


async def test_a_header_list_that_is_large_only_when_decoded() -> None:
    """The HPACK bomb: one byte names an entry of 4,000 in the table, again and again."""
    async with line(H2Connection, answer) as talk:
        await talk.send(HELLO)
        entry = b"\x40" + literal(b"bomb") + literal(b"x" * 3900)
        await talk.send(frame(HEADERS, 5, 1, block() + entry))
        tracemalloc.start()
        await talk.send(frame(HEADERS, 5, 3, block() + b"\xbe" * 16_000))  # 62 MB
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 5_000_000
        assert talk.ended() or await is_served(talk, 5)
        assert talk.h2.exchanges == {}


async def test_many_small_headers() -> None:
    async with line(H2Connection, answer) as talk:
        await talk.send(HELLO)
        await talk.send(frame(HEADERS, 5, 1, block() + b"\x10\x01x\x01y" * 3000))  # 34 each (section 6.5.2)
        assert talk.ended() or await is_served(talk, 3)
        assert talk.h2.exchanges == {}


@pytest.mark.parametrize("handler", [answer, wait])
async def test_rapid_reset(handler: object) -> None:
    """CVE-2023-44487: what is reset at once must cost next to nothing, and not for ever."""
    begun = 0

    async def note(exchange: Exchange) -> None:
        nonlocal begun
        begun += 1
        await handler(exchange)  # type: ignore[operator]

    async with line(H2Connection, note) as talk:
        await talk.send(HELLO)
        for start in range(1, 12_001, 200):
            if talk.ended():
                break
            pairs = (
                frame(HEADERS, 4, stream, block()) + frame(RST_STREAM, 0, stream, b"\0\0\0\x08")
                for stream in range(start, start + 200, 2)
            )
            await talk.send(b"".join(pairs))
            assert len(talk.h2.exchanges) <= 128
            assert len(talk.conn._calls.child_tasks) <= 2
        assert talk.ended()
        assert begun <= 60  # those whose reset came in another read


FLOODS = {
    "PING": frame(PING, 0, 0, b"floodflo"),
    "SETTINGS": frame(SETTINGS, 0, 0, b"\0\4\0\1\0\0" * 3),
    "empty DATA": frame(DATA, 0, 1),
    "padding": frame(DATA, 8, 1, b"\x03abc"),
    "PRIORITY": frame(PRIORITY, 0, 1, b"\0\0\0\3\1"),
    "WINDOW_UPDATE": frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1"),
    "unknown frames": frame(77, 255, 1, b"what?"),
    "refused streams": b"",
    "malformed streams": b"",
}


def flood(name: str) -> Iterator[bytes]:
    """Yield 20 MB in pieces of about 20,000 bytes."""
    stream = 3
    for _ in range(1000):
        if name == "refused streams":
            streams, stream = range(stream, stream + 200, 2), stream + 200
            yield b"".join(frame(HEADERS, 4, number, block()) for number in streams)
        elif name == "malformed streams":
            streams, stream = range(stream, stream + 2000, 2), stream + 2000
            yield b"".join(frame(HEADERS, 5, number, b"\x82") for number in streams)
        else:
            yield FLOODS[name] * (20_000 // len(FLOODS[name]))


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_that_nobody_reads_the_answers_to(name: str) -> None:
    """It is not answered without bound: the server stops reading, or has had enough."""
    accepted = 0
    async with (
        line(H2Connection, wait, pair=lockstep_pair(), reads=False, limits=Limits(max_streams=4)) as talk,
        trio.open_nursery() as nursery,
    ):

        async def send() -> None:
            nonlocal accepted
            await talk.stream.send_all(HELLO + frame(HEADERS, 4, 1, block()))
            try:
                for piece in flood(name):
                    await talk.stream.send_all(piece)
                    accepted += len(piece)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

        tracemalloc.start()
        nursery.start_soon(send)
        await settle()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert accepted <= READ_UNANSWERED + 100_000 or not talk.h2.engine.take()
        assert held < 3_000_000
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_from_a_peer_that_reads(name: str) -> None:
    async def some(exchange: Exchange) -> None:
        await (wait if exchange.header(b"x") is None else answer)(exchange)

    async with line(H2Connection, some, limits=Limits(max_streams=4)) as talk:
        await talk.send(HELLO + frame(HEADERS, 4, 1, block()))
        for _, piece in zip(range(50), flood(name), strict=False):
            await talk.send(piece)
        if not talk.ended():
            talk.take()
            await talk.send(frame(HEADERS, 5, 100_001, block((b"x", b"y"))))
            answers = [payload for kind, _, _, payload in frames(talk.take()) if kind == DATA and payload]
            assert answers == [b"here"]


async def test_a_client_that_ignores_the_end_of_the_connection() -> None:
    """After GOAWAY it opens one stream after another; the engine has the last word."""
    answered = 0

    async def count(exchange: Exchange) -> None:
        nonlocal answered
        answered += 1
        await answer(exchange)

    async with line(H2Connection, count, limits=Limits(max_requests=100)) as talk:
        await talk.send(HELLO)
        for stream in range(1, 12_001, 2):
            if talk.ended():
                break
            await talk.send(frame(HEADERS, 5, stream, block()))
        assert talk.ended()
        assert 100 <= answered <= 4096


async def test_good_clients_see_nothing_of_all_this() -> None:
    """The bounds are far from what ordinary clients do."""
    async with line(H2Connection, answer) as talk:
        client = H2Client()
        for number in range(300):
            client.h2.ping(number.to_bytes(8, "big"))
            stream = client.open(POST, end=True)
            if number % 3:
                client.h2.reset_stream(stream)
            await client.turn(talk)
            assert number % 3 or client[stream].ended
        assert not talk.ended()
