"""What the file benches send: content that cannot be stored sparsely, and the clients that move it."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import grpc  # type: ignore[import-untyped]
from load import LoadError, frame

from fawa.proto.file.v1.file_pb2 import (
    FileInfo,
    GetDownloadURLRequest,
    GetDownloadURLResponse,
    ReceiveFileRequest,
    ReceiveFileResponse,
    SendFileRequest,
    SendFileResponse,
)

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SEND = "/file.v1.FileService/SendFile"
RECEIVE = "/file.v1.FileService/ReceiveFile"
LINK = "/file.v1.FileService/GetDownloadURL"
NAME = "bench.bin"


def blocks(size: int) -> Iterator[bytes]:
    """Make `size` bytes (whole MiB) in blocks of 1 MiB: random bytes, each block stamped with its number."""
    noise = random.Random(1).randbytes(MIB - 8)
    for number in range(size // MIB):
        yield struct.pack(">Q", number) + noise


def digest(size: int) -> bytes:
    """Return the SHA-256 of `size` bytes of content."""
    whole = hashlib.sha256()
    for block in blocks(size):
        whole.update(block)
    return whole.digest()


def requests(size: int, chunk: int) -> Iterator[SendFileRequest]:
    """Make the messages of an upload; `chunk` divides 1 MiB."""
    yield SendFileRequest(info=FileInfo(name=NAME, size=size))
    for block in blocks(size):
        for start in range(0, MIB, chunk):
            yield SendFileRequest(chunk_data=block[start : start + chunk])


def write_content(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.writelines(blocks(size))


def write_upload(path: Path, size: int, chunk: int) -> None:
    """Write the whole body of an upload over gRPC, ready to be replayed."""
    with path.open("wb") as file:
        file.writelines(frame(request) for request in requests(size, chunk))


@attrs.frozen
class FileClient:
    """grpcio's synchronous client of the file service."""

    channel: grpc.Channel

    def send(self, size: int, chunk: int = MIB) -> str:
        """Upload `size` bytes of content; return the key."""
        call = self.channel.stream_unary(
            SEND,
            request_serializer=SendFileRequest.SerializeToString,
            response_deserializer=SendFileResponse.FromString,
        )
        response: SendFileResponse = call(requests(size, chunk), timeout=600)
        if not response.success:
            raise LoadError(f"the upload was refused: {response.message}")
        return response.randomkey

    def receive(self, key: str, size: int, *metadata: tuple[str, str]) -> bytes:
        """Download it, keep nothing, check its length, return its SHA-256."""
        call = self.channel.unary_stream(
            RECEIVE,
            request_serializer=ReceiveFileRequest.SerializeToString,
            response_deserializer=ReceiveFileResponse.FromString,
        )
        whole = hashlib.sha256()
        received = 0
        for response in call(ReceiveFileRequest(randomkey=key), timeout=600, metadata=metadata):
            whole.update(response.chunk_data)
            received += len(response.chunk_data)
        if received != size:
            raise LoadError(f"the download of {size} bytes had {received}")
        return whole.digest()

    def link(self, key: str) -> str:
        """Return a signed link."""
        call = self.channel.unary_unary(
            LINK,
            request_serializer=GetDownloadURLRequest.SerializeToString,
            response_deserializer=GetDownloadURLResponse.FromString,
        )
        response: GetDownloadURLResponse = call(GetDownloadURLRequest(randomkey=key), timeout=10)
        return response.url


def discard(url: str) -> int:
    """Get a link over HTTP/1.1 and let the kernel discard the body uncopied; return its length.

    The cheapest client there is (recv with MSG_TRUNC, see tcp(7)), so that it is the server that is measured.
    """
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or 80)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nhost: {parts.netloc}\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            received = connection.recv(4096)
            head += received
            if not received or len(head) > 64 * KIB:
                raise LoadError(f"{url} was answered without a response head: {head[:200]!r}")
        head, _, body = head.partition(b"\r\n\r\n")
        status, *fields = head.lower().split(b"\r\n")
        if not status.startswith(b"http/1.1 200 "):
            raise LoadError(f"{url} was answered {status!r}")
        length = next(
            int(value)
            for name, _, value in (field.partition(b":") for field in fields)
            if name == b"content-length"
        )
        left = length - len(body)
        buffer = bytearray(8 * MIB)
        while left:
            count = connection.recv_into(buffer, min(left, len(buffer)), socket.MSG_TRUNC)
            if not count:
                raise LoadError(f"{url} ended {left} bytes early")
            left -= count
    return length
