"""HTTP/3 connections, client side (RFC 9114)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.client.errors import CannotReach, ConnectionLost, Refused, from_h3_reset
from fawa.client.exchange import ClientExchange, Headers, Shared
from fawa.client.wire import HIGH_WATER
from fawa.net.quic_client import GoAwayReceived, QuicClientEngine, error_name
from fawa.net.quic_engine import (
    KEEP_ALIVE_PING,
    DatagramReceived,
    DataReceived,
    ErrorCode,
    Event,
    HeadersReceived,
    SessionStreamData,
    StopSendingReceived,
    StreamReset,
)
from fawa.net.session_streams import STREAM_REJECTED, SessionStreams
from fawa.net.udp import Address, Datagram, DatagramSocket

if TYPE_CHECKING:
    from fawa.net.http3_exchange import BodySink

#: Seconds by which timers fire late. aioquic compares sums of floats: asked in the very instant that it
#: named, it may find nothing to do and name the same instant again.
_LATE: Final = 1e-4
#: How often a connection on which nothing comes is probed within the time after which it would be given up.
_PROBES: Final = 3


class H3ClientExchange(ClientExchange):
    """One request stream."""

    __slots__ = (
        "_closed",
        "_finished",
        "_silenced",
        "_sink",
        "_trailing",
        "_unreleased",
        "conn",
        "id",
        "label",
    )

    def __init__(self, conn: H3Client, stream_id: int) -> None:
        super().__init__()
        #: Its connection: a WebTransport session needs more of that than this stream.
        self.conn = conn
        self.id = stream_id
        #: What became of it, where it was more than a request.
        self.label = ""
        #: Takes what comes, see `divert`.
        self._sink: BodySink | None = None
        #: Trailers that came ahead of the end.
        self._trailing: Headers = []
        #: Octets that came and were not given back to the stream's window.
        self._unreleased = 0
        self._finished = False
        #: The server takes nothing more.
        self._silenced = False
        #: The stream is no more: reset by either side, or its connection is lost.
        self._closed = False

    # The connection's side: what arrived.

    def on_headers(self, headers: Headers) -> None:
        """A head, interim or not, or trailers have come."""
        if self.status:
            self._trailing = headers
        else:
            fields = [field for field in headers if field[0] != b":status"]
            self.feed_head(int(dict(headers)[b":status"]), fields)

    def on_data(self, data: bytes) -> None:
        """Octets of the body have come."""
        if self._sink is not None:
            self._sink.body(data)
            return
        self._unreleased += len(data)
        self.conn.engine.hold(self.id, len(data))
        self.feed(data)

    def on_end(self) -> None:
        """The server has ended its side."""
        if self.status:
            self.feed_end(self._trailing)
        else:
            self.fail(GRPCError(Status.INTERNAL, "the server ended the response before it began"))
        if self._sink is not None:
            self._sink.body_end()

    def divert(self, sink: BodySink) -> None:
        """Give what comes from here on to `sink`, and what has come already; nobody is to call `receive`."""
        self._sink = sink
        pieces = list(self._pieces)
        self._pieces.clear()
        self.buffered = 0
        self.conn.engine.release(self.id)
        for data in pieces:
            sink.body(data)
        if self.ended:
            sink.body_end()

    def silence(self) -> None:
        """The server wants no more of the request; its response may still come."""
        self._silenced = True

    def end_stream(self) -> None:
        """The server takes nothing more, and its window is of no more use."""
        self._silenced = self._closed = True

    # The caller's side.

    def _consumed(self) -> None:
        half = self.conn.engine.limits.stream_window // 2
        if self.buffered <= half < self._unreleased and not self._closed and not self.ended:
            engine = self.conn.engine
            engine.release(self.id)
            engine.hold(self.id, self.buffered)
            self._unreleased = self.buffered
            self.conn.wake()

    def push(self, data: bytes) -> None:
        if not self._silenced and data:
            self.conn.engine.send_data(self.id, data)
            self.conn.wake()

    def flush(self) -> None:
        """Let what is queued go; it does so by itself, in time."""
        self.conn.wake()

    def reset(self, code: int) -> None:
        """Break off both directions with an error code of HTTP/3."""
        if not self._closed:
            self._closed = self._silenced = True
            self.conn.engine.abandon(self.id, code)
            self.conn.wake()

    def _has_room(self) -> bool:
        return self._silenced or self.is_over or self.conn.engine.backlog(self.id) < HIGH_WATER

    async def drain(self) -> None:
        if not self._has_room():
            await self.conn.wait_room(self._has_room)

    def finish(self) -> None:
        self._finished = True
        if not self._silenced:
            self.conn.engine.end(self.id)
            self._silenced = True
            self.conn.wake()

    def _close(self) -> None:
        conn = self.conn
        if not self._closed:
            self._closed = self._silenced = True
            if not (self.ended and self._finished):
                conn.engine.abandon(self.id, ErrorCode.H3_REQUEST_CANCELLED)
                conn.wake()
        conn.forget(self)


class H3Client(Shared):
    """One HTTP/3 connection over a socket of its own.

    One task receives and keeps the timers, another sends what calls have queued, so that what many calls
    queue in one turn of the event loop leaves together.
    """

    def __init__(self, engine: QuicClientEngine, sock: DatagramSocket, address: str) -> None:
        self.engine = engine
        self.address = address
        #: The connection is over.
        self.lost = False
        self._sock = sock
        self._exchanges: dict[int, H3ClientExchange] = {}
        #: What takes the streams and datagrams of WebTransport sessions, by the stream of their CONNECT.
        self.sessions: dict[int, SessionStreams] = {}
        #: The session that a stream belongs to.
        self.session_of: dict[int, int] = {}
        #: Places that were acquired and not used yet.
        self._promised = 0
        #: No further request is sent here.
        self._retired = False
        self._waiting = trio.lowlevel.ParkingLot()
        self._progress = trio.lowlevel.ParkingLot()
        self._wake = trio.Event()
        self._sleep = trio.CancelScope()
        self._reading = trio.CancelScope()
        #: When the connection is probed, should nothing come until then.
        self._probe_at = math.inf
        #: What makes the connection useless, if that is not what the engine says.
        self._fault = ""

    # Room for exchanges

    @property
    def is_usable(self) -> bool:
        """Whether further requests may be sent here."""
        return not (self.lost or self._retired or self.engine.over)

    @property
    def _has_place(self) -> bool:
        return self.engine.streams_left > self._promised

    async def acquire(self) -> bool:
        """Wait until the server takes another stream; returns `False` if it never will on this connection."""
        while self.is_usable and not self._has_place:
            await self._waiting.park()
        if not self.is_usable:
            return False
        self._promised += 1
        return True

    def open(self, method: str, target: str, headers: Headers, body: bytes | None = None) -> H3ClientExchange:
        self._promised -= 1
        if self.lost or self.engine.over:
            # It broke after it was acquired, so nothing of this was sent.
            exchange = H3ClientExchange(self, -1)
            exchange.end_stream()
            exchange.fail(Refused(f"the connection to {self.address} is gone"))
            return exchange
        exchange = H3ClientExchange(self, self.engine.open(_request(method, target, headers)))
        self._exchanges[exchange.id] = exchange
        if body is not None:
            exchange.push(body)
            exchange.finish()
        self.wake()
        return exchange

    def give_back(self) -> None:
        self._promised -= 1
        self._waiting.unpark()
        self._end_if_done()

    def forget(self, exchange: H3ClientExchange) -> None:
        """The caller is done with an exchange."""
        if self._exchanges.get(exchange.id) is exchange:
            del self._exchanges[exchange.id]
            self._end_session(exchange.id)
            self.engine.forget(exchange.id)
            self._end_if_done()

    def retire(self) -> None:
        """Send no further request here; end when the open ones have."""
        self._retired = True
        self._waiting.unpark_all()
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._retired and not self._exchanges and not self._promised:
            self.end()

    def end(self) -> None:
        """Close the connection once what is queued has been sent."""
        self._reading.cancel()

    # Sending

    def wake(self) -> None:
        """Have what is queued sent."""
        self._wake.set()

    async def _send_when_wanted(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            self._flush()

    def _flush(self) -> None:
        self._sock.send(self.engine.datagrams(trio.current_time()))
        self._sleep.deadline = self._due()

    def made_progress(self) -> None:
        """Let those who wait in `wait_room` look again."""
        self._progress.unpark_all()

    async def wait_room(
        self, has_room: Callable[[], bool], progress: Callable[[], int] | None = None
    ) -> None:
        """Wait until `has_room()` or the connection is over; asked again whenever the server has moved.

        For how long is the caller's to say, so `progress` is not asked for.
        """
        del progress
        while not has_room() and not self.lost:
            await self._progress.park()

    # What arrives

    def _due(self) -> float:
        timer = self.engine.timer
        return min(self._probe_at, math.inf if timer is None else timer + _LATE)

    async def _turn(self) -> None:
        """Send what is ready, wait for datagrams or for a timer, and act on them."""
        self._flush()
        datagrams: Sequence[Datagram] = ()
        with trio.move_on_at(self._due()) as self._sleep:
            datagrams = await self._sock.receive()
        self._take_untrusted(datagrams, trio.current_time())

    def _take_untrusted(self, datagrams: Sequence[Datagram], now: float) -> None:
        engine = self.engine
        try:
            for data, source in datagrams:
                engine.receive(data, source, now)
            timer = engine.timer
            if timer is not None and timer <= now:
                engine.handle_timer(now)
            events = engine.events()
        except Exception as error:
            # aioquic checks much of what a server may say, but not all.
            self._fault = f"{self.address} sent what is not HTTP/3: {error!r}"
            return
        if datagrams:
            self._probe_at = now + engine.silence / _PROBES
        elif now >= self._probe_at:
            engine.ping(KEEP_ALIVE_PING)
            self._probe_at = now + engine.silence / _PROBES
        for event in events:
            self._handle(event)
        self.made_progress()
        if self._waiting and self._has_place:
            self._waiting.unpark(count=engine.streams_left - self._promised)

    def _handle(self, event: Event) -> None:
        if isinstance(event, GoAwayReceived):
            self._on_goaway(event)
        elif isinstance(event, HeadersReceived | DataReceived | StreamReset | StopSendingReceived):
            exchange = self._exchanges.get(event.stream_id)
            if exchange is not None:
                self._on_stream(exchange, event)
            elif isinstance(event, StreamReset | StopSendingReceived):
                self._on_session_break(event)
        elif isinstance(event, SessionStreamData):
            self._on_session_data(event)
        elif isinstance(event, DatagramReceived) and (session := self.sessions.get(event.stream_id)):
            session.datagram(event.data)

    def _on_session_data(self, event: SessionStreamData) -> None:
        session = self.sessions.get(event.session_id)
        if session is None:
            self.engine.reject_session_stream(event.stream_id, STREAM_REJECTED)
        else:
            self.session_of[event.stream_id] = event.session_id
            session.stream_data(event.stream_id, event.data, ended=event.stream_ended)

    def _on_session_break(self, event: StreamReset | StopSendingReceived) -> None:
        session = self.sessions.get(self.session_of.get(event.stream_id, -1))
        if session is None:
            return
        if isinstance(event, StreamReset):
            session.stream_reset(event.stream_id, event.error_code)
        else:
            session.stop_sending(event.stream_id, event.error_code)

    def _end_session(self, session_id: int) -> None:
        if (session := self.sessions.pop(session_id, None)) is not None:
            session.end()

    def _on_stream(
        self,
        exchange: H3ClientExchange,
        event: HeadersReceived | DataReceived | StreamReset | StopSendingReceived,
    ) -> None:
        if isinstance(event, StreamReset):
            self._break(exchange, event.error_code)
        elif isinstance(event, StopSendingReceived):
            exchange.silence()
            # Without an error it only says that the rest of the request is not needed (section 4.1); the
            # response, even if it is whole, may come later.
            if event.error_code != ErrorCode.H3_NO_ERROR:
                self._break(exchange, event.error_code)
        else:
            if isinstance(event, HeadersReceived):
                exchange.on_headers(event.headers)
            elif event.data:
                exchange.on_data(event.data)
            if event.stream_ended:
                exchange.on_end()

    def _break(self, exchange: H3ClientExchange, code: int) -> None:
        """The server has broken an exchange off; after a whole response that means nothing."""
        self.engine.abandon(exchange.id, ErrorCode.H3_REQUEST_CANCELLED)
        exchange.end_stream()
        exchange.fail(from_h3_reset(code, error_name(code)))
        self._end_session(exchange.id)

    def _on_goaway(self, event: GoAwayReceived) -> None:
        for exchange in list(self._exchanges.values()):
            if exchange.id >= event.stream_id:
                self.engine.abandon(exchange.id, ErrorCode.H3_REQUEST_CANCELLED)
                exchange.end_stream()
                exchange.fail(Refused(f"{self.address} is closing the connection"))
        self.retire()

    # From beginning to end

    async def greet(self, server: Address) -> None:
        """Complete the handshake with a server; `run` has to follow.

        Raises:
            CannotReach: the server does not speak HTTP/3, or its certificate is not accepted.
            ConnectionRefusedError: nobody listens there.

        """
        self.engine.connect(server, trio.current_time())
        while not self.engine.established and not self.engine.over and not self._fault:
            await self._turn()
        why, is_distrust = self.engine.refusal
        if why or self._fault:
            raise NotGreeted(why or self._fault, is_distrust=is_distrust)

    async def run(self) -> None:
        """Receive and send until either side has ended the connection, then close the socket."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_when_wanted)
                with self._reading:
                    while not self.engine.over and not self._fault:
                        try:
                            await self._turn()
                        except ConnectionRefusedError:
                            self._fault = f"nobody listens at {self.address} any more"
                nursery.cancel_scope.cancel()
        finally:
            self._lose()
            self.leave()

    def leave(self) -> None:
        """Send what is queued, say goodbye, and close the socket."""
        self._flush()
        self.engine.close()
        self._flush()
        self._sock.close()

    def _lose(self) -> None:
        self.lost = True
        error = ConnectionLost(self._reason())
        for exchange in self._exchanges.values():
            exchange.end_stream()
            exchange.fail(error)
        for session_id in list(self.sessions):
            self._end_session(session_id)
        self._waiting.unpark_all()
        self._progress.unpark_all()

    def _reason(self) -> str:
        over = self.engine.over
        if self._fault:
            return self._fault
        if over is None:
            return f"the connection to {self.address} was closed on this side"
        if over.reason_phrase:
            return f"the connection to {self.address} broke: {over.reason_phrase}"
        return f"{self.address} closed the connection with {error_name(over.error_code)}"


class NotGreeted(CannotReach):
    """A server did answer, but there is no connection."""

    def __init__(self, why: str, *, is_distrust: bool) -> None:
        super().__init__(why)
        self.why = why
        self.is_distrust = is_distrust


def _request(method: str, target: str, headers: Headers) -> Headers:
    """Return the header section of a request, whose authority `headers` has as `host`.

    `:protocol` (RFC 9220) may be among them, before the others.
    """
    authority = dict(headers)[b"host"]
    return [
        (b":method", method.encode("ascii")),
        (b":scheme", b"https"),
        (b":authority", authority),
        (b":path", target.encode("ascii")),
        *(field for field in headers if field[0] != b"host"),
    ]
