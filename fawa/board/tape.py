"""Frames in the order in which they are sent, shared by everybody who is sent them.

A reader is a position on the tape, so a frame is kept once however many wait for it, and adding one costs the
same for one reader as for a thousand.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from functools import cached_property

import attrs


@attrs.frozen(eq=False)
class Batch:
    """Frames to send at once, in this order. Peers in step are given the very same object."""

    frames: tuple[bytes, ...]
    #: In bytes, of all frames.
    size: int

    @classmethod
    def of(cls, frames: tuple[bytes, ...]) -> Batch:
        """Return a batch of these frames."""
        return cls(frames, sum(map(len, frames)))

    @cached_property
    def data(self) -> bytes:
        """All frames as one piece, joined once."""
        return self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)


def batches_of(frames: Iterable[bytes], most: int) -> tuple[Batch, ...]:
    """Return all frames in batches of at most `most` bytes, but of one frame in any case."""
    tape = Tape()
    for frame in frames:
        tape.append(frame)
    batches = []
    position = 0
    while position < tape.end:
        some, position = tape.read(position, most)
        batches.append(Batch.of(some))
    return tuple(batches)


class Tape:
    """A bounded run of frames; positions count frames from the first that ever was on it.

    Bounded by its owner: `cut` and `trim` say which frames go. A position before `start` is lost.
    """

    __slots__ = ("_ends", "_frames", "start")

    def __init__(self) -> None:
        #: Position of the oldest frame that is still here.
        self.start = 0
        self._frames: list[bytes] = []
        #: Bytes ever written before each frame, and, last, before the one to come.
        self._ends = [0]

    @property
    def end(self) -> int:
        """Position of the frame to come."""
        return self.start + len(self._frames)

    @property
    def size(self) -> int:
        """Bytes of the frames that are here."""
        return self._ends[-1] - self._ends[0]

    def append(self, frame: bytes) -> None:
        """Add a frame at the end."""
        self._frames.append(frame)
        self._ends.append(self._ends[-1] + len(frame))

    def after(self, position: int) -> int:
        """Return how many bytes wait behind a position that is not lost."""
        return self._ends[-1] - self._ends[position - self.start]

    def read(self, position: int, most: int) -> tuple[tuple[bytes, ...], int]:
        """Return the frames from a position on, and the position after them.

        At most `most` bytes, but one frame in any case if there is one.
        """
        first = position - self.start
        last = max(bisect_right(self._ends, self._ends[first] + most) - 1, first + 1)
        frames = tuple(self._frames[first:last])
        return frames, position + len(frames)

    def trim(self, position: int) -> None:
        """Forget the frames before a position."""
        gone = position - self.start
        if gone > 0:
            del self._frames[:gone]
            del self._ends[:gone]
            self.start = position

    def cut(self, most: int) -> None:
        """Forget the oldest frames until at most `most` bytes are here."""
        self.trim(self.start + bisect_left(self._ends, self._ends[-1] - most))
