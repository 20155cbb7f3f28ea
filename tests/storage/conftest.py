"""The S3 services that several modules test over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.s3_server import S3Server, ceph, rclone


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with rclone(tmp_path_factory.mktemp("rclone") / "buckets") as server:
        yield server


@pytest.fixture(scope="session")
def ceph_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with ceph(tmp_path_factory.mktemp("ceph")) as server:
        yield server
