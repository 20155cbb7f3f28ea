"""A data folder whose records are elsewhere: fawad does not start, and removes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.daemon import PATIENCE, DaemonError, running
from tests.interop import expect
from tests.interop.grpcio_channel import channel_to
from tests.interop.target import Target
from tests.interop.test_grpcio_files import download, upload
from tests.redis_server import redis_server


@pytest.mark.parametrize("upgraded", [False, True])
def test_an_empty_redis_does_not_get_the_files_of_a_database(
    tmp_path: Path, file: Any, file_grpc: Any, *, upgraded: bool
) -> None:
    folder, data = tmp_path / "fawad", expect.content(100_000)
    with running(folder) as daemon, channel_to(Target(daemon.plain, None)) as channel:
        stub = file_grpc.FileServiceStub(channel)
        key = stub.SendFile(upload(file, "a.bin", data), timeout=PATIENCE).randomkey
    if upgraded:  # from a version that did not write down whose the files are
        (folder / "files" / "owner").unlink()
    with redis_server(tmp_path / "redis") as redis:
        refused = pytest.raises(DaemonError, match=r"'file' cannot start: \S+ has .*Set redis\.url as it was")
        with refused, running(folder, "--redis-url", redis.url):
            pass
    with running(folder) as daemon, channel_to(Target(daemon.plain, None)) as channel:
        assert download(file_grpc.FileServiceStub(channel), file, key) == ("a.bin", data)
    assert (folder / "files" / "owner").exists()
