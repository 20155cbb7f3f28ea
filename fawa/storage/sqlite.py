"""Records in an SQLite database: one connection, worked by one thread at a time.

Changes are durable when they return, but for download counts and the room that is held, whose loss in a power
cut costs nothing and whose fsync would cost every download and upload.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from fawa.storage.base import AlreadyExists, FileRecord, NotFound, State, Terms
from fawa.storage.database import Database, Schema, open_database

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
    (
        "CREATE TABLE identity (id TEXT NOT NULL)",
        "INSERT INTO identity VALUES (lower(hex(randomblob(16))))",
    ),
    (
        "ALTER TABLE files ADD COLUMN terms BLOB NOT NULL DEFAULT x''",
        """
        CREATE TABLE reservations (
            key TEXT NOT NULL REFERENCES files (key),
            token TEXT NOT NULL,
            until REAL NOT NULL,
            PRIMARY KEY (key, token)
        ) WITHOUT ROWID
        """,
    ),
    (
        """
        CREATE TABLE held (
            key TEXT NOT NULL PRIMARY KEY,
            size INTEGER NOT NULL,
            until REAL NOT NULL
        ) WITHOUT ROWID
        """,
        "CREATE INDEX held_by_until ON held (until)",
        # The bytes of files and held together, kept up by the triggers: to add them up takes too long.
        "CREATE TABLE room (taken INTEGER NOT NULL)",
        "INSERT INTO room SELECT coalesce(sum(size), 0) FROM files",
        """
        CREATE TRIGGER file_added AFTER INSERT ON files BEGIN
            UPDATE room SET taken = taken + NEW.size;
            DELETE FROM held WHERE key = NEW.key;
        END
        """,
        """
        CREATE TRIGGER file_removed AFTER DELETE ON files BEGIN
            UPDATE room SET taken = taken - OLD.size;
        END
        """,
        """
        CREATE TRIGGER held_added AFTER INSERT ON held BEGIN
            UPDATE room SET taken = taken + NEW.size;
        END
        """,
        """
        CREATE TRIGGER held_changed AFTER UPDATE OF size ON held BEGIN
            UPDATE room SET taken = taken - OLD.size + NEW.size;
        END
        """,
        """
        CREATE TRIGGER held_removed AFTER DELETE ON held BEGIN
            UPDATE room SET taken = taken - OLD.size;
        END
        """,
    ),
)

#: Keys fetched at once when iterating over all.
PAGE: Final = 1000

_IDENTITY: Final = "SELECT id FROM identity"
_ADD: Final = """
    INSERT INTO files (key, name, size, content_type, sha256, created, expires, downloads, state, terms)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_PUBLISH: Final = "UPDATE files SET state = ? WHERE key = ?"
_GET: Final = """
    SELECT name, size, content_type, sha256, created, expires, downloads, state, terms FROM files
    WHERE key = ?
"""
_DELETE: Final = ("DELETE FROM reservations WHERE key = ?", "DELETE FROM files WHERE key = ?")
_COUNT: Final = "UPDATE files SET downloads = downloads + 1 WHERE key = ?"
_RESERVE: Final = """
    INSERT INTO reservations (key, token, until)
    SELECT :key, :token, :until FROM files
    WHERE key = :key AND downloads + (
        SELECT count(*) FROM reservations WHERE key = :key AND token <> :token AND until > :now
    ) < :most
    ON CONFLICT (key, token) DO UPDATE SET until = excluded.until
"""
_RELEASE: Final = "DELETE FROM reservations WHERE key = ? AND token = ?"
_COMPLETED: Final = "SELECT downloads FROM files WHERE key = ?"
_RUN_OUT: Final = "DELETE FROM held WHERE until <= ?"
_HELD: Final = "SELECT coalesce((SELECT size FROM held WHERE key = :key), 0)"
#: What others leave of :most.
_LEFT: Final = """
    SELECT :most - taken + coalesce((SELECT size FROM held WHERE key = :key), 0)
        + coalesce((SELECT size FROM files WHERE key = :key), 0) FROM room
"""
_HOLD: Final = """
    INSERT INTO held (key, size, until) VALUES (:key, :size, :until)
    ON CONFLICT (key) DO UPDATE SET size = max(size, excluded.size), until = max(until, excluded.until)
"""
_FREE: Final = "DELETE FROM held WHERE key = ?"
_TAKEN: Final = """
    SELECT taken - (SELECT coalesce(sum(size), 0) FROM held WHERE until <= ?) FROM room
"""
_EXPIRED: Final = "SELECT key FROM files WHERE expires <= ? ORDER BY expires, key LIMIT ?"
_KEYS: Final = "SELECT key FROM files WHERE key > ? AND state LIKE ? ORDER BY key LIMIT ?"


