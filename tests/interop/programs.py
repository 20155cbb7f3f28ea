"""Programs that are clients of their own, run with a hard time limit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon import PATIENCE
from tests.interop.target import Target

REPOSITORY = Path(__file__).parents[2]


def program(name: str) -> str:
    """Return the path of a program of the virtual environment or of the system; fails where there is none."""
    path = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if path is None:
        pytest.fail(f"the program `{name}` is not installed; scripts/test says what the tests need")
    return path


def run(
    *command: str, stdin: str | bytes = b"", timeout: float = PATIENCE, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a command and return what it wrote; fails when it takes longer than `timeout` seconds."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    try:
        return subprocess.run(
            command,
            input=data,
            capture_output=True,
            timeout=timeout,
            cwd=REPOSITORY,
            env=os.environ | environment,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        heard = b"\n".join(part for part in (late.stdout, late.stderr) if part)
        pytest.fail(f"{command} took longer than {timeout} s\n{heard.decode(errors='replace')}")


def run_client(module: str, scenario: str, target: Target) -> None:
    """Run one scenario of a script in `tests/interop/clients/`; fails with what it wrote if it fails."""
    arguments = [scenario, target.address, *([str(target.certificate)] if target.certificate else [])]
    ended = run(sys.executable, "-m", f"tests.interop.clients.{module}", *arguments)
    if ended.returncode != 0:
        pytest.fail(ended.stderr.decode(errors="replace"), pytrace=False)
    assert ended.stdout == f"{scenario}: done\n".encode()
