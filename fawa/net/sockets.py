"""A TCP stream with two shortcuts for a busy server: a read that expects to wait, a write that does not."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

import trio

#: Bytes sent at once from which a connection counts as one that carries large content.
_LARGE = 128 * 1024
#: Bytes not yet sent up to which the kernel then takes more.
_UNSENT_MOST = 512 * 1024


class PlainStream(trio.abc.HalfCloseableStream):
    """A `trio.SocketStream` that serves one connection.

    `trio.SocketStream.receive_some` first tries to read; a server that has just answered would nearly always
    try in vain, so this one waits first. `send_now` sends without a checkpoint.
    """

    def __init__(self, inner: trio.SocketStream) -> None:
        self.socket = inner.socket
        self._inner = inner
        self._fd = inner.socket.fileno()
        self._carries_large = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what has been received, `b""` at the end of input.

        Raises:
            trio.BrokenResourceError: the connection is broken.

        """
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            try:
                return os.read(self._fd, max_bytes or 65536)
            except BlockingIOError:
                continue  # another network stack's false alarm, see select(2), "Bugs"
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error

    def send_now(self, data: bytes | memoryview) -> int:
        """Send what the socket takes at once; return how many bytes that was.

        Only while nobody is in `send_all`.

        Raises:
            trio.BrokenResourceError: the connection is broken.

        """
        if not self._carries_large and len(data) >= _LARGE:
            self._expect_large()
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error

    def _expect_large(self) -> None:
        """Let the kernel take more at once than trio has it, which is for short messages.

        trio has it take no more while 16 KiB wait to be sent (tcp(7), TCP_NOTSENT_LOWAT), so that data waits
        where it can still be changed. A megabyte then leaves in many small writes whenever the peer's window
        is the limit, and each of them wakes the peer.
        """
        self._carries_large = True
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            with suppress(OSError):  # the connection is broken, and the write will tell
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_MOST)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        await self._inner.aclose()
