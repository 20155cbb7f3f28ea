"""Resident memory of fawad while a large file goes through it: up, down, and down by link.

The content is made while it is sent and hashed while it is received, so nothing but the daemon's own store
takes disk. Peaks are the kernel's own (VmHWM, set back before each step), so no peak falls between samples.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import attrs
import grpc  # type: ignore[import-untyped]
import s3
from content import GIB, MIB, FileClient, digest, discard
from load import LoadError
from report import Report, arguments, say
from servers import Server, fawad, peer, serving, stay_on_load_core

TARGET_MIB, S3_TARGET_MIB = 64, 96
FAWAD, GRPCIO, IN_S3 = "fawad", "grpcio.aio", "fawad over S3"
GROWTH = "growth, highest peak over start"


@attrs.frozen
class Watch:
    """Reads a server's resident memory around each step."""

    report: Report
    server: Server
    start: int

    def step(self, name: str, work: Callable[[], object]) -> int:
        """Run `work`; record memory at its peak and after it; return the peak in bytes."""
        say(f"{self.server.name}: {name}")
        # proc(5): writing 5 sets the peak back to what is resident now.
        Path(f"/proc/{self.server.pid}/clear_refs").write_text("5")
        work()
        peak = self.server.memory("VmHWM")
        self.record(f"resident, peak of {name}", peak)
        self.record(f"resident, after {name}", self.server.memory("VmRSS"))
        return peak

    def record(self, what: str, size: int) -> None:
        self.report.record(what, "MiB", self.server.name, size / MIB)


def main() -> int:
    parser = arguments("Resident memory of fawad during a large upload and download.")
    parser.add_argument("--size", type=float, default=4, help="GiB of the file (default %(default)s)")
    parser.add_argument("--peer", action="store_true", help="measure grpcio.aio with a like handler too")
    parser.add_argument("--s3", action="store_true", help="have fawad keep the file in S3 (rclone serve s3)")
    parser.add_argument(
        "--dir", type=Path, default=tempfile.gettempdir(), help="where to store (default %(default)s)"
    )
    options = parser.parse_args()
    if options.quick:
        options.size = 0.0625
    stay_on_load_core()
    return measure(options).tell(options)


def measure(options: argparse.Namespace) -> Report:
    size = int(options.size * GIB) // MIB * MIB
    free = shutil.disk_usage(options.dir).free
    if free < size + GIB:
        raise SystemExit(
            f"{options.dir} has {free / GIB:.1f} of {size / GIB + 1:.1f} GiB needed: use --dir or --size"
        )
    report = Report("bench/memory.py: resident memory while a file goes through", {"GiB": options.size})
    expected = digest(size)
    own, target = (IN_S3, S3_TARGET_MIB) if options.s3 else (FAWAD, TARGET_MIB)
    for name in (own, GRPCIO) if options.peer else (own,):
        one_server(report, name, options.dir, size, expected)
    report.bound(GROWTH, own, target)
    return report


def one_server(report: Report, name: str, place: Path, size: int, expected: bytes) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fawa-bench-", dir=place)))
        command = peer("on_grpcio.py", str(folder)) if name == GRPCIO else fawad(folder)
        if name == IN_S3:
            service = stack.enter_context(s3.service(folder / "buckets"))
            command += s3.settings(f"http://{service.address}")
        server = stack.enter_context(serving(name, command))
        client = FileClient(stack.enter_context(grpc.insecure_channel(server.address)))
        start = server.memory("VmRSS")
        watch = Watch(report, server, start)
        watch.record("resident, before", start)
        keys: list[str] = []
        peaks = [watch.step("upload", lambda: keys.append(client.send(size)))]

        def download() -> None:
            if client.receive(keys[0], size) != expected:
                raise LoadError(f"{name} sent other content than it was given")

        peaks.append(watch.step("download", download))
        if name != GRPCIO:

            def link() -> None:
                if discard(client.link(keys[0])) != size:
                    raise LoadError("the link's content has another length than the file")

            peaks.append(watch.step("link", link))
        watch.record(GROWTH, max(peaks) - start)


if __name__ == "__main__":
    sys.exit(main())
