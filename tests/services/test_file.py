"""The file service, as conversations: what the client sends, what it gets, and what is kept."""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import pytest
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from trio.testing import MockClock

from fawa.net.exchange import Disconnected
from fawa.proto.file.v1.file_pb2 import (
    GetDownloadURLRequest,
    GetDownloadURLResponse,
    ReceiveFileRequest,
    ReceiveFileResponse,
    SendFileRequest,
    SendFileResponse,
)
from fawa.storage.base import NotFound, StorageError
from fawa.storage.filesystem import content_store
from fawa.storage.sqlite import metadata_store
from tests.services.conftest import Files
from tests.services.memory import MemoryExchange, MemoryStream, Stall
from tests.services.talk import DATA, KEY, chunks, info, refused, settings, until
from tests.services.test_names import BAD, GOOD
from tests.storage.disk import Disk

Message = SendFileRequest | Stall | Exception


async def send(files: Files, messages: Iterable[Message]) -> SendFileResponse:
    stream = MemoryStream[SendFileRequest, SendFileResponse](messages)
    await files.rpc.SendFile(stream)
    (answer,) = stream.sent
    return answer


async def receive(files: Files, key: str = KEY) -> list[ReceiveFileResponse]:
    stream = MemoryStream[ReceiveFileRequest, ReceiveFileResponse]([ReceiveFileRequest(randomkey=key)])
    await files.rpc.ReceiveFile(stream)
    return stream.sent


async def get_link(
    files: Files, key: str = KEY, exchange: MemoryExchange | None = None
) -> GetDownloadURLResponse:
    stream = MemoryStream[GetDownloadURLRequest, GetDownloadURLResponse](
        [GetDownloadURLRequest(randomkey=key)], exchange
    )
    await files.rpc.GetDownloadURL(stream)
    (answer,) = stream.sent
    return answer


