"""The file service as the supervisor runs it: started, swept, repaired, started again."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
import trio
from grpclib.const import Status
from trio.testing import MockClock

from fawa.proto.file.v1.file_pb2 import (
    FileInfo,
    SendFileRequest,
    SendFileResponse,
    StartUploadRequest,
    StartUploadResponse,
)
from fawa.services.base import Offer, Service
from fawa.services.file import FileService
from fawa.services.quotas import QuotaSettings
from fawa.storage.base import StorageError
from fawa.storage.filesystem import content_store
from fawa.storage.sqlite import metadata_store
from fawa.storage.uploads import upload_store
from tests.services.conftest import SECRET
from tests.services.memory import MemoryExchange, MemoryStream
from tests.services.talk import chunks, info, refused, settings, until
from tests.storage.disk import Disk


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

    async def start(self, nursery: trio.Nursery, service: Service) -> Offer:
        offer: Offer = await nursery.start(service.run)
        return offer

    async def upload(self, offer: Offer, data: bytes = b"abc") -> str:
        stream = MemoryStream[SendFileRequest, SendFileResponse]([info(size=len(data)), *chunks(data)])
        (rpc,) = offer.rpc
        await rpc.__mapping__()["/file.v1.FileService/SendFile"].func(stream)
        return stream.sent[0].randomkey

    async def begin_upload(self, offer: Offer) -> None:
        stream = MemoryStream[StartUploadRequest, StartUploadResponse]([StartUploadRequest(name="a")])
        (rpc,) = offer.rpc
        await rpc.__mapping__()["/file.v1.FileService/StartUpload"].func(stream)
        upload = FileInfo(upload_id=stream.sent[0].upload_id)
        more = MemoryStream[SendFileRequest, SendFileResponse](
            [SendFileRequest(info=upload), *chunks(b"abc")]
        )
        await rpc.__mapping__()["/file.v1.FileService/SendFile"].func(more)

    def stored(self, tmp_path: Path) -> Sequence[str]:
        files = tmp_path / "files"
        return [path.name for path in files.rglob("*") if path.is_file() and path != files / "owner"]

    async def test_it_offers_calls_and_links(self, service: FileService, nursery: trio.Nursery) -> None:
        offer = await self.start(nursery, service)
        assert service.name == "file"
        assert [sorted(rpc.__mapping__()) for rpc in offer.rpc] == [
            [
                "/file.v1.FileService/CancelUpload",
                "/file.v1.FileService/DeleteFile",
                "/file.v1.FileService/GetDownloadURL",
                "/file.v1.FileService/GetUpload",
                "/file.v1.FileService/ReceiveFile",
                "/file.v1.FileService/SendFile",
                "/file.v1.FileService/StartUpload",
            ]
        ]
        assert {path: route.methods for path, route in offer.http.items()} == {
            "/files/": ("GET", "HEAD"),
            "/*": ("PUT",),
        }
        exchange = MemoryExchange("/files/unknown")
        await offer.http["/files/"].handle(exchange)
        assert exchange.status == 403

    async def test_expired_files_go_by_themselves(
        self, service: FileService, nursery: trio.Nursery, tmp_path: Path, mock_clock: MockClock
    ) -> None:
        offer = await self.start(nursery, service)
        key = await self.upload(offer)
        self.now += 99
        late = await self.upload(offer)
        self.now += 1
        assert sorted(self.stored(tmp_path)) == sorted([key, late])
        mock_clock.jump(30)
        await until(lambda: key not in self.stored(tmp_path))
        assert self.stored(tmp_path) == [late]

    async def test_settings_change_while_it_runs(self, service: FileService, nursery: trio.Nursery) -> None:
        offer = await self.start(nursery, service)
        service.settings = settings(max_file_size=2)
        with refused(Status.RESOURCE_EXHAUSTED, "largest taken here has 2"):
            await self.upload(offer)

    async def test_quotas_hold_and_what_there_is_is_told(
        self, service: FileService, nursery: trio.Nursery, tmp_path: Path, mock_clock: MockClock
    ) -> None:
        offer = await self.start(nursery, service)
        figure = next(figure for figure in offer.figures if figure.name == "fawa_file_bytes")
        assert (figure.name, list(figure.read())) == ("fawa_file_bytes", [((), 0)])
        await self.upload(offer, bytes(900))
        service.settings = settings(sweep_interval=30, ttl=100, quotas=QuotaSettings(total=1000))
        with refused(Status.RESOURCE_EXHAUSTED, "at least 200 bytes, and 100 are left"):
            await self.upload(offer, bytes(200))

        def told(count: int) -> bool:
            mock_clock.jump(30)
            return list(figure.read()) == [((), count)]

        await until(lambda: told(900))
        self.now += 100
        await until(lambda: told(0))
        await self.upload(offer, bytes(1000))

    async def test_it_goes_on_when_an_expiry_fails(
        self, service: FileService, nursery: trio.Nursery, tmp_path: Path, mock_clock: MockClock
    ) -> None:
        offer = await self.start(nursery, service)
        await self.upload(offer)
        self.now += 100
        with Disk(tmp_path / "files", errors={"unlink": errno.EIO}).installed() as disk:
            mock_clock.jump(30)
            await until(lambda: "unlink" in disk.calls)
        assert len(self.stored(tmp_path)) == 1

        # The service may still be about to go to sleep.
        def swept() -> bool:
            mock_clock.jump(30)
            return not self.stored(tmp_path)

        await until(swept)

    async def test_it_tidies_up_before_it_serves(self, service: FileService, tmp_path: Path) -> None:
        async with trio.open_nursery() as nursery:
            offer = await self.start(nursery, service)
            whole, expired = await self.upload(offer), await self.upload(offer)
            nursery.cancel_scope.cancel()
        async with metadata_store(tmp_path / "files.sqlite3") as metadata:
            record = await metadata.get(expired)
            await metadata.delete(expired)
            await metadata.add(attrs.evolve(record, expires=self.now))
        (tmp_path / "files" / "uploads" / "x.0.part").write_bytes(b"half")
        (tmp_path / "files" / "content" / "or").mkdir(exist_ok=True)
        (tmp_path / "files" / "content" / "or" / "orphan").write_bytes(b"orphan")
        async with trio.open_nursery() as nursery:
            await self.start(nursery, service)
            assert self.stored(tmp_path) == [whole]
            nursery.cancel_scope.cancel()

    async def test_content_of_other_records_is_left_alone(self, service: FileService, tmp_path: Path) -> None:
        async with trio.open_nursery() as nursery:
            offer = await self.start(nursery, service)
            key = await self.upload(offer)
            nursery.cancel_scope.cancel()
        service.open_metadata = lambda: metadata_store(tmp_path / "other.sqlite3")
        with pytest.raises(StorageError, match=r"Set redis\.url as it was when these files came"):
            await service.run(trio.TASK_STATUS_IGNORED)
        assert self.stored(tmp_path) == [key]

    @pytest.mark.parametrize("whole", [True, False])
    async def test_content_from_before_there_were_owners(
        self, service: FileService, tmp_path: Path, whole: bool
    ) -> None:
        service.open_uploads = lambda: upload_store(tmp_path / "uploads.sqlite3")
        async with trio.open_nursery() as nursery:
            offer = await self.start(nursery, service)
            if whole:
                await self.upload(offer)
            else:
                await self.begin_upload(offer)
            nursery.cancel_scope.cancel()
        (kept,) = [
            path for path in (tmp_path / "files").rglob("*") if path.is_file() and path.name != "owner"
        ]
        (tmp_path / "files" / "owner").unlink()
        other = attrs.evolve(
            service,
            open_metadata=lambda: metadata_store(tmp_path / "other.sqlite3"),
            open_uploads=lambda: upload_store(tmp_path / "other-uploads.sqlite3"),
        )
        with pytest.raises(StorageError, match="has content that our records do not know"):
            await other.run(trio.TASK_STATUS_IGNORED)
        assert kept.exists()
        async with trio.open_nursery() as nursery:
            await self.start(nursery, service)
            assert kept.exists()
            nursery.cancel_scope.cancel()
        with pytest.raises(StorageError, match="has the content of other records"):
            await other.run(trio.TASK_STATUS_IGNORED)

    async def test_it_can_be_run_again_and_old_calls_are_told_so(self, service: FileService) -> None:
        async with trio.open_nursery() as nursery:
            old = await self.start(nursery, service)
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            new = await self.start(nursery, service)
            with refused(Status.UNAVAILABLE, "try again"):
                await self.upload(old)
            assert await self.upload(new)
            nursery.cancel_scope.cancel()

    async def test_a_store_that_cannot_be_opened_ends_the_start(
        self, service: FileService, tmp_path: Path
    ) -> None:
        (tmp_path / "files.sqlite3").write_bytes(b"no database at all" * 10)
        with pytest.raises(StorageError, match="is not an SQLite database"):
            await service.run(trio.TASK_STATUS_IGNORED)

    def test_the_secret_is_not_shown(self, service: FileService) -> None:
        assert "secret" not in repr(service)
