"""A TCP stream with two shortcuts for a busy server: a read that expects to wait, a write that does not."""

from __future__ import annotations

import os

import trio


class PlainStream(trio.abc.HalfCloseableStream):
    """A `trio.SocketStream` that serves one connection.

    `trio.SocketStream.receive_some` first tries to read; a server that has just answered would nearly always
    try in vain, so this one waits first. `send_now` sends without a checkpoint.
    """

    def __init__(self, inner: trio.SocketStream) -> None:
        self.socket = inner.socket
        self._inner = inner
        self._fd = inner.socket.fileno()

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
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        await self._inner.aclose()
