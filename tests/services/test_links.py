"""Download links, as conversations: a request, and the answer to it."""

from __future__ import annotations

import hashlib
import os
import random
import re
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import BinaryIO
from urllib.parse import quote

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fawa.net.exchange import Disconnected
from fawa.services.conditions import format_date
from fawa.services.links import Link, make_link, parse_link_untrusted
from fawa.storage.base import Content, NotFound, OutOfReach, StorageError
from fawa.storage.signing import sign
from tests.services.conftest import SECRET, Files
from tests.services.memory import MemoryExchange

BASE = "https://files.example"
KEY = "aebagbafaydqqcik"
DATA = random.Random(3).randbytes(600_000)
TAG = f'"{hashlib.sha256(DATA).hexdigest()}"'


def target(
    files: Files, *, key: str = KEY, name: str = "a.txt", expires: int | None = None, secret: bytes = SECRET
) -> str:
    """Return path and query of a link."""
    if expires is None:
        expires = int(files.now) + 300
    return make_link(BASE, secret, key, name, expires).removeprefix(BASE)


async def ask(files: Files, link: str | None = None, method: str = "GET", **headers: str) -> MemoryExchange:
    fields = [(name.replace("_", "-"), value) for name, value in headers.items()]
    exchange = MemoryExchange(link or target(files), method=method, headers=fields)
    await files.links.serve(exchange)
    assert exchange.ended
    return exchange


async def downloads(files: Files) -> int:
    return (await files.metadata.get(KEY)).downloads


class TestWhole:
    async def test_a_download(self, files: Files) -> None:
        await files.store(DATA, "report 1.pdf")
        answer = await ask(files)
        assert answer.status == 200
        assert answer.body == DATA
        assert {name.decode(): value.decode() for name, value in answer.response} == {
            "etag": TAG,
            "last-modified": "Sun, 23 Nov 2025 12:13:20 GMT",
            "x-content-type-options": "nosniff",
            "content-security-policy": "default-src 'none'; sandbox",
            "cache-control": "private",
            "accept-ranges": "bytes",
            "content-disposition": 'attachment; filename="report 1.pdf"',
            "repr-digest": f"sha-256=:{b64encode(hashlib.sha256(DATA).digest()).decode()}:",
            "content-type": "application/pdf",
            "content-length": "600000",
        }
        # By the kernel, in one call.
        assert answer.sent_files == [(0, 600_000)]
        assert await downloads(files) == 1

    async def test_head_tells_all_and_sends_nothing(self, files: Files) -> None:
        await files.store(DATA)
        whole, head = await ask(files), await ask(files, method="HEAD")
        assert head.status == 200
        assert head.response == whole.response
        assert head.body == b""
        assert await downloads(files) == 1

    async def test_an_empty_file(self, files: Files) -> None:
        await files.store(b"")
        for headers in ({}, {"range": "bytes=0-"}):
            answer = await ask(files, **headers)
            assert (answer.status, answer.body, answer.answer("content-length")) == (200, b"", "0")
        assert await downloads(files) == 2

    @pytest.mark.parametrize("name", ["page.html", "drawing.svg", "program.js"])
    async def test_nothing_is_shown_as_a_page_of_ours(self, files: Files, name: str) -> None:
        await files.store(b"<script>alert(1)</script>", name)
        answer = await ask(files)
        assert (answer.answer("content-disposition") or "").startswith("attachment;")
        assert answer.answer("x-content-type-options") == "nosniff"
        assert "sandbox" in (answer.answer("content-security-policy") or "")

    @pytest.mark.parametrize(
        "name", ['a"; filename="b.exe', "naïve \U0001f98a.txt", "a;b=c,d.txt", "folder/inner.txt"]
    )
    async def test_odd_names(self, files: Files, name: str) -> None:
        # The exchange in memory refuses whatever is no valid header.
        await files.store(DATA, name)
        answer = await ask(files, target(files, name=name))
        assert answer.status == 200
        assert re.search(r'filename="[^"\\]+"', answer.answer("content-disposition") or "")

    @pytest.mark.parametrize(
        "rest", ["", "/", "/other.exe", "/a%0d%0aset-cookie:%20x", "/a/b/c", "/%2e%2e/%00"]
    )
    async def test_the_name_in_the_link_changes_nothing(self, files: Files, rest: str) -> None:
        await files.store(DATA)
        query = target(files).partition("?")[2]
        answer = await ask(files, f"/files/{KEY}{rest}?{query}")
        assert answer.body == DATA
        assert answer.answer("content-disposition") == 'attachment; filename="a.txt"'


