"""Documents of a board over WebTransport: one stream, a document in each line; cursors as datagrams, too."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from fawa.client.board.line import GOODBYE, LOST, MOST_DOCUMENT, V2, Closed, Line, Refused
from fawa.client.errors import CannotReach
from fawa.client.http3 import H3Client
from fawa.client.pool import background
from fawa.client.webtransport import SessionRefused, open_session
from fawa.net.exchange import Disconnected
from fawa.net.webtransport import Session, Stream

#: Documents that were read and that nobody has received; a reader that finds no room reads no more, which
#: stops the server, and datagrams that come meanwhile get lost.
_MOST_READ: Final = 64
_CURSOR: Final = b'{"cursor":'
#: Seconds that the close of a session may come after the end of its stream.
_LAST_WORD: Final = 1.0


class WebTransportLine(Line):
    """A session with its stream; `documents` is what its readers have found."""

    transport = "webtransport"

    def __init__(self, session: Session, stream: Stream, documents: trio.MemoryReceiveChannel[bytes]) -> None:
        self._session = session
        self._stream = stream
        self._documents = documents

    async def send(self, document: bytes) -> None:
        if document.startswith(_CURSOR) and self._session.send_datagram(document):
            return
        try:
            await self._stream.send(document + b"\n")
        except Disconnected as error:
            raise Closed(LOST, str(error)) from error

    async def receive(self) -> bytes:
        try:
            return await self._documents.receive()
        except trio.EndOfChannel:
            pass
        with trio.move_on_after(_LAST_WORD):
            await self._session.wait_over()
        session = self._session
        # Without a code of the board's it is as if the line had been cut.
        raise Closed(session.close_code or LOST, session.close_reason or "the session ended")

    async def close(self) -> None:
        with trio.move_on_after(GOODBYE):
            await self._session.close(1000)


@asynccontextmanager
async def webtransport_line(
    connection: H3Client, target: str, headers: Sequence[tuple[bytes, bytes]] = ()
) -> AsyncIterator[WebTransportLine]:
    """Open a session, which ends with the block.

    Args:
        connection: of which the limits allow sessions.
        target: path and query.
        headers: to send with the request.

    Raises:
        CannotReach: the server does not speak this.
        GRPCError: the connection broke.
        Refused: the server said no.

    """
    async with contextlib.AsyncExitStack() as stack:
        try:
            session = await stack.enter_async_context(open_session(connection, target, headers, (V2,)))
            stream = session.open_bidi()
        except SessionRefused as refused:
            raise Refused.of(refused.status, refused.headers, refused.text) from refused
        except Disconnected as error:
            raise CannotReach(f"the session was over at once: {error}") from error
        if session.protocol != V2:
            raise CannotReach(f"the server does not speak {V2} over WebTransport")
        nursery = await stack.enter_async_context(background())
        send, documents = trio.open_memory_channel[bytes](_MOST_READ)
        nursery.start_soon(_read_lines, stream, send)
        nursery.start_soon(_read_datagrams, session, send.clone())
        try:
            yield WebTransportLine(session, stream, documents)
        finally:
            nursery.cancel_scope.cancel()


async def _read_lines(stream: Stream, found: trio.MemorySendChannel[bytes]) -> None:
    rest = b""
    async with found:
        with contextlib.suppress(Disconnected):
            while data := await stream.receive():
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    await found.send(line)
                if len(rest) > MOST_DOCUMENT:
                    return


async def _read_datagrams(session: Session, found: trio.MemorySendChannel[bytes]) -> None:
    async with found:
        while (data := await session.receive_datagram()) is not None:
            await found.send(data)
