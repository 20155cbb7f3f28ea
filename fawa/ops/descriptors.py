"""How many files a process may open, and how many of them are not connections."""

from __future__ import annotations

from typing import Final

#: File descriptors that are not connections: listeners, stores, files under way.
SPARE: Final = 512
