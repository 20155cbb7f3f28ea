"""The machine: the data folder and its disk, open files, UDP buffers."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import trio

from fawa.net.udp import WANTED_BUFFER
from fawa.ops.descriptors import SPARE
from fawa.ops.doctor.findings import Case, Finding

#: Bytes that should be free where data is kept, and that are written there to see that they can be.
LEAST_FREE: Final = 256 * 1024 * 1024
_PROBE: Final = 1024 * 1024
#: Files that should be free, on file systems that count them.
LEAST_FILES: Final = 1000

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


async def data_folder(case: Case) -> list[Finding]:
    """Look whether data can be kept, and by nobody else."""
    return await trio.to_thread.run_sync(lambda: list(_folder(case.settings.data_dir)))


def _folder(folder: Path) -> Iterator[Finding]:
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent  # fawad makes what is missing
    if not place.is_dir():
        yield Finding(
            f"The data folder (data_dir {folder}) cannot be: {place} is not a folder",
            "Set data_dir to a folder of its own",
        )
        return
    try:
        _write(place)
    except OSError as error:
        yield _unwritable(folder, place, error)
    else:
        yield from _space(place)
    for secret in (folder / "link-secret", folder / "tls" / "dev-key.pem"):
        try:
            mode = secret.stat().st_mode
        except OSError:
            continue
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            yield Finding(
                f"Others than its owner may read the secret {secret} (mode {stat.S_IMODE(mode):o})",
                f"Take their rights away: chmod 600 {secret}",
            )


def _write(folder: Path) -> None:
    """Write as much as a small file, and remove it.

    Raises:
        OSError: that is not possible.

    """
    with tempfile.TemporaryFile(dir=folder) as probe:
        left = memoryview(bytes(_PROBE))
        while left:
            left = left[os.write(probe.fileno(), left) :]
        os.fsync(probe.fileno())


def _unwritable(folder: Path, place: Path, error: OSError) -> Finding:
    if error.errno in _FULL:
        problem = f"The disk of the data folder {folder} is full: {_mib(_PROBE)} could not be written"
        return Finding(problem, "Make room there, or set data_dir to another disk")
    if error.errno == errno.EFBIG:
        problem = f"This process may not write a file of {_mib(_PROBE)} into the data folder {folder}"
        return Finding(problem, "Raise its limit: LimitFSIZE= of systemd, `ulimit -f` of the shell")
    if error.errno == errno.EROFS:
        problem = f"The data folder {folder} is on a disk that is mounted read-only"
        return Finding(problem, "Mount it with write access, or set data_dir to another disk")
    why = os.strerror(error.errno or 0).lower()
    return Finding(
        f"Nothing can be written into {place}, for the data folder {folder}: {why}",
        f"Run the doctor as the user that fawad runs as, and give that user {place}",
    )


def _space(place: Path) -> Iterator[Finding]:
    room = os.statvfs(place)
    free = room.f_bavail * room.f_frsize
    if free < LEAST_FREE:
        yield Finding(
            f"The disk of {place} is nearly full: {_mib(free)} are free, and {_mib(LEAST_FREE)} should be",
            "Make room there, or set data_dir to another disk; file.max_size and file.ttl bound what is kept",
        )
    if room.f_files and room.f_favail < LEAST_FILES:
        yield Finding(
            f"The disk of {place} has room for {room.f_favail} more files, and should have for {LEAST_FILES}",
            "Remove files there, or set data_dir to another disk",
        )


def _mib(size: int) -> str:
    return f"{size / (1024 * 1024):.1f} MiB"


async def descriptors(case: Case) -> list[Finding]:
    """Look whether there can be as many connections as set: those of the running daemon count, if it told."""
    most = case.settings.limits.max_connections
    allowed, whose = case.descriptors, "The running fawad"
    if allowed is None:
        allowed, whose = resource.getrlimit(resource.RLIMIT_NOFILE)[1], "A process started from here"
    if allowed == resource.RLIM_INFINITY or allowed >= most + SPARE:
        return []
    problem = f"{whose} may open {allowed} files, too few for {most} connections (limits.max_connections)"
    return [
        Finding(
            problem,
            f"Allow {most + SPARE}: LimitNOFILE= of systemd, `ulimit -Hn` of the shell; "
            "or set limits.max_connections lower",
        )
    ]


async def udp_buffers(case: Case) -> list[Finding]:
    """Look whether the kernel gives QUIC the buffers that it asks for."""
    return list(buffers_short_of(WANTED_BUFFER)) if case.settings.quic.enabled else []


def buffers_short_of(wanted: int) -> Iterator[Finding]:
    """Find the buffers of UDP sockets that cannot have so many bytes."""
    for what, option, key in (
        ("received datagrams", socket.SO_RCVBUF, "net.core.rmem_max"),
        ("datagrams to send", socket.SO_SNDBUF, "net.core.wmem_max"),
    ):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, option, wanted)
            given = sock.getsockopt(socket.SOL_SOCKET, option)
        # Linux gives twice what is asked for, and counts its own bookkeeping in.
        given //= 2 if hasattr(socket, "SO_INCOMING_CPU") else 1
        if given < wanted:
            yield Finding(
                f"The kernel's buffer for {what} holds {given} bytes, and QUIC asks for {wanted}: "
                "under load it loses datagrams, and is slow",
                f"Raise it: sysctl -w {key}={wanted}, and in /etc/sysctl.d for the next start",
            )
