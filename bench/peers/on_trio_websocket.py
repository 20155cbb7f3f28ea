"""The whiteboard on trio-websocket as its users write it: a loop that sends to one client after another.

A lock around the loop gives all clients one order of events.
"""

from __future__ import annotations

import logging
from contextlib import suppress

import trio
from ready import tell_ready
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket
from whiteboard import Boards

boards: Boards[WebSocketConnection] = Boards()
order = trio.Lock()


async def handle(request: WebSocketRequest) -> None:
    """Serve one client until it is gone."""
    client = await request.accept()
    board = boards[request.path]
    async with order:
        history = board.join(client)
        if history is not None:
            await send(client, history.decode())
    try:
        with suppress(ConnectionClosed):
            while True:
                message = await client.get_message()
                async with order:
                    event = board.take(client, message)
                    if event is not None:
                        text = event.decode()  # it sends a str as text, bytes as binary
                        for other in tuple(board.clients):
                            await send(other, text)
    finally:
        boards.leave(request.path, client)


async def send(client: WebSocketConnection, text: str) -> None:
    """Send to a client that may have gone; its own task takes it off the board."""
    with suppress(ConnectionClosed):
        await client.send_message(text)


async def main() -> None:
    logging.getLogger("trio-websocket").setLevel(logging.CRITICAL)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, handle, "127.0.0.1", 0, None)
        tell_ready(server.port)


if __name__ == "__main__":
    trio.run(main)
