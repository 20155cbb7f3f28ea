"""Records in an SQLite database: one connection, worked by one thread at a time.

The database is in WAL mode. Changes are durable when they return (`synchronous=FULL`), but for download
counts, whose loss in a power cut costs nothing and whose fsync would cost every download.

The schema version is kept in `user_version`, and `application_id` says that the database is ours
(https://www.sqlite.org/pragma.html). `MIGRATIONS` brings an older database up to date when it is opened.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar, TypeVarTuple

import attrs
import trio

from fawa.storage.base import (
    AlreadyExists,
    FileRecord,
    NotFound,
    OutOfSpace,
    State,
    StorageError,
)
from fawa.storage.publishing import make_folders

#: "fawa" in ASCII.
APPLICATION_ID: Final = 0x66617761

#: The statements that bring schema version n to n+1, at index n. Never change one that has shipped.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE files (
            key TEXT NOT NULL PRIMARY KEY,
            name TEXT NOT NULL,
            size INTEGER NOT NULL,
            content_type TEXT NOT NULL,
            sha256 BLOB NOT NULL,
            created REAL NOT NULL,
            expires REAL NOT NULL,
            downloads INTEGER NOT NULL,
            state TEXT NOT NULL
        ) WITHOUT ROWID
        """,
        "CREATE INDEX files_by_expires ON files (expires, key)",
    ),
)

#: Seconds to wait for another process that writes.
BUSY_TIMEOUT: Final = 5.0

#: Seconds between two attempts to open the database while another process does so.
RETRY_INTERVAL: Final = 0.01

#: Seconds to wait, when cancelled, for the operation under way before closing.
CLOSE_TIMEOUT: Final = 10.0

#: Keys fetched at once when iterating over all.
PAGE: Final = 1000

_ADD: Final = """
    INSERT INTO files (key, name, size, content_type, sha256, created, expires, downloads, state)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_PUBLISH: Final = "UPDATE files SET state = ? WHERE key = ?"
_GET: Final = """
    SELECT name, size, content_type, sha256, created, expires, downloads, state FROM files WHERE key = ?
