"""File content on its way to a socket, without blocking the event loop."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

import trio

#: Bytes read at once where sendfile(2) cannot be used.
PIECE = 256 * 1024
#: Bytes given to one sendfile(2) call.
_SENDFILE_MOST = 16 * 1024 * 1024


async def read_pieces(file: BinaryIO, offset: int, count: int) -> AsyncIterator[bytes]:
    """Iterate over `count` bytes of `file` from `offset`; reads happen in a thread.

    Raises:
        EOFError: the file ends before.

    """
    while count:
        piece = await trio.to_thread.run_sync(os.pread, file.fileno(), min(PIECE, count), offset)
        if not piece:
            raise EOFError(f"the file ends at {offset}, {count} bytes early")
        offset += len(piece)
        count -= len(piece)
        yield piece


@contextmanager
def only_full_packets(sock: trio.socket.SocketType) -> Iterator[None]:
    """Have the kernel send only full packets in the block, and the rest at its end (tcp(7), TCP_CORK).

    sendfile(2) hands the content on in pieces of 64 KiB. Where the packets are as large, as on one host, or
    are made from such by the network card, a piece would leave as a packet and a tiny one behind it.
    """
    _cork(sock, True)
    try:
        yield
    finally:
        _cork(sock, False)


def _cork(sock: trio.socket.SocketType, on: bool) -> None:
    if hasattr(socket, "TCP_CORK"):
        with suppress(OSError):  # the connection is broken, and whoever sends next is told
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, on)


async def send_some(sock: trio.socket.SocketType, file: BinaryIO, offset: int, count: int) -> int:
    """Send as much as the socket takes now by sendfile(2), waiting until it takes something.

    The call runs in a thread because the file's pages may have to come from a disk.

    Raises:
        OSError: the connection is broken.
        EOFError: the file ends before `offset + count`.

    """

    def send() -> int:
        try:
            return os.sendfile(sock.fileno(), file.fileno(), offset, min(count, _SENDFILE_MOST))
        except BlockingIOError:
            return -1

    while (sent := await trio.to_thread.run_sync(send)) < 0:
        await trio.lowlevel.wait_writable(sock.fileno())
    if sent == 0:
        raise EOFError(f"the file ends at {offset}, {count} bytes early")
    return sent
