"""WebSockets on real sockets, with clients that others wrote."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from fawa.net.connection import HIGH_WATER, Limits
from fawa.net.exchange import Exchange
from fawa.net.tls import development_certificate, server_context
from fawa.net.websocket import WebSocket, accept, text_frame
from tests.net.door import Open, opened
from tests.net.sockets_talk import OPENING, TEXT, masked, unmasked
from tests.net.talk import H2Client, head, request


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    development_certificate(folder, time.time(), "")
    return folder


class Rooms:
    """An application that echoes, and knows who is there."""

    def __init__(self) -> None:
        self.sockets: list[WebSocket] = []

    async def __call__(self, exchange: Exchange) -> None:
        socket = accept(exchange, allows=lambda origin: False, subprotocols=("fawa.v2",))
        if socket is None:
            return
        self.sockets.append(socket)
        while (message := await socket.receive()) is not None:
            await socket.send(message)
        if socket.draining:
            await socket.close(1012, "retry in 250 ms")


@asynccontextmanager
async def there_is(
    rooms: Rooms, certificate: Path | None = None, limits: Limits | None = None
) -> AsyncIterator[Open]:
    context = certificate and server_context(certificate / "dev-cert.pem", certificate / "dev-key.pem")
    async with opened(rooms, tls=context or None, limits=limits) as there:
        yield there


def talk(uri: str, context: ssl.SSLContext | None) -> None:
    """What an unmodified client of another make does, in a thread."""
    with connect(uri, ssl=context, subprotocols=[Subprotocol("fawa.v2")]) as client:
        assert client.subprotocol == "fawa.v2"
        for message in ("hello", b"\0\xff", "", "é" * 20_000, bytes(65_536)):
            client.send(message)
            assert client.recv() == message
        client.send(["in ", "three ", "fragments"])
        assert client.recv() == "in three fragments"
        assert client.ping().wait(10)
    assert (client.close_code, client.protocol.close_rcvd_then_sent) == (1000, False)
    with connect(uri, ssl=context) as client:
        assert client.subprotocol is None
        client.send("x" * 65_537)
        with pytest.raises(ConnectionClosedError, match="1009"):
            client.recv()
    with (
        pytest.raises(InvalidStatus, match="403"),
        connect(uri, ssl=context, origin=Origin("https://evil.example")),
    ):
        pass


async def test_the_package_websockets_over_plain_text_and_tls(certificate: Path) -> None:
    trusting = ssl.create_default_context(cafile=certificate / "dev-cert.pem")
    async with there_is(Rooms(), certificate) as there:
        await trio.to_thread.run_sync(talk, f"ws://{there.addresses[0]}/ws", None)
        await trio.to_thread.run_sync(talk, f"wss://{there.addresses[1]}/ws", trusting)


@pytest.mark.parametrize("secure", [False, True])
async def test_one_frame_for_many_and_the_end_of_the_service(certificate: Path, secure: bool) -> None:
    trusting = ssl.create_default_context(cafile=certificate / "dev-cert.pem") if secure else None
    rooms, open_clients = Rooms(), ExitStack()

    def join(uri: str) -> ClientConnection:
        return open_clients.enter_context(connect(uri, ssl=trusting))

    def hear(client: ClientConnection) -> None:
        assert [client.recv() for _ in range(100)] == [f"news {number}" for number in range(100)]

    def hear_the_end(client: ClientConnection) -> None:
        with pytest.raises(ConnectionClosedError, match=r"1012.*retry in 250 ms"):
            client.recv()

    async with there_is(rooms, certificate) as there:
        uri = f"{'wss' if secure else 'ws'}://{there.addresses[secure]}/ws"
        clients = [await trio.to_thread.run_sync(join, uri) for _ in range(10)]
        for number in range(100):
            frame = text_frame(b"news %d" % number)
            for peer in rooms.sockets:
                if number % 3:
                    # Only without TLS does it go to the socket at once.
                    assert peer.send_now(frame) is not secure
                else:
                    peer.push(frame)
                if number % 3 == 2:
                    await peer.wait_flushed()
        for client in clients:
            await trio.to_thread.run_sync(hear, client)
        there.door.drain(10)
        for client in clients:
            await trio.to_thread.run_sync(hear_the_end, client)
        await trio.to_thread.run_sync(open_clients.close)
    assert [peer.close_code for peer in rooms.sockets] == [1012] * 10


async def test_extended_connect_beside_other_streams_over_tls(certificate: Path) -> None:
    trusting = ssl.create_default_context(cafile=certificate / "dev-cert.pem")
    trusting.set_alpn_protocols(["h2"])
    rooms = Rooms()
    async with there_is(rooms, certificate) as there:
        inner = await there.connect(1)
        stream = trio.SSLStream(inner, trusting, server_hostname="localhost", https_compatible=True)
        client = H2Client()

        async def until(done: Callable[[], bool]) -> None:
            await stream.send_all(client.to_send())
            while not done():
                client.receive(bytes(await stream.receive_some(65_536)))
                if answer := client.to_send():
                    await stream.send_all(answer)

        # RFC 8441 section 3: only where the server has said so.
        await until(lambda: client.h2.remote_settings.enable_connect_protocol == 1)
        asking = (b":protocol", b"websocket"), (b"sec-websocket-version", b"13")
        ours, theirs = (client.open(head("/ws", "CONNECT", *asking)) for _ in range(2))
        await until(lambda: client[ours].status == client[theirs].status == 200)
        client.h2.send_data(ours, masked(TEXT, b"ours"))
        client.h2.send_data(theirs, masked(TEXT, b"theirs"))
        call = client.open(head("/ws", "GET"), end=True)
        await until(lambda: bool(client[ours].body and client[theirs].body and client[call].ended))
        assert unmasked(bytes(client[ours].body)) == ([(TEXT, b"ours")], b"")
        assert unmasked(bytes(client[theirs].body)) == ([(TEXT, b"theirs")], b"")
        assert client[call].status == 400


async def test_a_peer_that_stops_reading_holds_up_no_other_and_little_memory() -> None:
    rooms = Rooms()
    async with there_is(rooms) as there:
        streams = []
        for _ in range(3):
            stream = await there.connect()
            await stream.send_all(request("/ws", "GET", *OPENING))
            assert (await stream.receive_some(65_536)).startswith(b"HTTP/1.1 101 ")
            streams.append(stream)
        frozen, *others = streams
        frozen.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        frame = text_frame(bytes(32_000))
        behind = 0
        got = dict.fromkeys(others, 0)

        async def read(stream: trio.SocketStream) -> None:
            async for data in stream:
                got[stream] += len(data)

        async with trio.open_nursery() as nursery:
            for stream in others:
                nursery.start_soon(read, stream)
            for number in range(1, 501):
                for peer in rooms.sockets:
                    if peer.is_flushed:
                        peer.send_now(frame)
                    else:
                        behind += peer is rooms.sockets[0]
                for peer in rooms.sockets[1:]:
                    await peer.wait_flushed()
                while min(got.values()) < number * len(frame):
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert list(got.values()) == [500 * len(frame)] * 2
        assert behind > 200
        conn = next(iter(c for c in there.door._serving if not c.is_flushed))
        assert conn.queued + len(conn._rest) <= len(frame) < HIGH_WATER
