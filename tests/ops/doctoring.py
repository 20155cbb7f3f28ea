"""What tests of `fawad doctor` share."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fawa.config import load
from fawa.ops.doctor.examination import CHECKS, examine
from fawa.ops.doctor.findings import Case
from fawa.wiring import probes
from tests.daemon import PATIENCE, Daemon


def flags_of(daemon: Daemon) -> list[str]:
    """Return the flags of a doctor who is to look at a running daemon."""
    admin = next(entry["listen"] for entry in daemon.events() if entry["event"] == "admin")
    return [
        *("--listen", daemon.plain, "--listen-tls", daemon.tls, "--admin-listen", admin),
        *("--data-dir", str(daemon.data_dir), "--limits-max-connections", "100"),
    ]


async def look(
    flags: list[str],
    ca: Path | None = None,
    clock: Callable[[], float] = time.time,
) -> dict[str, str]:
    """Examine a set-up; returns what is wrong by the check that found it."""
    settings = load(flags, {}, Path.cwd()).settings
    examined = await examine(Case(settings, ca, clock, PATIENCE, probes(settings, clock)))
    assert [one.name for one in examined] == [name for name, _ in CHECKS]
    return {one.name: "\n".join(f.problem for f in one.findings) for one in examined if one.findings}


def fawad_doctor(*flags: str, under: str = "") -> tuple[int, dict[str, Any]]:
    """Run the command; returns its exit code and what it prints with --json."""
    command = [*shlex.split(under), sys.executable, "-m", "fawa.cli", "doctor", "--json", *flags]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FAWA")}
    ended = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=4 * PATIENCE, check=False
    )
    assert ended.stderr == ""
    return ended.returncode, json.loads(ended.stdout)


def problems(report: dict[str, Any], name: str) -> list[str]:
    [check] = [check for check in report["checks"] if check["name"] == name]
    return [finding["problem"] for finding in check["findings"]]


def free_port() -> int:
    """Return a port that was free a moment ago for TCP; the test's own daemon takes it at once."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port
