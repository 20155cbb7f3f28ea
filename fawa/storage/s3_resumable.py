"""Uploads into an S3 bucket that outlive their writers.

S3 has no way to go on with a multipart upload that tells what came before: its parts cannot be read back. So
what has come lies in objects of its own (`s3_shelf` names them) until the commit, which has the service copy
them into one multipart upload; where it cannot, they are read and sent once more.

**The fence.** A new writer puts its claim, and reads what is stored after that. A writer saves in the order
look, put, look, and what it has saved counts when the second look shows no later claim: then the put was done
before any later writer read. A later writer also puts what it has read as a state of its own epoch, so that
nothing an earlier one puts late is ever read. One thing is left: the service may be at work on the commit of
a writer that is overtaken at that moment. Then the later one finds the content there, made by its own upload.

**Idempotent.** The content's metadata has the upload's token and its size, so that whoever resumes an upload
after a crash in its commit knows whether it is committed; where the service has lost that, the bytes tell.

**Stored when?** Pieces of a part's size leave while more comes in, and count from the next save: `sync`, the
end of the writer, and every `SAVE_EVERY` pieces. What comes after the last whole piece is part of the state.
So clients that send small pieces, each in a request of its own, make this send up to a part for each.

**Memory.** As `s3` says, and in the commit 8 MiB more where the service copies nothing.

The SHA-256 stays in memory while the process lives; another process reads once what is stored.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import attrs
import trio

from fawa.ops.logging import get_logger
from fawa.storage.base import AlreadyExists, Fenced, NotFound, OutOfReach, StorageError, WrongOffset
from fawa.storage.s3_objects import hash_object, open_object
from fawa.storage.s3_shelf import Piece, Seen, Shelf, Stored, Version
from fawa.storage.s3_upload import CannotCopy, Gathering, S3Upload, Uploads

if TYPE_CHECKING:
    from hashlib import _Hash

#: Pieces after which a writer notes what is stored, without being asked to.
SAVE_EVERY: Final = 4

#: Tries to read what is stored while others write.
READS: Final = 20

#: Unfinished uploads whose running hash is kept in memory, under 1 KiB each; the oldest go first.
HASHES: Final = 1024

#: Seconds in which a writer that ends stores what it has: for the pieces on their way, and for the rest.
CLOSE_TIMEOUT: Final = 5.0

_log = get_logger("fawa.storage.s3")


@attrs.define
class Hashes:
    """The SHA-256 of what is stored of uploads, by the mark of exactly these bytes."""

    _by_mark: OrderedDict[str, _Hash] = attrs.field(factory=OrderedDict)

    def keep(self, mark: str, sha256: _Hash) -> None:
        self._by_mark[mark] = sha256
        if len(self._by_mark) > HASHES:
            self._by_mark.popitem(last=False)

    def take(self, mark: str) -> _Hash | None:
        return self._by_mark.pop(mark, None)


@attrs.frozen
class _Saved:
    """The last state that counts, without the bytes in it."""

    version: Version
    mark: str
    #: How many.
    pieces: int
    #: Bytes of the upload.
    size: int

    @classmethod
    def of(cls, version: Version, stored: Stored) -> _Saved:
        return cls(version, stored.mark, len(stored.pieces), stored.size)


class S3ResumableUpload(Gathering):
    """A writer of an upload that outlives it; see `base.ResumableUpload`. Whoever makes it awaits `close`."""

    _advice = "resume it anew"

    def __init__(self, uploads: Uploads, shelf: Shelf, epoch: int, stored: Stored, hashes: Hashes) -> None:
        super().__init__(uploads)
        self._shelf = shelf
        self._hashes = hashes
        self._token = stored.token
        #: The state that says what was there when it came; it is kept, to go back to.
        self._base_version = Version(epoch, 1)
        self._base_pieces = stored.pieces
        #: The last state that was put, perhaps in vain, and the last one that counts.
        self._put_version = self._base_version
        self._saved = _Saved.of(self._base_version, stored)
        #: Whether `_sha256` is of all that came before `_hashed`, and what it was at the beginning.
        sha256 = hashes.take(stored.mark)
        self._knows_hash = sha256 is not None
        self._base_hash = hashlib.sha256() if sha256 is None else sha256
        self._base_hashed = 0 if sha256 is None else len(stored.tail)
        self._made = 0
        self._ended = False
        self._begin_at(stored)

    def _begin_at(self, base: Stored) -> None:
        self._pieces = dict(enumerate(base.pieces, 1))
        #: So many have arrived without a gap.
        self._parts = self._front = len(self._pieces)
        self._sent = base.size - len(base.tail)
        self._gathered = bytearray(base.tail)
        self._sha256, self._hashed = self._base_hash.copy(), self._base_hashed

    @property
    def offset(self) -> int:
        """Bytes of the upload, what is on its way included."""
        return self._sent + len(self._gathered)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes; waits for the service only while enough pieces are on their way."""
        await super().write(data)
        if self._count_arrived() >= self._saved.pieces + SAVE_EVERY:
            self._usable = False
            await self._save(self._arrived(), b"")
            self._usable = True

    async def sync(self) -> int:
        """Store all that has come, and return how much that is."""
        self._check_usable()
        self._usable = False
        await self._save_all()
        self._usable = True
        return self.offset

    async def rollback(self) -> None:
        """Take back what this writer has written; it may write again, even after a write that failed."""
        if self._ended:
            self._check_usable()
        self._usable = False
        await self._stop()
        self._failure = None
        seen = await self._look()
        async with self._reading():
            base = await self._shelf.load(self._base_version, seen)
        self._begin_at(base)
        if self._put_version != self._base_version:
            await self._put(base)
        self._usable = True

    async def commit(self) -> None:
        """Store all that has come, make it content, and remove what is left of the upload."""
        self._check_usable()
        self._usable = False
        await self._save_all()
        name = content_name(self._token, self.offset)
        refused: AlreadyExists | None = None
        try:
            async with self._reading():
                await self._publish(name)
        except AlreadyExists as error:
            refused = error
        if refused is not None:
            found = await self._uploads.find(self._shelf.key)
            if found is not None and is_made_by(found, self._token):
                if found != name:
                    raise self._fenced()
            elif found is None or not await self._is_there():
                raise refused
        self._ended = True
        # What stays is found by whoever resumes the upload, and goes with its record.
        with suppress(StorageError):
            await self._shelf.clear()

    async def _is_there(self) -> bool:
        """Tell whether the content has the bytes of this upload.

        Some services (rclone) forget which upload made it when they start anew.
        """
        content = await open_object(self._client, self._shelf.key)
        if content.size != self.offset:
            return False
        await self._hash()
        there = hashlib.sha256()
        await hash_object(content, there)
        return there.digest() == self._sha256.digest()

    async def close(self) -> None:
        """Store what has come as far as that goes, soon."""
        self._usable = False
        if self._ended:
            return
        with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
            while self._sending:
                await self._moved.wait()
        with trio.move_on_after(CLOSE_TIMEOUT, shield=True), suppress(StorageError):
            await self._stop()
            pieces = self._arrived()
            whole = len(pieces) == self._parts
            if len(pieces) > self._saved.pieces or (whole and self.offset != self._saved.size):
                await self._save(pieces, self._gathered if whole else b"")
            if whole and self._knows_hash and self.offset == self._saved.size:
                await self._hash()
                self._hashes.keep(self._saved.mark, self._sha256)
        self._ended = True

    def _count_arrived(self) -> int:
        while self._front + 1 in self._pieces:
            self._front += 1
        return self._front

    def _arrived(self) -> list[Piece]:
        """Return the pieces that are stored, up to the first that is not."""
        return [self._pieces[number] for number in range(1, self._count_arrived() + 1)]

    async def _send_part(self) -> None:
        size = len(self._gathered)
        await super()._send_part()
        self._sent += size

    async def _send(self, part: bytearray, number: int) -> None:
        # Never a name twice: what was taken back may still be on its way.
        self._made += 1
        piece = Piece(f"pieces/{self._base_version.epoch}.{self._made}", len(part))
        await self._shelf.put(piece.name, part)
        self._pieces[number] = piece

    async def _hash(self) -> None:
        if not self._knows_hash:
            # Nothing of ours is in a piece yet, as that is hashed before.
            sha256 = hashlib.sha256()
            async with self._reading():
                for piece in self._base_pieces:
                    await hash_object(self._shelf.content(piece), sha256)
            self._base_hash, self._sha256 = sha256.copy(), sha256
            self._knows_hash = True
        await super()._hash()

    async def _save_all(self) -> None:
        await self._wait_for_all()
        if self.offset == self._saved.size:
            await self._look()
        else:
            await self._save(self._arrived(), self._gathered)

    async def _save(self, pieces: list[Piece], tail: bytes | bytearray) -> None:
        await self._look()
        mark = secrets.token_hex(8)
        await self._put(Stored(self._token, mark, tuple(pieces), tail))

    async def _put(self, stored: Stored) -> None:
        """Put a state, which counts when this returns."""
        self._put_version = Version(self._put_version.epoch, self._put_version.generation + 1)
        await self._shelf.put(self._put_version.name, stored.pack())
        await self._look()
        before, self._saved = self._saved.version, _Saved.of(self._put_version, stored)
        if before != self._base_version:
            # It goes with the next writer otherwise.
            with suppress(StorageError):
                await self._shelf.remove([before.name])

    async def _look(self) -> Seen:
        seen = await self._shelf.look()
        if not seen.begun:
            # What we have put since nobody will miss.
            with suppress(StorageError):
                await self._shelf.clear()
        if not seen.begun or seen.epoch > self._base_version.epoch:
            raise self._fenced()
        return seen

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[None]:
        """Say what it means when something is not there."""
        missing: NotFound | None = None
        try:
            yield
        except NotFound as error:
            missing = error
        if missing is not None:
            await self._look()
            text = f"the upload {self._shelf.key} cannot be read where it was stored: {missing}"
            raise OutOfReach(text, "S3") from missing

    def _fenced(self) -> Fenced:
        return Fenced(f"the upload {self._shelf.key} was taken over, cancelled, or has expired")

    async def _publish(self, name: str) -> None:
        while True:
            content = S3Upload(self._uploads, self._shelf.key, name)
            try:
                for piece in self._arrived():
                    if self._uploads.copies:
                        await content.copy(self._shelf.folder + piece.name)
                    else:
                        async with aclosing(self._shelf.content(piece).read(0, piece.size)) as read:
                            async for data in read:
                                await content.write(data)
                await content.write(self._gathered)
                await self._look()
                await content.commit()
            except CannotCopy as error:
                if self._uploads.copies:
                    self._uploads.copies = False
                    _log.warning("S3 copies no parts: uploads are read and sent once more", error=str(error))
            else:
                return
            finally:
                await content.end()  # noqa: ASYNC102 - which has a deadline of its own


