"""Servers for the client to meet: the real front door in this process, and one that says what a test says."""

from __future__ import annotations

import contextlib
import math
import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

import attrs
import trio
import trio.testing
from google.protobuf.message import Message
from grpclib._typing import IServable

from fawa.calls import serve
from fawa.client.call import Caller
from fawa.client.channel import Channel
from fawa.client.errors import CannotReach
from fawa.client.http2 import H2Dialer, H2Limits
from fawa.client.pool import Dial, DialShared, H1Pool, Reconnecting, SharedPool, background
from fawa.net.connection import Limits
from fawa.net.cors import Cors
from fawa.net.engine import Event, H2Engine, Role
from fawa.net.quic import QuicListener, QuicSettings
from fawa.net.router import Route, Router
from fawa.net.tcp import Endpoint, FrontDoor, Root, bind
from fawa.net.tls import Certificate, CertificateSource
from fawa.net.udp import bind_udp
from fawa.rpc.dialect import Limits as CallLimits
from fawa.rpc.dialect import client_dialect
from fawa.rpc.envelope import pack

AnyEvent = TypeVar("AnyEvent", bound=Event)

AUTHORITY = "server.test"


@attrs.define
class Server:
    """A front door on a loopback socket."""

    door: FrontDoor
    endpoint: Endpoint
    _scope: trio.CancelScope
    _gone: trio.Event = attrs.field(factory=trio.Event)

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        with self._scope:
            await self.door.run([self.endpoint], task_status)
        self._gone.set()

    async def stop(self) -> None:
        """Break all connections and be gone."""
        self._scope.cancel()
        await self._gone.wait()

    @property
    def url(self) -> str:
        scheme = "http" if self.endpoint.tls is None else "https"
        return f"{scheme}://{self.endpoint.address}"


#: Seconds a test of a connection may take before it is clear that it never ends.
PATIENCE = 60.0


def app(*implementations: IServable, routes: Mapping[str, Route] | None = None) -> Root:
    """Return what answers requests to RPC implementations and plain routes."""
    router = Router(serve.not_found)
    router.add(serve.routes(implementations, CallLimits()))
    router.add(routes or {})
    return Root(router, Cors(lambda _origin: False), None)


@asynccontextmanager
async def serving(
    *implementations: IServable,
    routes: Mapping[str, Route] | None = None,
    limits: Limits | None = None,
    tls: ssl.SSLContext | None = None,
    port: int = 0,
    patience: float = PATIENCE,
    quic: Certificate | None = None,
) -> AsyncIterator[Server]:
    """Serve RPC implementations and plain routes until the block ends; then every connection breaks.

    With `quic` they are there over HTTP/3, too, on the same port of UDP.
    """
    door = FrontDoor(
        app(*implementations, routes=routes), limits or Limits(), handshake_timeout=10.0, max_connections=1000
    )
    endpoints = await bind("127.0.0.1", port, tls)
    async with background() as nursery:
        server = Server(door, endpoints[0], trio.CancelScope())
        await nursery.start(server.run)
        if quic is not None:
            listener = QuicListener(
                app(*implementations, routes=routes),
                limits or Limits(),
                QuicSettings(),
                CertificateSource(quic),
                b"0123456789abcdef",
                1000,
            )
            udp = bind_udp("127.0.0.1", int(endpoints[0].address.rpartition(":")[2]))
            await nursery.start(listener.run, [udp])
        try:
            with trio.fail_after(patience):
                yield server
        finally:
            nursery.cancel_scope.cancel()


# A server whose words are written by the test, over memory streams: no socket, and no time passes.


