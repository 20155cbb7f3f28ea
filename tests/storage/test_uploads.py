"""Records of uploads in SQLite, by the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from fawa.storage.uploads import upload_store
from tests.storage.contract_resumable import UploadsOpener, UploadStoreContract


class TestContract(UploadStoreContract):
    @pytest.fixture
    def opener(self, tmp_path: Path) -> UploadsOpener:
        return lambda: upload_store(tmp_path / "uploads.sqlite3")
