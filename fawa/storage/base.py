"""What a storage backend must do: protocol classes, the file record, and the errors.

Two stores make up the file service's storage: content (bytes under a key) and metadata (records under a
key). Any content store goes with any metadata store. How the two are kept in step is `lifecycle`'s
business. Uploads that may be interrupted have their records in a third one (`UploadStore`), and a content
store that can keep what there is of them is a `ResumableStore`. Copies of whiteboards have a store of their
own. `tests/storage/contract.py` has the tests every backend passes.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import BinaryIO, Final, Protocol, runtime_checkable

import attrs

#: The longest piece `Content.read` gives, in bytes: large enough to hide the cost of fetching it, small
#: enough for one message (clients refuse messages above 4 MiB) and for many readers at once.
PIECE: Final = 512 * 1024

_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")


class StorageError(Exception):
    """The backend failed or is out of reach; the text says which one and what to do.

    The text is for the operator: it may name paths and hosts, so it is logged and not sent to clients.
    """


class OutOfReach(StorageError):  # noqa: N818 - said as it is
    """The backend is away, and will be back without anybody changing a setting."""

    def __init__(self, text: str, backend: str) -> None:
        super().__init__(text)
        #: What clients may be told.
        self.told = f"the server cannot reach its {backend} at the moment, try again in a few seconds"
        #: What clients may be told that it is, such as `S3`.
        self.backend = backend


class NotFound(StorageError):  # noqa: N818 - the field's word for it
    """There is no record or content under that key."""


class AlreadyExists(StorageError):  # noqa: N818 - the field's word for it
    """There is a record or content under that key already, and it was left as it is."""


class OutOfSpace(StorageError):  # noqa: N818 - the field's word for it
    """The backend has no room left, or its quota is used up."""


class Damaged(StorageError):  # noqa: N818 - the field's word for it
    """The content is not what its record says."""


class Fenced(StorageError):  # noqa: N818 - the field's word for it
    """Another writer has taken the upload over, or it was cancelled or has expired: this writer is done."""


class WrongOffset(StorageError):  # noqa: N818 - said as it is
    """A writer wants to go on somewhere else than at the end of what is stored; nothing was changed."""

    def __init__(self, text: str, offset: int) -> None:
        super().__init__(text)
        #: Where it may go on: bytes that are stored.
        self.offset = offset


def is_key(text: str) -> bool:
    """Tell whether `text` may be a key: 1 to 128 characters of A-Z, a-z, 0-9, `_` and `-`."""
    return _KEY.fullmatch(text) is not None


def check_key(key: str) -> str:
    """Return `key` if it may be one, so that it is safe as a path segment or object name.

    Raises:
        ValueError: it may not. Whoever takes keys from outside asks `is_key` first.

    """
    if not is_key(key):
        raise ValueError(f"a key is 1 to 128 characters of A-Z, a-z, 0-9, _ and -, not {key!r}")
    return key


class State(enum.Enum):
    """Where a file is in its life."""

    #: Announced; its content may or may not be there, and is not served.
    UPLOADING = "uploading"
    READY = "ready"


@attrs.frozen(kw_only=True)
class Terms:
    """On what terms a file is shared, as its sender wants it."""

    #: Complete downloads after which it is removed; 0 is no limit.
    max_downloads: int = 0
    #: SHA-256 of the token with which its owner removes it, or b"".
    owner: bytes = b""
    #: What the password is held against (`fawa.services.passwords`), or b"".
    password: bytes = attrs.field(default=b"", repr=False)

    def pack(self) -> bytes:
        """Return them as stores keep them: b"" where there are none, else JSON."""
        if self == Terms():
            return b""
        values = [self.max_downloads, self.owner.hex(), self.password.hex()]
        return json.dumps(values, separators=(",", ":")).encode()

    @classmethod
    def unpack(cls, packed: bytes) -> Terms:
        """Return what `pack` made this of.

        Raises:
            ValueError: it did not.

        """
        if not packed:
            return cls()
        try:
            most, owner, password = json.loads(packed)
            return cls(max_downloads=int(most), owner=bytes.fromhex(owner), password=bytes.fromhex(password))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{packed!r} is no packed terms: {error}") from None


@attrs.frozen(kw_only=True)
class FileRecord:
    """What is known of one file. Times are Unix seconds."""

    key: str
    #: The user's name for it, never used as a path.
    name: str
    #: Bytes of content.
    size: int
    content_type: str
    #: Of the content, 32 bytes.
    sha256: bytes
    created: float
    expires: float
    downloads: int = 0
    state: State = State.READY
    terms: Terms = attrs.field(factory=Terms)


class Dependency(Protocol):
    """What can be away, and is asked when somebody wants to know whether the daemon is ready."""

    @property
    def backend(self) -> str:
        """What it is, for the operator: "redis", or the name of a database's file."""

    async def check(self) -> None:
        """Return when it answers.

        Raises:
            StorageError: it does not.

        """


