"""Uploads that may be interrupted: one engine, whatever protocol the client speaks.

An upload is begun, written to by one writer at a time, and finished once it is whole; then it is a file like
any other. Whoever goes on with it, or asks how far it has come, fences the writer before off: a connection
that is dead without anybody having noticed never stands in the way.

- Begun: record → content. Ended: content → record. So all content there is has a record, and a crash between
  the two leaves a record that expires.
- A finished upload keeps its record until it expires, so that a client that lost the answer can ask again.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import attrs

from fawa.services.names import guess_type
from fawa.services.quotas import Quotas, QuotaSettings, Room
from fawa.services.sharing import Shared
from fawa.storage.base import (
    Fenced,
    FileRecord,
    MetadataStore,
    NotFound,
    ResumableStore,
    ResumableUpload,
    UploadRecord,
    UploadStore,
    is_key,
)
from fawa.storage.lifecycle import publish_kept, remove_all, settle

#: Bytes of randomness in a file's key (80 bits, 16 characters of a-z and 2-7), and in an upload's id.
_KEY_BYTES: Final = 10
_ID_BYTES: Final = 20

#: Expired uploads that one query returns.
_BATCH: Final = 100


class TooLong(Exception):  # noqa: N818 - said as it is
    """More bytes came than the upload, or any file, may have; those too many were not stored."""


class BeyondSize(TooLong):
    """It is the upload's own size that they exceed."""


class Ended(Fenced):
    """The upload is whole, or was just removed: ask for its `progress`."""


class Gone(NotFound):
    """The upload was whole, and its file is no more."""


class Incomplete(Exception):  # noqa: N818
    """The upload is said to be whole and is not."""


class Mismatch(Exception):  # noqa: N818
    """The content is not what its SHA-256 says: the upload was removed, and must be sent anew."""


def make_key() -> str:
    """Return an unguessable key for a file."""
    return _random(_KEY_BYTES)


def _random(count: int) -> str:
    return base64.b32encode(secrets.token_bytes(count)).decode().lower()


@attrs.frozen(kw_only=True)
class UploadLimits:
    """What holds for uploads."""

    #: Seconds an upload is kept after its last writer began or made progress.
    upload_ttl: float
    #: Seconds a file is kept after its upload is complete.
    ttl: float
    #: Bytes of the largest file that is taken; 0 is no limit.
    max_file_size: int


@attrs.frozen
class Progress:
    """How far an upload has come."""

    record: UploadRecord
    #: Bytes that are durable.
    offset: int
    #: The file that it has become, once it is whole.
    file: FileRecord | None


@attrs.define(eq=False)
class Writer:
    """The one that may write to an upload, until another fences it off."""

    record: UploadRecord
    _uploads: Uploads
    _upload: ResumableUpload
    _room: Room

    @property
    def offset(self) -> int:
        """Bytes of the upload, written ones that are not durable yet included."""
        return self._upload.offset

    @property
    def is_whole(self) -> bool:
        """Whether all bytes have come, as far as is known."""
        return self.offset == self.record.size

    async def write(self, data: bytes | memoryview) -> None:
        """Append bytes.

        Raises:
            Fenced: another writer has taken over.
            OverQuota: there is no room for them.
            StorageError: the store failed.
            TooLong: the upload cannot have so many.

        """
        end = self.offset + len(data)
        size, most = self.record.size, self._uploads.limits().max_file_size
        if size is not None and end > size:
            raise BeyondSize(f"the upload has {size} bytes, and at least {end} came")
        if 0 < most < end:
            raise TooLong(f"the largest file taken here has {most} bytes, and at least {end} came")
        await self._room.grow(end)
        await self._upload.write(data)
        await self._stay()

    async def sync(self) -> int:
        """Make what was written durable, and return how many bytes of the upload are."""
        return await self._upload.sync()

    async def rollback(self) -> None:
        """Take back what this writer has written."""
        await self._upload.rollback()

    async def declare_size(self, size: int) -> None:
        """Note the size of the whole content, which was not known until now.

        Raises:
            Incomplete: another size was told before, or more bytes are there.
            OverQuota: there is no room for so many.

        """
        if self.record.size is None and size >= self.offset:
            await self._room.announce(size)
            await self._uploads.records.set_size(self.record.id, size)
            self.record = attrs.evolve(self.record, size=size)
        elif self.record.size != size:
            was = "unknown" if self.record.size is None else self.record.size
            text = f"the size cannot be {size} bytes: it was {was}, and {self.offset} bytes are there"
            raise Incomplete(text)

    async def finish(self, sha256: bytes | None = None) -> FileRecord:
        """Make the upload a file; returns once that is durable and served.

        Args:
            sha256: what the whole content must have, beside what was told at its beginning.

        Raises:
            Fenced: another writer has taken over.
            Incomplete: bytes are missing.
            Mismatch: the content has another SHA-256.
            StorageError: the store failed; the upload is kept.

        """
        record, uploads = self.record, self._uploads
        if record.size is not None and self.offset != record.size:
            raise Incomplete(f"the upload has {record.size} bytes, but only {self.offset} came")
        digest = await self._upload.digest()
        for expected in (sha256, record.sha256):
            if expected is not None and expected != digest:
                await uploads.remove(record)
                raise Mismatch(
                    f"what came has the SHA-256 {digest.hex()}, not {expected.hex()}: send the file again"
                )
        now = uploads.clock()
        file = FileRecord(
            key=record.key,
            name=record.name,
            size=self.offset,
            content_type=record.content_type,
            sha256=digest,
            created=now,
            expires=now + (record.ttl or uploads.limits().ttl),
            terms=record.terms,
        )
        await publish_kept(uploads.content, uploads.metadata, self._upload, file)
        return file

    async def _stay(self) -> None:
        """Move the expiry while there is progress, a few times in an upload's time to live."""
        uploads = self._uploads
        now, ttl = uploads.clock(), uploads.limits().upload_ttl
        if self.record.expires - now < ttl * 3 / 4:
            await uploads.records.extend(self.record.id, now + ttl)
            self.record = attrs.evolve(self.record, expires=now + ttl)


