"""Megabytes a second: fawad's uploads and downloads beside grpcio.aio's, its signed links beside nginx, and
its files in S3 beside rclone's client straight to the same service.

Over gRPC the load client replays a prepared upload (`replay.py`) or discards a download (h2load), which costs
a fraction of what a Python client does, so that the server is what is measured. h2load's uploads, which
declare their length as no gRPC client does, are shown too, and so are those of grpcio's Python client, which
checks content as well. 1 MB is 1,000,000 bytes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import attrs
import grpc  # type: ignore[import-untyped]
import s3
from content import KIB, MIB, RECEIVE, SEND, FileClient, digest, discard, write_content, write_upload
from load import GRPC_HEADERS, Load, LoadError, frame, h2load
from nginx import nginx
from replay import replay, write_frames
from report import Report, arguments, say
from servers import EVERY_CORE, ONE_CORE, SERVER_CORES, Server, fawad, peer, serving, stay_on_load_core

from fawa.proto.file.v1.file_pb2 import ReceiveFileRequest

FAWAD, GRPCIO, NGINX, BARE = "fawad", "grpcio.aio", "nginx", "bare socket"
IN_S3, STRAIGHT = "fawad over S3", "rclone, straight"
CHUNKS = {"1 MiB": MIB, "64 KiB": 64 * KIB}
TARGET, LINK_TARGET, S3_TARGET = 2.0, 0.8, 0.7
S3_UPLOAD, S3_DOWNLOAD, S3_LINK = "S3: upload", "S3: download", "S3: signed link"
#: Seconds after which the system has told its host of all memory that was freed (`PAGE_REPORTING_DELAY`: 2).
_REPORTED = 2.5
LINK, CURL = "signed link", "signed link, curl"


@attrs.frozen
class Bench:
    """One run: where it works and what it has found."""

    report: Report
    folder: Path
    size: int
    digest: bytes
    #: The servers' cores.
    cores: Collection[int]

    def stored(self, what: str, server: Server, move: Callable[[], float]) -> None:
        """Record as `speed` does; `move` has the server store a copy."""
        touch(self.folder, self.size + self.size // 8)
        self.speed(what, server, move)

    def speed(self, what: str, server: Server, move: Callable[[], float]) -> None:
        """Record the MB/s of `move`, which returns its seconds, and the server's CPU time for it."""
        before = server.cpu_seconds()
        seconds = move()
        cpu = server.cpu_seconds() - before
        self.report.record(what, "MB/s", server.name, self.size / 1e6 / seconds)
        self.report.record(f"{what}: server's CPU", "s/GB", server.name, cpu / (self.size / 1e9))

    def loaded(self, server: Server, load: Load) -> float:
        """Return the seconds of a load, noting when the client was its limit."""
        self.look_at_client(server, load.client_busy)
        return load.seconds

    def look_at_client(self, server: Server, busy: float) -> None:
        if busy > 0.9:
            self.report.note(f"the load client was the limit for {server.name}: it can do more than is shown")

    def upload(self, server: Server, chunk: int) -> float:
        seconds, cpu = replay(server.address, SEND, self.folder / f"frames-{chunk}")
        self.look_at_client(server, cpu / seconds)
        return seconds

    def declared_upload(self, server: Server, chunk: int) -> float:
        url = f"http://{server.address}{SEND}"
        return self.loaded(server, h2load(url, body=self.folder / f"upload-{chunk}", headers=GRPC_HEADERS))

    def bare_upload(self, server: Server) -> float:
        """Send the content over TCP and nothing else."""
        host, _, port = server.address.partition(":")
        with (self.folder / "root" / "content.bin").open("rb") as file:
            started = time.perf_counter()
            with socket.create_connection((host, int(port))) as connection:
                connection.sendfile(file)
                connection.shutdown(socket.SHUT_WR)
                if connection.recv(1) != b".":
                    raise LoadError(f"{server.name} did not take the file")
            return time.perf_counter() - started

    def download(self, server: Server, key: str, chunk: int) -> float:
        """Download; grpcio.aio answers in chunks of the size asked for, fawad in those of its choice."""
        body = self.folder / "request"
        body.write_bytes(frame(ReceiveFileRequest(randomkey=key)))
        headers = (*GRPC_HEADERS, f"bench-chunk: {chunk}")
        load = h2load(f"http://{server.address}{RECEIVE}", body=body, headers=headers)
        if not self.size < load.data < self.size * 1.02:
            raise LoadError(f"{server.name} sent {load.data} bytes for a file of {self.size}")
        return self.loaded(server, load)

    def check(self, client: FileClient, server: Server) -> str:
        """Upload and download with grpcio's client, whole content compared; return the key."""
        keys: list[str] = []

        def send() -> float:
            started = time.perf_counter()
            keys.append(client.send(self.size))
            return time.perf_counter() - started

        def receive() -> float:
            started = time.perf_counter()
            if client.receive(keys[0], self.size, ("bench-chunk", str(MIB))) != self.digest:
                raise LoadError(f"{server.name} sent other content than it was given")
            return time.perf_counter() - started

        self.stored("upload, grpcio client", server, send)
        self.speed("download, grpcio client", server, receive)
        return keys[0]

    def over_grpc(self, server: Server) -> None:
        """Measure one server's uploads and downloads, and fawad's links."""
        with grpc.insecure_channel(server.address) as channel:
            client = FileClient(channel)
            key = self.check(client, server)
            for name, chunk in CHUNKS.items():
                self.stored(f"upload, chunks of {name}", server, partial(self.upload, server, chunk))
                declared = partial(self.declared_upload, server, chunk)
                self.stored(f"upload of declared length, chunks of {name}", server, declared)
            for name, chunk in CHUNKS.items():
                what = f"download, peer's chunks {name}"
                self.speed(what, server, partial(self.download, server, key, chunk))
            if server.name == FAWAD:
                self.over_http(server, client.link(key))

    def over_http(self, server: Server, url: str) -> None:
        """Measure a link twice: by a client that costs next to nothing, and by curl."""

        def cheaply() -> float:
            return self.follow(url)

        def by_curl() -> float:
            command = ["curl", "--silent", "--fail", "--output", "/dev/null", url]
            started = time.perf_counter()
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
            return time.perf_counter() - started

        self.speed(LINK, server, cheaply)
        self.speed(CURL, server, by_curl)

    def follow(self, url: str) -> float:
        """Download by link, with a client that costs next to nothing."""
        started = time.perf_counter()
        if discard(url) != self.size:
            raise LoadError(f"{url} has another length than the file")
        return time.perf_counter() - started

    def in_s3(self, service: Server, server: Server) -> None:
        """Measure a fawad with its files in `service`, then rclone's client straight to it."""
        self.stored(S3_UPLOAD, server, partial(self.upload, server, MIB))
        with grpc.insecure_channel(server.address) as channel:
            client = FileClient(channel)
            key = client.send(self.size)
            if client.receive(key, self.size) != self.digest:
                raise LoadError("fawad over S3 sent other content than it was given")
            self.speed(S3_DOWNLOAD, server, partial(self.download, server, key, MIB))
            self.speed(S3_LINK, server, partial(self.follow, client.link(key)))
        straight = attrs.evolve(service, name=STRAIGHT)
        content = self.folder / "root" / "content.bin"
        self.stored(S3_UPLOAD, straight, lambda: s3.put(service, content, "straight"))
        self.speed(S3_DOWNLOAD, straight, lambda: s3.get(service, "straight"))


