"""A file's life across the two stores: published, found, expired, repaired.

One rule keeps them in step: **a record is there before its content and stays until after it.**

- Published: record as `UPLOADING` → content committed → record `READY` → success is answered. A crash
  between leaves a record that is not served, with whole content or none.
- Expired: content deleted → record deleted. A crash between leaves a record that is expired, so not
  served, and next in line at the next expiry.

An upload that may be interrupted is published in the same order, only that a failure takes nothing back that
the next attempt can use: `publish_kept`, `settle`.

So whatever is stored is recorded, every file is listed for its expiry from before it exists, and only whole
files are served. `repair` finishes at start what a crash left half done; it may run while other processes
use the same stores.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeVar

import attrs
import trio

from fawa.storage.base import (
    AlreadyExists,
    Content,
    ContentStore,
    Damaged,
    FileRecord,
    MetadataStore,
    NotFound,
    ResumableUpload,
    State,
    StorageError,
    Upload,
)

#: Seconds to take back what a failed or cancelled upload has stored; what is left after is left to expiry.
CLEANUP_TIMEOUT: Final = 10.0

Item = TypeVar("Item")

#: Files that one query for expired ones returns.
EXPIRY_BATCH: Final = 100


@attrs.frozen
class Repaired:
    """What `repair` found, as numbers of files."""

    #: Uploads broken off before their content was whole: removed.
    uncommitted: int
    #: Content without a record: removed.
    unrecorded: int
    #: Records of uploads without content: removed.
    empty: int
    #: Whole content whose record was not ready yet: made ready.
    finished: int
    #: Expired while nobody looked: removed.
    expired: int
    #: Files whose content is not in this store, lost or kept elsewhere: not served, left until they expire.
    elsewhere: int

    @property
    def total(self) -> int:
        """All that were put right."""
        return self.uncommitted + self.unrecorded + self.empty + self.finished + self.expired


async def publish(content: ContentStore, metadata: MetadataStore, upload: Upload, record: FileRecord) -> None:
    """Make an upload a file: when this returns, record and content are durable and served.

    When it raises or is cancelled, neither is there (or, if the stores cannot be reached any more, both
    go at `record.expires`).

    Raises:
        AlreadyExists: there is a file under `record.key`, which is left as it is.
        StorageError: a store failed, or the file expired meanwhile.

    """
    await metadata.add(attrs.evolve(record, state=State.UPLOADING))
    try:
        await upload.commit()
        try:
            await metadata.publish(record.key)
        except NotFound as error:
            raise StorageError(f"{record.key} expired or was repaired away while it was stored") from error
    except BaseException:
        # The error that brought us here is the one to tell.
        with trio.move_on_after(CLEANUP_TIMEOUT, shield=True), suppress(StorageError):
            await remove(content, metadata, record.key)
        raise


async def publish_kept(
    content: ContentStore, metadata: MetadataStore, upload: ResumableUpload, record: FileRecord
) -> None:
    """Make an upload that outlives its writer a file: when this returns, both are durable and served.

    When it raises or is cancelled, nothing is taken back: the upload is as it was, or it is whole and
    `settle` makes it a file. So a line that breaks while a long file reaches the disk costs nobody the file.

    Raises:
        Fenced: another writer has taken over.
        StorageError: a store failed.

    """
    waiting = attrs.evolve(record, state=State.UPLOADING)
    try:
        await metadata.add(waiting)
    except AlreadyExists:
        # An earlier attempt left it, and cannot commit any more if this is still the writer.
        await upload.sync()
        await metadata.delete(record.key)
        with suppress(AlreadyExists):
            await metadata.add(waiting)
    await upload.commit()
    try:
        await metadata.publish(record.key)
    except NotFound:
        # Another process started meanwhile, and its `repair` took the record for one without content.
        await metadata.add(record)


async def settle(content: ContentStore, metadata: MetadataStore, key: str, now: float) -> FileRecord:
    """Return the record of a file whose upload is committed, made ready if its writer did not come to that.

    Raises:
        NotFound: there is no such file, or it has expired.

    """
    record = await metadata.get(key)
    if record.state is State.UPLOADING and await _is_stored(content, key):
        await metadata.publish(key)
    return await find(metadata, key, now)


async def find(metadata: MetadataStore, key: str, now: float) -> FileRecord:
    """Return the record of a file that is ready, not expired, and not downloaded as often as it may be.

    Raises:
        NotFound: there is none.

    """
    record = await metadata.get(key)
    most = record.terms.max_downloads
    if record.state is not State.READY or record.expires <= now or 0 < most <= record.downloads:
        raise NotFound(f"the file under the key {key} is expired, used up or not ready")
    return record


@asynccontextmanager
async def open_file(content: ContentStore, record: FileRecord) -> AsyncIterator[Content]:
    """Open a file that `find` has just returned; it stays readable while open, even past its expiry.

    Raises:
        NotFound: it is no more.
        Damaged: its content has another size than recorded.

    """
    async with content.open(record.key) as opened:
        if opened.size != record.size:
            raise Damaged(
                f"the content under {record.key} has {opened.size} bytes, its record says {record.size}"
            )
        yield opened


async def expire(content: ContentStore, metadata: MetadataStore, now: float) -> int:
    """Remove the files that expire at or before `now`; return how many.

    Raises:
        StorageError: some could not be removed; the others were.

    """
    return await remove_all(
        lambda: metadata.expired(now, EXPIRY_BATCH), lambda key: remove(content, metadata, key)
    )


async def remove_all(
    due: Callable[[], Awaitable[Sequence[Item]]], remove_one: Callable[[Item], Awaitable[None]]
) -> int:
    """Remove what is due, a batch at a time, until nothing is or nothing of it goes; return how much did.

    Raises:
        StorageError: some could not be removed; the others were.

    """
    removed = 0
    failure: StorageError | None = None
    while items := await due():
        before = removed
        for item in items:
            try:
                await remove_one(item)
            except StorageError as error:
                failure = error
            else:
                removed += 1
        if removed == before:
            break
    if failure is not None:
        raise failure
    return removed


async def repair(content: ContentStore, metadata: MetadataStore, now: float) -> Repaired:
    """Finish what a crash left half done, and expire what is due; run before anything is served.

    Afterwards the two stores hold the same keys, all `READY`, but for files whose content has been taken
    away: no crash does that, but an operator who keeps content in another place from now on, perhaps by
    mistake. Their records stay until they expire, so that all is well when the place is set back in time.
    """
    uncommitted = await content.sweep_uncommitted()
    # Content before records: whatever content another process adds meanwhile, its record is older.
    stored = {key async for key in content.keys()}  # noqa: SIM118 - stores are no dicts
    recorded = {key async for key in metadata.keys()}  # noqa: SIM118
    unfinished = {key async for key in metadata.keys(State.UPLOADING)}
    unrecorded = stored - recorded
    for key in unrecorded:
        await content.delete(key)
    expired = await expire(content, metadata, now)
    empty = elsewhere = 0
    for key in recorded - stored:
        if await _is_stored(content, key):
            continue
        try:
            record = await metadata.get(key)
        except NotFound:
            continue
        if record.state is State.READY:
            elsewhere += 1
        else:
            # If this is an upload of another process, just before its commit, then its `publish` fails
            # and takes the content back: nobody is told of a file that is not there.
            await metadata.delete(key)
            empty += 1
    finished = 0
    for key in unfinished & stored:
        with suppress(NotFound):
            await metadata.publish(key)
            finished += 1
    return Repaired(
        uncommitted=uncommitted,
        unrecorded=len(unrecorded),
        empty=empty,
        finished=finished,
        expired=expired,
        elsewhere=elsewhere,
    )


async def remove(content: ContentStore, metadata: MetadataStore, key: str) -> None:
    """Remove a file; does nothing when there is none. Who has it open finishes.

    Raises:
        StorageError: a store failed; what is left goes when the file expires.

    """
    await content.delete(key)
    await metadata.delete(key)


async def _is_stored(content: ContentStore, key: str) -> bool:
    try:
        async with content.open(key):
            return True
    except NotFound:
        return False