@attrs.define(eq=False)
class Uploads:
    """All uploads over their stores."""

    content: ResumableStore
    metadata: MetadataStore
    records: UploadStore
    #: Asked each time, so that settings can change under it.
    limits: Callable[[], UploadLimits]
    #: The time in Unix seconds.
    clock: Callable[[], float]
    quotas: Quotas = attrs.field()

    @quotas.default
    def _no_quotas(self) -> Quotas:
        return Quotas(self.content, self.metadata, QuotaSettings, self.clock)

    async def start(
        self,
        name: str,
        size: int | None,
        shared: Shared,
        *,
        sha256: bytes | None = None,
        metadata: str = "",
        address: str | None = None,
    ) -> UploadRecord:
        """Begin an upload; name, size and digest have been checked, `address` is whom it is counted for.

        Raises:
            OverQuota: there is no room for it.
            StorageError: a store failed.
            TooLong: no file of that size is taken.

        """
        limits = self.limits()
        if size is not None and 0 < limits.max_file_size < size:
            raise TooLong(f"the file has {size} bytes, the largest taken here has {limits.max_file_size}")
        now = self.clock()
        record = UploadRecord(
            id=_random(_ID_BYTES),
            key=make_key(),
            name=name,
            size=size,
            content_type=guess_type(name),
            created=now,
            expires=now + limits.upload_ttl,
            sha256=sha256,
            metadata=metadata,
            ttl=shared.ttl,
            terms=shared.terms,
        )
        async with self.quotas.room(record.key, size, address, self._room_lasts()):
            await self.records.add(record)
            await self.content.begin(record.key)
        return record

    async def progress(self, upload_id: str) -> Progress:
        """Return how far an upload has come; its writer is fenced off, so that the answer holds.

        Raises:
            Gone: it was whole, and the file has expired since.
            NotFound: there is no such upload, or it has expired.
            StorageError: a store failed.

        """
        record = await self._claim(upload_id)
        try:
            async with self.content.resume(record.key, record.epoch) as upload:
                offset = await upload.sync()
                await self.quotas.keep(record.key, record.size or offset, self._room_lasts())
                return Progress(record, offset, None)
        except NotFound:
            file = await self._file(record)
            return Progress(record, file.size, file)

    @asynccontextmanager
    async def resume(self, upload_id: str, offset: int, address: str | None = None) -> AsyncIterator[Writer]:
        """Become the writer of an upload, at the end of what is stored; what is written stays.

        What comes beyond the size told at the beginning is counted for `address`.

        Raises:
            Ended: it is whole, or was just removed.
            Fenced: another writer was faster: ask for the `progress`.
            NotFound: there is no such upload, or it has expired.
            OverQuota: there is no room for the rest of it.
            StorageError: a store failed.
            WrongOffset: something else is stored than `offset` bytes; the writer before goes on.

        """
        record = await self._claim(upload_id)
        async with AsyncExitStack() as stack:
            try:
                upload = await stack.enter_async_context(
                    self.content.resume(record.key, record.epoch, offset)
                )
            except NotFound as error:
                raise Ended(f"the upload of {record.key} is whole, or just removed") from error
            going_on = self.quotas.going_on(record.key, record.size, offset, address, self._room_lasts())
            yield Writer(record, self, upload, await stack.enter_async_context(going_on))

    async def cancel(self, upload_id: str) -> None:
        """Remove an upload; a file that it has become stays, but nobody can ask for it by the upload.

        Raises:
            NotFound: there is none.
            StorageError: a store failed.

        """
        await self.remove(await self._claim(upload_id))

    async def remove(self, record: UploadRecord) -> None:
        """Remove an upload, its writer included."""
        await self.content.discard(record.key)
        await self.quotas.free(record.key)
        await self.records.delete(record.id)

    async def sweep(self) -> int:
        """Remove uploads that have expired, and return how many.

        Raises:
            StorageError: some could not be removed; the others were.

        """
        return await remove_all(lambda: self.records.expired(self.clock(), _BATCH), self.remove)

    async def repair(self) -> int:
        """Remove content without a record, which no crash of ours leaves, and return how much there was."""
        removed = 0
        # Content before records: whatever content another process adds meanwhile, its record is older.
        for key in [key async for key in self.content.unfinished()]:
            if not await self.records.has_key(key):
                await self.content.discard(key)
                removed += 1
        return removed

    def _room_lasts(self) -> float:
        """Return for how many seconds room is held: whoever asks for the progress moves the expiry, too."""
        return 2 * self.limits().upload_ttl

    async def _claim(self, upload_id: str) -> UploadRecord:
        if not is_key(upload_id):
            raise NotFound("there is no upload of this id")
        now = self.clock()
        return await self.records.claim(upload_id, now, now + self.limits().upload_ttl)

    async def _file(self, record: UploadRecord) -> FileRecord:
        try:
            return await settle(self.content, self.metadata, record.key, self.clock())
        except NotFound:
            raise Gone("the upload is no more: its file has expired, or it was cancelled") from None
