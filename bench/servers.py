"""Start a server in a process of its own, pinned to a core, and know when it is ready.

A server here is any command that writes JSON lines to stderr, one of them with `"event": "ready"` and
`"listen": "address:port"`, or `"listen_quic"`: fawad does so, and the peers in `peers/` do it the same way.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

PEERS = Path(__file__).with_name("peers")
#: Cores that this run may use at all, those of the servers, and those of the load.
EVERY_CORE = frozenset(os.sched_getaffinity(0))
SERVER_CORES, LOAD_CORES = EVERY_CORE, EVERY_CORE
if len(EVERY_CORE) > 1:
    SERVER_CORES, LOAD_CORES = (frozenset({core}) for core in sorted(EVERY_CORE)[:2])
#: Said in a report where it is so.
ONE_CORE = "one core only: servers and load client shared it"


class StartError(Exception):
    """The server did not become ready; the text has its last lines."""


class ServerEndedError(Exception):
    """The server ended while it was needed; the text has its last lines."""


@attrs.frozen
class Server:
    """A running server."""

    name: str
    pid: int
    #: "127.0.0.1:port", of TCP without TLS; "" where there is none.
    address: str
    #: Seconds from the start of the process to its ready line.
    startup: float
    #: The address of QUIC, or "".
    quic: str = ""

    def cpu_seconds(self) -> float:
        """Return the CPU time it has used so far, all threads, user and system."""
        # The clock that clock_getcpuclockid(3) gives for a process; /proc counts in steps of 10 ms.
        return time.clock_gettime(~self.pid << 3 | 2)

    def memory(self, field: str) -> int:
        """Return bytes of a memory field of /proc/PID/status, such as `VmRSS` or `VmHWM`."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * 1024
        raise KeyError(f"/proc/{self.pid}/status has no {field}")


def tool(name: str) -> str:
    """Return the path of a command that stands beside this Python, such as `fawad`."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise SystemExit(
            f"{path} does not exist: install fawa into this environment (pip install -e '.[bench]')"
        )
    return str(path)


def fawad(data_dir: Path, *extra: str) -> list[str]:
    """Return the command that starts fawad with greet and file on a free plain port, without an access log.

    The peers write no access log either.
    """
    options = {
        "services": "greet,file",
        "listen": "127.0.0.1:0",
        "listen-tls": "off",
        "admin-listen": "off",
        "data-dir": str(data_dir),
        "log-format": "json",
        "log-access": "off",
    }
    return [tool("fawad"), *(f"--{name}={value}" for name, value in options.items()), *extra]


def peer(script: str, *args: str) -> list[str]:
    """Return the command that starts a peer of `peers/`."""
    return [sys.executable, str(PEERS / script), *args]


def pin(command: Sequence[str], cores: Collection[int]) -> list[str]:
    """Return the command that runs `command` on these cores only."""
    return ["taskset", "--cpu-list", ",".join(map(str, cores)), *command]


def stay_on_load_core() -> None:
    """Move this process, and every child that is not pinned elsewhere, to the load's core."""
    os.sched_setaffinity(0, LOAD_CORES)


@contextmanager
def serving(
    name: str, command: Sequence[str], *, cores: Collection[int] = SERVER_CORES, patience: float = 30
) -> Iterator[Server]:
    """Run a server for the time of the block; it is terminated, or killed after 10 s, at its end.

    Raises:
        StartError: it is not ready within `patience` seconds.
        ServerEndedError: it ended by itself before the block did.

    """
    started = time.perf_counter()
    process = subprocess.Popen(
        pin(command, cores),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    output = Output(process)
    try:
        ready = output.await_ready(started + patience)
        if ready is None:
            raise StartError(f"{name} did not become ready; its last lines:\n{output.tail}")
        try:
            startup = time.perf_counter() - started
            address, quic = str(ready.get("listen", "")), str(ready.get("listen_quic", ""))
            yield Server(name, process.pid, address, startup, quic)
        finally:
            # Whatever else went wrong in the block, this is why.
            if process.poll() is not None:
                raise ServerEndedError(f"{name} ended with exit code {process.returncode}:\n{output.tail}")
    finally:
        stop(process)


def stop(process: subprocess.Popen[str]) -> None:
    """End a process we started: ask, wait 10 s, kill."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Output:
    """What a server writes to stderr: its ready line, and the last lines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._pipe = process.stderr
        self._last: deque[str] = deque(maxlen=20)
        self._ready: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, name=f"stderr of {process.pid}", daemon=True).start()

    def _read(self) -> None:
        """Look for the ready line, then keep the pipe empty until the server ends."""
        assert self._pipe is not None
        with self._pipe:
            for line in self._pipe:
                self._last.append(line)
                if record := _ready_record(line):
                    self._ready.put(record)
        self._ready.put(None)

    def await_ready(self, until: float) -> dict[str, Any] | None:
        """Return the ready line; `None`: it has ended, or is not ready at `until` on the perf counter."""
        try:
            return self._ready.get(timeout=max(0, until - time.perf_counter()))
        except queue.Empty:
            return None

    @property
    def tail(self) -> str:
        """The last lines."""
        return "".join(self._last)


def _ready_record(line: str) -> dict[str, Any] | None:
    """Return a ready line, parsed; `None` for any other line."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and record.get("event") == "ready" else None
