"""`fawad doctor` at real set-ups: one that is healthy, and ones that have a fault each."""

from __future__ import annotations

import contextlib
import resource
import shlex
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fawa.client.dial import Origin, Trust
from fawa.ops.doctor import machine, udp
from fawa.ops.doctor.examination import CHECKS
from tests.daemon import PATIENCE, Daemon, running
from tests.ops.authority import Authority
from tests.ops.doctoring import fawad_doctor, flags_of, free_port, look, problems

#: Seconds that a test waits for what never answers.
SOON = 0.5


async def test_nothing_is_found_in_a_new_set_up(daemon: Daemon) -> None:
    assert await look(flags_of(daemon)) == {}


def test_a_healthy_set_up_with_a_name_and_a_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue(hosts="localhost")
    ports = free_port(), free_port()
    public = f"https://localhost:{ports[1]}"
    own = [
        *("--listen", f"127.0.0.1:{ports[0]}", "--listen-tls", f"127.0.0.1:{ports[1]}"),
        *("--tls-cert", str(cert), "--tls-key", str(key), "--public-url", public),
        *("--limits-max-connections", "100"),
    ]
    with running(tmp_path / "data", *own) as daemon:
        code, report = fawad_doctor(*flags_of(daemon), *own, "--ca", str(authority.ca), "--patience", "30")
    states = {check["name"]: check["state"] for check in report["checks"]}
    assert states == {
        **dict.fromkeys(("settings", *(name for name, _ in CHECKS)), "ok"),
        "S3": "skipped",
        "Redis": "skipped",
    }
    assert (code, report["healthy"]) == (0, True)


def test_people_read_sentences(tmp_path: Path) -> None:
    """Whoever forgot to start it is told so, and not a second time by what needs the daemon."""
    flags = ["--listen", f"127.0.0.1:{free_port()}", "--data-dir", str(tmp_path)]
    command = [sys.executable, "-m", "fawa.cli", "doctor", *flags, "--limits-max-connections", "100"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=4 * PATIENCE, check=False)
    assert ended.returncode == 1
    told = " ".join(ended.stdout.split())
    assert "is fawad running? → Start it; its log says why if it does not." in told
    assert "public link not looked at: the daemon does not answer WebTransport not looked at" in told
    assert ended.stdout.endswith("\n\n1 fault found.\n")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--patience", "0"], "argument --patience: '0' is not a number of seconds above 0 and below 3600"),
        (["--ca", "/nowhere/ca.pem"], "--ca: /nowhere/ca.pem cannot be read: No such file or directory"),
    ],
)
def test_the_command_line_is_wrong(flags: list[str], told: str) -> None:
    command = [sys.executable, "-m", "fawa.cli", "doctor", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=4 * PATIENCE, check=False)
    assert ended.returncode == 2
    assert told in ended.stderr


# The certificate


def test_the_key_is_missing(tmp_path: Path) -> None:
    cert, key = Authority(tmp_path).issue()
    key.unlink()
    code, report = fawad_doctor("--tls-cert", str(cert), "--tls-key", str(key))
    assert code == 1
    assert f"the key {key} does not exist" in problems(report, "settings")[0]
    code, report = fawad_doctor("--tls-cert", str(cert))
    assert code == 1
    assert "are half a pair" in problems(report, "settings")[0]