class TestBadLinks:
    @pytest.mark.parametrize("cut", [1, 20, 42, 43, 44])
    async def test_cut_off(self, files: Files, cut: int) -> None:
        await files.store(DATA)
        answer = await ask(files, target(files)[:-cut])
        assert answer.status == 403
        assert "ask for a new one" in answer.text
        assert answer.answer("cache-control") == "no-store"

    async def test_cut_off_anywhere(self, files: Files) -> None:
        await files.store(DATA)
        link = target(files)
        for length in range(len(f"/files/{KEY}"), len(link)):
            assert (await ask(files, link[:length])).status == 403, link[:length]

    async def test_without_a_signature(self, files: Files) -> None:
        await files.store(DATA)
        for link in (
            f"/files/{KEY}/a.txt",
            f"/files/{KEY}",
            "/files/",
            f"/files/{KEY}/a.txt?expires=9999999999",
        ):
            answer = await ask(files, link)
            assert (answer.status, answer.text) == (
                403,
                "this is no whole download link: copy all of it, or ask for a new one\n",
            )

    async def test_altered(self, files: Files) -> None:
        await files.store(DATA)
        await files.store(DATA, key="otherkey")
        now = int(files.now)
        signature = sign(SECRET, KEY, now + 300)
        for link in (
            f"/files/otherkey/a.txt?expires={now + 300}&signature={signature}",
            f"/files/{KEY}/a.txt?expires={now + 301}&signature={signature}",
            f"/files/{KEY}/a.txt?expires=999999999999999&signature={signature}",
            f"/files/{KEY}/a.txt?expires={now + 300}&signature={signature[:-1]}A",
            f"/files/{KEY}/a.txt?expires={now + 300}&signature={signature.swapcase()}",
            f"/files/{KEY}/a.txt?expires={now + 300}&signature=%ff%00%0a",
        ):
            answer = await ask(files, link)
            assert answer.status == 403
            assert answer.text == (
                "this link is not signed by this server: it was altered or cut off, ask for a new one\n"
            )
        assert await downloads(files) == 0

    async def test_signed_with_another_secret(self, files: Files) -> None:
        await files.store(DATA)
        assert (await ask(files, target(files, secret=SECRET[::-1]))).status == 403

    async def test_a_forgery_is_the_same_whether_or_not_there_is_a_file(self, files: Files) -> None:
        await files.store(DATA)
        answers = [
            await ask(files, target(files, key=key, secret=SECRET[::-1])) for key in (KEY, "nobodyhasthis")
        ]
        assert answers[0].body == answers[1].body
        assert answers[0].response == answers[1].response

    async def test_expired(self, files: Files) -> None:
        await files.store(DATA)
        link = target(files, expires=1763900300)
        files.now = 1763900299.9
        assert (await ask(files, link)).status == 200
        files.now = 1763900300
        answer = await ask(files, link)
        assert (answer.status, answer.text) == (
            410,
            "this link expired on Sun, 23 Nov 2025 12:18:20 GMT, ask for a new one\n",
        )

    async def test_expired_and_altered_is_altered(self, files: Files) -> None:
        await files.store(DATA)
        assert (await ask(files, target(files, expires=1, secret=SECRET[::-1]))).status == 403

    async def test_a_good_link_to_a_file_that_is_gone(self, files: Files) -> None:
        answer = await ask(files)
        assert (answer.status, answer.text) == (404, "this file is gone: it has expired or was deleted\n")

    async def test_a_good_link_to_a_file_that_is_expired_and_not_yet_swept(self, files: Files) -> None:
        await files.store(DATA, expires=files.now)
        assert (await ask(files)).status == 404

    @pytest.mark.parametrize(
        "query", ["expires={e}&signature={s}&expires={e}", "expires={e}&signature={s}&signature={s}"]
    )
    async def test_what_is_said_twice(self, files: Files, query: str) -> None:
        await files.store(DATA)
        expires = int(files.now) + 300
        query = query.format(e=expires, s=sign(SECRET, KEY, expires))
        assert (await ask(files, f"/files/{KEY}/a.txt?{query}")).status == 403

    async def test_parameters_that_others_add(self, files: Files) -> None:
        await files.store(DATA)
        answer = await ask(files, target(files) + "&utm_source=mail&x=%00&=")
        assert answer.status == 200

    async def test_parameters_without_end(self, files: Files) -> None:
        await files.store(DATA)
        assert (await ask(files, target(files) + "&a=b" * 10_000)).status == 403


