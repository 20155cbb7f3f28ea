"""A WebSocket client without rules, over either HTTP version: it sends what a test says, byte for byte."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import attrs

from fawa.net.connection import Limits
from fawa.net.exchange import Headers
from fawa.net.http1 import H1Connection
from fawa.net.http2 import H2Connection
from tests.net.talk import LIMITS, H2Client, Handler, Line, head, line, pieces, request, settle

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
#: The answer to that key (RFC 6455 section 1.3).
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
OPENING = (
    "connection: Upgrade",
    "upgrade: websocket",
    "sec-websocket-version: 13",
    f"sec-websocket-key: {KEY}",
)

Received = tuple[int, bytes]


def masked(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = b"\x5a\0\xff\x31",
    length: bytes | None = None,
) -> bytes:
    """Encode a frame as a client sends it (RFC 6455 section 5.2); `length`, as it stands, can lie."""
    if length is None:
        size = len(payload)
        if size < 126:
            length = bytes([size])
        elif size < 2**16:
            length = b"\x7e" + size.to_bytes(2, "big")
        else:
            length = b"\x7f" + size.to_bytes(8, "big")
    first = bytes([fin << 7 | rsv << 4 | opcode])
    if mask is None:
        return first + length + payload
    scrambled = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return first + bytes([length[0] | 0x80]) + length[1:] + mask + scrambled


def closing(code: int | None = 1000, reason: str = "") -> bytes:
    """Encode a client's close frame."""
    return masked(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason.encode())


def unmasked(data: bytes) -> tuple[list[Received], bytes]:
    """Decode a server's frames, none in fragments; returns (opcode, payload) each, and what is not whole."""
    got, start = [], 0
    while start + 2 <= len(data):
        first, second = data[start], data[start + 1]
        assert first & 0xF0 == 0x80, "fragments or reserved bits"
        assert second < 128, "a server's frame is masked"
        at = start + 2
        extra = {126: 2, 127: 8}.get(second, 0)
        size = int.from_bytes(data[at : at + extra], "big") if extra else second
        at += extra
        assert size >= {126: 126, 127: 2**16}.get(second, 0), "a length longer than it need be"
        if len(data) < at + size:
            break
        got.append((first & 0x0F, data[at : at + size]))
        start = at + size
    return got, data[start:]


def close_of(received: Received) -> tuple[int, str]:
    """Return code and reason in a server's close frame."""
    opcode, payload = received
    assert opcode == CLOSE
    return int.from_bytes(payload[:2], "big"), payload[2:].decode()


class Client(Protocol):
    """The client's end, whatever the HTTP version."""

    status: int
    headers: Headers
    talk: Line

    async def send(self, data: bytes, sizes: Sequence[int] = ()) -> None:
        """Send bytes of the other protocol."""

    async def end(self) -> None:
        """End this side."""

    async def raw(self) -> bytes:
        """Return what has come since, when all is quiet."""

    def over(self) -> bool:
        """Whether the server has ended its side, or broken it off."""


@attrs.define
class OverHttp1:
    talk: Line
    status: int = 0
    headers: Headers = attrs.field(factory=list)

    async def open(self, path: str, *headers: str) -> None:
        await self.talk.send(request(path, "GET", *OPENING, *headers))
        answer, _, rest = self.talk.take().partition(b"\r\n\r\n")
        first, *lines = answer.split(b"\r\n")
        self.status = int(first.split()[1])
        self.headers = [(name, value) for name, _, value in (one.partition(b": ") for one in lines)]
        self.talk.received += rest

    async def send(self, data: bytes, sizes: Sequence[int] = ()) -> None:
        await self.talk.send(data, sizes)

    async def end(self) -> None:
        await self.talk.half_close()

    async def raw(self) -> bytes:
        await settle()
        return self.talk.take()

    def over(self) -> bool:
        return self.talk.ended()


@attrs.define
class OverHttp2:
    talk: Line
    http2: H2Client = attrs.field(factory=H2Client)
    stream: int = 0
    status: int = 0
    headers: Headers = attrs.field(factory=list)

    async def open(self, path: str, *headers: str) -> None:
        more = [
            (name.encode(), value.encode()) for name, _, value in (one.partition(": ") for one in headers)
        ]
        self.stream = self.http2.open(
            head(path, "CONNECT", (b":protocol", b"websocket"), (b"sec-websocket-version", b"13"), *more)
        )
        await self.http2.turn(self.talk)
        answer = self.http2[self.stream]
        self.status, self.headers = answer.status, answer.headers

    async def send(self, data: bytes, sizes: Sequence[int] = ()) -> None:
        for piece in pieces(data, sizes):
            for start in range(0, len(piece), 16_384):
                if not self.over():
                    self.http2.h2.send_data(self.stream, piece[start : start + 16_384])
                    await self.http2.turn(self.talk)

    async def end(self) -> None:
        self.http2.h2.end_stream(self.stream)
        await self.http2.turn(self.talk)

    async def raw(self) -> bytes:
        await settle()
        await self.http2.turn(self.talk)
        body = self.http2[self.stream].body
        data = bytes(body)
        body.clear()
        return data

    def over(self) -> bool:
        return self.http2[self.stream].is_over


async def hear(client: Client) -> list[Received]:
    """Return the frames that have come, all of them whole."""
    got, rest = unmasked(await client.raw())
    assert rest == b""
    return got


async def ask(client: Client, data: bytes, sizes: Sequence[int] = ()) -> list[Received]:
    """Send bytes and return the frames that come back."""
    await client.send(data, sizes)
    return await hear(client)


@asynccontextmanager
async def over_http1(
    handler: Handler, path: str = "/", *headers: str, limits: Limits = LIMITS
) -> AsyncIterator[Client]:
    async with line(H1Connection, handler, limits=limits) as talk:
        client = OverHttp1(talk)
        await client.open(path, *headers)
        yield client


@asynccontextmanager
async def over_http2(
    handler: Handler, path: str = "/", *headers: str, limits: Limits = LIMITS
) -> AsyncIterator[Client]:
    async with line(H2Connection, handler, limits=limits) as talk:
        client = OverHttp2(talk)
        await client.open(path, *headers)
        yield client


Connect = Callable[..., AbstractAsyncContextManager[Client]]
BOTH: list[Connect] = [over_http1, over_http2]
