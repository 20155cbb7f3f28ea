"""fawad over any pair of its backends, with each of the processes to be killed; and what they keep.

The servers come back on the same ports and data; fawad comes back on another port, so clients ask for its
`address` each time.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import trio

from fawa.storage.base import NotFound, State
from fawa.storage.redis import metadata_store as redis_records
from fawa.storage.redis_url import parse_redis_url
from fawa.storage.s3 import content_store as s3_content
from fawa.storage.s3_client import S3Settings, connect
from fawa.storage.sqlite import metadata_store as sqlite_records
from tests.daemon import Daemon, running
from tests.redis_server import RedisServer, redis_server
from tests.s3_server import ACCESS_KEY, SECRET_KEY, S3Server, ceph, rclone

BUCKET = "fawa-files"

#: Makes all files and uploads expire at once.
_EXPIRE = """
for _, tag in ipairs({'{fawa.files}:', '{fawa.uploads}:'}) do
  for _, id in ipairs(redis.call('ZRANGE', tag .. 'expiry', 0, -1)) do
    redis.call('ZADD', tag .. 'expiry', 1, id)
  end
end
"""


@attrs.define
class Fuse:
    """Burns down as bytes move, so that a kill comes at a chosen point of what clients do."""

    _left: int = 0
    _news: threading.Condition = attrs.field(factory=threading.Condition)

    def burn(self) -> None:
        """Note that one more piece of a file was sent or received."""
        with self._news:
            self._left -= 1
            self._news.notify_all()

    def wait(self, pieces: int, timeout: float) -> bool:
        """Wait for that many pieces, or so many seconds; tell whether they came."""
        with self._news:
            self._left = pieces
            return self._news.wait_for(lambda: self._left <= 0, timeout)


@attrs.frozen
class Table:
    """One in a database of fawad's."""

    path: Path
    name: str

    def execute(self, statement: str) -> list[Any]:
        """Execute a statement that has `{}` for the table."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as database:
            return database.execute(statement.format(self.name)).fetchall()


@attrs.define
class Rig:
    """Processes at work in one folder."""

    folder: Path
    redis: RedisServer | None
    s3: S3Server | None
    fuse: Fuse = attrs.field(factory=Fuse)
    _life: contextlib.ExitStack = attrs.field(factory=contextlib.ExitStack)
    _daemon: Daemon | None = None
    #: Of each life of fawad, what was wrong in its log.
    faults: list[str] = attrs.field(factory=list)

    @property
    def victims(self) -> list[str]:
        """The processes there are."""
        return ["fawad", *["redis"] * bool(self.redis), *["s3"] * bool(self.s3)]

    @property
    def address(self) -> str:
        """Where fawad is, or was, if it is killed just now."""
        assert self._daemon is not None
        return self._daemon.plain

    def kill(self, victim: str) -> None:
        """End a process as a power cut would."""
        match victim:
            case "redis":
                assert self.redis is not None
                self.redis.kill()
            case "s3":
                assert self.s3 is not None
                self.s3.kill()
            case _:
                assert self._daemon is not None
                self._daemon.kill()
                self.end()

    def start(self, victim: str) -> None:
        """Start it again."""
        match victim:
            case "redis":
                assert self.redis is not None
                self.redis.start()
            case "s3":
                assert self.s3 is not None
                self.s3.start()
            case _:
                self._daemon = self._life.enter_context(running(self.folder / "fawad", *self._flags))

    def end(self) -> None:
        """Let fawad go, unless it was killed, and look through its log."""
        daemon = self._daemon
        self._life.close()
        if daemon is not None:
            self.faults += [str(entry) for entry in daemon.events() if "exception" in entry]

    @property
    def _flags(self) -> list[str]:
        flags = ["--file-sweep-interval", "100ms"]
        if self.redis is not None:
            flags += ["--redis-url", self.redis.url]
        if self.s3 is not None:
            flags += ["--s3-endpoint", self.s3.endpoint, "--s3-bucket", BUCKET]
            flags += ["--s3-access-key", ACCESS_KEY, "--s3-secret-key", SECRET_KEY]
        return flags

    def served(self) -> list[str]:
        """Return the keys of the files that are ready."""

        async def ask() -> list[str]:
            if self.redis is not None:
                async with redis_records(parse_redis_url(self.redis.url)) as redis:
                    return [key async for key in redis.keys(State.READY)]
            async with sqlite_records(self.folder / "fawad" / "files.sqlite3") as records:
                return [key async for key in records.keys(State.READY)]

        return trio.run(ask)

    def expire_all(self) -> None:
        """Bring forward when files and uploads expire."""
        if self.redis is not None:
            assert self.redis.ask("EVAL", _EXPIRE, "0") == b"$-1\r\n"
            return
        for table in self._tables():
            if table.name != "reservations":
                table.execute("UPDATE {} SET expires = 1")

    def left(self) -> list[str]:
        """Return all that is kept of files and uploads: content, parts and records."""
        return [*self._content(), *self._records()]

    def _content(self) -> list[str]:
        if self.s3 is not None:
            return trio.run(_in_bucket, self.s3.settings(BUCKET))
        files = self.folder / "fawad" / "files"
        paths = [path.relative_to(files) for path in files.rglob("*") if path.is_file()]
        paths += [path.relative_to(files) for path in (files / "resumable").iterdir()]
        return [str(path) for path in paths if str(path) != "owner"]

    def _records(self) -> list[str]:
        if self.redis is not None:
            names = self.redis.ask("KEYS", "{fawa.[fu]*}:*").decode().split("\r\n")[2::2]
            return [name for name in names if name != "{fawa.files}:identity"]
        return [
            f"{table.name}: {row}" for table in self._tables() for row in table.execute("SELECT * FROM {}")
        ]

    def _tables(self) -> list[Table]:
        known = {"files.sqlite3": ["files", "reservations"], "uploads.sqlite3": ["uploads"]}
        paths = [(self.folder / "fawad" / name, names) for name, names in known.items()]
        return [Table(path, name) for path, names in paths if path.exists() for name in names]

    def sweep_parts(self) -> None:
        """Abort uploads in S3 whose fawad is dead, as one does that finds them old enough."""
        if self.s3 is not None:
            trio.run(_sweep_parts, self.s3.settings(BUCKET, abort_after=0))


async def _sweep_parts(settings: S3Settings) -> None:
    async with s3_content(settings) as store:
        await store.sweep_uncommitted()


async def _in_bucket(settings: S3Settings) -> list[str]:
    """Return the names of all objects but the owner's, and of uploads in parts."""
    async with connect(settings) as client:
        objects = await client.request("list content", "GET", query={"list-type": "2"})
        found = [element.text or "" for element in objects.xml().iterfind("Contents/Key")]
        found.remove(f"{settings.prefix}.owner")
        with contextlib.suppress(NotFound):  # as rclone puts it that there are none
            parts = await client.request("list uploads", "GET", query={"uploads": ""})
            found += [f"parts of {element.text}" for element in parts.xml().iterfind("Upload/Key")]
    return found


@contextlib.contextmanager
def rig(folder: Path, content: str, records: str) -> Iterator[Rig]:
    """Run fawad over `content` (folder, rclone or ceph) and `records` (sqlite or redis)."""
    with contextlib.ExitStack() as servers:
        redis = servers.enter_context(redis_server(folder / "redis")) if records == "redis" else None
        s3 = None
        if content != "folder":
            open_s3 = {"rclone": rclone, "ceph": ceph}[content]
            s3 = servers.enter_context(open_s3(folder / content))
        made = Rig(folder, redis, s3)
        try:
            made.start("fawad")
            yield made
        finally:
            made.end()
