"""The folder of content, beyond the contract: what is on the disk, and what happens when the disk fails."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import stat
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, suppress
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from fawa.storage import filesystem, threads
from fawa.storage.base import PIECE, AlreadyExists, NotFound, OnDisk, OutOfSpace, StorageError, Upload
from fawa.storage.filesystem import THREADS, FilesystemStore, content_store
from fawa.storage.threads import BATCH, BATCH_LEAST, SOON
from tests.storage.contract import (
    KEY,
    LONG,
    ContentOpener,
    ContentStoreContract,
    fetch_content,
    give_up,
    knows,
    list_keys,
    read_content,
    store_content,
    write_in_pieces,
)
from tests.storage.disk import Disk, PowerCutError, file_size_limit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "files"


@pytest.fixture
async def store(folder: Path) -> AsyncIterator[FilesystemStore]:
    async with content_store(folder) as store:
        yield store


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def open_files() -> set[str]:
    # By the name of each descriptor; the listing itself has one, alike each time.
    return set(os.listdir("/dev/fd"))  # noqa: PTH208 - Path.iterdir follows the links


class TestContract(ContentStoreContract):
    @pytest.fixture
    def opener(self, folder: Path) -> ContentOpener:
        return lambda: content_store(folder)


class TestOnTheDisk:
    async def test_an_upload_is_a_part_and_then_content(self, store: FilesystemStore, folder: Path) -> None:
        async with store.create(KEY) as upload:
            await upload.write(LONG)
            (part,) = files_in(folder)
            assert part.startswith(f"uploads/{KEY}.")
            assert part.endswith(".part")
            await upload.commit()
        assert files_in(folder) == {f"content/{KEY[:2]}/{KEY}": LONG}

    async def test_nobody_else_can_read_it(self, store: FilesystemStore, folder: Path) -> None:
        async with store.create(KEY) as upload:
            await upload.write(b"abc")
            (part,) = files_in(folder)
            assert stat.S_IMODE((folder / part).stat().st_mode) == 0o600
            await upload.commit()
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
        assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
        assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}

    async def test_content_is_durable_before_it_is_visible_and_visible_before_it_is_told(
        self, store: FilesystemStore, folder: Path
    ) -> None:
        with Disk(folder).installed() as disk:
            async with store.create(KEY) as upload:
                await upload.write(b"abc")
                await upload.commit()
                calls = list(disk.calls)
        # The part, its bytes; then the folder and its name in `content`; then the name in the folder.
        assert calls == ["open", "writev", "fsync", "mkdir", "open", "fsync", "link", "open", "fsync"]

    async def test_it_knows_how_much_room_there_is(self, store: FilesystemStore, folder: Path) -> None:
        assert isinstance(store, OnDisk)
        free = await store.free_space()
        assert 0 < free < shutil.disk_usage(folder).total
        assert free % os.statvfs(folder).f_frsize == 0

    async def test_small_pieces_are_written_together(
        self, store: FilesystemStore, folder: Path, autojump_clock: MockClock
    ) -> None:
        with Disk(folder).installed() as disk:
            async with store.create(KEY) as upload:
                await write_in_pieces(upload, bytes(4 * BATCH), 8192)
                assert disk.calls.count("writev") == 4
                for _ in range(1024):
                    await upload.write(b"x")
                assert disk.calls.count("writev") == 5

    async def test_who_is_slow_holds_less_in_memory(
        self, store: FilesystemStore, folder: Path, autojump_clock: MockClock
    ) -> None:
        with Disk(folder).installed() as disk:
            async with store.create(KEY) as upload:
                for _ in range(2 * BATCH // BATCH_LEAST):
                    await trio.sleep(2 * SOON)
                    await write_in_pieces(upload, bytes(BATCH_LEAST), 8192)
                assert disk.calls.count("writev") == 2 * BATCH // BATCH_LEAST - 1

    @pytest.mark.parametrize("resumable", [False, True])
    async def test_many_uploads_together_hold_little_in_memory(
        self, store: FilesystemStore, monkeypatch: pytest.MonkeyPatch, resumable: bool
    ) -> None:
        """While they hold more, what comes is written at once; what is given up counts no more."""
        monkeypatch.setattr(threads, "TOGETHER", 20 * PIECE)
        async with AsyncExitStack() as stack:
            for number in range(12):
                key = f"many{number:04}"
                if resumable:
                    await store.begin(key)
                created: AbstractAsyncContextManager[Upload] = (
                    store.resume(key, 1) if resumable else store.create(key)
                )
                upload = await stack.enter_async_context(created)
                for _ in range(3):
                    await upload.write(bytes(PIECE))
                    assert store._threads.gathered <= 20 * PIECE
            assert store._threads.gathered > 10 * PIECE
        assert store._threads.gathered == 0

    @pytest.mark.parametrize(("pause", "reads"), [(0.0, [2, 4, 8, 8]), (2 * SOON, [2, 1, 1, 1])])
    async def test_who_reads_fast_is_read_ahead_for(
        self,
        store: FilesystemStore,
        autojump_clock: MockClock,
        monkeypatch: pytest.MonkeyPatch,
        pause: float,
        reads: list[int],
    ) -> None:
        ahead: list[int] = []

        def read_pieces(fd: int, offset: int, end: int, most: int) -> list[bytes]:
            ahead.append(most)
            return read_them(fd, offset, end, most)

        read_them = filesystem._read_pieces
        monkeypatch.setattr(filesystem, "_read_pieces", read_pieces)
        size = sum(reads) * PIECE
        await store_content(store, KEY, bytes(size))
        async with store.open(KEY) as content:
            assert isinstance(content, filesystem.FilesystemContent)
            async with aclosing(content.read(0, size)) as pieces:
                async for _ in pieces:
                    await trio.sleep(pause)
        assert ahead == reads

    async def test_files_that_are_not_ours_are_left_alone(self, store: FilesystemStore, folder: Path) -> None:
        await store_content(store, KEY, b"abc")
        strangers = ["content/.nfs01", "content/ab/cdef", "content/zz/.hidden", "uploads/README", "notes.txt"]
        for name in strangers:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"mine")
        assert await list_keys(store) == [KEY]
        assert await store.sweep_uncommitted() == 0
        assert {f"content/{KEY[:2]}/{KEY}", *strangers} == set(files_in(folder))

    async def test_the_open_file_can_be_sent_by_the_kernel(self, store: FilesystemStore) -> None:
        await store_content(store, KEY, LONG)
        async with store.open(KEY) as content:
            assert content.file is not None
            assert os.pread(content.file.fileno(), 10, 5) == LONG[5:15]
        assert content.file.closed

    async def test_a_file_system_without_hard_links(
        self, store: FilesystemStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_links(*args: object, **kwargs: object) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", no_links)
        await store_content(store, KEY, b"first")
        with pytest.raises(AlreadyExists):
            await store_content(store, KEY, b"second")
        assert files_in(folder) == {f"content/{KEY[:2]}/{KEY}": b"first"}


class TestSweep:
    async def test_parts_of_the_dead_are_removed_and_parts_of_the_living_stay(
        self, store: FilesystemStore, folder: Path
    ) -> None:
        (folder / "uploads" / "dead.0123.part").write_bytes(b"half")
        async with store.create(KEY) as upload:
            await upload.write(LONG)
            assert await store.sweep_uncommitted() == 1
            await upload.commit()
        assert files_in(folder) == {f"content/{KEY[:2]}/{KEY}": LONG}

    async def test_a_part_whose_content_was_published_just_before_the_crash(
        self, store: FilesystemStore, folder: Path
    ) -> None:
        await store_content(store, KEY, b"abc")
        (folder / "uploads" / f"{KEY}.0123.part").hardlink_to(folder / "content" / KEY[:2] / KEY)
        assert await store.sweep_uncommitted() == 1
        assert files_in(folder) == {f"content/{KEY[:2]}/{KEY}": b"abc"}


class TestFaults:
    @pytest.mark.parametrize("call", ["writev", "fsync", "link", "mkdir"])
    async def test_a_full_disk(self, store: FilesystemStore, folder: Path, call: str) -> None:
        with Disk(folder).installed() as disk:
            async with store.create(KEY) as upload:
                await upload.write(b"abc")
                disk.errors[call] = errno.ENOSPC
                with pytest.raises(OutOfSpace, match=f"in {folder}: No space left on device"):
                    await upload.commit()
            disk.errors.clear()
            await store_content(store, KEY, b"abc")
        assert files_in(folder) == {f"content/{KEY[:2]}/{KEY}": b"abc"}

    async def test_a_real_limit_on_the_size_of_files(self, store: FilesystemStore, folder: Path) -> None:
        content = random.Random(2).randbytes(3 * BATCH // 2)
        with file_size_limit(3 * BATCH // 2), pytest.raises(OutOfSpace, match="ulimit"):
            await store_content(store, KEY, bytes(3 * BATCH))
        assert files_in(folder) == {}
        with file_size_limit(3 * BATCH // 2):
            await store_content(store, KEY, content)
        assert await fetch_content(store, KEY) == content

    async def test_content_that_could_not_be_made_durable_is_not_visible(
        self, store: FilesystemStore, folder: Path
    ) -> None:
        await store_content(store, KEY, b"makes the folder")
        with Disk(folder).installed() as disk:
            async with store.create(f"{KEY}2") as upload:
                await upload.digest()
                real_link = os.link

                def link_and_break(*args: object, **kwargs: object) -> None:
                    real_link(*args, **kwargs)  # type: ignore[arg-type]
                    disk.errors["fsync"] = errno.EIO

                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(os, "link", link_and_break)
                    with pytest.raises(StorageError, match="Input/output error"):
                        await upload.commit()
        assert await list_keys(store) == [KEY]

    async def test_a_disk_that_takes_writes_in_parts(
        self, store: FilesystemStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = os.write
        monkeypatch.setattr(os, "writev", lambda fd, pieces: write(fd, pieces[0][:10]))
        monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:1000]))
        await store_content(store, KEY, LONG[:300_000])
        monkeypatch.undo()
        assert files_in(folder) == {f"content/{KEY[:2]}/{KEY}": LONG[:300_000]}

    async def test_a_file_system_without_locks(
        self, store: FilesystemStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_locks(fd: int, operation: int) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(fcntl, "flock", no_locks)
        with (
            Disk(folder).installed(),
            pytest.raises(StorageError, match=r"begin an upload in .*: No locks available"),
        ):
            await store_content(store, KEY, b"abc")
        assert files_in(folder) == {}

    async def test_content_that_cannot_be_looked_at_is_not_left_open(
        self, store: FilesystemStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(fd: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        await store_content(store, KEY, b"abc")
        before = open_files()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fstat", fail)
            with pytest.raises(StorageError, match="open content"):
                await fetch_content(store, KEY)
        assert open_files() == before

    async def test_parts_that_another_process_sweeps_first(
        self, store: FilesystemStore, folder: Path
    ) -> None:
        (folder / "uploads" / "dead.0123.part").write_bytes(b"half")
        with Disk(folder, errors={"open": errno.ENOENT}).installed():
            assert await store.sweep_uncommitted() == 0

    async def test_no_right_to_write(self, store: FilesystemStore, folder: Path) -> None:
        with (
            Disk(folder, errors={"open": errno.EACCES}).installed(),
            pytest.raises(StorageError, match=f"begin an upload in {folder}: Permission denied.*the right"),
        ):
            await store_content(store, KEY, b"abc")

    async def test_a_part_that_cannot_be_removed_is_left_to_the_sweep(
        self, store: FilesystemStore, folder: Path
    ) -> None:
        with Disk(folder, errors={"unlink": errno.EIO}).installed(), pytest.raises(ZeroDivisionError):
            await give_up(store, KEY, b"abc")
        assert await store.sweep_uncommitted() == 1
        assert files_in(folder) == {}

    async def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StorageError, match=r"cannot keep files in .*file/files: Not a directory"):
            async with content_store(tmp_path / "file" / "files"):
                pass
        with pytest.raises(StorageError, match=r"cannot keep files in .*file: Not a directory"):
            async with content_store(tmp_path / "file"):
                pass

    async def test_a_folder_that_may_not_be_written(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The user root, who runs tests in containers, may write anywhere, so the question is intercepted.
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        with pytest.raises(StorageError, match="Permission denied"):
            async with content_store(folder):
                pass

    async def test_content_that_is_cut_off_while_it_is_read(
        self, store: FilesystemStore, folder: Path
    ) -> None:
        await store_content(store, KEY, LONG)
        async with store.open(KEY) as content:
            os.truncate(folder / "content" / KEY[:2] / KEY, 1000)
            with pytest.raises(StorageError, match="ends at byte 1000"):
                await read_content(content)

    async def test_other_errors_are_not_taken_for_missing_content(
        self, store: FilesystemStore, folder: Path
    ) -> None:
        (folder / "content" / KEY[:2] / KEY).mkdir(parents=True)
        with pytest.raises(StorageError, match="Is a directory") as caught:
            await fetch_content(store, KEY)
        assert not isinstance(caught.value, NotFound)


class TestOwner:
    async def test_it_is_a_file_beside_the_content(self, store: FilesystemStore, folder: Path) -> None:
        await store.claim("owner-1", knows())
        assert files_in(folder) == {"owner": b"owner-1\n"}

    async def test_unfinished_uploads_are_content_too(self, store: FilesystemStore) -> None:
        await store.begin(KEY)
        with pytest.raises(StorageError, match=rf"such as {KEY}, .* move \S+/files away"):
            await store.claim("owner-1", knows())
        await store.claim("owner-1", knows(KEY))

    async def test_of_many_that_come_at_once_one_is_the_owner(self, store: FilesystemStore) -> None:
        owners: list[str] = []

        async def try_to_claim(owner: str) -> None:
            try:
                await store.claim(owner, knows())
            except StorageError:
                return
            owners.append(owner)

        async with trio.open_nursery() as nursery:
            for n in range(8):
                nursery.start_soon(try_to_claim, f"owner-{n}")
        assert len(owners) == 1
        await store.claim(owners[0], knows())

    async def test_after_a_power_cut_at_any_step_it_is_whole_or_not_there(self, folder: Path) -> None:
        crashes, cut = 0, True
        while cut:
            async with content_store(folder) as store:
                with Disk(folder, cut_power_at=crashes).installed() as disk, suppress(PowerCutError):
                    await store.claim("owner-1", knows())
            cut = disk.dead
            crashes += cut
            async with content_store(folder) as store:
                await store.sweep_uncommitted()
                assert files_in(folder) in ({}, {"owner": b"owner-1\n"})
                (folder / "owner").unlink(missing_ok=True)
        assert crashes >= 5

    async def test_a_disk_that_fails(self, store: FilesystemStore, folder: Path) -> None:
        with (
            Disk(folder, errors={"fsync": errno.EIO}).installed(),
            pytest.raises(StorageError, match=r"cannot say whose the files are in .*Input/output error"),
        ):
            await store.claim("owner-1", knows())
        assert files_in(folder) == {}


class TestHangingDisk:
    """All threads are stuck: nothing can be cleaned up in one, and no file may stay open for it."""

    async def test_descriptors_are_closed_all_the_same(
        self, store: FilesystemStore, folder: Path, autojump_clock: MockClock
    ) -> None:
        await store_content(store, "other", b"abc")
        before = open_files()
        with trio.CancelScope() as scope:
            async with store.create(KEY) as upload, store.open("other"):
                await upload.write(b"abc")
                for n in range(THREADS):
                    await store._threads.limiter.acquire_on_behalf_of(n)
                scope.cancel()
                await upload.write(bytes(BATCH))
        assert scope.cancelled_caught
        assert open_files() == before
        for n in range(THREADS):
            store._threads.limiter.release_on_behalf_of(n)
        assert await store.sweep_uncommitted() == 1
        assert list(files_in(folder)) == ["content/ot/other"]
