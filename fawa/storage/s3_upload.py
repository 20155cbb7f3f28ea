"""Uploads into an S3 bucket: at once when small, else in parts that leave while further ones come in.

`Gathering` is what these have in common with the writers of `s3_resumable`.
"""

from __future__ import annotations

import hashlib
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final
from weakref import WeakValueDictionary
from xml.etree import ElementTree

import trio

from fawa.storage.base import PIECE, AlreadyExists, NotFound, OutOfReach, OutOfSpace, StorageError
from fawa.storage.s3_client import Answer, S3Client

#: Parts of an upload (a limit of S3), and how many of them have the size of the first; the others have twice
#: that. With the usual 8 MiB an upload has up to 148 GiB. Larger parts would take more memory than one upload
#: should.
MAX_PARTS: Final = 10_000
FIRST_PARTS: Final = 1000

#: One upload's parts on their way at once, in sizes of the first; one more part is being gathered meanwhile.
IN_FLIGHT: Final = 3

#: Parts of all uploads on their way at once.
PARTS: Final = 16

#: Seconds to abort an upload that is given up; what is left after is left to the sweep.
CLEANUP_TIMEOUT: Final = 10.0

#: Metadata of an object: the upload that made it.
MADE_BY: Final = "x-amz-meta-fawa-upload"


def part_size(number: int, first: int) -> int:
    """Return the bytes of part `number` (from 1) of an upload whose length nobody knows yet."""
    return first if number <= FIRST_PARTS else 2 * first


def max_size(first: int) -> int:
    """Return the bytes of the largest upload."""
    return (FIRST_PARTS + 2 * (MAX_PARTS - FIRST_PARTS)) * first


class Uploads:
    """What the uploads of one store share."""

    def __init__(self, client: S3Client, nursery: trio.Nursery) -> None:
        self.client = client
        #: Runs the parts.
        self.nursery = nursery
        self.limiter = trio.CapacityLimiter(PARTS)
        #: Ids of the multipart uploads that go on in this process.
        self.living: set[str] = set()
        #: Whether the service copies objects into parts, as far as is known.
        self.copies = True
        self._locks: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def committing(self, key: str) -> AsyncIterator[None]:
        """Let one commit at a time through under a key."""
        lock = self._locks.setdefault(key, trio.Lock())
        async with lock:
            yield

    async def find(self, key: str) -> str | None:
        """Return which upload made the content, "" for one that is not ours, `None` when there is none."""
        try:
            answer = await self.client.request("look for content", "HEAD", key)
        except NotFound:
            return None
        return answer.headers.get(MADE_BY, "")

    async def abort(self, key: str, upload_id: str) -> None:
        """Remove a multipart upload and its parts; does nothing when there is none."""
        with suppress(NotFound):
            await self.client.request("abort an upload", "DELETE", key, {"uploadId": upload_id})


class CannotCopy(StorageError):  # noqa: N818 - said as it is
    """The service does not copy an object into a part."""


