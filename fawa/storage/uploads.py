"""Records of uploads in an SQLite database of their own.

Beside the files' database and not in it: continuing an upload never waits for a file to be recorded.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

import attrs

from fawa.storage.base import AlreadyExists, NotFound, Terms, UploadRecord
from fawa.storage.database import Database, Schema, open_database

#: "fawu" in ASCII.
APPLICATION_ID: Final = 0x66617775

#: The statements that bring schema version n to n+1, at index n. Never change one that has shipped.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE uploads (
            id TEXT NOT NULL PRIMARY KEY,
            key TEXT NOT NULL UNIQUE,
            name TEXT NOT NULL,
            size INTEGER,
            content_type TEXT NOT NULL,
            created REAL NOT NULL,
            expires REAL NOT NULL,
            sha256 BLOB,
            metadata TEXT NOT NULL,
            epoch INTEGER NOT NULL
        ) WITHOUT ROWID
        """,
        "CREATE INDEX uploads_by_expires ON uploads (expires, id)",
    ),
    (
        "ALTER TABLE uploads ADD COLUMN ttl REAL",
        "ALTER TABLE uploads ADD COLUMN terms BLOB NOT NULL DEFAULT x''",
    ),
)

_COLUMNS: Final = "id, key, name, size, content_type, created, expires, sha256, metadata, epoch, ttl, terms"
_ADD: Final = f"""
    INSERT INTO uploads ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""  # noqa: S608 - names of ours
_GET: Final = f"SELECT {_COLUMNS} FROM uploads WHERE id = ?"  # noqa: S608
_CLAIM: Final = f"""
    UPDATE uploads SET epoch = epoch + 1, expires = max(expires, ?) WHERE id = ? AND expires > ?
    RETURNING {_COLUMNS}
"""  # noqa: S608
_EXTEND: Final = "UPDATE uploads SET expires = max(expires, ?) WHERE id = ?"
_SET_SIZE: Final = "UPDATE uploads SET size = coalesce(size, ?) WHERE id = ?"
_DELETE: Final = "DELETE FROM uploads WHERE id = ?"
_EXPIRED: Final = f"SELECT {_COLUMNS} FROM uploads WHERE expires <= ? ORDER BY expires, id LIMIT ?"  # noqa: S608
_HAS_KEY: Final = "SELECT 1 FROM uploads WHERE key = ?"


def _record(row: tuple[Any, ...]) -> UploadRecord:
    *values, terms = row
    return UploadRecord(**dict(zip(_COLUMNS.split(", "), values, strict=False)), terms=Terms.unpack(terms))


@attrs.define(eq=False)
class SqliteUploads(Database):
    """Records in a database; made by `upload_store`. See `base.UploadStore`."""

    async def add(self, record: UploadRecord) -> None:
        """Store a new record."""
        values = [getattr(record, column) for column in _COLUMNS.split(", ")[:-1]]
        if not await self._change(_ADD, *values, record.terms.pack()):
            raise AlreadyExists("there is an upload of this id or key already")

    async def get(self, upload_id: str) -> UploadRecord:
        """Return the record."""
        return self._only(await self._query(_GET, upload_id))

    async def claim(self, upload_id: str, now: float, expires: float) -> UploadRecord:
        """Add one to the epoch and move the expiry; return the record after that."""
        return self._only(await self._query(_CLAIM, expires, upload_id, now))

    async def extend(self, upload_id: str, expires: float) -> None:
        """Move the expiry, not to earlier."""
        await self._change(_EXTEND, expires, upload_id)

    async def set_size(self, upload_id: str, size: int) -> None:
        """Note the size of an upload that had none."""
        if not await self._change(_SET_SIZE, size, upload_id):
            raise NotFound("there is no upload of this id")

    async def delete(self, upload_id: str) -> None:
        """Remove the record."""
        await self._change(_DELETE, upload_id)

    async def expired(self, now: float, limit: int) -> list[UploadRecord]:
        """Return up to `limit` records that expire at or before `now`, the oldest first."""
        return [_record(row) for row in await self._query(_EXPIRED, now, limit)]

    async def has_key(self, key: str) -> bool:
        """Tell whether there is an upload that becomes the file under `key`."""
        return bool(await self._query(_HAS_KEY, key))

    def _only(self, rows: list[tuple[Any, ...]]) -> UploadRecord:
        if not rows:
            raise NotFound("there is no upload of this id")
        return _record(rows[0])


def upload_store(path: Path) -> AbstractAsyncContextManager[SqliteUploads]:
    """Open the database, made with mode 0600 when it is not there.

    Raises:
        StorageError: it cannot be opened, is not ours, or a newer fawa wrote it.

    """
    return open_database(path, Schema(APPLICATION_ID, MIGRATIONS), SqliteUploads)