def main() -> int:
    parser = arguments("Upload, download and link speed of fawad beside grpcio.aio and nginx.")
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds, each with every server (default %(default)s)"
    )
    parser.add_argument("--size", type=int, default=512, help="MiB of the file (default %(default)s)")
    parser.add_argument(
        "--dir", type=Path, help="where to work; default /dev/shm if it has room, so that no disk is measured"
    )
    parser.add_argument(
        "--every-core", action="store_true", help="servers may use every core, not only the first one"
    )
    parser.add_argument("--s3", action="store_true", help="measure files in S3 alone")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.size = 1, 16
    stay_on_load_core()
    return measure(options).tell(options)


def roomy(options: argparse.Namespace) -> Path:
    """Return the folder to work in, after looking whether it has room."""
    # Content, two upload bodies and their frames, up to five stored copies, and some air.
    need = (options.size + 1) * MIB * 12
    folders = [options.dir] if options.dir else [Path("/dev/shm"), Path(tempfile.gettempdir())]
    for folder in folders:
        if folder.is_dir() and shutil.disk_usage(folder).free >= need:
            return folder
    raise SystemExit(
        f"none of {', '.join(map(str, folders))} has {need // MIB} MiB free: give --dir or a smaller --size"
    )


def measure(options: argparse.Namespace) -> Report:
    place = roomy(options)
    size = options.size * MIB
    settings = {
        "rounds": options.rounds,
        "MiB": options.size,
        "folder": str(place),
        "cores": "every" if options.every_core else "one",
    }
    report = Report("bench/files.py: fawad's files beside grpcio.aio and nginx", settings)
    if len(EVERY_CORE) == 1:
        report.note(ONE_CORE)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fawa-bench-", dir=place)))
        say(f"preparing {options.size} MiB in {folder}")
        (folder / "root").mkdir()
        write_content(folder / "root" / "content.bin", size)
        for chunk in CHUNKS.values():
            write_upload(folder / f"upload-{chunk}", size, chunk)
            write_frames(folder / f"upload-{chunk}", folder / f"frames-{chunk}")
        bench = Bench(report, folder, size, digest(size), EVERY_CORE if options.every_core else SERVER_CORES)
        for number in range(1, options.rounds + 1):
            for name in (IN_S3,) if options.s3 else (FAWAD, GRPCIO, NGINX, BARE, IN_S3):
                say(f"round {number} of {options.rounds}: {name}")
                one_server(bench, name)
    if not options.s3:
        compare(report)
    for what in (S3_UPLOAD, S3_DOWNLOAD):
        report.compare(what, IN_S3, STRAIGHT, S3_TARGET)
    return report


