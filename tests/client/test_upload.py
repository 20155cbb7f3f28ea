"""Uploads to the real file service over lines that break, and to servers that say what a test says."""

from __future__ import annotations

import hashlib
import io
import math
from pathlib import Path

import pytest
import trio
import trio.testing
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.client import CallFailed, CannotReach, Channel, ConnectionLost, connect
from fawa.client.part import TransferError
from fawa.client.retrying import TRIES
from fawa.client.upload import Source, Upload
from fawa.net.engine import Request
from fawa.proto.file.v1.file_pb2 import GetUploadResponse, SendFileResponse, StartUploadResponse
from tests.client.relay import relaying
from tests.client.server import AUTHORITY, ScriptedServer, serving
from tests.client.test_files import CONTENT, Liar, Told, file_server, names_in, receive

ANSWER = SendFileResponse(success=True, randomkey="key", sha256=hashlib.sha256(CONTENT).digest())


def upload(
    channel: Channel, told: Told | None = None, content: bytes = CONTENT, file: io.BytesIO | None = None
) -> Upload:
    return Upload(channel, Source(file or io.BytesIO(content), "a file.bin", len(content)), told or Told())


async def test_an_upload_goes_on_where_the_server_has_it(tmp_path: Path) -> None:
    async with file_server(tmp_path / "data") as server, relaying(server.endpoint.address) as relay:
        relay.cuts_up = [1_500_000, 300_000, 100_000]
        told = Told()
        async with connect(relay.url) as channel:
            answer = await upload(channel, told).run()
        assert relay.broken == 3
        path, _ = await receive(server.url, answer.randomkey, tmp_path / "x")
        assert path.read_bytes() == CONTENT
    assert len(told.notes) == 3
    assert all("going on in" in note for note in told.notes)
    # The bar goes on from what is stored, which is the first chunk, whatever was sent after that.
    assert told.totals == [len(CONTENT)] * 4
    assert told.done.count(1024 * 1024) >= 2
    assert told.done[-1] == len(CONTENT)
    # Nothing came twice but messages that were cut.
    assert relay.passed_up < len(CONTENT) + 600_000 + 2 * 100_000


@pytest.mark.parametrize("size", [0, 1, 100_000])
async def test_small_ones(tmp_path: Path, size: int) -> None:
    async with file_server(tmp_path / "data") as server, connect(server.url) as channel:
        answer = await upload(channel, content=CONTENT[:size]).run()
        path, _ = await receive(server.url, answer.randomkey, tmp_path / "x")
        assert path.read_bytes() == CONTENT[:size]


async def test_a_server_that_keeps_no_uploads_gets_it_in_one_call(tmp_path: Path) -> None:
    async with file_server(tmp_path / "data", resumable=False) as server, connect(server.url) as channel:
        told = Told()
        answer = await upload(channel, told).run()
        assert told.notes == []
        path, _ = await receive(server.url, answer.randomkey, tmp_path / "x")
        assert path.read_bytes() == CONTENT


async def test_a_file_that_is_changed_before_it_is_sent_again(tmp_path: Path) -> None:
    file = io.BytesIO(CONTENT)

    class Changing(Told):
        def note(self, text: str) -> None:
            super().note(text)
            file.seek(0)
            file.write(bytes(len(CONTENT)))

    async with file_server(tmp_path / "data") as server, relaying(server.endpoint.address) as relay:
        relay.cuts_up = [1_500_000]
        async with connect(relay.url) as channel:
            with pytest.raises(TransferError, match="while nobody changes it"):
                await upload(channel, Changing(), file=file).run()


async def test_a_server_that_has_stored_something_else() -> None:
    liar = Liar(taken=SendFileResponse(success=True, randomkey="key", sha256=bytes(32)))
    async with serving(liar) as server, connect(server.url) as channel:
        with pytest.raises(TransferError, match="SHA-256 differs"):
            await upload(channel).run()


async def test_what_is_given_up_is_cancelled(tmp_path: Path) -> None:
    class Impatient(Told):
        scope: trio.CancelScope

        def at(self, done: int) -> None:
            self.scope.cancel()

    told = Impatient()
    async with file_server(tmp_path / "data") as server, connect(server.url) as channel:
        with trio.CancelScope() as told.scope:
            await upload(channel, told).run()
        assert told.scope.cancelled_caught
        assert names_in(tmp_path / "data" / "files" / "resumable") == []

        with pytest.raises(TransferError, match="has become shorter"):
            await upload(channel, file=io.BytesIO(CONTENT[:-1])).run()
        assert names_in(tmp_path / "data" / "files" / "resumable") == []