@given(st.text(), st.text())
def test_no_target_fails(path: str, query: str) -> None:
    link = parse_link_untrusted(f"/files/{path}", query)
    assert link is None or re.fullmatch("[A-Za-z0-9_-]{1,128}", link.key)


@given(
    st.from_regex(r"[A-Za-z0-9_-]{1,128}", fullmatch=True),
    st.text(alphabet=st.characters(codec="utf-8")),
    st.integers(0, 2**48),
)
def test_a_link_is_read_as_it_was_made(key: str, name: str, expires: int) -> None:
    link = make_link("https://cdn.example/prefix", SECRET, key, name, expires)
    assert re.fullmatch(r"https://cdn\.example/prefix/files/[!-~]+", link)
    path, _, query = link.removeprefix("https://cdn.example/prefix").partition("?")
    assert path == f"/files/{key}/{quote(name, safe='')}"
    assert parse_link_untrusted(path, query) == Link(key, expires, sign(SECRET, key, expires))


class TestRanges:
    @pytest.mark.parametrize(
        ("value", "start", "end"),
        [
            ("bytes=0-0", 0, 1),
            ("bytes=100-199", 100, 200),
            ("bytes=599999-", 599_999, 600_000),
            ("bytes=-1000", 599_000, 600_000),
            ("bytes=0-", 0, 600_000),
            ("bytes=10-19,15-29", 10, 30),
        ],
    )
    async def test_one_part(self, files: Files, value: str, start: int, end: int) -> None:
        await files.store(DATA)
        answer = await ask(files, range=value)
        assert answer.status == 206
        assert answer.answer("content-range") == f"bytes {start}-{end - 1}/600000"
        assert answer.answer("content-length") == str(end - start)
        assert answer.answer("content-type") == "text/plain"
        assert answer.body == DATA[start:end]
        assert answer.answer("etag") == TAG
        assert await downloads(files) == (end == len(DATA))

    async def test_several_parts(self, files: Files) -> None:
        await files.store(DATA)
        answer = await ask(files, range="bytes=0-9,1000-1999,-5")
        assert answer.status == 206
        assert answer.answer("content-range") is None
        kind, _, boundary = (answer.answer("content-type") or "").partition("; boundary=")
        assert kind == "multipart/byteranges"
        assert re.fullmatch("[0-9a-f]{32}", boundary)
        expected = b""
        for start, end in ((0, 10), (1000, 2000), (599_995, 600_000)):
            expected += b"\r\n" if expected else b""
            expected += (
                f"--{boundary}\r\ncontent-type: text/plain\r\n"
                f"content-range: bytes {start}-{end - 1}/600000\r\n\r\n"
            ).encode()
            expected += DATA[start:end]
        assert answer.body == expected + f"\r\n--{boundary}--\r\n".encode()
        assert await downloads(files) == 1

    async def test_a_boundary_cannot_be_foreseen(self, files: Files) -> None:
        await files.store(DATA)
        types = {(await ask(files, range="bytes=0-1,5-6")).answer("content-type") for _ in range(5)}
        assert len(types) == 5

    @pytest.mark.parametrize("value", ["bytes=600000-", "bytes=-0", "bytes=700000-800000,-0"])
    async def test_none_that_can_be_satisfied(self, files: Files, value: str) -> None:
        await files.store(DATA)
        answer = await ask(files, range=value)
        assert answer.status == 416
        assert answer.answer("content-range") == "bytes */600000"
        assert "600000 bytes" in answer.text
        assert await downloads(files) == 0

    @pytest.mark.parametrize(
        "value", ["bytes=a", "bytes=5-1", "pages=1-2", "bytes=" + "0-0," * 100, "bytes=0-" + "9" * 3000]
    )
    async def test_what_is_ignored(self, files: Files, value: str) -> None:
        await files.store(DATA)
        answer = await ask(files, range=value)
        assert (answer.status, answer.body) == (200, DATA)

    async def test_two_range_headers_are_ignored(self, files: Files) -> None:
        await files.store(DATA)
        exchange = MemoryExchange(target(files), headers=[("range", "bytes=0-1"), ("range", "bytes=5-6")])
        await files.links.serve(exchange)
        assert exchange.status == 200

    async def test_head_knows_no_ranges(self, files: Files) -> None:
        await files.store(DATA)
        answer = await ask(files, method="HEAD", range="bytes=0-1")
        assert (answer.status, answer.answer("content-length")) == (200, "600000")

    async def test_overlapping_ranges_cost_no_more_than_the_file(self, files: Files) -> None:
        await files.store(DATA)
        answer = await ask(files, range="bytes=" + ",".join(["0-"] * 32))
        assert answer.status == 206
        assert answer.body == DATA

    async def test_a_download_resumed_piece_by_piece_counts_once(self, files: Files) -> None:
        await files.store(DATA)
        received = b""
        while len(received) < len(DATA):
            answer = await ask(files, range=f"bytes={len(received)}-{len(received) + 99_999}", if_range=TAG)
            assert answer.status == 206
            received += answer.body
        assert received == DATA
        assert await downloads(files) == 1


