"""The whiteboard on `websockets`, with its own `broadcast()`, which never waits; on uvloop."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from contextlib import suppress

import uvloop
from ready import tell_ready
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed
from whiteboard import Boards

boards: Boards[ServerConnection] = Boards()


async def handle(client: ServerConnection) -> None:
    """Serve one client until it is gone."""
    assert client.request is not None
    board = boards[client.request.path]
    history = board.join(client)
    try:
        with suppress(ConnectionClosed):
            if history is not None:
                await client.send(history, text=True)
            async for message in client:
                event = board.take(client, message)
                if event is not None:
                    broadcast(board.clients, event, text=True)
    finally:
        boards.leave(client.request.path, client)


async def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    silent = logging.Logger("silent", logging.CRITICAL)
    # No pings, as a run is shorter than their interval; no compression, which the load client does not offer.
    async with serve(handle, sock=listener, compression=None, ping_interval=None, logger=silent):
        tell_ready(listener.getsockname()[1])
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await stop.wait()


if __name__ == "__main__":
    uvloop.run(main())