class Gathering(ABC):
    """Bytes that are gathered into parts, of which several are on their way at once.

    Whoever makes it awaits `_stop` in the end.
    """

    #: What to do about one that has failed.
    _advice = "begin a new one"

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self._client = uploads.client
        self._first = uploads.client.settings.part
        self._sha256 = hashlib.sha256()
        #: What has come and is in no part yet; all of it but the first `_hashed` bytes is to be hashed.
        self._gathered = bytearray()
        self._hashed = 0
        self._usable = True
        self._parts = 0
        #: Parts on their way by number: their bytes, and what cancels them.
        self._sending: dict[int, tuple[int, trio.CancelScope]] = {}
        #: What the first part failed of that did.
        self._failure: StorageError | None = None
        #: Set, and replaced, when a part has ended.
        self._moved = trio.Event()

    @abstractmethod
    async def _send(self, part: bytearray, number: int) -> None:
        """Send a part."""

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes, copied; waits for the service only while enough parts are on their way."""
        self._check_usable()
        rest = memoryview(data)
        while rest:
            size = part_size(self._parts + 1, self._first)
            room = size - len(self._gathered)
            self._gathered += rest[:room]
            rest = rest[room:]
            if len(self._gathered) == size:
                self._usable = False
                await self._send_part()
                self._usable = True

    async def digest(self) -> bytes:
        """Return the SHA-256 of what has been written so far."""
        self._check_usable()
        self._usable = False
        await self._hash()
        self._usable = True
        return self._sha256.digest()

    def _check_usable(self) -> None:
        if self._failure is not None:
            self._usable = False
            raise self._failure
        if not self._usable:
            raise StorageError(f"the upload has failed or ended before: {self._advice}")

    async def _hash(self) -> None:
        with memoryview(self._gathered)[self._hashed :] as fresh:
            if len(fresh) < PIECE:
                self._sha256.update(fresh)
            else:
                await trio.to_thread.run_sync(self._sha256.update, fresh)
        self._hashed = len(self._gathered)

    async def _send_part(self) -> None:
        """Start sending what is gathered as the next part, once there is room on the way."""
        await self._hash()
        place = await self._place(len(self._gathered))
        part, self._gathered, self._hashed = self._gathered, bytearray(), 0
        self._start(place, len(part), partial(self._send, part))

    async def _place(self, size: int) -> trio.CancelScope:
        """Wait for a place on the way for so many bytes; `_start` is called with it before anything waits."""
        if self._parts == MAX_PARTS:
            most = max_size(self._first) // 1024**3
            raise OutOfSpace(f"an upload to S3 has at most {most} GiB: set file.max_size to that or less")
        await self._wait(max(0, IN_FLIGHT * self._first - size))
        scope = trio.CancelScope()
        await self._uploads.limiter.acquire_on_behalf_of(scope)
        return scope

    def _start(self, place: trio.CancelScope, size: int, send: Callable[[int], Awaitable[None]]) -> None:
        """Start a task for the next part, whose `finally` gives the place back."""
        self._parts += 1
        self._sending[self._parts] = size, place
        self._uploads.nursery.start_soon(self._put_part, self._parts, send, place)

    async def _wait(self, most: int) -> None:
        """Wait until at most `most` bytes are on their way."""
        while self._failure is None and sum(size for size, _ in self._sending.values()) > most:
            await self._moved.wait()
        if self._failure is not None:
            raise self._failure

    async def _wait_for_all(self) -> None:
        while self._failure is None and self._sending:
            await self._moved.wait()
        if self._failure is not None:
            raise self._failure

    async def _put_part(
        self, number: int, send: Callable[[int], Awaitable[None]], scope: trio.CancelScope
    ) -> None:
        failure: StorageError | None = StorageError("the upload was ended before its parts were sent")
        try:
            with scope:
                await send(number)
                failure = None
        except StorageError as error:
            failure = error
        finally:
            self._failure = self._failure or failure
            self._uploads.limiter.release_on_behalf_of(scope)
            del self._sending[number]
            self._moved.set()
            self._moved = trio.Event()

    async def _stop(self) -> None:
        """Stop the parts on their way."""
        for _, scope in self._sending.values():
            scope.cancel()
        while self._sending:
            await self._moved.wait()


class S3Upload(Gathering):
    """An upload; see `base.Upload`. Whoever makes it awaits `end`."""

    def __init__(self, uploads: Uploads, key: str, name: str = "") -> None:
        super().__init__(uploads)
        self._key = key
        #: What tells its bytes from all others'.
        self._name = name or secrets.token_hex(16)
        #: The multipart upload, once there is one, and the etags of its parts by number.
        self._upload_id = ""
        self._etags: dict[int, str] = {}

    async def copy(self, key: str) -> None:
        """Append an object that is as large as a part may be, without its bytes coming here.

        The next method may raise `CannotCopy`; then nothing of this upload is of use.
        """
        self._check_usable()
        self._usable = False
        await self._begin()
        self._start(await self._place(0), 0, partial(self._copy_part, key))
        self._usable = True

    async def commit(self) -> None:
        """Send what is left and publish; `fawa.storage.s3` says what is done against overwriting."""
        self._check_usable()
        self._usable = False
        if self._upload_id:
            if self._gathered:
                await self._send_part()
            await self._wait_for_all()
        async with self._uploads.committing(self._key):
            if await self._uploads.find(self._key) is not None:
                raise AlreadyExists(f"there is content under the key {self._key} already")
            refused: StorageError | None = None
            try:
                await (self._complete() if self._upload_id else self._put())
            except AlreadyExists as error:
                refused = error
            except NotFound as error:
                refused = self._gone(error)
            # An earlier try may have been done, though its answer was lost.
            if refused is not None and await self._uploads.find(self._key) != self._name:
                raise refused
        self._forget()

    async def end(self) -> None:
        """Stop the parts on their way, and abort what was not committed."""
        self._usable = False
        with trio.move_on_after(CLEANUP_TIMEOUT, shield=True), suppress(StorageError):
            await self._stop()
            if self._upload_id:
                # Not before the last part has ended: one that comes after would stay.
                await self._uploads.abort(self._key, self._upload_id)
        self._forget()

    def _forget(self) -> None:
        self._uploads.living.discard(self._upload_id)
        self._upload_id = ""

    async def _send_part(self) -> None:
        await self._begin()
        await super()._send_part()

    async def _begin(self) -> None:
        if self._upload_id:
            return
        # Cancelled here, it may leave an upload without parts, which the sweep finds.
        answer = await self._client.request(
            "begin an upload", "POST", self._key, {"uploads": ""}, {MADE_BY: self._name}
        )
        self._upload_id = answer.xml().findtext("UploadId") or ""
        if not self._upload_id:
            raise StorageError(self._client.explain("begin an upload", "it answered without an id"))
        self._uploads.living.add(self._upload_id)

    async def _send(self, part: bytearray, number: int) -> None:
        query = {"partNumber": str(number), "uploadId": self._upload_id}
        try:
            answer = await self._client.request("send a part", "PUT", self._key, query, body=part)
        except NotFound as error:
            raise self._gone(error) from error
        self._note_part(number, answer.headers.get("etag"))

    async def _copy_part(self, source: str, number: int) -> None:
        query = {"partNumber": str(number), "uploadId": self._upload_id}
        headers = {"x-amz-copy-source": self._client.source(source)}
        try:
            answer = await self._client.request("copy a part", "PUT", self._key, query, headers)
        except StorageError as error:
            if type(error) is StorageError:  # neither away nor full: it refuses
                raise CannotCopy(str(error)) from error
            raise
        # Services that do not know the header take the empty body for the part.
        if b"CopyPartResult" not in answer.body:
            raise CannotCopy(self._client.explain("copy a part", "it took the name of an object for a part"))
        self._note_part(number, answer.xml().findtext("ETag"))

    def _note_part(self, number: int, etag: str | None) -> None:
        if not etag:
            raise StorageError(self._client.explain("send a part", "it answered without an ETag"))
        self._etags[number] = etag

    def _gone(self, error: NotFound) -> OutOfReach:
        """Return what to raise for an upload that the service knows no more, as after a restart of some.

        Whoever sends the file again succeeds, and has not asked for anything that is not there.
        """
        return OutOfReach(
            f"the upload of {self._key} was forgotten, or aborted by somebody else: {error}", "S3"
        )

    async def _put(self) -> Answer:
        await self._hash()
        headers = {"if-none-match": "*", MADE_BY: self._name}
        return await self._client.request(
            "store a file", "PUT", self._key, headers=headers, body=self._gathered
        )

    async def _complete(self) -> Answer:
        root = ElementTree.Element("CompleteMultipartUpload")
        for number, etag in sorted(self._etags.items()):
            part = ElementTree.SubElement(root, "Part")
            ElementTree.SubElement(part, "PartNumber").text = str(number)
            ElementTree.SubElement(part, "ETag").text = etag
        body = ElementTree.tostring(root)
        headers = {"if-none-match": "*"}
        return await self._client.request(
            "complete an upload", "POST", self._key, {"uploadId": self._upload_id}, headers, body
        )
