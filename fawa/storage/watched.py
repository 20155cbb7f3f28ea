"""Stores that are watched (`watching`): each wrapper does what the store inside does."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, BinaryIO, Generic, TypeVar

from fawa.storage.base import (
    BoardStore,
    Content,
    ContentStore,
    Dependency,
    FileRecord,
    MetadataStore,
    OnDisk,
    ResumableStore,
    ResumableUpload,
    State,
    StorageError,
    Upload,
    UploadRecord,
    UploadStore,
)
from fawa.storage.leases import Lease, Leases
from fawa.storage.watching import Opening, StoreWatch, seen

Store = TypeVar("Store", bound=Dependency)


def watched_content(
    watch: StoreWatch, store: AbstractAsyncContextManager[ContentStore]
) -> AbstractAsyncContextManager[ContentStore]:
    """Open a content store; it can keep interrupted uploads if the one inside can."""

    def wrap(store: ContentStore, watch: StoreWatch) -> ContentStore:
        if isinstance(store, ResumableStore):
            return (WatchedOnDisk if isinstance(store, OnDisk) else WatchedResumable)(store, watch)
        return WatchedContent(store, watch)

    return Opening(watch, "connect", store, wrap)


def watched_metadata(
    watch: StoreWatch, store: AbstractAsyncContextManager[MetadataStore]
) -> AbstractAsyncContextManager[MetadataStore]:
    """Open a store of files' records."""
    return Opening(watch, "connect", store, WatchedMetadata)


def watched_uploads(
    watch: StoreWatch, store: AbstractAsyncContextManager[UploadStore]
) -> AbstractAsyncContextManager[UploadStore]:
    """Open a store of uploads' records."""
    return Opening(watch, "connect", store, WatchedUploads)


def watched_boards(
    watch: StoreWatch, store: AbstractAsyncContextManager[BoardStore]
) -> AbstractAsyncContextManager[BoardStore]:
    """Open a store of boards' copies."""
    return Opening(watch, "connect", store, WatchedBoards)


def watched_leases(
    watch: StoreWatch, store: AbstractAsyncContextManager[Leases]
) -> AbstractAsyncContextManager[Leases]:
    """Open leases."""
    return Opening(watch, "connect", store, WatchedLeases)


class _WatchedUpload:
    """Content on its way in."""

    def __init__(self, upload: Upload, watch: StoreWatch) -> None:
        self._upload = upload
        self._watch = watch

    async def write(self, data: bytes | memoryview) -> None:
        with self._watch:  # one of very many: counted when it fails, not traced
            await self._upload.write(data)

    async def digest(self) -> bytes:
        with self._watch("digest"):
            return await self._upload.digest()

    async def commit(self) -> None:
        with self._watch("commit"):
            await self._upload.commit()


class _WatchedResumableUpload(_WatchedUpload):
    """The same of an upload that outlives its writer."""

    _upload: ResumableUpload

    def __init__(self, upload: ResumableUpload, watch: StoreWatch) -> None:
        super().__init__(upload, watch)

    @property
    def offset(self) -> int:
        return self._upload.offset

    async def sync(self) -> int:
        with self._watch("sync"):
            return await self._upload.sync()

    async def rollback(self) -> None:
        with self._watch("rollback"):
            await self._upload.rollback()


class _WatchedFile:
    """Content that is open for reading."""

    def __init__(self, content: Content, watch: StoreWatch) -> None:
        self._content = content
        self._watch = watch
        self.size: int = content.size
        self.file: BinaryIO | None = content.file

    async def read(self, offset: int, count: int) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._content.read(offset, count)) as pieces:
            try:
                async for piece in pieces:
                    yield piece  # noqa: ASYNC119 - whoever stops early closes it, says the interface
            except StorageError as error:
                self._watch.note(error)
                raise


