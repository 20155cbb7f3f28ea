"""`curl --upload-file`, whole and interrupted: what came before goes on by the IETF draft's requests."""

from __future__ import annotations

import json
import socket
import time
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.client.relay import relaying
from tests.daemon import PATIENCE, Daemon, running
from tests.interop import expect
from tests.interop.kept import eventually
from tests.interop.programs import program, run
from tests.interop.target import Target
from tests.interop.test_curl import JSON, STYLES, Curl, over_http1

DATA = expect.content(3_000_000)
SHA256 = expect.sha256(DATA)


@pytest.fixture(params=STYLES)
def curl(request: pytest.FixtureRequest) -> Curl:
    target: Target = request.getfixturevalue(request.param.partition("-")[0])
    flag, version = STYLES[request.param]
    trust = ("--cacert", str(target.certificate)) if target.certificate else ()
    return Curl(target, (flag, *trust), version)


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report Zoë.pdf"
    path.write_bytes(DATA)
    return path


def test_a_file_is_answered_with_its_link(curl: Curl, report: Path) -> None:
    answer = curl.run("/", "--upload-file", str(report)).decode()
    assert answer.endswith("\n")
    assert answer.count("\n") == 1
    assert answer.startswith(f"{curl.target.url}/files/")
    link = answer.strip().removeprefix(curl.target.url)
    status, headers, body = curl.status(link)
    assert (status, expect.sha256(body)) == (200, SHA256)
    assert "filename*=UTF-8''report%20Zo%C3%AB.pdf" in headers["content-disposition"]


def test_as_json_and_of_unknown_length(curl: Curl) -> None:
    told = json.loads(curl.run("/a.bin", "-T", "-", "-H", "accept: application/json", stdin=DATA))
    assert (told["name"], told["size"], told["sha256"]) == ("a.bin", len(DATA), SHA256)


def test_on_what_terms_it_is_shared(curl: Curl, report: Path) -> None:
    terms = [("fawa-ttl", "90"), ("fawa-max-downloads", "1"), ("fawa-password", "50%25 gr%C3%BCn")]
    fields = [part for name, value in terms for part in ("-H", f"{name}: {value}")]
    told = curl.json("/", "-H", "accept: application/json", *fields, "--upload-file", str(report))
    assert time.time() < told["expires_at"] / 1000 <= time.time() + 90
    ask = {"randomkey": told["key"]}
    assert curl.json(expect.DOWNLOAD_URL, *JSON, "-d", json.dumps(ask))["code"] == "permission_denied"
    right = json.dumps(ask | {"password": "50% grün"})
    link = curl.json(expect.DOWNLOAD_URL, *JSON, "-d", right)["url"].removeprefix(curl.target.url)
    status, _, body = curl.status(link)
    assert (status, expect.sha256(body)) == (200, SHA256)
    # A client may have all of a file before the server has counted that.
    eventually(lambda: curl.status(link)[0] != 429, "counted")
    for gone in (link, told["link"].removeprefix(curl.target.url)):
        status, _, body = curl.status(gone)
        assert (status, body) == (404, b"this file is gone: it has expired or was deleted\n")


def test_its_sender_deletes_it(curl: Curl, report: Path) -> None:
    status, headers, body = curl.status("/", "--upload-file", str(report))
    assert status == 201
    ask = {"randomkey": headers["fawa-key"], "ownerToken": headers["fawa-token"]}
    guess = json.dumps(ask | {"ownerToken": "a" * 26})
    assert curl.json(expect.DELETE_FILE, *JSON, "-d", guess)["code"] == "permission_denied"
    assert curl.json(expect.DELETE_FILE, *JSON, "-d", json.dumps(ask)) == {}
    assert curl.status(body.decode().strip().removeprefix(curl.target.url))[0] == 404


@over_http1
@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("fawa-ttl: 2h", "Fawa-Ttl: it must be a whole number of seconds from 1 to 2147483647, not '2h'"),
        ("fawa-ttl: 86401", "Fawa-Ttl: a file is kept for 1 to 86400 seconds here, not for 86401"),
        (
            "Fawa-Max-Downloads: 0",
            "Fawa-Max-Downloads: it must be a whole number of downloads from 1 to 2147483647, not '0'",
        ),
        # As curl sends what a terminal gives it.
        ("fawa-password: grün", "Fawa-Password: it must be printable ASCII, with % and all other characters"),
        ("fawa-password;", "Fawa-Password: it is empty: leave it out where there is to be none"),
    ],
)
def test_terms_that_cannot_be(curl: Curl, report: Path, field: str, said: str) -> None:
    written = curl.run("/", "-H", field, "-T", str(report), "-w", ": %{http_code} %{size_upload}").decode()
    assert written.startswith(said)
    assert written.endswith("\n: 400 0")


