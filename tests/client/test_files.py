"""Files to and from the real file service: broken connections, servers that lie, names that reach out."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.client import CallFailed, CannotReach, ConnectionLost, connect
from fawa.client.dial import Trust
from fawa.client.files import Download, get_link
from fawa.client.link import fetch
from fawa.client.part import TransferError
from fawa.client.upload import CHUNK, send_file
from fawa.net.engine import Request
from fawa.net.exchange import Exchange
from fawa.net.router import Route
from fawa.proto.file.v1.file_grpc import FileServiceBase
from fawa.proto.file.v1.file_pb2 import (
    GetDownloadURLResponse,
    ReceiveFileResponse,
    SendFileResponse,
)
from fawa.services.base import Offer
from fawa.services.file import FileService
from fawa.storage import filesystem, sqlite
from fawa.storage.uploads import upload_store
from tests.client.relay import relaying
from tests.client.server import AUTHORITY, ScriptedServer, Server, serving

CONTENT = random.Random(1).randbytes(3_000_000)


@attrs.define(eq=False)
class Told:
    """Remembers what a transfer tells of itself."""

    totals: list[int] = attrs.field(factory=list)
    done: list[int] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)

    def begin(self, name: str, total: int) -> None:
        self.totals.append(total)

    def at(self, done: int) -> None:
        self.done.append(done)

    def note(self, text: str) -> None:
        self.notes.append(text)


@asynccontextmanager
async def file_server(folder: Path, *, resumable: bool = True, links: bool = True) -> AsyncIterator[Server]:
    """The file service on the embedded stores; without `links` theirs lead nowhere."""
    folder.mkdir(exist_ok=True)
    service = FileService(
        open_content=functools.partial(filesystem.content_store, folder / "files"),
        open_metadata=functools.partial(sqlite.metadata_store, folder / "files.sqlite3"),
        open_uploads=functools.partial(upload_store, folder / "uploads.sqlite3") if resumable else None,
        secret=b"s" * 32,
    )
    async with trio.open_nursery() as nursery:
        offer: Offer = await nursery.start(service.run)
        async with serving(*offer.rpc, routes=offer.http if links else {}) as server:
            yield server
        nursery.cancel_scope.cancel()


async def send(url: str, content: bytes, name: str = "a file.bin") -> str:
    async with connect(url) as channel:
        answer = await send_file(channel, io.BytesIO(content), name, len(content), Told())
    return answer.randomkey


async def receive(
    url: str, key: str, to: Path | None, told: Told | None = None, *, force: bool = False
) -> tuple[Path, int]:
    """Receive a file; returns its path and how many bytes were there before."""
    async with connect(url) as channel:
        received = await Download(channel, key, to, force, Trust(), told or Told()).run()
    return received.path, received.resumed_from


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder to receive into."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


# There and back


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3_000_000])
async def test_a_file_comes_back_as_it_was(tmp_path: Path, here: Path, size: int) -> None:
    content = CONTENT[:size]
    async with file_server(tmp_path / "data") as server:
        told = Told()
        async with connect(server.url) as channel:
            answer = await send_file(channel, io.BytesIO(content), "Grüße aus 東京.txt", size, told)
        assert (told.totals, told.done[-1:]) == ([size], [size] if size else [])

        told = Told()
        path, resumed_from = await receive(server.url, answer.randomkey, here, told)
        assert path == here / "Grüße aus 東京.txt"
        assert path.read_bytes() == content
        assert resumed_from == 0
        assert names_in(here) == ["Grüße aus 東京.txt"]
        assert (told.totals, told.done[-1:], told.notes) == ([size], [size] if size else [], [])


@pytest.mark.parametrize("dialect", ["grpc-web", "connect", "connect-json"])
async def test_in_every_dialect(tmp_path: Path, here: Path, dialect: Any) -> None:
    async with file_server(tmp_path / "data") as server, connect(server.url, dialect=dialect) as channel:
        answer = await send_file(channel, io.BytesIO(CONTENT), "x", len(CONTENT), Told())
        download = Download(channel, answer.randomkey, here / "y", False, Trust(), Told())
        assert (await download.run()).path.read_bytes() == CONTENT


async def test_a_file_that_shrinks_while_it_is_sent(tmp_path: Path) -> None:
    async with file_server(tmp_path / "data") as server, connect(server.url) as channel:
        with pytest.raises(TransferError, match="has become shorter"):
            await send_file(channel, io.BytesIO(CONTENT), "x", len(CONTENT) + 1, Told())


async def test_a_file_that_the_server_refuses(tmp_path: Path) -> None:
    async with file_server(tmp_path / "data") as server, connect(server.url) as channel:
        with pytest.raises(CallFailed, match=r"contains '\.\.'") as caught:
            await send_file(channel, io.BytesIO(CONTENT), "../x", len(CONTENT), Told())
        assert caught.value.status is Status.INVALID_ARGUMENT


async def test_unknown_keys(tmp_path: Path, here: Path) -> None:
    async with file_server(tmp_path / "data") as server, connect(server.url) as channel:
        with pytest.raises(CallFailed) as caught:
            await receive(server.url, "abcdefghijklmnop", here)
        assert caught.value.status is Status.NOT_FOUND
        with pytest.raises(CallFailed):
            await get_link(channel, "abcdefghijklmnop")
        assert names_in(here) == []


# Where it goes


async def test_nothing_is_overwritten_without_force(tmp_path: Path, here: Path) -> None:
    target = here / "a file.bin"
    target.write_bytes(b"mine")
    async with file_server(tmp_path / "data") as server:
        key = await send(server.url, CONTENT)
        for to in (here, target):
            with pytest.raises(TransferError, match="is already there: give another -o, or --force"):
                await receive(server.url, key, to)
        assert target.read_bytes() == b"mine"
        assert names_in(here) == ["a file.bin"]
        await receive(server.url, key, here, force=True)
        assert target.read_bytes() == CONTENT
        assert names_in(here) == ["a file.bin"]


async def test_nothing_is_overwritten_that_came_meanwhile(tmp_path: Path, here: Path) -> None:
    class Racing(Told):
        def at(self, done: int) -> None:
            (here / "a file.bin").write_bytes(b"mine")

    async with file_server(tmp_path / "data") as server:
        key = await send(server.url, CONTENT)
        with pytest.raises(TransferError, match="is already there"):
            await receive(server.url, key, here, Racing())
        assert (here / "a file.bin").read_bytes() == b"mine"
        # And what has arrived is not lost.
        path, resumed_from = await receive(server.url, key, here / "other", force=False)
        assert resumed_from == 0
        (here / "a file.bin").unlink()
        path, resumed_from = await receive(server.url, key, here)
        assert resumed_from == len(CONTENT)
        assert path.read_bytes() == CONTENT


async def test_folders_that_are_not_there(tmp_path: Path, here: Path) -> None:
    async with file_server(tmp_path / "data") as server:
        key = await send(server.url, b"x")
        with pytest.raises(TransferError, match=r"cannot write .*: No such file or directory"):
            await receive(server.url, key, here / "no" / "file")


@attrs.define(eq=False)
class Liar(FileServiceBase):
    """Answers what a test wants."""

    name: str = "x"
    messages: list[ReceiveFileResponse] = attrs.field(factory=list)
    link: str | GRPCError = ""
    taken: SendFileResponse = attrs.field(factory=SendFileResponse)

    async def SendFile(self, stream: Any) -> None:
        async for _ in stream:
            pass
        await stream.send_message(self.taken)

    async def StartUpload(self, stream: Any) -> None:
        raise GRPCError(Status.UNIMPLEMENTED)

    GetUpload = CancelUpload = DeleteFile = StartUpload

    async def ReceiveFile(self, stream: Any) -> None:
        await stream.recv_message()
        for message in self.messages:
            await stream.send_message(message)

    async def GetDownloadURL(self, stream: Any) -> None:
        await stream.recv_message()
        if isinstance(self.link, GRPCError):
            raise self.link
        await stream.send_message(GetDownloadURLResponse(url=self.link, filename=self.name))


def whole(content: bytes, *, size: int | None = None, name: str = "x") -> list[ReceiveFileResponse]:
    """The messages of a file."""
    first = ReceiveFileResponse(filename=name, file_size=len(content) if size is None else size)
    return [first, *([ReceiveFileResponse(filename=name, chunk_data=content)] if content else [])]


@pytest.mark.parametrize("with_link", [True, False])
@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("../../etc/passwd", "passwd"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\evil.bat", "evil.bat"),
        ("..", "download"),
        (".", "download"),
        ("", "download"),
        ("folder/", "download"),
        ("a\nb\x1b[2J\x00c", "a_b_[2J_c"),
        ("photo\u202egpj.exe", "photo_gpj.exe"),
        ("ü" * 200, "ü" * 127),
        ("two  spaces\u3000wide.txt", "two  spaces\u3000wide.txt"),
    ],
)
async def test_a_name_is_never_a_path(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str, saved: str, with_link: bool
) -> None:
    monkeypatch.chdir(here)
    link = "http://127.0.0.1:1/x" if with_link else GRPCError(Status.UNIMPLEMENTED, "no links")
    liar = Liar(name=name, messages=whole(b"content", name=name), link=link)
    async with serving(liar) as server:
        path, _ = await receive(server.url, "key", None)
    assert path == Path(saved)
    assert names_in(here) == [saved]
    assert path.read_bytes() == b"content"


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "does not begin with the size"),
        (whole(b"content")[1:], "does not begin with the size"),
        (whole(b"content", size=8), "announced 8 bytes and sent 7"),
        (whole(b"content", size=6), "announced 6 bytes and sent 7"),
    ],
)
async def test_a_server_that_miscounts(
    here: Path, messages: list[ReceiveFileResponse], complaint: str
) -> None:
    async with serving(Liar(messages=messages, link="http://127.0.0.1:1/x")) as server:
        with pytest.raises(TransferError, match=complaint):
            await receive(server.url, "key", here)
    assert names_in(here) == []


async def test_a_server_that_does_not_take_a_file() -> None:
    liar = Liar(taken=SendFileResponse(success=False, message="not today"))
    async with serving(liar) as server, connect(server.url) as channel:
        with pytest.raises(TransferError, match="did not take x: not today"):
            await send_file(channel, io.BytesIO(b""), "x", 0, Told())


# Connections that break


async def test_a_download_goes_on_where_it_was(tmp_path: Path, here: Path) -> None:
    async with (
        file_server(tmp_path / "data") as server,
        relaying(server.endpoint.address, 1_000_000, 600_000, 100_000) as relay,
    ):
        key = await send(server.url, CONTENT)
        told = Told()
        path, resumed_from = await receive(relay.url, key, here, told)
        assert path.read_bytes() == CONTENT
        assert relay.broken == 3
        assert resumed_from == 0
        assert len(told.notes) == 3
        assert all("going on in" in note for note in told.notes)
        assert names_in(here) == ["a file.bin"]
        # Nothing but what was in flight when a connection broke came twice.
        assert relay.passed < len(CONTENT) + 3 * 300_000


async def test_no_link_is_needed_to_go_on(tmp_path: Path, here: Path) -> None:
    async with (
        file_server(tmp_path / "data", links=False) as server,
        relaying(server.endpoint.address, 1_000_000, 600_000) as relay,
    ):
        key = await send(server.url, CONTENT)
        path, _ = await receive(relay.url, key, here)
        assert path.read_bytes() == CONTENT
        assert relay.broken == 2
        assert relay.passed < len(CONTENT) + 2 * 300_000


async def test_a_server_whose_content_is_not_what_it_says(here: Path) -> None:
    first, *rest = whole(CONTENT)
    first.sha256 = bytes(32)
    async with serving(Liar(messages=[first, *rest], link=GRPCError(Status.UNIMPLEMENTED))) as server:
        with pytest.raises(TransferError, match="SHA-256 differs"):
            await receive(server.url, "key", here)
    assert names_in(here) == []


@pytest.mark.parametrize("has_link", [True, False])
async def test_a_later_process_goes_on_whether_or_not_it_knows_the_name(here: Path, has_link: bool) -> None:
    tag = hashlib.sha256(CONTENT).digest()
    asked: list[int] = []

    class Honest(Liar):
        async def ReceiveFile(self, stream: Any) -> None:
            request = await stream.recv_message()
            asked.append(request.offset)
            first = ReceiveFileResponse(filename="a file.bin", file_size=len(CONTENT), sha256=tag)
            await stream.send_message(first)
            rest = CONTENT[request.offset :]
            await stream.send_message(ReceiveFileResponse(filename="a file.bin", chunk_data=rest))

    link = "http://127.0.0.1:1/x" if has_link else GRPCError(Status.FAILED_PRECONDITION, "no public_url")
    async with serving(Honest(name="a file.bin", link=link)) as server:
        await keep_part(here, "key", f'"{tag.hex()}"', CONTENT[:1_000_000])
        path, resumed_from = await receive(server.url, "key", here)
    assert path.read_bytes() == CONTENT
    assert resumed_from == 1_000_000
    assert asked == ([1_000_000] if has_link else [0, 1_000_000])


async def test_a_later_process_goes_on(tmp_path: Path, here: Path) -> None:
    async with (
        file_server(tmp_path / "data") as server,
        relaying(server.endpoint.address) as relay,
    ):
        key = await send(server.url, CONTENT)

        class Impatient(Told):
            scope: trio.CancelScope

            def at(self, done: int) -> None:
                if done > 1_000_000:
                    self.scope.cancel()

        told = Impatient()
        async with connect(relay.url) as channel:
            download = Download(channel, key, here, False, Trust(), told)
            with trio.CancelScope() as told.scope:
                await download.run()
            assert told.scope.cancelled_caught
            assert download.kept == here / "a file.bin.part"
        size = (here / "a file.bin.part").stat().st_size
        assert 1_000_000 < size < len(CONTENT)
        assert names_in(here) == ["a file.bin.part", "a file.bin.part.json"]

        before = relay.passed
        path, resumed_from = await receive(relay.url, key, here)
        assert resumed_from == size
        assert path.read_bytes() == CONTENT
        assert relay.passed - before < len(CONTENT) - size + 10_000
        assert names_in(here) == ["a file.bin"]


async def keep_part(here: Path, key: str, tag: str | None, content: bytes) -> None:
    """Leave what an interrupted download leaves."""
    (here / "a file.bin.part").write_bytes(content)
    (here / "a file.bin.part.json").write_text(json.dumps({"key": key, "tag": tag}), "utf-8")


async def tag_of(url: str, key: str) -> str:
    async with connect(url) as channel:
        link = (await get_link(channel, key)).url
    async with fetch(link, [], Trust()) as response:
        return dict(response.headers)[b"etag"].decode()


async def test_a_part_that_is_whole_needs_only_its_name(tmp_path: Path, here: Path) -> None:
    async with file_server(tmp_path / "data") as server, relaying(server.endpoint.address) as relay:
        key = await send(server.url, CONTENT)
        await keep_part(here, key, await tag_of(server.url, key), CONTENT)
        path, resumed_from = await receive(relay.url, key, here)
        assert resumed_from == len(CONTENT)
        assert path.read_bytes() == CONTENT
        assert relay.passed < 10_000


@pytest.mark.parametrize("wrong", ["key", "tag", "no tag", "too long", "no json", "no about"])
async def test_a_part_of_something_else_is_not_used(tmp_path: Path, here: Path, wrong: str) -> None:
    async with file_server(tmp_path / "data") as server:
        key = await send(server.url, CONTENT)
        tag: str | None = await tag_of(server.url, key)
        content = b"garbage"
        if wrong == "tag":
            tag = '"other"'
        elif wrong == "no tag":
            tag = None
        elif wrong == "too long":
            content = CONTENT + b"!"
        await keep_part(here, "other" if wrong == "key" else key, tag, content)
        if wrong == "no json":
            (here / "a file.bin.part.json").write_bytes(b"{\xff")
        elif wrong == "no about":
            (here / "a file.bin.part.json").unlink()
        path, resumed_from = await receive(server.url, key, here)
        assert resumed_from == 0
        assert path.read_bytes() == CONTENT


async def test_damage_in_a_part_is_found(tmp_path: Path, here: Path) -> None:
    async with file_server(tmp_path / "data") as server:
        key = await send(server.url, CONTENT)
        await keep_part(here, key, await tag_of(server.url, key), b"!" + CONTENT[1:1_000_000])
        with pytest.raises(TransferError, match="SHA-256 differs"):
            await receive(server.url, key, here)
        assert names_in(here) == []
        path, _ = await receive(server.url, key, here)
        assert path.read_bytes() == CONTENT


# Links that are of no use


async def refuse_ranges(exchange: Exchange) -> None:
    """A server of files without ranges, whose content has changed since the first look."""
    fields = dict(exchange.headers)
    tag = b'"first"' if fields.get(b"range") == b"bytes=0-0" else b'"second"'
    exchange.respond(200, [(b"etag", tag)], CONTENT)


def changed(*, heeds_if_range: bool) -> Callable[[Exchange], Awaitable[None]]:
    """A server with ranges, whose content has changed since the first look."""

    async def page(exchange: Exchange) -> None:
        fields = dict(exchange.headers)
        wanted = fields[b"range"]
        if wanted == b"bytes=0-0":
            span = b"bytes 0-0/%d" % len(CONTENT)
            exchange.respond(206, [(b"etag", b'"first"'), (b"content-range", span)], b"?")
            return
        if heeds_if_range and fields.get(b"if-range", b'"second"') != b'"second"':
            exchange.respond(200, [(b"etag", b'"second"')], CONTENT)
            return
        start = int(wanted.removeprefix(b"bytes=").partition(b"-")[0])
        span = b"bytes %d-%d/%d" % (start, len(CONTENT) - 1, len(CONTENT))
        headers = [(b"etag", b'"second"'), (b"content-range", span)]
        exchange.respond(206, headers, bytes(len(CONTENT) - start))

    return page


async def say_gone(exchange: Exchange) -> None:
    """Good at first, then not."""
    if dict(exchange.headers).get(b"range") == b"bytes=0-0":
        headers = [(b"etag", b'"x"'), (b"content-range", b"bytes 0-0/%d" % len(CONTENT))]
        exchange.respond(206, headers, CONTENT[:1])
    else:
        exchange.respond_text(410, "gone")


async def say_nonsense(exchange: Exchange) -> None:
    """Ranges that do not begin where they were asked to."""
    headers = [(b"etag", b'"x"'), (b"content-range", b"bytes 7-7/%d" % len(CONTENT))]
    if dict(exchange.headers).get(b"range") == b"bytes=0-0":
        headers[1] = (b"content-range", b"bytes 0-0/%d" % len(CONTENT))
    exchange.respond(206, headers, b"?")


async def say_nothing_firm(exchange: Exchange) -> None:
    """No strong validator: it can never be known whether parts fit together."""
    exchange.respond(200, [(b"etag", b'W/"weak"')], CONTENT)


@pytest.mark.parametrize(
    ("page", "told_so"),
    [
        pytest.param(refuse_ranges, False, id="no ranges"),
        pytest.param(changed(heeds_if_range=True), False, id="changed"),
        pytest.param(changed(heeds_if_range=False), True, id="changed, and no If-Range"),
        pytest.param(say_gone, True, id="gone"),
        pytest.param(say_nonsense, True, id="nonsense"),
        pytest.param(say_nothing_firm, False, id="weak tag"),
        pytest.param(None, False, id="cannot be reached"),
    ],
)
async def test_a_useless_link_costs_only_the_start(
    here: Path, page: Callable[[Exchange], Awaitable[None]] | None, told_so: bool
) -> None:
    pieces = [ReceiveFileResponse(chunk_data=CONTENT[at : at + 50_000]) for at in range(0, 3_000_000, 50_000)]
    liar = Liar(messages=[*whole(CONTENT)[:1], *pieces])
    routes = {} if page is None else {"/link": Route(("GET",), page)}
    async with serving(liar, routes=routes) as server:
        liar.link = f"{server.url}/link?x=1" if page is not None else "http://127.0.0.1:1/x"
        async with relaying(server.endpoint.address, 1_000_000) as relay:
            told = Told()
            path, resumed_from = await receive(relay.url, "key", here, told)
            assert path.read_bytes() == CONTENT
            assert resumed_from == 0
            assert relay.broken == 1
    assert names_in(here) == ["x"]
    assert any("starting from the beginning" in note for note in told.notes) == told_so


async def test_a_link_that_asks_for_patience_gets_it(tmp_path: Path, here: Path) -> None:
    asked = 0

    async def busy(exchange: Exchange) -> None:
        nonlocal asked
        wanted = dict(exchange.headers)[b"range"]
        start = int(wanted.removeprefix(b"bytes=").partition(b"-")[0])
        asked += start > 0
        if start and asked <= 2:
            exchange.respond_text(503, "later")
            return
        body = CONTENT[:1] if wanted == b"bytes=0-0" else CONTENT[start:]
        span = b"bytes %d-%d/%d" % (start, start + len(body) - 1, len(CONTENT))
        exchange.respond(206, [(b"etag", b'"x"'), (b"content-range", span)], body)

    pieces = [ReceiveFileResponse(chunk_data=CONTENT[at : at + 50_000]) for at in range(0, 3_000_000, 50_000)]
    liar = Liar(messages=[*whole(CONTENT)[:1], *pieces])
    async with serving(liar, routes={"/link": Route(("GET",), busy)}) as server:
        liar.link = f"{server.url}/link"
        async with relaying(server.endpoint.address, 1_000_000) as relay:
            told = Told()
            path, _ = await receive(relay.url, "key", here, told)
            assert path.read_bytes() == CONTENT
            assert relay.passed < 1_500_000
    assert sum("HTTP status 503" in note for note in told.notes) == 2


# Giving up


async def test_a_connection_that_keeps_breaking_is_given_up(
    here: Path, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer()
    attempts = 0

    async def serve() -> None:
        nonlocal attempts
        while True:
            script = await server.accept()
            request = await script.next(Request)
            if request.path.endswith(b"GetDownloadURL"):
                script.head(request.stream_id)
                script.end(request.stream_id, Status.UNIMPLEMENTED.value)
                request = await script.next(Request)
            attempts += 1
            script.head(request.stream_id)
            script.message(request.stream_id, ReceiveFileResponse(filename="x", file_size=7))
            await script.flush()
            await script.hang_up()

    async with server.channel(patience=math.inf) as channel, trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        told = Told()
        with pytest.raises(ConnectionLost, match=AUTHORITY):
            await Download(channel, "key", here, False, Trust(), told).run()
        nursery.cancel_scope.cancel()
    assert attempts == 9
    assert len(told.notes) == 8
    # Pauses of 0.1, 0.2, 0.4 and so on to 12.8 s, of which chance takes up to half.
    assert 12.7 <= trio.current_time() <= 25.6
    assert names_in(here) == []


async def test_a_server_that_is_not_there_is_told_at_once(here: Path) -> None:
    with pytest.raises(CannotReach, match="connection refused; is fawad running"):
        await receive("http://127.0.0.1:1", "key", here)
    assert names_in(here) == []
