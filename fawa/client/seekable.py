"""What is made while it is read, and can be read from anywhere, as a file can."""

from __future__ import annotations

import io
import os


class Seekable(io.RawIOBase):
    """The base of such; whoever makes one gives `read`, which begins at `_at` and moves it."""

    def __init__(self) -> None:
        super().__init__()
        self._at = 0

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be read from anywhere."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go on at an offset from the start."""
        if whence != os.SEEK_SET:
            raise io.UnsupportedOperation("only offsets from the start")
        self._at = offset
        return offset

    def tell(self) -> int:
        """Return where the next byte is read."""
        return self._at
