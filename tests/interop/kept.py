"""What a daemon has stored, seen from outside: the files in its data folder and the rows of its database."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from tests.daemon import PATIENCE


@attrs.frozen
class Kept:
    """A snapshot."""

    #: SHA-256 by path, of every file in the data folder but SQLite's own and what says whose the files are.
    files: dict[str, str]
    #: Size and SHA-256 by key, of every record.
    records: dict[str, tuple[int, str]]

    @classmethod
    def of(cls, data_dir: Path) -> Kept:
        files = {}
        for path in sorted(data_dir.rglob("*")):
            # A file may go while one looks; what has gone is not kept.
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and not path.name.startswith(("files.sqlite3", "owner")):
                    digest = hashlib.sha256(path.read_bytes()).hexdigest()
                    files[str(path.relative_to(data_dir))] = digest
        database = sqlite3.connect(f"file:{data_dir / 'files.sqlite3'}?mode=ro", uri=True)
        with contextlib.closing(database):
            rows = database.execute("SELECT key, size, sha256 FROM files ORDER BY key").fetchall()
        return cls(files, {key: (size, sha256.hex()) for key, size, sha256 in rows})

    def contents(self) -> list[str]:
        """SHA-256 of each file among the uploads, finished or not."""
        return sorted(digest for path, digest in self.files.items() if path.startswith("files/"))


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Wait until `holds()`, which a healthy daemon makes true soon.

    Raises:
        AssertionError: `what` has not happened in a long time.

    """
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE} s"
        time.sleep(0.01)