def test_no_password_is_logged_or_kept(tmp_path: Path, report: Path) -> None:
    secret, token = "hunter22", ""
    with running(tmp_path / "fawad", "--log-level", "debug") as daemon:
        curl = Curl(Target(daemon.plain, None), ("--http1.1",), "1.1")
        field = ("-H", f"fawa-password: {secret}")
        token = curl.status("/", *field, "-T", str(report))[1]["fawa-token"]
        assert curl.status("/b", *field, "-H", "fawa-ttl: 1h", "-X", "PUT", "-d", "x")[0] == 400
        draft = ("-H", "upload-complete: ?0", "-H", "content-type: application/partial-upload")
        assert curl.status("/c", *field, *draft, "-X", "PUT", "-d", "x")[0] == 201
    logged = [entry["status"] for entry in daemon.events() if entry["logger"] == "fawa.access"]
    assert logged == [201, 400, 201]
    kept = b"".join(path.read_bytes() for path in daemon.data_dir.rglob("*") if path.is_file())
    for untold in (secret, token):
        assert untold not in "\n".join(map(str, daemon.events()))
        assert untold.encode() not in kept


# Answered before the body has come: see test_curl.
@over_http1
@pytest.mark.parametrize("path", ["/..%2fetc%2fpasswd", "/a%0d%0aset-cookie:%20x", "/a%00", "/%ff"])
def test_names_that_are_refused(curl: Curl, path: str) -> None:
    status, headers, body = curl.status(path, "--path-as-is", "-X", "PUT", "-d", "x")
    assert (status, "set-cookie" in headers) == (400, False)
    assert b"file name" in body


@pytest.mark.parametrize("expects", [True, False])
def test_a_file_that_is_too_large(tmp_path: Path, report: Path, *, expects: bool) -> None:
    with running(tmp_path / "fawad", "--file-max-size", "1MB") as daemon:
        target = Target(daemon.plain, None)
        told = "\n%{http_code} %{size_upload}"
        arguments = ["-T", str(report), "-w", told, *([] if expects else ["-H", "expect:"])]
        body, _, said = Curl(target, ("--http1.1",), "1.1").run("/", *arguments).decode().rpartition("\n")
        status, sent = said.split()
        assert "the file has 3000000 bytes, the largest taken here has 1000000" in body
        assert status == "413"
        assert int(sent) == 0 or not expects
        assert not [
            path for path in (daemon.data_dir / "files").rglob("*") if path.is_file() and path.name != "owner"
        ]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--file-quota", "1MB"), "3000000 bytes, and all files here together may have 1000000: 413 0"),
        (
            ("--file-quota-per-address", "1MB"),
            "3000000 bytes, and one address may send 1000000 in an hour: 413 0",
        ),
        (("--file-min-free", "1024TiB"), "0 bytes are left on the server's disk beside the 1125899906842624"),
    ],
)
def test_there_is_no_room(tmp_path: Path, report: Path, flags: tuple[str, ...], said: str) -> None:
    with running(tmp_path / "fawad", *flags) as daemon:
        curl = Curl(Target(daemon.plain, None), ("--http1.1",), "1.1")
        answer = curl.run("/", "-T", str(report), "-w", ": %{http_code} %{size_upload}").decode()
        assert said in answer.replace("\n", "")
        assert answer.endswith((": 413 0", ": 507 0")), "nothing of it was sent"


def test_no_room_until_an_upload_is_cancelled(tmp_path: Path, report: Path) -> None:
    with running(tmp_path / "fawad", "--file-quota", "5MB", "--file-sweep-interval", "100ms") as daemon:
        curl = Curl(Target(daemon.plain, None), ("--http1.1",), "1.1")
        admin = Curl(Target(daemon.admin, None), ("--http1.1",), "1.1")
        tus = ("-H", "tus-resumable: 1.0.0")
        _, headers, _ = curl.status("/uploads", *tus, "-H", "upload-length: 3000000", "-X", "POST")
        refused = curl.run("/", "-T", str(report)).decode()
        assert "3000000 bytes, and 2000000 are left for it of the 5000000" in refused
        until = time.monotonic() + PATIENCE
        while b"\nfawa_file_bytes 3e+06\n" not in admin.run("/metrics"):
            assert time.monotonic() < until
        assert curl.status(headers["location"], *tus, "-X", "DELETE")[0] == 204
        assert curl.run("/", "-T", str(report)).startswith(b"http://")


