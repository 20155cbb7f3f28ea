"""Scripts with foreign clients that cannot live in the test's own process, and how they are run.

Some leave sockets to the garbage collector, some bring descriptors that clash with others in one pool.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from tests.interop.target import Target


def main(*scenarios: Callable[[Target], None]) -> None:
    """Run the scenario that the command line names: `SCENARIO ADDRESS [CERTIFICATE]`."""
    name, address, *certificate = sys.argv[1:]
    chosen = {scenario.__name__: scenario for scenario in scenarios}[name]
    chosen(Target(address, Path(certificate[0]) if certificate else None))
    sys.stdout.write(f"{name}: done\n")
