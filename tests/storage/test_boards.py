"""Copies of boards: the contract of `BoardStore`, and what the database is."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fawa.storage.base import NotFound, StorageError
from fawa.storage.boards import OVERHEAD, SqliteBoards, board_store
from fawa.storage.sqlite import metadata_store

HUGE = 1 << 50


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "boards.sqlite3"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteBoards]:
    async with board_store(path) as store:
        yield store


async def kept(store: SqliteBoards, *codes: str) -> str:
    """Return those of the codes that have a copy."""
    found = ""
    for code in codes:
        try:
            await store.get(code, 0.0)
        except NotFound:
            continue
        found += code
    return found


class TestContract:
    async def test_a_copy_is_kept_and_replaced(self, store: SqliteBoards) -> None:
        await store.put("ABC123", b"one", 100.0)
        await store.put("ABC124", bytes(range(256)) * 1000, 100.0)
        assert await store.get("ABC123", 99.9) == b"one"
        assert await store.get("ABC124", 0.0) == bytes(range(256)) * 1000
        await store.put("ABC123", b"", 200.0)
        assert await store.get("ABC123", 199.0) == b""

    async def test_there_may_be_none(self, store: SqliteBoards) -> None:
        await store.put("ABC123", b"one", 100.0)
        for code, now in [("ABC124", 0.0), ("abc123", 0.0), ("ABC123", 100.0), ("*", 0.0)]:
            with pytest.raises(NotFound, match="no copy"):
                await store.get(code, now)

    async def test_one_is_deleted(self, store: SqliteBoards) -> None:
        await store.put("a", b"one", 100.0)
        await store.put("b", b"two", 100.0)
        await store.delete("a")
        await store.delete("a")
        assert await kept(store, "a", "b") == "b"

    async def test_what_has_expired_is_swept(self, store: SqliteBoards) -> None:
        for number, code in enumerate("abcd"):
            await store.put(code, b"x", 100.0 + number)
        assert await store.sweep(101.0, HUGE) == 2
        assert await kept(store, *"abcd") == "cd"
        assert await store.sweep(101.0, HUGE) == 0

    async def test_what_is_too_much_goes_by_expiry(self, store: SqliteBoards) -> None:
        each = 1000 + OVERHEAD
        for code, expires in [("a", 104), ("b", 101), ("c", 103), ("d", 102)]:
            await store.put(code, bytes(1000), expires)
        assert await store.sweep(0.0, 4 * each) == 0
        assert await store.sweep(0.0, 4 * each - 1) == 1
        assert await kept(store, *"abcd") == "acd"
        await store.put("d", b"", 102)
        assert await store.sweep(0.0, 2 * each + OVERHEAD) == 0, "what was replaced counts no more"
        assert await store.sweep(0.0, each) == 2
        assert await kept(store, *"abcd") == "a"
        assert await store.sweep(0.0, 0) == 1

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
