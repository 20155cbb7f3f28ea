"""Making folders, and giving a finished file its name: all at once, never over another, and durable.

Everything here blocks, and is for threads.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

#: What link(2) says on file systems without hard links (FAT, some network mounts).
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


def make_folders(path: Path) -> None:
    """Make a folder with mode 0700, and those above it, unless it is there."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None


def make_folder(path: Path) -> None:
    """Make a folder, unless it is there, that survives a power cut."""
    path.mkdir(mode=0o700, exist_ok=True)
    sync_folder(path.parent)


def publish_file(draft: Path, target: Path) -> None:
    """Name the fsynced file `draft` also `target`; the caller removes the name `draft`, if it still is there.

    Raises:
        FileExistsError: there is a `target`, which is left as it is.
        OSError: from the file system; then there is no `target`.

    """
    try:
        target.hardlink_to(draft)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Two processes could both pass this check, where the link above lets only one pass. Names that
        # are drawn at random do not meet.
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        draft.rename(target)
    try:
        sync_folder(target.parent)
    except BaseException:
        target.unlink()
        raise


def sync_folder(path: Path) -> None:
    """Make names added to the folder survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
