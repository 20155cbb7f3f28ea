"""Interrupted uploads in a folder: the contract, and what lies on the disk."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from fawa.storage.base import NotFound, OutOfSpace, StorageError
from fawa.storage.filesystem import HASHES, FilesystemStore, content_store
from fawa.storage.resumable import ResumablePart
from tests.storage.contract import KEY, LONG, fetch_content, list_keys, write_in_pieces
from tests.storage.contract_resumable import ResumableOpener, ResumableStoreContract, add, unfinished
from tests.storage.disk import Disk, PowerCutError
from tests.storage.test_filesystem import files_in, open_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "files"


@pytest.fixture
async def store(folder: Path) -> AsyncIterator[FilesystemStore]:
    async with content_store(folder) as store:
        yield store


class TestContract(ResumableStoreContract):
    @pytest.fixture
    def opener(self, folder: Path) -> ResumableOpener:
        return lambda: content_store(folder)


class TestOnTheDisk:
    async def test_the_file_is_named_by_its_writer(self, store: FilesystemStore, folder: Path) -> None:
        await store.begin(KEY)
        assert files_in(folder) == {f"resumable/{KEY}/0": b""}
        await add(store, 3, b"abc")
        assert files_in(folder) == {f"resumable/{KEY}/3": b"abc"}
        async with store.resume(KEY, 4) as upload:
            await upload.commit()
        assert files_in(folder) == {f"content/{KEY[:2]}/{KEY}": b"abc"}
        assert list((folder / "resumable").iterdir()) == []

    async def test_what_is_told_to_be_stored_was_fsynced(self, store: FilesystemStore, folder: Path) -> None:
        await store.begin(KEY)
        with Disk(folder).installed() as disk:
            await add(store, 1, b"abc")
            assert disk.calls == ["open", "rename", "writev", "fsync"]

    async def test_content_is_durable_before_it_is_visible(
        self, store: FilesystemStore, folder: Path
    ) -> None:
        await store.begin(KEY)
        with Disk(folder).installed() as disk:
            async with store.resume(KEY, 1, 0) as upload:
                await upload.write(b"abc")
                await upload.commit()
            calls = list(disk.calls)
        made = ["fsync", "mkdir", "open", "fsync"]
        assert calls == ["open", "rename", "writev", *made, "link", "open", "fsync", "unlink", "rmdir"]

    async def test_content_published_just_before_a_crash_is_not_written_to(
        self, store: FilesystemStore, folder: Path
    ) -> None:
        await store.begin(KEY)
        await add(store, 1, b"abc")
        target = folder / "content" / KEY[:2] / KEY
        target.parent.mkdir()
        target.hardlink_to(folder / "resumable" / KEY / "1")
        with pytest.raises(NotFound):
            await add(store, 2, b"def")
        assert await fetch_content(store, KEY) == b"abc"
        await store.discard(KEY)
        assert files_in(folder) == {f"content/{KEY[:2]}/{KEY}": b"abc"}

    async def test_an_upload_whose_beginning_broke_off(self, store: FilesystemStore, folder: Path) -> None:
        (folder / "resumable" / KEY).mkdir()
        with pytest.raises(NotFound):
            await add(store, 1, b"abc")
        assert await unfinished(store) == [KEY]
        await store.discard(KEY)
        assert await unfinished(store) == []

    async def test_nothing_stays_open(self, store: FilesystemStore) -> None:
        await store.begin(KEY)
        before = open_files()
        await add(store, 1, LONG)
        for epoch, offset in ((1, None), (2, 5)):
            with pytest.raises(StorageError):
                await add(store, epoch, b"x", offset)
        assert open_files() == before


class TestHash:
    @pytest.fixture
    def hashed(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Where hashing again began, once for each step."""
        steps: list[int] = []
        original = ResumablePart.hash_some

        def count(part: ResumablePart) -> bool:
            steps.append(part.hashed.size)
            return original(part)

        monkeypatch.setattr(ResumablePart, "hash_some", count)
        return steps

    async def test_the_hash_goes_on_without_reading_again(
        self, store: FilesystemStore, hashed: list[int]
    ) -> None:
        await store.begin(KEY)
        for epoch in range(1, 6):
            await add(store, epoch, LONG)
        async with store.resume(KEY, 6) as upload:
            assert await upload.digest() == hashlib.sha256(LONG * 5).digest()
        assert hashed == []

    async def test_another_process_reads_what_is_stored_once(
        self, store: FilesystemStore, folder: Path, hashed: list[int]
    ) -> None:
        await store.begin(KEY)
        await add(store, 1, LONG)
        async with content_store(folder) as other:
            async with other.resume(KEY, 2) as upload:
                assert await upload.sync() == len(LONG)
            assert hashed == []  # the offset alone costs no hash
            await add(other, 3, b"more")
            await add(other, 4, b"and more")
            async with other.resume(KEY, 5) as upload:
                assert await upload.digest() == hashlib.sha256(LONG + b"moreand more").digest()
        assert hashed == [0]

    async def test_few_hashes_are_kept(self, store: FilesystemStore) -> None:
        for number in range(HASHES + 5):
            await store.begin(f"key{number}")
            async with store.resume(f"key{number}", 1) as upload:
                await upload.write(b"x")
        assert len(store._hashes) == HASHES


class TestFaults:
    async def test_a_full_disk(self, store: FilesystemStore, folder: Path) -> None:
        await store.begin(KEY)
        await add(store, 1, b"abc")
        with Disk(folder, errors={"writev": errno.ENOSPC}).installed():
            async with store.resume(KEY, 2) as upload:
                await upload.write(b"def")
                with pytest.raises(OutOfSpace):
                    await upload.sync()
                with pytest.raises(StorageError, match="resume the upload anew"):
                    await upload.sync()
        assert await add(store, 3, b"def", 3) == 6

    @pytest.mark.parametrize("call", ["fsync", "link", "mkdir"])
    async def test_a_commit_that_fails_can_be_tried_again(
        self, store: FilesystemStore, folder: Path, call: str
    ) -> None:
        await store.begin(KEY)
        await add(store, 1, LONG)
        with Disk(folder, errors={call: errno.EIO}).installed():
            async with store.resume(KEY, 2) as upload:
                with pytest.raises(StorageError):
                    await upload.commit()
        assert await list_keys(store) == []
        async with store.resume(KEY, 3, len(LONG)) as upload:
            await upload.commit()
        assert await fetch_content(store, KEY) == LONG

    @pytest.mark.parametrize("step", range(13))
    async def test_a_power_cut_at_any_step(self, folder: Path, step: int) -> None:
        """What was told to be stored is there, and content is whole or not there."""
        told = 0
        async with content_store(folder) as store:
            await store.begin(KEY)
            await add(store, 1, LONG[:1000])
            with Disk(folder, cut_power_at=step).installed(), suppress(PowerCutError):
                async with store.resume(KEY, 2, 1000) as upload:
                    await write_in_pieces(upload, LONG[1000:])
                    told = await upload.sync()
                    await upload.commit()
        async with content_store(folder) as store:
            try:
                async with store.resume(KEY, 3) as upload:
                    assert max(told, 1000) <= upload.offset <= len(LONG)
                    await upload.write(LONG[upload.offset :])
                    assert await upload.digest() == hashlib.sha256(LONG).digest()
                    await upload.commit()
            except NotFound:
                assert told == len(LONG)
            assert await fetch_content(store, KEY) == LONG
