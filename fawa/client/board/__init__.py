"""Whiteboards: join one, draw, and see what others draw, over WebTransport or WebSocket.

    code = await create_board("http://127.0.0.1:8080")
    async with join_board("http://127.0.0.1:8080", code, name="Ada") as board:
        await board.draw([(10, 10), (200, 120)], color="#e91e63")

From the outside in: `join` dials, `reach` chooses the transport, `websocket` and `webtransport` carry
documents, `board` keeps the connection, `session` is the conversation and `documents` its words, both pure.
"""

from fawa.board.events import DrawEvent
from fawa.client.board.board import Board, BoardOver
from fawa.client.board.documents import (
    Cursors,
    Event,
    Person,
    Presence,
    Rejected,
    Snapshot,
    Status,
    Stroke,
)
from fawa.client.board.join import create_board, join_board

__all__ = [
    "Board",
    "BoardOver",
    "Cursors",
    "DrawEvent",
    "Event",
    "Person",
    "Presence",
    "Rejected",
    "Snapshot",
    "Status",
    "Stroke",
    "create_board",
    "join_board",
]
