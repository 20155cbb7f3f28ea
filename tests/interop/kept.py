"""What a daemon has stored, seen from outside: the files in its data folder and the rows of its databases."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from tests.daemon import PATIENCE


@attrs.frozen
class Kept:
    """A snapshot."""

    #: SHA-256 by path, of every file in the data folder but SQLite's own and what says whose the files are.
    files: dict[str, str]
    #: Size and SHA-256 by key, of every record.
    records: dict[str, tuple[int, str]]
    #: Key, name and epoch by id, of every upload that may be interrupted.
    uploads: dict[str, tuple[str, str, int]]

    @classmethod
    def of(cls, data_dir: Path) -> Kept:
        files = {}
        for path in sorted(data_dir.rglob("*")):
            # A file may go while one looks; what has gone is not kept.
            with contextlib.suppress(FileNotFoundError):
                # Those of boards and uploads are written to at any time, by what earlier tests have left.
                if path.is_file() and ".sqlite3" not in path.name and path.name != "owner":
                    digest = hashlib.sha256(path.read_bytes()).hexdigest()
                    files[str(path.relative_to(data_dir))] = digest
        rows = _rows(data_dir / "files.sqlite3", "SELECT key, size, sha256 FROM files")
        records = {key: (size, sha256.hex()) for key, size, sha256 in rows}
        begun = _rows(data_dir / "uploads.sqlite3", "SELECT id, key, name, epoch FROM uploads")
        return cls(files, records, {upload_id: (key, name, epoch) for upload_id, key, name, epoch in begun})

    def contents(self) -> list[str]:
        """SHA-256 of each file among the uploads, finished or not."""
        return sorted(digest for path, digest in self.files.items() if path.startswith("files/"))


def _rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    with contextlib.closing(database):
        return database.execute(query).fetchall()


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Wait until `holds()`, which a healthy daemon makes true soon.

    Raises:
        AssertionError: `what` has not happened in a long time.

    """
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE} s"
        time.sleep(0.01)
