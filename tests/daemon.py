"""A real `fawad` on free loopback ports, started for tests and stopped by its process id."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

#: Seconds for anything a healthy daemon does at once, with room for a busy machine.
PATIENCE = 30.0

#: Lines of the log in an error's text.
_SHOWN = 50

#: Without settings of whoever runs the tests.
_ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(("FAWA", "MINIO"))}


class DaemonError(AssertionError):
    """The daemon did not do what it was waited for; the text ends with its log."""


@attrs.define
class Daemon:
    """A running `fawad`."""

    process: subprocess.Popen[str]
    data_dir: Path
    _lines: list[str] = attrs.field(factory=list, init=False)
    _news: threading.Condition = attrs.field(factory=threading.Condition, init=False)
    _ended: bool = attrs.field(default=False, init=False)
    _ready: dict[str, Any] = attrs.field(factory=dict, init=False)
    #: Whether the process has been told to end; without that it has no reason to.
    _told: bool = attrs.field(default=False, init=False)

    @property
    def plain(self) -> str:
        """`127.0.0.1:PORT` of HTTP/1.1 and h2c."""
        return str(self._ready["listen"])

    @property
    def tls(self) -> str:
        """`127.0.0.1:PORT` of HTTPS."""
        return str(self._ready["listen_tls"])

    @property
    def admin(self) -> str:
        """`127.0.0.1:PORT` of the admin listener."""
        return str(self.wait_for_event(lambda entry: entry.get("event") == "admin")["listen"])

    @property
    def certificate(self) -> Path:
        """The development certificate, which clients trust as a root."""
        return self.data_dir / "tls" / "dev-cert.pem"

    @property
    def log(self) -> str:
        """The last lines that the daemon has written."""
        with self._news:
            return "\n".join(self._lines[-_SHOWN:])

    def events(self) -> list[dict[str, Any]]:
        """Return the log lines written so far, those that are JSON."""
        with self._news:
            return [entry for line in self._lines if (entry := _entry(line))]

    def wait_for_event(
        self, wanted: Callable[[dict[str, Any]], bool], *, timeout: float = PATIENCE
    ) -> dict[str, Any]:
        """Return the first log line that is `wanted`, waiting until it is written.

        Raises:
            DaemonError: the daemon ended, or wrote no such line within `timeout` seconds.

        """
        seen = 0

        def look() -> dict[str, Any] | bool:
            nonlocal seen
            fresh, seen = self._lines[seen:], len(self._lines)
            found = (entry for line in fresh if (entry := _entry(line)) and wanted(entry))
            return next(found, self._ended)

        with self._news:
            found = self._news.wait_for(look, timeout)
        if not isinstance(found, dict):
            how = (
                f"ended with {self.process.wait(PATIENCE)}" if self._ended else f"was silent for {timeout} s"
            )
            raise DaemonError(f"fawad {how} before the awaited log line\n{self.log}")
        return found

    def signal(self, number: signal.Signals) -> None:
        self._told |= number != signal.SIGHUP
        self.process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Return the exit code once the process has ended.

        Raises:
            DaemonError: it is still there after `timeout` seconds.

        """
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise DaemonError(f"fawad did not end within {timeout} s\n{self.log}") from None

    def kill(self) -> None:
        """End the process as a power cut would."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> None:
        """Ask the process to end, unless it has been ended.

        Raises:
            DaemonError: it ended by itself, did not end, or did not end well.

        """
        if self._told:
            self.wait()
            return
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        if (code := self.wait()) != 0 or not self._told:
            raise DaemonError(f"fawad ended with {code}\n{self.log}")

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self._lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


def _entry(line: str) -> dict[str, Any]:
    """Return a JSON log line as an object, `{}` for any other line."""
    if not line.startswith("{"):
        return {}
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


@contextlib.contextmanager
def running(data_dir: Path, *flags: str, environment: Mapping[str, str] | None = None) -> Iterator[Daemon]:
    """Run `fawad` with its data in `data_dir`: ready when the context begins, stopped when it ends.

    Args:
        data_dir: made if it is not there; a test that restarts a daemon gives the same folder again.
        flags: added to the command line.
        environment: added to it.

    Raises:
        DaemonError: it did not become ready, or ended badly (with 0, unless the test told it to).

    """
    command = [
        *(sys.executable, "-m", "fawa.cli"),
        *("--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0"),
        *("--admin-listen", "127.0.0.1:0", "--data-dir", str(data_dir), "--log-format", "json", *flags),
    ]
    with started(
        command, data_dir, _ENVIRONMENT | {"PYTHONFAULTHANDLER": "1"} | dict(environment or {})
    ) as daemon:
        yield daemon


@contextlib.contextmanager
def started(command: Sequence[str], data_dir: Path, environment: Mapping[str, str]) -> Iterator[Daemon]:
    """Run a command that becomes a `fawad` and logs JSON; as `running`."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    daemon = Daemon(process, data_dir)
    reader = threading.Thread(target=daemon._read, name="fawad log")
    reader.start()
    try:
        daemon._ready = daemon.wait_for_event(lambda entry: entry.get("event") == "ready")
        yield daemon
        daemon.stop()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join()
        assert process.stderr is not None
        process.stderr.close()