@contextmanager
def _unsynced(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("PRAGMA synchronous = NORMAL")
    try:
        yield
    finally:
        connection.execute("PRAGMA synchronous = FULL")


def _change_unsynced(connection: sqlite3.Connection, statement: str, values: tuple[object, ...]) -> None:
    with _unsynced(connection):
        connection.execute(statement, values)


def _hold(connection: sqlite3.Connection, values: dict[str, Any]) -> int:
    with _unsynced(connection), _transaction(connection):
        connection.execute(_RUN_OUT, (values["now"],))
        held = int(connection.execute(_HELD, values).fetchone()[0])
        left = max(held, int(connection.execute(_LEFT, values).fetchone()[0]))
        if values["size"] <= left:
            connection.execute(_HOLD, values)
        return left


def _delete(connection: sqlite3.Connection, key: str) -> None:
    with _transaction(connection):
        for statement in _DELETE:
            connection.execute(statement, (key,))


def _reserve(connection: sqlite3.Connection, values: dict[str, object]) -> bool:
    return connection.execute(_RESERVE, values).rowcount > 0


def _release(connection: sqlite3.Connection, key: str, token: str, completed: bool) -> int:
    with _transaction(connection):
        if connection.execute(_RELEASE, (key, token)).rowcount and completed:
            connection.execute(_COUNT, (key,))
        row = connection.execute(_COMPLETED, (key,)).fetchone()
    return int(row[0]) if row else 0


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@attrs.define(eq=False)
class SqliteStore(Database):
    """Records in a database; made by `metadata_store`. See `base.MetadataStore`."""

    async def identity(self) -> str:
        """Return what was drawn when the database was made."""
        ((identity,),) = await self._query(_IDENTITY)
        return str(identity)

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
            record.terms.pack(),
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
        name, size, content_type, sha256, created, expires, downloads, state, terms = rows[0]
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
            terms=Terms.unpack(terms),
        )

    async def delete(self, key: str) -> None:
        """Remove the record."""
        await self._run(_delete, self._connection, key)

    async def count_download(self, key: str) -> None:
        """Add one to the record's downloads."""
        await self._run(_change_unsynced, self._connection, _COUNT, (key,))

    async def reserve(self, key: str, token: str, most: int, now: float, until: float) -> bool:
        """Reserve one of `most` downloads."""
        values = {"key": key, "token": token, "most": most, "now": now, "until": until}
        return await self._run(_reserve, self._connection, values)

    async def release(self, key: str, token: str, *, completed: bool) -> int:
        """Give a reservation back; returns how many downloads were completed."""
        return await self._run(_release, self._connection, key, token, completed)

    async def hold_room(self, key: str, size: int, most: int, now: float, until: float) -> int:
        """Hold room for a file to come; returns how many bytes there are for it."""
        values = {"key": key, "size": size, "most": most, "now": now, "until": until}
        return await self._run(_hold, self._connection, values)

    async def free_room(self, key: str) -> None:
        """Give back what is held under the key."""
        await self._run(_change_unsynced, self._connection, _FREE, (key,))

    async def room_taken(self, now: float) -> int:
        """Return the bytes of all files, and of what is held."""
        ((taken,),) = await self._query(_TAKEN, now)
        return int(taken)

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


def metadata_store(path: Path) -> AbstractAsyncContextManager[SqliteStore]:
    """Open the database, made with mode 0600 when it is not there.

    Raises:
        StorageError: it cannot be opened, is not ours, or a newer fawa wrote it.

    """
    return open_database(path, Schema(APPLICATION_ID, MIGRATIONS), SqliteStore)