"""
_DELETE: Final = "DELETE FROM files WHERE key = ?"
_COUNT: Final = "UPDATE files SET downloads = downloads + 1 WHERE key = ?"
_EXPIRED: Final = "SELECT key FROM files WHERE expires <= ? ORDER BY expires, key LIMIT ?"
_KEYS: Final = "SELECT key FROM files WHERE key > ? AND state LIKE ? ORDER BY key LIMIT ?"

_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")


def _explain(path: Path, error: sqlite3.Error) -> StorageError:
    """Say what went wrong and what to do, by primary result code (https://www.sqlite.org/rescode.html)."""
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_NOTADB:
            return StorageError(f"{path} is not an SQLite database. Move it away, or set another path.")
        case sqlite3.SQLITE_CORRUPT:
            return StorageError(f"the database {path} is damaged ({error}). Move it away to start afresh.")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StorageError(
                f"the database {path} is locked by another process for over {BUSY_TIMEOUT:g} seconds. "
                "Stop that process, or set another path."
            )
        case sqlite3.SQLITE_READONLY:
            return StorageError(f"the database {path} is read-only. Make it and its folder writable.")
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return StorageError(
                f"the database {path} cannot be opened. Check that it is a file, and that the user that "
                "runs fawad may read and write it and its folder."
            )
        case sqlite3.SQLITE_FULL:
            return OutOfSpace(f"cannot write to the database {path}: the disk is full. Free space there.")
        case _:
            return StorageError(f"the database {path} failed: {error}")


# What threads run. Every function here blocks and raises sqlite3.Error.


def _open(path: Path) -> sqlite3.Connection:
    make_folders(path.parent)
    # SQLite would make it by the umask; its journals take over the mode of the database. (A database that
    # is there is not opened here: closing it would drop the locks of every connection of this process, see
    # https://www.sqlite.org/howtocorrupt.html, section 2.2.)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    if not os.access(path, os.R_OK | os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    give_up_at = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            return _connect(path)
        except sqlite3.OperationalError as error:
            # Another process opens or closes it at this moment: SQLite does not always wait for that
            # (https://www.sqlite.org/wal.html, section 9).
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= give_up_at:
                raise
            time.sleep(RETRY_INTERVAL)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        _migrate(path, connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _migrate(path: Path, connection: sqlite3.Connection) -> None:
    newest = len(MIGRATIONS)
    # IMMEDIATE: two processes that start at once must not both migrate.
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _pragma(connection, "user_version")
        application = _pragma(connection, "application_id")
        used = _pragma(connection, "schema_version") > 0
        if application != APPLICATION_ID and (application or used):
            raise StorageError(f"{path} is the database of another program. Set another path.")
        if version > newest:
            raise StorageError(
                f"the database {path} was written by a newer fawa (schema version {version}; "
                f"this one knows up to {newest}). Run that version, or set another path."
            )
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        if version < newest:
            connection.execute(f"PRAGMA user_version = {newest}")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _query(
    connection: sqlite3.Connection, statement: str, values: tuple[object, ...]
) -> list[tuple[Any, ...]]:
    return connection.execute(statement, values).fetchall()


def _change(connection: sqlite3.Connection, statement: str, values: tuple[object, ...]) -> int:
    """Run one statement, durably; return the number of rows it changed."""
    return connection.execute(statement, values).rowcount


def _change_unsynced(connection: sqlite3.Connection, statement: str, values: tuple[object, ...]) -> None:
    connection.execute("PRAGMA synchronous = NORMAL")
    try:
        connection.execute(statement, values)
    finally:
        connection.execute("PRAGMA synchronous = FULL")


# The asynchronous face.


@attrs.define(eq=False)
class SqliteStore:
    """Records in a database; made by `metadata_store`. See `base.MetadataStore`."""

    _path: Path
    _connection: sqlite3.Connection
    #: One thread at a time; cancellation waits for the statement under way.
    _limiter: trio.CapacityLimiter

    async def _run(self, function: Callable[[*_Args], _Result], *args: *_Args) -> _Result:
        try:
            return await trio.to_thread.run_sync(function, *args, limiter=self._limiter)
        except sqlite3.Error as error:
            raise _explain(self._path, error) from error

    async def _query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        return await self._run(_query, self._connection, statement, values)

    async def _change(self, statement: str, *values: object) -> int:
        return await self._run(_change, self._connection, statement, values)

    async def close(self) -> None:
        """Close the database; whatever is called after this raises `StorageError`."""
        await self._run(self._connection.close)

    async def add(self, record: FileRecord) -> None:
        """Store a new record."""
        added = await self._change(
            _ADD,
            record.key,
            record.name,
            record.size,
            record.content_type,
            record.sha256,
            record.created,
            record.expires,
            record.downloads,
            record.state.value,
        )
        if not added:
            raise AlreadyExists(f"there is a record under the key {record.key} already")

    async def publish(self, key: str) -> None:
        """Make the record `READY`."""
        if not await self._change(_PUBLISH, State.READY.value, key):
            raise NotFound(f"there is no record under the key {key}")

    async def get(self, key: str) -> FileRecord:
        """Return the record."""
        rows = await self._query(_GET, key)
        if not rows:
            raise NotFound(f"there is no record under the key {key}")
        name, size, content_type, sha256, created, expires, downloads, state = rows[0]
        return FileRecord(
            key=key,
            name=name,
            size=size,
            content_type=content_type,
            sha256=sha256,
            created=created,
            expires=expires,
            downloads=downloads,
            state=State(state),
        )

    async def delete(self, key: str) -> None:
        """Remove the record."""
        await self._change(_DELETE, key)

    async def count_download(self, key: str) -> None:
        """Add one to the record's downloads."""
        await self._run(_change_unsynced, self._connection, _COUNT, (key,))

    async def expired(self, now: float, limit: int) -> list[str]:
        """Return up to `limit` keys whose records expire at or before `now`, the oldest first."""
        return [key for (key,) in await self._query(_EXPIRED, now, limit)]

    async def keys(self, state: State | None = None) -> AsyncIterator[str]:
        """Iterate over the keys in their order, a page at a time."""
        last = ""
        while rows := await self._query(_KEYS, last, state.value if state else "%", PAGE):
            for (key,) in rows:
                yield key
            last = rows[-1][0]


@asynccontextmanager
async def metadata_store(path: Path) -> AsyncIterator[SqliteStore]:
    """Open the database, made with mode 0600 when it is not there.

    Raises:
        StorageError: it cannot be opened, is not ours, or a newer fawa wrote it.

    """
    limiter = trio.CapacityLimiter(1)
    try:
        connection = await trio.to_thread.run_sync(_open, path, limiter=limiter)
    except sqlite3.Error as error:
        raise _explain(path, error) from error
    except OSError as error:
        raise StorageError(
            f"the database {path} cannot be opened: {error.strerror}. Check its folder and the rights to it."
        ) from error
    store = SqliteStore(path, connection, limiter)
    try:
        yield store
    finally:
        # When a statement hangs for longer, the connection is left to end with it: nothing uncommitted is
        # on it.
        with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await store.close()
