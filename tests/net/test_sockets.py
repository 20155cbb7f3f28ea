"""The stream under a plain connection: a read that waits first, a write that never waits."""

from __future__ import annotations

import socket

import pytest
import trio

from fawa.net.files import only_full_packets
from fawa.net.sockets import PlainStream


def pair() -> tuple[PlainStream, PlainStream]:
    one, two = trio.socket.socketpair()
    return PlainStream(trio.SocketStream(one)), PlainStream(trio.SocketStream(two))


async def test_bytes_go_both_ways_and_end() -> None:
    one, two = pair()
    async with one, two:
        assert one.send_now(b"at once") == 7
        assert await two.receive_some() == b"at once"
        await two.send_all(bytearray(b"in time"))
        assert await one.receive_some(2) == b"in"
        assert await one.receive_some(100) == b" time"
        await one.send_eof()
        assert await two.receive_some(100) == b""


async def test_a_full_socket_takes_no_more_at_once() -> None:
    one, two = pair()
    async with one, two:
        sent = 0
        while size := one.send_now(memoryview(bytes(100_000))):
            sent += size
        received = 0
        while received < sent:
            received += len(await two.receive_some(100_000))
        await one.wait_send_all_might_not_block()
        assert one.send_now(b"again") == 5


async def tcp_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        near = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        return near, await listener.accept()


async def test_the_kernel_takes_more_at_once_where_content_is_large() -> None:
    near, far = await tcp_pair()
    async with PlainStream(near) as stream, far:

        def unsent_most() -> object:
            return near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)

        assert stream.send_now(bytes(1000)) == 1000
        assert unsent_most() == 16 * 1024
        assert stream.send_now(bytes(200_000))
        assert unsent_most() == 512 * 1024


async def test_the_kernel_waits_for_full_packets_only_while_a_file_is_sent() -> None:
    near, far = await tcp_pair()
    async with near, far:

        def corked() -> object:
            return near.getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK)

        with only_full_packets(near.socket):
            assert corked() == 1
        assert corked() == 0
        with pytest.raises(EOFError), only_full_packets(near.socket):
            raise EOFError
        assert corked() == 0
        with only_full_packets(near.socket):
            near.socket.close()


async def test_a_false_alarm_is_waited_out() -> None:
    """Two streams on one socket: both are told of bytes that only one of them can have."""
    inner, far = trio.socket.socketpair()
    twin = trio.socket.from_stdlib_socket(socket.socket(fileno=socket.dup(inner.fileno())))
    readers = [PlainStream(trio.SocketStream(inner)), PlainStream(trio.SocketStream(twin))]
    got: list[bytes] = []

    async def read(reader: PlainStream) -> None:
        got.append(bytes(await reader.receive_some(100)))

    async with trio.SocketStream(far), readers[0], readers[1], trio.open_nursery() as nursery:
        for reader in readers:
            nursery.start_soon(read, reader)
        await trio.testing.wait_all_tasks_blocked()
        await far.send(b"one")
        while not got:
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        assert got == [b"one"]
        await far.send(b"two")
    assert got == [b"one", b"two"]


async def test_a_broken_connection_says_so() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    near = await trio.open_tcp_stream(*listener.getsockname())
    far, _ = listener.accept()
    listener.close()
    async with PlainStream(near) as stream:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        far.close()  # with RST
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some(100)
        with pytest.raises(trio.BrokenResourceError):
            stream.send_now(b"into the void")
