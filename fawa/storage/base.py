"""What a storage backend must do: protocol classes, the file record, and the errors.

Two stores make up the file service's storage: content (bytes under a key) and metadata (records under a
key). Any content store goes with any metadata store. `tests/storage/` has the contract tests every backend
passes.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import BinaryIO, Protocol

import attrs


class StorageError(Exception):
    """The backend failed or is out of reach; the text says which one and what to do."""


class NotFound(StorageError):
    """There is no record or content under that key."""


class State(enum.Enum):
    """Where a file is in its life."""

    UPLOADING = "uploading"
    READY = "ready"


@attrs.frozen(kw_only=True)
class FileRecord:
    """What is known of one file. Times are Unix seconds."""

    key: str
    #: The user's name for it, never used as a path.
    name: str
    #: Bytes of content.
    size: int
    content_type: str
    #: Of the content, 32 bytes; `b""` until the upload is complete.
    sha256: bytes
    created: float
    expires: float
    downloads: int = 0
    state: State = State.READY


class MetadataStore(Protocol):
    """Records by key."""

    async def put(self, record: FileRecord) -> None:
        """Store the record under its key, replacing one that is there."""

    async def get(self, key: str) -> FileRecord:
        """Return the record, expired or not.

        Raises:
            NotFound: there is none.

        """

    async def delete(self, key: str) -> None:
        """Remove the record; does nothing when there is none."""

    async def count_download(self, key: str) -> None:
        """Add one to the record's downloads, atomically; does nothing when there is none."""

    async def expired(self, now: float, limit: int) -> list[str]:
        """Return up to `limit` keys whose records expire at or before `now`, the oldest first."""

    def keys(self) -> AsyncIterator[str]:
        """Iterate over all keys."""


class Upload(Protocol):
    """Content on its way in: invisible until committed, gone when the context ends without."""

    async def write(self, data: bytes) -> None:
        """Append bytes; waits while the backend is slower than the caller."""

    async def commit(self) -> None:
        """Make the content durable and then visible under its key, all at once."""


class ContentStore(Protocol):
    """Content by key."""

    def create(self, key: str) -> AbstractAsyncContextManager[Upload]:
        """Begin an upload; leaving the context without `commit` leaves nothing behind."""

    def open(self, key: str) -> AbstractAsyncContextManager[Content]:
        """Open committed content.

        Raises:
            NotFound: there is none under that key.

        """

    async def delete(self, key: str) -> None:
        """Remove the content; does nothing when there is none. Readers that have it open finish."""

    def keys(self) -> AsyncIterator[str]:
        """Iterate over the keys of committed content."""

    async def sweep_uncommitted(self) -> int:
        """Remove what interrupted uploads left behind (called before any upload begins); return how many."""


class Content(Protocol):
    """Committed content, open for reading."""

    size: int
    #: The open file where content is a local file (for sendfile), else `None`.
    file: BinaryIO | None

    def read(self, offset: int, count: int) -> AsyncIterator[bytes]:
        """Iterate over `count` bytes from `offset` in pieces of bounded size."""