async def test_what_the_server_refuses(tmp_path: Path) -> None:
    async with file_server(tmp_path / "data") as server, connect(server.url) as channel:
        with pytest.raises(CallFailed, match=r"contains '\.\.'") as caught:
            await Upload(channel, Source(io.BytesIO(CONTENT), "../x", len(CONTENT)), Told()).run()
        assert caught.value.status is Status.INVALID_ARGUMENT


async def test_a_server_that_is_not_there_is_told_at_once() -> None:
    async with connect("http://127.0.0.1:1") as channel:
        with pytest.raises(CannotReach, match="is fawad running"):
            await upload(channel).run()


# Conversations


async def test_an_answer_that_was_lost_is_asked_for(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer()
    asked: list[str] = []

    async def serve() -> None:
        script = await server.accept()
        while True:
            request = await script.next(Request)
            asked.append(request.path.decode().rpartition("/")[2])
            if asked[-1] == "SendFile":
                await script.flush()
                await script.hang_up()
                script = await server.accept()
                continue
            script.head(request.stream_id)
            if asked[-1] == "StartUpload":
                script.message(request.stream_id, StartUploadResponse(upload_id="id"))
            else:
                script.message(request.stream_id, GetUploadResponse(offset=len(CONTENT), file=ANSWER))
            script.end(request.stream_id)
            await script.flush()

    async with server.channel(patience=math.inf) as channel, trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        told = Told()
        assert await upload(channel, told).run() == ANSWER
        nursery.cancel_scope.cancel()
    assert asked == ["StartUpload", "SendFile", "GetUpload"]
    assert told.done[-1] == len(CONTENT)


async def test_a_connection_that_keeps_breaking_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer()
    asked: list[str] = []

    async def serve() -> None:
        while True:
            script = await server.accept()
            request = await script.next(Request)
            asked.append(request.path.decode().rpartition("/")[2])
            if asked[-1] == "StartUpload":
                script.head(request.stream_id)
                script.message(request.stream_id, StartUploadResponse(upload_id="id"))
                script.end(request.stream_id)
                await script.flush()
                await script.next(Request)
                asked.append("SendFile")
            await script.hang_up()

    async with server.channel(patience=math.inf) as channel, trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        told = Told()
        with pytest.raises(ConnectionLost, match=AUTHORITY):
            await upload(channel, told).run()
        nursery.cancel_scope.cancel()
    assert asked == ["StartUpload", "SendFile", *["GetUpload"] * 8, "CancelUpload"]
    assert len(told.notes) == 8


@pytest.mark.parametrize(
    ("status", "offsets"),
    [
        pytest.param(Status.FAILED_PRECONDITION, [0], id="never the right offset"),
        pytest.param(Status.ABORTED, [0], id="always overtaken"),
        pytest.param(Status.FAILED_PRECONDITION, [7, 3], id="stored bytes that are lost and come again"),
    ],
)
async def test_what_could_pass_and_never_does_is_given_up(
    autojump_clock: trio.testing.MockClock, status: Status, offsets: list[int]
) -> None:
    server = ScriptedServer()
    asked: list[str] = []

    async def serve() -> None:
        script = await server.accept()
        while len(asked) < 100:
            request = await script.next(Request)
            asked.append(request.path.decode().rpartition("/")[2])
            script.head(request.stream_id)
            if asked[-1] == "StartUpload":
                script.message(request.stream_id, StartUploadResponse(upload_id="id"))
            elif asked[-1] == "GetUpload":
                offset = offsets[asked.count("GetUpload") % len(offsets)]
                script.message(request.stream_id, GetUploadResponse(offset=offset))
            script.end(request.stream_id, status.value if asked[-1] == "SendFile" else 0)
            await script.flush()
        await script.hang_up()
        server.down = True

    async with server.channel(patience=math.inf) as channel, trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        told = Told()
        with pytest.raises(CallFailed) as caught:
            await upload(channel, told).run()
        nursery.cancel_scope.cancel()
    assert caught.value.status is status
    # Once more for each time that the server has said more than ever before: 3 bytes, then 7.
    tries = TRIES + (len(offsets) if len(offsets) > 1 else 0)
    assert asked == ["StartUpload", "SendFile", *["GetUpload", "SendFile"] * (tries - 1), "CancelUpload"]


@pytest.mark.parametrize("status", [Status.NOT_FOUND, Status.RESOURCE_EXHAUSTED, Status.INTERNAL])
async def test_what_does_not_pass_is_not_tried_again(status: Status) -> None:
    class Refusing(Liar):
        async def StartUpload(self, stream: object) -> None:
            raise GRPCError(status, "no")

    async with serving(Refusing()) as server, connect(server.url) as channel:
        told = Told()
        with pytest.raises(CallFailed, match="no"):
            await upload(channel, told).run()
        assert told.notes == []
