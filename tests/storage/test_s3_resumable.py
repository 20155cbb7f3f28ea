"""Interrupted uploads in S3 over `rclone serve s3`: the contract, and what lies in the bucket."""

from __future__ import annotations

import pytest

from fawa.storage.s3 import content_store
from tests.s3_server import S3Server, new_bucket
from tests.storage.contract_resumable import ResumableOpener, ResumableStoreContract
from tests.storage.test_s3 import MIB, PART


@pytest.fixture(params=[8 * MIB, PART], ids=["in the state", "in pieces"])
def part(request: pytest.FixtureRequest) -> int:
    size: int = request.param
    return size


class TestContract(ResumableStoreContract):
    @pytest.fixture
    def opener(self, rclone_server: S3Server, part: int) -> ResumableOpener:
        place = rclone_server.settings(new_bucket(), part=part)
        return lambda: content_store(place)
