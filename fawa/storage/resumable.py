"""The file of an upload that outlives its writer. Blocking: for threads.

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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fawa.storage.base import AlreadyExists, Damaged, Fenced, WrongOffset
from fawa.storage.publishing import publish_file, sync_folder

if TYPE_CHECKING:
    from hashlib import _Hash

#: Bytes hashed in one step, about 10 ms, so that hashing a long file again can be cancelled.
HASH_STEP: Final = 8 * 1024 * 1024
_READ: Final = 512 * 1024


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
            written = os.writev(self._fd, pieces)
            if written < sum(map(len, pieces)):
                # The disk is about to be full, or a limit is near: the rest tells by its error, or fits.
                rest = memoryview(b"".join(pieces))[written:]
                while rest:
                    rest = rest[os.write(self._fd, rest) :]
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

    def commit(self, target: Path) -> None:
        """Publish the content, whose folder is there, and end the upload."""
        # Before the lock, so that a new writer need not wait for a long file to reach the disk.
        os.fsync(self._fd)
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
