"""A front door on real sockets of the loopback interface, and the ways in."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from fawa.net.connection import App, Limits
from fawa.net.exchange import Exchange
from fawa.net.tcp import FrontDoor, bind
from tests.net.talk import H2Client, Handler, h11_answers, head, request, root


async def answer(exchange: Exchange) -> None:
    exchange.respond(200, [(b"scheme", exchange.scheme.encode())], exchange.path.encode())


@attrs.frozen
class Open:
    """A front door that is open, and where."""

    door: FrontDoor
    addresses: Sequence[str]
    _streams: list[trio.SocketStream] = attrs.field(factory=list, init=False)

    async def connect(self, endpoint: int = 0) -> trio.SocketStream:
        """Connect; the connection is closed with the front door at the latest."""
        host, _, port = self.addresses[endpoint].rpartition(":")
        stream = await trio.open_tcp_stream(host, int(port))
        self._streams.append(stream)
        return stream

    async def leave(self) -> None:
        """Close all connections."""
        for stream in self._streams:
            await trio.aclose_forcefully(stream)

    async def get(self, path: str = "/", endpoint: int = 0) -> bytes:
        """Return the body of an answer on a connection of its own."""
        async with await self.connect(endpoint) as stream:
            await stream.send_all(request(path, "GET", "connection: close"))
            [response] = h11_answers(await read_all(stream), ["GET"], ended=True)
            return response.body


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Read to the end, however it comes."""
    data = b""
    try:
        while piece := await stream.receive_some(65536):
            data += piece
    except trio.BrokenResourceError:
        pass
    return data


async def read_answer(stream: trio.abc.ReceiveStream, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        piece = await stream.receive_some(65536)
        assert piece, data
        data += piece
    return data


@asynccontextmanager
async def opened(
    handler: Handler | None = answer,
    *,
    app: App | None = None,
    limits: Limits | None = None,
    handshake_timeout: float = 10,
    max_connections: int = 100,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Open]:
    """Open a front door on a plain port, and on a TLS port where there is a context for it."""
    door = FrontDoor(app or root(handler or answer), limits or Limits(), handshake_timeout, max_connections)
    endpoints = await bind("127.0.0.1", 0)
    if tls is not None:
        endpoints += await bind("127.0.0.1", 0, tls)
    async with trio.open_nursery() as nursery:
        await nursery.start(door.run, endpoints)
        there = Open(door, [endpoint.address for endpoint in endpoints])
        try:
            yield there
        finally:
            door.drain(0)
            await there.leave()
    assert door.connections == 0
    assert not door._serving
    assert not door._greeting


async def speak_http2(stream: trio.abc.Stream) -> None:
    client = H2Client()
    number = client.open(head("/two"), end=True)
    await stream.send_all(client.to_send())
    while not client[number].ended:
        client.receive(bytes(await stream.receive_some(65536)))
    assert bytes(client[number].body) == b"/two"
