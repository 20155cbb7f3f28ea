"""What the request streams of HTTP/2 and HTTP/3 have in common: a body that arrives in pieces, and ends."""

from __future__ import annotations

import abc
import math
from typing import BinaryIO

import trio

from fawa.net.exchange import BodyTimeout, Disconnected, Exchange, Headers, Interrupted, Peer, RequestHead
from fawa.net.files import read_pieces


class StreamExchange(Exchange):
    """One request stream of a connection with many."""

    __slots__ = ("_arrived", "_ended", "_finished", "_interrupted", "_pieces", "buffered", "id")

    def __init__(
        self, head: RequestHead, headers: Headers, version: str, peer: Peer, stream_id: int, *, ended: bool
    ) -> None:
        super().__init__(head, headers, version, peer)
        self.id = stream_id
        #: Body octets received and not yet consumed.
        self.buffered = 0
        self._pieces: list[bytes] = []
        self._arrived: trio.Event | None = None
        self._ended = ended
        #: The whole response has been queued.
        self._finished = False
        self._interrupted = False

    # The connection's side: what arrived.

    def feed(self, data: bytes) -> None:
        """Body octets have arrived."""
        self.buffered += len(data)
        self._pieces.append(data)
        if self._arrived is not None:
            self._arrived.set()

    def feed_end(self) -> None:
        """The body has ended; request trailers carry nothing that any of our protocols uses."""
        self._ended = True
        if self._arrived is not None:
            self._arrived.set()

    @property
    @abc.abstractmethod
    def _lost(self) -> bool:
        """Whether the connection is gone."""

    @abc.abstractmethod
    def _consume(self) -> bytes:
        """Return what has arrived (`_gather`), and give the peer window for more."""

    def _gather(self) -> bytes:
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.bytes_in += len(data)
        return data

    # The application's side.

    async def receive(self) -> bytes:
        while not self._pieces:
            if self._ended:
                return b""
            if self._lost:
                raise Disconnected(f"{self.peer} is gone")
            if self._interrupted:
                self._interrupted = False
                raise Interrupted
            self._arrived = trio.Event()
            if self.body_timeout == math.inf:
                await self._arrived.wait()
            else:
                with trio.move_on_after(self.body_timeout) as timeout:
                    await self._arrived.wait()
                if timeout.cancelled_caught:
                    raise BodyTimeout(f"no byte of the request body came for {self.body_timeout:g} s")
            self._arrived = None
        return self._consume()

    @property
    def body_over(self) -> bool:
        return self._ended and not self._pieces

    async def send_file(self, file: BinaryIO, offset: int, count: int) -> None:
        async for piece in read_pieces(file, offset, count):
            await self.send(piece)

    def upgrade(self, headers: Headers) -> None:
        if not self.protocol:
            raise ValueError("the client asked for no other protocol")
        self.start(200, headers)
        self.upgraded = True
        self.body_timeout = math.inf
        if self.draining:
            self.interrupt()

    def interrupt(self) -> None:
        self._interrupted = True
        if self._arrived is not None:
            self._arrived.set()
