"""Servers of HTTP/3 for the client to meet, on a network in memory: no socket, and no time passes."""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import cast

import attrs
import trio
from google.protobuf.message import Message
from grpclib._typing import IServable

from fawa.client import Channel
from fawa.client.dial import Origin
from fawa.client.dial_quic import H3Dialer
from fawa.client.http3 import H3Client
from fawa.net.connection import Limits
from fawa.net.exchange import Exchange
from fawa.net.http3_exchange import H3Exchange
from fawa.net.quic import _Link
from fawa.net.quic_client import CLIENT_LIMITS, QuicTrust
from fawa.net.quic_packets import QuicLimits
from fawa.net.tls import Certificate
from fawa.rpc.envelope import pack
from tests.client.server import app, open_shared
from tests.net.quic_talk import SERVER, There, Weather, listening

#: Rain and wind: a tenth of all datagrams is lost, and others come late, or twice.
ROUGH = Weather(loss=0.1, reorder=0.2, duplicate=0.1)


@attrs.define(eq=False)
class Quic:
    """A listener, and clients that dial it."""

    there: There
    certificate: Certificate
    #: Connections that clients have made.
    clients: list[H3Client] = attrs.field(factory=list)
    _ports: itertools.count[int] = attrs.field(factory=lambda: itertools.count(40_000))

    def dialer(
        self,
        host: str = "localhost",
        trust: QuicTrust | None = None,
        limits: QuicLimits = CLIENT_LIMITS,
    ) -> H3Dialer:
        trust = trust or QuicTrust(str(self.certificate.path), None)
        return H3Dialer(Origin("https", host, SERVER[1]), trust, limits)

    async def dial(self, dialer: H3Dialer) -> H3Client:
        """Make a connection over the network in memory."""
        sock = self.there.network.bind(("198.51.100.2", next(self._ports)))
        client = await dialer.open(sock, SERVER)
        self.clients.append(client)
        return client

    def channel(
        self, dialect: str = "grpc", limits: QuicLimits = CLIENT_LIMITS, *, patience: float = 5000.0
    ) -> AbstractAsyncContextManager[Channel]:
        """Open a channel to the listener."""
        dialer = self.dialer(limits=limits)

        async def dial() -> H3Client:
            return await self.dial(dialer)

        return open_shared(dial, dialer.origin.authority, dialect, patience=patience)

    @property
    def links(self) -> list[_Link]:
        """The listener's connections."""
        return sorted(self.there.listener._links, key=lambda link: link.h3.peer.address)

    def cut(self) -> None:
        """Let no datagram pass any more."""
        self.there.network.passes = lambda _data, _to: False


@asynccontextmanager
async def quic(
    certificate: Certificate,
    *implementations: IServable,
    weather: Weather | None = None,
    seed: int = 1,
    limits: Limits | None = None,
) -> AsyncIterator[Quic]:
    """Serve RPC implementations over HTTP/3."""
    async with listening(
        certificate, app=app(*implementations), weather=weather, seed=seed, limits=limits
    ) as there:
        yield Quic(there, certificate)


@attrs.define(eq=False)
class Script:
    """The server's side of one request, in gRPC; ends when the test says so."""

    exchange: H3Exchange
    _done: trio.Event = attrs.field(factory=trio.Event)

    def head(self) -> None:
        self.exchange.start(200, [(b"content-type", b"application/grpc+proto")])

    def message(self, message: Message) -> None:
        self.exchange.push(pack(message.SerializeToString()))

    def end(self, status: int = 0) -> None:
        self.exchange.finish([(b"grpc-status", b"%d" % status)])
        self._done.set()

    def answer(self, message: Message) -> None:
        """Answer with one message and OK."""
        self.head()
        self.message(message)
        self.end()

    def reset(self, code: int) -> None:
        self.exchange.reset(code)
        self._done.set()


@attrs.define(eq=False)
class ScriptedQuic(Quic):
    """Hands requests to the test, which answers them."""

    _requests: trio.MemoryReceiveChannel[Script] = attrs.field(kw_only=True)

    async def next(self) -> Script:
        """Wait for a request."""
        return await self._requests.receive()


@asynccontextmanager
async def scripted(
    certificate: Certificate,
    *,
    weather: Weather | None = None,
    seed: int = 1,
    limits: Limits | None = None,
) -> AsyncIterator[ScriptedQuic]:
    """Take requests that the test answers."""
    arrived, requests = trio.open_memory_channel[Script](math.inf)

    async def handler(exchange: Exchange) -> None:
        script = Script(cast("H3Exchange", exchange))
        arrived.send_nowait(script)
        await script._done.wait()

    async with listening(certificate, app=handler, weather=weather, seed=seed, limits=limits) as there:
        yield ScriptedQuic(there, certificate, requests=requests)
