"""Interrupted uploads in S3 over `rclone serve s3`: the contract, and what lies in the bucket."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from fawa.storage.base import (
    AlreadyExists,
    Fenced,
    NotFound,
    OutOfReach,
    ResumableStore,
    StorageError,
    WrongOffset,
)
from fawa.storage.s3 import S3Settings, S3Store, content_store
from fawa.storage.s3_client import Answer, S3Client, connect
from fawa.storage.s3_objects import S3Content
from fawa.storage.s3_resumable import HASHES, SAVE_EVERY, Hashes, S3ResumableUpload
from fawa.storage.s3_shelf import Piece, Shelf, Stored, Version
from tests.s3_server import S3Server, new_bucket
from tests.storage.contract import KEY, LONG, fetch_content, list_keys, write_in_pieces
from tests.storage.contract_resumable import ResumableOpener, ResumableStoreContract, add, unfinished
from tests.storage.test_s3 import MIB, PART

Lies = Callable[[], dict[str, int]]

#: A few pieces that are whole, and a bit.
LONGER = random.Random(6).randbytes(2 * SAVE_EVERY * PART + 1234)


@pytest.fixture(params=[8 * MIB, PART], ids=["in the state", "in pieces"])
def part(request: pytest.FixtureRequest) -> int:
    size: int = request.param
    return size


class TestContract(ResumableStoreContract):
    @pytest.fixture
    def opener(self, rclone_server: S3Server, part: int) -> ResumableOpener:
        place = rclone_server.settings(new_bucket(), part=part)
        return lambda: content_store(place)


@pytest.fixture
def place(rclone_server: S3Server) -> S3Settings:
    return rclone_server.settings(new_bucket(), part=PART)


@pytest.fixture
def own_place(own_server: S3Server) -> S3Settings:
    return own_server.settings(new_bucket(), part=PART)


@pytest.fixture
async def store(place: S3Settings) -> AsyncIterator[S3Store]:
    async with content_store(place) as store:
        yield store


@pytest.fixture
def lies(rclone_server: S3Server, place: S3Settings) -> Lies:
    """What is in the bucket, with sizes."""
    folder = Path(rclone_server.command[-1]) / place.bucket / "fawa"

    def look() -> dict[str, int]:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {str(path.relative_to(folder)): path.stat().st_size for path in files}

    return look


class TestInTheBucket:
    async def test_an_upload_from_begin_to_commit(self, store: S3Store, lies: Lies) -> None:
        below = f".resumable/{KEY}"
        await store.begin(KEY)
        assert list(lies()) == [f"{below}/state/0.1", f"{below}/state/begun"]
        await add(store, 3, LONG[: PART + 10])
        assert list(lies()) == [
            f"{below}/pieces/3.1",
            f"{below}/state/3.0",
            f"{below}/state/3.1",
            f"{below}/state/3.2",
            f"{below}/state/begun",
        ]
        assert lies()[f"{below}/pieces/3.1"] == PART
        async with store.resume(KEY, 4) as upload:
            mine = [f"{below}/state/4.0", f"{below}/state/4.1"]
            assert list(lies()) == [f"{below}/pieces/3.1", *mine, f"{below}/state/begun"]
            await upload.commit()
        assert lies() == {KEY: PART + 10}

    async def test_it_is_not_taken_for_content(self, store: S3Store) -> None:
        await store.begin(KEY)
        await add(store, 1, LONG)
        assert await list_keys(store) == []
        assert await store.sweep_uncommitted() == 0
        assert await unfinished(store) == [KEY]
        await store.delete(KEY)
        assert await add(store, 2, b"more", len(LONG)) == len(LONG) + 4

    async def test_what_is_taken_back_goes(self, store: S3Store, lies: Lies) -> None:
        await store.begin(KEY)
        await add(store, 1, LONG[: PART + 10])
        async with store.resume(KEY, 2) as upload:
            await write_in_pieces(upload, LONG)
            await upload.sync()
            await write_in_pieces(upload, LONG)
            await upload.rollback()
            assert upload.offset == PART + 10
        async with store.resume(KEY, 3, PART + 10) as upload:
            assert [name for name in lies() if "/pieces/" in name] == [f".resumable/{KEY}/pieces/1.1"]
            assert await upload.digest() == hashlib.sha256(LONG[: PART + 10]).digest()

    async def test_discarded_in_any_state(self, store: S3Store, lies: Lies) -> None:
        await store.begin(KEY)
        await add(store, 1, LONG)
        async with store.resume(KEY, 2) as upload:
            await write_in_pieces(upload, LONG)
            await store.discard(KEY)
            # A piece may have been on its way.
        assert lies() == {}

    async def test_an_upload_whose_beginning_broke_off(self, store: S3Store, place: S3Settings) -> None:
        async with connect(place) as client:
            await Shelf(client, KEY).put(Version(0, 1).name, Stored("token", "mark").pack())
        with pytest.raises(NotFound):
            await add(store, 1, b"abc")
        assert await unfinished(store) == [KEY]
        await store.discard(KEY)
        assert await unfinished(store) == []

    async def test_damage_is_told(self, store: S3Store, place: S3Settings) -> None:
        await store.begin(KEY)
        async with connect(place) as client:
            for number, body in enumerate([b"x", b"[1]\n", b'["token","mark",[]]'], 2):
                await Shelf(client, KEY).put(Version(0, number).name, body)
                with pytest.raises(
                    StorageError, match=rf"the upload {KEY} is damaged: .* state of an upload"
                ):
                    await add(store, 1, b"abc")


def test_a_state_is_read_back_as_it_was() -> None:
    stored = Stored("token", "mark", (Piece("pieces/1.1", 5), Piece("pieces/2.1", 6)), b"a\nb")
    assert Stored.unpack(stored.pack()) == stored
    assert stored.size == 14


class TestFence:
    async def test_what_an_overtaken_writer_puts_late_is_not_read(
        self, store: S3Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has looked, and is overtaken while its bytes are on their way."""
        await store.begin(KEY)
        overtaken = trio.Event()
        putting = trio.Event()
        real = Shelf.put

        async def put(shelf: Shelf, name: str, body: bytes) -> None:
            if name == "state/1.2":
                putting.set()
                await overtaken.wait()
            await real(shelf, name, body)

        async def overtake() -> None:
            await putting.wait()
            assert await add(store, 2, b"new", 0) == 3
            overtaken.set()

        monkeypatch.setattr(Shelf, "put", put)
        async with store.resume(KEY, 1, 0) as old, trio.open_nursery() as nursery:
            nursery.start_soon(overtake)
            await old.write(b"old")
            with pytest.raises(Fenced):
                await old.sync()
        async with store.resume(KEY, 3, 3) as upload:
            assert await upload.digest() == hashlib.sha256(b"new").digest()

    async def test_what_was_saved_just_before_the_claim_is_read(
        self, store: S3Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The new writer has looked before, and is told that the offset is another one now."""
        await store.begin(KEY)
        real = Shelf.put

        async def put(shelf: Shelf, name: str, body: bytes) -> None:
            if name == "state/2.0":
                await old.write(b"def")
                assert await old.sync() == 6
            await real(shelf, name, body)

        async with store.resume(KEY, 1, 0) as old:
            await old.write(b"abc")
            await old.sync()
            monkeypatch.setattr(Shelf, "put", put)
            with pytest.raises(WrongOffset) as caught:
                await add(store, 2, b"xyz", 3)
            assert caught.value.offset == 6
            await old.write(b"ghi")
            assert await old.sync() == 9

    async def test_a_writer_whose_pieces_are_gone_is_told_that_it_is_overtaken(self, store: S3Store) -> None:
        await store.begin(KEY)
        await add(store, 1, LONG)
        async with store.resume(KEY, 2) as upload:
            store._hashes.take(upload._saved.mark)
        async with content_store(store._settings) as other, other.resume(KEY, 3) as upload:
            await store.discard(KEY)
            with pytest.raises(Fenced, match="was taken over, cancelled, or has expired"):
                await upload.digest()


class TestCommit:
    async def test_a_crash_just_after_the_commit(self, store: S3Store, lies: Lies) -> None:
        """Whoever resumes finds that it is committed, and removes what is left."""
        await _commit_and_crash(store)
        assert len(lies()) > 3
        with pytest.raises(NotFound):
            await add(store, 2, b"more")
        assert lies() == {KEY: len(LONG)}
        assert await fetch_content(store, KEY) == LONG

    async def test_a_commit_that_a_crash_has_left_half_done(self, store: S3Store, lies: Lies) -> None:
        await store.begin(KEY)
        async with store.resume(KEY, 1) as upload:
            await write_in_pieces(upload, LONG)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("fawa.storage.s3_upload.S3Upload.commit", _cannot)
                with pytest.raises(StorageError):
                    await upload.commit()
        assert await list_keys(store) == []
        async with store.resume(KEY, 2, len(LONG)) as upload:
            assert await upload.digest() == hashlib.sha256(LONG).digest()
            await upload.commit()
        assert lies() == {KEY: len(LONG)}

    async def test_a_crash_after_the_commit_and_a_service_that_forgets_whose_content_is(
        self, store: S3Store, place: S3Settings, lies: Lies
    ) -> None:
        await _commit_and_crash(store)
        await store.delete(KEY)
        async with connect(place) as client:
            await client.request("store content", "PUT", KEY, body=LONG)
        async with store.resume(KEY, 2) as upload:
            await upload.write(b"more")
            with pytest.raises(AlreadyExists):
                await upload.commit()
            await upload.rollback()
            await upload.commit()
        assert lies() == {KEY: len(LONG)}

    @pytest.mark.parametrize("more", [b"", b"more"], ids=["the same bytes", "more bytes"])
    async def test_a_writer_is_overtaken_in_the_middle_of_its_commit(
        self, store: S3Store, monkeypatch: pytest.MonkeyPatch, more: bytes
    ) -> None:
        """The service has got it already: then it counts, and the new writer is told."""
        await store.begin(KEY)
        async with store.resume(KEY, 1) as old:
            await old.write(b"abc")
            await old.sync()
            async with store.resume(KEY, 2) as new:
                await new.write(more)
                monkeypatch.setattr(Shelf, "clear", _cannot)
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(S3ResumableUpload, "_look", _nothing)  # it did before
                    await old.commit()
                if more:
                    with pytest.raises(Fenced):
                        await new.commit()
                else:
                    await new.commit()
        assert await fetch_content(store, KEY) == b"abc"


async def _commit_and_crash(store: S3Store) -> None:
    """Commit an upload; what is left of it stays."""
    await store.begin(KEY)
    async with store.resume(KEY, 1) as upload:
        await write_in_pieces(upload, LONG)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Shelf, "clear", _cannot)
            await upload.commit()


async def _cannot(*_: Any) -> None:
    raise StorageError("the service is gone")


async def _nothing(*_: Any) -> None:
    pass


class TestHash:
    @pytest.fixture
    def read(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """The sizes of the pieces that were read again."""
        sizes: list[int] = []
        original = Shelf.content

        def content(shelf: Shelf, piece: Piece) -> S3Content:
            sizes.append(piece.size)
            return original(shelf, piece)

        monkeypatch.setattr(Shelf, "content", content)
        return sizes

    async def test_the_hash_goes_on_without_reading_again(self, store: S3Store, read: list[int]) -> None:
        await store.begin(KEY)
        for epoch in range(1, 5):
            await add(store, epoch, LONG)
        async with store.resume(KEY, 5) as upload:
            assert await upload.digest() == hashlib.sha256(LONG * 4).digest()
        assert read == []

    async def test_another_process_reads_what_is_stored_once(
        self, store: S3Store, place: S3Settings, read: list[int]
    ) -> None:
        await store.begin(KEY)
        await add(store, 1, LONG)
        async with content_store(place) as other:
            async with other.resume(KEY, 2) as upload:
                assert await upload.sync() == len(LONG)
            assert read == []  # the offset alone costs no hash
            await add(other, 3, LONG)
            await add(other, 4, b"and more")
            async with other.resume(KEY, 5) as upload:
                assert await upload.digest() == hashlib.sha256(LONG + LONG + b"and more").digest()
        assert read == [PART] * (len(LONG) // PART)

    async def test_the_hash_of_what_was_taken_back(self, store: S3Store, place: S3Settings) -> None:
        await store.begin(KEY)
        await add(store, 1, LONG)
        for opened in (store, None):
            async with content_store(place) as other, (opened or other).resume(KEY, 3 - bool(opened)) as one:
                await write_in_pieces(one, LONG)
                await one.digest()
                await one.rollback()
                assert await one.digest() == hashlib.sha256(LONG).digest()

    def test_few_hashes_are_kept(self) -> None:
        hashes = Hashes()
        for number in range(HASHES + 5):
            hashes.keep(str(number), hashlib.sha256())
        assert [hashes.take(str(number)) is None for number in (4, 5)] == [True, False]
        assert hashes.take("5") is None


class TestFaults:
    async def test_the_service_is_killed_in_mid_upload_and_the_upload_goes_on(
        self, own_server: S3Server, own_place: S3Settings
    ) -> None:
        told = 0

        async def upload_until_killed(store: ResumableStore) -> None:
            nonlocal told
            async with store.resume(KEY, 1, 0) as upload:
                await write_in_pieces(upload, LONGER[: 3 * PART])
                told = await upload.sync()
                await write_in_pieces(upload, LONGER[3 * PART : 5 * PART])
                own_server.kill()
                await write_in_pieces(upload, LONGER[5 * PART :])
                await upload.sync()

        async with content_store(own_place) as store:
            await store.begin(KEY)
            with pytest.raises(StorageError, match=r"Check that the service runs"):
                await upload_until_killed(store)
            assert store.parts_on_their_way == 0
            own_server.start()
            async with store.resume(KEY, 2) as upload:
                assert 3 * PART == told <= upload.offset < len(LONGER)
                await write_in_pieces(upload, LONGER[upload.offset :])
                assert await upload.digest() == hashlib.sha256(LONGER).digest()
                await upload.commit()
            assert await fetch_content(store, KEY) == LONGER

    async def test_a_writer_may_write_again_after_it_took_back_what_failed(
        self, own_server: S3Server, own_place: S3Settings
    ) -> None:
        async with content_store(own_place) as store:
            await store.begin(KEY)
            await add(store, 1, b"abc")
            async with store.resume(KEY, 2) as upload:
                await write_in_pieces(upload, LONG)
                own_server.kill()
                with pytest.raises(StorageError):
                    await upload.sync()
                with pytest.raises(StorageError):
                    await upload.write(b"x")
                own_server.start()
                await upload.rollback()
                await upload.write(b"def")
                assert await upload.digest() == hashlib.sha256(b"abcdef").digest()
                await upload.commit()
            assert await fetch_content(store, KEY) == b"abcdef"

    async def test_a_process_that_dies_has_noted_all_but_the_last_pieces(
        self, store: S3Store, place: S3Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await store.begin(KEY)
        monkeypatch.setattr(S3ResumableUpload, "close", _nothing)
        # One after the other, so that none is missing before those that have arrived.
        monkeypatch.setattr("fawa.storage.s3_upload.IN_FLIGHT", 1)
        async with store.resume(KEY, 1) as upload:
            await write_in_pieces(upload, LONGER)
            # The store ends what is on its way.
        async with content_store(place) as other, other.resume(KEY, 2) as upload:
            assert upload.offset in {SAVE_EVERY * PART + number * PART for number in range(SAVE_EVERY + 1)}
            assert await upload.digest() == hashlib.sha256(LONGER[: upload.offset]).digest()

    async def test_a_piece_that_fails_while_later_ones_arrive(
        self, store: S3Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing that comes after a gap is stored."""
        await store.begin(KEY)
        fail = trio.Event()
        real = Shelf.put

        async def put(shelf: Shelf, name: str, body: bytes) -> None:
            if name == "pieces/1.2":
                await fail.wait()
                raise OutOfReach("the service is gone", "S3")
            await real(shelf, name, body)

        async def write(store: ResumableStore) -> None:
            async with store.resume(KEY, 1) as upload:
                await write_in_pieces(upload, LONGER[: (SAVE_EVERY + 3) * PART])
                fail.set()
                await upload.sync()

        monkeypatch.setattr(Shelf, "put", put)
        with pytest.raises(OutOfReach):
            await write(store)
        async with store.resume(KEY, 2, PART) as upload:
            assert await upload.digest() == hashlib.sha256(LONGER[:PART]).digest()

    async def test_what_was_taken_back_is_not_overwritten(
        self, store: S3Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A request for it that is late must harm nothing."""
        names: list[str] = []
        real = Shelf.put

        async def put(shelf: Shelf, name: str, body: bytes) -> None:
            names.append(name)
            await real(shelf, name, body)

        monkeypatch.setattr(Shelf, "put", put)
        await store.begin(KEY)
        async with store.resume(KEY, 1) as upload:
            for _ in range(3):
                await write_in_pieces(upload, LONG)
                await upload.sync()
                await upload.rollback()
        assert len(names) == len(set(names))
        assert len([name for name in names if name.startswith("pieces/")]) == 3 * (len(LONG) // PART)

    @pytest.mark.parametrize("step", range(30))
    async def test_the_service_goes_away_at_any_step(
        self, place: S3Settings, monkeypatch: pytest.MonkeyPatch, step: int
    ) -> None:
        """What was told to be stored is there, and content is whole or not there."""
        told, left = 0, step
        real = S3Client.request

        async def request(client: S3Client, *args: Any, **kwargs: Any) -> Answer:
            nonlocal left
            left -= 1
            if left < 0:
                raise OutOfReach("the service is gone", "S3")
            answer = await real(client, *args, **kwargs)
            if left == 0:
                raise OutOfReach("the answer is lost", "S3")
            return answer

        async def go_on(store: ResumableStore) -> None:
            nonlocal told
            async with store.resume(KEY, 2, PART + 9) as upload:
                await write_in_pieces(upload, LONG[PART + 9 :])
                told = await upload.sync()
                await upload.commit()

        async with content_store(place) as store:
            await store.begin(KEY)
            await add(store, 1, LONG[: PART + 9])
            with monkeypatch.context() as patch:
                patch.setattr(S3Client, "request", request)
                broken = await _fails(lambda: go_on(store))
        async with content_store(place) as store:
            try:
                async with store.resume(KEY, 3) as upload:
                    assert max(told, PART + 9) <= upload.offset <= len(LONG)
                    await upload.write(LONG[upload.offset :])
                    assert await upload.digest() == hashlib.sha256(LONG).digest()
                    await upload.commit()
            except NotFound:
                assert told == len(LONG)
            assert await fetch_content(store, KEY) == LONG
            assert await unfinished(store) == []
        assert broken or step > 20


async def _fails(function: Callable[[], Awaitable[None]]) -> bool:
    try:
        await function()
    except StorageError:
        return True
    return False


async def test_memory_is_bounded(rclone_server: S3Server) -> None:
    """An upload of 78 MiB by writers in two processes, in parts of 8 MiB that the service does not copy."""
    place = rclone_server.settings(new_bucket())
    sha256 = hashlib.sha256()
    piece = bytes(range(256)) * 4096
    async with content_store(place) as store:
        await store.begin(KEY)
        tracemalloc.start()
        try:
            for epoch in (1, 2):
                async with content_store(place) as other, other.resume(KEY, epoch) as upload:
                    for _ in range(39):
                        await upload.write(piece)
                        sha256.update(piece)
                    await upload.sync()
                    if epoch == 2:
                        assert await upload.digest() == sha256.digest()
                        _, before = tracemalloc.get_traced_memory()
                        await upload.commit()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        async with store.open(KEY) as content:
            assert content.size == 78 * MIB
    # What tests and the connections have comes on top.
    assert before < (32 + 4) * MIB
    assert peak < (40 + 4) * MIB