class TestConditions:
    async def test_a_copy_that_is_still_good(self, files: Files) -> None:
        await files.store(DATA)
        for headers in ({"if_none_match": TAG}, {"if_modified_since": format_date(int(files.now))}):
            answer = await ask(files, **headers)
            assert (answer.status, answer.body) == (304, b"")
            assert answer.answer("etag") == TAG
            assert answer.answer("content-length") is None
        assert await downloads(files) == 0

    async def test_a_copy_of_something_else(self, files: Files) -> None:
        await files.store(DATA)
        assert (await ask(files, if_none_match='"other"')).status == 200
        answer = await ask(files, if_match='"other"', range="bytes=0-9")
        assert answer.status == 412

    async def test_condition_headers_in_several_lines_are_one_list(self, files: Files) -> None:
        await files.store(DATA)
        exchange = MemoryExchange(
            target(files), headers=[("if-none-match", '"other"'), ("if-none-match", TAG)]
        )
        await files.links.serve(exchange)
        assert exchange.status == 304

    @pytest.mark.parametrize("validator", ["tag", "date"])
    async def test_a_part_is_continued_when_it_is_of_the_same_file(
        self, files: Files, validator: str
    ) -> None:
        await files.store(DATA)
        good, bad = (TAG, '"other"') if validator == "tag" else (format_date(int(files.now)), format_date(0))
        answer = await ask(files, range="bytes=500000-", if_range=good)
        assert (answer.status, answer.body) == (206, DATA[500_000:])
        answer = await ask(files, range="bytes=500000-", if_range=bad)
        assert (answer.status, answer.body) == (200, DATA)

    async def test_conditions_come_before_ranges(self, files: Files) -> None:
        await files.store(DATA)
        assert (await ask(files, range="bytes=9999999-", if_none_match=TAG)).status == 304


class RemoteStore:
    """Content that is no local file, or fails: what other backends give."""

    def __init__(
        self, data: bytes, *, fail_at: int | None = None, fail_open: Exception | None = None
    ) -> None:
        self.data = data
        self.fail_at = fail_at
        self.fail_open = fail_open

    @asynccontextmanager
    async def open(self, key: str) -> AsyncIterator[Content]:
        if self.fail_open is not None:
            raise self.fail_open
        yield RemoteContent(self.data, self.fail_at)


