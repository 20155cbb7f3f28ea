"""What HTTP/1.1 and HTTP/2 connections have in common: one reader, one writer, an orderly end."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Final, Protocol

import trio

from fawa.client.errors import ConnectionLost

#: Bytes queued towards the server, on one stream and on a connection, above which senders wait.
HIGH_WATER: Final = 256 * 1024
#: Bytes asked of the socket at once.
_READ_SIZE: Final = 64 * 1024
#: Seconds in which what is queued at the end of a connection is still written.
_FLUSH: Final = 1.0


class Taker(Protocol):
    """The part of an engine that the writer knows."""

    def take(self) -> bytes:
        """Return and clear the bytes to send."""


class Wire(abc.ABC):
    """A byte stream, the engine that reads it, and one task that writes what calls have queued.

    Calls only queue bytes and wake the writer, so what many calls queue in one turn of the event loop leaves
    in one write. A call that gets ahead of the server waits in `wait_room`.
    """

    def __init__(self, stream: trio.abc.Stream, engine: Taker, address: str) -> None:
        self.address = address
        #: Bytes queued since the writer last took some.
        self.queued = 0
        #: The connection is over.
        self.lost = False
        self._stream = stream
        self._taker = engine
        self._ending = False
        self._reading = trio.CancelScope()
        self._wake = trio.Event()
        self._progress = trio.lowlevel.ParkingLot()

    async def run(self) -> None:
        """Read and write until either side has ended the connection, then close the stream."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_loop)
                with self._reading:
                    self._lose(await self._read_loop())
                if not self.lost:
                    self._lose(ConnectionLost(f"the connection to {self.address} was closed on this side"))
                nursery.cancel_scope.deadline = trio.current_time() + _FLUSH
                self._ending = True
                self.wake_writer()
        finally:
            self._lose(ConnectionLost(f"the connection to {self.address} was closed on this side"))
            await trio.aclose_forcefully(self._stream)

    def end(self) -> None:
        """Close the connection once what is queued has been written."""
        self._reading.cancel()

    @abc.abstractmethod
    async def _read_loop(self) -> ConnectionLost:
        """Read until the input ends or makes no sense; returns what calls that are still open end with."""

    async def _read(self) -> bytes:
        """Return received bytes, `b""` at their end.

        Raises:
            trio.BrokenResourceError: the connection is broken.

        """
        return bytes(await self._stream.receive_some(_READ_SIZE))

    def _lose(self, error: ConnectionLost) -> None:
        if not self.lost:
            self.lost = True
            self._progress.unpark_all()
            self._on_lost(error)

    @abc.abstractmethod
    def _on_lost(self, error: ConnectionLost) -> None:
        """Nothing more will be received: end the open calls with `error`."""

    def wake_writer(self) -> None:
        """Tell the writer that bytes are queued."""
        self._wake.set()

    async def _write_loop(self) -> None:
        """Write what is queued until the connection ends or breaks.

        When it breaks, the reader sees it too, after whatever the server has sent before.
        """
        while True:
            data = self._taker.take()
            self.queued = 0
            if data:
                try:
                    await self._stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return
            self._progress.unpark_all()
            if not data:
                if self._ending:
                    return
                await self._wake.wait()
                self._wake = trio.Event()

    async def wait_room(self, has_room: Callable[[], bool]) -> None:
        """Wait until `has_room()` or the connection is over.

        It is asked again whenever the writer or the server has made progress. There is no timeout: a server
        may be slow as long as its caller likes, and a dead one is found by the kernel (`fawa.client.dial`).
        """
        while not has_room() and not self.lost:
            await self._progress.park()

    def made_progress(self) -> None:
        """Let senders that wait in `wait_room` look again."""
        self._progress.unpark_all()
