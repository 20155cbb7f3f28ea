"""`kill -9` of Redis while files are sent through it: what was acknowledged is whole, the rest can go on."""

from __future__ import annotations

import contextlib
import functools
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import grpc  # type: ignore[import-untyped]
import pytest

from tests.daemon import PATIENCE, running
from tests.interop import expect
from tests.interop.grpcio_channel import channel_to
from tests.interop.target import Target
from tests.interop.test_grpcio_files import download
from tests.redis_server import redis_server

T = TypeVar("T")

#: Uploads at once.
UPLOADERS = 3


def test_killed_during_uploads(
    request: pytest.FixtureRequest, tmp_path: Path, seed: int, file: Any, file_grpc: Any
) -> None:
    chance = random.Random(seed)
    done = threading.Event()
    acknowledged: dict[str, str] = {}
    sent: set[str] = set()
    broken: list[Any] = []

    def send(stub: Any, seed: int) -> None:
        own = random.Random(seed)
        while not done.is_set():
            data = own.randbytes(own.choice([0, 1, 5_000, 300_000]))
            sent.add(digest := expect.sha256(data))
            info = file.SendFileRequest(info=file.FileInfo(name="a.bin", size=len(data)))
            try:
                answer = stub.SendFile(iter([info, file.SendFileRequest(chunk_data=data)]), timeout=PATIENCE)
            except grpc.RpcError as error:
                broken.append(error.code())
            else:
                acknowledged[answer.randomkey] = digest

    with redis_server(tmp_path / "redis") as server:
        flags = ["--redis-url", server.url]
        with (
            running(tmp_path / "data", *flags) as daemon,
            channel_to(Target(daemon.plain, None)) as channel,
            ThreadPoolExecutor(UPLOADERS) as pool,
        ):
            stub = file_grpc.FileServiceStub(channel)
            tasks = [pool.submit(send, stub, chance.getrandbits(32)) for _ in range(UPLOADERS)]
            try:
                for _ in range(request.config.getoption("--kills")):
                    done.wait(chance.uniform(0, 0.2))
                    server.kill()
                    done.wait(chance.choice([0, 0, 0.1, 0.5]))
                    server.start()
            finally:
                done.set()
            for task in tasks:
                task.result()
        # Started anew, it repairs what the kills left.
        with running(tmp_path / "data", *flags) as daemon:
            with channel_to(Target(daemon.plain, None)) as channel:
                stub = file_grpc.FileServiceStub(channel)
                for key, digest in acknowledged.items():
                    name, data = download(stub, file, key)
                    assert (name, expect.sha256(data)) == ("a.bin", digest)
            contents = {
                p.name: p for p in (tmp_path / "data" / "files" / "content").rglob("*") if p.is_file()
            }
            recorded = {
                key.decode()
                for first in "abcdefghijklmnopqrstuvwxyz234567"
                for key in re.findall(
                    rb"\r\n([a-z2-7]{16})(?=\r\n)",
                    server.ask("ZRANGEBYLEX", "{fawa.files}:keys", f"[{first}", f"({first}~"),
                )
            }
            assert contents.keys() == recorded >= acknowledged.keys()
            assert {expect.sha256(path.read_bytes()) for path in contents.values()} <= sent
    assert acknowledged, f"seed {seed}: no upload ever ended well"
    assert set(broken) <= {grpc.StatusCode.UNAVAILABLE}


