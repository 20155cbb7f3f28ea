"""HTTP/1.1 connections (RFC 9112): one exchange at a time, pipelined requests wait in the engine."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import BinaryIO, Final

import trio

from fawa.net.connection import (
    HALF_CLOSE_GRACE,
    HIGH_WATER,
    App,
    Connection,
    Limits,
    Peer,
    ReadDeadline,
)
from fawa.net.engine import Data, EndOfMessage, Event, H1Engine, HttpError, Request, Role, header_list
from fawa.net.exchange import BodyTimeout, Disconnected, Exchange, Headers
from fawa.net.files import raw_socket, read_pieces, send_some

#: Bytes received ahead of the application (body, or requests pipelined behind it) above which reading stops.
_READ_AHEAD: Final = 256 * 1024
#: Bytes of an unread request body that are thrown away to keep the connection; beyond that it is closed.
_DISCARD_MOST: Final = 256 * 1024


class H1Exchange(Exchange):
    """The request now being answered on an HTTP/1.1 connection."""

    __slots__ = (
        "_arrived",
        "_conn",
        "_pieces",
        "broken",
        "buffered",
        "ended",
        "expects",
        "finished",
        "started",
    )

    def __init__(self, conn: H1Connection, request: Request) -> None:
        headers = header_list(request)
        authority = b""
        for name, value in headers:
            if name == b"host":
                authority = value
                break
        super().__init__(
            method=request.method.decode("ascii"),
            path=request.path.decode("latin-1"),
            query=request.query.decode("latin-1"),
            headers=headers,
            version=request.http_version.decode("ascii"),
            scheme=conn.peer.scheme,
            authority=authority.decode("latin-1"),
            peer=conn.peer.address,
        )
        self.body_timeout = conn.limits.body_timeout
        #: Body bytes received and not yet consumed.
        self.buffered = 0
        #: The whole request body has been received.
        self.ended = request.end_stream
        #: The client waits for 100 Continue before it sends the body.
        self.expects = request.expect_continue
        self.started = False
        #: The whole response has been queued.
        self.finished = False
        #: The response was broken off, or the request was: the connection must close.
        self.broken = False
        self._conn = conn
        self._pieces: list[bytes] = []
        self._arrived: trio.Event | None = None

    def feed(self, data: bytes) -> None:
        """Body bytes have arrived."""
        self.buffered += len(data)
        self._pieces.append(data)
        self.look()

    def look(self) -> None:
        """Wake the reader of the body."""
        if self._arrived is not None:
            self._arrived.set()

    async def receive(self) -> bytes:
        while not self._pieces:
            if self.ended:
                return b""
            if self.broken or self._conn.lost:
                raise Disconnected(f"{self.peer} broke off its request")
            if self.expects and not self.started:
                self.expects = False
                self._conn.engine.informational(100)
                self._conn.wake_writer()
            self._arrived = trio.Event()
            with trio.move_on_after(self.body_timeout) as timeout:
                await self._arrived.wait()
            self._arrived = None
            if timeout.cancelled_caught:
                raise BodyTimeout(f"no byte of the request body came for {self.body_timeout:g} s")
        data = b"".join(self._pieces)
        self._pieces.clear()
        self.bytes_in += len(data)
        self.buffered = 0
        self._conn.read_on()
        return data

    def start(self, status: int, headers: Headers, *, end: bool = False) -> None:
        self._check()
        self._conn.engine.start(
            status,
            headers + self.extra_headers,
            version=self.version,
            bodyless=end or self.method == "HEAD" or status in (204, 304),
            close=self._conn.draining,
        )
        self.status = status
        self.started = True
        if end:
            self.finish()
        else:
            self._conn.wake_writer()

    def push(self, data: bytes) -> None:
        self._check()
        self._conn.engine.push(data)
        self.bytes_out += len(data)
        self._conn.queued += len(data)
        self._conn.wake_writer()

    def _has_room(self) -> bool:
        return self._conn.queued < HIGH_WATER

    async def drain(self) -> None:
        if not self._has_room():
            await self._conn.wait_room(self._has_room)

    async def send_file(self, file: BinaryIO, offset: int, count: int) -> None:
        conn = self._conn
        sock = raw_socket(conn.stream)
        if sock is None or not conn.engine.counts_length:
            async for piece in read_pieces(file, offset, count):
                await self.send(piece)
            return
        while count:
            # The writer must be idle: two tasks may not send on one socket.
            await conn.wait_room(lambda: conn.is_flushed)
            with trio.move_on_after(conn.limits.write_timeout) as timeout:
                try:
                    sent = await send_some(sock, file, offset, count)
                except OSError as error:
                    raise Disconnected(f"{self.peer} is gone: {error}") from error
            if timeout.cancelled_caught:
                raise Disconnected(f"{self.peer} took nothing for {conn.limits.write_timeout:g} s")
            conn.engine.sent_aside(sent)
            self.bytes_out += sent
            offset += sent
            count -= sent

    def finish(self, trailers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._check()
        self._conn.engine.finish(trailers)
        self.finished = True
        self._conn.wake_writer()

    def abort(self) -> None:
        if not self.finished:
            self.broken = True

    def _check(self) -> None:
        if self._conn.lost or self.broken:
            raise Disconnected(f"{self.peer} is gone")


class H1Connection(Connection):
    """One HTTP/1.1 connection, server side."""

    engine: H1Engine

    def __init__(self, stream: trio.abc.Stream, peer: Peer, limits: Limits) -> None:
        self.engine = H1Engine(Role.SERVER)
        super().__init__(stream, self.engine, peer, limits)
        self._exchange: H1Exchange | None = None
        #: Bytes received behind the current request, and of a body nobody wants.
        self._ahead = 0
        self._discarded = 0
        self._closing = False
        self._resume = trio.Event()
        self._deadline = ReadDeadline()
        self._nursery: trio.Nursery
        self._app: App

    async def run(self, app: App, first: bytes) -> None:
        self._app = app
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._write_loop)
            self._deadline.set(trio.current_time() + self.limits.header_timeout)
            with self._deadline.scope:
                await self._read_loop(first)
            if self._deadline.scope.cancelled_caught and self._ahead and not self._closing:
                self.engine.fail(408, f"no whole request head came in {self.limits.header_timeout:g} s")
            if (exchange := self._exchange) is not None:
                exchange.broken = True
                exchange.scope.cancel()
            self._end_writing()
        if not self.lost:
            await self.linger()

    async def _read_loop(self, data: bytes) -> None:
        """Read until the peer is gone, the last response is out, or the bytes make no sense."""
        while not self.lost:
            if data:
                if self._exchange is None and self._ahead == 0:
                    # From the first byte of a head: a client that sends it drop by drop gains nothing.
                    self._deadline.set(trio.current_time() + self.limits.header_timeout)
                self._ahead += len(data)
                if not self._parse(data):
                    return
            while (exchange := self._exchange) is not None and self._is_ahead(exchange):
                self._resume = trio.Event()
                await self._resume.wait()
            try:
                data = await self.read()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._lose()
                return
            if not data:
                await self._end_of_input()
                return

    def _is_ahead(self, exchange: H1Exchange) -> bool:
        return (self._ahead if exchange.ended else exchange.buffered) > _READ_AHEAD

    def read_on(self) -> None:
        """Let the read loop go on: the application has consumed, or the next request has its turn."""
        self._resume.set()

    async def _end_of_input(self) -> None:
        """The client sends no more. One that only half-closed may still read its answer."""
        exchange = self._exchange
        if exchange is not None and exchange.ended:
            with trio.move_on_after(HALF_CLOSE_GRACE):
                while self._exchange is not None and not self.lost:
                    self._resume = trio.Event()
                    await self._resume.wait()

    def _parse(self, data: bytes) -> bool:
        """Act on received bytes; returns whether the connection can go on."""
        try:
            self._act(self.engine.receive(data))
        except HttpError as error:
            self._refuse(error)
            return False
        return True

    def _refuse(self, error: HttpError) -> None:
        exchange = self._exchange
        if exchange is None or not exchange.started:
            self.engine.fail(error.status, f"malformed HTTP/1.1: {error}")
            self.wake_writer()

    def _act(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Request):
                self._open(event)
            elif isinstance(event, Data):
                if self._exchange is not None:
                    self._exchange.feed(event.data)
                else:
                    self._discard(len(event.data))
            elif isinstance(event, EndOfMessage):
                self._ahead = 0
                if self._exchange is not None:
                    self._exchange.ended = True
                    self._exchange.look()
                else:
                    self._next()

    def _open(self, request: Request) -> None:
        if request.end_stream:
            self._ahead = 0
        exchange = H1Exchange(self, request)
        self._exchange = exchange
        self._deadline.set(math.inf)
        self._nursery.start_soon(self._serve, exchange)

    async def _serve(self, exchange: H1Exchange) -> None:
        with exchange.scope:
            await self._app(exchange)
        self._exchange = None
        self.read_on()
        if not exchange.finished or exchange.broken or self.draining or self.engine.must_close:
            self._close()
        elif exchange.ended:
            self._next()
        elif exchange.expects:
            # The body was not asked for, and whether it comes nobody knows (RFC 9110 section 10.1.1).
            self._close()
        else:
            self._deadline.set(trio.current_time() + self.limits.body_timeout)

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > _DISCARD_MOST:
            self._close()

    def _next(self) -> None:
        """The response is out and the request is all read: turn to the next one."""
        self._discarded = 0
        self._deadline.set(trio.current_time() + self.limits.idle_timeout)
        try:
            self._act(self.engine.next_cycle())
        except HttpError as error:
            self._refuse(error)
            self._close()

    def _close(self) -> None:
        """End the connection after what is queued."""
        self._closing = True
        self._deadline.scope.cancel()

    def start_drain(self) -> None:
        self.draining = True
        if self._exchange is None:
            self._close()

    def on_lost(self) -> None:
        self._close()
        if self._exchange is not None:
            self._exchange.scope.cancel()
