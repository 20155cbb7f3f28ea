"""What the whiteboard peers share: wire v1 of `protocols/whiteboard.md`, as plain as a handler can have it.

The sender's client_id is stamped on an event, the newest 1,000 are kept, and everybody is sent the event. It
is decoded and encoded once, by msgspec as in fawad, so that what differs between servers is how they send.
"""

from __future__ import annotations

import secrets
import string
from collections import deque
from typing import Generic, TypeVar

import msgspec

HISTORY = 1000
_ALPHABET = string.ascii_uppercase + string.digits


class DrawEvent(msgspec.Struct):
    """What happened on a board."""

    type: str
    color: str = ""
    size: int = 0
    prev_x: int = 0
    prev_y: int = 0
    curr_x: int = 0
    curr_y: int = 0
    client_id: str = ""
    time: int = 0


class Draw(msgspec.Struct):
    """A message with one event, the same in both directions."""

    draw_event: DrawEvent


_decoder = msgspec.json.Decoder(Draw)
_encode = msgspec.json.Encoder().encode
Client = TypeVar("Client")


class Board(Generic[Client]):
    """Who is on a board, and its newest events."""

    def __init__(self) -> None:
        #: Everybody who is here, and what the board calls them.
        self.clients: dict[Client, str] = {}
        self._history: deque[DrawEvent] = deque(maxlen=HISTORY)

    def join(self, client: Client) -> bytes | None:
        """Add a client; return the message that it is sent first, `None` when there is no history."""
        self.clients[client] = "".join(secrets.choice(_ALPHABET) for _ in range(8))
        return _encode({"initial_history": {"events": list(self._history)}}) if self._history else None

    def take(self, client: Client, message: str | bytes) -> bytes | None:
        """Take a client's message; return the one that everybody is sent, `None` for a ping."""
        draw = _decoder.decode(message)
        event = draw.draw_event
        if event.type == "ping":
            return None
        event.client_id = self.clients[client]
        if event.type == "clear":
            self._history.clear()
        self._history.append(event)
        return _encode(draw)


class Boards(dict[str, Board[Client]]):
    """Boards by their address; one that nobody has asked for before is made."""

    def __missing__(self, address: str) -> Board[Client]:
        board = self[address] = Board()
        return board

    def leave(self, address: str, client: Client) -> None:
        """Take a client off a board, which goes with its last one."""
        clients = self[address].clients
        del clients[client]
        if not clients:
            del self[address]
