"""Sends a prepared upload over HTTP/2 as gRPC clients do, without `content-length`, at next to no cost.

h2load declares the length of every body, which gRPC clients cannot know, and a server may treat such requests
in another way. Here the frames stand ready in a file, and sendfile(2) moves them as far as the server's flow
control allows (RFC 9113 section 5.2).
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from load import LoadError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE = 4
#: Octets of a DATA frame's payload, and of the frame.
PAYLOAD = 16384
FRAME = 9 + PAYLOAD
STREAM = 1


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Encode a frame (RFC 9113 section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def frames(buffer: bytearray) -> Iterator[tuple[int, int, int, bytes]]:
    """Take whole frames from the front of `buffer`: type, flags, stream, payload."""
    while len(buffer) >= 9:
        end = 9 + int.from_bytes(buffer[:3], "big")
        if len(buffer) < end:
            return
        yield buffer[3], buffer[4], int.from_bytes(buffer[5:9], "big"), bytes(buffer[9:end])
        del buffer[:end]


def write_frames(body: Path, path: Path) -> None:
    """Write the DATA frames of a body; each but the last is full."""
    size = body.stat().st_size
    with body.open("rb") as source, path.open("wb") as target:
        while payload := source.read(PAYLOAD):
            size -= len(payload)
            target.write(frame(DATA, 0 if size else END_STREAM, STREAM, payload))


def head(path: str, authority: str) -> bytes:
    """Encode the head of a gRPC request: literals that enter no table (RFC 7541 section 6.2.2)."""
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]
    return b"".join(
        bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in fields
    )


def replay(address: str, path: str, prepared: Path) -> tuple[float, float]:
    """Send the frames in `prepared` as the body of one call; return its seconds, and our CPU seconds.

    Raises:
        LoadError: the answer has not one message and `grpc-status: 0`.

    """
    host, _, port = address.partition(":")
    with prepared.open("rb") as file, socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started, cpu = time.perf_counter(), time.process_time()
        call = Replay(connection, file.fileno(), prepared.stat().st_size)
        connection.sendall(
            PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, STREAM, head(path, address))
        )
        connection.setblocking(False)
        while not call.ended:
            call.turn()
        if call.body[:1] != b"\0" or b"grpc-status" in call.head:
            raise LoadError(f"the upload was answered {call.head!r} {bytes(call.body)!r}")
        return time.perf_counter() - started, time.process_time() - cpu


class Replay:
    """One upload under way."""

    def __init__(self, connection: socket.socket, file: int, size: int) -> None:
        self.ended = False
        self.head = b""
        self.body = bytearray()
        self._connection = connection
        self._file = file
        self._size = size
        self._offset = 0
        self._input = bytearray()
        #: Frames that answer the server's.
        self._control = bytearray()
        #: What the server lets us send: on the stream, on the connection.
        self._stream_window = self._connection_window = self._initial = 65535
        #: File offset up to which frames have been paid for.
        self._paid = 0

    def turn(self) -> None:
        """Wait, then read what has come, and send what may go."""
        self._pay()
        wants = [self._connection] if self._offset < self._paid or self._control else []
        readable, writable, _ = select.select([self._connection], wants, [], 60)
        if not readable and not writable:
            raise LoadError("the server took nothing for 60 seconds")
        if readable:
            received = self._connection.recv(65536)
            if not received:
                raise LoadError("the server closed the connection")
            self._input += received
            for kind, flags, stream, payload in frames(self._input):
                self._act(kind, flags, stream, payload)
        if writable:
            self._send()

    def _send(self) -> None:
        """Send what the socket takes; answers go between two frames."""
        between = -self._offset % FRAME if self._offset < self._size else 0
        if self._control and not between:
            del self._control[: self._connection.send(self._control)]
        elif self._offset < self._paid:
            count = min(between, self._size - self._offset) if self._control else self._paid - self._offset
            self._offset += os.sendfile(self._connection.fileno(), self._file, self._offset, count)

    def _pay(self) -> None:
        """Spend window on whole frames."""
        while self._paid < self._size:
            end = min(self._paid + FRAME, self._size)
            cost = end - self._paid - 9
            if cost > min(self._stream_window, self._connection_window):
                return
            self._stream_window -= cost
            self._connection_window -= cost
            self._paid = end

    def _act(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            increment = int.from_bytes(payload, "big")
            if stream:
                self._stream_window += increment
            else:
                self._connection_window += increment
        elif kind == SETTINGS and not flags & ACK:
            for start in range(0, len(payload), 6):
                if int.from_bytes(payload[start : start + 2], "big") == INITIAL_WINDOW_SIZE:
                    value = int.from_bytes(payload[start + 2 : start + 6], "big")
                    self._stream_window += value - self._initial
                    self._initial = value
            self._control += frame(SETTINGS, ACK, 0)
        elif kind == PING and not flags & ACK:
            self._control += frame(PING, ACK, 0, payload)
        elif kind == DATA:
            self.body += payload
            self.ended = bool(flags & END_STREAM)
        elif kind == HEADERS:
            self.head = self.head or payload
            self.ended = bool(flags & END_STREAM)
        elif kind in (RST_STREAM, GOAWAY):
            raise LoadError(f"the server ended the call: frame {kind} with {payload!r}")
