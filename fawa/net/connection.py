"""What HTTP/1.1 and HTTP/2 connections have in common: one writer, bounded output, an orderly end."""

from __future__ import annotations

import abc
import contextlib
import math
import ssl
from collections.abc import Awaitable, Callable
from typing import Protocol

import attrs
import trio

from fawa.net.exchange import Disconnected, Exchange

App = Callable[[Exchange], Awaitable[None]]

#: Bytes queued towards a peer, on one stream and on a connection, above which senders wait.
HIGH_WATER = 256 * 1024
#: Bytes asked of the socket at once: few, so that the small-object heap has them; more while it is full.
READ_SIZE = 64 * 1024
READ_SIZE_BULK = 256 * 1024
#: Bytes given to the socket under one write timeout.
WRITE_SIZE = 256 * 1024
#: Seconds after the last byte sent in which the peer may still read before the socket is closed.
LINGER = 2.0
#: Seconds a peer that has closed its sending side keeps a call that is not finished.
HALF_CLOSE_GRACE = 5.0


@attrs.frozen
class Limits:
    """What one connection may take. Times are seconds, sizes bytes."""

    #: Until the first request's head is complete, and for each further head once it has begun.
    header_timeout: float = 15.0
    #: Between requests.
    idle_timeout: float = 300.0
    #: Without a byte of a request body that a handler waits for (streaming calls set their own).
    body_timeout: float = 60.0
    #: Without the peer taking a byte that waits to be sent.
    write_timeout: float = 60.0
    max_header: int = 65536
    #: Concurrent requests on one HTTP/2 connection.
    max_streams: int = 128
    #: Octets a peer may send ahead of the application on one HTTP/2 stream, and on all together.
    stream_window: int = 1024 * 1024
    connection_window: int = 8 * 1024 * 1024
    #: Requests after which an HTTP/2 connection is replaced (the engine allows 4,096).
    max_requests: int = 3500


class Taker(Protocol):
    """The part of an engine that the writer knows."""

    def take(self) -> bytes:
        """Return and clear the bytes to send."""


@attrs.frozen
class Peer:
    """Who is at the other end and how it got here."""

    address: str
    scheme: str


class Connection(abc.ABC):
    """A byte stream, the engine that reads it, and one task that writes what calls have queued.

    Calls only queue bytes and wake the writer, so what many calls queue in one turn of the event loop leaves
    in one write. A call that gets ahead of the peer waits in `drain`.
    """

    def __init__(self, stream: trio.abc.Stream, engine: Taker, peer: Peer, limits: Limits) -> None:
        self.stream = stream
        self.peer = peer
        self.limits = limits
        #: Bytes queued since the writer last took some.
        self.queued = 0
        #: Nothing can be sent any more.
        self.lost = False
        #: No further request is accepted; the connection ends when the open ones have.
        self.draining = False
        self._taker = engine
        self._read_size = READ_SIZE
        self._writing = False
        self._ending = False
        self._wake = trio.Event()
        self._progress = trio.lowlevel.ParkingLot()

    @abc.abstractmethod
    async def run(self, app: App, first: bytes) -> None:
        """Serve the connection to its end; `first` are bytes already read from it."""

    @abc.abstractmethod
    def start_drain(self) -> None:
        """Finish the open requests, accept no other, then close (called once, at shutdown)."""

    async def read(self) -> bytes:
        """Return received bytes, `b""` at their end; asks for more at once while the socket is full.

        Raises:
            trio.BrokenResourceError: the connection is broken.

        """
        data = bytes(await self.stream.receive_some(self._read_size))
        self._read_size = READ_SIZE_BULK if len(data) == self._read_size else READ_SIZE
        return data

    def wake_writer(self) -> None:
        """Tell the writer that bytes are queued."""
        self._wake.set()

    async def _write_loop(self) -> None:
        """Write what is queued until `_end_writing`; on failure mark the connection lost and return."""
        while True:
            data = self._taker.take()
            self.queued = 0
            if not data:
                self._writing = False
                self._progress.unpark_all()
                if self._ending:
                    return
                await self._wake.wait()
                self._wake = trio.Event()
                continue
            self._writing = True
            if not await self._write(data):
                self._lose()
                return
            self._progress.unpark_all()

    async def _write(self, data: bytes) -> bool:
        view = memoryview(data)
        for start in range(0, len(view), WRITE_SIZE):
            with trio.move_on_after(self.limits.write_timeout) as timeout:
                try:
                    await self.stream.send_all(view[start : start + WRITE_SIZE])
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return False
            if timeout.cancelled_caught:
                return False
        return True

    def _lose(self) -> None:
        self.lost = True
        self._progress.unpark_all()
        self.on_lost()

    @abc.abstractmethod
    def on_lost(self) -> None:
        """The peer is gone: cancel the open calls and let the reader end."""

    async def wait_room(self, has_room: Callable[[], bool]) -> None:
        """Wait until `has_room()`; it is asked again whenever the writer or the peer has made progress.

        Raises:
            Disconnected: the peer is gone, or made no room for the write timeout.

        """
        self.wake_writer()
        with trio.move_on_after(self.limits.write_timeout) as timeout:
            while not (room := has_room()) and not self.lost:
                await self._progress.park()
        if self.lost:
            raise Disconnected(f"{self.peer.address} is gone")
        if timeout.cancelled_caught and not room:
            raise Disconnected(f"{self.peer.address} took nothing for {self.limits.write_timeout:g} s")

    def made_progress(self) -> None:
        """Let senders that wait in `wait_room` look again."""
        self._progress.unpark_all()

    @property
    def is_flushed(self) -> bool:
        """Whether everything queued has been handed to the socket."""
        return not self._writing and self.queued == 0

    def _end_writing(self) -> None:
        """Let the writer end once everything queued is written."""
        self._ending = True
        self._wake.set()

    async def linger(self) -> None:
        """End the connection so that the peer can still read what was sent last.

        A socket closed with unread input makes the kernel send RST, which destroys what the peer has not
        read yet (RFC 9112 section 9.6): half-close, then read and discard for a moment.
        """
        stream: trio.abc.Stream = self.stream
        with (
            trio.move_on_after(LINGER),
            contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError),
        ):
            if isinstance(stream, trio.SSLStream):
                with contextlib.suppress(ssl.SSLError):
                    # Sends close_notify and waits for the peer's; raises when data comes instead.
                    await stream.unwrap()
                    return
                stream = stream.transport_stream
            if isinstance(stream, trio.abc.HalfCloseableStream):
                await stream.send_eof()
            while await stream.receive_some(READ_SIZE):
                pass


class ReadDeadline:
    """One cancel scope around a whole read loop whose deadline moves: cheaper than a scope a read."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self._deadline = math.inf

    def set(self, deadline: float) -> None:
        """Move the deadline; touches trio's timer heap only when it changes."""
        if deadline != self._deadline:
            self._deadline = self.scope.deadline = deadline
