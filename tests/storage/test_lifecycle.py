"""Record and content together: published, found, expired, repaired, with every step failing in turn."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from fawa.storage.base import (
    AlreadyExists,
    ContentStore,
    Damaged,
    FileRecord,
    MetadataStore,
    NotFound,
    OutOfSpace,
    State,
    StorageError,
)
from fawa.storage.filesystem import content_store
from fawa.storage.lifecycle import Repaired, expire, find, open_file, publish, repair
from fawa.storage.sqlite import metadata_store
from tests.storage.contract import (
    KEY,
    LONG,
    list_keys,
    make_record,
    read_content,
    store_content,
)
from tests.storage.disk import Disk, PowerCutError
from tests.storage.wrapped import WrappedMetadata

NOTHING = Repaired(uncommitted=0, unrecorded=0, empty=0, finished=0, expired=0, elsewhere=0)


@attrs.frozen
class Stores:
    """The two embedded stores over one folder."""

    folder: Path
    content: ContentStore
    metadata: MetadataStore

    async def publish(self, data: bytes, **changes: Any) -> FileRecord:
        record = record_of(data, **changes)
        async with self.content.create(record.key) as upload:
            await upload.write(data)
            await publish(self.content, self.metadata, upload, record)
        return record

    async def serve(self, key: str, now: float = 1000) -> bytes:
        """What a download gets."""
        record = await find(self.metadata, key, now)
        async with open_file(self.content, record) as content:
            data = await read_content(content)
        assert hashlib.sha256(data).digest() == record.sha256
        return data

    async def keys(self) -> tuple[list[str], list[str]]:
        return await list_keys(self.content), await list_keys(self.metadata)


def record_of(data: bytes, **changes: Any) -> FileRecord:
    return make_record(**{"size": len(data), "sha256": hashlib.sha256(data).digest(), **changes})


@asynccontextmanager
async def opened(folder: Path, disk: Disk | None = None) -> AsyncIterator[Stores]:
    async with (
        content_store(folder / "files") as content,
        metadata_store(folder / "files.sqlite3") as metadata,
    ):
        yield Stores(folder, content, WrappedMetadata(metadata, disk.step) if disk else metadata)


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    async with opened(tmp_path) as stores:
        yield stores


class TestPublish:
    async def test_a_published_file_is_served(self, stores: Stores) -> None:
        record = await stores.publish(LONG)
        assert await find(stores.metadata, KEY, 1000) == record
        assert await stores.serve(KEY) == LONG

    async def test_it_is_not_served_before_all_is_durable(self, stores: Stores) -> None:
        states: list[State] = []

        async def look() -> None:
            with pytest.raises(NotFound):
                await stores.serve(KEY)
            states.append((await stores.metadata.get(KEY)).state)

        class Watched(WrappedMetadata):
            async def publish(self, key: str) -> None:
                await look()
                await super().publish(key)

        async with stores.content.create(KEY) as upload:
            await upload.write(b"abc")
            watched = Watched(stores.metadata, lambda: None)
            await publish(stores.content, watched, upload, record_of(b"abc"))
        assert states == [State.UPLOADING]
        assert await stores.serve(KEY) == b"abc"

    async def test_a_key_in_use_is_left_as_it_is(self, stores: Stores) -> None:
        await stores.publish(b"first")
        with pytest.raises(AlreadyExists):
            await stores.publish(b"second")
        assert await stores.serve(KEY) == b"first"

    async def test_content_that_cannot_be_stored_leaves_no_record(self, stores: Stores) -> None:
        with Disk(stores.folder / "files").installed() as disk:
            async with stores.content.create(KEY) as upload:
                await upload.digest()
                disk.errors["fsync"] = errno.ENOSPC
                with pytest.raises(OutOfSpace):
                    await publish(stores.content, stores.metadata, upload, record_of(b""))
        assert await stores.keys() == ([], [])

    async def test_a_record_that_cannot_be_published_takes_the_content_back(self, stores: Stores) -> None:
        class Broken(WrappedMetadata):
            async def publish(self, key: str) -> None:
                raise StorageError("gone")

        async with stores.content.create(KEY) as upload:
            with pytest.raises(StorageError, match="gone"):
                await publish(stores.content, Broken(stores.metadata, lambda: None), upload, record_of(b""))
        assert await stores.keys() == ([], [])

    async def test_a_record_that_was_expired_meanwhile_takes_the_content_back(self, stores: Stores) -> None:
        class Swept(WrappedMetadata):
            async def publish(self, key: str) -> None:
                assert await expire(stores.content, stores.metadata, 3000) == 1
                await super().publish(key)

        async with stores.content.create(KEY) as upload:
            with pytest.raises(StorageError, match="expired or was repaired away") as caught:
                await publish(stores.content, Swept(stores.metadata, lambda: None), upload, record_of(b""))
        assert not isinstance(caught.value, NotFound)
        assert await stores.keys() == ([], [])

    async def test_what_cannot_be_taken_back_does_not_hide_the_error(self, stores: Stores) -> None:
        class Gone(WrappedMetadata):
            async def publish(self, key: str) -> None:
                raise StorageError("the cause")

            async def delete(self, key: str) -> None:
                raise StorageError("a consequence")

        async with stores.content.create(KEY) as upload:
            with pytest.raises(StorageError, match="the cause"):
                await publish(stores.content, Gone(stores.metadata, lambda: None), upload, record_of(b""))
        # The record remains, unserved, until it expires.
        with pytest.raises(NotFound):
            await stores.serve(KEY)
        assert await expire(stores.content, stores.metadata, 2500) == 1
        assert await stores.keys() == ([], [])

    @pytest.mark.parametrize("step", ["add", "publish"])
    async def test_cancelled_before_or_while_it_is_published(self, stores: Stores, step: str) -> None:
        with trio.CancelScope() as scope:

            class Cancelling(WrappedMetadata):
                async def add(self, record: FileRecord) -> None:
                    await super().add(record)
                    if step == "add":
                        scope.cancel()

                async def publish(self, key: str) -> None:
                    scope.cancel()
                    await super().publish(key)

            async with stores.content.create(KEY) as upload:
                await upload.write(b"abc")
                metadata = Cancelling(stores.metadata, lambda: None)
                await publish(stores.content, metadata, upload, record_of(b"abc"))
        assert scope.cancelled_caught
        assert await stores.keys() == ([], [])


class TestFind:
    async def test_an_expired_file_is_not_found_though_it_is_there(self, stores: Stores) -> None:
        record = await stores.publish(b"abc", expires=2000)
        assert await find(stores.metadata, KEY, 1999.9) == record
        with pytest.raises(NotFound):
            await find(stores.metadata, KEY, 2000)
        assert await list_keys(stores.content) == [KEY]

    async def test_a_file_that_is_not_ready_is_not_found(self, stores: Stores) -> None:
        await stores.metadata.add(record_of(b"abc", state=State.UPLOADING))
        await store_content(stores.content, KEY, b"abc")
        with pytest.raises(NotFound):
            await stores.serve(KEY)

    async def test_a_record_whose_content_is_gone_is_not_found(self, stores: Stores) -> None:
        await stores.metadata.add(record_of(b"abc"))
        with pytest.raises(NotFound):
            await stores.serve(KEY)

    async def test_content_of_another_size_is_not_served(self, stores: Stores) -> None:
        await stores.metadata.add(record_of(b"abc"))
        await store_content(stores.content, KEY, b"ab")
        with pytest.raises(Damaged, match="has 2 bytes, its record says 3"):
            await stores.serve(KEY)

    async def test_an_open_file_stays_readable_past_its_expiry(self, stores: Stores) -> None:
        await stores.publish(LONG, expires=2000)
        record = await find(stores.metadata, KEY, 1999)
        async with open_file(stores.content, record) as content:
            assert await expire(stores.content, stores.metadata, 2000) == 1
            assert await read_content(content) == LONG


class TestExpire:
    async def test_what_is_due_goes_with_its_content_and_the_rest_stays(self, stores: Stores) -> None:
        for n in range(5):
            await stores.publish(b"%d" % n, key=f"key{n}", expires=2000 + n)
        assert await expire(stores.content, stores.metadata, 2002) == 3
        assert await stores.keys() == (["key3", "key4"], ["key3", "key4"])
        assert await expire(stores.content, stores.metadata, 2002) == 0

    async def test_more_than_one_batch(self, stores: Stores) -> None:
        for n in range(250):
            await stores.metadata.add(make_record(f"key{n}", expires=10))
        assert await expire(stores.content, stores.metadata, 10) == 250
        assert await stores.keys() == ([], [])

    async def test_what_cannot_be_removed_does_not_keep_the_rest(self, stores: Stores) -> None:
        for n in range(5):
            await stores.publish(b"abc", key=f"key{n}", expires=10)

        class Stubborn(WrappedMetadata):
            async def delete(self, key: str) -> None:
                if key == "key0":
                    raise StorageError("stubborn")
                await super().delete(key)

        with pytest.raises(StorageError, match="stubborn"):
            await expire(stores.content, Stubborn(stores.metadata, lambda: None), 10)
        # Its record stays, so the next time finds it again.
        assert await stores.keys() == ([], ["key0"])
        assert await expire(stores.content, stores.metadata, 10) == 1
        assert await stores.keys() == ([], [])


class TestRepair:
    async def test_what_is_whole_is_left_alone(self, stores: Stores) -> None:
        await stores.publish(LONG)
        assert await repair(stores.content, stores.metadata, 1000) == NOTHING
        assert await stores.serve(KEY) == LONG

    async def test_each_kind_of_leftover(self, stores: Stores) -> None:
        await stores.publish(LONG, key="whole")
        await stores.publish(b"old", key="expired", expires=1000)
        await stores.metadata.add(make_record("begun", state=State.UPLOADING))
        await stores.metadata.add(record_of(b"abc", key="nearly", state=State.UPLOADING))
        await store_content(stores.content, "nearly", b"abc")
        await store_content(stores.content, "unrecorded", b"abc")
        (stores.folder / "files" / "uploads" / "broken.0123.part").write_bytes(b"abc")
        repaired = await repair(stores.content, stores.metadata, 1000)
        assert repaired == Repaired(uncommitted=1, unrecorded=1, empty=1, finished=1, expired=1, elsewhere=0)
        assert repaired.total == 5
        assert await stores.keys() == (["nearly", "whole"], ["nearly", "whole"])
        assert await stores.serve("whole") == LONG
        assert await stores.serve("nearly") == b"abc"
        assert await repair(stores.content, stores.metadata, 1000) == NOTHING

    async def test_files_in_a_place_that_is_not_this_one(self, tmp_path: Path) -> None:
        """What is kept in another place than before is served again when the place is set back in time."""
        async with metadata_store(tmp_path / "files.sqlite3") as metadata:
            async with content_store(tmp_path / "before") as content:
                before = Stores(tmp_path, content, metadata)
                await before.publish(LONG, key="long", expires=3000)
                await before.publish(b"abc", key="short", expires=2000)
            async with content_store(tmp_path / "now") as content:
                now = Stores(tmp_path, content, metadata)
                for _ in range(2):
                    repaired = await repair(content, metadata, 1000)
                    assert (repaired.elsewhere, repaired.total) == (2, 0)
                with pytest.raises(NotFound):
                    await now.serve("long")
                await now.publish(b"new", key="new", expires=3000)
                assert await expire(content, metadata, 2000) == 1
            async with content_store(tmp_path / "before") as content:
                before = Stores(tmp_path, content, metadata)
                repaired = await repair(content, metadata, 2000)
                assert repaired == attrs.evolve(NOTHING, unrecorded=1, elsewhere=1)
                assert await before.serve("long", 2000) == LONG
                assert await before.keys() == (["long"], ["long", "new"])

    async def test_a_file_that_is_published_while_it_looks(self, stores: Stores) -> None:
        class Meanwhile(WrappedMetadata):
            async def keys(self, state: State | None = None) -> AsyncGenerator[str, None]:
                if state is None:
                    await stores.publish(LONG)
                keys = super().keys(state)
                async for key in keys:
                    yield key

        assert await repair(stores.content, Meanwhile(stores.metadata, lambda: None), 1000) == NOTHING
        assert await stores.serve(KEY) == LONG

    async def test_it_runs_beside_another_process_that_publishes(self, tmp_path: Path) -> None:
        """Repair at each step of an upload: it is served whole, or its uploader is told that it failed."""

        async def tidy(*, now: bool = True) -> None:
            if now:
                async with opened(tmp_path) as other:
                    await repair(other.content, other.metadata, 1000)

        class Beside(WrappedMetadata):
            async def add(self, record: FileRecord) -> None:
                await tidy(now=step == 0)
                await super().add(record)
                await tidy(now=step == 1)

            async def publish(self, key: str) -> None:
                await tidy(now=step == 2)
                await super().publish(key)
                await tidy(now=step == 3)

        for step in range(4):
            async with opened(tmp_path) as stores:
                key = f"{KEY}{step}"
                async with stores.content.create(key) as upload:
                    await upload.write(LONG)
                    metadata = Beside(stores.metadata, lambda: None)
                    try:
                        await publish(stores.content, metadata, upload, record_of(LONG, key=key))
                    except StorageError:
                        assert step == 1
                        with pytest.raises(NotFound):
                            await stores.serve(key)
                    else:
                        assert await stores.serve(key) == LONG
                await tidy()
        assert await list_keys(stores.content) == [f"{KEY}{step}" for step in (0, 2, 3)]


class TestPowerCut:
    """Each operation dies at each of its steps, in turn; then the daemon starts again."""

    async def assert_tidy(self, folder: Path, served: dict[str, bytes]) -> None:
        async with opened(folder) as stores:
            assert await stores.keys() == (sorted(served), sorted(served))
            assert [key async for key in stores.metadata.keys(State.UPLOADING)] == []
            for key, data in served.items():
                assert await stores.serve(key) == data
        assert list((folder / "files" / "uploads").iterdir()) == []

    async def test_of_an_upload(self, tmp_path: Path) -> None:
        outcomes: set[str] = set()
        for step in range(100):
            folder = tmp_path / str(step)
            disk = Disk(folder, cut_power_at=step)
            async with opened(folder) as stores:
                await stores.publish(b"older", key="older")
            async with opened(folder, disk) as stores:
                with disk.installed():
                    try:
                        await stores.publish(LONG)
                    except PowerCutError:
                        done = False
                    else:
                        done = True
            async with opened(folder) as stores:
                # Before any repair: whole or nothing.
                try:
                    assert await stores.serve(KEY) == LONG
                except NotFound:
                    assert not done
                assert await stores.serve("older") == b"older"
                repaired = await repair(stores.content, stores.metadata, 1000)
                outcomes |= {name for name, count in attrs.asdict(repaired).items() if count}
                there = KEY in await list_keys(stores.content)
            assert there or not done
            await self.assert_tidy(folder, {"older": b"older", **({KEY: LONG} if there else {})})
            if done:
                break
        assert step > 12
        assert outcomes == {"uncommitted", "empty", "finished"}

    async def test_of_an_expiry(self, tmp_path: Path) -> None:
        for step in range(100):
            folder = tmp_path / str(step)
            disk = Disk(folder, cut_power_at=step)
            async with opened(folder) as stores:
                await stores.publish(b"due", key="due1", expires=2000)
                await stores.publish(b"due", key="due2", expires=2000)
                await stores.publish(b"not due", key="later")
            async with opened(folder, disk) as stores:
                with disk.installed():
                    try:
                        await expire(stores.content, stores.metadata, 2000)
                    except PowerCutError:
                        done = False
                    else:
                        done = True
            async with opened(folder) as stores:
                for key in ("due1", "due2"):
                    with pytest.raises(NotFound):
                        await stores.serve(key, now=2000)
                # Without a repair: the next expiry takes what this one left.
                await expire(stores.content, stores.metadata, 2000)
            await self.assert_tidy(folder, {"later": b"not due"})
            if done:
                break
        assert step > 5

    async def test_of_a_repair(self, tmp_path: Path) -> None:
        for step in range(100):
            folder = tmp_path / str(step)
            disk = Disk(folder, cut_power_at=step)
            async with opened(folder) as stores:
                await stores.publish(b"whole", key="whole")
                await stores.publish(b"due", key="due", expires=1000)
                await stores.metadata.add(make_record("empty", state=State.UPLOADING))
                await stores.metadata.add(record_of(b"abc", key="nearly", state=State.UPLOADING))
                await store_content(stores.content, "nearly", b"abc")
                await store_content(stores.content, "unrecorded", b"abc")
                (folder / "files" / "uploads" / "broken.0123.part").write_bytes(b"abc")
            async with opened(folder, disk) as stores:
                with disk.installed():
                    try:
                        await repair(stores.content, stores.metadata, 1000)
                    except PowerCutError:
                        done = False
                    else:
                        done = True
            if not done:
                async with opened(folder) as stores:
                    await repair(stores.content, stores.metadata, 1000)
            await self.assert_tidy(folder, {"whole": b"whole", "nearly": b"abc"})
            if done:
                break
        assert step > 8
