"""One client of a board over its WebSocket."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final

import attrs

from fawa.board.tape import Batch
from fawa.board.wire_v1 import WireV1
from fawa.board.wire_v2 import WireV2, encode_drain
from fawa.net.websocket import WebSocket, WebSocketLimits, text_frame
from fawa.rooms.room import RESTARTING, Room
from fawa.services.canva_client import RETRY_AFTER, V2, Client, End, SocketSettings, converse

#: Close codes.
_NOT_TEXT: Final = 1003
_LOST: Final = 1006

_WIRE_V1: Final = WireV1(text_frame)
_WIRE_V2: Final = WireV2(text_frame)


def limits_of(settings: SocketSettings) -> WebSocketLimits:
    """Return the limits of a client's WebSocket."""
    return WebSocketLimits(max_message=settings.max_message)


@attrs.define(eq=False)
class _SocketClient(Client):
    """A client at a WebSocket."""

    socket: WebSocket = attrs.field(kw_only=True)

    @property
    def is_flushed(self) -> bool:
        return self.socket.is_flushed

    def push(self, batch: Batch) -> bool:
        return self.socket.send_now(batch.data)

    @property
    def ping_interval(self) -> float:
        return limits_of(self.settings).ping_interval

    async def receive(self) -> bytes | None:
        message = await self.socket.receive()
        if isinstance(message, str):
            return message.encode()
        if message is not None:
            raise End(_NOT_TEXT, "messages are text, and a binary one came")
        if self.socket.draining and self.socket.is_open:
            raise End(RESTARTING, "the server restarts")
        return None

    async def say(self, document: bytes) -> None:
        self.socket.push(text_frame(document))
        await self.socket.drain()


async def serve_socket(
    socket: WebSocket, find: Callable[[], Awaitable[Room]], settings: SocketSettings
) -> None:
    """Serve a client from the opening handshake to the closing one.

    Args:
        socket: of the client; its subprotocol says which wire it speaks.
        find: returns the board.
        settings: what the client may take.

    Raises:
        Disconnected: the client is gone.

    """
    speaks_v2 = socket.subprotocol == V2
    client = _SocketClient(_WIRE_V2 if speaks_v2 else _WIRE_V1, settings, socket=socket)
    end: End | None = None
    try:
        end = await converse(client, find)
        if end is not None:
            if end.code == RESTARTING and speaks_v2:
                # Jitter, not a secret.
                socket.push(text_frame(encode_drain(random.randint(*RETRY_AFTER))))  # noqa: S311
            await socket.close(end.code, end.reason)
    finally:
        code = socket.close_code or _LOST if end is None else end.code
        socket.exchange.label = f"websocket-{'v2' if speaks_v2 else 'v1'} {code}"
