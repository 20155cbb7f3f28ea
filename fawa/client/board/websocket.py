"""Documents of a board over WebSocket (RFC 6455), client side."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import ProtocolError

from fawa.client.board.line import GOODBYE, LOST, MOST_DOCUMENT, V2, Closed, Line, Refused
from fawa.client.errors import CannotReach

#: Bytes asked of the socket at once.
_READ_SIZE: Final = 64 * 1024
#: Bytes of a refusal's text that are kept.
_MOST_TEXT: Final = 4096
_ABNORMAL: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


class WebSocketLine(Line):
    """A WebSocket after its opening handshake."""

    transport = "websocket"

    def __init__(self, stream: trio.abc.Stream, protocol: WSConnection) -> None:
        self._stream = stream
        self._protocol = protocol
        #: Frames go out whole and in the order in which the protocol made them.
        self._sending = trio.Lock()
        #: A frame was cut off, so that nothing may follow it.
        self._cut = False
        #: Documents that came with others; at most as many as one read brings.
        self._whole: deque[bytes] = deque()
        #: Of a message that is not whole.
        self._parts: list[str] = []
        self._size = 0

    async def send(self, document: bytes) -> None:
        await self._send(TextMessage(document.decode()))

    async def _send(self, event: Event) -> None:
        async with self._sending:
            try:
                data = self._protocol.send(event)
                self._cut = True
                await self._stream.send_all(data)
                self._cut = False
            except (*_ABNORMAL, ProtocolError) as error:
                raise Closed(LOST, "the connection broke") from error

    async def receive(self) -> bytes:
        while not self._whole:
            # What came with the answer to the handshake is there already.
            await self._take_untrusted()
            if not self._whole:
                await self._read()
        return self._whole.popleft()

    async def _read(self) -> None:
        try:
            data = await self._stream.receive_some(_READ_SIZE)
        except _ABNORMAL as error:
            raise Closed(LOST, "the connection broke") from error
        if not data:
            raise Closed(LOST, "the server closed the connection without a word")
        try:
            self._protocol.receive_data(bytes(data))
        except ProtocolError as error:
            raise Closed(LOST, f"the server sent what is no WebSocket: {error}") from error

    async def _take_untrusted(self) -> None:
        try:
            for event in self._protocol.events():
                if isinstance(event, TextMessage):
                    self._on_text(event)
                elif isinstance(event, Ping):
                    await self._send(event.response())
                elif isinstance(event, CloseConnection):
                    await self._agree(event)
                elif isinstance(event, BytesMessage):
                    raise Closed(LOST, "the server sent a binary message")
        except ProtocolError as error:
            raise Closed(LOST, f"the server sent what is no WebSocket: {error}") from error

    def _on_text(self, event: TextMessage) -> None:
        self._parts.append(event.data)
        self._size += len(event.data)
        if self._size > MOST_DOCUMENT:
            raise Closed(LOST, f"the server sent a document of more than {MOST_DOCUMENT} bytes")
        if event.message_finished:
            self._whole.append("".join(self._parts).encode())
            self._parts.clear()
            self._size = 0

    async def _agree(self, event: CloseConnection) -> None:
        """Answer the server's close."""
        with trio.move_on_after(GOODBYE):
            with contextlib.suppress(Closed):  # it has said all that it wanted
                await self._send(event.response())
        raise Closed(event.code, event.reason or "")

    async def close(self) -> None:
        with trio.move_on_after(GOODBYE):
            try:
                if not self._cut:
                    await self._send(CloseConnection(1000))
                    while True:
                        await self.receive()
            except Closed:
                pass


@asynccontextmanager
async def websocket_line(
    stream: trio.abc.Stream, host: str, target: str, headers: Sequence[tuple[bytes, bytes]] = ()
) -> AsyncIterator[WebSocketLine]:
    """Open a WebSocket on a stream of HTTP/1.1, which is closed at the end of the block.

    Args:
        stream: connected, and with nothing sent yet.
        host: and port, as in a `Host` header.
        target: path and query.
        headers: to send with the request.

    Raises:
        CannotReach: the server does not speak this.
        Refused: the server said no.

    """
    try:
        protocol = WSConnection(ConnectionType.CLIENT)
        request = Request(host, target, subprotocols=[V2], extra_headers=list(headers))
        try:
            await stream.send_all(protocol.send(request))
            accepted = await _answer(stream, protocol)
        except _ABNORMAL as error:
            raise CannotReach("the connection broke in the WebSocket handshake") from error
        except ProtocolError as error:
            raise CannotReach(f"the server does not speak WebSocket: {error}") from error
        if accepted.subprotocol != V2:
            raise CannotReach(f"the server does not speak {V2} over WebSocket")
        yield WebSocketLine(stream, protocol)
    finally:
        await trio.aclose_forcefully(stream)


async def _answer(stream: trio.abc.Stream, protocol: WSConnection) -> AcceptConnection:
    refused: RejectConnection | None = None
    body = b""
    while True:
        data = await stream.receive_some(_READ_SIZE)
        protocol.receive_data(bytes(data) or None)
        for event in protocol.events():
            match event:
                case AcceptConnection():
                    return event
                case RejectConnection():
                    refused = event
                case RejectData(data=more, body_finished=finished):
                    body += more[: _MOST_TEXT - len(body)]
                    if finished and refused is not None:
                        headers = [(bytes(name), bytes(value)) for name, value in refused.headers]
                        raise Refused.of(refused.status_code, headers, body.decode(errors="replace"))
        if not data:
            raise CannotReach("the server closed the connection in the WebSocket handshake")
