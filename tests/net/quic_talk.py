"""Both ends of QUIC connections in one process: our listener, and clients made of aioquic's core.

Between them lies a network in memory that loses, reorders and duplicates datagrams as its seed says.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import (
    DatagramReceived,
    DataReceived,
    H3Event,
    HeadersReceived,
    WebTransportStreamDataReceived,
)
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import (
    ConnectionTerminated,
    HandshakeCompleted,
    QuicEvent,
    StopSendingReceived,
    StreamReset,
)

from fawa.net import tls
from fawa.net.connection import App, Limits
from fawa.net.exchange import Exchange
from fawa.net.quic import QuicListener, QuicSettings
from fawa.net.udp import Address, Datagram
from tests.net.talk import Handler, root

SERVER: Address = ("192.0.2.1", 443)
#: Seconds by which the client's timers fire late: see `fawa.net.quic`.
LATE = 1e-4
SECRET = b"0123456789abcdef"


@attrs.define
class Weather:
    """What the network does to datagrams; shares of one."""

    loss: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0
    #: Seconds one way.
    delay: float = 0.01


@attrs.define
class Network:
    """Carries datagrams between addresses."""

    weather: Weather
    chance: random.Random
    #: Which datagrams pass at all.
    passes: Callable[[bytes, Address], bool] = lambda data, to: True
    sent: int = 0
    _inboxes: dict[Address, trio.MemorySendChannel[Datagram]] = attrs.field(factory=dict)
    #: What is under way: when it arrives and how many were sent before it, what it is, and where it goes to.
    _flying: list[tuple[float, int, Datagram, Address]] = attrs.field(factory=list)
    _pause: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    def bind(self, address: Address) -> Mailbox:
        send, receive = trio.open_memory_channel[Datagram](10_000)
        self._inboxes[address] = send
        return Mailbox(self, address, receive)

    def carry(self, data: bytes, source: Address, to: Address) -> None:
        if not self.passes(data, to) or self.chance.random() < self.weather.loss:
            self.sent += 1
            return
        copies = 2 if self.chance.random() < self.weather.duplicate else 1
        for _ in range(copies):
            delay = self.weather.delay
            if self.chance.random() < self.weather.reorder:
                delay += self.chance.random() * 0.05
            self.sent += 1
            heapq.heappush(self._flying, (trio.current_time() + delay, self.sent, (data, source), to))
        if self._flying:
            self._pause.deadline = min(self._pause.deadline, self._flying[0][0])

    async def run(self) -> None:
        while True:
            deadline = self._flying[0][0] if self._flying else math.inf
            with trio.CancelScope(deadline=deadline) as self._pause:
                await trio.sleep_forever()
            now = trio.current_time()
            while self._flying and self._flying[0][0] <= now:
                _, _, datagram, to = heapq.heappop(self._flying)
                # Where nobody reads it is lost, as datagrams may be.
                with contextlib.suppress(KeyError, trio.WouldBlock, trio.BrokenResourceError):
                    self._inboxes[to].send_nowait(datagram)


@attrs.define
class Mailbox:
    """A bound address on the network: a `DatagramSocket`."""

    network: Network
    address: Address
    inbox: trio.MemoryReceiveChannel[Datagram]

    async def receive(self) -> Sequence[Datagram]:
        found = [await self.inbox.receive()]
        while True:
            try:
                found.append(self.inbox.receive_nowait())
            except trio.WouldBlock:
                return found

    def send(self, datagrams: Sequence[Datagram]) -> None:
        for data, to in datagrams:
            self.network.carry(data, self.address, to)

    def close(self) -> None:
        self.inbox.close()


@attrs.define
class Answer:
    """What has come of one response."""

    head: dict[bytes, bytes] = attrs.field(factory=dict)
    #: Heads of interim responses that came before.
    interim: list[dict[bytes, bytes]] = attrs.field(factory=list)
    body: bytearray = attrs.field(factory=bytearray)
    trailers: dict[bytes, bytes] = attrs.field(factory=dict)
    ended: bool = False
    #: Code with which the server broke it off, or wanted no more of the request.
    reset: int | None = None
    stopped: int | None = None

    @property
    def status(self) -> int:
        return int(self.head[b":status"])


class ClientCore(QuicConnection):
    """aioquic's client; `stingy` gives no more window than at first."""

    stingy = False

    def _write_connection_limits(self, builder, space) -> None:  # type: ignore[no-untyped-def]
        if not self.stingy:
            super()._write_connection_limits(builder, space)

    def _write_stream_limits(self, builder, space, stream) -> None:  # type: ignore[no-untyped-def]
        if not self.stingy:
            super()._write_stream_limits(builder, space, stream)


