"""The servers that several modules test over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.redis_server import RedisServer, redis_server
from tests.s3_server import S3Server, ceph, rclone


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with rclone(tmp_path_factory.mktemp("rclone") / "buckets") as server:
        yield server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[S3Server]:
    """A service that the test may kill."""
    with rclone(tmp_path / "buckets") as server:
        yield server


@pytest.fixture(scope="session")
def ceph_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with ceph(tmp_path_factory.mktemp("ceph")) as server:
        yield server


@pytest.fixture(scope="module", params=["redis", "valkey"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis"), name=request.param) as server:
        yield server


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    """A Redis or Valkey that several tests share, empty at the beginning of each."""
    assert shared.ask("FLUSHALL") == b"+OK\r\n"
    return shared
