"""An S3 service, and rclone's client straight to it: the peers of fawad's files in S3."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from servers import EVERY_CORE, Server, StartError, pin, stop, tool

ACCESS_KEY, SECRET_KEY = "AKIDBENCH", "secretkey12345678"
BUCKET = "bench"


def settings(endpoint: str) -> list[str]:
    """Return the flags of a fawad that keeps its files at `endpoint`."""
    values = {"endpoint": endpoint, "bucket": BUCKET, "access-key": ACCESS_KEY, "secret-key": SECRET_KEY}
    return [f"--s3-{name}={value}" for name, value in values.items()]


@contextmanager
def service(folder: Path) -> Iterator[Server]:
    """Run `rclone serve s3` over a new folder, on every core: it stands behind what is measured.

    Raises:
        StartError: it does not listen within 10 s.

    """
    (folder / BUCKET).mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
    command = [
        tool("rclone"),
        "--config",
        os.devnull,
        "serve",
        "s3",
        "--addr",
        address,
        "--log-level",
        "ERROR",
    ]
    command += ["--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--vfs-cache-mode", "off", str(folder)]
    started = time.perf_counter()
    process = subprocess.Popen(pin(command, EVERY_CORE), stdin=subprocess.DEVNULL, text=True)
    try:
        while not _listens(address):
            if process.poll() is not None or time.perf_counter() > started + 10:
                raise StartError(f"{' '.join(command)} does not listen on {address}")
            time.sleep(0.01)
        yield Server("rclone serve s3", process.pid, address, time.perf_counter() - started)
    finally:
        stop(process)


def _listens(address: str) -> bool:
    host, _, port = address.partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def put(server: Server, path: Path, name: str) -> float:
    """Upload a file as rclone does by default, but in parts as long as fawad's; return the seconds."""
    return _run(server, "copyto", str(path), f":s3:{BUCKET}/{name}", "--s3-chunk-size=8Mi")


def get(server: Server, name: str) -> float:
    """Download an object into nothing; return the seconds."""
    return _run(server, "cat", f":s3:{BUCKET}/{name}")


def _run(server: Server, *arguments: str) -> float:
    """Run rclone; return its seconds without those that it needs to start."""
    remote = [
        "--s3-provider=Rclone",
        f"--s3-endpoint=http://{server.address}",
        f"--s3-access-key-id={ACCESS_KEY}",
        f"--s3-secret-access-key={SECRET_KEY}",
    ]
    return _seconds([*arguments, *remote]) - _seconds(["lsf", f":s3:{BUCKET}/none", *remote], fails=True)


def _seconds(arguments: Sequence[str], *, fails: bool = False) -> float:
    command = pin([tool("rclone"), "--config", os.devnull, "--retries=1", *arguments], EVERY_CORE)
    started = time.perf_counter()
    errors = subprocess.DEVNULL if fails else None
    subprocess.run(
        command, check=not fails, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
    )
    return time.perf_counter() - started
