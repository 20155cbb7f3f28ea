"""Watched stores: they do what the stores inside do, and what fails of them is seen."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import attrs
import pytest

from fawa.storage.base import (
    AlreadyExists,
    Damaged,
    Fenced,
    NotFound,
    OutOfReach,
    OutOfSpace,
    StorageError,
    WrongOffset,
)
from fawa.storage.boards import board_store
from fawa.storage.filesystem import content_store
from fawa.storage.leases import Lease, embedded_leases
from fawa.storage.sqlite import metadata_store
from fawa.storage.uploads import upload_store
from fawa.storage.watched import (
    watched_boards,
    watched_content,
    watched_leases,
    watched_metadata,
    watched_uploads,
)
from fawa.storage.watching import StoreWatch
from tests.storage.contract import (
    KEY,
    ContentOpener,
    ContentStoreContract,
    MetadataOpener,
    MetadataStoreContract,
    make_record,
    store_content,
)
from tests.storage.contract_resumable import (
    ResumableOpener,
    ResumableStoreContract,
    UploadsOpener,
    UploadStoreContract,
)
from tests.storage.disk import Disk


@attrs.define
class Spans:
    """What was traced: store, backend, operation, and the error it ended with."""

    ended: list[tuple[str, str, str, str]] = attrs.field(factory=list)

    def trace(self, store: str, backend: str, operation: str) -> AbstractContextManager[None]:
        @contextmanager
        def span() -> Iterator[None]:
            error = ""
            try:
                yield
            except BaseException as raised:
                error = type(raised).__name__
                raise
            finally:
                self.ended.append((store, backend, operation, error))

        return span()


@pytest.fixture(params=["counted", "traced"])
def watch(request: pytest.FixtureRequest) -> StoreWatch:
    return StoreWatch("content", "filesystem", Spans().trace if request.param == "traced" else None)


class TestContent(ContentStoreContract):
    @pytest.fixture
    def opener(self, tmp_path: Path, watch: StoreWatch) -> ContentOpener:
        return lambda: watched_content(watch, content_store(tmp_path / "files"))


class TestResumable(ResumableStoreContract):
    @pytest.fixture
    def opener(self, tmp_path: Path, watch: StoreWatch) -> ResumableOpener:
        return lambda: watched_content(watch, content_store(tmp_path / "files"))  # type: ignore[return-value]


class TestMetadata(MetadataStoreContract):
    @pytest.fixture
    def opener(self, tmp_path: Path, watch: StoreWatch) -> MetadataOpener:
        return lambda: watched_metadata(watch, metadata_store(tmp_path / "files.sqlite3"))


class TestUploads(UploadStoreContract):
    @pytest.fixture
    def opener(self, tmp_path: Path, watch: StoreWatch) -> UploadsOpener:
        return lambda: watched_uploads(watch, upload_store(tmp_path / "uploads.sqlite3"))


async def test_boards_and_leases(tmp_path: Path, watch: StoreWatch) -> None:
    async with watched_boards(watch, board_store(tmp_path / "boards.sqlite3")) as boards:
        assert boards.backend == "boards.sqlite3"
        await boards.check()
        await boards.put("ABCD", b"one", 100.0)
        await boards.put("EFGH", b"two", 50.0)
        assert await boards.get("ABCD", 10.0) == b"one"
        await boards.delete("ABCD")
        with pytest.raises(NotFound):
            await boards.get("ABCD", 10.0)
        assert await boards.sweep(60.0, 1000) == 1
    async with watched_leases(watch, embedded_leases()) as leases:
        lease = await leases.acquire("sweep", 10.0)
        assert lease == Lease("sweep", 1)
        assert await leases.renew(lease, 10.0)
        await leases.release(lease)
        assert not await leases.renew(lease, 10.0)
    assert watch.is_up
    assert not any(watch.failures.values())


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OutOfReach("no answer", "Redis"), "unreachable"),
        (OutOfSpace("full"), "out_of_space"),
        (Damaged("short"), "damaged"),
        (StorageError("odd"), "other"),
    ],
)
def test_failures_are_counted_by_kind(error: StorageError, kind: str) -> None:
    watch = StoreWatch("records", "redis")
    with pytest.raises(StorageError), watch("get"):
        raise error
    assert {name: count for name, count in watch.failures.items() if count} == {kind: 1}
    assert watch.is_up == (kind != "unreachable")


@pytest.mark.parametrize(
    "error", [NotFound("x"), AlreadyExists("x"), Fenced("x"), WrongOffset("x", 3), KeyError("x")]
)
def test_what_a_store_says_by_an_error_is_no_failure(error: Exception) -> None:
    watch = StoreWatch("records", "redis")
    with pytest.raises(type(error)), watch("get"):
        raise error
    assert not any(watch.failures.values())


def test_a_store_is_up_again_once_it_answers() -> None:
    watch = StoreWatch("records", "redis")
    for answer in (None, NotFound("x")):
        with pytest.raises(OutOfReach), watch("get"):
            raise OutOfReach("no answer", "Redis")
        assert not watch.is_up
        # A fault of ours says nothing of the store.
        with pytest.raises(KeyError), watch("get"):
            raise KeyError
        assert not watch.is_up
        try:
            with watch("get"):
                if answer is not None:
                    raise answer
        except NotFound:
            pass
        assert watch.is_up


async def test_a_disk_that_fails(tmp_path: Path) -> None:
    watch = StoreWatch("content", "filesystem")
    folder = tmp_path / "files"
    async with watched_content(watch, content_store(folder)) as store:
        full = Disk(folder, errors={"write": errno.ENOSPC, "writev": errno.ENOSPC})
        with full.installed(), pytest.raises(OutOfSpace):
            await store_content(store, KEY, bytes(10_000_000))
        # One failure counts once, however many contexts it goes through.
        assert watch.failures["out_of_space"] == 1
        await store_content(store, KEY, b"abc")
        (path,) = [path for path in folder.rglob(KEY) if path.is_file()]
        path.write_bytes(b"a")
        async with store.open(KEY) as content:
            with pytest.raises(Damaged):
                async for _ in content.read(0, 3):
                    pass
    assert watch.failures["damaged"] == 1
    assert watch.failures["other"] == 0


async def test_what_another_store_says_in_the_block_is_not_this_ones(tmp_path: Path) -> None:
    watch = StoreWatch("content", "filesystem")
    async with watched_content(watch, content_store(tmp_path / "files")) as store:
        away = OutOfReach("no answer", "Redis")
        with pytest.raises(OutOfReach):
            async with store.create(KEY):
                raise away
    assert watch.is_up
    assert not any(watch.failures.values())


async def test_a_store_that_cannot_be_opened(tmp_path: Path) -> None:
    watch = StoreWatch("records", "sqlite")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        async with watched_metadata(watch, metadata_store(tmp_path / "file" / "files.sqlite3")):
            raise AssertionError("it was opened")
    assert watch.failures["other"] == 1


async def test_operations_are_traced(tmp_path: Path) -> None:
    spans = Spans()
    watch = StoreWatch("records", "sqlite", spans.trace)
    async with watched_metadata(watch, metadata_store(tmp_path / "files.sqlite3")) as store:
        await store.add(make_record())
        with pytest.raises(NotFound):
            await store.get("other")
        with pytest.raises(AlreadyExists):
            await store.add(make_record())
    assert spans.ended == [
        ("records", "sqlite", "connect", ""),
        ("records", "sqlite", "add", ""),
        # What a store says by an error is no error of the operation.
        ("records", "sqlite", "get", ""),
        ("records", "sqlite", "add", ""),
    ]
