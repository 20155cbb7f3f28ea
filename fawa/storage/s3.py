"""Content in an S3 bucket: one object a key, under a prefix of our own.

    <prefix><key>    committed content; its metadata `fawa-upload` names the upload that made it

A small file is put at once, a larger one as a multipart upload: parts leave while further ones come in, and
the object appears, whole, when the upload is completed. Nothing is visible before.

**No overwriting.** Commits carry `If-None-Match: *`, which AWS, MinIO and others honour for both kinds of
upload; others only for one or for none. So a commit also looks first, and commits of one process under one
key follow one another. What remains: two *processes* that commit under one key within the same moment, on a
service that does not honour the condition. Keys are 80 random bits, so nobody does.

**Memory.** A part is gathered before it is sent: 8 MiB for the first 1,000 parts, then twice as much for each
further 1,000, so that 5 TiB fit into the 10,000 parts that S3 allows. At most `IN_FLIGHT` bytes of an upload,
or one part, are on their way at once, and the caller waits while they are.

**Left behind.** An upload aborts its multipart upload when it ends without a commit. What a process that was
killed has left is aborted by `sweep_uncommitted` and once an hour, when no part has come for `abort_after`
seconds by the service's own clock: other processes' uploads live as long as they go on.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import pairwise
from typing import BinaryIO, Final
from weakref import WeakValueDictionary
from xml.etree import ElementTree

import attrs
import trio

from fawa.ops.logging import get_logger
from fawa.storage.base import PIECE, AlreadyExists, Damaged, NotFound, StorageError, check_key, is_key
from fawa.storage.s3_client import Answer, BrokenOff, S3Client, S3Settings, connect

__all__ = ["S3Settings", "S3Store", "content_store", "part_size"]

#: Bytes of the first parts, and how many parts have the same size.
PART: Final = 8 * 1024 * 1024
SAME_SIZE: Final = 1000

#: Bytes of one upload's parts on their way at once: four of the first parts.
IN_FLIGHT: Final = 4 * PART

#: Times a download goes on where it broke off without a byte coming in between.
RESUMES: Final = 3

#: Seconds to abort an upload that is given up; what is left after is left to the sweep.
CLEANUP_TIMEOUT: Final = 10.0

#: Seconds between two sweeps.
SWEEP_INTERVAL: Final = 3600.0

_META: Final = "x-amz-meta-fawa-upload"

_log = get_logger("fawa.storage.s3")


def part_size(number: int) -> int:
    """Return the size in bytes of part `number` (from 1) of an upload whose length nobody knows yet."""
    return PART << ((number - 1) // SAME_SIZE)


class S3Upload:
    """An upload; see `base.Upload`. Made by `S3Store.create`."""

    def __init__(self, store: S3Store, key: str) -> None:
        self._store = store
        self._client = store.client
        self._key = key
        self._name = secrets.token_hex(16)
        self._sha256 = hashlib.sha256()
        #: What has come and is in no part yet; all of it but the first `_hashed` bytes is to be hashed.
        self._gathered = bytearray()
        self._hashed = 0
        self._usable = True
        #: The multipart upload, once there is one, and the etags of its parts by number.
        self._upload_id = ""
        self._etags: dict[int, str] = {}
        self._parts = 0
        #: Parts on their way, which `_scope` cancels, and what the first of them failed of.
        self._sending: dict[int, int] = {}
        self._scope = trio.CancelScope()
        self._failure: StorageError | None = None
        self._moved = trio.Condition()

    async def write(self, data: bytes | memoryview) -> None:
        """Append bytes; waits for the service only when `IN_FLIGHT` bytes are on their way."""
        self._check_usable()
        rest = memoryview(data)
        while rest:
            room = part_size(self._parts + 1) - len(self._gathered)
            self._gathered += rest[:room]
            rest = rest[room:]
            if len(self._gathered) == part_size(self._parts + 1):
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

    async def commit(self) -> None:
        """Send what is left and publish; see the module's text on overwriting."""
        self._check_usable()
        self._usable = False
        if self._upload_id:
            if self._gathered:
                await self._send_part()
            await self._wait(0)
        async with self._store.committing(self._key):
            if await self._store.find(self._key) is not None:
                raise AlreadyExists(f"there is content under the key {self._key} already")
            try:
                answer = await (self._complete() if self._upload_id else self._put())
            except (AlreadyExists, NotFound):
                # An earlier try may have been done, though its answer was lost.
                if await self._store.find(self._key) != self._name:
                    raise
            else:
                if answer.retried and await self._store.find(self._key) is None:
                    raise StorageError(f"the content under {self._key} is not there after its upload")
        self._upload_id = ""

    async def end(self) -> None:
        """Stop the parts on their way, and abort what was not committed."""
        self._usable = False
        self._scope.cancel()
        with trio.move_on_after(CLEANUP_TIMEOUT, shield=True), suppress(StorageError):
            async with self._moved:
                while self._sending:
                    await self._moved.wait()
            if self._upload_id:
                await self._store.abort(self._key, self._upload_id)

    def _check_usable(self) -> None:
        if not self._usable:
            raise StorageError("the upload has failed or ended before: begin a new one")
        if self._failure is not None:
            self._usable = False
            raise self._failure

    async def _hash(self) -> None:
        # Python's hashes let other threads run meanwhile; the copy of what is left is at most one part.
        fresh = bytes(memoryview(self._gathered)[self._hashed :])
        self._hashed = len(self._gathered)
        if len(fresh) < PIECE:
            self._sha256.update(fresh)
        else:
            await trio.to_thread.run_sync(self._sha256.update, fresh)

    async def _send_part(self) -> None:
        """Start sending what is gathered as the next part, once there is room on the way."""
        await self._hash()
        if not self._upload_id:
            headers = {_META: self._name}
            answer = await self._client.request(
                "begin an upload", "POST", self._key, {"uploads": ""}, headers
            )
            self._upload_id = answer.xml().findtext("UploadId") or ""
            self._store.living.add(self._upload_id)
        await self._wait(max(0, IN_FLIGHT - len(self._gathered)))
        self._parts += 1
        part, self._gathered, self._hashed = self._gathered, bytearray(), 0
        self._sending[self._parts] = len(part)
        self._store.nursery.start_soon(self._put_part, self._parts, part)

    async def _wait(self, most: int) -> None:
        """Wait until at most `most` bytes are on their way."""
        async with self._moved:
            while self._failure is None and sum(self._sending.values()) > most:
                await self._moved.wait()
        if self._failure is not None:
            raise self._failure

    async def _put_part(self, number: int, part: bytearray) -> None:
        query = {"partNumber": str(number), "uploadId": self._upload_id}
        try:
            # Cancelled when the upload ends, or fails in another part.
            with self._scope:
                pass
            with trio.CancelScope() as scope:
                self._store.scopes.setdefault(self._name, set()).add(scope)
                answer = await self._client.request("send a part", "PUT", self._key, query, body=part)
                self._etags[number] = answer.headers.get("etag", "")
        except StorageError as error:
            self._failure = self._failure or error
        finally:
            del self._sending[number]

    async def _put(self) -> Answer:
        await self._hash()
        headers = {"if-none-match": "*", _META: self._name}
        return await self._client.request("store a file", "PUT", self._key, headers=headers, body=self._gathered)

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