class MetadataStore(Dependency, Protocol):
    """Records by key. What a method changed is durable when it returns, `count_download` excepted.

    The store also knows the bytes of all files together, and room that is held for files to come. What is
    held need not survive a power cut: whoever goes on with an upload asks for its room again.
    """

    async def identity(self) -> str:
        """Return what tells these records from all others, up to 64 characters of A-Z, a-z, 0-9, `_` and `-`.

        It is drawn when there is none yet, and the same for every process that shares the records.
        """

    async def add(self, record: FileRecord) -> None:
        """Store a new record; its bytes count in place of what was held under its key.

        Raises:
            AlreadyExists: its key has one, which is left as it is.

        """

    async def publish(self, key: str) -> None:
        """Make the record `READY`; does nothing when it is.

        Raises:
            NotFound: there is none.

        """

    async def get(self, key: str) -> FileRecord:
        """Return the record, whatever its state, expired or not.

        Raises:
            NotFound: there is none.

        """

    async def delete(self, key: str) -> None:
        """Remove the record; does nothing when there is none, and never to what is held under its key."""

    async def count_download(self, key: str) -> None:
        """Add one to the record's downloads, atomically; does nothing when there is none."""

    async def reserve(self, key: str, token: str, most: int, now: float, until: float) -> bool:
        """Reserve one of `most` downloads for whoever has the token, until a time; atomically.

        Who has it already has it until then. Returns False where so many were completed or are reserved, or
        there is no record.
        """

    async def release(self, key: str, token: str, *, completed: bool) -> int:
        """Give a reservation back, and count its download if that was completed; atomically.

        Returns how many downloads were completed by now, 0 where there is no record. A reservation that has
        run out is still there to be given back, so a download that is completed late counts too, and none
        counts twice.
        """

    async def hold_room(self, key: str, size: int, most: int, now: float, until: float) -> int:
        """Hold room for a file to come, at least `size` bytes of the `most` that may be taken; atomically.

        What is held runs out at `until` (Unix seconds). Held again, it neither shrinks nor runs out earlier,
        and as long as it does not grow it is not refused, whatever `most` is.

        Returns how many bytes there are for this key, those that it has included: at least `size` if they are
        held now. If it is fewer, what was held before is all that is held.
        """

    async def free_room(self, key: str) -> None:
        """Give back what is held under the key; does nothing when that is nothing."""

    async def room_taken(self, now: float) -> int:
        """Return the bytes of all files, and of what is held and has not run out."""

    async def expired(self, now: float, limit: int) -> list[str]:
        """Return up to `limit` keys whose records expire at or before `now`, the oldest first."""

    def keys(self, state: State | None = None) -> AsyncIterator[str]:
        """Iterate over all keys, or those in `state`, each once.

        Records that come or go meanwhile may or may not be met.
        """


