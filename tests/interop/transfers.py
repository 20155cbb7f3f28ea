"""Clients that bring files to fawad and fetch them by each way there is, and insist when it breaks.

A file is named after the way that it came. A client knows nothing but what it was told: it has a file once
its upload was acknowledged, or is told so by the status of one that goes on; it sends anew, or asks for, what
is missing.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import urlsplit

import attrs
import grpc  # type: ignore[import-untyped]

from tests.daemon import PATIENCE
from tests.interop.expect import sha256
from tests.interop.grpcio_channel import channel_to
from tests.interop.rig import Rig
from tests.interop.target import Target

T = TypeVar("T")

#: Bytes of files: none, few, a piece, several.
SIZES = (0, 1, 5_000, 300_000, 1_500_000)
#: Files that are there before all else, long ones: half of the downloads are of these.
FIRST = 4
PIECE = 65_536

_TUS = {"tus-resumable": "1.0.0"}


@attrs.define
class Book:
    """What all clients of a run know together."""

    #: SHA-256 by key, of files that were acknowledged.
    acknowledged: dict[str, str] = attrs.field(factory=dict)
    #: SHA-256 of all that was sent, whole or in part.
    sent: set[str] = attrs.field(factory=set)
    #: How often bytes moved and then it broke, and transfers that went on to their end, by the way they went.
    broken: dict[str, int] = attrs.field(factory=dict)
    resumed: dict[str, int] = attrs.field(factory=dict)
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def note(self, kept: dict[str, int], way: str) -> None:
        with self._lock:
            kept[way] = kept.get(way, 0) + 1

    def begin(self, data: bytes) -> str:
        digest = sha256(data)
        with self._lock:
            self.sent.add(digest)
        return digest

    def acknowledge(self, key: str, digest: str) -> None:
        with self._lock:
            assert self.acknowledged.setdefault(key, digest) == digest, "two files under one key"

    def any(self, chance: random.Random) -> tuple[str, str]:
        """Return the key and SHA-256 of a file that is there."""
        with self._lock:
            known = list(self.acknowledged.items())
        return chance.choice(chance.choice([known[:FIRST], known]))


@attrs.define
class Client:
    """One client, which does one thing after the other."""

    rig: Rig
    book: Book
    #: The messages of `file.v1`, and its stubs.
    file: Any
    file_grpc: Any
    random: random.Random
    sizes: tuple[int, ...] = SIZES
    _lines: contextlib.ExitStack = attrs.field(factory=contextlib.ExitStack)
    _stub: tuple[str, Any] = ("", None)
    #: Pieces that were sent and received.
    _moved: int = 0

    def close(self) -> None:
        self._lines.close()

    # How to ask

    @property
    def stub(self) -> Any:
        """Calls to the fawad that runs now."""
        address = self.rig.address
        if self._stub[0] != address:
            self._lines.close()
            channel = self._lines.enter_context(channel_to(Target(address, None)))
            self._stub = address, self.file_grpc.FileServiceStub(channel)
        return self._stub[1]

    def ask(
        self, method: str, path: str, headers: dict[str, str], body: Iterator[bytes] | None = None
    ) -> tuple[http.client.HTTPMessage, bytes] | None:
        """Make a request; returns `None` if fawad, or what it stands on, is away."""
        connection = http.client.HTTPConnection(self.rig.address, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            got = answer.read()
        if answer.status == 503:
            return None
        assert answer.status < 300, (method, path, answer.status, got)
        return answer.headers, got

    def attempt(self, way: str, call: Callable[[], T | None]) -> T | None:
        """Return what `call` does, `None` when something is away; every other failure is one of fawad."""
        before = self._moved
        try:
            answer = call()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            answer = None
        except TimeoutError:
            raise  # nothing may hang, whatever is away
        except (OSError, http.client.HTTPException):
            answer = None
        if answer is None:
            if self._moved > before:
                self.book.note(self.book.broken, way)
            time.sleep(0.01)
        return answer

    def insist(self, way: str, call: Callable[[], T | None]) -> T:
        """Return what `call` does once nothing is away any more."""
        began = time.monotonic()
        while (answer := self.attempt(way, call)) is None:
            assert time.monotonic() < began + 2 * PATIENCE, f"{way}: it never came back"
        return answer

    def _burn(self) -> None:
        self._moved += 1
        self.rig.fuse.burn()

    def _data(self) -> bytes:
        return self.random.randbytes(self.random.choice(self.sizes))

    def _pieces(self, data: bytes, start: int = 0) -> Iterator[bytes]:
        for at in range(start, len(data), PIECE):
            yield data[at : at + PIECE]
            self._burn()

    def _end(self, data: bytes, offset: int) -> int:
        """Return how far to send: some end early and in good order."""
        return self.random.choice([len(data), self.random.randint(offset, len(data))])

    def _messages(self, info: Any, data: bytes, offset: int = 0) -> Iterator[Any]:
        yield self.file.SendFileRequest(info=info)
        for piece in self._pieces(data, offset):
            yield self.file.SendFileRequest(chunk_data=piece)

    def _end_of(self, way: str, broken: int) -> None:
        if broken:
            self.book.note(self.book.resumed, way)

    # Uploads that are lost when they break

    def send(self, size: int | None = None) -> None:
        """Send a file in one call."""
        data = self._data() if size is None else self.random.randbytes(size)
        digest = self.book.begin(data)
        info = self.file.FileInfo(name="send", size=len(data))
        call = lambda: self.stub.SendFile(self._messages(info, data), timeout=PATIENCE)  # noqa: E731
        if (answer := self.attempt("send", call)) is not None:
            assert answer.sha256.hex() == digest
            self.book.acknowledge(answer.randomkey, digest)

    def put(self) -> None:
        """Put a file, as `curl --upload-file` does."""
        data = self._data()
        digest = self.book.begin(data)
        headers = {"content-length": str(len(data))}
        answer = self.attempt("put", lambda: self.ask("PUT", "/put", headers, self._pieces(data)))
        if answer is not None:
            self.book.acknowledge(answer[0]["fawa-key"], digest)

    # Uploads that go on

    def resume(self) -> None:
        """Send a file in as many calls as it takes."""
        data = self._data()
        digest = self.book.begin(data)
        size = {"size": len(data)} if self.random.random() < 0.7 else {}
        start = self.file.StartUploadRequest(name="resume", **size)
        upload_id = self.insist("resume", lambda: self.stub.StartUpload(start, timeout=PATIENCE)).upload_id
        status = self.file.GetUploadRequest(upload_id=upload_id)
        promised, broken = 0, 0
        while True:
            progress = self.insist("resume", lambda: self.stub.GetUpload(status, timeout=PATIENCE))
            assert promised <= progress.offset <= len(data), "stored bytes are lost"
            if progress.file.success:
                break
            offset = progress.offset
            end = self._end(data, offset)
            info = self.file.FileInfo(upload_id=upload_id, offset=offset, complete=end == len(data))
            messages = self._messages(info, data[:end], offset)
            answer = self.attempt(
                "resume",
                lambda messages=messages: self.stub.SendFile(messages, timeout=PATIENCE),  # type: ignore[misc]
            )
            promised = promised if answer is None else answer.offset
            broken += answer is None
        assert progress.file.sha256.hex() == digest
        self._end_of("resume", broken)
        self.book.acknowledge(progress.file.randomkey, digest)

    def abandon(self) -> None:
        """Begin an upload, and never come back."""
        data = self.random.randbytes(PIECE)
        start = self.file.StartUploadRequest(name="resume", size=2 * PIECE)
        upload_id = self.insist("resume", lambda: self.stub.StartUpload(start, timeout=PATIENCE)).upload_id
        messages = self._messages(self.file.FileInfo(upload_id=upload_id), data)
        self.stub.SendFile(messages, timeout=PATIENCE)

    def tus(self) -> None:
        """Send a file by tus, in as many requests as it takes."""
        data = self._data()
        digest = self.book.begin(data)
        begin = {**_TUS, "upload-length": str(len(data)), "upload-metadata": "filename dHVz"}
        told, _ = self.insist("tus", lambda: self.ask("POST", "/uploads", begin))
        path = urlsplit(told["location"]).path
        promised, broken = 0, 0
        while True:
            told, _ = self.insist("tus", lambda: self.ask("HEAD", path, _TUS))
            offset = int(told["upload-offset"])
            assert promised <= offset <= len(data), "stored bytes are lost"
            if "fawa-key" in told:
                break
            end = self._end(data, offset)
            headers = {
                **_TUS,
                "content-type": "application/offset+octet-stream",
                "upload-offset": str(offset),
                "content-length": str(end - offset),
            }
            pieces = self._pieces(data[:end], offset)
            patch = lambda h=headers, p=pieces: self.ask("PATCH", path, h, p)  # noqa: E731
            if (answer := self.attempt("tus", patch)) is not None:
                promised = int(answer[0]["upload-offset"])
            broken += answer is None
        self._end_of("tus", broken)
        self.book.acknowledge(told["fawa-key"], digest)

    # Downloads

    def receive(self) -> None:
        """Receive a file in as many calls as it takes."""
        key, digest = self.book.any(self.random)
        got = bytearray()
        size: int | None = None
        broken = 0
        while size is None:
            request = self.file.ReceiveFileRequest(randomkey=key, offset=len(got))
            size = self.attempt("receive", lambda request=request: self._receive(request, got))  # type: ignore[misc]
            broken += size is None and bool(got)
        self._end_of("receive", broken)
        assert sha256(bytes(got)) == digest

    def _receive(self, request: Any, got: bytearray) -> int:
        size: int | None = None
        for message in self.stub.ReceiveFile(request, timeout=PATIENCE):
            if message.WhichOneof("payload") == "file_size":
                size = message.file_size
            else:
                got += message.chunk_data
                self._burn()
        assert size is not None
        assert len(got) == size, "the call ended well, and too early"
        return size

    def link(self) -> None:
        """Fetch a file by links, from where the one before broke off."""
        key, digest = self.book.any(self.random)
        got = bytearray()
        request = self.file.GetDownloadURLRequest(randomkey=key)
        broken = 0
        while True:
            url = self.insist("link", lambda: self.stub.GetDownloadURL(request, timeout=PATIENCE)).url
            if self.attempt("link", lambda url=url: self._fetch("/" + url.split("/", 3)[3], got)):  # type: ignore[misc]
                break
            broken += bool(got)
        self._end_of("link", broken)
        assert sha256(bytes(got)) == digest

    def _fetch(self, path: str, got: bytearray) -> bool | None:
        connection = http.client.HTTPConnection(self.rig.address, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"range": f"bytes={len(got)}-"} if got else {})
            answer = connection.getresponse()
            if answer.status == 503:
                return None
            if answer.status == 416:  # the connection broke with the last byte
                return True
            assert answer.status == (206 if got else 200), (answer.status, answer.read())
            length = int(answer.headers["content-length"])
            while piece := answer.read1(PIECE):
                got += piece
                length -= len(piece)
                self._burn()
        if length:
            raise http.client.IncompleteRead(bytes(got), length)
        return True

    def check(self, key: str) -> tuple[str, str]:
        """Return name and SHA-256 of what fawad serves under a key."""
        request = self.file.ReceiveFileRequest(randomkey=key)
        answers = self.insist("check", lambda: list(self.stub.ReceiveFile(request, timeout=PATIENCE)))
        return answers[0].filename, sha256(b"".join(message.chunk_data for message in answers))


#: Ways of the transfers, and those that a daemon's death only interrupts.
WAYS = ("send", "put", "receive", "link", "resume", "tus")
RESUMABLE = ("resume", "tus")
