"""Uploads that must be refused, in each dialect: the right status, and nothing of them is kept."""

from __future__ import annotations

import attrs
import pytest

from fawa.proto.file.v1.file_pb2 import (
    FileInfo,
    ReceiveFileRequest,
    ReceiveFileResponse,
    SendFileRequest,
    SendFileResponse,
)
from tests.daemon import Daemon
from tests.interop import expect, wire
from tests.interop.kept import Kept, eventually
from tests.interop.target import Target
from tests.interop.wire import Answer, Dialect


def info(name: str, size: int) -> SendFileRequest:
    return SendFileRequest(info=FileInfo(name=name, size=size))


def chunk(data: bytes) -> SendFileRequest:
    return SendFileRequest(chunk_data=data)


NAMES = {
    "empty": "",
    "blank": "   ",
    "dots": "..",
    "up": "../a.txt",
    "up in the middle": "a/../../b.txt",
    "up with backslashes": "a\\..\\b.txt",
    "absolute": "/etc/passwd",
    "absolute on Windows": "C:\\Windows\\a.txt",
    "a share": "\\\\server\\a.txt",
    "a folder": "folder/",
    "NUL": "a\0b.txt",
    "a line": "a\r\nb.txt",
    "escape": "a\x1b[31m.txt",
    "5,000 characters": "x" * 5_000,
    "right to left": "photo\u202egpj.exe",
    "right-to-left mark": "a\u200fb.txt",
    "isolate": "a\u2067b.txt",
}

UPLOADS = {
    "nothing": [],
    "no info": [chunk(b"abc")],
    "late info": [chunk(b"abc"), info("a.txt", 3)],
    "no payload": [SendFileRequest()],
    "info twice": [info("a.txt", 6), chunk(b"abc"), info("a.txt", 6), chunk(b"abc")],
    "no payload in between": [info("a.txt", 6), chunk(b"abc"), SendFileRequest(), chunk(b"abc")],
    "size too small": [info("a.txt", 5), chunk(b"abc"), chunk(b"abc")],
    "size too large": [info("a.txt", 7), chunk(b"abc"), chunk(b"abc")],
    "size 0 and a chunk": [info("a.txt", 0), chunk(b"a")],
    "negative size": [info("a.txt", -1), chunk(b"abc")],
}


@attrs.frozen
class Uploader:
    """Sends files in one dialect to a daemon whose storage must be as it was."""

    daemon: Daemon
    target: Target
    dialect: Dialect

    def send(self, *requests: SendFileRequest, finish: bool = True) -> Answer:
        body = b"".join(map(self.dialect.encode, requests))
        return self.dialect.send(self.target, expect.SEND_FILE, body, finish=finish)


@pytest.fixture(params=wire.STREAMING, ids=str)
def uploader(request: pytest.FixtureRequest, daemon: Daemon, plain: Target) -> Uploader:
    return Uploader(daemon, plain, request.param)


def check_refused(uploader: Uploader, answer: Answer, before: Kept, code: str) -> None:
    assert answer.code == code
    assert answer.message
    assert answer.payloads == []
    assert Kept.of(uploader.daemon.data_dir) == before


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names(uploader: Uploader, name: str) -> None:
    before = Kept.of(uploader.daemon.data_dir)
    check_refused(uploader, uploader.send(info(name, 3), chunk(b"abc")), before, "invalid_argument")


@pytest.mark.parametrize("requests", UPLOADS.values(), ids=UPLOADS)
def test_uploads(uploader: Uploader, requests: list[SendFileRequest]) -> None:
    before = Kept.of(uploader.daemon.data_dir)
    check_refused(uploader, uploader.send(*requests), before, "invalid_argument")


def test_more_than_any_disk_has(uploader: Uploader) -> None:
    before = Kept.of(uploader.daemon.data_dir)
    answer = uploader.send(info("a.txt", 2**63 - 1), chunk(b"abc"))
    check_refused(uploader, answer, before, "resource_exhausted")


def test_a_chunk_beyond_the_cap(uploader: Uploader) -> None:
    before = Kept.of(uploader.daemon.data_dir)
    size = expect.MAX_MESSAGE + 1
    answer = uploader.send(info("a.bin", 3 + size), chunk(b"abc"), chunk(bytes(size)))
    check_refused(uploader, answer, before, "resource_exhausted")


def test_garbage_after_a_good_beginning(uploader: Uploader) -> None:
    before = Kept.of(uploader.daemon.data_dir)
    dialect = uploader.dialect
    good = dialect.encode(info("a.bin", 6)) + dialect.encode(chunk(b"abc"))
    for body, code in [
        (good + dialect.pack(b"\xff\xff\xff\xff"), "invalid_argument"),
        (good + dialect.encode(chunk(b"abc"))[:-1], dialect.fault),
        (good + b"\0\0", dialect.fault),
    ]:
        answer = dialect.send(uploader.target, expect.SEND_FILE, body)
        check_refused(uploader, answer, before, code)


def test_a_name_that_is_no_utf8(uploader: Uploader) -> None:
    before = Kept.of(uploader.daemon.data_dir)
    dialect = uploader.dialect
    # info { name: "\xff\xfe" }
    bad = b'{"info":{"name":"\xff\xfe","size":"0"}}' if dialect.json else b"\n\x04\n\x02\xff\xfe"
    answer = dialect.send(uploader.target, expect.SEND_FILE, dialect.pack(bad))
    check_refused(uploader, answer, before, "invalid_argument")


@pytest.mark.parametrize("dialect", wire.STREAMING, ids=str)
def test_a_connection_that_breaks_off(daemon: Daemon, target: Target, dialect: Dialect) -> None:
    """Half a file, then nothing: the server forgets it as soon as the connection is gone."""
    before = Kept.of(daemon.data_dir)
    data = expect.content(2_000_000)
    body = b"".join(map(dialect.encode, [info("half.bin", 2 * len(data)), chunk(data)]))
    with wire.left_open(dialect, target, expect.SEND_FILE, body):
        eventually(lambda: Kept.of(daemon.data_dir) != before, "the upload has begun")
    eventually(lambda: Kept.of(daemon.data_dir) == before, "the broken upload is gone")


@wire.streaming
def test_good_files_still_go_there_and_back(target: Target, dialect: Dialect) -> None:
    data = expect.content(200_003)
    pieces = [data[start : start + 50_000] for start in range(0, len(data), 50_000)]
    body = b"".join(map(dialect.encode, [info("photos/cat.jpg", len(data)), *map(chunk, pieces)]))
    sent = dialect.send(target, expect.SEND_FILE, body)
    assert (sent.code, sent.message) == ("ok", "")
    key = dialect.decode(sent.payloads[0], SendFileResponse).randomkey
    got = dialect.send(target, expect.RECEIVE_FILE, dialect.encode(ReceiveFileRequest(randomkey=key)))
    first, *rest = [dialect.decode(payload, ReceiveFileResponse) for payload in got.payloads]
    assert (first.filename, first.file_size) == ("photos/cat.jpg", len(data))
    assert b"".join(message.chunk_data for message in rest) == data