def test_interrupted_uploads_go_on(
    request: pytest.FixtureRequest, tmp_path: Path, seed: int, file: Any, file_grpc: Any
) -> None:
    chance = random.Random(seed)
    done = threading.Event()
    whole: dict[str, str] = {}

    def unless_away(call: Callable[[], T]) -> T | None:
        try:
            return call()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return None

    def insist(call: Callable[[], T]) -> T:
        while (answer := unless_away(call)) is None:
            time.sleep(0.01)
        return answer

    def send_one(stub: Any, own: random.Random) -> None:
        data = own.randbytes(own.choice([0, 1, 5_000, 300_000, 1_000_000]))
        start = file.StartUploadRequest(name="a.bin", size=len(data))
        upload_id = insist(lambda: stub.StartUpload(start, timeout=PATIENCE)).upload_id
        status = file.GetUploadRequest(upload_id=upload_id)
        promised = 0
        while True:
            progress = insist(lambda: stub.GetUpload(status, timeout=PATIENCE))
            assert promised <= progress.offset <= len(data), "stored bytes are lost"
            if progress.file.success:
                break
            offset = progress.offset
            end = own.choice([len(data), own.randint(offset, len(data))])
            info = file.FileInfo(upload_id=upload_id, offset=offset)
            messages = [file.SendFileRequest(info=info)]
            messages += [
                file.SendFileRequest(chunk_data=data[at : min(end, at + 65_536)])
                for at in range(offset, end, 65_536)
            ]
            answer = unless_away(functools.partial(stub.SendFile, iter(messages), timeout=PATIENCE))
            promised = promised if answer is None else answer.offset
        assert progress.file.sha256.hex() == expect.sha256(data)
        whole[progress.file.randomkey] = expect.sha256(data)

    def send(stub: Any, seed: int) -> None:
        own = random.Random(seed)
        while not done.is_set():
            send_one(stub, own)

    with redis_server(tmp_path / "redis") as server:
        flags = ["--redis-url", server.url]
        with (
            running(tmp_path / "data", *flags) as daemon,
            channel_to(Target(daemon.plain, None)) as channel,
            ThreadPoolExecutor(UPLOADERS) as pool,
        ):
            stub = file_grpc.FileServiceStub(channel)
            tasks = [pool.submit(send, stub, chance.getrandbits(32)) for _ in range(UPLOADERS)]
            try:
                for _ in range(request.config.getoption("--kills")):
                    done.wait(chance.uniform(0, 0.2))
                    server.kill()
                    done.wait(chance.choice([0, 0, 0.1, 0.5]))
                    server.start()
            finally:
                done.set()
            for task in tasks:
                task.result()
            for key, digest in whole.items():
                name, data = download(stub, file, key)
                assert (name, expect.sha256(data)) == ("a.bin", digest)
        assert not (tmp_path / "data" / "uploads.sqlite3").exists(), "records are in Redis alone"
    assert whole, f"seed {seed}: no upload ended"
    left = [p for p in (tmp_path / "data" / "files" / "resumable").rglob("*") if p.is_file()]
    assert not left, "every upload became a file"


def test_an_upload_goes_on_at_another_daemon(tmp_path: Path, file: Any, file_grpc: Any) -> None:
    data = random.Random(1).randbytes(300_000)
    with redis_server(tmp_path / "redis") as server, contextlib.ExitStack() as stack:
        daemons = [stack.enter_context(running(tmp_path / "data", "--redis-url", server.url)) for _ in "ab"]
        one, other = (
            file_grpc.FileServiceStub(stack.enter_context(channel_to(Target(daemon.plain, None))))
            for daemon in daemons
        )
        upload_id = one.StartUpload(file.StartUploadRequest(name="a.bin", size=len(data))).upload_id
        status = file.GetUploadRequest(upload_id=upload_id)
        hung_up = threading.Event()

        def first_half() -> Iterator[Any]:
            yield file.SendFileRequest(info=file.FileInfo(upload_id=upload_id))
            yield file.SendFileRequest(chunk_data=data[:100_000])
            hung_up.wait(PATIENCE)
            yield file.SendFileRequest(chunk_data=b"from one who knows not that it is over")

        hanging = one.SendFile.future(first_half(), timeout=PATIENCE)
        began = time.monotonic()
        while not list((tmp_path / "data" / "files" / "resumable").glob("*/1")):
            assert time.monotonic() < began + PATIENCE, "the first writer never came"
            time.sleep(0.01)
        # Whoever asks ends the other's call; until then what it sent may be on its way.
        offset = other.GetUpload(status, timeout=PATIENCE).offset
        info = file.FileInfo(upload_id=upload_id, offset=offset)
        rest = [file.SendFileRequest(info=info), file.SendFileRequest(chunk_data=data[offset:])]
        answer = other.SendFile(iter(rest), timeout=PATIENCE)
        hung_up.set()
        assert answer.sha256.hex() == expect.sha256(data)
        assert hanging.code() is grpc.StatusCode.ABORTED
        assert download(one, file, answer.randomkey) == ("a.bin", data)
        assert one.GetUpload(status, timeout=PATIENCE).file.randomkey == answer.randomkey
