"""Download links that are whole, altered, cut off, expired, or whose file is gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import attrs
import pytest

from fawa.proto.file.v1.file_pb2 import (
    FileInfo,
    GetDownloadURLRequest,
    GetDownloadURLResponse,
    SendFileRequest,
    SendFileResponse,
)
from tests.daemon import Daemon, running
from tests.interop import expect, wire
from tests.interop.kept import Kept, eventually
from tests.interop.target import Target
from tests.interop.wire import CONNECT, UNARY, Reply

DATA = expect.content(10_000)


def send(target: Target, name: str = "a.bin", data: bytes = DATA) -> str:
    """Store a file; return its key."""
    pieces = [data[start : start + 1024 * 1024] for start in range(0, len(data), 1024 * 1024)]
    requests = [SendFileRequest(info=FileInfo(name=name, size=len(data)))]
    requests += [SendFileRequest(chunk_data=piece) for piece in pieces]
    answer = CONNECT.send(target, expect.SEND_FILE, b"".join(map(CONNECT.encode, requests)))
    return CONNECT.decode(answer.payloads[0], SendFileResponse).randomkey


def link_to(target: Target, key: str) -> str:
    """Return path and query of a link to a file."""
    request = UNARY.encode(GetDownloadURLRequest(randomkey=key))
    answer = UNARY.send(target, expect.DOWNLOAD_URL, request)
    url = UNARY.decode(answer.payloads[0], GetDownloadURLResponse).url
    assert url.startswith(target.url)
    return url.removeprefix(target.url)


def fetch(target: Target, link: str, method: str = "GET", **headers: str) -> Reply:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return wire.over_http1(target, method, link, fields)


@pytest.fixture
def link(plain: Target) -> str:
    return link_to(plain, send(plain))


@attrs.frozen
class Parts:
    """A link taken apart."""

    key: str
    name: str
    parameters: dict[str, str]

    @classmethod
    def of(cls, link: str) -> Parts:
        split = urlsplit(link)
        _, folder, key, name = split.path.split("/")
        assert folder == "files"
        return cls(key, name, dict(parse_qsl(split.query, strict_parsing=True)))

    def link(self) -> str:
        return f"/files/{self.key}/{self.name}?{urlencode(self.parameters)}"

    def with_parameters(self, **changed: str) -> Parts:
        return attrs.evolve(self, parameters=self.parameters | changed)


def forgeries(link: str, other: str) -> Iterator[tuple[str, str]]:
    """Return what forgers try, each with its name; `other` is a good link to another file."""
    parts, stranger = Parts.of(link), Parts.of(other)
    expires, signature = int(parts.parameters["expires"]), parts.parameters["signature"]
    swapped = ("B" if signature[0] == "A" else "A") + signature[1:]
    yield "a later expiry", parts.with_parameters(expires=str(expires + 1)).link()
    yield "an expiry in the far future", parts.with_parameters(expires="999999999999999").link()
    yield "an expiry that is none", parts.with_parameters(expires="never").link()
    yield "a negative expiry", parts.with_parameters(expires=f"-{expires}").link()
    yield "another signature", parts.with_parameters(signature=swapped).link()
    yield "an empty signature", parts.with_parameters(signature="").link()
    yield "a signature twice as long", parts.with_parameters(signature=signature * 2).link()
    yield "a signature of other letters", parts.with_parameters(signature="é" * len(signature)).link()
    yield "the signature of another file", parts.with_parameters(**stranger.parameters).link()
    yield "the key of another file", attrs.evolve(parts, key=stranger.key).link()
    yield "a path for a key", attrs.evolve(parts, key="..%2F..%2Flink-secret").link()
    yield "no expiry", link.replace("expires=", "expired=")
    yield "two expiries", f"{link}&expires={expires + 600}"
    yield "two signatures", f"{link}&signature={signature}"


def test_forged_links(plain: Target, daemon: Daemon, link: str) -> None:
    other = link_to(plain, send(plain))
    before = Kept.of(daemon.data_dir)
    for name, forged in forgeries(link, other):
        reply = fetch(plain, forged)
        assert reply.status == 403, name
        assert DATA[:100] not in reply.body
        assert reply.headers["cache-control"] == "no-store"
    assert fetch(plain, link).body == DATA
    assert Kept.of(daemon.data_dir) == before


def test_links_cut_off_anywhere(plain: Target, link: str) -> None:
    query = link.index("?")
    for end in [*range(len("/files/"), query, 5), *range(query, len(link))]:
        assert fetch(plain, link[:end]).status == 403, link[:end]
    assert fetch(plain, link).status == 200


def test_what_others_add_to_a_link(plain: Target, link: str) -> None:
    assert fetch(plain, link + "&utm_source=mail").body == DATA


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_methods_of_links(plain: Target, link: str, method: str) -> None:
    reply = fetch(plain, link, method, content_length="0") if method != "POST" else fetch(plain, link, method)
    assert reply.status == 405
    assert set(reply.headers["allow"].split(", ")) >= {"GET", "HEAD"}


def test_validators(plain: Target, link: str) -> None:
    first = fetch(plain, link)
    tag = first.headers["etag"]
    assert fetch(plain, link, if_none_match=tag).status == 304
    assert fetch(plain, link, if_none_match='"another"').body == DATA
    assert fetch(plain, link, if_match='"another"').status == 412
    assert fetch(plain, link, if_range=tag, range="bytes=10-19").body == DATA[10:20]
    changed = fetch(plain, link, if_range='"another"', range="bytes=10-19")
    assert (changed.status, changed.body) == (200, DATA)
    assert fetch(plain, link, if_modified_since=first.headers["last-modified"]).status == 304


@pytest.mark.parametrize(
    ("asked", "status", "start", "end"),
    [
        ("bytes=0-0", 206, 0, 1),
        ("bytes=9999-", 206, 9999, 10_000),
        ("bytes=-1", 206, 9999, 10_000),
        ("bytes=-20000", 206, 0, 10_000),
        ("bytes=5-20000", 206, 5, 10_000),
        ("bytes=10000-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
        ("bytes=9-5", 200, 0, 10_000),
        ("chapters=1-2", 200, 0, 10_000),
        ("bytes=", 200, 0, 10_000),
    ],
)
def test_one_range(target: Target, asked: str, status: int, start: int, end: int) -> None:
    reply = fetch(target, link_to(target, send(target)), range=asked)
    assert reply.status == status
    if status == 206:
        assert reply.headers["content-range"] == f"bytes {start}-{end - 1}/{len(DATA)}"
    if status == 416:
        assert reply.headers["content-range"] == f"bytes */{len(DATA)}"
    else:
        assert reply.body == DATA[start:end]


def test_expired_links_and_files(tmp_path: Path) -> None:
    """A link ends before its file, and with the file goes everything."""
    flags = ("--file-link-ttl", "1s", "--file-ttl", "4s", "--file-sweep-interval", "1s")
    with running(tmp_path, *flags) as daemon:
        plain = Target(daemon.plain, None)
        key = send(plain)
        link = link_to(plain, key)
        forged = Parts.of(link).with_parameters(expires="1").link()
        eventually(lambda: fetch(plain, link).status == 410, "the link has expired")
        assert fetch(plain, forged).status == 403, "who did not have the link learns nothing of its expiry"

        request = UNARY.encode(GetDownloadURLRequest(randomkey=key))
        eventually(lambda: UNARY.send(plain, expect.DOWNLOAD_URL, request).code == "not_found", "expiry")
        eventually(lambda: not Kept.of(tmp_path).records, "the record is gone")
        assert Kept.of(tmp_path).contents() == []
        assert fetch(plain, link).status == 410


def test_a_link_outlives_a_restart(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        link = link_to(Target(daemon.plain, None), send(Target(daemon.plain, None)))
    with running(tmp_path) as daemon:
        assert fetch(Target(daemon.plain, None), link).body == DATA
