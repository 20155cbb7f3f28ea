"""Interrupted uploads over RPC, as conversations."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import attrs
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.net.exchange import Disconnected
from fawa.proto.file.v1.file_pb2 import (
    CancelUploadRequest,
    FileInfo,
    GetUploadRequest,
    GetUploadResponse,
    ReceiveFileRequest,
    ReceiveFileResponse,
    SendFileRequest,
    SendFileResponse,
    StartUploadRequest,
    StartUploadResponse,
)
from fawa.services.file_rpc import FileRpc
from fawa.services.uploads import UploadLimits, Uploads
from fawa.storage.base import UploadStore
from fawa.storage.filesystem import FilesystemStore
from fawa.storage.uploads import upload_store
from tests.services.conftest import Files
from tests.services.memory import MemoryStream
from tests.services.talk import DATA, chunks, refused

SHA256 = hashlib.sha256(DATA).digest()
DAY = 86_400


@attrs.define
class Talk:
    files: Files
    records: UploadStore

    @property
    def uploads(self) -> Uploads:
        assert isinstance(self.files.content, FilesystemStore)

        def limits() -> UploadLimits:
            return UploadLimits(upload_ttl=DAY, ttl=1500, max_file_size=self.files.settings.max_file_size)

        return Uploads(self.files.content, self.files.metadata, self.records, limits, lambda: self.files.now)

    @property
    def rpc(self) -> FileRpc:
        return attrs.evolve(self.files.rpc, uploads=self.uploads)

    async def ask(self, method: str, *messages: Any) -> Any:
        stream = MemoryStream[Any, Any](messages)
        await getattr(self.rpc, method)(stream)
        return stream.sent[0]

    async def start(self, name: str = "a.txt", size: int | None = len(DATA), **more: Any) -> str:
        answer: StartUploadResponse = await self.ask(
            "StartUpload", StartUploadRequest(name=name, size=size, **more)
        )
        return answer.upload_id

    async def send(
        self, upload_id: str, offset: int, data: bytes | Iterable[Any], **more: Any
    ) -> SendFileResponse:
        info = SendFileRequest(info=FileInfo(upload_id=upload_id, offset=offset, **more))
        rest = chunks(data) if isinstance(data, bytes) else data
        answer: SendFileResponse = await self.ask("SendFile", info, *rest)
        return answer

    async def get(self, upload_id: str) -> GetUploadResponse:
        answer: GetUploadResponse = await self.ask("GetUpload", GetUploadRequest(upload_id=upload_id))
        return answer

    async def receive(self, key: str, **more: Any) -> list[ReceiveFileResponse]:
        stream = MemoryStream[ReceiveFileRequest, ReceiveFileResponse](
            [ReceiveFileRequest(randomkey=key, **more)]
        )
        await self.rpc.ReceiveFile(stream)
        return stream.sent


@pytest.fixture
async def talk(files: Files, tmp_path: Path) -> AsyncIterator[Talk]:
    async with upload_store(tmp_path / "uploads.sqlite3") as records:
        yield Talk(files, records)


class TestUpload:
    async def test_in_pieces(self, talk: Talk) -> None:
        upload_id = await talk.start("report.pdf", sha256=SHA256)
        assert len(upload_id) == 32
        answer = await talk.send(upload_id, 0, DATA[:1000])
        assert (answer.success, answer.randomkey, answer.offset) == (False, "", 1000)
        assert answer.expires_at == int((talk.files.now + DAY) * 1000)
        assert (await talk.get(upload_id)).offset == 1000
        answer = await talk.send(upload_id, 1000, DATA[1000:])
        assert (answer.success, answer.offset, answer.sha256) == (True, len(DATA), SHA256)
        record = await talk.files.metadata.get(answer.randomkey)
        assert (record.name, record.size, record.sha256) == ("report.pdf", len(DATA), SHA256)

    async def test_what_came_before_the_line_broke_is_kept(self, talk: Talk) -> None:
        upload_id = await talk.start()
        with pytest.raises(Disconnected):
            await talk.send(upload_id, 0, [*chunks(DATA[:5000]), Disconnected("gone")])
        assert (await talk.get(upload_id)).offset == 5000
        assert (await talk.send(upload_id, 5000, DATA[5000:])).sha256 == SHA256

    async def test_an_answer_that_was_lost_can_be_asked_for(self, talk: Talk) -> None:
        upload_id = await talk.start()
        answer = await talk.send(upload_id, 0, DATA)
        status = await talk.get(upload_id)
        assert (status.file, status.offset) == (answer, len(DATA))
        with refused(Status.ABORTED, "or has finished .* ask GetUpload"):
            await talk.send(upload_id, len(DATA), b"")

    async def test_a_size_that_is_not_known_until_the_end(self, talk: Talk) -> None:
        upload_id = await talk.start(size=None)
        assert not (await talk.send(upload_id, 0, DATA[:9])).success
        assert not (await talk.get(upload_id)).HasField("size")
        assert (await talk.send(upload_id, 9, DATA[9:], complete=True)).sha256 == SHA256

    async def test_an_empty_file(self, talk: Talk) -> None:
        assert (await talk.send(await talk.start(size=0), 0, b"")).success

    async def test_expired_uploads_are_swept(self, talk: Talk) -> None:
        upload_id = await talk.start()
        await talk.send(upload_id, 0, DATA[:9])
        talk.files.now += DAY - 1
        assert await talk.uploads.sweep() == 0
        assert (await talk.get(upload_id)).offset == 9  # which keeps it for another day
        talk.files.now += DAY
        assert await talk.uploads.sweep() == 1
        assert talk.files.stored() == []
        with refused(Status.NOT_FOUND, "has expired"):
            await talk.get(upload_id)


class TestErrors:
    @pytest.mark.parametrize("offset", [0, 999, 1001])
    async def test_a_wrong_offset_tells_the_right_one(self, talk: Talk, offset: int) -> None:
        upload_id = await talk.start()
        await talk.send(upload_id, 0, DATA[:1000])
        with pytest.raises(GRPCError) as caught:
            await talk.send(upload_id, offset, b"x")
        assert caught.value.status is Status.FAILED_PRECONDITION
        assert [detail.offset for detail in caught.value.details] == [1000]

    async def test_a_call_that_is_overtaken(self, talk: Talk) -> None:
        upload_id = await talk.start()

        async def overtake() -> AsyncIterator[SendFileRequest]:
            yield SendFileRequest(info=FileInfo(upload_id=upload_id))
            yield SendFileRequest(chunk_data=b"old")
            assert (await talk.get(upload_id)).offset == 0
            assert (await talk.send(upload_id, 0, DATA)).success

        class Overtaken(MemoryStream[SendFileRequest, SendFileResponse]):
            said = overtake()

            async def recv_message(self) -> SendFileRequest | None:
                return await anext(self.said, None)

        with refused(Status.ABORTED, "another call goes on"):
            await talk.rpc.SendFile(Overtaken([]))
        assert (await talk.get(upload_id)).file.sha256 == SHA256

    @pytest.mark.parametrize("upload_id", ["unknown", "../x", "ä"])
    async def test_an_unknown_upload(self, talk: Talk, upload_id: str) -> None:
        with refused(Status.NOT_FOUND, "no upload of this id"):
            await talk.get(upload_id)
        with refused(Status.NOT_FOUND, "no upload of this id"):
            await talk.send(upload_id, 0, DATA)

    async def test_a_cancelled_upload(self, talk: Talk) -> None:
        upload_id = await talk.start()
        await talk.send(upload_id, 0, DATA[:10])
        await talk.ask("CancelUpload", CancelUploadRequest(upload_id=upload_id))
        assert talk.files.stored() == []
        with refused(Status.NOT_FOUND, "no upload of this id"):
            await talk.get(upload_id)

    @pytest.mark.parametrize("where", ["StartUpload", "SendFile"])
    async def test_another_sha256(self, talk: Talk, where: str) -> None:
        wrong: dict[str, Any] = {"sha256": bytes(32)}
        upload_id = await talk.start(**(wrong if where == "StartUpload" else {}))
        with refused(Status.DATA_LOSS, "send the file again"):
            await talk.send(upload_id, 0, DATA, **(wrong if where == "SendFile" else {}))
        assert (talk.files.stored(), await talk.files.records()) == ([], [])

    async def test_too_many_bytes(self, talk: Talk) -> None:
        upload_id = await talk.start(size=10)
        with refused(Status.INVALID_ARGUMENT, "the upload has 10 bytes, and at least 11 came"):
            await talk.send(upload_id, 0, DATA[:11])

    @pytest.mark.parametrize(
        ("more", "text"),
        [
            ({"name": "b.txt"}, "is of 'a.txt', not of 'b.txt'"),
            ({"size": 1}, "not 1 bytes"),
            ({"sha256": b"short"}, "has 32 bytes, not 5"),
            ({"complete": True}, "only 0 came"),
        ],
    )
    async def test_what_does_not_fit(self, talk: Talk, more: dict[str, Any], text: str) -> None:
        with refused(Status.INVALID_ARGUMENT, text):
            await talk.send(await talk.start(), 0, b"", **more)

    async def test_a_server_that_keeps_none(self, files: Files) -> None:
        stream = MemoryStream[StartUploadRequest, StartUploadResponse]([StartUploadRequest(name="a")])
        with refused(Status.UNIMPLEMENTED, "keeps no interrupted uploads"):
            await files.rpc.StartUpload(stream)


class TestDownload:
    @pytest.mark.parametrize(("offset", "length"), [(0, 10), (7, 0), (len(DATA), 0), (5, 2**60)])
    async def test_a_part(self, talk: Talk, offset: int, length: int) -> None:
        key = (await talk.files.store(DATA)).key
        first, *rest = await talk.receive(key, offset=offset, length=length)
        assert (first.file_size, first.sha256) == (len(DATA), SHA256)
        end = offset + length if length else len(DATA)
        assert b"".join(message.chunk_data for message in rest) == DATA[offset:end]
        assert (await talk.files.metadata.get(key)).downloads == (end >= len(DATA))

    async def test_beyond_the_end(self, talk: Talk) -> None:
        key = (await talk.files.store(DATA)).key
        with refused(Status.OUT_OF_RANGE, "none from"):
            await talk.receive(key, offset=len(DATA) + 1)
        with refused(Status.INVALID_ARGUMENT, "not be negative"):
            await talk.receive(key, offset=-1)
