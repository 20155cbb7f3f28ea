"""The load test that operators run, `bench/k6/load.js`, by the real k6: that its quick form works at all."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.daemon import Daemon, running
from tests.interop.programs import program, run

#: How k6 ends when what the script demands was not so.
THRESHOLDS_CROSSED = 99


def load(server: str, *flags: str) -> subprocess.CompletedProcess[bytes]:
    quiet = ("--quiet", "--no-usage-report", "--no-color", "--address", "127.0.0.1:0")
    options = (*quiet, *flags, "-e", "QUICK=1", "-e", f"FAWA_SERVER={server}")
    return run(program("k6"), "run", *options, "bench/k6/load.js", timeout=240)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_everything_works(daemon: Daemon, scheme: str) -> None:
    if scheme == "http":
        ended = load(f"http://{daemon.plain}")
    else:
        ended = load(f"https://{daemon.tls}", "--insecure-skip-tls-verify")
    assert (ended.returncode, ended.stderr) == (0, b""), ended.stdout.decode() + ended.stderr.decode()


def test_what_does_not_work_is_seen(tmp_path: Path) -> None:
    with running(tmp_path, "--services", "greet,canva") as daemon:
        ended = load(f"http://{daemon.plain}")
    assert ended.returncode == THRESHOLDS_CROSSED
    told = (ended.stdout + ended.stderr).decode()
    assert "✗ 'count>0' count=0" in told  # of files
    assert "✓ gRPC greets" in told
