"""How a peer tells the bench that it serves: the line that fawad writes too."""

from __future__ import annotations

import json
import sys


def tell_ready(port: int) -> None:
    """Write the ready line to stderr."""
    print(json.dumps({"event": "ready", "listen": f"127.0.0.1:{port}"}), file=sys.stderr, flush=True)
