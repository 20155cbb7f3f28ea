"""HTTP/2 connections (RFC 9113): streams become exchanges, one task each."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import BinaryIO, Final

import trio

from fawa.net.connection import HIGH_WATER, Connection, Limits, Peer
from fawa.net.engine import (
    Data,
    EndOfMessage,
    H2Engine,
    H2ErrorCode,
    HttpError,
    Ping,
    Request,
    Role,
    RstStream,
    WindowUpdate,
)
from fawa.net.exchange import BodyTimeout, Disconnected, Exchange, Headers
from fawa.net.files import read_pieces

#: The last stream id of a GOAWAY that only announces the end (RFC 9113 section 6.8).
_ALL_STREAMS: Final = 2**31 - 1
#: Marks the PING whose answer says that the peer has seen that GOAWAY.
_GOAWAY_PING: Final = b"fawa-bye"
#: Seconds to wait for that answer.
_GOAWAY_WAIT: Final = 2.0


class H2Exchange(Exchange):
    """One HTTP/2 stream."""

    __slots__ = (
        "_arrived",
        "_conn",
        "_ended",
        "_finished",
        "_pieces",
        "_started",
        "_stream",
        "buffered",
        "id",
    )

    def __init__(self, conn: H2Connection, request: Request) -> None:
        authority = b""
        headers = request.headers
        for name, value in headers:
            if name == b"host":
                authority = value
                break
        super().__init__(
            method=request.method.decode("ascii"),
            path=request.path.decode("latin-1"),
            query=request.query.decode("latin-1") if request.query else "",
            headers=headers,  # type: ignore[arg-type]  # a plain list on HTTP/2
            version="2",
            scheme=conn.peer.scheme,
            authority=authority.decode("latin-1"),
            peer=conn.peer.address,
        )
        self.body_timeout = conn.limits.body_timeout
        #: Body bytes received and not yet consumed.
        self.buffered = 0
        self._conn = conn
        self.id = request.stream_id
        self._stream = conn.engine.stream(request.stream_id)
        self._pieces: list[bytes] = []
        self._arrived: trio.Event | None = None
        self._ended = request.end_stream
        self._started = False
        self._finished = False

    # The connection's side: what arrived.

    def feed(self, data: bytes) -> None:
        """Body bytes have arrived."""
        self.buffered += len(data)
        self._pieces.append(data)
        if self._arrived is not None:
            self._arrived.set()

    def feed_end(self) -> None:
        """The body has ended; request trailers carry nothing that any of our protocols uses."""
        self._ended = True
        if self._arrived is not None:
            self._arrived.set()

    def close(self) -> None:
        """The application has returned: end what it left open and drop what it left unread."""
        conn = self._conn
        if not conn.lost and self.id in conn.exchanges:
            if not self._finished:
                self._stream.reset(H2ErrorCode.INTERNAL_ERROR)
            elif not self._ended:
                # The whole answer is out, so the rest of the request is not needed (section 8.1).
                self._stream.reset(H2ErrorCode.NO_ERROR)
            conn.wake_writer()
        self._pieces.clear()

    # The application's side.

    async def receive(self) -> bytes:
        while not self._pieces:
            if self._ended:
                return b""
            if self._conn.lost:
                raise Disconnected(f"{self.peer} is gone")
            self._arrived = trio.Event()
            if self.body_timeout == math.inf:
                await self._arrived.wait()
            else:
                with trio.move_on_after(self.body_timeout) as timeout:
                    await self._arrived.wait()
                if timeout.cancelled_caught:
                    raise BodyTimeout(f"no byte of the request body came for {self.body_timeout:g} s")
            self._arrived = None
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.bytes_in += len(data)
        self._conn.consumed(self.id, self.buffered)
        self.buffered = 0
        return data

    def start(self, status: int, headers: Headers, *, end: bool = False) -> None:
        self._check()
        self.status = status
        self._started = True
        self._stream.send_response(
            status, headers + self.extra_headers if self.extra_headers else headers, end
        )
        if end:
            self._finished = True
        self._conn.wake_writer()

    def push(self, data: bytes) -> None:
        self._check()
        size = len(data)
        self.bytes_out += size
        self._conn.queued += size
        self._stream.send_data(data)
        self._conn.wake_writer()

    def _has_room(self) -> bool:
        # A stream that the peer has reset is cancelled, so its handle is still good whenever this is asked.
        return self._conn.queued < HIGH_WATER and (self._stream.pending_bytes or 0) < HIGH_WATER

    async def drain(self) -> None:
        if not self._has_room():
            await self._conn.wait_room(self._has_room)

    async def send_file(self, file: BinaryIO, offset: int, count: int) -> None:
        async for piece in read_pieces(file, offset, count):
            await self.send(piece)

    def finish(self, trailers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._check()
        self._finished = True
        self._stream.end_message(list(trailers))
        self._conn.wake_writer()

    def abort(self) -> None:
        if not self._finished and not self._conn.lost and self.id in self._conn.exchanges:
            self._finished = True
            self._stream.reset(H2ErrorCode.INTERNAL_ERROR)
            self._conn.wake_writer()

    def _check(self) -> None:
        if self._conn.lost or self.id not in self._conn.exchanges:
            raise Disconnected(f"{self.peer} has reset the stream")


class H2Connection(Connection[H2Exchange]):
    """One HTTP/2 connection, server side."""

    def __init__(self, stream: trio.abc.Stream, peer: Peer, limits: Limits) -> None:
        self.engine = H2Engine(
            Role.SERVER, stream_window=limits.stream_window, connection_window=limits.connection_window
        )
        super().__init__(stream, self.engine, peer, limits)
        #: Open streams by id; a stream is taken out when its application returns or the peer resets it.
        self.exchanges: dict[int, H2Exchange] = {}
        #: Body bytes buffered on all streams.
        self._unconsumed = 0
        self._requests = 0
        self._last_id = 0
        self._refuse_above = _ALL_STREAMS
        self._refused = trio.Event()

    def parse(self, data: bytes) -> None:
        if not data:
            self.stop_reading()  # a peer that has closed is gone: there is no half-closed HTTP/2
            return
        try:
            events = self.engine.receive(data)
        except HttpError:
            self.stop_reading()
            return
        for event in events:
            if isinstance(event, Request):
                self._open(event)
            elif isinstance(event, Data):
                self._feed(event)
            elif isinstance(event, EndOfMessage):
                if (exchange := self.exchanges.get(event.stream_id)) is not None:
                    exchange.feed_end()
            elif isinstance(event, RstStream):
                if (exchange := self.exchanges.pop(event.stream_id, None)) is not None:
                    exchange.cancel()
            elif isinstance(event, WindowUpdate):
                self.made_progress()
            elif isinstance(event, Ping) and event.ack and event.data == _GOAWAY_PING:
                self._refuse_new()
        if self.exchanges:
            self.set_deadline(math.inf)
        elif events:
            self._rest_for_a_while()

    def _open(self, request: Request) -> None:
        stream_id = request.stream_id
        self._last_id = max(self._last_id, stream_id)
        self._requests += 1
        if stream_id > self._refuse_above or len(self.exchanges) >= self.limits.max_streams:
            # REFUSED_STREAM promises that nothing was done, so the client may safely try again (section 8.7).
            self.engine.stream(stream_id).reset(H2ErrorCode.REFUSED_STREAM)
            return
        exchange = H2Exchange(self, request)
        self.exchanges[stream_id] = exchange
        self.ready.append(exchange)
        if self._requests == self.limits.max_requests:
            self.start_drain()

    def _feed(self, event: Data) -> None:
        size = len(event.data)
        self._unconsumed += size
        exchange = self.exchanges.get(event.stream_id)
        if exchange is not None and exchange.buffered <= 2 * self.limits.stream_window:
            exchange.feed(event.data)
            return
        self.engine.forget(event.stream_id)
        self.consumed(0, size)
        if exchange is not None:
            # Twice the window is more than a peer that respects it can have sent.
            self.exchanges.pop(event.stream_id)
            self.engine.stream(event.stream_id).reset(H2ErrorCode.FLOW_CONTROL_ERROR)
            exchange.cancel()

    def close_exchange(self, exchange: H2Exchange) -> None:
        exchange.close()
        self.engine.forget(exchange.id)
        self.consumed(0, exchange.buffered)
        self.exchanges.pop(exchange.id, None)
        if not self.exchanges:
            self._rest_for_a_while()

    def _rest_for_a_while(self) -> None:
        """No stream is open: wait for the next for a while, or end if there will be none."""
        if self.draining and self._refuse_above != _ALL_STREAMS:
            self.stop_reading()
        else:
            self.set_deadline(trio.current_time() + self.limits.idle_timeout)

    def consumed(self, stream_id: int, size: int) -> None:
        """The application is done with `size` body bytes: give the peer window for more.

        A stream gets its own back at once, the connection while less than half its window is buffered.
        """
        self._unconsumed -= size
        if self.engine.holds_windows:
            given = self.engine.release(stream_id) if stream_id else False
            if self._unconsumed < self.limits.connection_window // 2:
                given |= self.engine.release(0)
            if given:
                self.wake_writer()

    def start_drain(self) -> None:
        """Move the client to a new connection without losing a call: GOAWAY in two steps (section 6.8).

        The first announces the end; calls already on their way are still accepted. When the client has
        answered the PING sent behind it, it has seen the announcement, and the second names the last stream.
        """
        if self.draining or not self.reading:
            return
        self.draining = True
        self.engine.goaway(_ALL_STREAMS)
        self.engine.ping(_GOAWAY_PING)
        self.wake_writer()
        self._calls.start_soon(self._refuse_later)

    async def _refuse_later(self) -> None:
        with trio.move_on_after(_GOAWAY_WAIT):
            await self._refused.wait()
        self._refuse_new()

    def _refuse_new(self) -> None:
        if self._refuse_above == _ALL_STREAMS and self.reading:
            self._refuse_above = self._last_id
            self.engine.goaway(self._last_id)
            self.wake_writer()
            self._refused.set()
            if not self.exchanges:
                self._rest_for_a_while()

    def reading_over(self) -> None:
        self._refused.set()
        self.cancel_calls()

    def cancel_calls(self) -> None:
        for exchange in self.exchanges.values():
            exchange.cancel()
        self.exchanges.clear()
