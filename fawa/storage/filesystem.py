"""Content in a folder: one file a key, published by hard link after fsync.

    <folder>/uploads/<key>.<random>.part    uploads under way, each locked by its writer
    <folder>/resumable/<key>/<epoch>        uploads that outlive their writers; see `resumable`
    <folder>/content/<ab>/<key>             committed content, `ab` being the key's first two characters
    <folder>/owner                          the identity of the records that the content goes with

An upload is written and fsynced under its part name, then linked to its final name (which fails when that
exists: nothing is ever overwritten), then the folder is fsynced. A crash leaves a part, the whole content,
or both names of the whole content; `sweep_uncommitted` takes the part names away. The lock on a part dies
with its writer's process, so a sweep by one process never touches the uploads of another.

Content without a record is removed when a daemon starts, so all of a folder goes with one set of records.
Whoever comes first writes their identity there, if the folder is empty or they know what is in it; whoever
comes with other records does not start.

Everything that touches the disk runs in threads.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

import attrs
import trio

from fawa.storage.base import (
    PIECE,
    AlreadyExists,
    Damaged,
    NotFound,
    StorageError,
    check_key,
    is_key,
)
from fawa.storage.publishing import make_folder, make_folders, publish_file
from fawa.storage.resumable import FilesystemResumableUpload, Hashed, ResumablePart, begin, discard
from fawa.storage.threads import SOON, Gathered, Threads, write_pieces

#: Pieces of content that a thread reads in one hop at most, for a reader who takes all of them soon.
READ_AHEAD: Final = 8

#: Threads that work on the folder at once. A disk is no faster for more, and one that hangs must not use
#: up the threads that other parts of the daemon need.
THREADS: Final = 16

#: Unfinished uploads whose running hash is kept in memory, under 1 KiB each; the oldest go first. Whoever
#: resumes one without hashes again what is stored, at the speed of SHA-256 and the disk.
HASHES: Final = 1024

#: Seconds to wait for a thread in which to close and remove, when cancelled.
CLEANUP_TIMEOUT: Final = 10.0


# What threads run. Every function here blocks and raises OSError.


def _prepare(folder: Path) -> None:
    make_folders(folder)
    for name in ("uploads", "resumable", "content"):
        make_folder(folder / name)
        if not os.access(folder / name, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder / name))


def _free_space(path: Path) -> int:
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


def _list_folder(path: Path) -> list[str]:
    """Return the names in a folder, none when there is no such folder."""
    try:
        return [entry.name for entry in path.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _read_owner(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return None


def _write_owner(path: Path, owner: str, draft: Path, known: set[Path]) -> None:
    """Write whose the content is, unless somebody has."""
    part = _Part(draft)
    try:
        part.append([owner.encode() + b"\n"])
        with suppress(FileExistsError):
            part.commit(path, known)
    finally:
        part.discard()


def _remove_abandoned(path: Path) -> bool:
    """Remove a part whose writer is dead; tell whether that was so."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(path)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _open_content(path: Path) -> tuple[BinaryIO, int]:
    file = path.open("rb", buffering=0)
    try:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return file, os.fstat(file.fileno()).st_size
    except BaseException:
        file.close()
        raise


def _read_pieces(fd: int, offset: int, end: int, most: int) -> list[bytes]:
    """Read up to `most` pieces; fewer at `end` and at the end of the file."""
    pieces: list[bytes] = []
    while len(pieces) < most and (piece := os.pread(fd, min(PIECE, end - offset), offset)):
        pieces.append(piece)
        offset += len(piece)
    return pieces


