"""Objects in an S3 bucket: listed page by page, and read in pieces that go on where they broke off."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, BinaryIO, Final
from xml.etree import ElementTree

import attrs
import trio

from fawa.storage.base import PIECE, AlreadyExists, Damaged, StorageError
from fawa.storage.s3_client import Answer, Body, BrokenOff, S3Client

if TYPE_CHECKING:
    from hashlib import _Hash

#: Times a download goes on where it broke off without a piece coming in between.
RESUMES: Final = 3

#: Entries of a listing that come at once; services give no more.
PAGE: Final = 1000

#: Where the next page of a listing of objects begins, for `pages`.
CONTINUED: Final = {"continuation-token": "ContinuationToken"}


async def pages(
    client: S3Client, doing: str, key: str, query: Mapping[str, str], markers: Mapping[str, str]
) -> AsyncIterator[tuple[Answer, ElementTree.Element]]:
    """Iterate over a listing's pages; `markers` are parameters that say where the next one begins.

    Each has the value of the element `Next…` of the page before.
    """
    begin: dict[str, str] = {}
    while True:
        answer = await client.request(doing, "GET", key, {**query, **begin})
        page = answer.xml()
        yield answer, page
        if page.findtext("IsTruncated") != "true":
            return
        before, begin = begin, {name: page.findtext(f"Next{tag}") or "" for name, tag in markers.items()}
        if begin == before or not any(begin.values()):
            told = "its listing has no end"
            raise StorageError(client.explain(doing, told, "See the service's log"))


@attrs.define(eq=False)
class S3Content:
    """An object; see `base.Content`."""

    _client: S3Client
    _key: str
    #: What a reader must not be given bytes of another object than; "" for one that never changes.
    _etag: str
    size: int
    file: BinaryIO | None = None

    async def read(self, offset: int, count: int) -> AsyncGenerator[bytes, None]:
        """Iterate over `count` bytes from `offset` in pieces of up to `PIECE` bytes."""
        wanted = offset + count
        end = min(wanted, self.size)
        broken = 0
        while offset < end:
            try:
                async with aclosing(self._fetch(offset, end)) as pieces:
                    async for piece in pieces:
                        offset += len(piece)
                        broken = 0
                        yield piece  # noqa: ASYNC119 - whoever may stop before the end closes us
            except BrokenOff:
                broken += 1
                if broken > RESUMES:
                    raise
        if end < wanted:
            raise Damaged(f"content {self._key} ends at byte {self.size}, and {wanted} were asked for")

    async def _fetch(self, offset: int, end: int) -> AsyncGenerator[bytes, None]:
        """Iterate over the bytes from `offset` to `end`, as one answer brings them.

        Raises:
            BrokenOff: it ended early.

        """
        doing = f"read {self._key}"
        headers = {"range": f"bytes={offset}-{end - 1}"}
        if self._etag:
            headers["if-match"] = self._etag
        try:
            async with self._client.get(doing, self._key, headers) as body:
                skipped = _before(body, offset, end, self.size)
                if skipped is None:
                    told = f"it answered {body.status} with another range than the one asked for"
                    raise StorageError(self._client.explain(doing, told, "See the service's log"))
                # What comes is joined to pieces of half a `PIECE` and more: copied once, and few of them.
                gathered: list[bytes] = []
                count, left = 0, end - offset
                async for piece in body.pieces:
                    fresh = piece[skipped : skipped + left - count]
                    skipped = max(0, skipped - len(piece))
                    gathered.append(fresh)
                    count += len(fresh)
                    if count >= min(PIECE // 2, left):
                        left -= count
                        whole, gathered, count = b"".join(gathered), [], 0
                        yield whole  # noqa: ASYNC119 - `read` closes us
                        if not left:
                            break  # of all there is, the rest
                if left:
                    raise BrokenOff(self._client.explain(doing, f"the answer ended {left} bytes too early"))
        except AlreadyExists as error:  # the name of a condition that failed
            raise Damaged(f"content {self._key} was replaced while it was read") from error


def _before(body: Body, offset: int, end: int, size: int) -> int | None:
    """Return how many bytes come before those asked for, `None` when they are not among what comes.

    Services answer with the range and status 206, with the range and status 200, or with all there is.
    """
    length = body.headers.get("content-length", "")
    told = body.headers.get("content-range", "")
    if told:
        return 0 if told.startswith(f"bytes {offset}-{end - 1}/") else None
    if length == str(end - offset):
        return 0
    return offset if body.status == 200 and length == str(size) else None


async def open_object(client: S3Client, key: str) -> S3Content:
    """Return an object for reading.

    Raises:
        NotFound: it is not there.

    """
    answer = await client.request("open content", "HEAD", key)
    try:
        size, etag = int(answer.headers["content-length"]), answer.headers["etag"]
    except (KeyError, ValueError) as error:
        told = "it answered without a size or an ETag"
        raise StorageError(client.explain("open content", told, "See the service's log")) from error
    return S3Content(client, key, etag, size)


async def hash_object(content: S3Content, sha256: _Hash) -> None:
    """Update a hash with all of an object."""
    async with aclosing(content.read(0, content.size)) as read:
        async for data in read:
            await trio.to_thread.run_sync(sha256.update, data)
