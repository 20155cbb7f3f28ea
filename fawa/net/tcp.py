"""The front door on TCP: listeners, TLS, the choice of HTTP version, and what every request meets first."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from email.utils import formatdate
from pathlib import Path
from typing import Final

import attrs
import trio

from fawa.net.connection import App, Limits
from fawa.net.cors import Cors
from fawa.net.engine import PREFACE
from fawa.net.exchange import BodyTimeout, BodyTooLarge, Disconnected, Exchange, Peer
from fawa.net.http1 import H1Connection
from fawa.net.http2 import H2Connection
from fawa.net.router import Router
from fawa.net.sockets import PlainStream
from fawa.net.udp import UdpSocket, bind_udp

_log = logging.getLogger("fawa.net")

#: Seconds without traffic before the kernel probes a peer, between probes, and probes before it gives up.
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))
#: Connections the kernel holds until they are accepted.
_BACKLOG: Final = 1024
#: Ports that are tried until one is free on TCP and UDP, where any would do.
_PORT_TRIES: Final = 10

#: Called when an exchange is over with its duration in seconds.
Access = Callable[[Exchange, float], None]


@attrs.define
class Root:
    """The application every request meets first: date, CORS, routing, faults, the access log."""

    router: Router
    cors: Cors
    #: `None`: no access log.
    access: Access | None
    #: What answers over TLS say of other ways in (`Alt-Svc`, RFC 7838), "" for nothing.
    alternative: bytes = b""
    #: The time in Unix seconds.
    clock: Callable[[], float] = time.time
    #: A second of it, and how answers put it.
    _date: tuple[int, bytes] = attrs.field(default=(-1, b""), init=False)

    async def __call__(self, exchange: Exchange) -> None:
        """Serve one exchange; raises nothing but cancellation."""
        began = time.monotonic()
        exchange.extra_headers.append((b"date", self._now()))
        if self.alternative and exchange.version != "3" and exchange.scheme == "https":
            exchange.extra_headers.append((b"alt-svc", self.alternative))
        try:
            if b"origin" not in exchange.fields or self.cors.admit(exchange):
                await self.router.handler(exchange)(exchange)
        except Disconnected as error:
            exchange.abort()
            exchange.label = exchange.label or str(error)
        except BodyTimeout as error:
            _refuse(exchange, 408, str(error))
        except BodyTooLarge as error:
            _refuse(exchange, 413, str(error))
        except Exception:
            _log.exception("%s %s failed", exchange.method, exchange.path)
            _refuse(exchange, 500, "the server failed to answer; its log says why")
        finally:
            if self.access is not None:
                self.access(exchange, time.monotonic() - began)

    def _now(self) -> bytes:
        """Return what `Date` is to say (RFC 9110, section 6.6.1)."""
        second = int(self.clock())
        if second != self._date[0]:
            self._date = second, formatdate(second, usegmt=True).encode()
        return self._date[1]


def _refuse(exchange: Exchange, status: int, text: str) -> None:
    """Answer with an error, or break the answer off where it has begun."""
    with contextlib.suppress(Disconnected):
        if exchange.status:
            exchange.abort()
        else:
            exchange.respond_text(status, text)


@attrs.frozen
class Endpoint:
    """A bound socket and, where it speaks TLS, the context for it."""

    listener: trio.SocketListener
    tls: ssl.SSLContext | None = None

    @property
    def address(self) -> str:
        """The address it is bound to, as `host:port`."""
        return _address(self.listener.socket.getsockname())


def _address(name: tuple[object, ...] | str) -> str:
    if isinstance(name, str):
        return name or "unix"
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


async def bind(host: str, port: int, tls: ssl.SSLContext | None = None) -> list[Endpoint]:
    """Bind `host` ("" = all interfaces) and `port` (0 = any free one).

    Raises:
        OSError: the address is in use, not this machine's, or not allowed; the text says which.

    """
    try:
        listeners = await trio.open_tcp_listeners(port, host=host or None, backlog=_BACKLOG)
    except OSError as error:
        raise OSError(
            error.errno, f"cannot listen on {host or '*'}:{port}: {error.strerror or error}"
        ) from error
    return [Endpoint(listener, tls) for listener in listeners]


def bind_unix(path: Path) -> Endpoint:
    """Bind a Unix socket that only this user may connect to, in place of one that nobody listens on.

    Raises:
        OSError: somebody listens on it, it is no socket, or the folder does not allow it.

    """
    sock = socket.socket(socket.AF_UNIX)
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()
        sock.bind(str(path))
        path.chmod(0o600)  # before anybody could connect: nothing listens yet
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on unix:{path}: {error.strerror or error}") from error
    return Endpoint(trio.SocketListener(trio.socket.from_stdlib_socket(sock)))


async def bind_with_udp(host: str, port: int, tls: ssl.SSLContext) -> tuple[list[Endpoint], list[UdpSocket]]:
    """Bind `host` and `port` for TLS on TCP, and the same addresses and ports on UDP for QUIC.

    Raises:
        OSError: as `bind` and `bind_udp`.

    """
    for attempt in range(_PORT_TRIES):
        endpoints = await bind(host, port, tls)
        sockets: list[UdpSocket] = []
        try:
            for endpoint in endpoints:
                sockets.append(bind_udp(*endpoint.listener.socket.getsockname()[:2]))
        except OSError:
            for sock in sockets:
                sock.close()
            for endpoint in endpoints:
                await endpoint.listener.aclose()
            if port or attempt == _PORT_TRIES - 1:
                raise
        else:
            break
    return endpoints, sockets


@attrs.define
class FrontDoor:
    """Accepts connections and serves each to its end."""

    app: App
    limits: Limits
    handshake_timeout: float
    max_connections: int
    #: Connections that were let in.
    accepted: int = attrs.field(default=0, init=False)
    #: Connections turned away because there were `max_connections`.
    refused: int = attrs.field(default=0, init=False)
    _open: set[PlainStream] = attrs.field(factory=set, init=False)
    _serving: set[H1Connection | H2Connection] = attrs.field(factory=set, init=False)
    #: Connections that have not said yet what they speak.
    _greeting: set[trio.CancelScope] = attrs.field(factory=set, init=False)
    _accepting: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _grace: float = attrs.field(default=0.0, init=False)

    async def run(
        self, endpoints: Sequence[Endpoint], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Accept and serve until `drain`, then finish what is open within its grace."""
        async with trio.open_nursery() as connections:
            with self._accepting:
                async with trio.open_nursery() as acceptors:
                    for endpoint in endpoints:
                        acceptors.start_soon(self._accept, endpoint, connections)
                    task_status.started()
            connections.cancel_scope.deadline = trio.current_time() + self._grace
            for greeting in self._greeting:
                greeting.cancel()
            for connection in self._serving:
                connection.start_drain()

    async def _accept(self, endpoint: Endpoint, connections: trio.Nursery) -> None:
        async def serve(stream: trio.SocketStream) -> None:
            await self._serve(stream, endpoint.tls)

        await trio.serve_listeners(serve, [endpoint.listener], handler_nursery=connections)

    def drain(self, grace: float) -> None:
        """Stop accepting; open requests have `grace` seconds to finish."""
        self._grace = grace
        self._accepting.cancel()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._open)

    async def _serve(self, sock: trio.SocketStream, tls: ssl.SSLContext | None) -> None:
        stream = PlainStream(sock)
        if len(self._open) >= self.max_connections:
            self.refused += 1
            if self.refused == 1 or self.refused % 1000 == 0:
                _log.warning(
                    "%d connections are open (limits.max_connections); %d turned away so far",
                    self.max_connections,
                    self.refused,
                )
            await trio.aclose_forcefully(stream)
            return
        self._open.add(stream)
        self.accepted += 1
        try:
            if sock.socket.family != socket.AF_UNIX:
                for option, value in _KEEPALIVE:
                    sock.setsockopt(socket.IPPROTO_TCP, option, value)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            peer = Peer(_address(sock.socket.getpeername()), "http" if tls is None else "https")
            connection: H1Connection | H2Connection | None = None
            with trio.move_on_after(self.handshake_timeout) as greeting:
                self._greeting.add(greeting)
                try:
                    connection, first = await self._greet(stream, tls, peer)
                finally:
                    self._greeting.discard(greeting)
            if connection is not None:
                await self._run(connection, first)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as error:
            _log.debug("connection ended: %s", error)
        except Exception:
            _log.exception("connection failed")
        finally:
            self._open.discard(stream)
            await trio.aclose_forcefully(sock)

    async def _greet(
        self, sock: PlainStream, tls: ssl.SSLContext | None, peer: Peer
    ) -> tuple[H1Connection | H2Connection | None, bytes]:
        """Do the TLS handshake and find the HTTP version: by ALPN, else by the HTTP/2 preface."""
        stream: trio.abc.Stream = sock
        if tls is not None:
            secure = trio.SSLStream(sock, tls, server_side=True, https_compatible=True)
            await secure.do_handshake()
            stream = secure
            if secure.selected_alpn_protocol() == "h2":
                return H2Connection(stream, peer, self.limits), b""
        first = b""
        while PREFACE.startswith(first) and len(first) < len(PREFACE):
            more = await stream.receive_some(65536)
            if not more:
                return None, b""
            first += more
        if first.startswith(PREFACE):
            return H2Connection(stream, peer, self.limits), first
        return H1Connection(stream, peer, self.limits), first

    async def _run(self, connection: H1Connection | H2Connection, first: bytes) -> None:
        if self._accepting.cancel_called:
            return
        self._serving.add(connection)
        try:
            await connection.run(self.app, first)
        finally:
            self._serving.discard(connection)
