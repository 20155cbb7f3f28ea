"""HTTP/3 (RFC 9114): requests on one QUIC connection become exchanges, each with a task of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import BinaryIO, Final, Protocol

import trio

from fawa.net.connection import HIGH_WATER, App, Limits
from fawa.net.exchange import BodyTimeout, Disconnected, Exchange, Headers, Interrupted, Peer
from fawa.net.files import read_pieces
from fawa.net.http3_head import Head, read_head_untrusted
from fawa.net.quic_engine import (
    GOAWAY_PING,
    DatagramReceived,
    DataReceived,
    ErrorCode,
    Event,
    HeadersReceived,
    PingAcknowledged,
    QuicEngine,
    SessionStreamData,
    StopSendingReceived,
    StreamReset,
)
from fawa.net.session_streams import STREAM_REJECTED, SessionLimits, SessionStreams

#: Seconds until requests are refused after GOAWAY has announced it, where the peer does not answer the PING.
_GOAWAY_WAIT: Final = 2.0
#: Finished responses with less than this to send need nobody who waits for them.
_SMALL: Final = 16 * 1024
#: WebTransport sessions on one connection, with those that are still to be asked for.
_MOST_SESSIONS: Final = 8


class BodySink(Protocol):
    """Takes what comes on a request stream as it comes: see `H3Exchange.divert`."""

    def body(self, data: bytes) -> None:
        """Octets have come."""

    def body_end(self) -> None:
        """Nothing more will come."""

    def interrupt(self) -> None:
        """The connection drains: see `Exchange.interrupt`."""


class H3Exchange(Exchange):
    """One request stream."""

    __slots__ = (
        "_arrived",
        "_broken",
        "_ended",
        "_finished",
        "_interrupted",
        "_pieces",
        "_protocol",
        "_sink",
        "buffered",
        "conn",
        "id",
    )

    def __init__(self, conn: H3Connection, stream_id: int, head: Head, *, ended: bool) -> None:
        super().__init__(head, head.fields, "3", conn.peer)
        self.body_timeout = conn.limits.body_timeout
        self.scope = trio.CancelScope()
        #: Its connection: a WebTransport session needs more of that than this stream.
        self.conn = conn
        self.id = stream_id
        #: Body octets received and not yet consumed.
        self.buffered = 0
        self._pieces: list[bytes] = []
        self._arrived: trio.Event | None = None
        self._ended = ended
        self._finished = False
        #: This side has reset the stream.
        self._broken = False
        self._protocol = head.protocol
        self._interrupted = False
        self._sink: BodySink | None = None

    # The connection's side: what arrived.

    def feed(self, data: bytes) -> None:
        """Body octets have arrived."""
        if self._sink is not None:
            self.conn.engine.release(self.id)
            self.bytes_in += len(data)
            self._sink.body(data)
            return
        self.buffered += len(data)
        self._pieces.append(data)
        if self._arrived is not None:
            self._arrived.set()

    def feed_end(self) -> None:
        """The body has ended; request trailers carry nothing that any of our protocols uses."""
        self._ended = True
        if self._sink is not None:
            self._sink.body_end()
        if self._arrived is not None:
            self._arrived.set()

    def divert(self, sink: BodySink) -> None:
        """Give what comes from here on to `sink`, and what has come already; `receive` is not to be called.

        No task is needed that receives; a sink has to take all at once.
        """
        self._sink = sink
        pieces, self._pieces = self._pieces, []
        self.buffered = 0
        for data in pieces:
            self.feed(data)
        if self._ended:
            sink.body_end()
        if self._interrupted:
            sink.interrupt()

    def close(self) -> None:
        """The application has returned: end what it left open and drop what it left unread."""
        engine = self.conn.engine
        if self.is_live:
            if not self._finished:
                engine.abandon(self.id, ErrorCode.H3_INTERNAL_ERROR)
            elif not self._ended:
                # The whole answer is out, so the rest of the request is not needed (section 4.1).
                engine.stop(self.id, ErrorCode.H3_NO_ERROR)
        self._pieces.clear()
        engine.forget(self.id)

    @property
    def is_live(self) -> bool:
        """Whether anything can still be sent: neither side has reset the stream."""
        return not self._broken and not self.conn.lost and self.conn.exchanges.get(self.id) is self

    # The application's side.

    async def receive(self) -> bytes:
        while not self._pieces:
            if self._ended:
                return b""
            if self.conn.lost:
                raise Disconnected(f"{self.peer} is gone")
            if self._interrupted:
                self._interrupted = False
                raise Interrupted
            self._arrived = trio.Event()
            with trio.move_on_after(self.body_timeout) as timeout:
                await self._arrived.wait()
            if timeout.cancelled_caught:
                raise BodyTimeout(f"no byte of the request body came for {self.body_timeout:g} s")
            self._arrived = None
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.bytes_in += len(data)
        self.buffered = 0
        self.conn.engine.release(self.id)
        if not self._ended:
            self.conn.wake()
        return data

    @property
    def body_over(self) -> bool:
        return self._ended and not self._pieces

    def start(self, status: int, headers: Headers, *, end: bool = False) -> None:
        self._check()
        head = [(b":status", b"%d" % status), *headers, *self.extra_headers]
        self.conn.engine.send_headers(self.id, head, end=end)
        self.status = status
        self._finished = end
        self.conn.wake()

    def push(self, data: bytes) -> None:
        self._check()
        self.bytes_out += len(data)
        if data:
            self.conn.engine.send_data(self.id, data)
            if not self.upgraded:
                self.conn.wake()

    def _has_room(self) -> bool:
        return self.conn.engine.backlog(self.id) < HIGH_WATER

    def _progress(self) -> int:
        return self.conn.engine.progress(self.id)

    async def drain(self) -> None:
        if self.upgraded:
            self.conn.wake()
        if not self._has_room():
            await self.conn.wait_room(self._has_room, self._progress)

    async def send_file(self, file: BinaryIO, offset: int, count: int) -> None:
        async for piece in read_pieces(file, offset, count):
            await self.send(piece)

    @property
    def owes(self) -> bool:
        """Whether much of the finished response is still to be sent."""
        return self._finished and self.is_live and self.conn.engine.backlog(self.id) > _SMALL

    async def see_off(self) -> None:
        """Wait until the peer has taken the finished response; resets the stream if it does not."""
        try:
            await self.conn.wait_room(lambda: not self.owes, self._progress)
        except Disconnected:
            self.reset(ErrorCode.H3_REQUEST_CANCELLED)

    def finish(self, trailers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._check()
        if section := list(trailers):
            self.conn.engine.send_headers(self.id, section, end=True)
        else:
            self.conn.engine.end(self.id)
        self._finished = True
        self.conn.wake()

    def abort(self) -> None:
        if not self._finished:
            self.reset(ErrorCode.H3_INTERNAL_ERROR)

    @property
    def protocol(self) -> str:
        return self._protocol

    def upgrade(self, headers: Headers) -> None:
        if not self._protocol:
            raise ValueError("the client asked for no other protocol")
        self.start(200, headers)
        self.upgraded = True
        self.body_timeout = math.inf
        if self.draining:
            self.interrupt()

    def flush(self) -> None:
        self.conn.wake()

    @property
    def is_flushed(self) -> bool:
        return self.is_live and not self.conn.engine.unsent(self.id)

    async def wait_flushed(self) -> None:
        await self.conn.wait_room(lambda: self.is_flushed or not self.is_live, self._progress)
        self._check()

    def interrupt(self) -> None:
        self._interrupted = True
        if self._sink is not None:
            self._sink.interrupt()
        if self._arrived is not None:
            self._arrived.set()

    def reset(self, code: int) -> None:
        """Break off both directions with an error code of HTTP/3."""
        if self.is_live:
            self._broken = True
            self.conn.engine.abandon(self.id, code)
            self.conn.wake()

    def _check(self) -> None:
        if not self.is_live:
            raise Disconnected(f"the stream of {self.peer} has been reset")


class H3Connection:
    """One connection, server side.

    Args:
        engine: what speaks QUIC and HTTP/3.
        peer: who is at the other end.
        limits: what it may take.
        app: answers each exchange.
        calls: the nursery of the tasks that do.
        wake: tells the listener that there is something to send.

    """

    def __init__(
        self,
        engine: QuicEngine,
        peer: Peer,
        limits: Limits,
        app: App,
        calls: trio.Nursery,
        wake: Callable[[], None],
    ) -> None:
        self.engine = engine
        self.peer = peer
        self.limits = limits
        self.wake = wake
        #: Open requests by stream; one is taken out when its application returns or the peer resets it.
        self.exchanges: dict[int, H3Exchange] = {}
        #: What takes the streams and datagrams of WebTransport sessions, by the stream of their CONNECT.
        self.sessions: dict[int, SessionStreams] = {}
        #: The session that a stream belongs to.
        self.session_of: dict[int, int] = {}
        #: Nothing can be sent any more.
        self.lost = False
        self.draining = False
        self._app = app
        self._calls = calls
        self._progress = trio.lowlevel.ParkingLot()
        self._next_id = 0
        self._refusing = False
        self._answered = trio.Event()
        #: The peer did not answer that PING.
        self._silent = False

    # What arrived.

    def handle(self, event: Event) -> None:
        """Act on what the engine tells."""
        match event:
            case HeadersReceived(stream_id=stream_id):
                self._head(event)
            case DataReceived(stream_id=stream_id):
                if (exchange := self.exchanges.get(stream_id)) is not None:
                    if event.data:
                        self.engine.hold(stream_id, len(event.data))
                        exchange.feed(event.data)
                    if event.stream_ended:
                        exchange.feed_end()
            case StreamReset(stream_id=stream_id, error_code=code):
                if (session := self._session_of(stream_id)) is not None:
                    session.stream_reset(stream_id, code)
                elif stream_id % 4 == 0 and (
                    stream_id in self.exchanges or not self.engine.has_ended(stream_id)
                ):
                    # One that was answered before it was whole is reset in reply to our STOP_SENDING; what
                    # is still under way of the response must not be lost by that.
                    self._drop(stream_id)
            case StopSendingReceived(stream_id=stream_id, error_code=code):
                if (session := self._session_of(stream_id)) is not None:
                    session.stop_sending(stream_id, code)
                elif stream_id % 4 == 0:
                    self._drop(stream_id)
            case SessionStreamData():
                self._session_data(event)
            case DatagramReceived(stream_id=session_id):
                if (session := self.session(session_id)) is not None:
                    session.datagram(event.data)
            case PingAcknowledged(uid=number) if self.draining and number == GOAWAY_PING:
                self._refuse_new()

    # WebTransport.

    def session(self, session_id: int) -> SessionStreams | None:
        """Return what takes the streams of a session; `None` where there is none, and none is on its way."""
        session = self.sessions.get(session_id)
        if session is None and self._may_become_session(session_id):
            session = self.sessions[session_id] = SessionStreams(self, session_id, SessionLimits())
        return session

    def _may_become_session(self, session_id: int) -> bool:
        exchange = self.exchanges.get(session_id)
        if exchange is None:
            may = session_id >= self._next_id  # its request may have been overtaken
        else:
            may = exchange.protocol == "webtransport" and not exchange.status
        return may and len(self.sessions) < _MOST_SESSIONS

    def _session_of(self, stream_id: int) -> SessionStreams | None:
        session_id = self.session_of.get(stream_id)
        return None if session_id is None else self.sessions.get(session_id)

    def _session_data(self, event: SessionStreamData) -> None:
        stream_id, session_id = event.stream_id, event.session_id
        if session_id % 4:
            self.engine.close(ErrorCode.H3_ID_ERROR, f"{session_id} is the stream of no session")
        elif (session := self.session(session_id)) is not None:
            self.session_of[stream_id] = session_id
            session.stream_data(stream_id, event.data, ended=event.stream_ended)
        else:
            self.engine.reject_session_stream(stream_id, STREAM_REJECTED)

    def _end_session(self, session_id: int) -> None:
        if (session := self.sessions.pop(session_id, None)) is not None:
            session.end()

    # Requests.

    def _head(self, event: HeadersReceived) -> None:
        stream_id = event.stream_id
        if (known := self.exchanges.get(stream_id)) is not None:
            if event.stream_ended:
                known.feed_end()  # these were trailers
            return
        self._next_id = max(self._next_id, stream_id + 4)
        if self._refusing or len(self.exchanges) >= self.limits.max_streams:
            # This code promises that nothing was done, so the client may safely try again (section 4.1.1).
            self._refuse(stream_id, ErrorCode.H3_REQUEST_REJECTED)
            return
        try:
            head = read_head_untrusted(event.headers)
        except ValueError:
            self._refuse(stream_id, ErrorCode.H3_MESSAGE_ERROR)
            return
        exchange = H3Exchange(self, stream_id, head, ended=event.stream_ended)
        exchange.draining = self.draining
        self.exchanges[stream_id] = exchange
        size = sum(len(name) + len(value) + 32 for name, value in event.headers)  # RFC 9114 section 4.2.2
        if size > self.limits.max_header:
            exchange.respond_text(431, f"the head exceeds the size limit of {self.limits.max_header} bytes")
            self._over(exchange)
        else:
            self._calls.start_soon(self._answer, exchange)

    def _refuse(self, stream_id: int, code: int) -> None:
        self.engine.abandon(stream_id, code)
        self.engine.forget(stream_id)
        self._end_session(stream_id)

    def _drop(self, stream_id: int) -> None:
        """The peer has given a request up, or sent what is none: cancel the call."""
        exchange = self.exchanges.pop(stream_id, None)
        self.engine.abandon(stream_id, ErrorCode.H3_REQUEST_CANCELLED)
        self.engine.forget(stream_id)
        self._end_session(stream_id)
        if exchange is not None:
            exchange.cancel()
            self.made_progress()

    # Calls.

    async def _answer(self, exchange: H3Exchange) -> None:
        """Run one call in its task."""
        scope = exchange.scope or trio.CancelScope()
        try:
            with scope:
                try:
                    await self._app(exchange)
                    if exchange.owes:
                        await exchange.see_off()
                except Disconnected:
                    exchange.abort()
        finally:
            self._over(exchange)

    def _over(self, exchange: H3Exchange) -> None:
        exchange.close()
        if self.exchanges.get(exchange.id) is exchange:
            del self.exchanges[exchange.id]
        self._end_session(exchange.id)
        self.wake()

    def lose(self) -> None:
        """The connection is over: cancel all calls."""
        if not self.lost:
            self.lost = True
            for exchange in self.exchanges.values():
                exchange.cancel()
            self.exchanges.clear()
            for session_id in list(self.sessions):
                self._end_session(session_id)
            self._answered.set()
            self.made_progress()

    def made_progress(self) -> None:
        """Let senders that wait in `wait_room` look again."""
        if self._progress:
            self._progress.unpark_all()

    async def wait_room(self, has_room: Callable[[], bool], progress: Callable[[], int]) -> None:
        """Wait until `has_room()`; it is asked again whenever the peer has moved.

        Raises:
            Disconnected: the peer is gone, or `progress()` stayed the same for the write timeout.

        """
        self.wake()
        while not has_room() and not self.lost:
            before = progress()
            with trio.move_on_after(self.limits.write_timeout) as timeout:
                while progress() == before and not has_room() and not self.lost:
                    await self._progress.park()
            if timeout.cancelled_caught:
                raise Disconnected(f"{self.peer.address} took nothing for {self.limits.write_timeout:g} s")
        if self.lost:
            raise Disconnected(f"{self.peer.address} is gone")

    # The end.

    def start_drain(self) -> None:
        """Move the client away without losing a call: GOAWAY in two steps (section 5.2).

        The first announces the end; requests already on their way are still accepted. When the client has
        acknowledged the PING sent with it, it has seen the announcement, and the second names the last.
        """
        if self.draining or self.lost:
            return
        self.draining = True
        for exchange in self.exchanges.values():
            exchange.start_drain()
        self.engine.goaway()
        self.engine.ping(GOAWAY_PING)
        self._calls.start_soon(self._refuse_later)
        self.wake()

    async def _refuse_later(self) -> None:
        with trio.move_on_after(_GOAWAY_WAIT) as wait:
            await self._answered.wait()
        self._silent = wait.cancelled_caught
        self._refuse_new()

    def _refuse_new(self) -> None:
        if not self._refusing:
            self._refusing = True
            self.engine.goaway(self._next_id)
            self._answered.set()
            self.wake()

    @property
    def is_drained(self) -> bool:
        """Whether nothing is left to do since `start_drain`."""
        return self._refusing and not self.exchanges and (self._silent or self.engine.all_sent)