class Upload(Protocol):
    """Content on its way in: invisible until committed, gone when the context ends without.

    Once a method has raised or was cancelled, the upload cannot be committed any more.
    """

    async def write(self, data: bytes | memoryview) -> None:
        """Append bytes, which stay as they are; waits while the backend is slower than the caller."""

    async def digest(self) -> bytes:
        """Return the SHA-256, 32 bytes, of what has been written so far."""

    async def commit(self) -> None:
        """Make the content durable and then visible under its key, all at once. Nothing may follow.

        Raises:
            AlreadyExists: there is content under that key, which is left as it is.

        """


class Content(Protocol):
    """Committed content, open for reading."""

    #: Bytes.
    size: int
    #: The open file where content is a local file (for sendfile), else `None`. Unbuffered; its position
    #: means nothing.
    file: BinaryIO | None

    def read(self, offset: int, count: int) -> AsyncGenerator[bytes, None]:
        """Iterate over `count` bytes from `offset` in pieces of 1 to `PIECE` bytes.

        Whoever may stop before the end closes it (`contextlib.aclosing`).

        Raises:
            Damaged: the content ends before `offset + count`.

        """


class ContentStore(Protocol):
    """Content by key."""

    @property
    def checks(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """What must be there for the store to work, by name; each raises `StorageError` when it is not."""

    async def claim(self, owner: str, knows: Callable[[str], Awaitable[bool]]) -> None:
        """Note, durably, that the content goes with the records whose identity is `owner`.

        Content that is there and goes with nobody's records yet goes with these if they know some of it:
        `knows` tells that of a key.

        Raises:
            StorageError: it goes with others, whose files a `lifecycle.repair` with these would remove.

        """

    def create(self, key: str) -> AbstractAsyncContextManager[Upload]:
        """Begin an upload; leaving the context without `commit` leaves nothing behind.

        Several uploads under one key may be under way; the first to commit wins.
        """

    def open(self, key: str) -> AbstractAsyncContextManager[Content]:
        """Open committed content.

        Raises:
            NotFound: there is none under that key.

        """

    def link(self, key: str, headers: Mapping[str, str], now: float, seconds: int) -> str | None:
        """Return a link by which clients get the content from the backend itself, `None` if it has none.

        It is valid for `seconds` from `now` (Unix seconds), and answered with `headers` (names in lower
        case): cache-control, content-disposition, content-type.
        """

    async def delete(self, key: str) -> None:
        """Remove the content; does nothing when there is none. Readers that have it open finish."""

    def keys(self) -> AsyncIterator[str]:
        """Iterate over the keys of committed content, each once.

        Content that comes or goes meanwhile may or may not be met.
        """

    async def sweep_uncommitted(self) -> int:
        """Remove what interrupted uploads left behind, and return how many; living uploads go on."""


@runtime_checkable
class OnDisk(Protocol):
    """A content store on a disk of this machine, which can be full."""

    async def free_space(self) -> int:
        """Return how many bytes more the disk takes."""


class ResumableUpload(Upload, Protocol):
    """A writer of an upload that outlives it: what was written stays when the context ends uncommitted.

    Once another writer has resumed the upload, or it was discarded, every method raises `Fenced` and has no
    effect: two writers never mix their bytes. `digest` is of the whole upload, what earlier writers wrote
    included.
    """

    @property
    def offset(self) -> int:
        """Bytes of the upload, what was given to `write` but is not stored yet included."""

    async def sync(self) -> int:
        """Make what has been written durable, and return how many bytes of the upload are.

        A backend that stores in large pieces may return less than `offset`; the caller then has to send the
        rest again, to the next writer.
        """

    async def rollback(self) -> None:
        """Take back all that this writer has written."""


@runtime_checkable
class ResumableStore(ContentStore, Protocol):
    """A content store whose uploads can go on after an interruption, in another process too.

    An upload is named by the key under which it will be committed. `sweep_uncommitted` leaves these alone.
    """

    async def begin(self, key: str) -> None:
        """Begin an upload, durably, with no bytes.

        Raises:
            AlreadyExists: there is one under that key, which is left as it is.

        """

    def resume(
        self, key: str, epoch: int, offset: int | None = None
    ) -> AbstractAsyncContextManager[ResumableUpload]:
        """Become the writer of an upload and fence off the one before, without waiting for it.

        Leaving the context without `commit` stores what was written and keeps the upload.

        Args:
            epoch: the fencing token, larger than that of every earlier writer (`UploadStore.claim`).
            offset: where to go on; `None` is at the end, wherever that is.

        Raises:
            NotFound: there is no such upload, or it has been committed.
            Fenced: a writer of this epoch or a later one was first.
            WrongOffset: as many bytes are not stored; the writer before goes on.

        """

    async def discard(self, key: str) -> None:
        """Remove an upload; does nothing when there is none. Committed content stays."""

    def unfinished(self) -> AsyncIterator[str]:
        """Iterate over the keys of uploads that are neither committed nor discarded, each once."""


@attrs.frozen(kw_only=True)
class UploadRecord:
    """What is known of one upload that may be interrupted. Times are Unix seconds."""

    #: Whoever knows it may write: unguessable, and never told to those who may only read.
    id: str
    #: Of the file that it becomes.
    key: str
    name: str
    #: Bytes of the whole content, `None` while nobody has said.
    size: int | None
    content_type: str
    created: float
    expires: float
    #: What the whole content must have, 32 bytes, if that was told.
    sha256: bytes | None = None
    #: What the client wants to hear again, as it said it (tus `Upload-Metadata`).
    metadata: str = ""
    #: Grows with each writer: the fencing token.
    epoch: int = 0
    #: Seconds that the file is kept once it is whole, `None` for as long as files are.
    ttl: float | None = None
    #: Of the file.
    terms: Terms = attrs.field(factory=Terms)


class UploadStore(Dependency, Protocol):
    """Records of uploads by id. What a method changed is durable when it returns."""

    async def add(self, record: UploadRecord) -> None:
        """Store a new record.

        Raises:
            AlreadyExists: its id has one, which is left as it is.

        """

    async def get(self, upload_id: str) -> UploadRecord:
        """Return the record, expired or not.

        Raises:
            NotFound: there is none.

        """

    async def claim(self, upload_id: str, now: float, expires: float) -> UploadRecord:
        """Add one to the epoch and move the expiry, not to earlier, atomically; return the record after that.

        Raises:
            NotFound: there is none that expires after `now`.

        """

    async def extend(self, upload_id: str, expires: float) -> None:
        """Move the expiry, not to earlier; does nothing when there is no such upload."""

    async def set_size(self, upload_id: str, size: int) -> None:
        """Note the size of an upload that had none; one that has keeps it.

        Raises:
            NotFound: there is no such upload.

        """

    async def delete(self, upload_id: str) -> None:
        """Remove the record; does nothing when there is none."""

    async def expired(self, now: float, limit: int) -> list[UploadRecord]:
        """Return up to `limit` records that expire at or before `now`, the oldest first."""

    async def has_key(self, key: str) -> bool:
        """Tell whether there is an upload that becomes the file under `key`."""


class BoardStore(Dependency, Protocol):
    """Copies of whiteboards by code, each until it expires. Times are Unix seconds.

    A copy outlives the process once `put` has returned, but a power cut may cost the newest ones: they are
    made every few seconds, and what they hold has not been promised to anybody.
    """

    async def put(self, code: str, saved: bytes, expires: float) -> None:
        """Store a copy in place of the one before."""

    async def get(self, code: str, now: float) -> bytes:
        """Return the copy.

        Raises:
            NotFound: there is none that expires after `now`.

        """

    async def delete(self, code: str) -> None:
        """Remove the copy; does nothing when there is none."""

    async def sweep(self, now: float, most: int) -> int:
        """Remove copies that have expired at `now`, and more until `most` bytes remain; return how many.

        Those that would expire next go first. What a copy takes beside its own bytes counts too.
        """
