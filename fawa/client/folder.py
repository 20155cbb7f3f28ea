"""Folders on their way: packed as a tar archive while they are read, and restored. Blocking: use a thread.

The archive (POSIX.1-2001 pax) is laid out before a byte of it is read, so its size is known and any part of
it can be read again: an upload goes on where it was interrupted, and no copy is made.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import secrets
import shutil
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

import attrs

from fawa.client.part import TransferError, already_there
from fawa.client.seekable import Seekable

#: What the name of a packed folder ends with, so that `fawa receive` knows it from other archives.
SUFFIX: Final = ".dir.tar"

#: Bytes of content copied at once.
_PIECE: Final = 1024 * 1024
#: Bytes to which an archive is filled up.
_RECORD: Final = tarfile.RECORDSIZE
_BLOCK: Final = tarfile.BLOCKSIZE
#: What folders are called that are not whole yet, or are being replaced.
_ASIDE: Final = ("unpacking", "replaced")


@attrs.frozen
class _Extent:
    """A stretch of the archive: bytes as they are, or of a file."""

    start: int
    size: int
    literal: bytes = b""
    path: Path | None = None


class PackedFolder(Seekable):
    """A folder as the archive that it becomes; reads from any offset, as a file does."""

    def __init__(self, folder: Path) -> None:
        """Look through the folder.

        Raises:
            TransferError: something in it cannot be read, or is neither file, folder nor link.

        """
        super().__init__()
        self._extents: list[_Extent] = []
        #: Bytes of the archive.
        self.size = 0
        self._open: tuple[Path, BinaryIO] | None = None
        try:
            for path in _walk(folder):
                self._lay_out(path, path.relative_to(folder).as_posix())
        except OSError as error:
            raise TransferError(f"cannot read {error.filename or folder}: {error.strerror}") from error
        end = self.size + 2 * _BLOCK
        self._add(_Extent(self.size, -(-end // _RECORD) * _RECORD - self.size))
        self._starts = [extent.start for extent in self._extents]

    def _lay_out(self, path: Path, name: str) -> None:
        about = path.lstat()
        entry = tarfile.TarInfo(name)
        entry.mtime = about.st_mtime
        # Who owns it here means nothing there.
        entry.mode = stat.S_IMODE(about.st_mode) & 0o777
        if stat.S_ISREG(about.st_mode):
            entry.size = about.st_size
        elif stat.S_ISDIR(about.st_mode):
            entry.type = tarfile.DIRTYPE
        elif stat.S_ISLNK(about.st_mode):
            entry.type, entry.linkname = tarfile.SYMTYPE, str(path.readlink())
            if not _stays_inside(PurePosixPath(name), entry.linkname):
                raise TransferError(
                    f"{path} is a link out of the folder: remove it, or send what it leads to"
                )
        else:
            raise TransferError(f"{path} is neither file, folder nor link: it cannot be sent")
        try:
            f"{name}{entry.linkname}".encode()
        except UnicodeEncodeError:
            raise TransferError(f"the name of {str(path)!r} is not valid UTF-8: rename it") from None
        header = entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
        self._add(_Extent(self.size, len(header), header))
        if entry.size:
            self._add(_Extent(self.size, entry.size, path=path))
            self._add(_Extent(self.size, -entry.size % _BLOCK))

    def _add(self, extent: _Extent) -> None:
        if extent.size:
            self._extents.append(extent)
            self.size += extent.size

    def read(self, count: int = -1) -> bytes:
        """Return the next bytes, `count` unless the archive ends before.

        Raises:
            OSError: a file cannot be read.
            TransferError: one has become shorter.

        """
        left = self.size - self._at if count < 0 else min(count, self.size - self._at)
        pieces = []
        number = bisect.bisect_right(self._starts, self._at) - 1
        while left > 0:
            extent = self._extents[number]
            skip = self._at - extent.start
            some = min(left, extent.size - skip)
            pieces.append(self._read_extent(extent, skip, some))
            self._at += some
            left -= some
            number += 1
        return b"".join(pieces)

    def _read_extent(self, extent: _Extent, skip: int, count: int) -> bytes:
        if extent.path is None:
            return extent.literal[skip : skip + count] if extent.literal else bytes(count)
        if self._open is None or self._open[0] != extent.path:
            self._forget()
            # Not through a link that somebody has put there meanwhile.
            descriptor = os.open(extent.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            self._open = extent.path, os.fdopen(descriptor, "rb", buffering=0)
        data = os.pread(self._open[1].fileno(), count, skip)
        while len(data) < count:
            more = os.pread(self._open[1].fileno(), count - len(data), skip + len(data))
            if not more:
                raise TransferError(
                    f"{extent.path} has become shorter while the folder was sent: send it again"
                )
            data += more
        return data

    def _forget(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def close(self) -> None:
        """Close the file that was read last."""
        self._forget()
        super().close()


def _walk(folder: Path) -> Iterator[Path]:
    """Iterate over all that is in a folder, each folder before what it has, in the order of the names."""
    left = [folder]
    while left:
        path = left.pop()
        if path is not folder:
            yield path
        if path is folder or (path.is_dir() and not path.is_symlink()):
            left += sorted(path.iterdir(), reverse=True)


def _stays_inside(name: PurePosixPath, target: str) -> bool:
    """Tell whether a link `name` in a real folder leads to somewhere in its own archive.

    Steps up may only come first: after a name, which may be a link itself, nobody knows where they lead.
    """
    parts = PurePosixPath(target).parts
    ups = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    is_harmless = bool(parts) and parts[0] != "/" and "\0" not in target and ".." not in parts[ups:]
    return is_harmless and ups < len(name.parts)


def restore(archive: Path, target: Path, *, force: bool) -> None:
    """Restore a folder from its archive: whole, or not at all.

    Nothing outside of `target` is written, whatever the archive says: it may hold folders, files, and links
    that lead inside of it; links come last, when nothing is written any more.

    Raises:
        TransferError: the archive holds something else, cannot be read, or the target is there already.

    """
    if os.path.lexists(target) and not force:
        raise already_there(target)
    made, aside = (target.with_name(f"{target.name[:100]}.{secrets.token_hex(6)}.{word}") for word in _ASIDE)
    try:
        made.mkdir()
        try:
            with tarfile.open(archive, "r:", encoding="utf-8", errors="strict") as entries:
                _unpack(entries, made)
            if os.path.lexists(target):
                if not force:
                    raise already_there(target)
                target.rename(aside)
            made.rename(target)
            _remove(aside)
        except BaseException:
            with contextlib.suppress(OSError):
                _remove(made)
            raise
    except (tarfile.TarError, ValueError, OverflowError) as error:  # the latter two for times that are none
        raise TransferError(f"{archive} is no whole archive: {error}") from error
    except OSError as error:
        raise TransferError(f"cannot restore {target}: {error.strerror or error}") from error


def _unpack(entries: tarfile.TarFile, folder: Path) -> None:
    links: list[tuple[PurePosixPath, str]] = []
    folders: list[tuple[Path, tarfile.TarInfo]] = []
    for entry in entries:
        name = _safe_path(entry.name)
        path = folder / name
        if entry.isdir():
            path.mkdir(parents=True, exist_ok=True)
            folders.append((path, entry))
        elif entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not entry.issparse():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(entries, entry, path)
        elif entry.issym() and _stays_inside(name, entry.linkname):
            links.append((name, entry.linkname))
        else:
            raise TransferError(
                f"the archive has {entry.name!r}, which is neither file, folder nor link inside of it: "
                "nothing was restored"
            )
    for name, led_to in links:
        parent = folder / name.parent
        parent.mkdir(parents=True, exist_ok=True)
        if parent.resolve() != folder.resolve() / name.parent:
            raise TransferError(f"the archive has {str(name)!r} inside of a link: nothing was restored")
        (folder / name).symlink_to(led_to)
    # The innermost first: what happens in a folder changes its time, and its mode may forbid it.
    for path, entry in reversed(folders):
        os.utime(path, (entry.mtime, entry.mtime))
        path.chmod(entry.mode & 0o777 | stat.S_IRWXU)


def _safe_path(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise TransferError(f"the archive has {name!r}, which leads out of the folder: nothing was restored")
    return path


def _write(entries: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> None:
    source = entries.extractfile(entry)
    if source is None:
        raise tarfile.ReadError(f"{entry.name!r} has no content")
    # Only new files: an archive that names one twice is none of ours.
    with source, path.open("xb") as copy:
        shutil.copyfileobj(source, copy, _PIECE)
        if copy.tell() != entry.size:
            raise tarfile.ReadError(f"{entry.name!r} ends too early")
        os.fchmod(copy.fileno(), entry.mode & 0o777 | stat.S_IRUSR | stat.S_IWUSR)
        copy.flush()
        os.utime(copy.fileno(), (entry.mtime, entry.mtime))


def _remove(path: Path) -> None:
    """Remove whatever is there; never what a link leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
