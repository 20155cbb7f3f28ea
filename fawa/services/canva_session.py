"""One client of a board over its WebTransport session.

Wire v1: the client opens a stream for each message, or sends several one after the other on one; each
message to it has a one-way stream of its own. Wire v2: one stream, opened by the client, with a document in
each line; cursors are datagrams where they fit.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio

from fawa.board.tape import Batch
from fawa.board.wire import line
from fawa.board.wire_v1 import WireV1
from fawa.board.wire_v2 import WireV2, encode_drain
from fawa.net.exchange import Disconnected
from fawa.net.webtransport import Session, Stream
from fawa.rooms.room import RESTARTING, Room
from fawa.services.canva_client import HELLO_TIMEOUT, RETRY_AFTER, V2, Client, End, SocketSettings, converse
from fawa.services.documents import Documents

#: Close codes.
_TOO_LARGE: Final = 1009
_LOST: Final = 1006
_NO_HELLO: Final = 4401

_WIRE_V1: Final = WireV1(bytes)
_WIRE_V2: Final = WireV2(line)

#: As over WebSocket.
_PING_INTERVAL: Final = 25.0
#: Documents that were read and wait for the board; a reader that finds no room reads no more, and so stops
#: its stream.
_MOST_READ: Final = 64
#: What a document of cursors begins with, and the size up to which a datagram of the client's is looked at.
_CURSORS: Final = b'{"cursors":'
_CURSOR: Final = b'{"cursor":'
_LARGEST_CURSOR: Final = 256


@attrs.define(eq=False)
class _SessionClient(Client):
    """A client at a session; `documents` is what its readers have found."""

    session: Session = attrs.field(kw_only=True)
    documents: trio.MemoryReceiveChannel[bytes | End] = attrs.field(kw_only=True)

    @property
    def ping_interval(self) -> float:
        # For pings of its own: QUIC's, by which the server learns that it is there, no page can see.
        return _PING_INTERVAL

    async def receive(self) -> bytes | None:
        try:
            try:
                # A checkpoint costs a turn of the loop. Without one no reader runs, so it soon comes to wait.
                document = self.documents.receive_nowait()
            except trio.WouldBlock:
                document = await self.documents.receive()
        except trio.EndOfChannel:
            return None
        if isinstance(document, End):
            raise document
        return document

    @property
    def is_flushed(self) -> bool:
        return self.session.is_flushed

    async def say(self, document: bytes) -> None:
        raise NotImplementedError("wire v1 has no answers")


@attrs.define(eq=False)
class _V1Client(_SessionClient):
    """Each document goes on a stream of its own."""

    def push(self, batch: Batch) -> bool:
        try:
            for frame in batch.frames:
                stream = self.session.open_uni()
                stream.push(frame)
                stream.finish()
        except Disconnected:
            return False  # which the task that receives is about to learn
        return self.session.is_flushed


@attrs.define(eq=False)
class _V2Client(_SessionClient):
    """All documents go on one stream, cursors beside it."""

    stream: Stream = attrs.field(kw_only=True)

    def push(self, batch: Batch) -> bool:
        data = batch.data
        try:
            # At once, as each push has its price; mostly the same octets for everybody.
            if _CURSORS in data:
                data = b"".join(
                    frame
                    for frame in batch.frames
                    if not (frame.startswith(_CURSORS) and self.session.send_datagram(frame[:-1]))
                )
            self.stream.push(data)
            self.stream.flush()
        except Disconnected:
            return False
        return self.session.is_flushed

    async def say(self, document: bytes) -> None:
        await self.stream.send(line(document))


async def serve_session(
    session: Session, find: Callable[[], Awaitable[Room]], settings: SocketSettings
) -> None:
    """Serve a client from the answer to its request to the end of its session.

    Args:
        session: of the client; its protocol says which wire it speaks.
        find: returns the board.
        settings: what the client may take.

    """
    speaks_v2 = session.protocol == V2
    end: End | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.keep_alive)
            with contextlib.suppress(Disconnected):  # what happened to a session stands at the session
                end = await (_serve_v2 if speaks_v2 else _serve_v1)(session, find, settings, nursery)
            nursery.cancel_scope.cancel()
        if end is not None:
            await session.close(end.code, end.reason)
        else:
            await session.close()
    finally:
        code = _LOST if session.close_code is None else session.close_code
        session.exchange.label = f"webtransport-{'v2' if speaks_v2 else 'v1'} {code}"


Found = trio.MemorySendChannel[bytes | End]


async def _give(found: Found, document: bytes) -> None:
    """Hand a document on; at once where there is room."""
    try:
        found.send_nowait(document)
    except trio.WouldBlock:
        await found.send(document)


async def _serve_v1(
    session: Session, find: Callable[[], Awaitable[Room]], settings: SocketSettings, nursery: trio.Nursery
) -> End | None:
    send, receive = trio.open_memory_channel[bytes | End](_MOST_READ)
    client = _V1Client(_WIRE_V1, settings, session=session, documents=receive)
    nursery.start_soon(_tell_drain, session, send.clone())
    nursery.start_soon(_accept_v1, session, settings.max_message, send)
    return await converse(client, find)


async def _accept_v1(session: Session, most: int, found: Found) -> None:
    """Read what the client sends. A stream that is whole when it is accepted is read before later ones."""
    async with found, trio.open_nursery() as readers:
        while (stream := await session.accept_stream()) is not None:
            if stream.has_ended:
                await _read_v1(stream, most, found)
            else:
                readers.start_soon(_read_v1, stream, most, found)
        readers.cancel_scope.cancel()
        await found.send(End(0, ""))


async def _read_v1(stream: Stream, most: int, found: Found) -> None:
    """Read documents, one after the other with or without white space between, to the end of a stream."""
    documents = Documents(most)
    try:
        with stream:
            while data := await stream.receive():
                for document in documents.feed_untrusted(data):
                    await _give(found, document)
                if documents.is_too_large:
                    await found.send(End(_TOO_LARGE, f"a message has at most {most} bytes"))
                    return
            if rest := documents.rest:
                await found.send(rest)  # no document, which the conversation says
            if stream.is_bidirectional:
                stream.finish()
    except Disconnected:
        pass  # what a stream has brought before counts


async def _serve_v2(
    session: Session, find: Callable[[], Awaitable[Room]], settings: SocketSettings, nursery: trio.Nursery
) -> End | None:
    stream = None
    with trio.move_on_after(HELLO_TIMEOUT):
        stream = await session.accept_stream()
        if stream is None:
            return None
    if stream is None or not stream.is_bidirectional:
        return End(_NO_HELLO, f"no stream both ways with a hello came within {HELLO_TIMEOUT:g} s")
    send, receive = trio.open_memory_channel[bytes | End](_MOST_READ)
    client = _V2Client(_WIRE_V2, settings, session=session, documents=receive, stream=stream)
    nursery.start_soon(_tell_drain, session, send.clone())
    nursery.start_soon(_read_cursors, session, send.clone())
    nursery.start_soon(_refuse_streams, session)
    nursery.start_soon(_read_lines, stream, settings.max_message, send)
    end = await converse(client, find)
    if end is not None and end.code == RESTARTING:
        with contextlib.suppress(Disconnected):  # it is over either way
            # Jitter, not a secret.
            stream.push(line(encode_drain(random.randint(*RETRY_AFTER))))  # noqa: S311
            stream.finish()
    return end


async def _read_lines(stream: Stream, most: int, found: Found) -> None:
    buffer = b""
    async with found:
        with contextlib.suppress(Disconnected):
            while data := await stream.receive():
                *lines, buffer = (buffer + data).split(b"\n")
                for document in lines:
                    if len(document) > most:
                        buffer = document
                        break
                    if document.strip():
                        await _give(found, document)
                if len(buffer) > most:
                    await found.send(End(_TOO_LARGE, f"a document has at most {most} bytes"))
                    return
        await found.send(End(0, ""))


async def _read_cursors(session: Session, found: Found) -> None:
    """Take cursors out of datagrams; anything else in one is passed over, as it may be lost anyway."""
    async with found:
        while (data := await session.receive_datagram()) is not None:
            if len(data) <= _LARGEST_CURSOR and data.startswith(_CURSOR):
                await found.send(data)


async def _refuse_streams(session: Session) -> None:
    while (stream := await session.accept_stream()) is not None:
        with stream:
            pass  # there is one stream


async def _tell_drain(session: Session, found: Found) -> None:
    async with found:
        await session.wait_draining()
        await found.send(End(RESTARTING, "the server restarts"))
