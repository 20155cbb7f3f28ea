"""Content in an S3 bucket: one object a key, under a prefix of our own.

    <prefix><key>                 committed content; its metadata `fawa-upload` names the upload that made it
    <prefix>.owner                the identity of the records that the content goes with
    <prefix>.resumable/<key>/…    what there is of an upload that may go on: see `s3_shelf`, `s3_resumable`

A small file is put at once, a larger one as a multipart upload: parts leave while further ones come in, and
the object appears, whole, when the upload is completed. Nothing is visible before.

**No overwriting.** Commits carry `If-None-Match: *`, which AWS, MinIO and others honour for both kinds of
upload; others only for one or for none. So a commit also looks first, and commits of one process under one
key follow one another. What remains: two *processes* that commit under one key within the same moment, on a
service that does not honour the condition. Keys are 80 random bits, so nobody does.

**Owner.** Content without a record is removed when a daemon starts, so all below a prefix goes with one set
of records. Whoever comes first writes their identity there, if nothing else is below the prefix, or they
know what is; whoever comes with other records does not start.

**Reading.** An open object is asked for with `If-Match`, so that a reader never gets parts of two. A read
that breaks off goes on where it was. Of an object that is deleted meanwhile, a reader gets what the service
has begun to send.

**Memory.** At most 32 MiB an upload, with the usual size of parts: up to 24 MiB on their way, and the part of
8 MiB that is being gathered (beyond 8 GiB, 40: parts of 16 MiB); the caller waits meanwhile. All uploads
together have at most 16 parts on their way, and each the one being gathered.

**Left behind.** An upload aborts its multipart upload when it ends without a commit. What a process that was
killed has left is aborted by `sweep_uncommitted` and once an hour, when no part has come for `abort_after`
seconds by the service's own clock: other processes' uploads live as long as they go on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final
from xml.etree import ElementTree

import trio

from fawa.ops.logging import get_logger
from fawa.storage.base import AlreadyExists, NotFound, StorageError, check_key, is_key
from fawa.storage.s3_client import Answer, S3Client, S3Settings, connect
from fawa.storage.s3_objects import CONTINUED, PAGE, S3Content, open_object, pages
from fawa.storage.s3_resumable import Hashes, S3ResumableUpload, begin, resume
from fawa.storage.s3_shelf import Shelf, unfinished
from fawa.storage.s3_upload import S3Upload, Uploads

__all__ = ["S3Settings", "S3Store", "content_store"]

#: What says whose the content is; no key has a dot.
OWNER: Final = ".owner"

#: Seconds between two sweeps.
SWEEP_INTERVAL: Final = 3600.0

_log = get_logger("fawa.storage.s3")


class S3Store:
    """A bucket; made by `content_store`."""

    def __init__(self, client: S3Client, nursery: trio.Nursery) -> None:
        self._client = client
        self._settings = client.settings
        self._uploads = Uploads(client, nursery)
        self._hashes = Hashes()

    @property
    def parts_on_their_way(self) -> int:
        """Of all uploads together."""
        return self._uploads.limiter.borrowed_tokens

    async def prepare(self) -> None:
        """Make the bucket where it is missing, and see that it can be used."""
        try:
            await self._client.request("keep files", "HEAD")
        except NotFound:
            region = self._settings.credentials.region
            root = ElementTree.Element("CreateBucketConfiguration")
            ElementTree.SubElement(root, "LocationConstraint").text = region
            # The first region of all has no name there.
            body = b"" if region == "us-east-1" else ElementTree.tostring(root)
            # Another process may have made it meanwhile.
            with suppress(AlreadyExists):
                await self._client.request("make the bucket and keep files", "PUT", body=body)

    @property
    def checks(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Ask for the bucket."""
        return {"s3": self._check}

    async def _check(self) -> None:
        await self._client.request("use files", "HEAD", tries=1)

    async def claim(self, owner: str, knows: Callable[[str], Awaitable[bool]]) -> None:
        """Write down whose the prefix is, if nobody has; see `base.ContentStore.claim`."""
        found = await self._owner()
        if found is None:
            await self._check_unclaimed(knows)
            # Where the condition is not honoured, of two that come at once the later one is the owner.
            with suppress(AlreadyExists):
                await self._client.request(
                    "say whose the files are",
                    "PUT",
                    OWNER,
                    headers={"content-type": "text/plain", "if-none-match": "*"},
                    body=owner.encode(),
                )
            found = await self._owner()
        if found != owner:
            raise StorageError(
                f"{self._below} is the content of other records ({found}) than ours ({owner}), and of two "
                "fawads each would remove the other's files. Set another s3.prefix, or let both keep their "
                "records in one Redis; if the other records are gone for good, remove what is there."
            )

    async def _owner(self) -> str | None:
        try:
            answer = await self._client.request("see whose the files are", "GET", OWNER)
        except NotFound:
            return None
        return answer.body[:64].decode(errors="replace")

    async def _check_unclaimed(self, knows: Callable[[str], Awaitable[bool]]) -> None:
        query = {"list-type": "2", "max-keys": "1", "prefix": self._settings.prefix}
        answer = await self._client.request("list content", "GET", query=query)
        name = answer.xml().findtext("Contents/Key")
        if name and not await knows(name.removeprefix(self._settings.prefix)):
            raise StorageError(
                f"{self._below} are objects that no fawad has put there, such as {name}, and it would remove "
                "what it does not know. Set another s3.prefix, or remove them."
            )

    @property
    def _below(self) -> str:
        where = self._settings
        return f"below {where.prefix} in the bucket {where.bucket} at {where.endpoint}"

    @asynccontextmanager
    async def create(self, key: str) -> AsyncIterator[S3Upload]:
        """Begin an upload; see `base.ContentStore.create`."""
        upload = S3Upload(self._uploads, check_key(key))
        try:
            yield upload
        finally:
            await upload.end()  # noqa: ASYNC102 - which has a deadline of its own

    @asynccontextmanager
    async def open(self, key: str) -> AsyncIterator[S3Content]:
        """Open committed content; see `base.ContentStore.open`."""
        yield await open_object(self._client, check_key(key))

    async def delete(self, key: str) -> None:
        """Remove the content; see `base.ContentStore.delete`."""
        with suppress(NotFound):
            await self._client.request("delete content", "DELETE", check_key(key))

    async def keys(self) -> AsyncIterator[str]:
        """Iterate over the keys of committed content; objects that are not ours are passed over."""
        query = {"list-type": "2", "max-keys": str(PAGE), "prefix": self._settings.prefix}
        async for _, page in pages(self._client, "list content", "", query, CONTINUED):
            for element in page.iterfind("Contents/Key"):
                key = (element.text or "").removeprefix(self._settings.prefix)
                if is_key(key):
                    yield key

    def link(self, key: str, headers: Mapping[str, str], now: float, seconds: int) -> str | None:
        """Return a link to the service itself; see `base.ContentStore.link`."""
        answered = {f"response-{name}": value for name, value in headers.items()}
        return self._client.link(check_key(key), answered, now, seconds)

    async def sweep_uncommitted(self) -> int:
        """Abort the uploads of dead processes: those without a new part for `abort_after` seconds."""
        query = {"uploads": "", "max-uploads": str(PAGE), "prefix": self._settings.prefix}
        markers = {"key-marker": "KeyMarker", "upload-id-marker": "UploadIdMarker"}
        dead: list[tuple[str, str]] = []
        with suppress(NotFound):  # as rclone puts it that there are none
            async for answer, page in pages(self._client, "list uploads", "", query, markers):
                now = _date(answer)
                for element in page.iterfind("Upload"):
                    name, upload_id = element.findtext("Key") or "", element.findtext("UploadId") or ""
                    key = name.removeprefix(self._settings.prefix)
                    if (
                        is_key(key)
                        and upload_id not in self._uploads.living
                        and await self._is_dead(key, upload_id, _time(element.findtext("Initiated")), now)
                    ):
                        dead.append((key, upload_id))
        for key, upload_id in dead:
            await self._uploads.abort(key, upload_id)
        return len(dead)

    async def begin(self, key: str) -> None:
        """Begin an upload that may be resumed; see `base.ResumableStore.begin`."""
        await begin(self._shelf(key))

    def resume(
        self, key: str, epoch: int, offset: int | None = None
    ) -> AbstractAsyncContextManager[S3ResumableUpload]:
        """Become the writer of an upload; see `base.ResumableStore.resume`."""
        return resume(self._uploads, self._shelf(key), epoch, offset, self._hashes)

    async def discard(self, key: str) -> None:
        """Remove an unfinished upload; see `base.ResumableStore.discard`."""
        await self._shelf(key).clear()

    async def unfinished(self) -> AsyncIterator[str]:
        """Iterate over the keys of unfinished uploads."""
        async for key in unfinished(self._client):
            if is_key(key):
                yield key

    def _shelf(self, key: str) -> Shelf:
        return Shelf(self._client, check_key(key))

    async def sweep_now_and_then(self) -> None:
        """Sweep once an hour, until cancelled."""
        while True:
            await trio.sleep(SWEEP_INTERVAL)
            try:
                if aborted := await self.sweep_uncommitted():
                    _log.warning("uploads of other processes, long silent, were aborted", count=aborted)
            except StorageError as error:
                _log.warning("abandoned uploads remain and are looked for again", error=str(error))

    async def _is_dead(self, key: str, upload_id: str, begun: float, now: float) -> bool:
        """Tell whether an upload had its newest part `abort_after` seconds ago or more."""
        last = begun
        query = {"uploadId": upload_id, "max-parts": str(PAGE)}
        marker = {"part-number-marker": "PartNumberMarker"}
        if now - last < self._settings.abort_after:
            return False
        try:
            async for _, page in pages(self._client, "look at an upload", key, query, marker):
                last = max([last, *(_time(part.text) for part in page.iterfind("Part/LastModified"))])
        except NotFound:
            return False  # it has ended meanwhile
        return now - last >= self._settings.abort_after


def _time(text: str | None) -> float:
    """Return the Unix time that an XML answer tells."""
    try:
        told = datetime.fromisoformat(text or "")
    except ValueError as error:
        raise StorageError(f"the S3 service tells {text!r} for a time") from error
    return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()


def _date(answer: Answer) -> float:
    """Return when the service answered, by its own clock."""
    try:
        return parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
    except ValueError as error:
        raise StorageError("the S3 service answers without a Date") from error


@asynccontextmanager
async def content_store(settings: S3Settings) -> AsyncIterator[S3Store]:
    """Open the bucket, made when it is not there; close every connection when the context ends.

    Raises:
        OutOfReach: the service is away.
        StorageError: the bucket cannot be made or used.

    """
    failure: Exception | None = None
    async with connect(settings) as client, trio.open_nursery() as nursery:
        try:
            store = S3Store(client, nursery)
            await store.prepare()
            nursery.start_soon(store.sweep_now_and_then)
            yield store
        except Exception as error:  # told below, as it came: not in the nursery's group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
