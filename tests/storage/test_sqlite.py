"""The database of records, beyond the contract: what the file is, and what happens when it cannot be used."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from fawa.storage import database, sqlite
from fawa.storage.base import NotFound, OutOfSpace, StorageError
from fawa.storage.sqlite import SqliteStore, metadata_store
from tests.storage.contract import KEY, MetadataOpener, MetadataStoreContract, list_keys, make_record
from tests.storage.disk import Disk, file_size_limit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "files.sqlite3"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    async with metadata_store(path) as store:
        yield store


async def opening_fails(path: Path) -> str:
    with pytest.raises(StorageError) as caught:
        async with metadata_store(path):
            pass
    text = str(caught.value)
    assert str(path) in text
    return text


class TestContract(MetadataStoreContract):
    @pytest.fixture
    def opener(self, path: Path) -> MetadataOpener:
        return lambda: metadata_store(path)


class TestFile:
    async def test_nobody_else_can_read_it(self, store: SqliteStore, path: Path) -> None:
        await store.add(make_record())
        files = sorted(path.parent.iterdir())
        assert [file.name for file in files] == [path.name, f"{path.name}-shm", f"{path.name}-wal"]
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    async def test_nothing_remains_open(self, path: Path) -> None:
        async with metadata_store(path) as store:
            await store.add(make_record())
        # The last connection takes the journal back in and removes it.
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    async def test_it_says_whose_it_is_and_of_which_version(self, store: SqliteStore, path: Path) -> None:
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA application_id").fetchone() == (0x66617761,)
            assert connection.execute("PRAGMA user_version").fetchone() == (len(sqlite.MIGRATIONS),)
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        connection.close()

    async def test_changes_are_synced_and_download_counts_are_not(self, store: SqliteStore) -> None:
        synced = store._connection.execute("PRAGMA synchronous").fetchone()
        assert synced == (2,)  # FULL
        await store.add(make_record())
        statements: list[str] = []
        store._connection.set_trace_callback(statements.append)
        await store.publish(KEY)
        await store.count_download(KEY)
        store._connection.set_trace_callback(None)
        assert [" ".join(text.split()[:4]) for text in statements] == [
            "UPDATE files SET state",
            "PRAGMA synchronous = NORMAL",
            "UPDATE files SET downloads",
            "PRAGMA synchronous = FULL",
        ]

    async def test_expiry_is_found_by_an_index(self, store: SqliteStore) -> None:
        plan = store._connection.execute(f"EXPLAIN QUERY PLAN {sqlite._EXPIRED}", (0.0, 1)).fetchall()
        assert [row[3] for row in plan] == ["SEARCH files USING COVERING INDEX files_by_expires (expires<?)"]

    async def test_two_processes_can_share_it(self, store: SqliteStore, path: Path) -> None:
        async with metadata_store(path) as other:
            await store.add(make_record())
            assert await other.get(KEY) == make_record()
            await other.delete(KEY)
            assert await list_keys(store) == []

    def test_processes_that_make_it_at_once(self, path: Path) -> None:
        program = (
            "import sys, trio, pathlib\n"
            "from fawa.storage.sqlite import metadata_store\n"
            "async def main():\n"
            "    print('ready', flush=True); sys.stdin.read()\n"
            "    async with metadata_store(pathlib.Path(sys.argv[1])) as store:\n"
            "        await store.delete('x')\n"
            "trio.run(main)\n"
        )
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(4)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
            process.stdin = None
        assert [process.communicate()[1] for process in processes] == [""] * 4
        assert [process.returncode for process in processes] == [0] * 4


class TestMigrations:
    async def test_an_older_database_is_brought_up_to_date(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with metadata_store(path) as store:
            await store.add(make_record())
        monkeypatch.setattr(
            sqlite,
            "MIGRATIONS",
            (*sqlite.MIGRATIONS, ("CREATE TABLE extra (a)", "INSERT INTO extra VALUES (1)")),
        )
        for _ in range(2):
            async with metadata_store(path) as store:
                assert await store.get(KEY) == make_record()
                assert store._connection.execute("SELECT * FROM extra").fetchall() == [(1,)]

    async def test_records_of_the_first_version_have_no_terms(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(sqlite, "MIGRATIONS", sqlite.MIGRATIONS[:1])
            async with metadata_store(path) as store:
                store._connection.execute(
                    "INSERT INTO files VALUES (?, 'a.txt', 3, 'text/plain', ?, 1000, 2500, 7, 'ready')",
                    (KEY, make_record().sha256),
                )
        async with metadata_store(path) as store:
            assert await store.get(KEY) == make_record(downloads=7)
            assert await store.room_taken(0.0) == 3

    async def test_a_migration_that_fails_leaves_all_as_it_was(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with metadata_store(path) as store:
            await store.add(make_record())
        with monkeypatch.context() as patch:
            patch.setattr(
                sqlite, "MIGRATIONS", (*sqlite.MIGRATIONS, ("DROP TABLE files", "SELECT no FROM no"))
            )
            assert "no such table: no" in await opening_fails(path)
        async with metadata_store(path) as store:
            assert await store.get(KEY) == make_record()

    async def test_a_database_of_a_newer_version_is_left_alone(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(sqlite, "MIGRATIONS", (*sqlite.MIGRATIONS, ("CREATE TABLE extra (a)",)))
            async with metadata_store(path):
                pass
        known = len(sqlite.MIGRATIONS)
        text = f"newer fawa (schema version {known + 1}; this one knows up to {known})"
        assert text in await opening_fails(path)

    async def test_a_database_that_had_no_identity_gets_one(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(sqlite, "MIGRATIONS", sqlite.MIGRATIONS[:1])
            async with metadata_store(path):
                pass
        async with metadata_store(path) as store, metadata_store(path.with_name("other")) as other:
            assert len({await store.identity(), await other.identity()}) == 2


class TestFaults:
    async def test_a_file_that_is_no_database(self, path: Path) -> None:
        path.parent.mkdir()
        path.write_bytes(b"certainly not a database" * 100)
        before = path.read_bytes()
        assert "not an SQLite database" in await opening_fails(path)
        assert path.read_bytes() == before

    async def test_a_database_of_another_program(self, path: Path) -> None:
        path.parent.mkdir()
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE songs (title)")
        connection.close()
        before = path.read_bytes()
        assert "another program" in await opening_fails(path)
        assert path.read_bytes() == before

    async def test_a_database_with_the_mark_of_another_program(self, path: Path) -> None:
        path.parent.mkdir()
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA application_id = 1")
        connection.close()
        assert "another program" in await opening_fails(path)

    async def test_a_damaged_database(self, path: Path) -> None:
        async with metadata_store(path) as store:
            for n in range(500):
                await store.add(make_record(f"key{n}"))
        pages = bytearray(path.read_bytes())
        pages[4096:] = b"\xff" * (len(pages) - 4096)
        path.write_bytes(pages)
        with pytest.raises(StorageError, match=r"damaged \(database disk image is malformed\)"):
            async with metadata_store(path) as store:
                await list_keys(store)

    async def test_a_database_that_another_process_keeps_locked(
        self, path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database, "BUSY_TIMEOUT", 0.01)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert "locked by another process" in await opening_fails(path)
        store._connection.execute("PRAGMA busy_timeout = 10")
        with pytest.raises(StorageError, match="locked by another process"):
            await store.add(make_record())
        other.execute("ROLLBACK")
        other.close()
        await store.add(make_record())

    async def test_a_database_that_is_locked_for_a_moment_while_it_is_opened(
        self, path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        connect = sqlite3.connect
        waited: list[float] = []

        def connect_without_patience(path: Path, **options: object) -> sqlite3.Connection:
            return connect(path, **(options | {"timeout": 0}))  # type: ignore[call-overload, no-any-return]

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            other.execute("ROLLBACK")

        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", connect_without_patience)
            patch.setattr(time, "sleep", sleep)
            async with metadata_store(path) as second:
                await second.add(make_record())
        other.close()
        assert waited == [0.01]
        assert await store.get(KEY) == make_record()

    async def test_a_database_without_the_right_to_write(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The user root, who runs tests in containers, may write anywhere, so the question is intercepted.
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        assert "Permission denied" in await opening_fails(path)

    async def test_a_database_that_may_not_be_written(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with metadata_store(path):
            pass
        connect = sqlite3.connect

        # The user root, who runs tests in containers, may write anywhere, so SQLite itself is told not to.
        def connect_read_only(path: Path, **options: object) -> sqlite3.Connection:
            return connect(f"file:{path}?mode=ro", uri=True, **options)  # type: ignore[call-overload, no-any-return]

        monkeypatch.setattr(sqlite3, "connect", connect_read_only)
        async with metadata_store(path) as store:
            with pytest.raises(StorageError, match="read-only"):
                await store.add(make_record())

    async def test_a_file_system_that_may_not_be_written(self, path: Path) -> None:
        path.parent.mkdir()
        with Disk(path.parent, errors={"open": errno.EROFS}).installed():
            assert "Read-only file system" in await opening_fails(path)

    async def test_a_path_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        assert "Not a directory" in await opening_fails(tmp_path / "file" / "files.sqlite3")
        (tmp_path / "folder").mkdir()
        assert "Check that it is a file" in await opening_fails(tmp_path / "folder")

    async def test_a_journal_that_cannot_be_made(self, path: Path) -> None:
        async with metadata_store(path):
            pass
        path.with_name(f"{path.name}-wal").mkdir()
        assert "cannot be opened. Check that it is a file" in await opening_fails(path)

    async def test_a_disk_that_is_full_from_the_start(self, path: Path) -> None:
        with file_size_limit(4096):
            assert "disk" in await opening_fails(path)
        async with metadata_store(path) as store:
            await store.add(make_record())

    async def test_a_full_disk(self, store: SqliteStore) -> None:
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")

        async def fill() -> None:
            for n in range(1000):
                await store.add(make_record(f"key{n}"))

        with pytest.raises(OutOfSpace, match="disk is full"):
            await fill()
        # Nothing but the last one is missing, and there is no transaction left open.
        last = len(await list_keys(store))
        with pytest.raises(NotFound):
            await store.get(f"key{last}")
        await store.delete("key0")
        assert len(await list_keys(store)) == last - 1

    async def test_a_store_that_has_been_closed_says_so(self, path: Path) -> None:
        async with metadata_store(path) as store:
            pass
        with pytest.raises(StorageError, match="closed"):
            await store.get(KEY)

    async def test_the_loop_goes_on_while_the_database_waits(self, path: Path, store: SqliteStore) -> None:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.add, make_record())
            await trio.testing.wait_all_tasks_blocked()
            # Were the loop waiting for the lock, it could not take it away.
            other.execute("ROLLBACK")
        other.close()
        assert await store.get(KEY) == make_record()