class RemoteContent:
    file: BinaryIO | None = None

    def __init__(self, data: bytes, fail_at: int | None) -> None:
        self.size = len(data)
        self._data = data
        self._fail_at = fail_at

    async def read(self, offset: int, count: int) -> AsyncGenerator[bytes, None]:
        for start in range(offset, offset + count, 1000):
            if self._fail_at is not None and start >= self._fail_at:
                raise StorageError("the backend is gone")
            yield self._data[start : min(start + 1000, offset + count)]


def over_remote(files: Files, store: RemoteStore) -> Files:
    return attrs.evolve(files, content=store)  # type: ignore[arg-type]


class TestBackends:
    async def test_content_that_is_no_local_file(self, files: Files) -> None:
        await files.store(DATA)
        remote = over_remote(files, RemoteStore(DATA))
        assert (await ask(remote)).body == DATA
        answer = await ask(remote, range="bytes=1500-3499")
        assert (answer.body, answer.sent_files) == (DATA[1500:3500], [])

    async def test_a_backend_that_fails_before_the_answer(self, files: Files) -> None:
        await files.store(DATA)
        answer = await ask(
            over_remote(files, RemoteStore(DATA, fail_open=StorageError("/secret/path is gone")))
        )
        assert (answer.status, answer.answer("retry-after")) == (503, "5")
        assert answer.text == "the file cannot be read at the moment, try again later\n"

    async def test_a_backend_that_is_away(self, files: Files) -> None:
        await files.store(DATA)
        away = OutOfReach("Redis at redis://10.0.0.1 cannot be reached", "Redis")
        answer = await ask(over_remote(files, RemoteStore(DATA, fail_open=away)))
        assert (answer.status, answer.answer("retry-after")) == (503, "5")
        assert answer.text == "the server cannot reach its Redis at the moment, try again in a few seconds\n"

    async def test_content_that_is_gone_before_its_record(self, files: Files) -> None:
        await files.store(DATA)
        answer = await ask(over_remote(files, RemoteStore(DATA, fail_open=NotFound(KEY))))
        assert answer.status == 404

    async def test_content_of_another_size(self, files: Files) -> None:
        await files.store(DATA)
        answer = await ask(over_remote(files, RemoteStore(DATA[1:])))
        assert (answer.status, answer.text) == (
            500,
            "the file is damaged on the server: it must be sent again\n",
        )

    async def test_a_backend_that_fails_within_the_answer(self, files: Files) -> None:
        await files.store(DATA)
        exchange = MemoryExchange(target(files))
        await over_remote(files, RemoteStore(DATA, fail_at=5000)).links.serve(exchange)
        assert (exchange.status, exchange.aborted, exchange.body) == (200, True, DATA[:5000])
        assert await downloads(files) == 0

    async def test_a_file_that_is_cut_off_while_it_is_sent(self, files: Files) -> None:
        await files.store(DATA)
        path = files.folder / "files" / "content" / KEY[:2] / KEY

        class Cutting(MemoryExchange):
            async def drain(self) -> None:
                os.truncate(path, 1000)
                await super().drain()

        exchange = Cutting(target(files))
        await files.links.serve(exchange)
        assert exchange.aborted
        assert await downloads(files) == 0

    @pytest.mark.parametrize("remote", [False, True])
    async def test_a_client_that_goes_away(self, files: Files, remote: bool) -> None:
        await files.store(DATA)
        exchange = MemoryExchange(target(files), disconnect_after=2000)
        served = over_remote(files, RemoteStore(DATA)) if remote else files
        with pytest.raises(Disconnected):
            await served.links.serve(exchange)
        assert await downloads(files) == 0
        # Nothing of it stays open.
        assert not [fd for fd in os.listdir("/dev/fd") if os.path.realpath(f"/dev/fd/{fd}").endswith(KEY)]  # noqa: PTH208

    async def test_a_download_that_cannot_be_counted_is_a_download(
        self, files: Files, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(key: str) -> None:
            raise StorageError("full")

        await files.store(DATA)
        monkeypatch.setattr(type(files.metadata), "count_download", lambda self, key: fail(key))
        assert (await ask(files)).body == DATA
