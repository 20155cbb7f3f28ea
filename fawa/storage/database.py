"""SQLite databases of ours: how one is opened, worked by one thread at a time, and explained when it fails.

A database is in WAL mode, and what a statement changed is durable when it returns (`synchronous=FULL`) unless
its store says otherwise. The schema version is kept in `user_version`, and `application_id` says whose it is
(https://www.sqlite.org/pragma.html). Migrations bring an older database up to date when it is opened.
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

from fawa.storage.base import OutOfSpace, StorageError
from fawa.storage.publishing import make_folders

#: Seconds to wait for another process that writes.
BUSY_TIMEOUT: Final = 5.0

#: Seconds between two attempts to open the database while another process does so.
RETRY_INTERVAL: Final = 0.01

#: Seconds to wait, when cancelled, for the operation under way before closing.
CLOSE_TIMEOUT: Final = 10.0

_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")


@attrs.frozen
class Schema:
    """What is in a database."""

    #: Four bytes that say whose it is and what for.
    application_id: int
    #: The statements that bring schema version n to n+1, at index n.
    migrations: tuple[tuple[str, ...], ...]


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


def open_connection(path: Path, schema: Schema) -> sqlite3.Connection:
    """Open a database, made if it is not there, and bring it up to date.

    Raises:
        sqlite3.Error: it cannot be opened.
        OSError: its folder or file cannot be made.
        StorageError: it is not ours, or a newer fawa wrote it.

    """
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
            return _connect(path, schema)
        except sqlite3.OperationalError as error:
            # Another process opens or closes it at this moment: SQLite does not always wait for that
            # (https://www.sqlite.org/wal.html, section 9).
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= give_up_at:
                raise
            time.sleep(RETRY_INTERVAL)


def _connect(path: Path, schema: Schema) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        _migrate(path, connection, schema)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _migrate(path: Path, connection: sqlite3.Connection, schema: Schema) -> None:
    newest = len(schema.migrations)
    # IMMEDIATE: two processes that start at once must not both migrate.
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _pragma(connection, "user_version")
        application = _pragma(connection, "application_id")
        used = _pragma(connection, "schema_version") > 0
        if application != schema.application_id and (application or used):
            raise StorageError(f"{path} is the database of another program. Set another path.")
        if version > newest:
            raise StorageError(
                f"the database {path} was written by a newer fawa (schema version {version}; "
                f"this one knows up to {newest}). Run that version, or set another path."
            )
        for statements in schema.migrations[version:]:
            for statement in statements:
                connection.execute(statement)
        if version < newest:
            connection.execute(f"PRAGMA user_version = {newest}")
            connection.execute(f"PRAGMA application_id = {schema.application_id}")
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


# The asynchronous face.


@attrs.define(eq=False)
class Database:
    """An open database, the base of each store that keeps its things in one."""

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

    @property
    def backend(self) -> str:
        """The name of the file."""
        return self._path.name

    async def check(self) -> None:
        """Read something."""
        await self._query("SELECT count(*) FROM sqlite_schema")

    async def close(self) -> None:
        """Close the database; whatever is called after this raises `StorageError`."""
        await self._run(self._connection.close)


Store = TypeVar("Store", bound=Database)


@asynccontextmanager
async def open_database(
    path: Path,
    schema: Schema,
    store: type[Store],
    prepare: Callable[[sqlite3.Connection], None] = lambda connection: None,
) -> AsyncIterator[Store]:
    """Open a database as a store, made with mode 0600 when it is not there.

    `prepare` makes the store's own settings on the connection; it runs in a thread.

    Raises:
        StorageError: it cannot be opened, is not ours, or a newer fawa wrote it.

    """
    limiter = trio.CapacityLimiter(1)

    def open_it() -> sqlite3.Connection:
        connection = open_connection(path, schema)
        prepare(connection)
        return connection

    try:
        connection = await trio.to_thread.run_sync(open_it, limiter=limiter)
    except sqlite3.Error as error:
        raise _explain(path, error) from error
    except OSError as error:
        raise StorageError(
            f"the database {path} cannot be opened: {error.strerror}. Check its folder and the rights to it."
        ) from error
    opened = store(path, connection, limiter)
    try:
        yield opened
    finally:
        # When a statement hangs for longer, the connection is left to end with it: nothing uncommitted is
        # on it.
        with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await opened.close()