@attrs.define
class Client:
    """One HTTP/3 client connection."""

    quic: ClientCore
    mailbox: Mailbox
    h3: H3Connection | None = None
    answers: dict[int, Answer] = attrs.field(factory=dict)
    terminated: ConnectionTerminated | None = None
    established: bool = False
    #: Speaks WebTransport; the datagrams of its sessions.
    sessions: bool = False
    datagrams: list[bytes] = attrs.field(factory=list)
    _news: trio.Event = attrs.field(factory=trio.Event)
    _pause: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    async def run(self) -> None:
        """Receive and keep the timers until the connection is over."""
        while self.terminated is None:
            self.flush()
            timer = self.quic.get_timer()
            datagrams: Sequence[Datagram] = ()
            with trio.move_on_at(trio.current_time() if timer is None else timer + LATE) as self._pause:
                datagrams = await self.mailbox.receive()
            now = trio.current_time()
            for data, source in datagrams:
                self.quic.receive_datagram(data, source, now)
            if timer is not None and timer <= now:
                self.quic.handle_timer(now)
            self._take_events()

    def _take_events(self) -> None:
        while (event := self.quic.next_event()) is not None:
            self._on_quic(event)
            if self.h3 is not None:
                for heard in self.h3.handle_event(event):
                    self._on_h3(heard)
        self._news.set()
        self._news = trio.Event()

    def _on_quic(self, event: QuicEvent) -> None:
        match event:
            case HandshakeCompleted():
                self.established = True
                self.h3 = H3Connection(self.quic, enable_webtransport=self.sessions)
            case StreamReset(stream_id=number, error_code=code):
                self[number].reset = code
            case StopSendingReceived(stream_id=number, error_code=code):
                self[number].stopped = code
            case ConnectionTerminated():
                self.terminated = event

    def _on_h3(self, event: H3Event) -> None:
        match event:
            case HeadersReceived(stream_id=number):
                answer = self[number]
                if answer.head.get(b":status", b"")[:1] == b"1":
                    answer.interim.append(answer.head)
                    answer.head = {}
                if answer.head:
                    answer.trailers = dict(event.headers)
                else:
                    answer.head = dict(event.headers)
                answer.ended = event.stream_ended
            case DataReceived(stream_id=number):
                self[number].body += event.data
                self[number].ended = event.stream_ended
            case WebTransportStreamDataReceived(stream_id=number):
                self[number].body += event.data
                self[number].ended = event.stream_ended
            case DatagramReceived():
                self.datagrams.append(event.data)

    def __getitem__(self, number: int) -> Answer:
        return self.answers.setdefault(number, Answer())

    def flush(self) -> None:
        self.mailbox.send(self.quic.datagrams_to_send(trio.current_time()))
        # `run` looks at the timers again.
        timer = self.quic.get_timer()
        if timer is not None:
            self._pause.deadline = min(self._pause.deadline, timer + LATE)

    async def until(self, happened: Callable[[], object]) -> None:
        """Wait until something holds; a connection that ends first is a failure."""
        while not happened():
            assert self.terminated is None, self.terminated
            await self._news.wait()

    async def until_over(self) -> ConnectionTerminated:
        while self.terminated is None:
            await self._news.wait()
        return self.terminated

    def open(
        self,
        path: str = "/",
        method: str = "POST",
        headers: Sequence[tuple[bytes, bytes]] = (),
        *,
        end: bool = False,
    ) -> int:
        assert self.h3 is not None
        number = self.quic.get_next_available_stream_id()
        head = [
            (b":method", method.encode()),
            (b":scheme", b"https"),
            (b":authority", b"fawa.example"),
            (b":path", path.encode()),
            *headers,
        ]
        self.h3.send_headers(number, head, end_stream=end)
        self.flush()
        return number

    def send(self, number: int, data: bytes, *, end: bool = False) -> None:
        assert self.h3 is not None
        self.h3.send_data(number, data, end_stream=end)
        self.flush()

    def send_raw(self, number: int, data: bytes, *, end: bool = False) -> None:
        """Send octets on a stream as they are."""
        self.quic.send_stream_data(number, data, end_stream=end)
        self.flush()

    async def ask(self, path: str = "/", body: bytes = b"", method: str = "POST") -> Answer:
        """Return the whole answer to a request."""
        number = self.open(path, method)
        self.send(number, body, end=True)
        await self.until(lambda: self[number].ended)
        return self.answers.pop(number)

    def close(self) -> None:
        self.quic.close()
        self.flush()


