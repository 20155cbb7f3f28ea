"""Uploads into a folder that outlive their writers.

    <folder>/<key>/<epoch>    what there is of the upload, named by the epoch of its writer

The name is the fence. A new writer renames the file to its own epoch, and every writer looks for its own name
before it changes anything; both happen under the file's lock, which nobody holds for longer than one step.
So a writer that has been overtaken, wherever its process runs, finds its name gone and its bytes never reach
the file, and nobody waits for a writer whose connection is dead.

How much is stored is the size of the file: on the usual file systems (ext4 as it comes, XFS, Btrfs, ZFS) a
file that a power cut has met is shorter, and holds nothing that was not written. What has been told to a
client as stored was fsynced before.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple

import attrs

from fawa.storage.base import AlreadyExists, Damaged, Fenced, StorageError, WrongOffset
from fawa.storage.publishing import make_folder, publish_file, sync_folder
from fawa.storage.threads import Gathered, Threads, write_pieces

if TYPE_CHECKING:
    from hashlib import _Hash

#: Bytes hashed in one step, about 10 ms, so that hashing a long file again can be cancelled.
HASH_STEP: Final = 8 * 1024 * 1024
_READ: Final = 512 * 1024


# What threads run. Every function here blocks.


class Hashed:
    """The SHA-256 of the first `size` bytes of a file that only grows."""

    def __init__(self, sha256: _Hash | None = None, size: int = 0) -> None:
        self.sha256 = hashlib.sha256() if sha256 is None else sha256
        self.size = size

    def copy(self) -> Hashed:
        return Hashed(self.sha256.copy(), self.size)

    def update(self, data: bytes | memoryview) -> None:
        self.sha256.update(data)
        self.size += len(data)


def begin(folder: Path) -> None:
    """Make an upload without bytes, durably.

    Raises:
        AlreadyExists: there is one.
        OSError: from the file system.

    """
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise AlreadyExists(f"there is an upload under the key {folder.name} already") from None
    os.close(os.open(folder / "0", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    sync_folder(folder)
    sync_folder(folder.parent)


def discard(folder: Path) -> None:
    """Remove an upload; its writer is fenced off."""
    with suppress(FileNotFoundError):
        while True:
            # A writer may rename the file at this moment: then its new name is there at the next look.
            for path in list(folder.iterdir()):
                path.unlink(missing_ok=True)
            try:
                folder.rmdir()
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
            else:
                sync_folder(folder.parent)
                return


class ResumablePart:
    """The writer of an upload under one epoch."""

    def __init__(self, folder: Path, epoch: int, offset: int | None) -> None:
        """Become the writer.

        Raises:
            FileNotFoundError: there is no such upload, or it is committed.
            Fenced: a writer of this epoch or a later one was first.
            WrongOffset: other than `offset` bytes are stored.
            OSError: from the file system.

        """
        self.path = folder / str(epoch)
        self._fd, before = _open_locked(folder)
        try:
            if before >= epoch:
                raise Fenced(f"writer {before} of the upload {folder.name} came before writer {epoch}")
            self.start = self.size = os.fstat(self._fd).st_size
            if offset is not None and offset != self.size:
                text = f"{self.size} bytes of the upload {folder.name} are stored, not {offset}"
                raise WrongOffset(text, self.size)
            (folder / str(before)).rename(self.path)
            os.lseek(self._fd, 0, os.SEEK_END)
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        except BaseException:
            self.close()
            raise
        self.hashed = Hashed()
        self._hashed_at_start: Hashed | None = None

    @contextmanager
    def _owned(self) -> Iterator[None]:
        """Hold the file's lock, as its writer.

        Raises:
            Fenced: it is not ours any more.

        """
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            if not self.path.exists():
                raise Fenced(f"the upload {self.path.parent.name} was taken over, cancelled, or has expired")
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def hash_some(self) -> bool:
        """Hash some of what is stored and not hashed yet; tell whether there is more."""
        end = min(self.size, self.hashed.size + HASH_STEP)
        while self.hashed.size < end:
            data = os.pread(self._fd, min(_READ, end - self.hashed.size), self.hashed.size)
            if not data:
                raise Damaged(f"the upload {self.path.parent.name} has become shorter")
            self.hashed.update(data)
        return self.hashed.size < self.size

    def append(self, pieces: list[bytes | memoryview]) -> None:
        if self._hashed_at_start is None:
            self._hashed_at_start = self.hashed.copy()
        with self._owned():
            write_pieces(self._fd, pieces)
        for piece in pieces:
            self.hashed.update(piece)
            self.size += len(piece)

    def sync(self) -> int:
        """Make what is stored durable, and return how much that is."""
        os.fsync(self._fd)
        with self._owned():
            return self.size

    def rollback(self) -> None:
        with self._owned():
            os.ftruncate(self._fd, self.start)
            os.lseek(self._fd, 0, os.SEEK_END)
        self.size = self.start
        if self._hashed_at_start is not None:
            self.hashed = self._hashed_at_start.copy()

    def commit(self, target: Path, known: set[Path]) -> None:
        """Publish the content and end the upload; `known` are folders that need no more making."""
        # Before the lock, so that a new writer need not wait for a long file to reach the disk.
        os.fsync(self._fd)
        if target.parent not in known:
            make_folder(target.parent)
            known.add(target.parent)
        with self._owned():
            publish_file(self.path, target)
            # Still locked: nobody else may ever write to what is published.
            self.path.unlink(missing_ok=True)
        with suppress(OSError):
            self.path.parent.rmdir()

    def close(self) -> None:
        os.close(self._fd)


def _open_locked(folder: Path) -> tuple[int, int]:
    """Open and lock the file of an upload; return its descriptor and the epoch in its name.

    Raises:
        FileNotFoundError: there is none.
        OSError: from the file system.

    """
    while True:
        names = [path.name for path in folder.iterdir() if path.name.isdecimal()]
        if not names:
            raise FileNotFoundError(errno.ENOENT, "there is nothing of this upload", str(folder))
        path = folder / names[0]
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # renamed or removed since: look again
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            status = os.fstat(fd)
            if not path.exists():
                os.close(fd)
                continue
            if status.st_nlink > 1:
                # It was published just before a crash; nobody may write to it any more.
                path.unlink()
                raise FileNotFoundError(errno.ENOENT, "this upload is committed", str(folder))
        except BaseException:
            os.close(fd)
            raise
        return fd, int(path.name)


# The asynchronous face.


_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")


@attrs.define(eq=False)
class FilesystemResumableUpload:
    """A writer of an upload that outlives it; see `base.ResumableUpload`."""

    _threads: Threads
    _part: ResumablePart
    _target: Path
    _known: set[Path]
    #: What is here has not been written, whatever happened.
    _gathered: Gathered
    _usable: bool = attrs.field(default=True, init=False)

    @property
    def offset(self) -> int:
        """Bytes of the upload, what waits to be written included."""
        return self._part.size + self._gathered.size

    async def write(self, data: bytes | memoryview) -> None:
        """Append bytes; only every `BATCH` bytes or so does this wait for the disk."""
        self._check_usable()
        if self._gathered.add(data):
            await self._flush()

    async def digest(self) -> bytes:
        """Return the SHA-256 of the whole upload so far."""
        await self._flush()
        await self._catch_up()
        return self._part.hashed.sha256.digest()

    async def sync(self) -> int:
        """Write and fsync; return how many bytes are stored."""
        await self._flush()
        return await self._step("store an upload", self._part.sync)

    async def rollback(self) -> None:
        """Take back what this writer has written; it may write again, even after a write that failed."""
        self._gathered.clear()
        self._usable = True
        await self._step("take an upload back", self._part.rollback)

    async def commit(self) -> None:
        """Write, fsync, link to the final name, fsync the folder."""
        await self._flush()
        try:
            await self._step("store an upload", self._part.commit, self._target, self._known)
        except StorageError as error:
            if isinstance(error.__cause__, FileExistsError):
                raise AlreadyExists(f"there is content under the key {self._target.name} already") from error
            raise
        self._usable = False

    async def close(self) -> Hashed:
        """Write what still can be written, and close; return the hash, of as much as has been hashed."""
        pieces = self._gathered.pieces
        self._gathered.clear()
        with suppress(StorageError):
            if pieces:
                await self._catch_up()
                await self._threads.run("write an upload", self._part.append, pieces)
        await self._threads.run("end an upload", self._part.close)
        return self._part.hashed

    def _check_usable(self) -> None:
        if not self._usable:
            raise StorageError("this writer has failed or ended before: resume the upload anew")

    async def _step(self, doing: str, function: Callable[[*_Args], _Result], *args: *_Args) -> _Result:
        """Do one thing in a thread; after one that failed or was cancelled nothing may follow."""
        self._check_usable()
        self._usable = False
        result = await self._threads.run(doing, function, *args)
        self._usable = True
        return result

    async def _flush(self) -> None:
        self._check_usable()
        if self._gathered.pieces:
            await self._catch_up()
            try:
                await self._step("write an upload", self._part.append, self._gathered.pieces)
            except StorageError:
                # Nobody knows how much of it is there. (When cancelled, nothing is: the thread never ran.)
                self._gathered.clear()
                raise
            self._gathered.clear()

    async def _catch_up(self) -> None:
        while self._part.hashed.size < self._part.size:
            await self._threads.run("read an upload", self._part.hash_some)
