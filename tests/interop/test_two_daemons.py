"""Daemons that share a folder and Redis: an upload goes on at another one."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]

from tests.daemon import PATIENCE, running
from tests.interop import expect
from tests.interop.grpcio_channel import channel_to
from tests.interop.target import Target
from tests.interop.test_grpcio_files import download
from tests.redis_server import redis_server


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
