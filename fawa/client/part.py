"""A download under way: `<name>.part` beside its target, and what it is a part of. Blocking: use a thread.

Beside it lies `<name>.part.json` with the key and the entity tag of the content, so that a later process goes
on only with the same content.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Final

from fawa.client.text import is_harmless

#: Bytes that file systems take in one name.
_MAX_NAME: Final = 255
#: Bytes hashed at once, so that a large part can be interrupted.
_HASH_PIECE: Final = 4 * 1024 * 1024


class TransferError(Exception):
    """A file cannot be sent or received; the text says why and what to do."""


def safe_name(name: str) -> str:
    """Return the name to save under where a server has proposed `name`: never a path."""
    last = re.split(r"[/\\]", name)[-1]
    cleaned = "".join(character if is_harmless(character) else "_" for character in last)
    return "download" if cleaned.strip() in {"", ".", ".."} else _cut(cleaned, _MAX_NAME)


def _cut(name: str, most: int) -> str:
    """Return the beginning of `name` in at most `most` bytes."""
    return name.encode("utf-8", "surrogateescape")[:most].decode("utf-8", "ignore")


class Part:
    """The file that a download grows in. Locked, so that two processes never write one part."""

    def __init__(self, target: Path, key: str) -> None:
        """Open what there is of `target`, or make it.

        A part of another key is emptied.

        Raises:
            TransferError: another process is at it, or the folder cannot be written to.

        """
        self.target = target
        stem = _cut(target.name, _MAX_NAME - len(".part.json"))
        self.path = target.with_name(f"{stem}.part")
        self._about = target.with_name(f"{stem}.part.json")
        self._key = key
        try:
            self._file = os.fdopen(self._open(), "r+b")
        except OSError as error:
            raise TransferError(f"cannot write {self.path}: {error.strerror}") from error
        #: Entity tag of the content that this is a part of, if known.
        self.tag = self._read_tag()
        #: Bytes that are there.
        self.size = os.fstat(self._file.fileno()).st_size
        self._sha256 = hashlib.sha256()
        self._hashed = 0
        if self.tag is None:
            self.restart(None)
        else:
            self._file.seek(0, os.SEEK_END)

    def _open(self) -> int:
        while True:
            # Not through a link that somebody else may have put there.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self.path, flags, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), self.path.lstat()):
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                raise TransferError(
                    f"another process is writing {self.path}: wait for it, or give another -o"
                ) from None
            except FileNotFoundError:
                pass
            # Whoever had it has just finished and renamed it.
            os.close(descriptor)

    def _read_tag(self) -> str | None:
        try:
            about = json.loads(self._about.read_text("utf-8"))
            return str(about["tag"]) if about["key"] == self._key and about["tag"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def restart(self, tag: str | None) -> None:
        """Begin from nothing, with a content of this entity tag; without one it cannot be resumed later.

        Raises:
            TransferError: the folder cannot be written to.

        """
        try:
            self._file.seek(0)
            self._file.truncate()
            self._about.write_text(json.dumps({"key": self._key, "tag": tag}) + "\n", "utf-8")
        except OSError as error:
            raise TransferError(f"cannot write {self.path}: {error.strerror}") from error
        self.tag = tag
        self.size = self._hashed = 0
        self._sha256 = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Add bytes.

        Raises:
            TransferError: the disk is full or broken.

        """
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise TransferError(f"cannot write {self.path}: {error.strerror}") from error
        if self._hashed == self.size:
            self._sha256.update(data)
            self._hashed += len(data)
        self.size += len(data)

    def hash_some(self) -> bool:
        """Hash a piece of what an earlier process wrote; tell whether more is to be hashed."""
        if self._hashed < self.size:
            data = os.pread(self._file.fileno(), min(_HASH_PIECE, self.size - self._hashed), self._hashed)
            self._sha256.update(data)
            self._hashed += len(data)
        return self._hashed < self.size

    @property
    def sha256(self) -> bytes:
        """Digest of what has been hashed: all, once `hash_some` has said so."""
        return self._sha256.digest()

    def publish(self, *, force: bool) -> None:
        """Make the part durable and give it the target's name.

        Raises:
            TransferError: something of that name is there (and not `force`), or the disk failed.

        """
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise TransferError(f"cannot write {self.target}: {error.strerror}") from error
        publish_file(self.path, self.target, force=force)
        with contextlib.suppress(OSError):
            self._about.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the part; one that can never be resumed is removed."""
        with contextlib.suppress(OSError):
            if not self.is_resumable and os.path.samestat(os.fstat(self._file.fileno()), self.path.lstat()):
                self.path.unlink()
                self._about.unlink(missing_ok=True)
        self._file.close()

    @property
    def is_resumable(self) -> bool:
        """There are bytes, and it is known what of."""
        return self.tag is not None and self.size > 0


def publish_file(path: Path, target: Path, *, force: bool) -> None:
    """Give a file that is durable the target's name, durably.

    Raises:
        TransferError: something of that name is there (and not `force`), or the disk failed.

    """
    try:
        if force:
            path.replace(target)
        else:
            _publish_new(path, target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError:
        raise already_there(target) from None
    except OSError as error:
        raise TransferError(f"cannot write {target}: {error.strerror}") from error


def _publish_new(path: Path, target: Path) -> None:
    """Rename without replacing anything: a hard link fails where a name is taken, a rename does not."""
    try:
        target.hardlink_to(path)
    except FileExistsError:
        raise
    except OSError:
        # The file system has no hard links.
        if os.path.lexists(target):
            raise FileExistsError from None
        path.rename(target)
    else:
        path.unlink()


def already_there(target: Path) -> TransferError:
    """Return the error for a target that must not be overwritten."""
    return TransferError(f"{target} is already there: give another -o, or --force to replace it")
