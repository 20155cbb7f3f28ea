"""A metadata store around another, to look or fail between its steps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from fawa.storage.base import FileRecord, MetadataStore, State


class WrappedMetadata:
    """Calls `step` before and after each change of the store inside."""

    def __init__(self, inner: MetadataStore, step: Callable[[], None]) -> None:
        self._inner = inner
        self._step = step

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

    async def expired(self, now: float, limit: int) -> list[str]:
        return await self._inner.expired(now, limit)

    def keys(self, state: State | None = None) -> AsyncIterator[str]:
        return self._inner.keys(state)