class WatchedContent:
    """A content store."""

    def __init__(self, store: ContentStore, watch: StoreWatch) -> None:
        self._store = store
        self._watch = watch

    @property
    def checks(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """What must be there for the store to work."""
        return {name: self._checked(check) for name, check in self._store.checks.items()}

    def _checked(self, check: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        async def checked() -> None:
            with self._watch:
                await check()

        return checked

    async def claim(self, owner: str, knows: Callable[[str], Awaitable[bool]]) -> None:
        """Note with whose records the content goes."""
        theirs: list[StorageError] = []

        async def ask(key: str) -> bool:
            try:
                return await knows(key)
            except StorageError as error:  # the records', not ours
                theirs.append(error)
                raise

        try:
            await self._store.claim(owner, ask)
        except StorageError as error:
            if error not in theirs:
                self._watch.note(error)
            raise

    def create(self, key: str) -> AbstractAsyncContextManager[Upload]:
        """Begin an upload."""
        return Opening(self._watch, "create", self._store.create(key), _WatchedUpload)

    def open(self, key: str) -> AbstractAsyncContextManager[Content]:
        """Open committed content."""
        return Opening(self._watch, "open", self._store.open(key), _WatchedFile)

    def link(self, key: str, headers: Mapping[str, str], now: float, seconds: int) -> str | None:
        """Return a link to the backend itself."""
        return self._store.link(key, headers, now, seconds)

    async def delete(self, key: str) -> None:
        """Remove the content."""
        with self._watch("delete"):
            await self._store.delete(key)

    def keys(self) -> AsyncIterator[str]:
        """Iterate over the keys of committed content."""
        return seen(self._watch, self._store.keys())

    async def sweep_uncommitted(self) -> int:
        """Remove what interrupted uploads left behind."""
        with self._watch("sweep"):
            return await self._store.sweep_uncommitted()


class WatchedResumable(WatchedContent):
    """A content store whose uploads can go on after an interruption."""

    _store: ResumableStore

    def __init__(self, store: ResumableStore, watch: StoreWatch) -> None:
        super().__init__(store, watch)

    async def begin(self, key: str) -> None:
        """Begin an upload with no bytes."""
        with self._watch("begin"):
            await self._store.begin(key)

    def resume(
        self, key: str, epoch: int, offset: int | None = None
    ) -> AbstractAsyncContextManager[ResumableUpload]:
        """Become the writer of an upload."""
        inner = self._store.resume(key, epoch, offset)
        return Opening(self._watch, "resume", inner, _WatchedResumableUpload)

    async def discard(self, key: str) -> None:
        """Remove an upload."""
        with self._watch("discard"):
            await self._store.discard(key)

    def unfinished(self) -> AsyncIterator[str]:
        """Iterate over the keys of uploads."""
        return seen(self._watch, self._store.unfinished())


class WatchedOnDisk(WatchedResumable):
    """The same on a disk of this machine."""

    async def free_space(self) -> int:
        """Return how many bytes more the disk takes."""
        with self._watch("free_space"):
            store: Any = self._store  # which `watched_content` has looked at
            return int(await store.free_space())


class _WatchedDependency(Generic[Store]):
    """A store that is asked whether it answers."""

    def __init__(self, store: Store, watch: StoreWatch) -> None:
        self._store = store
        self._watch = watch

    @property
    def backend(self) -> str:
        """What it is, for the operator."""
        return self._store.backend

    async def check(self) -> None:
        """Return when it answers."""
        with self._watch:
            await self._store.check()


class WatchedMetadata(_WatchedDependency[MetadataStore]):
    """A store of files' records."""

    async def identity(self) -> str:
        """Return what tells these records from all others."""
        with self._watch("identity"):
            return await self._store.identity()

    async def add(self, record: FileRecord) -> None:
        """Store a new record."""
        with self._watch("add"):
            await self._store.add(record)

    async def publish(self, key: str) -> None:
        """Make the record `READY`."""
        with self._watch("publish"):
            await self._store.publish(key)

    async def get(self, key: str) -> FileRecord:
        """Return the record."""
        with self._watch("get"):
            return await self._store.get(key)

    async def delete(self, key: str) -> None:
        """Remove the record."""
        with self._watch("delete"):
            await self._store.delete(key)

    async def count_download(self, key: str) -> None:
        """Add one to the record's downloads."""
        with self._watch("count_download"):
            await self._store.count_download(key)

    async def reserve(self, key: str, token: str, most: int, now: float, until: float) -> bool:
        """Reserve one of `most` downloads."""
        with self._watch("reserve"):
            return await self._store.reserve(key, token, most, now, until)

    async def release(self, key: str, token: str, *, completed: bool) -> int:
        """Give a reservation back."""
        with self._watch("release"):
            return await self._store.release(key, token, completed=completed)

    async def hold_room(self, key: str, size: int, most: int, now: float, until: float) -> int:
        """Hold room for a file to come."""
        with self._watch("hold_room"):
            return await self._store.hold_room(key, size, most, now, until)

    async def free_room(self, key: str) -> None:
        """Give room back."""
        with self._watch("free_room"):
            await self._store.free_room(key)

    async def room_taken(self, now: float) -> int:
        """Return the bytes of all files."""
        with self._watch("room_taken"):
            return await self._store.room_taken(now)

    async def expired(self, now: float, limit: int) -> list[str]:
        """Return keys whose records have expired."""
        with self._watch("expired"):
            return await self._store.expired(now, limit)

    def keys(self, state: State | None = None) -> AsyncIterator[str]:
        """Iterate over all keys."""
        return seen(self._watch, self._store.keys(state))


class WatchedUploads(_WatchedDependency[UploadStore]):
    """A store of uploads' records."""

    async def add(self, record: UploadRecord) -> None:
        """Store a new record."""
        with self._watch("add"):
            await self._store.add(record)

    async def get(self, upload_id: str) -> UploadRecord:
        """Return the record."""
        with self._watch("get"):
            return await self._store.get(upload_id)

    async def claim(self, upload_id: str, now: float, expires: float) -> UploadRecord:
        """Add one to the epoch."""
        with self._watch("claim"):
            return await self._store.claim(upload_id, now, expires)

    async def extend(self, upload_id: str, expires: float) -> None:
        """Move the expiry."""
        with self._watch("extend"):
            await self._store.extend(upload_id, expires)

    async def set_size(self, upload_id: str, size: int) -> None:
        """Note the size."""
        with self._watch("set_size"):
            await self._store.set_size(upload_id, size)

    async def delete(self, upload_id: str) -> None:
        """Remove the record."""
        with self._watch("delete"):
            await self._store.delete(upload_id)

    async def expired(self, now: float, limit: int) -> list[UploadRecord]:
        """Return records that have expired."""
        with self._watch("expired"):
            return await self._store.expired(now, limit)

    async def has_key(self, key: str) -> bool:
        """Tell whether there is an upload that becomes that file."""
        with self._watch("has_key"):
            return await self._store.has_key(key)


class WatchedBoards(_WatchedDependency[BoardStore]):
    """A store of boards' copies."""

    async def put(self, code: str, saved: bytes, expires: float) -> None:
        """Store a copy."""
        with self._watch("put"):
            await self._store.put(code, saved, expires)

    async def get(self, code: str, now: float) -> bytes:
        """Return the copy."""
        with self._watch("get"):
            return await self._store.get(code, now)

    async def delete(self, code: str) -> None:
        """Remove the copy."""
        with self._watch("delete"):
            await self._store.delete(code)

    async def sweep(self, now: float, most: int) -> int:
        """Remove copies that have expired, and more until `most` bytes remain."""
        with self._watch("sweep"):
            return await self._store.sweep(now, most)


class WatchedLeases:
    """Leases."""

    def __init__(self, leases: Leases, watch: StoreWatch) -> None:
        self._leases = leases
        self._watch = watch

    async def acquire(self, name: str, ttl: float) -> Lease | None:
        """Return the lease."""
        with self._watch("acquire"):
            return await self._leases.acquire(name, ttl)

    async def renew(self, lease: Lease, ttl: float) -> bool:
        """Keep the lease."""
        with self._watch("renew"):
            return await self._leases.renew(lease, ttl)

    async def release(self, lease: Lease) -> None:
        """Let others have it."""
        with self._watch("release"):
            await self._leases.release(lease)