class TestSendFile:
    async def test_a_file_is_stored_under_a_key(self, files: Files) -> None:
        answer = await send(files, [info("folder/report.pdf"), *chunks()])
        assert answer.success
        assert re.fullmatch("[a-z2-7]{16}", answer.randomkey)
        assert answer.message == f"{len(DATA)} bytes received, kept until 2025-11-23 12:38:20+00:00"
        record = await files.metadata.get(answer.randomkey)
        assert record.name == "folder/report.pdf"
        assert record.size == len(DATA)
        assert record.content_type == "application/pdf"
        assert record.sha256 == hashlib.sha256(DATA).digest()
        assert record.created == files.now
        assert record.expires == files.now + 25 * 60
        assert answer.expires_at == 1763901500_250
        assert files.stored() == [f"content/{answer.randomkey[:2]}/{answer.randomkey}"]

    @pytest.mark.parametrize("messages", [[], [SendFileRequest(chunk_data=b"")]], ids=["none", "empty chunk"])
    async def test_an_empty_file(self, files: Files, messages: list[SendFileRequest]) -> None:
        answer = await send(files, [info(size=0), *messages])
        assert [message.file_size for message in await receive(files, answer.randomkey)] == [0]

    async def test_two_uploads_of_one_name_do_not_meet(self, files: Files) -> None:
        answers: list[SendFileResponse] = []

        async def upload(data: bytes) -> None:
            answers.append(await send(files, [info(size=len(data)), *chunks(data, 1000)]))

        contents = [bytes([n]) * 50_000 for n in range(5)]
        async with trio.open_nursery() as nursery:
            for data in contents:
                nursery.start_soon(upload, data)
        got = [
            b"".join(message.chunk_data for message in await receive(files, answer.randomkey))
            for answer in answers
        ]
        assert sorted(got) == contents

    @pytest.mark.parametrize("name", GOOD)
    async def test_good_names(self, files: Files, name: str) -> None:
        answer = await send(files, [info(name, 3), *chunks(b"abc")])
        assert (await receive(files, answer.randomkey))[0].filename == name

    @pytest.mark.parametrize(
        ("name", "rule"), [(name, rule) for name, rule in BAD if name.isprintable() or name]
    )
    async def test_bad_names(self, files: Files, name: str, rule: str) -> None:
        if "\ud800" in name:
            # Not to be had by way of protobuf.
            with pytest.raises(UnicodeEncodeError):
                info(name)
            return
        with refused(Status.INVALID_ARGUMENT, rule):
            await send(files, [info(name, 3), *chunks(b"abc")])
        assert (files.stored(), await files.records()) == ([], [])

    @pytest.mark.parametrize(
        ("messages", "text"),
        [
            ([], "the first message must be info, but the stream ended"),
            ([SendFileRequest()], "the first message must be info, but a message without payload came"),
            ([SendFileRequest(chunk_data=b"abc")], "the first message must be info, but chunk_data came"),
            (
                [SendFileRequest(chunk_data=b"abc"), info()],
                "the first message must be info, but chunk_data came",
            ),
            ([info(), info()], "only chunks may come, not a second info"),
            ([info(), *chunks(), info()], "only chunks may come, not a second info"),
            ([info(), SendFileRequest()], "only chunks may come, not a message without payload"),
            ([info(size=-1)], "cannot be -1 bytes"),
            ([info(size=-(2**63))], "cannot be -9223372036854775808 bytes"),
            ([info(size=1)], "info.size says 1 bytes, but the stream ended after 0"),
            (
                [info(size=len(DATA) + 1), *chunks()],
                f"says {len(DATA) + 1} bytes, but the stream ended after",
            ),
            (
                [info(size=len(DATA) - 1), *chunks()],
                f"says {len(DATA) - 1} bytes, and at least {len(DATA)} came",
            ),
            ([info(size=0), *chunks(b"abc")], "says 0 bytes, and at least 3 came"),
        ],
    )
    async def test_bad_conversations(self, files: Files, messages: list[Message], text: str) -> None:
        with refused(Status.INVALID_ARGUMENT, text):
            await send(files, messages)
        assert (files.stored(), await files.records()) == ([], [])

    async def test_too_many_bytes_are_refused_at_once(self, files: Files) -> None:
        # Were more messages asked for, the stream would stand still and the test with it.
        with refused(Status.INVALID_ARGUMENT, "at least 200000 came"):
            await send(files, [info(size=150_000), *chunks(DATA[:200_000]), Stall()])

    async def test_the_largest_size(self, files: Files) -> None:
        files.settings = settings(max_file_size=10)
        await send(files, [info(size=10), *chunks(bytes(10))])
        with refused(Status.RESOURCE_EXHAUSTED, "the file has 11 bytes, the largest taken here has 10"):
            await send(files, [info(size=11), Stall()])
        with refused(Status.RESOURCE_EXHAUSTED, "largest taken here has 10"):
            await send(files, [info(size=2**62), Stall()])
        assert len(files.stored()) == 1

    @pytest.mark.parametrize(
        "messages",
        [
            [Stall()],
            [info(), Stall()],
            [info(), *chunks(), Stall()],
            [info(), SendFileRequest(chunk_data=b"abc"), SendFileRequest(chunk_data=b""), Stall()],
        ],
        ids=["before info", "before chunks", "before the end", "empty chunks"],
    )
    async def test_an_upload_that_stands_still(
        self, files: Files, autojump_clock: MockClock, messages: list[Message]
    ) -> None:
        files.settings = settings(progress_timeout=7)
        stream = MemoryStream[SendFileRequest, SendFileResponse](messages)
        with refused(Status.DEADLINE_EXCEEDED, "nothing of the file came for 7 seconds"):
            await files.rpc.SendFile(stream)
        assert stream.given_up_at == 7
        assert (files.stored(), await files.records()) == ([], [])

    async def test_empty_chunks_are_no_progress(self, files: Files, autojump_clock: MockClock) -> None:
        class Trickle(MemoryStream[SendFileRequest, SendFileResponse]):
            async def recv_message(self) -> SendFileRequest | None:
                await trio.sleep(1)
                return await super().recv_message()

        stream = Trickle([info(), *[SendFileRequest(chunk_data=b"")] * 1000])
        with refused(Status.DEADLINE_EXCEEDED, "for 60 seconds"):
            await files.rpc.SendFile(stream)
        assert stream.taken in {60, 61}

    async def test_a_slow_upload_that_goes_on_is_taken(self, files: Files, autojump_clock: MockClock) -> None:
        class Slow(MemoryStream[SendFileRequest, SendFileResponse]):
            async def recv_message(self) -> SendFileRequest | None:
                await trio.sleep(59)
                return await super().recv_message()

        stream = Slow([info(), *chunks()])
        await files.rpc.SendFile(stream)
        assert stream.sent[0].success

    @pytest.mark.parametrize(
        "error", [Disconnected("the client is gone"), GRPCError(Status.INVALID_ARGUMENT, "garbage")]
    )
    async def test_a_stream_that_breaks_off(self, files: Files, error: Exception) -> None:
        with pytest.raises(type(error), match=r"gone|garbage"):
            await send(files, [info(), *chunks(), error])
        assert (files.stored(), await files.records()) == ([], [])

    async def test_a_call_that_is_cancelled(self, files: Files) -> None:
        messages: list[Message] = [info(), *chunks(), Stall()]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, files, messages)
            await until(lambda: bool(files.stored()))
            nursery.cancel_scope.cancel()
        assert (files.stored(), await files.records()) == ([], [])

    async def test_keys_do_not_repeat(self, files: Files) -> None:
        keys = {(await send(files, [info(size=0)])).randomkey for _ in range(50)}
        assert len(keys) == 50

    async def test_a_full_disk(self, files: Files) -> None:
        with (
            Disk(files.folder / "files", errors={"writev": errno.ENOSPC}).installed(),
            refused(Status.RESOURCE_EXHAUSTED, "the server has no room left for this file"),
        ):
            await send(files, [info(), *chunks()])
        assert (files.stored(), await files.records()) == ([], [])

    async def test_a_disk_that_fails(self, files: Files) -> None:
        with (
            Disk(files.folder / "files", errors={"fsync": errno.EIO}).installed(),
            refused(Status.UNAVAILABLE, "file storage fails at the moment, try again later"),
        ):
            await send(files, [info(), *chunks()])
        assert (files.stored(), await files.records()) == ([], [])

    async def test_a_file_that_expires_before_it_is_stored_is_not_told_to_be_unknown(
        self, files: Files, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def vanish(key: str) -> None:
            raise NotFound(key)

        monkeypatch.setattr(type(files.metadata), "publish", lambda self, key: vanish(key))
        with refused(Status.UNAVAILABLE, "try again"):
            await send(files, [info(), *chunks()])


class TestReceiveFile:
    async def test_name_and_size_and_then_the_content(self, files: Files) -> None:
        await files.store(DATA, "report.pdf")
        first, *rest = await receive(files)
        assert first == ReceiveFileResponse(
            filename="report.pdf",
            file_size=len(DATA),
            sha256=hashlib.sha256(DATA).digest(),
            expires_at=1763901500_250,
        )
        assert [message.WhichOneof("payload") for message in rest] == ["chunk_data"] * 4
        assert {message.filename for message in rest} == {"report.pdf"}
        assert b"".join(message.chunk_data for message in rest) == DATA
        assert max(message.ByteSize() for message in rest) < 4 * 1024 * 1024
        assert (await files.metadata.get(KEY)).downloads == 1

    async def test_content_is_not_compressed(self, files: Files) -> None:
        await files.store(DATA)
        stream = MemoryStream[ReceiveFileRequest, ReceiveFileResponse]([ReceiveFileRequest(randomkey=KEY)])
        await files.rpc.ReceiveFile(stream)
        assert not stream.compress

    async def test_an_empty_file_has_a_size_and_no_chunk(self, files: Files) -> None:
        await files.store(b"")
        (only,) = await receive(files)
        assert only.WhichOneof("payload") == "file_size"
        assert only.file_size == 0

    async def test_what_was_sent_is_received(self, files: Files) -> None:
        answer = await send(files, [info("ä.bin"), *chunks()])
        first, *rest = await receive(files, answer.randomkey)
        assert first.filename == "ä.bin"
        assert b"".join(message.chunk_data for message in rest) == DATA

    async def test_no_key(self, files: Files) -> None:
        with refused(Status.INVALID_ARGUMENT, "randomkey is empty"):
            await receive(files, "")

    @pytest.mark.parametrize("key", ["unknown", "../../etc/passwd", "a/b", "a\0", "\U0001f98a", "x" * 5000])
    async def test_a_key_of_nothing(self, files: Files, key: str) -> None:
        with refused(Status.NOT_FOUND, "there is no file under this key"):
            await receive(files, key)

    async def test_an_expired_file_that_is_still_there(self, files: Files) -> None:
        await files.store(DATA)
        files.now += 25 * 60 - 0.001
        assert await receive(files)
        files.now += 0.001
        with refused(Status.NOT_FOUND, "it is wrong, or the file has expired"):
            await receive(files)

    async def test_a_file_whose_content_is_gone(self, files: Files) -> None:
        await files.store(DATA)
        await files.content.delete(KEY)
        with refused(Status.NOT_FOUND, "there is no file"):
            await receive(files)

    async def test_a_file_whose_content_is_damaged(self, files: Files) -> None:
        await files.store(DATA)
        (files.folder / "files" / "content" / KEY[:2] / KEY).write_bytes(b"short")
        with refused(Status.DATA_LOSS, "^the file is damaged on the server, send it again$"):
            await receive(files)

    async def test_a_download_that_breaks_off_is_not_counted(self, files: Files) -> None:
        await files.store(DATA)

        class Leaving(MemoryStream[ReceiveFileRequest, ReceiveFileResponse]):
            async def send_message(self, message: ReceiveFileResponse) -> None:
                await super().send_message(message)
                if len(self.sent) == 3:
                    raise Disconnected("the client is gone")

        stream = Leaving([ReceiveFileRequest(randomkey=KEY)])
        with pytest.raises(Disconnected):
            await files.rpc.ReceiveFile(stream)
        assert (await files.metadata.get(KEY)).downloads == 0

    async def test_a_download_that_cannot_be_counted_is_a_download(
        self, files: Files, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(key: str) -> None:
            raise StorageError("full")

        await files.store(DATA)
        monkeypatch.setattr(type(files.metadata), "count_download", lambda self, key: fail(key))
        assert len(await receive(files)) == 5

    async def test_a_store_that_was_closed_under_a_call(self, tmp_path: Path) -> None:
        async with content_store(tmp_path / "files") as content, metadata_store(tmp_path / "db") as metadata:
            files = Files(tmp_path, content, metadata)
        with refused(Status.UNAVAILABLE, "try again later"):
            await receive(files)


class TestGetDownloadURL:
    async def test_there_is_no_link_to_content_that_is_gone(self, files: Files) -> None:
        record = await files.store(b"abc")
        await files.content.delete(record.key)
        with refused(Status.NOT_FOUND, "there is no file under this key"):
            await get_link(files)

    async def test_a_link_that_works_for_five_minutes(self, files: Files) -> None:
        await files.store(DATA, "my report.pdf")
        answer = await get_link(files)
        assert answer.filename == "my report.pdf"
        assert re.fullmatch(
            r"http://files\.example:8080/files/aebagbafaydqqcik/my%20report\.pdf"
            r"\?expires=1763900301&signature=[A-Za-z0-9_-]{43}",
            answer.url,
        )
        split = urlsplit(answer.url)
        for later, status in ((0, 200), (300, 200), (301, 410)):
            exchange = MemoryExchange(f"{split.path}?{split.query}")
            await attrs.evolve(files, now=files.now + later).links.serve(exchange)
            assert exchange.status == status
            assert exchange.body == DATA or status != 200

    async def test_no_link_outlives_its_file(self, files: Files) -> None:
        await files.store(DATA, expires=files.now + 100)
        answer = await get_link(files)
        assert "?expires=1763900101&" in answer.url
        assert (answer.expires_at, answer.file_expires_at) == (1763900101_000, 1763900100_250)

    @pytest.mark.parametrize(
        ("public_url", "host", "scheme", "base"),
        [
            ("", "127.0.0.1:8080", "http", "http://127.0.0.1:8080"),
            ("", "files.example", "https", "https://files.example"),
            ("", "[::1]:8443", "https", "https://[::1]:8443"),
            ("https://cdn.example", "internal", "http", "https://cdn.example"),
            ("https://cdn.example/fawa", "internal", "http", "https://cdn.example/fawa"),
            ("https://cdn.example/fawa/", "", "http", "https://cdn.example/fawa"),
        ],
    )
    async def test_what_a_link_begins_with(
        self, files: Files, public_url: str, host: str, scheme: str, base: str
    ) -> None:
        await files.store(DATA)
        files.settings = settings(public_url=public_url)
        answer = await get_link(files, exchange=MemoryExchange("/", host=host, scheme=scheme))
        assert answer.url.startswith(f"{base}/files/{KEY}/a.txt?")

    @pytest.mark.parametrize(
        "host", ["", "a/b", "user@host", "a?b", "a#b", "a b", "a\\b", "host:port", "[::1", 'a"b', "a\x7f"]
    )
    async def test_a_host_that_no_link_could_have(self, files: Files, host: str) -> None:
        await files.store(DATA)
        with refused(Status.FAILED_PRECONDITION, "set public_url on the server"):
            await get_link(files, exchange=MemoryExchange("/", host=host))

    async def test_keys_of_nothing(self, files: Files) -> None:
        with refused(Status.INVALID_ARGUMENT, "randomkey is empty"):
            await get_link(files, "")
        with refused(Status.NOT_FOUND, "there is no file"):
            await get_link(files, "unknown")
        await files.store(DATA)
        files.now += 25 * 60
        with refused(Status.NOT_FOUND, "there is no file"):
            await get_link(files)
