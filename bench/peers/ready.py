"""How a peer tells the bench that it serves: the line that fawad writes too."""

from __future__ import annotations

import json
import sys


def tell_ready(port: int = 0, *, quic: int = 0) -> None:
    """Write the ready line to stderr, with the port of TCP, or that of QUIC."""
    record = {"event": "ready"}
    if port:
        record["listen"] = f"127.0.0.1:{port}"
    if quic:
        record["listen_quic"] = f"127.0.0.1:{quic}"
    print(json.dumps(record), file=sys.stderr, flush=True)
