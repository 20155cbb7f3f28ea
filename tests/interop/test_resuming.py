"""Interrupted uploads with grpcio at a real daemon: `kill -9`, two at once, and Connect's JSON."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import grpc  # type: ignore[import-untyped]
import pytest

from tests.daemon import PATIENCE, Daemon, running
from tests.interop import expect
from tests.interop.grpcio_channel import channel_to
from tests.interop.kept import eventually
from tests.interop.target import Target
from tests.interop.test_grpcio_files import download

Code = grpc.StatusCode

#: Uploads at once.
UPLOADERS = 3


@attrs.define
class Transfer:
    """A file on its way through as many lives of the daemon as it takes."""

    data: bytes
    upload_id: str
    #: Bytes that the daemon has said are stored.
    promised: int = 0
    #: Calls that have sent bytes of it.
    calls: int = 0
    key: str = ""


@attrs.define
class Fuse:
    """Kills the daemon when so many chunks are sent, and a moment later."""

    daemon: Daemon
    chunks_left: float
    #: Seconds.
    pause: float = 0.0
    burnt: threading.Event = attrs.field(factory=threading.Event)
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def burn(self) -> None:
        with self._lock:
            self.chunks_left -= 1
            last = self.chunks_left == 0
        if last:
            time.sleep(self.pause)
            self.burnt.set()
            self.daemon.kill()


@attrs.define
class Uploader:
    """Sends one file after the other, and goes on with what was broken off."""

    file: Any
    random: random.Random
    transfers: list[Transfer] = attrs.field(factory=list)

    def begin(self, stub: Any) -> Transfer:
        data = self.random.randbytes(self.random.choice([0, 1, 5_000, 300_000, 3_000_000]))
        known = {"size": len(data)} if self.random.random() < 0.7 else {}
        request = self.file.StartUploadRequest(name="a.bin", **known)
        transfer = Transfer(data, stub.StartUpload(request, timeout=PATIENCE).upload_id)
        self.transfers.append(transfer)
        return transfer

    def _chunks(self, transfer: Transfer, offset: int, fuse: Fuse) -> Iterator[Any]:
        transfer.calls += 1
        # Some calls end early and in good order.
        end = len(transfer.data)
        if self.random.random() < 0.3:
            end = self.random.randint(offset, end)
        info = self.file.FileInfo(
            upload_id=transfer.upload_id, offset=offset, complete=end == len(transfer.data)
        )
        yield self.file.SendFileRequest(info=info)
        for start in range(offset, end, 65_536):
            yield self.file.SendFileRequest(chunk_data=transfer.data[start : min(end, start + 65_536)])
            fuse.burn()

    def go_on(self, stub: Any, transfer: Transfer, fuse: Fuse) -> None:
        """Make one call after the other until the file is whole."""
        while not transfer.key:
            status = stub.GetUpload(
                self.file.GetUploadRequest(upload_id=transfer.upload_id), timeout=PATIENCE
            )
            assert transfer.promised <= status.offset <= len(transfer.data), "stored bytes are lost"
            if status.file.success:
                transfer.key = status.file.randomkey
                return
            answer = stub.SendFile(self._chunks(transfer, status.offset, fuse), timeout=PATIENCE)
            transfer.promised = answer.offset
            transfer.key = answer.randomkey
            assert not answer.success or answer.sha256.hex() == expect.sha256(transfer.data)

    def run(self, stub: Any, fuse: Fuse) -> None:
        """Go on until the daemon is killed."""
        try:
            for transfer in self.transfers:
                self.go_on(stub, transfer, fuse)
            while True:
                self.go_on(stub, self.begin(stub), fuse)
        except grpc.RpcError:
            if not fuse.burnt.is_set():
                raise


@contextlib.contextmanager
def stub_of(daemon: Daemon, file_grpc: Any) -> Iterator[Any]:
    with channel_to(Target(daemon.plain, None)) as channel:
        yield file_grpc.FileServiceStub(channel)


def stored(data_dir: Path, kind: str) -> list[Path]:
    return [path for path in (data_dir / "files" / kind).rglob("*") if path.is_file()]


def query(data_dir: Path, statement: str) -> list[Any]:
    database = sqlite3.connect(data_dir / "uploads.sqlite3", isolation_level=None)
    with contextlib.closing(database):
        return database.execute(statement).fetchall()


def test_killed_uploads_go_on(
    request: pytest.FixtureRequest, tmp_path: Path, seed: int, file: Any, file_grpc: Any
) -> None:
    chance = random.Random(seed)
    uploaders = [Uploader(file, random.Random(chance.getrandbits(32))) for _ in range(UPLOADERS)]
    for _ in range(2 * request.config.getoption("--kills")):
        with running(tmp_path) as daemon, stub_of(daemon, file_grpc) as stub:
            fuse = Fuse(daemon, chance.randrange(1, 100), chance.choice([0, 0.001, 0.003, 0.01, 0.03]))
            with ThreadPoolExecutor(UPLOADERS) as pool:
                for task in [pool.submit(uploader.run, stub, fuse) for uploader in uploaders]:
                    task.result()

    transfers = [transfer for uploader in uploaders for transfer in uploader.transfers]
    assert any(transfer.calls > 2 for transfer in transfers), f"seed {seed}: nothing was ever interrupted"
    with running(tmp_path) as daemon, stub_of(daemon, file_grpc) as stub:
        for uploader in uploaders:
            for transfer in uploader.transfers:
                uploader.go_on(stub, transfer, Fuse(daemon, float("inf")))
        for transfer in transfers:
            name, data = download(stub, file, transfer.key)
            assert (name, expect.sha256(data)) == ("a.bin", expect.sha256(transfer.data)), f"seed {seed}"

    # Each file is there once, and nothing else: no file twice, none that nobody knows of.
    assert {path.name for path in stored(tmp_path, "content")} == {transfer.key for transfer in transfers}
    # What is left are uploads whose id never reached anybody. Once they have expired they are swept.
    query(tmp_path, "UPDATE uploads SET expires = 1")
    with running(tmp_path, "--file-sweep-interval", "100ms"):
        eventually(lambda: not query(tmp_path, "SELECT id FROM uploads"), "the sweep of uploads")
    assert stored(tmp_path, "resumable") == stored(tmp_path, "uploads") == []
    assert list((tmp_path / "files" / "resumable").iterdir()) == []
    assert {path.name for path in stored(tmp_path, "content")} == {transfer.key for transfer in transfers}


def test_two_that_finish_at_once(plain: Target, file: Any, file_grpc: Any) -> None:
    with channel_to(plain) as one, channel_to(plain) as other:
        stubs = [file_grpc.FileServiceStub(channel) for channel in (one, other)]

        def finish(stub: Any, info: Any) -> tuple[Any, str]:
            try:
                answer = stub.SendFile(iter([file.SendFileRequest(info=info)]), timeout=PATIENCE)
            except grpc.RpcError as error:
                return error.code(), ""
            return Code.OK, answer.randomkey

        for number in range(20):
            data = expect.content(10_000, seed=number)
            upload_id = stubs[0].StartUpload(file.StartUploadRequest(name="a")).upload_id
            first = [
                file.SendFileRequest(info=file.FileInfo(upload_id=upload_id)),
                file.SendFileRequest(chunk_data=data),
            ]
            assert stubs[0].SendFile(iter(first), timeout=PATIENCE).offset == len(data)
            info = file.FileInfo(upload_id=upload_id, offset=len(data), complete=True)
            with ThreadPoolExecutor(2) as pool:
                ended = list(pool.map(finish, stubs, [info, info]))
            assert {code for code, _ in ended} == {Code.OK, Code.ABORTED}
            status = stubs[1].GetUpload(file.GetUploadRequest(upload_id=upload_id), timeout=PATIENCE)
            assert {key for code, key in ended if code is Code.OK} == {status.file.randomkey}
            assert download(stubs[0], file, status.file.randomkey)[1] == data


# Connect, as JSON


def ask(target: Target, method: str, message: Any) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{target.url}/file.v1.FileService/{method}",
        json.dumps(message).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def stream(target: Target, *messages: Any) -> list[Any]:
    """Call SendFile; returns its messages, the end of the stream last."""
    bodies = [json.dumps(message).encode() for message in messages]
    request = urllib.request.Request(
        f"{target.url}/file.v1.FileService/SendFile",
        b"".join(struct.pack(">BI", 0, len(body)) + body for body in bodies),
        {"content-type": "application/connect+json"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        rest = response.read()
    answers = []
    while rest:
        size = struct.unpack(">BI", rest[:5])[1]
        answers.append(json.loads(rest[5 : 5 + size]))
        rest = rest[5 + size :]
    return answers


def test_connect_json(plain: Target) -> None:
    status, begun = ask(plain, "StartUpload", {"name": "a.txt", "size": "6"})
    assert status == 200
    assert begun.keys() == {"uploadId", "expiresAt", "ownerToken"}
    upload = {"uploadId": begun["uploadId"]}

    (answer, end) = stream(plain, {"info": upload}, {"chunkData": "YWJj"})
    assert (answer["offset"], end) == ("3", {})
    status, told = ask(plain, "GetUpload", upload)
    assert (status, told["offset"], told["size"]) == (200, "3", "6")

    (end,) = stream(plain, {"info": upload | {"offset": "2"}}, {"chunkData": "eA=="})
    assert end["error"]["code"] == "failed_precondition"
    (detail,) = end["error"]["details"]
    assert (detail["type"], detail["debug"]) == ("file.v1.UploadOffset", {"offset": "3"})

    (answer, end) = stream(plain, {"info": upload | {"offset": "3"}}, {"chunkData": "ZGVm"})
    assert (answer["success"], answer["offset"], end) == (True, "6", {})
    assert ask(plain, "GetUpload", upload)[1]["file"] == answer

    status, begun = ask(plain, "StartUpload", {"name": "a.txt"})
    assert ask(plain, "CancelUpload", {"uploadId": begun["uploadId"]}) == (200, {})
    status, error = ask(plain, "GetUpload", {"uploadId": begun["uploadId"]})
    assert (status, error["code"]) == (404, "not_found")
