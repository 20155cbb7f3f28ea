"""Copies of boards: the contract of `BoardStore`, and what the database is."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fawa.storage.base import StorageError
from fawa.storage.boards import SqliteBoards, board_store
from fawa.storage.sqlite import metadata_store
from tests.storage.contract import BoardStoreContract


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "boards.sqlite3"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteBoards]:
    async with board_store(path) as store:
        yield store


class TestContract(BoardStoreContract):
    async def test_it_outlives_the_process(self, path: Path) -> None:
        async with board_store(path) as store:
            await store.put("ABC123", b"one", 100.0)
        async with board_store(path) as store:
            assert await store.get("ABC123", 0.0) == b"one"


class TestFile:
    async def test_nobody_else_can_read_it(self, store: SqliteBoards, path: Path) -> None:
        await store.put("ABC123", b"one", 100.0)
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}

    async def test_a_copy_need_not_wait_for_the_disk(self, store: SqliteBoards) -> None:
        assert store._connection.execute("PRAGMA synchronous").fetchone() == (1,)  # NORMAL
        assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    async def test_a_sweep_reads_no_copies(self, store: SqliteBoards) -> None:
        from fawa.storage import boards

        for statement, value in [(boards._EXPIRE, 0.0), (boards._TRIM, 0)]:
            plan = store._connection.execute(f"EXPLAIN QUERY PLAN {statement}", (value,)).fetchall()
            scans = [row[3] for row in plan if "boards" in row[3] and "autoindex" not in row[3]]
            assert all("boards_by_expires" in scan for scan in scans), plan

    async def test_it_is_no_database_of_files(self, path: Path) -> None:
        async with board_store(path):
            pass
        with pytest.raises(StorageError, match="another program"):
            async with metadata_store(path):
                pass

    async def test_a_database_that_is_locked(self, store: SqliteBoards, path: Path) -> None:
        store._connection.execute("PRAGMA busy_timeout = 10")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked"):
            await store.put("ABC123", b"one", 100.0)
        other.execute("ROLLBACK")
        other.close()
        await store.put("ABC123", b"one", 100.0)
