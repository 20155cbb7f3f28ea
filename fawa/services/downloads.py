"""Downloads: opened, counted when they are complete, and of a file with a limit no more than that."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from fawa.ops.logging import get_logger
from fawa.storage.base import Content, ContentStore, FileRecord, MetadataStore, StorageError
from fawa.storage.lifecycle import CLEANUP_TIMEOUT, find, open_file, remove

#: Seconds for which one of the last downloads is reserved, again and again while it goes on. As long is it
#: lost to others when a daemon dies.
RESERVED: Final = 60.0

_log = get_logger("fawa.services.downloads")


class AllTaken(Exception):  # noqa: N818 - said as it is
    """All downloads that a file has left are under way."""

    def __init__(self) -> None:
        super().__init__(
            "the file may not be downloaded as often as it is asked for, and the downloads that are left are "
            "under way: try again later, should one of them break off"
        )


@attrs.define(eq=False)
class Download:
    """A file that somebody gets."""

    record: FileRecord
    content: Content
    #: To be set once the last byte of the content has been sent.
    completed: bool = False


@attrs.frozen(eq=False)
class Downloads:
    """Opens files for those who get them."""

    content: ContentStore
    metadata: MetadataStore
    #: The time in Unix seconds.
    clock: Callable[[], float]

    async def find(self, key: str) -> FileRecord:
        """Return the record of a file that may be downloaded.

        Raises:
            NotFound: there is none.

        """
        return await find(self.metadata, key, self.clock())

    @asynccontextmanager
    async def open(self, record: FileRecord) -> AsyncIterator[Download]:
        """Open a file that was just found; a download that the block marks as completed is counted.

        Raises:
            AllTaken: see there.
            NotFound: the file is no more.
            StorageError: a store failed.

        """
        async with open_file(self.content, record) as content:
            download = Download(record, content)
            if record.terms.max_downloads:
                async with self._reserved(download):
                    yield download
            else:
                yield download
        if download.completed and not record.terms.max_downloads:
            try:
                await self.metadata.count_download(record.key)
            except StorageError as error:
                _log.warning("a download was not counted", key=record.key, error=str(error))

    @asynccontextmanager
    async def _reserved(self, download: Download) -> AsyncIterator[None]:
        key, token = download.record.key, secrets.token_hex(8)
        if not await self._reserve(download.record, token):
            await self.find(key)  # raises, where there are none left
            raise AllTaken
        failure: Exception | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep, download.record, token)
                try:
                    yield
                except Exception as error:  # told below, as it came: not in the nursery's group
                    failure = error
                nursery.cancel_scope.cancel()
        finally:
            with trio.move_on_after(CLEANUP_TIMEOUT, shield=True):
                await self._give_back(download, token)
        if failure is not None:
            raise failure

    async def _reserve(self, record: FileRecord, token: str) -> bool:
        now = self.clock()
        return await self.metadata.reserve(record.key, token, record.terms.max_downloads, now, now + RESERVED)

    async def _keep(self, record: FileRecord, token: str) -> None:
        """Reserve a slow download again and again."""
        while True:
            await trio.sleep(RESERVED / 3)
            try:
                await self._reserve(record, token)
            except StorageError as error:
                _log.debug("a download's reservation was not renewed", key=record.key, error=str(error))

    async def _give_back(self, download: Download, token: str) -> None:
        key, most = download.record.key, download.record.terms.max_downloads
        try:
            completed = await self.metadata.release(key, token, completed=download.completed)
            if download.completed and completed >= most:
                await remove(self.content, self.metadata, key)
        except StorageError as error:
            _log.warning("a download was not counted, or its file not removed", key=key, error=str(error))