def test_the_key_is_another_certificates(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, _ = authority.issue()
    _, key = authority.issue("other")
    code, report = fawad_doctor("--tls-cert", str(cert), "--tls-key", str(key))
    assert code == 1
    assert f"the key {key} does not belong to the certificate {cert}" in problems(report, "settings")[0]


@pytest.mark.parametrize(
    ("issued", "found"),
    [
        ({"begins": -30, "ends": -1}, "The certificate {cert} expired on "),
        ({"begins": 1}, "The certificate {cert} is not valid before "),
        ({"ends": 3}, "The certificate {cert} is about to expire, on "),
        (
            {"whole": False},
            "refuse the certificate {cert} for localhost: unable to get local issuer certificate",
        ),
        ({"hosts": "other.example"}, "refuse the certificate {cert} for localhost: Hostname mismatch"),
    ],
)
async def test_what_clients_hold_against_a_certificate(
    tmp_path: Path, issued: dict[str, Any], found: str
) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue(**issued)
    flags = ["--tls-cert", str(cert), "--tls-key", str(key), "--public-url", "https://localhost"]
    told = await look([*flags, "--listen", "127.0.0.1:1", "--data-dir", str(tmp_path)], authority.ca)
    assert found.format(cert=cert) in told["certificate"]
    # Who does not know the root is told of it; the system's roots do not vouch for it.
    told = await look([*flags, "--listen", "127.0.0.1:1", "--data-dir", str(tmp_path)])
    assert f"certificate {cert}" in told["certificate"]


# The public name


@contextlib.contextmanager
def proxy(to: str, *, ahead: float = 0, prefix: str = "", query: bool = True) -> Iterator[str]:
    """Serve a daemon under another address; returns its URL.

    Args:
        to: where the daemon listens.
        ahead: seconds that this proxy's clock is.
        prefix: a path that is taken off.
        query: whether it passes that on.

    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path if query else self.path.partition("?")[0]
            if not path.startswith(prefix):
                self.send_error(404)
                return
            asked = {name: value for name, value in self.headers.items() if name.lower() == "range"}
            request = urllib.request.Request(f"http://{to}{path.removeprefix(prefix)}", headers=asked)
            try:
                answer = urllib.request.urlopen(request, timeout=PATIENCE)
            except urllib.error.HTTPError as error:
                answer = error
            with answer:
                body = answer.read()
                self.send_response(answer.status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate(time.time() + ahead, usegmt=True)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{prefix}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def public_at(url: str, tmp_path: Path, port: int, *more: str) -> Iterator[list[str]]:
    """Run a daemon at a port that clients know by another address; returns the doctor's flags."""
    own = ["--public-url", url, *more]
    with running(tmp_path, "--listen", f"127.0.0.1:{port}", *own) as daemon:
        yield [*flags_of(daemon), *own]


async def test_nothing_is_found_behind_a_proxy(tmp_path: Path) -> None:
    port = free_port()
    with (
        proxy(f"127.0.0.1:{port}", prefix="/fawa") as url,
        public_at(url, tmp_path, port) as flags,
    ):
        assert await look(flags) == {}


async def test_the_public_name_cannot_be_reached(tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with public_at(nobody, tmp_path, free_port()) as flags:
        told = await look(flags)
        assert told.keys() == {"public link", "WebTransport"}
        expected = f"The public link ({nobody}) cannot be followed: cannot reach {nobody}: connection refused"
        assert expected in told["public link"]

        # Renamed meanwhile; the daemon was not told.
        told = await look([*flags, "--public-url", "https://fawa.invalid"])
        expected = f"The daemon makes links to {nobody}, and public_url is https://fawa.invalid"
        assert told["public link"] == expected
        assert "there is no host of that name" in told["WebTransport"]


async def test_a_proxy_breaks_links(tmp_path: Path, daemon: Daemon) -> None:
    port = free_port()
    with (
        proxy(f"127.0.0.1:{port}", query=False) as url,
        public_at(url, tmp_path, port) as flags,
    ):
        told = await look(flags)
        assert told["public link"].endswith("is refused with HTTP status 403, as if its signature were wrong")


async def test_another_daemon_answers_by_the_public_name(tmp_path: Path, daemon: Daemon) -> None:
    with public_at(f"http://{daemon.plain}", tmp_path, free_port()) as flags:
        told = await look(flags)
        assert told["public link"].endswith("is refused with HTTP status 403, as if its signature were wrong")


async def test_the_clock_is_wrong(tmp_path: Path) -> None:
    port = free_port()
    with (
        proxy(f"127.0.0.1:{port}", ahead=3600) as url,
        public_at(url, tmp_path, port) as flags,
    ):
        for clock, how in ((time.time, "behind"), (lambda: time.time() + 7200, "ahead of")):
            told = await look(flags, clock=clock)
            assert told.keys() == {"clock"}
            assert told["clock"].startswith("This machine's clock is 3")
            assert told["clock"].endswith(f" s {how} that of {url}")


# UDP


async def test_a_load_balancer_knows_nothing_of_udp(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with running(tmp_path, "--quic-public-port", str(port)) as daemon:
        told = await look([*flags_of(daemon), "--quic-public-port", str(port)])
        assert told == {"WebTransport": f"UDP port {port} of 127.0.0.1 is closed: nothing listens there"}


async def test_a_firewall_drops_udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        there = Origin("https", "127.0.0.1", silent.getsockname()[1])
        with pytest.raises(udp.Closed) as closed:
            async with udp.connected(there, Trust(), SOON):
                pytest.fail("nobody answered")
    assert str(closed.value) == f"UDP port {there.port} of 127.0.0.1 is closed: no answer in {SOON} s"


async def test_a_certificate_that_quic_clients_refuse(tmp_path: Path) -> None:
    """Where TLS ends at a proxy, QUIC comes straight to fawad, and with its own certificate."""
    authority, stranger = Authority(tmp_path), Authority(tmp_path)
    cert, key = stranger.issue()
    port = free_port()
    pair = ["--tls-cert", str(cert), "--tls-key", str(key)]
    with (
        proxy(f"127.0.0.1:{port}") as url,
        public_at(url, tmp_path / "data", port, *pair) as flags,
    ):
        told = await look(flags, authority.ca)
        assert told.keys() == {"certificate", "WebTransport"}
        assert "fails: its certificate is not trusted" in told["WebTransport"]


def test_udp_buffers_are_too_small() -> None:
    received, sent = machine.buffers_short_of(1 << 30)
    assert received.problem.startswith("The kernel's buffer for received datagrams holds ")
    assert "sysctl -w net.core.wmem_max=1073741824" in sent.advice
    assert list(machine.buffers_short_of(4096)) == []


# The machine


async def test_there_are_too_few_file_descriptors(tmp_path: Path) -> None:
    with running(tmp_path, "--limits-max-connections", "100") as daemon:
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (300, 300))
        assert await look(flags_of(daemon)) == {
            "file descriptors": "The running fawad may open 300 files, too few for 100 connections "
            "(limits.max_connections)"
        }


def test_there_are_too_few_file_descriptors_for_a_daemon_to_be(tmp_path: Path) -> None:
    flags = ["--listen", "127.0.0.1:1", "--data-dir", str(tmp_path)]
    code, report = fawad_doctor(*flags, under="prlimit --nofile=400:400")
    assert code == 1
    [problem] = problems(report, "file descriptors")
    assert problem.startswith("A process started from here may open 400 files, too few for 10000 connections")


def on_a_disk(folder: Path, options: str) -> tuple[int, dict[str, Any]]:
    """Run the doctor where the data folder is a disk of its own, which nobody else sees."""
    mount = f'mount -t tmpfs -o {options} none {shlex.quote(str(folder))} && exec "$@"'
    own = f"unshare --map-root-user --mount sh -c {shlex.quote(mount)} sh"
    return fawad_doctor("--listen", "127.0.0.1:1", "--data-dir", str(folder), under=own)


def test_the_disk_is_full(tmp_path: Path) -> None:
    folder = shlex.quote(str(tmp_path))
    mount = f'mount -t tmpfs -o size=512k none {folder} && exec "$@"'
    own = f"unshare --map-root-user --mount sh -c {shlex.quote(mount)} sh"
    code, report = fawad_doctor("--listen", "127.0.0.1:1", "--data-dir", str(tmp_path), under=own)
    assert code == 1
    expected = f"The disk of the data folder {tmp_path} is full: 1.0 MiB could not be written"
    assert problems(report, "data folder") == [expected]


def test_the_disk_is_nearly_full(tmp_path: Path) -> None:
    folder = shlex.quote(str(tmp_path))
    mount = f'mount -t tmpfs -o size=8m,nr_inodes=100 none {folder} && exec "$@"'
    own = f"unshare --map-root-user --mount sh -c {shlex.quote(mount)} sh"
    code, report = fawad_doctor("--listen", "127.0.0.1:1", "--data-dir", str(tmp_path), under=own)
    assert code == 1
    space, files = problems(report, "data folder")
    assert space == f"The disk of {tmp_path} is nearly full: 8.0 MiB are free, and 256.0 MiB should be"
    assert files.endswith(" more files, and should have for 1000")


def test_the_disk_cannot_be_written(tmp_path: Path) -> None:
    folder = shlex.quote(str(tmp_path))
    mount = f'mount -t tmpfs -o ro none {folder} && exec "$@"'
    own = f"unshare --map-root-user --mount sh -c {shlex.quote(mount)} sh"
    _, report = fawad_doctor("--listen", "127.0.0.1:1", "--data-dir", str(tmp_path), under=own)
    assert problems(report, "data folder")[0].endswith("is on a disk that is mounted read-only")


def test_files_may_not_be_as_large(tmp_path: Path) -> None:
    flags = ("--listen", "127.0.0.1:1", "--data-dir", str(tmp_path))
    _, report = fawad_doctor(*flags, under="prlimit --fsize=65536:65536")
    assert problems(report, "data folder")[0].startswith("This process may not write a file of 1.0 MiB")


async def test_the_data_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    told = await look(["--listen", "127.0.0.1:1", "--data-dir", str(tmp_path / "data")])
    assert told["data folder"].endswith("data is not a folder")


async def test_others_may_read_a_secret(tmp_path: Path) -> None:
    secret = tmp_path / "link-secret"
    secret.write_text("x" * 32)
    secret.chmod(0o640)
    told = await look(["--listen", "127.0.0.1:1", "--data-dir", str(tmp_path)])
    assert told["data folder"].startswith(f"Others than its owner may read the secret {secret}")
