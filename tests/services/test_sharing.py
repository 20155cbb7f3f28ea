"""On what terms files are shared, as conversations."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.net.exchange import Disconnected
from fawa.proto.file.v1.file_pb2 import (
    DeleteFileRequest,
    DeleteFileResponse,
    FileInfo,
    GetDownloadURLRequest,
    GetDownloadURLResponse,
    ReceiveFileRequest,
    ReceiveFileResponse,
    SendFileRequest,
    SendFileResponse,
    Terms,
)
from fawa.services.ratelimit import Rate
from fawa.services.sharing import SharingSettings
from tests.services.conftest import Files
from tests.services.memory import MemoryExchange, MemoryStream
from tests.services.talk import DATA, chunks, refused, settings


async def send(files: Files, **terms: Any) -> SendFileResponse:
    info = FileInfo(name="a.txt", size=len(DATA), terms=Terms(**terms))
    stream = MemoryStream[SendFileRequest, SendFileResponse]([SendFileRequest(info=info), *chunks()])
    await files.rpc.SendFile(stream)
    (answer,) = stream.sent
    return answer


async def receive(files: Files, key: str, exchange: MemoryExchange | None = None, **more: Any) -> bytes:
    request = ReceiveFileRequest(randomkey=key, **more)
    stream = MemoryStream[ReceiveFileRequest, ReceiveFileResponse]([request], exchange)
    await files.rpc.ReceiveFile(stream)
    return b"".join(message.chunk_data for message in stream.sent)


async def link(files: Files, key: str, password: str = "") -> str:
    request = GetDownloadURLRequest(randomkey=key, password=password)
    stream = MemoryStream[GetDownloadURLRequest, GetDownloadURLResponse]([request])
    await files.rpc.GetDownloadURL(stream)
    return stream.sent[0].url.removeprefix("http://files.example:8080")


async def follow(files: Files, target: str, *headers: tuple[str, str], method: str = "GET") -> MemoryExchange:
    exchange = MemoryExchange(target, headers=headers, method=method)
    await files.links.serve(exchange)
    return exchange


async def delete(files: Files, key: str, token: str) -> None:
    request = DeleteFileRequest(randomkey=key, owner_token=token)
    await files.rpc.DeleteFile(MemoryStream[DeleteFileRequest, DeleteFileResponse]([request]))


class TestTime:
    async def test_a_sender_may_choose(self, files: Files) -> None:
        answer = await send(files, ttl_seconds=90)
        assert answer.expires_at == (files.now + 90) * 1000
        files.now += 89.9
        assert await receive(files, answer.randomkey) == DATA
        files.now += 0.1
        with refused(Status.NOT_FOUND, "no file"):
            await receive(files, answer.randomkey)

    @pytest.mark.parametrize("ttl", [-1, 9, 3601])
    async def test_within_bounds(self, files: Files, ttl: int) -> None:
        files.settings = settings(sharing=SharingSettings(min_ttl=10, max_ttl=3600))
        with refused(Status.INVALID_ARGUMENT, f"kept for 10 to 3600 seconds here, not for {ttl}"):
            await send(files, ttl_seconds=ttl)
        assert files.stored() == []


class TestDownloads:
    async def test_once(self, files: Files) -> None:
        key = (await send(files, max_downloads=1)).randomkey
        assert await receive(files, key) == DATA
        with refused(Status.NOT_FOUND, "no file"):
            await receive(files, key)
        with refused(Status.NOT_FOUND, "no file"):
            await link(files, key)
        assert (files.stored(), await files.records()) == ([], [])

    async def test_calls_and_links_count_together(self, files: Files) -> None:
        key = (await send(files, max_downloads=3)).randomkey
        target = await link(files, key)
        assert await receive(files, key) == DATA
        exchange = await follow(files, target)
        assert (exchange.body, exchange.answer("cache-control")) == (DATA, "no-store")
        assert (await follow(files, target, method="HEAD")).status == 200
        assert (await files.metadata.get(key)).downloads == 2
        assert (await follow(files, target)).body == DATA
        assert (await follow(files, target)).status == 404

    async def test_what_breaks_off_does_not_count(self, files: Files) -> None:
        key = (await send(files, max_downloads=1)).randomkey
        target = await link(files, key)
        exchange = MemoryExchange(target, disconnect_after=100_000)
        with pytest.raises(Disconnected):
            await files.links.serve(exchange)
        assert await receive(files, key, offset=100_000) == DATA[100_000:]
        assert files.stored() == []

    async def test_the_last_one_is_not_given_out_twice(self, files: Files) -> None:
        key = (await send(files, max_downloads=1)).randomkey
        target = await link(files, key)
        async with files.rpc.downloads.open(await files.metadata.get(key)) as slow:
            with refused(Status.RESOURCE_EXHAUSTED, "downloads that are left are under way"):
                await receive(files, key)
            exchange = await follow(files, target)
            assert (exchange.status, exchange.answer("retry-after")) == (429, "5")
            # Who only asks takes none away.
            assert await link(files, key)
        assert not slow.completed
        assert await receive(files, key) == DATA

    async def test_a_slow_download_keeps_its_place(
        self, files: Files, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = (await send(files, max_downloads=1)).randomkey
        start = files.now
        asked: list[tuple[str, float]] = []

        # The store's threads know nothing of this clock; what it makes of this is its contract's matter.
        async def reserve(store: object, key: str, token: str, most: int, now: float, until: float) -> bool:
            asked.append((token, until - start))
            return True

        monkeypatch.setattr(type(files.metadata), "reserve", reserve)
        async with files.rpc.downloads.open(await files.metadata.get(key)):
            for _ in range(150):
                await trio.sleep(1)
                files.now = start + trio.current_time()
        # What threads do before takes time by this clock, if none by their own.
        untils = [until for _, until in asked]
        assert len(untils) >= 7
        assert all(19 - 1.1 <= later - before <= 20 + 1.1 for before, later in pairwise(untils[1:]))
        assert len({token for token, _ in asked}) == 1

    async def test_a_place_is_given_back_on_cancellation(self, files: Files) -> None:
        key = (await send(files, max_downloads=1)).randomkey
        with trio.CancelScope() as scope:
            async with files.rpc.downloads.open(await files.metadata.get(key)):
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert await receive(files, key) == DATA

    async def test_it_is_given_out_to_its_end(self, files: Files) -> None:
        key = (await send(files, max_downloads=2)).randomkey
        target = await link(files, key)
        with refused(Status.INVALID_ARGUMENT, "leave length out"):
            await receive(files, key, length=len(DATA) - 1)
        for ranges in ("bytes=0-9", "bytes=0-9,-5"):
            exchange = await follow(files, target, ("range", ranges), method="GET")
            assert (exchange.status, exchange.body) == (200, DATA)
        with refused(Status.NOT_FOUND, "no file"):
            await receive(files, key)

    async def test_the_rest_is_a_download_too(self, files: Files) -> None:
        key = (await send(files, max_downloads=1)).randomkey
        exchange = await follow(files, await link(files, key), ("range", "bytes=100000-"))
        assert (exchange.status, exchange.body) == (206, DATA[100_000:])
        assert files.stored() == []

    async def test_no_negative_number(self, files: Files) -> None:
        with refused(Status.INVALID_ARGUMENT, "cannot be -1"):
            await send(files, max_downloads=-1)

    async def test_of_many_at_once_as_many_as_may(self, files: Files) -> None:
        key = (await send(files, max_downloads=3)).randomkey
        got: list[bytes] = []

        async def try_it() -> None:
            with suppress(GRPCError):
                got.append(await receive(files, key))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(try_it)
        assert got == [DATA] * 3
        assert files.stored() == []


class TestPasswords:
    async def test_it_is_needed(self, files: Files) -> None:
        key = (await send(files, password="Schlüssel")).randomkey
        with refused(Status.PERMISSION_DENIED, "needs a password"):
            await receive(files, key)
        for wrong in ("schlüssel", "x" * 2000):
            with refused(Status.PERMISSION_DENIED, "the password is wrong"):
                await receive(files, key, password=wrong)
            with refused(Status.PERMISSION_DENIED, "the password is wrong"):
                await link(files, key, wrong)
        assert await receive(files, key, password="Schlüssel") == DATA
        assert (await follow(files, await link(files, key, "Schlüssel"))).body == DATA

    async def test_it_is_not_kept(self, files: Files) -> None:
        key = (await send(files, password="hunter22")).randomkey
        record = await files.metadata.get(key)
        assert b"hunter22" not in record.terms.pack()
        other = await files.metadata.get((await send(files, password="hunter22")).randomkey)
        assert record.terms.password != other.terms.password
        assert "password" not in repr(record)

    async def test_too_long(self, files: Files) -> None:
        with refused(Status.INVALID_ARGUMENT, "at most 1024 bytes"):
            await send(files, password="ä" * 513)


class TestGuessing:
    async def test_an_address_that_guesses_waits(self, files: Files) -> None:
        files.settings = settings(sharing=SharingSettings(wrong_keys=Rate(3, 1 / 60)))
        answer = await send(files, password="right")
        key = answer.randomkey
        for wrong, status in (("no-such-key", Status.NOT_FOUND), (key, Status.PERMISSION_DENIED)):
            with refused(status, ""):
                await receive(files, wrong)
        with refused(Status.PERMISSION_DENIED, "token is not the one"):
            await delete(files, key, "guessed")
        # Not even what is right is told now, and not by any call.
        told = "too many wrong keys, passwords or tokens came from your address: try again in 60 s"
        with refused(Status.RESOURCE_EXHAUSTED, told):
            await receive(files, key, password="right")
        with refused(Status.RESOURCE_EXHAUSTED, told):
            await link(files, key, "right")
        with refused(Status.RESOURCE_EXHAUSTED, told):
            await delete(files, key, answer.owner_token)
        # Others are not concerned.
        other = MemoryExchange("/", method="POST", peer="192.0.2.2:1234")
        assert await receive(files, key, other, password="right") == DATA
        files.now += 60
        assert await receive(files, key, password="right") == DATA

    async def test_what_is_right_costs_nothing(self, files: Files) -> None:
        files.settings = settings(sharing=SharingSettings(wrong_keys=Rate(1, 1 / 3600)))
        key = (await send(files)).randomkey
        for _ in range(5):
            assert await receive(files, key) == DATA

    async def test_a_password_is_not_guessed_from_many_addresses(self, files: Files) -> None:
        key = (await send(files, password="right")).randomkey
        files.sharing._wrong_passwords.rate = Rate(3, 1 / 60)
        for number in range(4):
            exchange = MemoryExchange("/", method="POST", peer=f"192.0.2.{number}:1234")
            last = number == 3
            status = Status.RESOURCE_EXHAUSTED if last else Status.PERMISSION_DENIED
            with refused(status, "for this file" if last else "wrong"):
                await receive(files, key, exchange, password="guess")


class TestOwner:
    async def test_the_owner_removes_it(self, files: Files) -> None:
        answer = await send(files)
        assert len(answer.owner_token) == 26
        await delete(files, answer.randomkey, answer.owner_token)
        assert (files.stored(), await files.records()) == ([], [])
        with refused(Status.NOT_FOUND, "no file"):
            await delete(files, answer.randomkey, answer.owner_token)

    @pytest.mark.parametrize("token", ["", "x", "a" * 26, "ä"])
    async def test_nobody_else_does(self, files: Files, token: str) -> None:
        answer = await send(files)
        with refused(Status.PERMISSION_DENIED, "not the one"):
            await delete(files, answer.randomkey, token)
        assert await receive(files, answer.randomkey) == DATA

    async def test_a_file_without_an_owner_cannot_be_removed(self, files: Files) -> None:
        record = await files.store(DATA)
        with refused(Status.PERMISSION_DENIED, "not the one"):
            await delete(files, record.key, "")


async def test_a_reader_of_a_file_that_is_removed_finishes(files: Files) -> None:
    answer = await send(files)
    async with files.rpc.downloads.open(await files.metadata.get(answer.randomkey)) as download:
        await delete(files, answer.randomkey, answer.owner_token)
        pieces = [piece async for piece in download.content.read(0, len(DATA))]
    assert b"".join(pieces) == DATA