def content_name(token: str, size: int) -> str:
    """Return what the metadata of content says that came of an upload."""
    return f"{token}.{size}"


def is_made_by(name: str, token: str) -> bool:
    """Tell whether it came of the upload with that token."""
    return name.startswith(f"{token}.")


async def begin(shelf: Shelf) -> None:
    """Begin an upload; see `base.ResumableStore.begin`."""
    await shelf.begin(Stored(secrets.token_hex(16), secrets.token_hex(8)))


@asynccontextmanager
async def resume(
    uploads: Uploads, shelf: Shelf, epoch: int, offset: int | None, hashes: Hashes
) -> AsyncIterator[S3ResumableUpload]:
    """Become the writer of an upload; see `base.ResumableStore.resume`."""
    # Without a name here, what it has of the content is gone once it is not needed.
    upload = S3ResumableUpload(uploads, shelf, epoch, await _take_over(uploads, shelf, epoch, offset), hashes)
    try:
        yield upload
    finally:
        await upload.close()  # noqa: ASYNC102 - which has deadlines of its own


async def _take_over(uploads: Uploads, shelf: Shelf, epoch: int, offset: int | None) -> Stored:
    version, stored = await _read(shelf, epoch - 1)
    _check_offset(shelf, stored, offset)
    claim = Version(epoch, 0)
    await shelf.put(claim.name, b"")
    # From here on the writer before saves nothing that is told to anybody.
    latest, stored = await _read(shelf, epoch, version, stored)
    if latest.epoch == epoch:
        raise _came_before(shelf, epoch, epoch)
    made_by = await uploads.find(shelf.key)
    if made_by is not None and is_made_by(made_by, stored.token):
        await shelf.clear()
        raise _not_found(shelf)
    if offset not in (None, stored.size):
        # The writer before may go on.
        await shelf.remove([claim.name])
    _check_offset(shelf, stored, offset)
    await shelf.put(Version(epoch, 1).name, stored.pack())
    _check_epoch(shelf, await shelf.look(), epoch)
    # Nobody reads earlier states any more.
    with suppress(StorageError):
        await shelf.tidy(epoch, stored)
    return stored


