"""One request on HTTP/3 (RFC 9114 section 4.1), as `fawa.net.http3` gives it to the application."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Protocol

import trio

from fawa.net.connection import HIGH_WATER
from fawa.net.exchange import Disconnected, Headers
from fawa.net.http3_head import Head
from fawa.net.quic_engine import ErrorCode
from fawa.net.stream_exchange import StreamExchange

if TYPE_CHECKING:
    from fawa.net.http3 import H3Connection

#: Finished responses with less than this to send need nobody who waits for them.
_SMALL: Final = 16 * 1024


class BodySink(Protocol):
    """Takes what comes on a request stream as it comes: see `H3Exchange.divert`."""

    def body(self, data: bytes) -> None:
        """Octets have come."""

    def body_end(self) -> None:
        """Nothing more will come."""

    def interrupt(self) -> None:
        """The connection drains: see `Exchange.interrupt`."""


class H3Exchange(StreamExchange):
    """One request stream."""

    __slots__ = ("_broken", "_protocol", "_sink", "conn")

    def __init__(self, conn: H3Connection, stream_id: int, head: Head, *, ended: bool) -> None:
        super().__init__(head, head.fields, "3", conn.peer, stream_id, ended=ended)
        self.body_timeout = conn.limits.body_timeout
        self.scope = trio.CancelScope()
        #: Its connection: a WebTransport session needs more of that than this stream.
        self.conn = conn
        #: This side has reset the stream.
        self._broken = False
        self._protocol = head.protocol
        self._sink: BodySink | None = None

    # The connection's side.

    @property
    def _lost(self) -> bool:
        return self.conn.lost

    def feed(self, data: bytes) -> None:
        """Body octets have arrived."""
        if self._sink is None:
            super().feed(data)
            return
        self.conn.engine.release(self.id)
        self.bytes_in += len(data)
        self._sink.body(data)

    def feed_end(self) -> None:
        """The body has ended."""
        super().feed_end()
        if self._sink is not None:
            self._sink.body_end()

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

    def _consume(self) -> bytes:
        data = self._gather()
        self.buffered = 0
        if self.conn.engine.release(self.id) and not self._ended:
            self.conn.wake()
        return data

    def inform(self, status: int, headers: Headers) -> None:
        self._check()
        self.conn.engine.send_headers(self.id, [(b":status", b"%d" % status), *headers])
        self.conn.wake()

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

    def flush(self) -> None:
        self.conn.wake()

    @property
    def is_flushed(self) -> bool:
        return self.is_live and not self.conn.engine.unsent(self.id)

    async def wait_flushed(self) -> None:
        await self.conn.wait_room(lambda: self.is_flushed or not self.is_live, self._progress)
        self._check()

    def interrupt(self) -> None:
        super().interrupt()
        if self._sink is not None:
            self._sink.interrupt()

    def reset(self, code: int) -> None:
        """Break off both directions with an error code of HTTP/3."""
        if self.is_live:
            self._broken = True
            self.conn.engine.abandon(self.id, code)
            self.conn.wake()

    def _check(self) -> None:
        if not self.is_live:
            raise Disconnected(f"the stream of {self.peer} has been reset")