class _Part:
    """The file of an upload under way, and the hash of what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sha256 = hashlib.sha256()
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            self.discard()
            raise

    def digest(self) -> bytes:
        return self.sha256.digest()

    def append(self, pieces: list[bytes | memoryview]) -> None:
        for piece in pieces:
            self.sha256.update(piece)
        write_pieces(self._fd, pieces)

    def commit(self, target: Path, known: set[Path]) -> None:
        """Publish the content; `known` are folders that need no more making."""
        os.fsync(self._fd)
        if target.parent not in known:
            make_folder(target.parent)
            known.add(target.parent)
        publish_file(self.path, target)

    def close(self) -> None:
        os.close(self._fd)

    def discard(self) -> None:
        self.close()
        _remove(self.path)


# The asynchronous face.


@attrs.define(eq=False)
class FilesystemUpload:
    """An upload into a part file; see `base.Upload`."""

    _threads: Threads
    _part: _Part
    _target: Path
    _known: set[Path]
    _gathered: Gathered
    _usable: bool = attrs.field(default=True, init=False)

    async def write(self, data: bytes | memoryview) -> None:
        """Append bytes; only every `BATCH` bytes or so does this wait for the disk."""
        self._check_usable()
        if self._gathered.add(data):
            await self._flush()

    async def digest(self) -> bytes:
        """Return the SHA-256 of what has been written so far."""
        self._check_usable()
        await self._flush()
        return self._part.sha256.digest()

    async def commit(self) -> None:
        """Write, fsync, link to the final name, fsync the folder."""
        self._check_usable()
        await self._flush()
        self._usable = False
        try:
            await self._threads.run("store an upload", self._part.commit, self._target, self._known)
        except StorageError as error:
            if isinstance(error.__cause__, FileExistsError):
                raise AlreadyExists(f"there is content under the key {self._target.name} already") from error
            raise

    def _check_usable(self) -> None:
        if not self._usable:
            raise StorageError("the upload has failed or ended before: begin a new one")

    async def _flush(self) -> None:
        if pieces := self._gathered.pieces:
            self._gathered.clear()
            self._usable = False
            await self._threads.run("write an upload", self._part.append, pieces)
            self._usable = True


@attrs.define(eq=False)
class FilesystemContent:
    """An open file; see `base.Content`."""

    _threads: Threads
    _key: str
    _fd: int
    file: BinaryIO | None
    size: int

    async def read(self, offset: int, count: int) -> AsyncGenerator[bytes, None]:
        """Iterate over `count` bytes from `offset` in pieces of up to `PIECE` bytes."""
        end = offset + count
        ahead = 2
        while offset < end:
            began = trio.current_time()
            pieces = await self._threads.run("read", _read_pieces, self._fd, offset, end, ahead)
            if not pieces:
                raise Damaged(f"content {self._key} ends at byte {offset}, and {end} were asked for")
            pieces.reverse()
            while pieces:
                offset += len(pieces[-1])
                yield pieces.pop()
            # Who is slow has no use for fewer hops, and holds less memory.
            ahead = min(2 * ahead, READ_AHEAD) if trio.current_time() - began < SOON else 1


class FilesystemStore:
    """A folder of content; made by `content_store`."""

    def __init__(self, folder: Path) -> None:
        self._uploads = folder / "uploads"
        self._resumable = folder / "resumable"
        self._content = folder / "content"
        self._owner = folder / "owner"
        self._threads = Threads(folder, trio.CapacityLimiter(THREADS))
        #: Folders that this process has made durable; at most 4,096, one for each two characters.
        self._known: set[Path] = set()
        self._hashes: OrderedDict[str, Hashed] = OrderedDict()

    async def prepare(self) -> None:
        """Make the folders where they are missing, and see that they can be used."""
        await self._threads.run("keep files", _prepare, self._threads.folder)

    @property
    def checks(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Nothing but the folder that is opened."""
        return {}

    async def claim(self, owner: str, knows: Callable[[str], Awaitable[bool]]) -> None:
        """Write down whose the folder is, if nobody has; see `base.ContentStore.claim`."""
        found = await self._threads.run("see whose the files are", _read_owner, self._owner)
        if found is None:
            await self._check_unclaimed(knows)
            draft = self._uploads / f"owner.{secrets.token_hex(8)}.part"
            doing = "say whose the files are"
            await self._threads.run(doing, _write_owner, self._owner, owner, draft, self._known)
            found = await self._threads.run("see whose the files are", _read_owner, self._owner)
        if found != owner:
            raise StorageError(
                f"{self._threads.folder} has the content of other records ({found}) than ours ({owner}), "
                f"and what ours do not know would be removed. {self._advice}"
            )

    async def _check_unclaimed(self, knows: Callable[[str], Awaitable[bool]]) -> None:
        """Check that there is nothing, or something that our records know: then all of it is theirs."""
        keys = [key async for key in self.keys()] + [key async for key in self.unfinished()]
        for key in keys:
            if await knows(key):
                return
        if keys:
            raise StorageError(
                f"{self._threads.folder} has content that our records do not know, such as {keys[0]}, "
                f"and it would be removed. {self._advice}"
            )

    @property
    def _advice(self) -> str:
        return (
            "Set redis.url as it was when these files came, or another data_dir; if their records are gone "
            f"for good, move {self._threads.folder} away."
        )

    async def free_space(self) -> int:
        """Return how many bytes more the disk takes, of those that are not kept back for root."""
        return await self._threads.run("see how much room there is", _free_space, self._threads.folder)

    def _path(self, key: str) -> Path:
        return self._content / check_key(key)[:2] / key

    @asynccontextmanager
    async def create(self, key: str) -> AsyncIterator[FilesystemUpload]:
        """Begin an upload; see `base.ContentStore.create`."""
        target = self._path(key)
        path = self._uploads / f"{key}.{secrets.token_hex(8)}.part"
        part = await self._threads.run("begin an upload", _Part, path)
        gathered = Gathered(self._threads)
        try:
            yield FilesystemUpload(self._threads, part, target, self._known, gathered)
        finally:
            gathered.clear()
            # A part that cannot be removed is left to the next sweep, an open file is not.
            with trio.move_on_after(CLEANUP_TIMEOUT, shield=True) as scope, suppress(StorageError):
                await self._threads.run("end an upload", part.discard)
            if scope.cancelled_caught:
                part.close()

    @asynccontextmanager
    async def open(self, key: str) -> AsyncIterator[FilesystemContent]:
        """Open committed content; see `base.ContentStore.open`."""
        try:
            file, size = await self._threads.run("open content", _open_content, self._path(key))
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise NotFound(f"there is no content under the key {key}") from error
            raise
        try:
            yield FilesystemContent(self._threads, key, file.fileno(), file, size)
        finally:
            # In a thread: closing the last name of a large deleted file frees its blocks.
            with trio.move_on_after(CLEANUP_TIMEOUT, shield=True) as scope:
                await self._threads.run("close content", file.close)
            if scope.cancelled_caught:
                file.close()

    def link(self, key: str, headers: Mapping[str, str], now: float, seconds: int) -> str | None:
        """Return `None`: nobody but us serves a folder."""
        check_key(key)
        return None

    async def delete(self, key: str) -> None:
        """Remove the content; see `base.ContentStore.delete`."""
        await self._threads.run("delete content", _remove, self._path(key))

    async def keys(self) -> AsyncIterator[str]:
        """Iterate over the keys of committed content; files that are not ours are passed over."""
        for shard in await self._threads.run("list content", _list_folder, self._content):
            for name in await self._threads.run("list content", _list_folder, self._content / shard):
                if is_key(name) and name[:2] == shard:
                    yield name

    async def sweep_uncommitted(self) -> int:
        """Remove the parts whose writers are dead."""
        removed = 0
        for name in await self._threads.run("list uploads", _list_folder, self._uploads):
            if name.endswith(".part"):
                removed += await self._threads.run(
                    "remove an upload", _remove_abandoned, self._uploads / name
                )
        return removed

    async def begin(self, key: str) -> None:
        """Begin an upload that may be resumed; see `base.ResumableStore.begin`."""
        await self._threads.run("begin an upload", begin, self._resumable / check_key(key))

    @asynccontextmanager
    async def resume(
        self, key: str, epoch: int, offset: int | None = None
    ) -> AsyncIterator[FilesystemResumableUpload]:
        """Become the writer of an upload; see `base.ResumableStore.resume`."""
        folder = self._resumable / check_key(key)
        try:
            part = await self._threads.run("resume an upload", ResumablePart, folder, epoch, offset)
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise NotFound(f"there is no unfinished upload under the key {key}") from error
            raise
        hashed = self._hashes.pop(key, None)
        if hashed is not None and hashed.size <= part.size:
            part.hashed = hashed
        upload = FilesystemResumableUpload(
            self._threads, part, self._path(key), self._known, Gathered(self._threads)
        )
        try:
            yield upload
        finally:
            with trio.move_on_after(CLEANUP_TIMEOUT, shield=True) as scope:
                self._keep_hash(key, await upload.close())
            if scope.cancelled_caught:
                part.close()

    def _keep_hash(self, key: str, hashed: Hashed) -> None:
        before = self._hashes.get(key)
        if before is None or before.size < hashed.size:
            self._hashes[key] = hashed
        if len(self._hashes) > HASHES:
            self._hashes.popitem(last=False)

    async def discard(self, key: str) -> None:
        """Remove an unfinished upload; see `base.ResumableStore.discard`."""
        await self._threads.run("remove an upload", discard, self._resumable / check_key(key))
        self._hashes.pop(key, None)

    async def unfinished(self) -> AsyncIterator[str]:
        """Iterate over the keys of unfinished uploads."""
        for name in await self._threads.run("list uploads", _list_folder, self._resumable):
            if is_key(name):
                yield name


@asynccontextmanager
async def content_store(folder: Path) -> AsyncIterator[FilesystemStore]:
    """Open the folder, made with mode 0700 when it is not there.

    Raises:
        StorageError: it cannot be made, read or written.

    """
    store = FilesystemStore(folder)
    await store.prepare()
    yield store
