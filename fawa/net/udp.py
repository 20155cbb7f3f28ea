"""UDP sockets on trio: datagrams come and go in batches."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final, Protocol

import trio

Address = tuple[str, int] | tuple[str, int, int, int]
#: A datagram, and where it came from or is to go.
Datagram = tuple[bytes, Address]

#: Datagrams taken from a socket before what they bring is looked at.
BATCH: Final = 64
#: Octets of the largest datagram that is received.
_LARGEST: Final = 65535
#: Wanted in the kernel for what cannot be read or sent at once; it may give less.
WANTED_BUFFER: Final = 4 * 1024 * 1024
#: Generic segmentation offload (Linux, udp(7)): one call sends a run of datagrams of one size.
_UDP_SEGMENT: Final = 103
_MOST_SEGMENTS: Final = 64
#: What one call may send: the largest datagram, less the headers of IP and UDP.
_MOST_AT_ONCE: Final = 65_000
#: Linux: never fragment (RFC 9000 section 14), as IP_MTU_DISCOVER of ip(7) and IPV6_MTU_DISCOVER of ipv6(7).
_DO_NOT_FRAGMENT: Final = {
    socket.AF_INET: (socket.IPPROTO_IP, 10, 2),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 23, 2),
}


class DatagramSocket(Protocol):
    """Where datagrams come and go; tests have a network in memory."""

    async def receive(self) -> Sequence[Datagram]:
        """Wait for datagrams and return those that are there, at most `BATCH` or so."""

    def send(self, datagrams: Sequence[Datagram]) -> None:
        """Send without waiting; what cannot leave now is lost, as datagrams may be."""

    def close(self) -> None:
        """Close it."""


class UdpSocket:
    """A bound UDP socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._raw = sock
        self._sock = trio.socket.from_stdlib_socket(sock)
        #: Datagrams that the kernel had no room for.
        self.dropped = 0
        self._segments = hasattr(socket, "SO_INCOMING_CPU")  # Linux; the first failure says the rest

    @property
    def address(self) -> str:
        """The address it is bound to, as `host:port`."""
        host, port = self._raw.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def receive(self) -> list[Datagram]:
        """Wait for datagrams and return those that are there."""
        await trio.lowlevel.wait_readable(self._raw)
        found: list[Datagram] = []
        receive = self._raw.recvfrom
        try:
            for _ in range(BATCH):
                found.append(receive(_LARGEST))
        except BlockingIOError:
            pass
        except OSError:
            # What ICMP said of a datagram that was sent before (a port that nobody listens on).
            pass
        return found

    def send(self, datagrams: Sequence[Datagram]) -> None:
        """Send without waiting; runs of one size to one address leave in one call."""
        if len(datagrams) == 1 or not self._segments:
            for data, address in datagrams:
                self._send_one(data, address)
            return
        for address, run in itertools.groupby(datagrams, lambda datagram: datagram[1]):
            self._send_run([data for data, _ in run], address)

    def _send_run(self, run: list[bytes], address: Address) -> None:
        start = 0
        while start < len(run):
            size = len(run[start])
            end, total = start + 1, size
            # All of one size, but for the last, which may be shorter.
            while end < len(run) and end - start < _MOST_SEGMENTS and total + len(run[end]) <= _MOST_AT_ONCE:
                if len(run[end]) > size or len(run[end - 1]) < size:
                    break
                total += len(run[end])
                end += 1
            if end - start == 1:
                self._send_one(run[start], address)
            else:
                self._send_segments(run[start:end], size, address)
            start = end

    def _send_segments(self, run: list[bytes], size: int, address: Address) -> None:
        if self._segments:
            control = [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", size))]
            try:
                self._raw.sendmsg(run, control, 0, address)
            except BlockingIOError:
                self.dropped += len(run)
                return
            except OSError as error:
                # The kernel, or the device that the route goes by, cannot.
                if error.errno not in {errno.EINVAL, errno.EIO, errno.EOPNOTSUPP, errno.ENOPROTOOPT}:
                    self.dropped += len(run)
                    return
                self._segments = False
            else:
                return
        for data in run:
            self._send_one(data, address)

    def _send_one(self, data: bytes, address: Address) -> None:
        try:
            self._raw.sendto(data, address)
        except OSError:
            self.dropped += 1  # full, or no route; QUIC sends again what matters

    def close(self) -> None:
        """Close it."""
        self._sock.close()


class ConnectedUdp(UdpSocket):
    """A UDP socket with one peer, of which it learns that nobody listens there."""

    def __init__(self, sock: socket.socket, peer: Address) -> None:
        super().__init__(sock)
        self._peer = peer
        self._refused = False

    async def receive(self) -> list[Datagram]:
        """Wait for datagrams and return those that are there.

        Raises:
            ConnectionRefusedError: nobody listens at the peer's port.

        """
        if self._refused:
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.wait_readable(self._raw)
        found: list[Datagram] = []
        try:
            for _ in range(BATCH):
                found.append((self._raw.recv(_LARGEST), self._peer))
        except BlockingIOError:
            pass
        except ConnectionRefusedError:
            self._refused = True
        except OSError:
            pass  # something else that ICMP said: no route for now, say
        if self._refused and not found:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        return found

    def _send_one(self, data: bytes, address: Address) -> None:
        # Without an address: some systems allow none where the socket is connected.
        try:
            self._raw.send(data)
        except ConnectionRefusedError:
            self._refused = True  # what was sent before has found nobody
        except OSError:
            self.dropped += 1


def open_udp(address: Address) -> ConnectedUdp:
    """Open a UDP socket to a peer's address, which is one that `getaddrinfo` gave.

    Raises:
        OSError: the address cannot be reached.

    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        _set_up(sock, family)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return ConnectedUdp(sock, address)


def _set_up(sock: socket.socket, family: socket.AddressFamily) -> None:
    sock.setblocking(False)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, WANTED_BUFFER)
    with contextlib.suppress(OSError):
        sock.setsockopt(*_DO_NOT_FRAGMENT[family])


def bind_udp(host: str, port: int) -> UdpSocket:
    """Bind an address, which is one that `getsockname` gave, and `port`.

    Raises:
        OSError: the port is in use, or not allowed; the text says which.

    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        _set_up(sock, family)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise OSError(
            error.errno,
            f"cannot listen on {host}:{port} (UDP, for QUIC): {error.strerror}; "
            "free the port, or set quic.enabled to off",
        ) from error
    return UdpSocket(sock)
