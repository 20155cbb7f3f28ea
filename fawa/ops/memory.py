"""How the process deals with the C library's memory."""

from __future__ import annotations

from typing import Final

#: Bytes of the largest block whose memory is kept for the next one, rather than given back to the system.
KEEP: Final = 8 * 1024 * 1024


def keep_freed_memory() -> None:
    """Have the C library keep freed memory of up to twice `KEEP` bytes for the next allocation.

    glibc gives the top of its heap back as soon as some 128 KiB of it are free, so a server that handles
    megabyte after megabyte would have every page of every message made anew by the system, zeroed. The
    threshold is twice the largest mapped block that was ever freed (mallopt(3), M_MMAP_THRESHOLD): free one.
    It is mapped and never touched, and costs nothing. Other C libraries do as they do.
    """
    bytes(KEEP)
