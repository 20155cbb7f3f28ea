"""What every storage backend must do, as tests.

A backend's test module subclasses these and gives the `opener` fixture: a function that opens the store as an
asynchronous context manager, on the same data each time it is called within one test.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any

import pytest
import trio

from fawa.storage.base import (
    PIECE,
    AlreadyExists,
    BoardStore,
    Content,
    ContentStore,
    Damaged,
    FileRecord,
    MetadataStore,
    NotFound,
    State,
    StorageError,
    Terms,
    Upload,
)
from fawa.storage.boards import OVERHEAD

ContentOpener = Callable[[], AbstractAsyncContextManager[ContentStore]]
MetadataOpener = Callable[[], AbstractAsyncContextManager[MetadataStore]]

KEY = "aebagbafaydqqcik"

#: More than all copies of boards together have.
HUGE = 1 << 50

#: Several pieces and a bit: what takes more than one step in any backend.
LONG = random.Random(1).randbytes(5 * PIECE + 1)


def make_record(key: str = KEY, **changes: Any) -> FileRecord:
    values: dict[str, Any] = {
        "key": key,
        "name": "a.txt",
        "size": 3,
        "content_type": "text/plain",
        "sha256": hashlib.sha256(b"abc").digest(),
        "created": 1000.0,
        "expires": 2500.0,
    }
    return FileRecord(**{**values, **changes})


def knows(*keys: str) -> Callable[[str], Awaitable[bool]]:
    """Answer for records of content under `keys`."""

    async def asked(key: str) -> bool:
        return key in keys

    return asked


async def write_in_pieces(upload: Upload, data: bytes, length: int = 100_000) -> None:
    for start in range(0, len(data), length):
        await upload.write(data[start : start + length])


async def store_content(store: ContentStore, key: str, data: bytes) -> None:
    async with store.create(key) as upload:
        await write_in_pieces(upload, data)
        await upload.commit()


async def give_up(store: ContentStore, key: str, data: bytes) -> None:
    """Begin an upload and fail."""
    async with store.create(key) as upload:
        await write_in_pieces(upload, data)
        raise ZeroDivisionError


async def read_content(content: Content, offset: int = 0, count: int | None = None) -> bytes:
    pieces = [piece async for piece in content.read(offset, content.size if count is None else count)]
    assert all(1 <= len(piece) <= PIECE for piece in pieces)
    return b"".join(pieces)


async def fetch_content(store: ContentStore, key: str) -> bytes:
    async with store.open(key) as content:
        return await read_content(content)


async def list_keys(store: ContentStore | MetadataStore) -> list[str]:
    keys = store.keys()
    return sorted([key async for key in keys])


class ContentStoreContract:
    """Every content store."""

    @pytest.fixture
    async def store(self, opener: ContentOpener) -> AsyncIterator[ContentStore]:
        async with opener() as store:
            yield store

    @pytest.mark.parametrize("data", [b"", b"x", b"x" * PIECE, LONG], ids=["empty", "byte", "piece", "long"])
    async def test_content_that_is_committed_is_read_back(self, store: ContentStore, data: bytes) -> None:
        await store_content(store, KEY, data)
        async with store.open(KEY) as content:
            assert content.size == len(data)
            assert await read_content(content) == data

    async def test_committed_content_is_there_after_the_store_is_opened_anew(
        self, opener: ContentOpener
    ) -> None:
        async with opener() as store:
            await store_content(store, KEY, LONG)
        async with opener() as store:
            assert await fetch_content(store, KEY) == LONG
            assert await list_keys(store) == [KEY]

    async def test_nothing_is_visible_before_the_commit(self, store: ContentStore) -> None:
        async with store.create(KEY) as upload:
            await write_in_pieces(upload, LONG)
            with pytest.raises(NotFound):
                await fetch_content(store, KEY)
            assert await list_keys(store) == []
            await upload.commit()
            assert await fetch_content(store, KEY) == LONG
        assert await list_keys(store) == [KEY]

    async def test_pieces_of_any_length_make_up_the_content(self, store: ContentStore) -> None:
        dice = random.Random(2)
        pieces = [dice.randbytes(dice.choice([0, 1, 2, 100, 4096, 70_000])) for _ in range(3000)]
        async with store.create(KEY) as upload:
            for piece in pieces:
                await upload.write(piece)
            await upload.commit()
        assert await fetch_content(store, KEY) == b"".join(pieces)

    async def test_the_digest_is_of_what_was_written_so_far(self, store: ContentStore) -> None:
        async with store.create(KEY) as upload:
            assert await upload.digest() == hashlib.sha256().digest()
            await upload.write(b"ab")
            assert await upload.digest() == hashlib.sha256(b"ab").digest()
            await write_in_pieces(upload, LONG)
            assert await upload.digest() == hashlib.sha256(b"ab" + LONG).digest()
            await upload.commit()
        assert await fetch_content(store, KEY) == b"ab" + LONG

    async def test_an_upload_that_is_left_uncommitted_leaves_nothing(self, store: ContentStore) -> None:
        async with store.create(KEY) as upload:
            await write_in_pieces(upload, LONG)
        with pytest.raises(NotFound):
            await fetch_content(store, KEY)
        assert await list_keys(store) == []
        assert await store.sweep_uncommitted() == 0

    async def test_an_upload_that_fails_leaves_nothing_and_tells_its_own_error(
        self, store: ContentStore
    ) -> None:
        with pytest.raises(ZeroDivisionError):
            await give_up(store, KEY, LONG)
        assert await list_keys(store) == []
        assert await store.sweep_uncommitted() == 0

    async def test_a_cancelled_upload_leaves_nothing(self, store: ContentStore) -> None:
        with trio.CancelScope() as scope:
            async with store.create(KEY) as upload:
                await write_in_pieces(upload, LONG)
                scope.cancel()
                while True:
                    await upload.write(LONG)
        assert scope.cancelled_caught
        assert await list_keys(store) == []
        assert await store.sweep_uncommitted() == 0

    async def test_an_upload_whose_write_was_cancelled_cannot_be_committed(self, store: ContentStore) -> None:
        async with store.create(KEY) as upload:
            with trio.CancelScope() as scope:
                scope.cancel()
                while True:
                    await upload.write(LONG)
            with pytest.raises(StorageError):
                await upload.commit()
        assert await list_keys(store) == []

    async def test_nothing_follows_a_commit(self, store: ContentStore) -> None:
        async with store.create(KEY) as upload:
            await upload.write(b"whole")
            await upload.commit()
            with pytest.raises(StorageError):
                await upload.write(b"more")
            with pytest.raises(StorageError):
                await upload.commit()
        assert await fetch_content(store, KEY) == b"whole"

    async def test_uploads_under_different_keys_do_not_meet(self, store: ContentStore) -> None:
        contents = {f"{KEY}{n}": bytes([n]) * (n * PIECE // 3) for n in range(12)}
        async with trio.open_nursery() as nursery:
            for key, data in contents.items():
                nursery.start_soon(store_content, store, key, data)
        assert {key: await fetch_content(store, key) for key in await list_keys(store)} == contents

    async def test_of_two_uploads_under_one_key_the_first_to_commit_wins(self, store: ContentStore) -> None:
        async with store.create(KEY) as early, store.create(KEY) as late:
            await write_in_pieces(early, b"early" + LONG)
            await write_in_pieces(late, b"late")
            await late.commit()
            with pytest.raises(AlreadyExists):
                await early.commit()
        assert await fetch_content(store, KEY) == b"late"
        assert await store.sweep_uncommitted() == 0

    async def test_committed_content_is_never_overwritten(self, store: ContentStore) -> None:
        await store_content(store, KEY, b"first")
        with pytest.raises(AlreadyExists):
            await store_content(store, KEY, b"second")
        assert await fetch_content(store, KEY) == b"first"

    async def test_one_of_many_commits_at_once_under_one_key_wins(self, store: ContentStore) -> None:
        won: list[bytes] = []

        async def try_to_store(data: bytes) -> None:
            try:
                await store_content(store, KEY, data)
            except AlreadyExists:
                return
            won.append(data)

        async with trio.open_nursery() as nursery:
            for n in range(8):
                nursery.start_soon(try_to_store, b"%d" % n)
        assert won == [await fetch_content(store, KEY)]

    async def test_content_is_claimed_by_the_same_owner_again(self, opener: ContentOpener) -> None:
        for _ in range(2):
            async with opener() as store:
                await store.claim("owner-1", knows())
                await store.claim("owner-1", knows())
                assert await list_keys(store) == []
        async with opener() as store:
            await store_content(store, KEY, b"abc")
            await store.claim("owner-1", knows())
            assert await list_keys(store) == [KEY]

    async def test_content_is_not_claimed_by_other_records(self, opener: ContentOpener) -> None:
        async with opener() as store:
            await store.claim("owner-1", knows())
            await store_content(store, KEY, b"abc")
        async with opener() as store:
            with pytest.raises(StorageError, match=r"of other records \(owner-1\) than ours \(owner-2\)"):
                await store.claim("owner-2", knows(KEY))
            await store.claim("owner-1", knows())
            assert await fetch_content(store, KEY) == b"abc"

    async def test_content_of_nobody_is_claimed_by_who_knows_it(self, opener: ContentOpener) -> None:
        async with opener() as store:
            await store_content(store, KEY, b"abc")
            with pytest.raises(StorageError, match=rf"such as \S*{KEY}, "):
                await store.claim("owner-1", knows("other"))
            await store.claim("owner-2", knows(KEY))
            with pytest.raises(StorageError, match="owner-2"):
                await store.claim("owner-1", knows(KEY))
            assert await fetch_content(store, KEY) == b"abc"

    async def test_ranges(self, store: ContentStore) -> None:
        await store_content(store, KEY, LONG)
        size = len(LONG)
        edges = [0, 1, PIECE - 1, PIECE, PIECE + 1, size // 2, size - 1, size]
        async with store.open(KEY) as content:
            for start in edges:
                for end in edges:
                    if start <= end:
                        part = await read_content(content, start, end - start)
                        assert part == LONG[start:end], (start, end)

    async def test_several_read_one_open_content_at_once(self, store: ContentStore) -> None:
        await store_content(store, KEY, LONG)

        async def check(offset: int) -> None:
            assert await read_content(content, offset, len(LONG) - offset) == LONG[offset:]

        async with store.open(KEY) as content, trio.open_nursery() as nursery:
            for n in range(6):
                nursery.start_soon(check, n * PIECE // 2)

    async def test_reading_beyond_the_end_is_an_error_and_not_short(self, store: ContentStore) -> None:
        await store_content(store, KEY, b"abc")
        async with store.open(KEY) as content:
            with pytest.raises(Damaged):
                await read_content(content, 1, 3)

    async def test_opening_unknown_content(self, store: ContentStore) -> None:
        with pytest.raises(NotFound):
            await fetch_content(store, KEY)

    async def test_deleted_content_is_gone(self, store: ContentStore) -> None:
        await store_content(store, KEY, b"abc")
        await store.delete(KEY)
        with pytest.raises(NotFound):
            await fetch_content(store, KEY)
        assert await list_keys(store) == []

    async def test_deleting_what_is_not_there(self, store: ContentStore) -> None:
        await store.delete(KEY)
        await store.delete(KEY)

    async def test_a_key_can_be_used_again_after_deletion(self, store: ContentStore) -> None:
        await store_content(store, KEY, b"first")
        await store.delete(KEY)
        await store_content(store, KEY, b"second")
        assert await fetch_content(store, KEY) == b"second"

    async def test_a_reader_finishes_what_is_deleted_meanwhile(self, store: ContentStore) -> None:
        await store_content(store, KEY, LONG)
        async with store.open(KEY) as content:
            pieces = content.read(0, content.size)
            received = [await anext(pieces)]
            await store.delete(KEY)
            received += [piece async for piece in pieces]
        assert b"".join(received) == LONG

    async def test_a_reader_may_stop_before_the_end(self, store: ContentStore) -> None:
        await store_content(store, KEY, LONG)
        async with store.open(KEY) as content, aclosing(content.read(0, content.size)) as pieces:
            first = await anext(pieces)
        assert LONG.startswith(first)
        with pytest.raises(StopAsyncIteration):
            await anext(pieces)

    async def test_reading_can_be_cancelled_between_pieces(self, store: ContentStore) -> None:
        await store_content(store, KEY, LONG)
        with trio.CancelScope() as scope:
            async with store.open(KEY) as content:
                async for _ in content.read(0, content.size):
                    scope.cancel()
        assert scope.cancelled_caught
        assert await fetch_content(store, KEY) == LONG

    async def test_sweeping_leaves_living_uploads_and_committed_content(self, store: ContentStore) -> None:
        await store_content(store, "committed", b"abc")
        async with store.create(KEY) as upload:
            await write_in_pieces(upload, LONG)
            assert await store.sweep_uncommitted() == 0
            await upload.commit()
        assert await fetch_content(store, KEY) == LONG
        assert await fetch_content(store, "committed") == b"abc"

    @pytest.mark.parametrize(
        "key", ["", ".", "..", "a/b", "../a", "a\\b", "a.b", "ä", "a b", "a\0", "a" * 129]
    )
    async def test_what_is_no_key_reaches_nothing(self, store: ContentStore, key: str) -> None:
        with pytest.raises(ValueError, match="a key is"):
            await store_content(store, key, b"")
        with pytest.raises(ValueError, match="a key is"):
            await fetch_content(store, key)
        with pytest.raises(ValueError, match="a key is"):
            await store.delete(key)

    @pytest.mark.parametrize("key", ["a", "-", "A_b-9", "a" * 128])
    async def test_what_is_a_key(self, store: ContentStore, key: str) -> None:
        await store_content(store, key, b"abc")
        assert await fetch_content(store, key) == b"abc"
        assert await list_keys(store) == [key]


class MetadataStoreContract:
    """Every metadata store."""

    @pytest.fixture
    async def store(self, opener: MetadataOpener) -> AsyncIterator[MetadataStore]:
        async with opener() as store:
            yield store

    async def test_the_identity_is_drawn_once(self, opener: MetadataOpener) -> None:
        async with opener() as store, opener() as other:
            identity = await store.identity()
            assert re.fullmatch(r"[A-Za-z0-9_-]{16,64}", identity)
            assert await other.identity() == identity
        async with opener() as store:
            assert await store.identity() == identity

    @pytest.mark.parametrize(
        "record",
        [
            make_record(),
            make_record(state=State.UPLOADING, downloads=7),
            make_record(name="文件 \U0001f98a 'x\"; --.txt", size=0, sha256=bytes(range(32))),
            make_record(size=2**63 - 1, created=1763900000.123456, expires=1763901500.123456),
            make_record(terms=Terms(max_downloads=3, owner=bytes(range(32)), password=bytes(48))),
        ],
        ids=["plain", "uploading", "odd name", "large numbers", "with terms"],
    )
    async def test_a_record_is_read_back_as_it_was(self, store: MetadataStore, record: FileRecord) -> None:
        await store.add(record)
        assert await store.get(record.key) == record

    async def test_the_last_downloads_are_reserved(self, store: MetadataStore) -> None:
        await store.add(make_record(downloads=1))
        assert await store.reserve(KEY, "a", 3, 100.0, 160.0)
        assert await store.reserve(KEY, "b", 3, 100.0, 160.0)
        assert not await store.reserve(KEY, "c", 3, 100.0, 160.0)
        # Who has one keeps it, and one that is given back is free for others.
        assert await store.reserve(KEY, "a", 3, 120.0, 180.0)
        assert await store.release(KEY, "b", completed=False) == 1
        assert await store.reserve(KEY, "c", 3, 120.0, 180.0)
        assert await store.release(KEY, "a", completed=True) == 2
        assert await store.release(KEY, "c", completed=True) == 3
        assert not await store.reserve(KEY, "d", 3, 120.0, 180.0)
        assert (await store.get(KEY)).downloads == 3

    async def test_a_reservation_runs_out_and_counts_all_the_same(self, store: MetadataStore) -> None:
        await store.add(make_record())
        assert await store.reserve(KEY, "slow", 1, 100.0, 160.0)
        assert not await store.reserve(KEY, "b", 1, 159.9, 200.0)
        assert await store.reserve(KEY, "b", 1, 160.0, 220.0)
        assert not await store.reserve(KEY, "slow", 1, 170.0, 230.0)
        assert await store.release(KEY, "slow", completed=True) == 1
        assert await store.release(KEY, "slow", completed=True) == 1
        assert await store.release(KEY, "stranger", completed=True) == 1

    async def test_nothing_is_reserved_of_what_is_not_there(self, store: MetadataStore) -> None:
        assert not await store.reserve(KEY, "a", 1, 100.0, 160.0)
        assert await store.release(KEY, "a", completed=True) == 0
        await store.add(make_record())
        assert await store.reserve(KEY, "a", 1, 100.0, 160.0)
        await store.delete(KEY)
        assert await store.release(KEY, "a", completed=True) == 0
        await store.add(make_record())
        assert await store.reserve(KEY, "b", 1, 100.0, 160.0)

    async def test_of_many_who_reserve_at_once_as_many_as_may_do(self, store: MetadataStore) -> None:
        await store.add(make_record())
        got: list[str] = []

        async def reserve(token: str) -> None:
            if await store.reserve(KEY, token, 3, 100.0, 160.0):
                got.append(token)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(reserve, str(number))
        assert len(got) == 3

    async def test_files_and_what_is_held_take_room(self, store: MetadataStore) -> None:
        assert await store.room_taken(100.0) == 0
        await store.add(make_record("other", size=300))
        assert await store.hold_room(KEY, 200, 1000, 100.0, 160.0) == 700
        assert await store.room_taken(100.0) == 500
        # Held again, it grows and does not shrink, and is itself no reason to refuse it.
        assert await store.hold_room(KEY, 700, 1000, 100.0, 160.0) == 700
        assert await store.hold_room(KEY, 50, 1000, 100.0, 160.0) == 700
        assert await store.hold_room(KEY, 701, 1000, 100.0, 160.0) == 700
        assert await store.room_taken(100.0) == 1000
        assert await store.hold_room("third", 1, 1000, 100.0, 160.0) == 0
        await store.free_room(KEY)
        await store.free_room(KEY)
        assert await store.room_taken(100.0) == 300
        await store.delete("other")
        await store.delete("other")
        assert await store.room_taken(100.0) == 0

    async def test_a_file_takes_the_room_that_was_held_for_it(self, store: MetadataStore) -> None:
        await store.hold_room(KEY, 1000, 1000, 100.0, 160.0)
        await store.add(make_record(size=900, state=State.UPLOADING))
        assert await store.room_taken(100.0) == 900
        with pytest.raises(AlreadyExists):
            await store.add(make_record(size=5))
        await store.publish(KEY)
        await store.free_room(KEY)
        assert await store.room_taken(1e9) == 900, "what a file has does not run out"
        # What an attempt that failed has left does not stand in the way of the next.
        assert await store.hold_room(KEY, 1000, 1000, 100.0, 160.0) == 1000
        await store.delete(KEY)
        assert await store.room_taken(100.0) == 1000
        await store.add(make_record(size=1000))
        assert await store.room_taken(100.0) == 1000

    async def test_what_is_held_runs_out(self, store: MetadataStore) -> None:
        await store.hold_room(KEY, 600, 1000, 100.0, 160.0)
        await store.hold_room(KEY, 600, 1000, 110.0, 150.0)
        assert await store.hold_room("other", 600, 1000, 159.9, 300.0) == 400
        assert await store.room_taken(159.9) == 600
        assert await store.room_taken(160.0) == 0
        assert await store.hold_room("other", 600, 1000, 160.0, 300.0) == 1000
        assert await store.hold_room(KEY, 600, 1000, 160.0, 300.0) == 400

    async def test_what_is_held_stays_when_less_may_be_taken(self, store: MetadataStore) -> None:
        await store.add(make_record("other", size=300))
        await store.hold_room(KEY, 600, 1000, 100.0, 160.0)
        assert await store.hold_room(KEY, 600, 200, 100.0, 160.0) == 600
        assert await store.hold_room(KEY, 601, 200, 100.0, 160.0) == 600
        assert await store.hold_room("third", 1, 200, 100.0, 160.0) == 0
        assert await store.room_taken(100.0) == 900

    async def test_large_sizes_are_added_up_to_the_byte(self, store: MetadataStore) -> None:
        most = 2**50
        assert await store.hold_room(KEY, most - 1, most, 100.0, 160.0) == most
        assert await store.hold_room("other", 2, most, 100.0, 160.0) == 1
        assert await store.hold_room("other", 1, most, 100.0, 160.0) == 1
        await store.add(make_record(size=most - 1))
        assert await store.room_taken(100.0) == most
        await store.delete(KEY)
        assert await store.room_taken(100.0) == 1

    async def test_of_many_who_want_the_last_room_as_many_have_it_as_fit(
        self, opener: MetadataOpener
    ) -> None:
        got: list[str] = []

        async def hold(store: MetadataStore, key: str) -> None:
            if await store.hold_room(key, 30, 100, 100.0, 160.0) >= 30:
                got.append(key)

        async with opener() as one, opener() as other, trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(hold, (one, other)[number % 2], str(number))
        assert len(got) == 3
        async with opener() as store:
            assert await store.room_taken(100.0) == 90

    async def test_records_are_there_after_the_store_is_opened_anew(self, opener: MetadataOpener) -> None:
        async with opener() as store:
            await store.add(make_record())
        async with opener() as store:
            assert await store.get(KEY) == make_record()

    async def test_a_record_is_never_replaced(self, store: MetadataStore) -> None:
        await store.add(make_record(name="first"))
        with pytest.raises(AlreadyExists):
            await store.add(make_record(name="second"))
        assert (await store.get(KEY)).name == "first"

    async def test_of_many_records_added_at_once_under_one_key_one_stays(self, store: MetadataStore) -> None:
        added: list[str] = []

        async def try_to_add(name: str) -> None:
            try:
                await store.add(make_record(name=name))
            except AlreadyExists:
                return
            added.append(name)

        async with trio.open_nursery() as nursery:
            for n in range(8):
                nursery.start_soon(try_to_add, f"{n}.txt")
        assert added == [(await store.get(KEY)).name]

    async def test_publishing_changes_the_state_and_nothing_else(self, store: MetadataStore) -> None:
        await store.add(make_record(state=State.UPLOADING))
        await store.add(make_record("other", state=State.UPLOADING))
        await store.publish(KEY)
        assert await store.get(KEY) == make_record(state=State.READY)
        await store.publish(KEY)
        assert await store.get(KEY) == make_record(state=State.READY)
        assert (await store.get("other")).state is State.UPLOADING

    async def test_what_is_unknown_is_not_found(self, store: MetadataStore) -> None:
        with pytest.raises(NotFound):
            await store.get(KEY)
        with pytest.raises(NotFound):
            await store.publish(KEY)
        await store.count_download(KEY)
        await store.delete(KEY)
        assert await list_keys(store) == []

    async def test_a_deleted_record_is_gone_and_its_key_free(self, store: MetadataStore) -> None:
        await store.add(make_record())
        await store.add(make_record("other"))
        await store.delete(KEY)
        with pytest.raises(NotFound):
            await store.get(KEY)
        assert await list_keys(store) == ["other"]
        await store.add(make_record(name="again"))
        assert (await store.get(KEY)).name == "again"

    async def test_downloads_are_counted_one_by_one(self, store: MetadataStore) -> None:
        await store.add(make_record())
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(store.count_download, KEY)
        assert await store.get(KEY) == make_record(downloads=20)

    async def test_expired_keys_come_oldest_first_and_no_more_than_asked_for(
        self, store: MetadataStore
    ) -> None:
        for key, expires in {"c": 30.0, "a": 10.0, "d": 40.0, "b": 20.0}.items():
            await store.add(make_record(key, expires=expires))
        assert await store.expired(9.999, 10) == []
        assert await store.expired(10.0, 10) == ["a"]
        assert await store.expired(30.0, 10) == ["a", "b", "c"]
        assert await store.expired(99.0, 2) == ["a", "b"]
        assert await store.expired(99.0, 10) == ["a", "b", "c", "d"]

    async def test_uploads_that_never_ended_expire_too(self, store: MetadataStore) -> None:
        await store.add(make_record(state=State.UPLOADING, expires=10.0))
        assert await store.expired(10.0, 1) == [KEY]

    async def test_all_keys_however_many(self, store: MetadataStore) -> None:
        keys = [f"key{n:04}" for n in range(1100)]
        for key in keys:
            await store.add(make_record(key))
        assert await list_keys(store) == keys

    async def test_keys_by_state(self, store: MetadataStore) -> None:
        await store.add(make_record("one", state=State.UPLOADING))
        await store.add(make_record("two"))
        await store.add(make_record("three", state=State.UPLOADING))
        await store.publish("three")
        assert [key async for key in store.keys(State.UPLOADING)] == ["one"]
        assert {key async for key in store.keys(State.READY)} == {"two", "three"}

    async def test_records_may_go_while_keys_are_listed(self, store: MetadataStore) -> None:
        for n in range(30):
            await store.add(make_record(f"key{n:02}"))
        met = []
        async for key in store.keys():
            met.append(key)
            await store.delete(key)
        assert sorted(met) == [f"key{n:02}" for n in range(30)]
        assert await list_keys(store) == []

    async def test_a_cancelled_call_is_done_or_not_and_the_store_goes_on(self, store: MetadataStore) -> None:
        async def add_and_give_up(key: str) -> None:
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel, scope)
                await store.add(make_record(key))

        async def cancel(scope: trio.CancelScope) -> None:
            scope.cancel()

        async with trio.open_nursery() as nursery:
            for n in range(20):
                nursery.start_soon(add_and_give_up, f"key{n}")
        for key in await list_keys(store):
            assert await store.get(key) == make_record(key)
        await store.add(make_record())
        assert await store.get(KEY) == make_record()


async def kept(store: BoardStore, *codes: str) -> str:
    """Return those of the codes that have a copy."""
    found = ""
    for code in codes:
        try:
            await store.get(code, 0.0)
        except NotFound:
            continue
        found += code
    return found


class BoardStoreContract:
    """Every store of boards' copies; its test module gives the `store` fixture."""

    async def test_a_copy_is_kept_and_replaced(self, store: BoardStore) -> None:
        await store.put("ABC123", b"one", 100.0)
        await store.put("ABC124", bytes(range(256)) * 1000, 100.0)
        assert await store.get("ABC123", 99.9) == b"one"
        assert await store.get("ABC124", 0.0) == bytes(range(256)) * 1000
        await store.put("ABC123", b"", 200.0)
        assert await store.get("ABC123", 199.0) == b""

    async def test_there_may_be_none(self, store: BoardStore) -> None:
        await store.put("ABC123", b"one", 100.0)
        for code, now in [("ABC124", 0.0), ("abc123", 0.0), ("ABC123", 100.0), ("*", 0.0)]:
            with pytest.raises(NotFound, match="no copy"):
                await store.get(code, now)

    async def test_one_is_deleted(self, store: BoardStore) -> None:
        await store.put("a", b"one", 100.0)
        await store.put("b", b"two", 100.0)
        await store.delete("a")
        await store.delete("a")
        assert await kept(store, "a", "b") == "b"

    async def test_what_has_expired_is_swept(self, store: BoardStore) -> None:
        for number, code in enumerate("abcd"):
            await store.put(code, b"x", 100.0 + number)
        assert await store.sweep(101.0, HUGE) == 2
        assert await kept(store, *"abcd") == "cd"
        assert await store.sweep(101.0, HUGE) == 0

    async def test_what_is_too_much_goes_by_expiry(self, store: BoardStore) -> None:
        each = 1000 + OVERHEAD
        for code, expires in [("a", 104), ("b", 101), ("c", 103), ("d", 102)]:
            await store.put(code, bytes(1000), expires)
        assert await store.sweep(0.0, 4 * each) == 0
        assert await store.sweep(0.0, 4 * each - 1) == 1
        assert await kept(store, *"abcd") == "acd"
        await store.put("d", b"", 102)
        assert await store.sweep(0.0, 2 * each + OVERHEAD) == 0, "what was replaced counts no more"
        assert await store.sweep(0.0, each) == 2
        assert await kept(store, *"abcd") == "a"
        assert await store.sweep(0.0, 0) == 1
