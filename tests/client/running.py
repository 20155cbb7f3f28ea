"""Runs the `fawa` command as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import trio

#: Seconds for anything that comes to an end by itself.
PATIENCE = 60.0

_ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("FAWA")}


def command(*arguments: str | Path) -> list[str]:
    """Return the command line of `fawa` with these arguments."""
    return [sys.executable, "-m", "fawa.client.command", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    """Return the environment to run it in, without settings of whoever runs the tests."""
    return _ENVIRONMENT | {"PYTHONWARNINGS": "error"} | more


@attrs.frozen
class Done:
    """How the command ended."""

    code: int
    out: str
    err: str

    @property
    def results(self) -> list[dict[str, Any]]:
        """What it printed with `--json`."""
        return [json.loads(line) for line in self.out.splitlines()]

    def succeeded(self) -> Done:
        assert (self.code, self.err) == (0, ""), self
        return self


async def fawa(*arguments: str | Path, stdin: bytes = b"", cwd: Path | None = None, **more: str) -> Done:
    """Run the command to its end."""
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            command(*arguments),
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=cwd,
            env=environment(**more),
        )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


async def begin(nursery: trio.Nursery, *arguments: str | Path) -> trio.Process:
    """Start the command and leave it running."""
    process: trio.Process = await nursery.start(
        lambda task_status: trio.run_process(
            command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=False,
            env=environment(),
            task_status=task_status,
        )
    )
    return process


async def end(process: trio.Process) -> Done:
    """Wait for a process that was begun."""
    assert process.stdout is not None
    assert process.stderr is not None
    with trio.fail_after(PATIENCE):
        out = b"".join([piece async for piece in process.stdout])
        err = b"".join([piece async for piece in process.stderr])
        return Done(await process.wait(), out.decode(), err.decode())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(0.01)
