"""`kill -9` of Redis while files are sent through it: what was acknowledged is whole, the rest is gone."""

from __future__ import annotations

import random
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest

from tests.daemon import PATIENCE, running
from tests.interop import expect
from tests.interop.grpcio_channel import channel_to
from tests.interop.target import Target
from tests.interop.test_grpcio_files import download
from tests.redis_server import redis_server

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
