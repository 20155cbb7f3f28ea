"""Files on their way to a socket: by sendfile(2) on plain HTTP/1.1, in pieces elsewhere."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
import trio

from fawa.net.connection import Limits
from fawa.net.exchange import Disconnected, Exchange
from fawa.net.files import PIECE, read_pieces
from fawa.net.http1 import H1Connection
from fawa.net.http2 import H2Connection
from tests.net.door import opened, read_all
from tests.net.talk import DATE, H2Client, Handler, h11_answer, head, line, request

SIZE = 3_000_000
CONTENT = random.Random(0).randbytes(SIZE)
#: Of an answer with ten bytes.
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n" + b"%b: %b\r\n\r\n" % DATE


@pytest.fixture
def file(tmp_path: Path) -> Iterator[BinaryIO]:
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    with path.open("rb+") as opened_file:
        yield opened_file


def part(query: str) -> tuple[int, int]:
    offset, _, count = query.partition("-")
    return int(offset), int(count)


def sender(file: BinaryIO, *, known: bool = True) -> Handler:
    async def send(exchange: Exchange) -> None:
        offset, count = part(exchange.query)
        exchange.start(200, [(b"content-length", b"%d" % count)] if known else [])
        await exchange.send_file(file, offset, count)
        exchange.finish()

    return send


PARTS = [(0, SIZE), (0, 1), (SIZE - 1, 1), (123_457, 1_000_000), (0, PIECE), (PIECE, PIECE + 1), (17, 0)]


async def test_sendfile_sends_what_was_asked_for(file: BinaryIO) -> None:
    async with opened(sender(file)) as there, await there.connect() as stream:
        sent = b"".join(request(f"/?{offset}-{count}") for offset, count in PARTS)
        await stream.send_all(sent + request("/?0-5", "GET", "connection: close"))
        data = await read_all(stream)
        for offset, count in [*PARTS, (0, 5)]:
            answer, data = h11_answer(data, "GET", ended=True)
            assert answer.body == CONTENT[offset : offset + count]
        assert not data


async def test_the_head_is_always_before_the_content(file: BinaryIO) -> None:
    """The head waits for the writer while sendfile does not: many small answers would show it."""
    async with opened(sender(file)) as there, await there.connect() as stream:
        for number in range(200):
            await stream.send_all(request(f"/?{number}-10"))
            data = b""
            while len(data) < 10 or not data.endswith(CONTENT[number : number + 10]):
                piece = await stream.receive_some(65536)
                assert piece
                data += piece
            assert data == HEAD + CONTENT[number : number + 10]


async def test_parts_with_text_in_between(file: BinaryIO) -> None:
    """As an answer to several ranges has them."""

    async def send(exchange: Exchange) -> None:
        exchange.start(206, [(b"content-length", b"%d" % (3 * 500_000 + 9))])
        for offset in (0, 1_000_000, 2_000_000):
            exchange.push(b"-+-")
            await exchange.send_file(file, offset, 500_000)
        exchange.finish()

    async with opened(send) as there:
        body = await there.get()
        expected = b"".join(b"-+-" + CONTENT[o : o + 500_000] for o in (0, 1_000_000, 2_000_000))
        assert hashlib.sha256(body).digest() == hashlib.sha256(expected).digest()


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_content_of_untold_length_goes_in_pieces(file: BinaryIO, version: str) -> None:
    async with opened(sender(file, known=False)) as there, await there.connect() as stream:
        await stream.send_all(request("/?5-1000000", "GET", "connection: close", version=version))
        answer, rest = h11_answer(await read_all(stream), "GET", ended=True)
        assert (answer.body, rest) == (CONTENT[5:1_000_005], b"")


async def test_elsewhere_it_goes_in_pieces(file: BinaryIO) -> None:
    handler = sender(file)
    async with line(H1Connection, handler) as talk:
        await talk.send(request("/?5-1000000"))
        while len(talk.received) < 1_000_000:
            await trio.lowlevel.checkpoint()
        assert h11_answer(talk.take(), "GET")[0].body == CONTENT[5:1_000_005]
    async with line(H2Connection, handler) as talk:
        client = H2Client()
        stream = client.open(head("/?5-1000000", "GET"), end=True)
        while not client[stream].ended:
            await client.turn(talk)
        assert bytes(client[stream].body) == CONTENT[5:1_000_005]


# What goes wrong


async def broken_off(file: BinaryIO, cut_to: int) -> tuple[bytes, list[BaseException]]:
    """Truncate the file when the answer has begun; returns what the client got and what the handler saw."""
    seen: list[BaseException] = []

    async def send(exchange: Exchange) -> None:
        exchange.start(200, [(b"content-length", b"%d" % SIZE)])
        file.truncate(cut_to)
        try:
            await exchange.send_file(file, 0, SIZE)
        except BaseException as error:
            seen.append(error)
            raise
        exchange.finish()

    async with opened(send) as there, await there.connect() as stream:
        await stream.send_all(request("/"))
        return await read_all(stream), seen


@pytest.mark.parametrize("cut_to", [0, 100, 2_000_000])
async def test_a_file_that_is_cut_short_breaks_the_answer_off(file: BinaryIO, cut_to: int) -> None:
    data, seen = await broken_off(file, cut_to)
    _, _, body = data.partition(b"\r\n\r\n")
    assert body == CONTENT[:cut_to]
    assert [(type(error), str(error)) for error in seen] == [
        (EOFError, f"the file ends at {cut_to}, {SIZE - cut_to} bytes early")
    ]


async def test_a_file_that_is_cut_short_elsewhere(file: BinaryIO) -> None:
    file.truncate(1000)
    async with line(H2Connection, sender(file)) as talk:
        client = H2Client()
        stream = client.open(head("/?0-5000", "GET"), end=True)
        while not client[stream].is_over:
            await client.turn(talk)
        assert (bytes(client[stream].body), client[stream].ended) == (CONTENT[:1000], False)
    pieces = read_pieces(file, 500, 1000)
    assert await anext(pieces) == CONTENT[500:1000]
    with pytest.raises(EOFError, match="the file ends at 1000, 500 bytes early"):
        await anext(pieces)


async def test_a_client_that_stops_reading_is_given_up(file: BinaryIO) -> None:
    seen: list[str] = []

    async def send(exchange: Exchange) -> None:
        exchange.start(200, [(b"content-length", b"%d" % (SIZE * 100))])
        try:
            for _ in range(100):
                await exchange.send_file(file, 0, SIZE)
        except Disconnected as error:
            seen.append(str(error))
            raise

    async with opened(send, limits=Limits(write_timeout=0.2)) as there, await there.connect() as stream:
        await stream.send_all(request("/"))
        while not seen:
            await trio.sleep(0.01)
        [text] = seen
        assert text.endswith("took nothing for 0.2 s")


async def test_a_client_that_goes_while_a_file_is_sent(file: BinaryIO) -> None:
    seen: list[type[BaseException]] = []

    async def send(exchange: Exchange) -> None:
        exchange.start(200, [(b"content-length", b"%d" % (SIZE * 100))])
        try:
            for _ in range(100):
                await exchange.send_file(file, 0, SIZE)
        except BaseException as error:
            seen.append(type(error))
            raise

    async with opened(send) as there:
        stream = await there.connect()
        await stream.send_all(request("/"))
        await stream.receive_some(1000)
        await trio.aclose_forcefully(stream)
        while not seen:
            await trio.sleep(0.01)
        assert seen[0] in (Disconnected, trio.Cancelled)


async def test_more_of_a_file_than_was_declared(file: BinaryIO) -> None:
    async def send(exchange: Exchange) -> None:
        exchange.start(200, [(b"content-length", b"10")])
        await exchange.send_file(file, 0, 20)
        exchange.finish()

    async with opened(send) as there, await there.connect() as stream:
        await stream.send_all(request("/") + request("/"))
        data = await read_all(stream)
        # The client takes ten bytes, and the end of the connection.
        assert data.count(b"HTTP/1.1") == 1
