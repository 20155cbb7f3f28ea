"""HTTP/1.1 connections (RFC 9112): one exchange at a time, pipelined requests wait in the engine."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import BinaryIO, Final

import trio

from fawa.net.connection import HALF_CLOSE_GRACE, HIGH_WATER, Connection, Limits, head_too_large
from fawa.net.engine import Data, EndOfMessage, Event, HttpError, Request, Role, header_list
from fawa.net.engine_http1 import H1Engine
from fawa.net.exchange import BodyTimeout, Disconnected, Exchange, Headers, Interrupted, Peer
from fawa.net.files import only_full_packets, read_pieces, send_some
from fawa.net.sockets import PlainStream

#: Bytes received ahead of the application (body, or requests pipelined behind it) above which reading stops.
_READ_AHEAD: Final = 256 * 1024
#: Bytes of an unread request body that are thrown away to keep the connection; beyond that it is closed.
_DISCARD_MOST: Final = 256 * 1024
#: Bytes that a response head is taken for where queued bytes are counted.
_HEAD_SIZE: Final = 256
_TOO_LARGE: Final = "the head exceeds the size limit of {} bytes"


class H1Exchange(Exchange):
    """The request now being answered on an HTTP/1.1 connection."""

    __slots__ = (
        "_arrived",
        "_conn",
        "_interrupted",
        "_pieces",
        "broken",
        "buffered",
        "ended",
        "expects",
        "finished",
        "started",
    )

    def __init__(self, conn: H1Connection, request: Request) -> None:
        super().__init__(request, header_list(request), request.http_version.decode("ascii"), conn.peer)
        self.body_timeout = conn.limits.body_timeout
        #: Body bytes received and not yet consumed.
        self.buffered = 0
        #: The whole request body has been received.
        self.ended = request.end_stream
        #: The client waits for 100 Continue before it sends the body.
        self.expects = request.expect_continue and self.version != "1.0"
        self.started = False
        #: The whole response has been queued.
        self.finished = False
        #: The response was broken off, or the request was: the connection must close.
        self.broken = False
        self._conn = conn
        self._pieces: list[bytes] = []
        self._arrived: trio.Event | None = None
        self._interrupted = False

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
            if self._interrupted:
                self._interrupted = False
                raise Interrupted
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

    @property
    def body_over(self) -> bool:
        return self.ended and not self._pieces

    def _leaves_much(self) -> bool:
        """Whether more of the request may come unread than is thrown away to keep a connection."""
        if self.ended:
            return False
        length = self.header(b"content-length")
        rest = math.inf if length is None else int(length) - self.bytes_in - self.buffered
        # Whether a body comes that was expected to be asked for nobody knows (RFC 9110 section 10.1.1).
        return self.expects or rest > _DISCARD_MOST

    def inform(self, status: int, headers: Headers) -> None:
        self._check()
        if self.version != "1.0":
            self._conn.engine.informational(status, headers)
            self._conn.queued += _HEAD_SIZE
            self._conn.wake_writer()

    def start(self, status: int, headers: Headers, *, end: bool = False) -> None:
        self._check()
        self._conn.engine.start(
            status,
            headers + self.extra_headers,
            version=self.version,
            bodyless=end or self.method == "HEAD" or status in (204, 304),
            to_head=self.method == "HEAD",
            close=self._conn.draining or self._leaves_much(),
        )
        self.status = status
        self.started = True
        self._conn.queued += _HEAD_SIZE
        if end:
            self.finish()
        else:
            self._conn.wake_writer()

    def push(self, data: bytes) -> None:
        self._check()
        self._conn.engine.push(data)
        self.bytes_out += len(data)
        self._conn.queued += len(data)
        if not self.upgraded:
            self._conn.wake_writer()

    def _has_room(self) -> bool:
        return self._conn.queued < HIGH_WATER

    def _progress(self) -> int:
        return self._conn.writes

    async def drain(self) -> None:
        if self.upgraded:
            self._conn.flush()
        if not self._has_room():
            await self._conn.wait_room(self._has_room, self._progress)

    async def send_file(self, file: BinaryIO, offset: int, count: int) -> None:
        conn = self._conn
        stream = conn.stream
        if not isinstance(stream, PlainStream) or not conn.engine.counts_length:
            async for piece in read_pieces(file, offset, count):
                await self.send(piece)
            return
        with only_full_packets(stream.socket):
            while count:
                # What comes before must be out and the writer idle: two tasks may not send on one socket.
                await conn.wait_room(lambda: conn.is_flushed and not conn.engine.has_output, self._progress)
                with trio.move_on_after(conn.limits.write_timeout) as timeout:
                    try:
                        sent = await send_some(stream.socket, file, offset, count)
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
            if self.upgraded:
                self._conn.break_off()

    @property
    def protocol(self) -> str:
        asked = self.header(b"upgrade")
        if asked is None or self.method != "GET" or self.version != "1.1":
            return ""
        options = b",".join(value for name, value in self.headers if name == b"connection")
        if b"upgrade" not in [option.strip() for option in options.lower().split(b",")]:
            return ""
        return asked.decode("latin-1").lower()

    def upgrade(self, headers: Headers) -> None:
        self._check()
        if not self.protocol:
            raise ValueError("the client asked for no upgrade")
        conn = self._conn
        if not conn.waits_for_answer:
            # The engine has them, and nobody could tell what they were meant for (RFC 6455 section 4.1).
            self.status = 400
            conn.refuse(HttpError("bytes came before the upgrade was answered"))
            raise Disconnected(f"{self.peer} sent bytes before the upgrade was answered")
        answer = [(b"connection", b"Upgrade"), (b"upgrade", self.protocol.encode("latin-1"))]
        conn.engine.upgrade([*answer, *headers, *self.extra_headers])
        self.status = 101
        self.started = self.upgraded = True
        self.ended = conn.input_ended
        self.body_timeout = math.inf
        conn.queued += _HEAD_SIZE
        conn.wake_writer()
        if self.draining:
            self.interrupt()

    def flush(self) -> None:
        self._conn.flush()

    def send_now(self, data: bytes) -> bool:
        conn = self._conn
        if not self.upgraded or self.finished or self.broken or not conn.is_clear:
            return super().send_now(data)
        # Every event goes this way to every client of a board: the engine has nothing to add to it.
        self.bytes_out += len(data)
        return conn.send_past(data)

    @property
    def is_flushed(self) -> bool:
        conn = self._conn
        return not conn.queued and conn.is_flushed and not conn.lost and not self.broken

    async def wait_flushed(self) -> None:
        self._conn.flush()
        await self._conn.wait_room(lambda: self.is_flushed or self.broken, self._progress)
        self._check()

    def interrupt(self) -> None:
        self._interrupted = True
        self.look()

    def _check(self) -> None:
        if self._conn.lost or self.broken:
            raise Disconnected(f"{self.peer} is gone")


class H1Connection(Connection[H1Exchange]):
    """One HTTP/1.1 connection, server side."""

    def __init__(self, stream: trio.abc.Stream, peer: Peer, limits: Limits) -> None:
        self.engine = H1Engine(Role.SERVER)
        super().__init__(stream, self.engine, peer, limits)
        #: The request that is being answered.
        self._exchange: H1Exchange | None = None
        #: Bytes received behind it, of an unfinished head, and of a body that nobody wants.
        self._ahead = 0
        #: A request has been answered, and the rest of its body is still to come.
        self._discarding = False
        #: The client has closed its sending side.
        self.input_ended = False
        self._resume = trio.Event()

    def parse(self, data: bytes) -> None:
        exchange = self._exchange
        if not data:
            self.input_ended = True
            if exchange is not None and exchange.upgraded:
                exchange.ended = True
                exchange.look()
            self.stop_reading()
            return
        if exchange is not None and exchange.upgraded:
            exchange.feed(data)
            return
        if exchange is None and self._ahead == 0 and not self._discarding:
            # From the first byte of a head: a client that sends it drop by drop gains nothing.
            self.set_deadline(trio.current_time() + self.limits.header_timeout)
        self._ahead += len(data)
        try:
            self._act(self.engine.receive(data))
            if self._exchange is None and not self._discarding and self._ahead > self.limits.max_header:
                raise HttpError(_TOO_LARGE.format(self.limits.max_header), 431)
        except HttpError as error:
            self.refuse(error)

    @property
    def waits_for_answer(self) -> bool:
        """Whether the client has sent its request whole, and nothing behind it."""
        exchange = self._exchange
        whole = exchange is not None and exchange.body_over
        return whole and not self._ahead and self.engine.head_is_last

    def refuse(self, error: HttpError) -> None:
        """Say what is wrong with what was received, unless an answer has begun, and end the connection."""
        exchange = self._exchange
        if not self._discarding and (exchange is None or not exchange.started):
            self.engine.fail(error.status, f"malformed HTTP/1.1: {error}")
        self.stop_reading()

    def _act(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Request):
                self._open(event)
            elif isinstance(event, Data):
                if self._exchange is not None:
                    self._exchange.feed(event.data)
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
        if head_too_large(exchange, self.limits):
            raise HttpError(_TOO_LARGE.format(self.limits.max_header), 431)
        coding = exchange.header(b"transfer-encoding")
        if coding is not None and coding.lower() != b"chunked":
            raise HttpError(f"transfer coding {coding!r} is not known, only chunked is", 501)
        if coding is not None and exchange.version == "1.0":
            # Whoever passed this on may have framed it in another way (RFC 9112 section 6.1).
            raise HttpError("HTTP/1.0 has no transfer-encoding")
        self._exchange = exchange
        self.ready.append(exchange)
        # Nobody reads on a half-closed connection, so nobody would notice that the client is gone.
        self.set_deadline(trio.current_time() + HALF_CLOSE_GRACE if self.input_ended else math.inf)

    async def may_read(self) -> None:
        await super().may_read()
        while (exchange := self._exchange) is not None and (
            self._ahead if exchange.ended else exchange.buffered
        ) > _READ_AHEAD:
            self._resume = trio.Event()
            await self._resume.wait()

    def read_on(self) -> None:
        """Let the leader look whether it may read: the application has consumed, or the call is over."""
        self._resume.set()

    def close_exchange(self, exchange: H1Exchange) -> None:
        self._exchange = None
        self.read_on()
        if not exchange.finished or exchange.broken or self.draining or self.engine.must_close:
            self.stop_reading()
        elif not self.reading:
            if self.input_ended and exchange.ended and not self.lost:
                self._next()  # half-closed: what the client sent before is still answered
        elif exchange.ended:
            self._next()
        else:
            self._discarding = True
            self.set_deadline(trio.current_time() + self.limits.body_timeout)

    def _next(self) -> None:
        """The response is out and the request is all read: turn to the next one."""
        self._discarding = False
        self.set_deadline(trio.current_time() + self.limits.idle_timeout)
        try:
            self._act(self.engine.next_cycle())
        except HttpError as error:
            self.refuse(error)

    def start_drain(self) -> None:
        self.draining = True
        if self._exchange is None:
            self.stop_reading()
        else:
            self._exchange.start_drain()

    def reading_over(self) -> None:
        self.read_on()
        exchange = self._exchange
        if exchange is None:
            if self.expired and self._ahead and not self._discarding:
                self.engine.fail(408, f"no whole request came in {self.limits.header_timeout:g} s")
        elif self.input_ended and exchange.ended and not self.lost:
            # Half-closed: the client may still read its answer.
            self.set_deadline(trio.current_time() + HALF_CLOSE_GRACE)
        else:
            self.cancel_calls()

    def cancel_calls(self) -> None:
        if self._exchange is not None:
            self._exchange.broken = True
            self._exchange.look()
            self._exchange.cancel()
