"""What every backend must do that keeps interrupted uploads, as tests; see `contract`."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from itertools import pairwise
from typing import Any

import pytest
import trio

from fawa.storage.base import (
    AlreadyExists,
    Fenced,
    NotFound,
    ResumableStore,
    StorageError,
    Terms,
    UploadRecord,
    UploadStore,
    WrongOffset,
)
from tests.storage.contract import KEY, LONG, fetch_content, list_keys, store_content, write_in_pieces

ResumableOpener = Callable[[], AbstractAsyncContextManager[ResumableStore]]
UploadsOpener = Callable[[], AbstractAsyncContextManager[UploadStore]]

ID = "upload-of-somebody"


def make_upload(upload_id: str = ID, **changes: Any) -> UploadRecord:
    values: dict[str, Any] = {
        "id": upload_id,
        "key": f"key-of-{upload_id}",
        "name": "a.txt",
        "size": 3,
        "content_type": "text/plain",
        "created": 1000.0,
        "expires": 2500.0,
    }
    return UploadRecord(**{**values, **changes})


async def add(store: ResumableStore, epoch: int, data: bytes, offset: int | None = None) -> int:
    """Go on with the upload under `KEY`; return how much is stored then."""
    async with store.resume(KEY, epoch, offset) as upload:
        await write_in_pieces(upload, data)
        return await upload.sync()


async def unfinished(store: ResumableStore) -> list[str]:
    keys = store.unfinished()
    return sorted([key async for key in keys])


class ResumableStoreContract:
    """Every content store that keeps interrupted uploads."""

    @pytest.fixture
    async def store(self, opener: ResumableOpener) -> AsyncIterator[ResumableStore]:
        async with opener() as store:
            yield store

    async def test_the_store_is_seen_to_be_resumable(self, store: ResumableStore) -> None:
        assert isinstance(store, ResumableStore)

    async def test_an_upload_in_one_go(self, store: ResumableStore) -> None:
        await store.begin(KEY)
        async with store.resume(KEY, 1, 0) as upload:
            assert upload.offset == 0
            await write_in_pieces(upload, LONG)
            assert upload.offset == len(LONG)
            assert await upload.digest() == hashlib.sha256(LONG).digest()
            await upload.commit()
        assert await fetch_content(store, KEY) == LONG
        assert await unfinished(store) == []

    async def test_an_upload_goes_on_where_it_was_left(self, store: ResumableStore) -> None:
        await store.begin(KEY)
        cuts = [0, 1, 100_001, 100_001, 1_500_000, len(LONG)]
        for epoch, (start, end) in enumerate(pairwise(cuts), 1):
            async with store.resume(KEY, epoch, start) as upload:
                await write_in_pieces(upload, LONG[start:end])
                assert await upload.sync() == end
        assert await list_keys(store) == []
        async with store.resume(KEY, 9, len(LONG)) as upload:
            assert await upload.digest() == hashlib.sha256(LONG).digest()
            await upload.commit()
        assert await fetch_content(store, KEY) == LONG

    async def test_it_goes_on_after_the_store_is_opened_anew(self, opener: ResumableOpener) -> None:
        half = len(LONG) // 2
        async with opener() as store:
            await store.begin(KEY)
            assert await add(store, 1, LONG[:half]) == half
        async with opener() as store:
            assert await store.sweep_uncommitted() == 0
            assert await unfinished(store) == [KEY]
            async with store.resume(KEY, 2, half) as upload:
                await write_in_pieces(upload, LONG[half:])
                assert await upload.digest() == hashlib.sha256(LONG).digest()
                await upload.commit()
            assert await fetch_content(store, KEY) == LONG

    async def test_what_was_written_stays_when_the_writer_fails_or_is_cancelled(
        self, store: ResumableStore
    ) -> None:
        await store.begin(KEY)

        async def fail() -> None:
            async with store.resume(KEY, 1, 0) as upload:
                await upload.write(b"abc")
                await upload.sync()
                await upload.write(b"defgh")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        with trio.CancelScope() as scope:
            async with store.resume(KEY, 2) as upload:
                start = upload.offset
                assert 3 <= start <= 8
                await upload.write(b"abcdefgh"[start:] + b"ij")
                await upload.sync()
                scope.cancel()
                while True:
                    await upload.write(LONG)
        assert scope.cancelled_caught
        async with store.resume(KEY, 3) as upload:
            stored = await upload.sync()
            expected = (b"abcdefghij" + LONG * 50)[:stored]
            assert stored >= 10
            assert await upload.digest() == hashlib.sha256(expected).digest()

    async def test_a_new_writer_fences_the_old_one_off_at_once(self, store: ResumableStore) -> None:
        await store.begin(KEY)
        async with store.resume(KEY, 1, 0) as old:
            await old.write(b"abc")
            assert await old.sync() == 3
            async with store.resume(KEY, 2, 3) as new:
                await new.write(b"def")
                assert await new.sync() == 6
                await old.write(b"XYZ")
                with pytest.raises(Fenced):
                    await old.sync()
                await new.write(b"ghi")
                assert await new.digest() == hashlib.sha256(b"abcdefghi").digest()
                await new.commit()
        assert await fetch_content(store, KEY) == b"abcdefghi"

    @pytest.mark.parametrize("method", ["sync", "commit", "rollback"])
    async def test_a_fenced_writer_can_do_nothing(self, store: ResumableStore, method: str) -> None:
        await store.begin(KEY)
        async with store.resume(KEY, 1, 0) as old:
            await old.write(b"abc")
            await old.sync()
            async with store.resume(KEY, 2, 3) as new:
                await new.write(b"def")
                await new.sync()
            with pytest.raises(Fenced):
                await getattr(old, method)()
        async with store.resume(KEY, 3, 6) as upload:
            assert await upload.digest() == hashlib.sha256(b"abcdef").digest()

    async def test_what_a_fenced_writer_still_held_is_not_written_at_its_end(
        self, store: ResumableStore
    ) -> None:
        await store.begin(KEY)
        async with store.resume(KEY, 1, 0) as old:
            await old.write(b"old")
            assert await add(store, 2, b"new", 0) == 3
        async with store.resume(KEY, 3, 3) as upload:
            assert await upload.digest() == hashlib.sha256(b"new").digest()

    async def test_a_writer_that_comes_late_with_an_older_epoch(self, store: ResumableStore) -> None:
        await store.begin(KEY)
        async with store.resume(KEY, 5, 0) as upload:
            for epoch in (4, 5):
                with pytest.raises(Fenced):
                    await add(store, epoch, b"late")
            await upload.write(b"abc")
            assert await upload.sync() == 3

    @pytest.mark.parametrize("offset", [0, 2, 4, 2**63 - 1])
    async def test_a_wrong_offset_tells_the_right_one_and_leaves_the_writer_alone(
        self, store: ResumableStore, offset: int
    ) -> None:
        await store.begin(KEY)
        async with store.resume(KEY, 1, 0) as upload:
            await upload.write(b"abc")
            await upload.sync()
            with pytest.raises(WrongOffset) as caught:
                await add(store, 2, b"x", offset)
            assert caught.value.offset == 3
            await upload.write(b"def")
            assert await upload.sync() == 6

    async def test_one_of_many_writers_at_once_is_the_last(self, store: ResumableStore) -> None:
        await store.begin(KEY)
        fenced: list[int] = []

        async def write(epoch: int) -> None:
            try:
                async with store.resume(KEY, epoch) as upload:
                    for _ in range(20):
                        await upload.write(bytes([epoch]) * 10)
                        await upload.sync()
            except Fenced:
                fenced.append(epoch)

        async with trio.open_nursery() as nursery:
            for epoch in range(1, 9):
                nursery.start_soon(write, epoch)
        assert 8 not in fenced
        async with store.resume(KEY, 9) as upload:
            await upload.commit()
        content = await fetch_content(store, KEY)
        writers = [content[start] for start in range(0, len(content), 10)]
        assert content == b"".join(bytes([epoch]) * 10 for epoch in writers)
        assert writers == sorted(writers)
        assert writers[-20:] == [8] * 20

    async def test_what_a_writer_takes_back(self, store: ResumableStore) -> None:
        await store.begin(KEY)
        await add(store, 1, b"abc")
        async with store.resume(KEY, 2, 3) as upload:
            await upload.write(b"XYZ")
            await upload.sync()
            await upload.write(b"more")
            await upload.rollback()
            assert upload.offset == 3
            await upload.write(b"def")
            assert await upload.digest() == hashlib.sha256(b"abcdef").digest()
        async with store.resume(KEY, 3, 6) as upload:
            await upload.rollback()
            await upload.commit()
        assert await fetch_content(store, KEY) == b"abcdef"

    async def test_a_committed_upload_cannot_be_resumed(self, store: ResumableStore) -> None:
        await store.begin(KEY)
        async with store.resume(KEY, 1, 0) as upload:
            await upload.write(b"whole")
            await upload.commit()
            with pytest.raises(StorageError):
                await upload.write(b"more")
            with pytest.raises(NotFound):
                await add(store, 2, b"more")
        with pytest.raises(NotFound):
            await add(store, 3, b"more")
        assert await fetch_content(store, KEY) == b"whole"

    async def test_committed_content_is_never_overwritten(self, store: ResumableStore) -> None:
        await store.begin(KEY)
        await store_content(store, KEY, b"first")
        async with store.resume(KEY, 1) as upload:
            await upload.write(b"second")
            with pytest.raises(AlreadyExists):
                await upload.commit()
        assert await fetch_content(store, KEY) == b"first"

    async def test_a_discarded_upload_is_gone_and_its_writer_stops(self, store: ResumableStore) -> None:
        await store.begin(KEY)
        async with store.resume(KEY, 1, 0) as upload:
            await upload.write(b"abc")
            await upload.sync()
            await store.discard(KEY)
            assert await unfinished(store) == []
            await upload.write(b"def")
            with pytest.raises(Fenced):
                await upload.commit()
        await store.discard(KEY)
        with pytest.raises(NotFound):
            await add(store, 2, b"more")
        assert await list_keys(store) == []

    async def test_discarding_leaves_committed_content(self, store: ResumableStore) -> None:
        await store_content(store, KEY, b"abc")
        await store.discard(KEY)
        assert await fetch_content(store, KEY) == b"abc"

    async def test_an_unknown_upload(self, store: ResumableStore) -> None:
        with pytest.raises(NotFound):
            await add(store, 1, b"abc")

    async def test_an_upload_is_begun_once(self, store: ResumableStore) -> None:
        await store.begin(KEY)
        await add(store, 1, b"abc")
        with pytest.raises(AlreadyExists):
            await store.begin(KEY)
        assert await add(store, 2, b"def", 3) == 6

    async def test_unfinished_uploads_are_listed(self, store: ResumableStore) -> None:
        for key in ("one", "two", "three"):
            await store.begin(key)
        async with store.resume("two", 1) as upload:
            await upload.commit()
        await store.discard("three")
        assert await unfinished(store) == ["one"]
        assert await list_keys(store) == ["two"]

    @pytest.mark.parametrize("key", ["", "..", "a/b", "a\0"])
    async def test_what_is_no_key_reaches_nothing(self, store: ResumableStore, key: str) -> None:
        with pytest.raises(ValueError, match="a key is"):
            await store.begin(key)
        with pytest.raises(ValueError, match="a key is"):
            await store.discard(key)
        with pytest.raises(ValueError, match="a key is"):
            async with store.resume(key, 1):
                pass


class UploadStoreContract:
    """Every store of uploads' records."""

    @pytest.fixture
    async def store(self, opener: UploadsOpener) -> AsyncIterator[UploadStore]:
        async with opener() as store:
            yield store

    @pytest.mark.parametrize(
        "record",
        [
            make_upload(),
            make_upload(size=None, sha256=bytes(range(32)), metadata="filename YS50eHQ=", epoch=7),
            make_upload(size=2**63 - 1, name="文件 'x\"; --", created=1763900000.123456),
            make_upload(size=0),
            make_upload(ttl=90.5, terms=Terms(max_downloads=1, owner=bytes(32), password=bytes(48))),
        ],
        ids=["plain", "all set", "odd", "empty", "with terms"],
    )
    async def test_a_record_is_read_back_as_it_was(self, opener: UploadsOpener, record: UploadRecord) -> None:
        async with opener() as store:
            await store.add(record)
            assert await store.get(ID) == record
        async with opener() as store:
            assert await store.get(ID) == record

    async def test_neither_id_nor_key_is_used_twice(self, store: UploadStore) -> None:
        await store.add(make_upload(name="first"))
        with pytest.raises(AlreadyExists):
            await store.add(make_upload(key="other"))
        with pytest.raises(AlreadyExists):
            await store.add(make_upload("other", key=f"key-of-{ID}"))
        assert await store.get(ID) == make_upload(name="first")

    async def test_a_claim_adds_to_the_epoch_and_moves_the_expiry(self, store: UploadStore) -> None:
        await store.add(make_upload())
        assert await store.claim(ID, 2499.0, 3000.0) == make_upload(epoch=1, expires=3000.0)
        assert await store.claim(ID, 2500.0, 2600.0) == make_upload(epoch=2, expires=3000.0)
        assert await store.get(ID) == make_upload(epoch=2, expires=3000.0)

    async def test_the_expiry_moves_to_later_alone(self, store: UploadStore) -> None:
        await store.add(make_upload())
        await store.extend(ID, 2600.0)
        await store.extend(ID, 2550.0)
        assert await store.get(ID) == make_upload(expires=2600.0)
        await store.extend("unknown", 9000.0)

    async def test_what_has_expired_cannot_be_claimed(self, store: UploadStore) -> None:
        await store.add(make_upload())
        with pytest.raises(NotFound):
            await store.claim(ID, 2500.0, 9000.0)
        assert await store.get(ID) == make_upload()

    async def test_every_claim_gets_an_epoch_of_its_own(self, store: UploadStore) -> None:
        await store.add(make_upload())
        epochs: list[int] = []

        async def claim() -> None:
            epochs.append((await store.claim(ID, 1000.0, 2500.0)).epoch)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(claim)
        assert sorted(epochs) == list(range(1, 21))

    async def test_the_size_is_told_once(self, store: UploadStore) -> None:
        await store.add(make_upload(size=None))
        await store.set_size(ID, 0)
        await store.set_size(ID, 9)
        assert await store.get(ID) == make_upload(size=0)

    async def test_what_is_unknown_is_not_found(self, store: UploadStore) -> None:
        for call in (store.get(ID), store.claim(ID, 0.0, 1.0), store.set_size(ID, 1)):
            with pytest.raises(NotFound):
                await call
        await store.delete(ID)
        assert not await store.has_key(f"key-of-{ID}")

    async def test_a_deleted_record_is_gone(self, store: UploadStore) -> None:
        await store.add(make_upload())
        assert await store.has_key(f"key-of-{ID}")
        await store.delete(ID)
        assert not await store.has_key(f"key-of-{ID}")
        with pytest.raises(NotFound):
            await store.get(ID)
        await store.add(make_upload())

    async def test_expired_records_come_oldest_first_and_no_more_than_asked_for(
        self, store: UploadStore
    ) -> None:
        for upload_id, expires in {"c": 30.0, "a": 10.0, "b": 20.0}.items():
            await store.add(make_upload(upload_id, expires=expires))
        assert await store.expired(9.999, 10) == []
        assert [record.id for record in await store.expired(20.0, 10)] == ["a", "b"]
        assert await store.expired(99.0, 1) == [make_upload("a", expires=10.0)]
