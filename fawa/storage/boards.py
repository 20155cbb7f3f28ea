"""Copies of whiteboards in an SQLite database of their own; see `base.BoardStore`."""

from __future__ import annotations

import sqlite3
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

import attrs

from fawa.storage.base import NotFound
from fawa.storage.database import Database, Schema, open_database

#: "fawb" in ASCII: no database of files passes for one of boards.
APPLICATION_ID: Final = 0x66617762

#: The statements that bring schema version n to n+1, at index n. Never change one that has shipped.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE boards (
            code TEXT NOT NULL PRIMARY KEY,
            saved BLOB NOT NULL,
            size INTEGER NOT NULL,
            expires REAL NOT NULL
        )
        """,
        # Has all that a sweep looks at, so that no sweep reads the copies themselves.
        "CREATE INDEX boards_by_expires ON boards (expires, code, size)",
    ),
)

#: Bytes that a copy takes beside itself, about: so the bound on their size bounds their number too.
OVERHEAD: Final = 200

_PUT: Final = """
    INSERT INTO boards (code, saved, size, expires) VALUES (?, ?, ?, ?)
    ON CONFLICT (code) DO UPDATE SET saved = excluded.saved, size = excluded.size, expires = excluded.expires
"""
_GET: Final = "SELECT saved FROM boards WHERE code = ? AND expires > ?"
_DELETE: Final = "DELETE FROM boards WHERE code = ?"
_EXPIRE: Final = "DELETE FROM boards WHERE expires <= ?"
_TRIM: Final = """
    DELETE FROM boards WHERE code IN (
        SELECT code FROM (SELECT code, SUM(size) OVER (ORDER BY expires DESC, code) AS total FROM boards)
        WHERE total > ?
    )
"""


def _sweep(connection: sqlite3.Connection, now: float, most: int) -> int:
    expired = connection.execute(_EXPIRE, (now,)).rowcount
    return expired + connection.execute(_TRIM, (most,)).rowcount


def _relax(connection: sqlite3.Connection) -> None:
    # In WAL mode the database stays whole in a power cut (https://www.sqlite.org/pragma.html#pragma_synchronous).
    connection.execute("PRAGMA synchronous = NORMAL")


@attrs.define(eq=False)
class SqliteBoards(Database):
    """Copies in a database; made by `board_store`."""

    async def put(self, code: str, saved: bytes, expires: float) -> None:
        """Store a copy in place of the one before."""
        await self._change(_PUT, code, saved, len(saved) + OVERHEAD, expires)

    async def get(self, code: str, now: float) -> bytes:
        """Return the copy."""
        rows = await self._query(_GET, code, now)
        if not rows:
            raise NotFound(f"there is no copy of a board {code}")
        return bytes(rows[0][0])

    async def delete(self, code: str) -> None:
        """Remove the copy."""
        await self._change(_DELETE, code)

    async def sweep(self, now: float, most: int) -> int:
        """Remove what has expired, and what is too much."""
        return await self._run(_sweep, self._connection, now, most)


def board_store(path: Path) -> AbstractAsyncContextManager[SqliteBoards]:
    """Open the database, made with mode 0600 when it is not there.

    Raises:
        StorageError: it cannot be opened, is not ours, or a newer fawa wrote it.

    """
    return open_database(path, Schema(APPLICATION_ID, MIGRATIONS), SqliteBoards, _relax)