def compare(report: Report) -> None:
    """Compare fawad's files in a folder with its peers'."""
    for chunk_name in CHUNKS:
        report.compare(f"upload, chunks of {chunk_name}", FAWAD, GRPCIO, TARGET)
        report.compare(f"upload, chunks of {chunk_name}", FAWAD, BARE)
        report.compare(f"upload of declared length, chunks of {chunk_name}", FAWAD, GRPCIO)
    for chunk_name in CHUNKS:
        report.compare(f"download, peer's chunks {chunk_name}", FAWAD, GRPCIO, TARGET)
    report.compare(LINK, FAWAD, NGINX, LINK_TARGET)
    for what, peer_name in (
        (CURL, NGINX),
        ("upload, grpcio client", GRPCIO),
        ("download, grpcio client", GRPCIO),
    ):
        report.compare(what, FAWAD, peer_name)


def touch(folder: Path, size: int) -> None:
    """Have the system touch the memory that a stored copy will take, and free it just now.

    A virtual machine gets its memory from its host when it is first used, at several times the cost of any
    later use, and may give it back some two seconds after it was freed (Linux' free page reporting). So the
    memory is freed when nothing else has been for longer than that, right before it is used again.
    """
    path = folder / "touched"
    write_content(path, size // MIB * MIB)
    time.sleep(_REPORTED)
    path.unlink()


def one_server(bench: Bench, name: str) -> None:
    """Measure one server in a fresh folder."""
    with tempfile.TemporaryDirectory(prefix="server-", dir=bench.folder) as state:
        if name == BARE:
            with serving(name, peer("on_socket.py", state), cores=bench.cores) as server:
                for chunk_name in CHUNKS:
                    what = f"upload, chunks of {chunk_name}"
                    bench.stored(what, server, partial(bench.bare_upload, server))
        elif name == IN_S3:
            with s3.service(Path(state) / "buckets") as service:
                command = fawad(Path(state) / "data", *s3.settings(f"http://{service.address}"))
                with serving(name, command, cores=EVERY_CORE) as server:
                    bench.in_s3(service, server)
        elif name == NGINX:
            with nginx(bench.folder / "root", Path(state), cores=bench.cores) as server:
                bench.over_http(server, f"http://{server.address}/content.bin")
        else:
            command = fawad(Path(state)) if name == FAWAD else peer("on_grpcio.py", state)
            with serving(name, command, cores=bench.cores) as server:
                bench.over_grpc(server)
        os.sync()


if __name__ == "__main__":
    sys.exit(main())
