"""What is counted of transfers and sweeps: conversations, and the figures after them."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio
from grpclib.const import Status
from trio.testing import MockClock

from fawa.net.exchange import Disconnected
from fawa.ops.meters import Figure
from fawa.proto.file.v1.file_pb2 import (
    FileInfo,
    ReceiveFileRequest,
    ReceiveFileResponse,
    SendFileRequest,
    SendFileResponse,
    StartUploadRequest,
    StartUploadResponse,
)
from fawa.services.base import Offer
from fawa.services.figures import Flow, storage_figures
from fawa.services.file import FileService
from fawa.services.file_rpc import FileRpc
from fawa.services.tus import VERSION
from fawa.storage.base import OutOfReach
from fawa.storage.filesystem import content_store
from fawa.storage.sqlite import metadata_store
from fawa.storage.uploads import upload_store
from fawa.storage.watching import StoreWatch
from tests.services.conftest import SECRET, Files
from tests.services.memory import MemoryExchange, MemoryStream
from tests.services.talk import DATA, chunks, info, refused, settings, until
from tests.services.test_links import target
from tests.services.uploading import Talk
from tests.storage.disk import Disk

Counts = tuple[int, int, int, int, int]


def counts(flow: Flow) -> Counts:
    """Return started, finished, failed, bytes, resumed."""
    return flow.started, flow.finished, flow.failed, flow.bytes, flow.resumed


def values(figures: tuple[Figure, ...]) -> dict[str, float]:
    return {" ".join((figure.name, *labels)): value for figure in figures for labels, value in figure.read()}


@pytest.fixture
async def talk(files: Files, tmp_path: Path) -> AsyncIterator[Talk]:
    async with upload_store(tmp_path / "uploads.sqlite3") as records:
        yield Talk(files, records)


class TestRpc:
    async def send(self, rpc: FileRpc, *messages: SendFileRequest) -> SendFileResponse:
        stream = MemoryStream[SendFileRequest, SendFileResponse]([*messages])
        await rpc.SendFile(stream)
        return stream.sent[0]

    async def test_up_and_down(self, files: Files) -> None:
        rpc = files.rpc
        key = (await self.send(rpc, info(), *chunks())).randomkey
        assert counts(rpc.transfers.rpc_up) == (1, 1, 0, len(DATA), 0)
        stream = MemoryStream[ReceiveFileRequest, ReceiveFileResponse]([ReceiveFileRequest(randomkey=key)])
        await rpc.ReceiveFile(stream)
        assert counts(rpc.transfers.rpc_down) == (1, 1, 0, len(DATA), 0)

    async def test_what_breaks_off_has_failed_and_moved_bytes(self, files: Files) -> None:
        rpc = files.rpc
        with refused(Status.INVALID_ARGUMENT, "the stream ended after 100"):
            await self.send(rpc, info(), *chunks(DATA[:100]))
        assert counts(rpc.transfers.rpc_up) == (1, 0, 1, 100, 0)

    async def test_what_is_refused_before_its_content_was_no_transfer(self, files: Files) -> None:
        rpc = files.rpc
        with refused(Status.INVALID_ARGUMENT, "name"):
            await self.send(rpc, info(name="../x"), *chunks())
        stream = MemoryStream[ReceiveFileRequest, ReceiveFileResponse]([ReceiveFileRequest(randomkey="no")])
        with refused(Status.NOT_FOUND, "no file"):
            await rpc.ReceiveFile(stream)
        assert counts(rpc.transfers.rpc_up) == counts(rpc.transfers.rpc_down) == (0, 0, 0, 0, 0)

    async def test_an_upload_that_goes_on_was_resumed(self, files: Files, talk: Talk) -> None:
        rpc = FileRpc(
            files.content,
            files.metadata,
            SECRET,
            lambda: files.settings,
            lambda: files.now,
            files.sharing,
            files.quotas,
            talk.uploads,
        )
        start = MemoryStream[StartUploadRequest, StartUploadResponse](
            [StartUploadRequest(name="a.txt", size=len(DATA))]
        )
        await rpc.StartUpload(start)
        upload_id = start.sent[0].upload_id
        first = SendFileRequest(info=FileInfo(upload_id=upload_id))
        rest = SendFileRequest(info=FileInfo(upload_id=upload_id, offset=1000))
        await self.send(rpc, first, *chunks(DATA[:1000]))
        assert counts(rpc.transfers.rpc_up) == (1, 1, 0, 1000, 0)
        assert (await self.send(rpc, rest, *chunks(DATA[1000:]))).success
        assert counts(rpc.transfers.rpc_up) == (2, 2, 0, len(DATA), 1)


class TestHttp:
    async def test_a_link(self, files: Files) -> None:
        await files.store(DATA)
        links = files.links
        whole = MemoryExchange(target(files))
        await links.serve(whole)
        assert counts(links.transfers.link) == (1, 1, 0, len(DATA), 0)
        part = MemoryExchange(target(files), headers=[("range", "bytes=0-9,20-29")])
        await links.serve(part)
        assert part.status == 206
        # Of content: what stands between the parts of a multipart answer does not count.
        assert counts(links.transfers.link) == (2, 2, 0, len(DATA) + 20, 0)
        for method, field in (("HEAD", ("x", "y")), ("GET", ("if-none-match", "*"))):
            await links.serve(MemoryExchange(target(files), method=method, headers=[field]))
        assert counts(links.transfers.link)[0] == 2

    async def test_a_reader_of_a_link_that_leaves(self, files: Files) -> None:
        await files.store(DATA)
        links = files.links
        with pytest.raises(Disconnected):
            await links.serve(MemoryExchange(target(files), disconnect_after=1000))
        assert counts(links.transfers.link)[:3] == (1, 0, 1)
        assert links.transfers.link.bytes > 0

    async def test_a_large_file_by_a_link_is_counted_as_it_goes(
        self, files: Files, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("fawa.services.links._COUNTED", 100_000)
        await files.store(DATA)
        links = files.links
        exchange = MemoryExchange(target(files))
        await links.serve(exchange)
        assert exchange.body == DATA
        assert len(exchange.sent_files) == -(-len(DATA) // 100_000)
        assert counts(links.transfers.link) == (1, 1, 0, len(DATA), 0)

    async def test_put(self, talk: Talk) -> None:
        assert (await talk.ask("PUT", "/a.txt", DATA)).status == 201
        assert counts(talk.transfers.put) == (1, 1, 0, len(DATA), 0)
        with pytest.raises(Disconnected):
            await talk.ask("PUT", "/a.txt", [DATA[:500], Disconnected("gone")])
        assert counts(talk.transfers.put) == (2, 1, 1, len(DATA) + 500, 0)

    async def test_tus(self, talk: Talk) -> None:
        begun = await talk.ask("POST", "/uploads", tus_resumable=VERSION, upload_length=str(len(DATA)))
        location = begun.answer("location") or ""
        # To begin one moves no content.
        assert counts(talk.transfers.tus) == (0, 0, 0, 0, 0)
        fields = {"tus_resumable": VERSION, "content_type": "application/offset+octet-stream"}
        with pytest.raises(Disconnected):
            await talk.ask(
                "PATCH", location, [DATA[:5000], Disconnected("gone")], upload_offset="0", **fields
            )
        assert counts(talk.transfers.tus) == (1, 0, 1, 5000, 0)
        wrong = await talk.ask("PATCH", location, DATA, upload_offset="0", **fields)
        assert wrong.status == 409
        whole = await talk.ask("PATCH", location, DATA[5000:], upload_offset="5000", **fields)
        assert whole.answer("fawa-key")
        assert counts(talk.transfers.tus) == (2, 1, 1, len(DATA), 1)

    async def test_the_draft(self, talk: Talk) -> None:
        fields = {"upload_draft_interop_version": "8"}
        begun = await talk.ask("PUT", "/a.txt", DATA[:5000], upload_complete="?0", **fields)
        location = begun.answer("location") or ""
        fields["content_type"] = "application/partial-upload"
        whole = await talk.ask(
            "PATCH", location, DATA[5000:], upload_offset="5000", upload_complete="?1", **fields
        )
        assert whole.answer("fawa-key")
        assert counts(talk.transfers.draft) == (2, 2, 0, len(DATA), 1)


class TestService:
    @pytest.fixture
    def service(self, tmp_path: Path) -> FileService:
        self.now = 1000.0
        return FileService(
            open_content=lambda: content_store(tmp_path / "files"),
            open_metadata=lambda: metadata_store(tmp_path / "files.sqlite3"),
            secret=SECRET,
            settings=settings(sweep_interval=30, ttl=100),
            clock=lambda: self.now,
        )

    async def start(self, nursery: trio.Nursery, service: FileService) -> Offer:
        offer: Offer = await nursery.start(service.run)
        return offer

    async def upload(self, offer: Offer) -> None:
        stream = MemoryStream[SendFileRequest, SendFileResponse]([info(size=3), *chunks(b"abc")])
        (rpc,) = offer.rpc
        await rpc.__mapping__()["/file.v1.FileService/SendFile"].func(stream)

    async def sweeping(self, clock: MockClock, over: Callable[[], bool]) -> None:
        def swept() -> bool:
            clock.jump(30)
            return over()

        await until(swept)

    async def test_the_names_and_that_all_are_there_from_the_start(self, service: FileService) -> None:
        found = values(service.outline().figures)
        ways = ["up rpc", "up tus", "up draft", "up put", "down rpc", "down link"]
        names = ["transfers_started", "transfers_finished", "transfers_failed", "transfer_bytes"]
        assert found == dict.fromkeys(
            [
                *(f"fawa_{name} {way}" for name in names for way in ways),
                *(f"fawa_uploads_resumed {way}" for way in ("rpc", "tus", "draft")),
                *(f"fawa_file_sweeps {outcome}" for outcome in ("done", "failed")),
                *(f"fawa_file_sweep_removed {what}" for what in ("file", "upload", "stray")),
                "fawa_file_bytes",
            ],
            0,
        )

    async def test_sweeps_and_what_they_removed(
        self, service: FileService, nursery: trio.Nursery, tmp_path: Path, mock_clock: MockClock
    ) -> None:
        offer = await self.start(nursery, service)
        await self.upload(offer)
        assert values(offer.figures)["fawa_transfer_bytes up rpc"] == 3
        self.now += 100
        swept = service.swept
        with Disk(tmp_path / "files", errors={"unlink": errno.EIO}).installed():
            await self.sweeping(mock_clock, lambda: swept.failed > 0)
        assert swept.removed["file"] == 0
        await self.sweeping(mock_clock, lambda: swept.removed["file"] > 0)
        await until(lambda: swept.done > 0)
        found = values(offer.figures)
        assert found["fawa_file_sweep_removed file"] == 1
        assert found["fawa_file_sweeps done"] >= 1

    async def test_what_a_crash_left_is_counted_when_it_goes(
        self, service: FileService, tmp_path: Path
    ) -> None:
        async with trio.open_nursery() as nursery:
            await self.upload(await self.start(nursery, service))
            nursery.cancel_scope.cancel()
        (tmp_path / "files" / "uploads" / "x.0.part").write_bytes(b"half")
        self.now += 100
        async with trio.open_nursery() as nursery:
            offer = await self.start(nursery, service)
            found = values(offer.figures)
            nursery.cancel_scope.cancel()
        # Counts go on over a restart of the service.
        assert found["fawa_transfers_started up rpc"] == 1
        assert found["fawa_file_sweep_removed file"] == found["fawa_file_sweep_removed stray"] == 1


def test_storage_by_backend() -> None:
    assert storage_figures(()) == ()
    content, records = StoreWatch("content", "s3"), StoreWatch("records", "redis")
    figures = storage_figures((content, records))
    records.note(OutOfReach("no answer", "Redis"))
    found = values(figures)
    assert found["fawa_storage_up content s3"] == 1
    assert found["fawa_storage_up records redis"] == 0
    assert {name for name, value in found.items() if value and "failures" in name} == {
        "fawa_storage_failures records redis unreachable"
    }
    assert len(found) == 2 + 2 * 4