def test_a_client_that_stands_still(tmp_path: Path) -> None:
    with running(tmp_path / "fawad", "--file-progress-timeout", "100ms") as daemon:
        curl = Curl(Target(daemon.plain, None), ("--http1.1",), "1.1")
        tus = ("-H", "tus-resumable: 1.0.0")
        _, headers, _ = curl.status("/uploads", *tus, "-H", "upload-length: 100", "-X", "POST")
        head = [
            f"PATCH {headers['location']} HTTP/1.1",
            f"host: {daemon.plain}",
            "tus-resumable: 1.0.0",
            "upload-offset: 0",
            "content-type: application/offset+octet-stream",
            "content-length: 100",
        ]
        with socket.create_connection(("127.0.0.1", curl.target.port), PATIENCE) as line:
            line.sendall("\r\n".join([*head, "", "ten octets"]).encode())
            heard = b""
            while b"\r\n\r\n" not in heard and (data := line.recv(65_536)):
                heard += data
        assert heard.startswith(b"HTTP/1.1 408 ")
        assert curl.status(headers["location"], "-I", *tus)[1]["upload-offset"] == "10"


def test_a_busy_name_is_not_taken(plain: Target) -> None:
    curl = Curl(plain, ("--http1.1",), "1.1")
    assert curl.status("/health", "-X", "PUT", "-d", "x")[0] == 405
    assert curl.status("/web/main.js", "-X", "PUT", "-d", "x")[0] == 405
    assert curl.status("/a/b", "-X", "PUT", "-d", "x")[0] == 404


def test_104_tells_where_to_go_on(curl: Curl, report: Path) -> None:
    draft = ("-H", "upload-complete: ?1", "-H", "upload-draft-interop-version: 8")
    written = curl.run("/", "-i", *draft, "-T", str(report)).decode()
    interim = next(head for head in written.split("\r\n\r\n") if head.split()[1] == "104")
    fields = dict(line.lower().split(": ", 1) for line in interim.split("\r\n")[1:])
    assert fields["upload-draft-interop-version"] == "8"
    status, headers, _ = curl.status(fields["location"], "-I")
    assert (status, headers["upload-complete"], headers["upload-offset"]) == (204, "?1", "3000000")
    # Each answer makes a link of its own, to the same file.
    assert headers["fawa-link"].partition("?")[0] in written


async def test_interrupted_and_resumed(daemon: Daemon, plain: Target, report: Path) -> None:
    async with relaying(daemon.plain) as relay:
        relay.cuts_up = [1_500_000, 1_000_000]
        line = Curl(Target(relay.url.removeprefix("http://"), None), ("--http1.1",), "1.1")

        def send() -> bytes:
            draft = ("-H", "upload-complete: ?1", "-H", "upload-draft-interop-version: 8")
            command = (program("curl"), "-sS", "-i", "--http1.1", *draft, "-T", str(report), f"{relay.url}/")
            ended = run(*command)
            assert ended.returncode in {52, 55, 56}, ended.stderr
            return ended.stdout

        heard = await trio.to_thread.run_sync(send)
        [location] = [line.split()[1].decode() for line in heard.splitlines() if line[:9] == b"location:"]

        def offset() -> int:
            _, headers, _ = line.status(location, "-I")
            assert headers["upload-complete"] == "?0"
            assert headers["upload-length"] == "3000000"
            assert headers["cache-control"] == "no-store"
            return int(headers["upload-offset"])

        def go_on(start: int) -> tuple[str, ...]:
            rest = report.with_name("rest")
            rest.write_bytes(DATA[start:])
            part = ("-H", "content-type: application/partial-upload", "-H", f"upload-offset: {start}")
            return (*part, "-H", "upload-complete: ?1", "-X", "PATCH", "-T", str(rest))

        stored = [0]
        while relay.cuts_up:
            stored.append(await trio.to_thread.run_sync(offset))
            command = (program("curl"), "-sS", *go_on(stored[-1]), f"{relay.url}{location}")
            ended = await trio.to_thread.run_sync(partial(run, *command))
            assert ended.returncode in {52, 55, 56}, ended.stderr
        stored.append(await trio.to_thread.run_sync(offset))
        assert stored == sorted(set(stored))
        # A wrong place is told where the right one is.
        status, headers, body = await trio.to_thread.run_sync(line.status, location, *go_on(stored[-1] + 1))
        assert (status, headers["upload-offset"]) == (409, str(stored[-1]))
        assert json.loads(body)["expected-offset"] == stored[-1]
        status, headers, body = await trio.to_thread.run_sync(line.status, location, *go_on(stored[-1]))
        assert (status, headers["upload-complete"]) == (201, "?1")
        link = body.decode().strip().removeprefix(relay.url)
        download = await trio.to_thread.run_sync(line.status, link)
        assert expect.sha256(download[2]) == SHA256
    assert relay.broken == 2
