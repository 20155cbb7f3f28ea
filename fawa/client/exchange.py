"""One HTTP request and its response as the client sees them, whatever the HTTP version."""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Iterable

import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

Headers = list[tuple[bytes, bytes]]


class ClientExchange(abc.ABC):
    """One request under way.

    Sending methods only queue bytes; `drain` waits. Sending is without effect once the server has answered
    or the connection is lost: what the server said, or why it says no more, is learned by receiving.
    One task may receive, another may send.
    """

    __slots__ = ("_news", "_pieces", "buffered", "ended", "error", "headers", "status", "trailers")

    def __init__(self) -> None:
        #: Of the response head; 0 until it is there.
        self.status = 0
        self.headers: Headers = []
        #: Known once `receive` has returned `b""`.
        self.trailers: Headers = []
        #: The whole response has arrived.
        self.ended = False
        #: Why the response will never be whole.
        self.error: GRPCError | None = None
        #: Body bytes received and not yet consumed.
        self.buffered = 0
        self._pieces: deque[bytes] = deque()
        self._news: trio.Event | None = None

    # The connection's side: what arrived.

    def feed_head(self, status: int, headers: Headers) -> None:
        """The response head has arrived; interim responses (1xx) mean nothing here."""
        if status >= 200:
            self.status = status
            self.headers = headers
            self._notify()

    def feed(self, data: bytes) -> None:
        """Body bytes have arrived."""
        self.buffered += len(data)
        self._pieces.append(data)
        self._notify()

    def feed_end(self, trailers: Iterable[tuple[bytes, bytes]]) -> None:
        """The response is whole."""
        self.trailers = list(trailers)
        self.ended = True
        self._notify()

    def fail(self, error: GRPCError) -> None:
        """The response will never be whole."""
        if not self.ended and self.error is None:
            self.error = error
            self._notify()

    def _notify(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None

    # The caller's side.

    @property
    def is_over(self) -> bool:
        """Nothing more will arrive."""
        return self.ended or self.error is not None

    async def wait_head(self) -> None:
        """Wait until the response head is there.

        Raises:
            GRPCError: it never will be.

        """
        while not self.status:
            if self.error is not None:
                raise self.error
            await self._wait()

    async def receive(self) -> bytes:
        """Return the next piece of the response body, `b""` after its end.

        What was returned is acknowledged to the server's flow control, so a caller that stops receiving stops
        the server.

        Raises:
            GRPCError: the end will never come.

        """
        while not self._pieces:
            if self.ended:
                return b""
            if self.error is not None:
                raise self.error
            await self._wait()
        data = self._pieces.popleft()
        self.buffered -= len(data)
        self._consumed()
        return data

    async def _wait(self) -> None:
        if self._news is None:
            self._news = trio.Event()
        await self._news.wait()

    @abc.abstractmethod
    def _consumed(self) -> None:
        """The caller has taken a piece: there is room for more."""

    @abc.abstractmethod
    def push(self, data: bytes) -> None:
        """Queue body bytes."""

    @abc.abstractmethod
    async def drain(self) -> None:
        """Wait until little enough is queued for more to be sent, or sending is without effect."""

    @abc.abstractmethod
    def finish(self) -> None:
        """End the request body."""

    def close(self) -> None:
        """End the exchange, giving up what is not over; every exchange must come to this."""
        self.fail(GRPCError(Status.CANCELLED, "the call was given up on this side"))
        self._pieces.clear()
        self._close()

    @abc.abstractmethod
    def _close(self) -> None:
        """Give the connection back, or what is left of it. May be called more than once."""


class Connection(abc.ABC):
    """A connection that has kept room for one exchange for whoever asked."""

    @abc.abstractmethod
    def open(self, method: str, target: str, headers: Headers, body: bytes | None = None) -> ClientExchange:
        """Send a request in the room that was kept; the exchange's `close` gives it back.

        `body` is the whole body, or `None` where it follows by `push` and `finish`.
        """

    @abc.abstractmethod
    def give_back(self) -> None:
        """Open nothing after all."""


class Shared(Connection):
    """A connection for many exchanges at once."""

    @property
    @abc.abstractmethod
    def is_usable(self) -> bool:
        """Whether further requests may be sent here."""

    @abc.abstractmethod
    async def acquire(self) -> bool:
        """Wait for room for one exchange and keep it; returns `False` if there never will be any here."""

    @abc.abstractmethod
    async def run(self) -> None:
        """Serve the connection to its end."""

    @abc.abstractmethod
    def end(self) -> None:
        """Close the connection once what is queued has been sent."""


class Pool(abc.ABC):
    """The connections of a channel."""

    @abc.abstractmethod
    async def acquire(self) -> Connection:
        """Wait for a connection with room for one exchange.

        Raises:
            CannotReach: there is none, and none could be made.

        """

    @abc.abstractmethod
    def close(self) -> None:
        """End all connections after what is queued; exchanges that are open end with an error."""