async def _read(
    shelf: Shelf, most: int, version: Version | None = None, stored: Stored | None = None
) -> tuple[Version, Stored]:
    """Return what is stored; `version` is known to be `stored`.

    Raises:
        Fenced: there is a writer of a later epoch than `most`.
        NotFound: there is no upload.

    """
    for _ in range(READS):
        seen = await shelf.look()
        _check_epoch(shelf, seen, most)
        newest = seen.newest
        if newest is None:
            raise _not_found(shelf)
        if newest == version and stored is not None:
            return newest, stored
        # It is gone when its writer, or the one after, has put another meanwhile.
        with suppress(NotFound):
            return newest, await shelf.load(newest, seen)
    raise StorageError(
        f"what is stored of the upload {shelf.key} cannot be read: it is never where it is listed"
    )


def _check_epoch(shelf: Shelf, seen: Seen, most: int) -> None:
    if not seen.begun:
        raise _not_found(shelf)
    if seen.epoch > most:
        raise _came_before(shelf, seen.epoch, most)


def _came_before(shelf: Shelf, epoch: int, late: int) -> Fenced:
    return Fenced(f"writer {epoch} of the upload {shelf.key} came before this one, which may not follow it")


def _not_found(shelf: Shelf) -> NotFound:
    return NotFound(f"there is no unfinished upload under the key {shelf.key}")


def _check_offset(shelf: Shelf, stored: Stored, offset: int | None) -> None:
    if offset is not None and offset != stored.size:
        text = f"{stored.size} bytes of the upload {shelf.key} are stored, not {offset}"
        raise WrongOffset(text, stored.size)
