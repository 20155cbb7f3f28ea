"""How work on a disk gets done: in a bounded number of threads, in large steps, with errors of ours."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar, TypeVarTuple

import attrs
import trio

from fawa.storage.base import OutOfSpace, StorageError

#: Bytes gathered at most before a thread writes them: one hop to a thread costs about 0.1 ms.
BATCH: Final = 4 * 1024 * 1024
#: As many are enough when they took longer than `SOON` to come: who is slow holds less memory.
BATCH_LEAST: Final = 1024 * 1024
#: Pieces gathered at most: writev(2) takes no more.
BATCH_PIECES: Final = 1024
#: Seconds in which a batch should pass for the cost of a hop to matter.
SOON: Final = 0.02

_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")


def is_batch(size: int, pieces: int, since: float) -> bool:
    """Tell whether enough is gathered, from `since` on (trio's clock), for a hop to a thread."""
    if size < BATCH_LEAST:
        return pieces >= BATCH_PIECES
    return size >= BATCH or pieces >= BATCH_PIECES or trio.current_time() - since >= SOON


def write_pieces(fd: int, pieces: list[bytes | memoryview]) -> None:
    """Write all of the pieces, at most `BATCH_PIECES`. Blocking: for threads.

    Raises:
        OSError: some of it may be written.

    """
    written = os.writev(fd, pieces)
    if written < sum(map(len, pieces)):
        # The disk is about to be full, or a limit is near: the rest tells by its error, or fits.
        rest = memoryview(b"".join(pieces))[written:]
        while rest:
            rest = rest[os.write(fd, rest) :]


@attrs.define(eq=False)
class Threads:
    """Runs blocking functions in the folder's threads and turns their errors into ours."""

    folder: Path
    limiter: trio.CapacityLimiter

    async def run(self, doing: str, function: Callable[[*_Args], _Result], *args: *_Args) -> _Result:
        try:
            return await trio.to_thread.run_sync(function, *args, limiter=self.limiter)
        except OSError as error:
            raise self.explain(doing, error) from error

    def explain(self, doing: str, error: OSError) -> StorageError:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return OutOfSpace(f"cannot {doing} in {self.folder}: {reason}. Free space there.")
        if error.errno == errno.EFBIG:
            return OutOfSpace(
                f"cannot {doing} in {self.folder}: {reason}. "
                "The file system or the process's file size limit (ulimit -f) allows no larger file."
            )
        if isinstance(error, PermissionError):
            return StorageError(
                f"cannot {doing} in {self.folder}: {reason}. "
                "Give the user that runs fawad the right to read and write there, or set another folder."
            )
        return StorageError(f"cannot {doing} in {self.folder}: {reason}. Check the disk and the mount.")
