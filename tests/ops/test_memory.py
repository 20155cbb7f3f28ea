"""Freed memory is there for the next message."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

#: Takes and frees 3 MiB a hundred times as messages come and go; prints how many pages were made for it.
_CHURN = """
import resource, sys
from fawa.ops.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def turn():
    held = [b"x" * (1 << 20) + bytes([n]) for n in range(3)]
turn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    turn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_made(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", _CHURN, how], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.parametrize("how", ["keep", "leave"])
def test_memory_is_made_once(how: str) -> None:
    """The other way round it shows that this still is of use, where the C library is glibc."""
    kept = how == "keep" or platform.libc_ver()[0] != "glibc"
    assert (pages_made(how) < 2000) == kept
