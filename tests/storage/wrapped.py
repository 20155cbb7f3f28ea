"""Stores around others, to look or fail between their steps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from fawa.storage.base import FileRecord, MetadataStore, State, UploadRecord, UploadStore


class WrappedMetadata:
    """Calls `step` before and after each change of the store inside."""

    def __init__(self, inner: MetadataStore, step: Callable[[], None]) -> None:
        self._inner = inner
        self._step = step

    @property
    def backend(self) -> str:
        return self._inner.backend

    async def check(self) -> None:
        await self._inner.check()

    async def identity(self) -> str:
        return await self._inner.identity()

    async def add(self, record: FileRecord) -> None:
        self._step()
        await self._inner.add(record)
        self._step()

    async def publish(self, key: str) -> None:
        self._step()
        await self._inner.publish(key)
        self._step()

    async def get(self, key: str) -> FileRecord:
        return await self._inner.get(key)

    async def delete(self, key: str) -> None:
        self._step()
        await self._inner.delete(key)
        self._step()

    async def count_download(self, key: str) -> None:
        self._step()
        await self._inner.count_download(key)
        self._step()

    async def reserve(self, key: str, token: str, most: int, now: float, until: float) -> bool:
        self._step()
        return await self._inner.reserve(key, token, most, now, until)

    async def release(self, key: str, token: str, *, completed: bool) -> int:
        self._step()
        return await self._inner.release(key, token, completed=completed)

    async def hold_room(self, key: str, size: int, most: int, now: float, until: float) -> int:
        self._step()
        return await self._inner.hold_room(key, size, most, now, until)

    async def free_room(self, key: str) -> None:
        self._step()
        await self._inner.free_room(key)

    async def room_taken(self, now: float) -> int:
        return await self._inner.room_taken(now)

    async def expired(self, now: float, limit: int) -> list[str]:
        return await self._inner.expired(now, limit)

    def keys(self, state: State | None = None) -> AsyncIterator[str]:
        return self._inner.keys(state)


class WrappedUploads:
    """The same around a store of uploads' records."""

    def __init__(self, inner: UploadStore, step: Callable[[], None]) -> None:
        self._inner = inner
        self._step = step

    @property
    def backend(self) -> str:
        return self._inner.backend

    async def check(self) -> None:
        await self._inner.check()

    async def add(self, record: UploadRecord) -> None:
        self._step()
        await self._inner.add(record)
        self._step()

    async def get(self, upload_id: str) -> UploadRecord:
        return await self._inner.get(upload_id)

    async def claim(self, upload_id: str, now: float, expires: float) -> UploadRecord:
        self._step()
        record = await self._inner.claim(upload_id, now, expires)
        self._step()
        return record

    async def extend(self, upload_id: str, expires: float) -> None:
        self._step()
        await self._inner.extend(upload_id, expires)
        self._step()

    async def set_size(self, upload_id: str, size: int) -> None:
        self._step()
        await self._inner.set_size(upload_id, size)
        self._step()

    async def delete(self, upload_id: str) -> None:
        self._step()
        await self._inner.delete(upload_id)
        self._step()

    async def expired(self, now: float, limit: int) -> list[UploadRecord]:
        return await self._inner.expired(now, limit)

    async def has_key(self, key: str) -> bool:
        return await self._inner.has_key(key)
