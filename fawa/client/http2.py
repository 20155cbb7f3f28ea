"""HTTP/2 connections, client side (RFC 9113)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio

from fawa.client.errors import ConnectionLost, Refused, from_reset
from fawa.client.exchange import ClientExchange, Headers, Shared
from fawa.client.wire import HIGH_WATER, Wire
from fawa.net.engine import (
    Bulk,
    Credit,
    Data,
    EndOfMessage,
    GoAway,
    H2Engine,
    H2ErrorCode,
    HttpError,
    Response,
    Role,
    RstStream,
    Settings,
    WindowUpdate,
    header_list,
)

#: Streams opened at once before the server has said how many it takes.
_FIRST_STREAMS: Final = 100
#: SETTINGS_MAX_CONCURRENT_STREAMS (RFC 9113 section 6.5.2).
_MAX_STREAMS: Final = 3


@attrs.frozen
class H2Limits:
    """What an HTTP/2 connection of a client keeps to."""

    #: Octets a server may send ahead of the caller on one stream. Half as much again may be buffered.
    stream_window: int = 1024 * 1024
    #: Octets in flight on all streams together. Window is given back as octets arrive, because a stream that
    #: nobody reads must not stop the others; so what is buffered is bounded by streams, not by this.
    connection_window: int = 8 * 1024 * 1024
    #: Requests after which a new connection takes over. Below the engine's limit of 4,096, and below where
    #: fawad itself would move the client.
    max_requests: int = 3000


class H2ClientExchange(ClientExchange):
    """One HTTP/2 stream."""

    __slots__ = ("_closed", "_conn", "_finished", "_stream", "id")

    def __init__(self, conn: H2Client, method: str, target: str, headers: Headers) -> None:
        super().__init__()
        self._conn = conn
        self._stream = conn.engine.request(
            method.encode("ascii"), target.encode("ascii"), headers, scheme=conn.scheme
        )
        self.id = self._stream.stream_id
        self._finished = False
        #: The stream is no more: reset by either side, or its connection is lost.
        self._closed = False

    def end_stream(self) -> None:
        """The server takes nothing more, and its window is of no more use."""
        self._closed = True

    def _consumed(self) -> None:
        if not self._closed and not self.ended:
            self._conn.consumed(self)

    def push(self, data: bytes) -> None:
        if not self._closed and data:
            self._conn.queued += len(data)
            self._conn.engine.send_data(self._stream, data)
            self._conn.wake_writer()

    def _has_room(self) -> bool:
        if self._closed or self.is_over:
            return True
        return self._conn.queued < HIGH_WATER and self._conn.engine.pending(self.id) < HIGH_WATER

    async def drain(self) -> None:
        if not self._has_room():
            await self._conn.wait_room(self._has_room)

    def finish(self) -> None:
        self._finished = True
        if not self._closed:
            self._conn.engine.end_message(self._stream, [])
            self._conn.wake_writer()

    def _close(self) -> None:
        conn = self._conn
        if not self._closed:
            self._closed = True
            if not (self.ended and self._finished):
                self._conn.engine.reset(self._stream, H2ErrorCode.CANCEL)
                conn.wake_writer()
        conn.forget(self)


class H2Client(Wire, Shared):
    """One HTTP/2 connection."""

    def __init__(self, stream: trio.abc.Stream, address: str, scheme: str, limits: H2Limits) -> None:
        self.engine = H2Engine(
            Role.CLIENT, stream_window=limits.stream_window, connection_window=limits.connection_window
        )
        super().__init__(stream, self.engine, address)
        self.scheme = scheme.encode("ascii")
        self._limits = limits
        self._exchanges: dict[int, H2ClientExchange] = {}
        #: No further request is sent here.
        self._retired = False
        #: Streams the server takes at once, those in use or promised to somebody, and all there ever were.
        self._most = _FIRST_STREAMS
        self._held = 0
        self._opened = 0
        self._waiting = trio.lowlevel.ParkingLot()

    # Room for exchanges

    @property
    def is_usable(self) -> bool:
        """Whether further requests may be sent here."""
        return not self.lost and not self._retired

    async def acquire(self) -> bool:
        """Wait until the server takes another stream; returns `False` if it never will on this connection."""
        while self.is_usable and self._held >= self._most:
            await self._waiting.park()
        if not self.is_usable:
            return False
        self._held += 1
        self._opened += 1
        if self._opened >= self._limits.max_requests:
            self.retire()
        return True

    def open(self, method: str, target: str, headers: Headers, body: bytes | None = None) -> H2ClientExchange:
        exchange = H2ClientExchange(self, method, target, headers)
        if self.lost:
            # It broke after it was acquired, so nothing of this was sent.
            exchange.end_stream()
            exchange.fail(Refused(f"the connection to {self.address} is gone"))
            return exchange
        self._exchanges[exchange.id] = exchange
        if body is not None:
            exchange.push(body)
            exchange.finish()
        self.wake_writer()
        return exchange

    def give_back(self) -> None:
        self._held -= 1
        self._waiting.unpark()
        self._end_if_done()

    def forget(self, exchange: H2ClientExchange) -> None:
        """The caller is done with an exchange."""
        self.engine.forget(exchange.id)
        if self._exchanges.pop(exchange.id, None) is exchange:
            self.give_back()

    def retire(self) -> None:
        """Send no further request here; end when the open ones have."""
        self._retired = True
        self._waiting.unpark_all()
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._retired and not self._held and not self.lost:
            self.engine.goaway(0)
            self.end()

    def consumed(self, exchange: H2ClientExchange) -> None:
        """The caller has taken a piece: give window back once enough of it is free."""
        if (
            self.engine.holds_windows
            and exchange.buffered <= self._limits.stream_window // 2
            and self.engine.release(exchange.id)
        ):
            self.wake_writer()

    # What arrives

    async def _read_loop(self) -> ConnectionLost:
        while True:
            try:
                data = await self._read()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return ConnectionLost(f"the connection to {self.address} broke")
            if not data:
                return ConnectionLost(f"{self.address} closed the connection")
            try:
                self.receive(data)
            except HttpError as error:
                return ConnectionLost(f"{self.address} sent what is not HTTP/2: {error}")

    def receive(self, data: bytes) -> None:
        """Act on received bytes.

        Raises:
            HttpError: they make no sense; what has to be said to that is already queued.

        """
        try:
            events = self.engine.receive(data)
        finally:
            self.wake_writer()
        for event in events:
            if isinstance(event, Response | Data | Bulk | EndOfMessage | RstStream):
                self._on_stream(event)
            elif isinstance(event, WindowUpdate | Credit):
                self.made_progress()
            elif isinstance(event, GoAway):
                self._on_goaway(event)
            elif isinstance(event, Settings):
                self._on_settings(event)
        if self.engine.holds_windows:
            self.engine.release(0)

    def _on_stream(self, event: Response | Data | Bulk | EndOfMessage | RstStream) -> None:
        exchange = self._exchanges.get(event.stream_id)
        if exchange is None:
            # Given up, and the server does not know it yet.
            self.engine.forget(event.stream_id)
        elif isinstance(event, Data | Bulk):
            exchange.feed(event.data)
            if exchange.buffered > 2 * self._limits.stream_window:
                # More than a server that respects the window can have sent.
                exchange.end_stream()
                self.engine.reset(self.engine.stream(exchange.id), H2ErrorCode.FLOW_CONTROL_ERROR)
                exchange.fail(from_reset(H2ErrorCode.FLOW_CONTROL_ERROR))
        elif isinstance(event, Response):
            exchange.feed_head(event.status_code, header_list(event))
        elif isinstance(event, EndOfMessage):
            exchange.feed_end(event.trailers)
            self.engine.forget(exchange.id)
            self.made_progress()
        else:
            exchange.end_stream()
            # After a whole response it only says that the rest of the request is not needed (section 8.1).
            exchange.fail(from_reset(event.error_code))
            self.made_progress()

    def _on_goaway(self, event: GoAway) -> None:
        for exchange in list(self._exchanges.values()):
            if exchange.id > event.last_stream_id:
                exchange.end_stream()
                exchange.fail(Refused(f"{self.address} is closing the connection"))
        self.made_progress()
        self.retire()

    def _on_settings(self, event: Settings) -> None:
        for identifier, value in event.params:
            if identifier == _MAX_STREAMS:
                self._most = value
                self._waiting.unpark_all()
        # A larger initial window frees what streams hold back.
        self.made_progress()

    def _on_lost(self, error: ConnectionLost) -> None:
        self._waiting.unpark_all()
        for exchange in self._exchanges.values():
            exchange.end_stream()
            exchange.fail(error)


@attrs.frozen
class H2Dialer:
    """Makes HTTP/2 connections out of byte streams."""

    dial: Callable[[], Awaitable[trio.abc.Stream]]
    #: Host and port of the server, for errors.
    address: str
    #: "http" or "https".
    scheme: str
    limits: H2Limits

    async def __call__(self) -> H2Client:
        """Return a new connection.

        Raises:
            CannotReach: there is none to be had.

        """
        return H2Client(await self.dial(), self.address, self.scheme, self.limits)