class Script:
    """The server's side of one connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.engine = H2Engine(Role.SERVER, stream_window=65535, connection_window=65535)
        self._events: deque[Event] = deque()

    async def next(self, *kinds: type[AnyEvent]) -> AnyEvent:
        """Return the next event of one of these kinds; the others before it are passed over.

        Raises:
            EOFError: the client has closed the connection before.

        """
        while True:
            while self._events:
                event = self._events.popleft()
                if isinstance(event, kinds):
                    return event
            await self.take_in()

    async def take_in(self) -> None:
        """Send what has been said, and read what the client says to it.

        Raises:
            EOFError: the client has closed the connection.

        """
        await self.flush()
        data = await self.stream.receive_some()
        if not data:
            raise EOFError
        self._events.extend(self.engine.receive(bytes(data)))

    async def flush(self) -> None:
        """Send what has been said."""
        if data := self.engine.take():
            # What has been sent by a client that is gone can still be read.
            with contextlib.suppress(trio.BrokenResourceError):
                await self.stream.send_all(data)

    def head(self, stream_id: int) -> None:
        """Begin an answer in gRPC."""
        self.engine.stream(stream_id).send_response(200, [(b"content-type", b"application/grpc+proto")])

    def message(self, stream_id: int, message: Message) -> None:
        self.engine.send_data(self.engine.stream(stream_id), pack(message.SerializeToString()))

    def end(self, stream_id: int, status: int = 0) -> None:
        self.engine.end_message(self.engine.stream(stream_id), [(b"grpc-status", b"%d" % status)])

    def answer(self, stream_id: int, message: Message) -> None:
        """Answer with one message and OK."""
        self.head(stream_id)
        self.message(stream_id, message)
        self.end(stream_id)

    async def hang_up(self) -> None:
        await self.stream.aclose()


class ScriptedServer:
    """Takes connections that tests then speak on."""

    def __init__(self) -> None:
        self._accepted, self._waiting = trio.open_memory_channel[trio.abc.Stream](math.inf)
        #: While set, connections are refused.
        self.down = False
        self.dialled = 0

    async def dial(self) -> trio.abc.Stream:
        """Make a connection, as a client's pool asks for it."""
        self.dialled += 1
        await trio.lowlevel.checkpoint()
        if self.down:
            raise CannotReach(f"cannot reach {AUTHORITY}: connection refused")
        ours, theirs = trio.testing.memory_stream_pair()
        self._accepted.send_nowait(ours)
        return theirs

    async def accept(self) -> Script:
        """Wait for a connection."""
        return Script(await self._waiting.receive())

    def channel(
        self,
        dialect: str = "grpc",
        *,
        http: str = "2",
        limits: H2Limits | None = None,
        most: int = 16,
        patience: float = PATIENCE,
    ) -> AbstractAsyncContextManager[Channel]:
        """Open a channel to this server."""
        return open_channel(
            self.dial, AUTHORITY, dialect, http=http, limits=limits, most=most, patience=patience
        )


@asynccontextmanager
async def open_shared(
    dial: DialShared, authority: str, dialect: str, *, patience: float = PATIENCE
) -> AsyncIterator[Channel]:
    """Open a channel, as `connect` does, over connections that take many exchanges."""
    async with background() as nursery:
        pool = SharedPool(Reconnecting(dial), nursery)
        try:
            with trio.fail_after(patience):
                yield Channel(Caller(pool, authority, lambda: client_dialect(dialect)))
        finally:
            pool.close()


@asynccontextmanager
async def open_channel(
    dial: Dial,
    authority: str,
    dialect: str,
    *,
    http: str,
    scheme: str = "http",
    limits: H2Limits | None = None,
    most: int = 16,
    patience: float = PATIENCE,
) -> AsyncIterator[Channel]:
    """Open a channel, as `connect` does, over byte streams of a test's own making."""
    if http == "2":
        shared = H2Dialer(dial, authority, scheme, limits or H2Limits())
        async with open_shared(shared, authority, dialect, patience=patience) as channel:
            yield channel
        return
    async with background() as nursery:
        pool = H1Pool(Reconnecting(dial), nursery, authority, most)
        try:
            with trio.fail_after(patience):
                yield Channel(Caller(pool, authority, lambda: client_dialect(dialect)))
        finally:
            pool.close()