@attrs.define
class There:
    """A listener that serves, and the network around it."""

    listener: QuicListener
    network: Network
    certificates: tls.CertificateSource
    nursery: trio.Nursery
    _clients: list[Client] = attrs.field(factory=list)

    def client(
        self,
        *,
        window: int = 1024 * 1024,
        stingy: bool = False,
        version: int | None = None,
        sessions: bool = False,
    ) -> Client:
        """Return a client that has sent its first packet."""
        address: Address = ("198.51.100.1", 1024 + len(self._clients))
        configuration = QuicConfiguration(
            alpn_protocols=["h3"],
            server_name="localhost",
            cadata=self.certificates.current.chain,
            max_stream_data=window,
            idle_timeout=300,
            max_datagram_frame_size=65536 if sessions else None,
        )
        if version is not None:
            configuration.original_version = version
        core = ClientCore(configuration=configuration)
        core.stingy = stingy
        client = Client(core, self.network.bind(address), sessions=sessions)
        self._clients.append(client)
        core.connect(SERVER, trio.current_time())
        self.nursery.start_soon(client.run)
        return client

    async def connect(
        self, *, window: int = 1024 * 1024, stingy: bool = False, sessions: bool = False
    ) -> Client:
        """Return a client whose handshake is complete."""
        client = self.client(window=window, stingy=stingy, sessions=sessions)
        await client.until(lambda: client.established)
        return client

    def send_stray(self, data: bytes, source: Address = ("203.0.113.9", 9)) -> Mailbox:
        """Send a datagram to the listener from nowhere; returns where answers arrive."""
        mailbox = self.network.bind(source)
        self.network.carry(data, source, SERVER)
        return mailbox

    def bring(self, datagrams: Sequence[Datagram]) -> None:
        """Put datagrams into the listener's mailbox at once."""
        for data, source in datagrams:
            self.network._inboxes[SERVER].send_nowait((data, source))


def certificate(folder: Path) -> tls.Certificate:
    """Return a certificate for localhost that is valid on the wall clock."""
    import time

    return tls.development_certificate(folder, time.time(), "")


@asynccontextmanager
async def listening(
    source: tls.Certificate,
    handler: Handler | None = None,
    *,
    app: App | None = None,
    limits: Limits | None = None,
    settings: QuicSettings | None = None,
    weather: Weather | None = None,
    seed: int = 1,
    max_connections: int = 100,
) -> AsyncIterator[There]:
    """Serve on a network in memory; at the end nothing may be left of any connection."""
    certificates = tls.CertificateSource(source)
    listener = QuicListener(
        app or root(handler or echo),
        limits or Limits(),
        settings or QuicSettings(),
        certificates,
        SECRET,
        max_connections,
    )
    async with trio.open_nursery() as nursery:
        network = Network(weather or Weather(), random.Random(seed))
        nursery.start_soon(network.run)
        await nursery.start(listener.run, [network.bind(SERVER)])
        yield There(listener, network, certificates, nursery)
        listener.drain(0)
        await trio.sleep(10)
        assert listener.connections == 0
        assert not listener._routes
        assert not listener._greeting
        nursery.cancel_scope.cancel()


async def echo(exchange: Exchange) -> None:
    """Send the request body back as it comes, with its size in a trailer."""
    exchange.start(200, [(b"path", exchange.path.encode()), (b"host", exchange.authority.encode())])
    size = 0
    while data := await exchange.receive():
        size += len(data)
        await exchange.send(data)
    exchange.finish([(b"size", b"%d" % size)])
