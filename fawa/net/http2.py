"""HTTP/2 connections (RFC 9113): streams become exchanges, one task each."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import trio

from fawa.net.connection import HIGH_WATER, Connection, Limits, head_too_large
from fawa.net.engine import (
    MAX_HEADER_BYTES,
    Bulk,
    Credit,
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
    header_list,
)
from fawa.net.exchange import Disconnected, Headers, Peer
from fawa.net.stream_exchange import StreamExchange

#: The last stream id of a GOAWAY that only announces the end (RFC 9113 section 6.8).
_ALL_STREAMS: Final = 2**31 - 1
#: Marks the PING whose answer says that the peer has seen that GOAWAY.
_GOAWAY_PING: Final = b"fawa-bye"
#: Seconds to wait for that answer.
_GOAWAY_WAIT: Final = 2.0


class H2Exchange(StreamExchange):
    """One HTTP/2 stream."""

    __slots__ = ("_conn", "_protocol", "_stream", "gone")

    def __init__(self, conn: H2Connection, request: Request) -> None:
        number, ended = request.stream_id, request.end_stream
        super().__init__(request, header_list(request), "2", conn.peer, number, ended=ended)
        self.body_timeout = conn.limits.body_timeout
        self._conn = conn
        self._stream = conn.engine.stream(number)
        #: Nothing can be sent any more: one side has reset the stream, or the call or the connection is over.
        self.gone = False
        self._protocol = request.protocol

    # The connection's side.

    @property
    def _lost(self) -> bool:
        return self._conn.lost

    def close(self) -> None:
        """The application has returned: end what it left open and drop what it left unread."""
        if not self._finished:
            self._reset(H2ErrorCode.INTERNAL_ERROR)
        elif not self._ended:
            # The whole answer is out, so the rest of the request is not needed (section 8.1).
            self._reset(H2ErrorCode.NO_ERROR)
        self.gone = True
        self._pieces.clear()

    # The application's side.

    def take(self) -> bytes:
        return self._consume() if self._pieces else b""

    def _consume(self) -> bytes:
        data = self._gather()
        flows = self._conn.consumed(self.id, self.buffered) and not self._ended
        if flows and b"content-length" not in self.fields:
            self._conn.engine.expect_bulk(self.id)
        self.buffered = 0
        return data

    def inform(self, status: int, headers: Headers) -> None:
        if self.gone:
            raise self._disconnected()
        self._stream.send_informational(status, headers)
        self._conn.wake_writer()

    def start(self, status: int, headers: Headers, *, end: bool = False) -> None:
        if self.gone:
            raise self._disconnected()
        self._stream.send_response(
            status, headers + self.extra_headers if self.extra_headers else headers, end
        )
        self.status = status
        self._finished = end
        if not self._conn.corked:
            self._conn.wake_writer()

    def push(self, data: bytes) -> None:
        if self.gone:
            raise self._disconnected()
        conn = self._conn
        size = len(data)
        self.bytes_out += size
        conn.queued += size
        conn.engine.send_data(self._stream, data)
        if not self.upgraded and not conn.corked:
            conn.wake_writer()

    def _has_room(self) -> bool:
        # A stream that the peer has reset is cancelled, so its handle is still good whenever this is asked.
        return self._conn.queued < HIGH_WATER and self._conn.engine.pending(self.id) < HIGH_WATER

    def _progress(self) -> int:
        # Where the stream's window holds it back, what the peer takes of other streams does not count.
        pending = self._conn.engine.pending(self.id)
        return -pending if pending >= HIGH_WATER or self._finished else self._conn.writes

    async def drain(self) -> None:
        if self.upgraded:
            self._conn.flush()
        if not self._has_room():
            await self._conn.wait_room(self._has_room, self._progress)

    @property
    def owes(self) -> bool:
        """Whether the peer's window holds back a part of the finished response."""
        return bool(self._finished and not self.gone and self._conn.engine.pending(self.id))

    async def see_off(self) -> None:
        """Wait until the peer's window has let the whole response pass; resets the stream if it does not."""
        try:
            await self._conn.wait_room(lambda: not self._conn.engine.pending(self.id), self._progress)
        except Disconnected:
            self._reset(H2ErrorCode.CANCEL)

    def finish(self, trailers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        if self.gone:
            raise self._disconnected()
        self._conn.engine.end_message(self._stream, list(trailers))
        self._finished = True
        if not self._conn.corked:
            self._conn.wake_writer()

    def abort(self) -> None:
        if not self._finished:
            self._reset(H2ErrorCode.INTERNAL_ERROR)

    @property
    def protocol(self) -> str:
        return self._protocol.decode("latin-1").lower() if self._protocol is not None else ""

    def flush(self) -> None:
        self._conn.flush()

    @property
    def is_flushed(self) -> bool:
        conn = self._conn
        return bool(
            not conn.queued
            and conn.is_flushed
            and not conn.lost
            and self.id in conn.exchanges
            and not self._conn.engine.pending(self.id)
        )

    async def wait_flushed(self) -> None:
        conn = self._conn
        conn.flush()
        await conn.wait_room(lambda: self.is_flushed or self.id not in conn.exchanges, self._progress)
        if self.gone:
            raise self._disconnected()

    def _reset(self, code: int) -> None:
        if not self.gone:
            self.gone = True
            self._conn.engine.reset(self._stream, code)
            self._conn.wake_writer()

    def _disconnected(self) -> Disconnected:
        return Disconnected(f"the stream of {self.peer} has been reset")


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
        #: Twice the window is more than a peer that respects it can have sent.
        self._most_buffered = 2 * limits.stream_window
        self._strict_head = limits.max_header < MAX_HEADER_BYTES
        self._requests = 0
        self._last_id = 0
        self._refuse_above = _ALL_STREAMS
        self._refused = trio.Event()
        self._shutting_down = False

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
            # Events have no subclasses, and `isinstance` is slow to deny.
            if type(event) is Data or type(event) is Bulk:
                self._feed(event)
            elif type(event) is EndOfMessage:
                if (exchange := self.exchanges.get(event.stream_id)) is not None:
                    exchange.feed_end()
            elif type(event) is Request:
                self._open(event)
            elif type(event) is WindowUpdate or type(event) is Credit:
                self.made_progress()
            elif type(event) is RstStream:
                self._drop(event.stream_id)
            elif type(event) is Ping and event.ack and event.data == _GOAWAY_PING:
                self._refuse_new()
        if self.engine.holds_windows:
            self._give_back_padding()
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
            self.engine.reset(self.engine.stream(stream_id), H2ErrorCode.REFUSED_STREAM)
            return
        exchange = H2Exchange(self, request)
        exchange.draining = self._shutting_down
        self.exchanges[stream_id] = exchange
        if self._strict_head and head_too_large(exchange, self.limits):
            exchange.respond_text(431, f"the head exceeds the size limit of {self.limits.max_header} bytes")
            self.close_exchange(exchange)
        else:
            self.ready.append(exchange)
        if self._requests == self.limits.max_requests:
            self._rotate()

    def _feed(self, event: Data | Bulk) -> None:
        data = event.data
        size = len(data)
        self._unconsumed += size
        exchange = self.exchanges.get(event.stream_id)
        if exchange is not None and exchange.buffered <= self._most_buffered:
            exchange.feed(data)
            return
        self.engine.forget(event.stream_id)
        self.consumed(0, size)
        if exchange is not None:
            self.engine.reset(self.engine.stream(event.stream_id), H2ErrorCode.FLOW_CONTROL_ERROR)
            self._drop(event.stream_id)

    def _drop(self, stream_id: int) -> None:
        """A stream has been reset: cancel its call, or forget the call if nobody has begun it."""
        exchange = self.exchanges.pop(stream_id, None)
        if exchange is None:
            return
        exchange.gone = True
        if exchange.scope is None:
            self.ready.remove(exchange)
            self.close_exchange(exchange)
        else:
            exchange.cancel()
            self.made_progress()

    def close_exchange(self, exchange: H2Exchange) -> None:
        exchange.close()
        self.engine.forget(exchange.id)
        if exchange.buffered:
            self.consumed(0, exchange.buffered)
        self.exchanges.pop(exchange.id, None)
        if not self.exchanges:
            self._rest_for_a_while()

    def owes(self, exchange: H2Exchange) -> bool:
        return bool(self.engine.waiting) and exchange.owes

    async def see_off(self, exchange: H2Exchange) -> None:
        await exchange.see_off()

    def _rest_for_a_while(self) -> None:
        """No stream is open: wait for the next for a while, or end if there will be none."""
        if self.draining and self._refuse_above != _ALL_STREAMS:
            self.stop_reading()
        else:
            self.set_deadline(trio.current_time() + self.limits.idle_timeout)

    def consumed(self, stream_id: int, size: int) -> bool:
        """The application is done with `size` body bytes: give the peer window for more, and tell if it was.

        A stream that is not read keeps what it holds of the connection's window, and nobody else's.
        """
        self._unconsumed -= size
        if not self.engine.holds_windows:
            return False
        given = self.engine.release(stream_id) if stream_id else False
        if self.engine.release(0, self._unconsumed) or given:
            self.wake_writer()
        return given

    def _give_back_padding(self) -> None:
        """Give window back for what nobody will consume: padding, and data of streams that are over."""
        for stream_id in self.engine.held_streams:
            exchange = self.exchanges.get(stream_id)
            if exchange is None:
                self.engine.forget(stream_id)
            elif not exchange.buffered:
                self.engine.release(stream_id)
        self.consumed(0, 0)
        self.wake_writer()

    def start_drain(self) -> None:
        self._shutting_down = True
        for exchange in self.exchanges.values():
            exchange.start_drain()
        self._rotate()

    def _rotate(self) -> None:
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
        if self.expired:
            # Idle for too long: a call that is under way to us may be made again elsewhere (section 6.8).
            self.engine.goaway(self._last_id)
        self.cancel_calls()

    def cancel_calls(self) -> None:
        for exchange in self.exchanges.values():
            exchange.gone = True
            exchange.cancel()
        self.exchanges.clear()
        self.ready.clear()
