"""The systemd unit: what systemd says of it, and fawad run as it says."""

from __future__ import annotations

import shlex
import signal
import socket
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from fawa.config.settings import Settings
from tests.daemon import PATIENCE

UNIT = Path(__file__).parents[2] / "scripts" / "deploy" / "fawad.service"
FAWAD = Path(sys.executable).with_name("fawad")

#: Becomes fawad, without memory that is written to and executed: MemoryDenyWriteExecute=, PR_SET_MDWE of
#: prctl(2) since Linux 6.3. An older kernel refuses the call and leaves the process as it was.
CONFINED = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


def unit() -> dict[str, list[str]]:
    """Return the settings of the service, each with all its values."""
    found: dict[str, list[str]] = defaultdict(list)
    service = UNIT.read_text().partition("[Service]\n")[2].partition("[Install]")[0]
    for line in service.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found[name].append(value)
    return found


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit with fawad where the tests have it."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/fawa/bin/fawad", str(FAWAD)))
    return copy


def test_systemd_finds_no_fault_with_it_and_little_that_it_exposes(installed: Path) -> None:
    verified = subprocess.run(
        ["systemd-analyze", "verify", str(installed)], capture_output=True, text=True, check=True, timeout=60
    )
    assert verified.stderr == ""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(installed)]
    subprocess.run(command, capture_output=True, check=True, timeout=60)  # 20 of 100


def seconds(text: str) -> float:
    assert text.isdigit()
    return float(text)


def hear(sock: socket.socket) -> list[str]:
    """Return the names and values of one message, but for those that vary."""
    return [line for line in sock.recv(4096).decode().split("\n") if not line.startswith(("STATUS", "MONO"))]


def test_fawad_starts_reloads_and_stops_as_the_unit_says(tmp_path: Path) -> None:
    service = unit()
    assert service["Type"] == ["notify"]
    assert seconds(service["TimeoutStopSec"][0]) >= Settings(data_dir=tmp_path).drain_grace + 10
    given = dict(pair.split("=", 1) for line in service["Environment"] for pair in line.split())
    assert given["FAWA_DATA_DIR"] == given["HOME"] == f"/var/lib/{service['StateDirectory'][0]}"
    state = tmp_path / "state"
    state.mkdir(mode=int(service["StateDirectoryMode"][0], 8))
    given |= {"FAWA_DATA_DIR": str(state), "HOME": str(state), "PATH": "/usr/bin:/bin"}
    flags = ["--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        assert service["ExecStart"] == ["/opt/fawa/bin/fawad"]
        process = subprocess.Popen(
            [sys.executable, "-c", CONFINED, FAWAD, *flags],
            env=given | {"NOTIFY_SOCKET": str(tmp_path / "notify")},
            cwd=state,
            umask=int(service["UMask"][0], 8),
            stderr=subprocess.PIPE,
        )
        try:
            assert hear(manager) == ["READY=1"]
            (reload,) = service["ExecReload"]
            subprocess.run(shlex.split(reload.replace("$MAINPID", str(process.pid))), check=True)
            assert hear(manager) == ["RELOADING=1"]
            assert hear(manager) == ["READY=1"]
            process.send_signal(signal.SIGTERM)
            assert hear(manager) == ["STOPPING=1"]
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            process.communicate()
    # What it keeps is its own user's alone.
    kept = list(state.rglob("*"))
    assert kept
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept)
