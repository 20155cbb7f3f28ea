"""HTTP/1.1 connections, client side (RFC 9112): one exchange at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from fawa.client.errors import ConnectionLost, Refused
from fawa.client.exchange import ClientExchange, Connection, Headers
from fawa.client.wire import HIGH_WATER, Wire
from fawa.net.engine import Data, EndOfMessage, HttpError, Response, Role, header_list
from fawa.net.engine_http1 import H1Engine

#: Bytes of a response received ahead of the caller above which reading stops.
_READ_AHEAD: Final = 256 * 1024


class H1ClientExchange(ClientExchange):
    """The request that an HTTP/1.1 connection is busy with."""

    __slots__ = ("_closed", "_conn", "finished")

    def __init__(self, conn: H1Client) -> None:
        super().__init__()
        self._conn = conn
        self._closed = False
        #: The whole request has been queued.
        self.finished = False

    @property
    def is_ahead(self) -> bool:
        """More has arrived than the caller has taken."""
        return self.buffered > _READ_AHEAD

    @property
    def _takes_more(self) -> bool:
        return not (self._closed or self.is_over or self.finished)

    def _consumed(self) -> None:
        self._conn.read_on()

    def push(self, data: bytes) -> None:
        if self._takes_more and data:
            self._conn.queued += len(data)
            self._conn.engine.push(data)
            self._conn.wake_writer()

    def _has_room(self) -> bool:
        return not self._takes_more or self._conn.queued < HIGH_WATER

    async def drain(self) -> None:
        if not self._has_room():
            await self._conn.wait_room(self._has_room)

    def finish(self) -> None:
        if self._takes_more:
            self._conn.engine.finish()
            self._conn.wake_writer()
            self.finished = True

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._conn.done(self)


class H1Client(Wire, Connection):
    """One HTTP/1.1 connection."""

    def __init__(
        self, stream: trio.abc.Stream, address: str, on_free: Callable[[H1Client], None] = lambda _: None
    ) -> None:
        """Make a connection; `on_free` is called whenever it is no longer held."""
        self.engine = H1Engine(Role.CLIENT)
        super().__init__(stream, self.engine, address)
        self._on_free = on_free
        self._exchange: H1ClientExchange | None = None
        self._resume = trio.Event()

    def open(self, method: str, target: str, headers: Headers, body: bytes | None = None) -> H1ClientExchange:
        exchange = H1ClientExchange(self)
        self._exchange = exchange
        if self.lost:
            exchange.fail(Refused(f"the connection to {self.address} is gone"))
            return exchange
        if body:
            headers = [*headers, (b"content-length", b"%d" % len(body))]
        elif body is not None and method not in ("GET", "HEAD"):
            headers = [*headers, (b"content-length", b"0")]
        self.engine.request(method.encode("ascii"), target.encode("ascii"), headers, body=body != b"")
        if body is not None:
            exchange.push(body)
            exchange.finish()
        self.wake_writer()
        return exchange

    def give_back(self) -> None:
        self._on_free(self)

    def done(self, exchange: H1ClientExchange) -> None:
        """The caller is done with the exchange: make ready for the next, or end."""
        self._exchange = None
        if not self._is_ready_again(exchange):
            # There is no way to give up a request but to close its connection.
            self.end()
        self.read_on()
        self._on_free(self)

    def _is_ready_again(self, exchange: H1ClientExchange) -> bool:
        if self.lost or self.engine.must_close or not (exchange.ended and exchange.finished):
            return False
        try:
            # A server that speaks before it is asked: its words must not answer another request.
            return not self.engine.next_cycle()
        except HttpError:
            return False

    def read_on(self) -> None:
        """Let the read loop go on."""
        self._resume.set()

    @property
    def is_usable(self) -> bool:
        """Whether another request may be sent here."""
        return not self.lost and not self._reading.cancel_called

    async def _read_loop(self) -> ConnectionLost:
        while True:
            while self._exchange is not None and self._exchange.is_ahead:
                self._resume = trio.Event()
                await self._resume.wait()
            try:
                data = await self._read()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return ConnectionLost(f"the connection to {self.address} broke")
            if self._exchange is None or self._exchange.ended:
                return ConnectionLost(f"{self.address} closed the connection")
            try:
                events = self.engine.receive(data)
            except HttpError as error:
                reason = f"sent what is not HTTP/1.1: {error}" if data else "closed the connection too early"
                return ConnectionLost(f"{self.address} {reason}")
            for event in events:
                if isinstance(event, Response):
                    self._exchange.feed_head(event.status_code, header_list(event))
                elif isinstance(event, Data):
                    self._exchange.feed(event.data)
                elif isinstance(event, EndOfMessage):
                    self._exchange.feed_end(event.trailers)
                    self.made_progress()
            if not data:
                return ConnectionLost(f"{self.address} closed the connection")

    def _on_lost(self, error: ConnectionLost) -> None:
        if self._exchange is not None:
            self._exchange.fail(error)
