"""The S3 store over `rclone serve s3`: the contract, and what happens when the service fails."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fawa.storage.s3 import content_store
from tests.s3_server import S3Server, new_bucket, rclone
from tests.storage.contract import ContentOpener, ContentStoreContract


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with rclone(tmp_path_factory.mktemp("rclone") / "buckets") as server:
        yield server


@pytest.fixture(params=[8 * 1024 * 1024, 600_000], ids=["put at once", "in parts"])
def part(request: pytest.FixtureRequest) -> int:
    """Bytes of a part: rclone takes smaller ones than others do."""
    size: int = request.param
    return size


class TestContract(ContentStoreContract):
    @pytest.fixture
    def opener(self, server: S3Server, part: int) -> ContentOpener:
        bucket = new_bucket()
        return lambda: content_store(server.settings(bucket, part=part))
