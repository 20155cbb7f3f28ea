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

#: Bytes of an upload gathered at most before a thread writes them: one hop to a thread costs about 0.1 ms.
BATCH: Final = 4 * 1024 * 1024
#: As many are enough when they took longer than `SOON` to come: who is slow holds less memory.
BATCH_LEAST: Final = 1024 * 1024
#: Pieces gathered at most: writev(2) takes no more.
BATCH_PIECES: Final = 1024
#: Seconds in which a batch should pass for the cost of a hop to matter.
SOON: Final = 0.02
#: Bytes of all uploads gathered at most: what comes beyond is written at once. Pieces that are views may keep
#: up to 16 times as much in memory (see `fawa.rpc.envelope`).
TOGETHER: Final = 64 * 1024 * 1024

_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")


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
    #: Bytes of all uploads that wait to be written.
    gathered: int = attrs.field(default=0, init=False)

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


@attrs.define(eq=False)
class Gathered:
    """What of one upload waits for a hop to a thread."""

    _threads: Threads
    #: Fewer than `BATCH` bytes before the last one.
    pieces: list[bytes | memoryview] = attrs.field(factory=list, init=False)
    size: int = attrs.field(default=0, init=False)
    #: When the first of it came, on trio's clock.
    _since: float = attrs.field(default=0.0, init=False)

    def add(self, data: bytes | memoryview) -> bool:
        """Add bytes; returns whether all there is should be written now."""
        if not data:
            return False
        if not self.pieces:
            self._since = trio.current_time()
        self.pieces.append(data)
        self.size += len(data)
        self._threads.gathered += len(data)
        if self.size >= BATCH or len(self.pieces) >= BATCH_PIECES or self._threads.gathered > TOGETHER:
            return True
        return self.size >= BATCH_LEAST and trio.current_time() - self._since >= SOON

    def clear(self) -> None:
        """Forget it: it is written, or will not be."""
        self._threads.gathered -= self.size
        self.pieces, self.size = [], 0
