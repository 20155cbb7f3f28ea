"""What there is of an unfinished upload in an S3 bucket, object by object. Knows no writers.

    <prefix>.resumable/<key>/state/begun                   there is an upload; removed first when it ends
    <prefix>.resumable/<key>/state/<epoch>.0               a writer has come
    <prefix>.resumable/<key>/state/<epoch>.<generation>    all that is stored, as of then: see `Stored`
    <prefix>.resumable/<key>/pieces/<epoch>.<number>       bytes that some state names

No object is ever replaced by another, so that a request which is late, or done twice, harms nothing. What is
stored is what the state of the highest epoch says, and of its generations the highest.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Final, NamedTuple

import attrs
import trio

from fawa.storage.base import AlreadyExists, Damaged, NotFound, StorageError
from fawa.storage.s3_client import S3Client
from fawa.storage.s3_objects import CONTINUED, PAGE, S3Content, pages

#: No key has a dot, so nothing below is taken for content.
FOLDER: Final = ".resumable/"

#: Objects removed at once.
REMOVED_AT_ONCE: Final = 16

#: Times all there is of an upload is listed and removed.
ROUNDS: Final = 5

_BEGUN: Final = "state/begun"
_STATE: Final = re.compile(r"state/([0-9]{1,20})\.([0-9]{1,20})")
_PIECE: Final = re.compile(r"pieces/([0-9]{1,20})\.[0-9]{1,20}")


class Version(NamedTuple):
    """The name of a state; the later one is the larger one."""

    epoch: int
    #: From 1; 0 is the claim of a writer that has not seen yet what is stored.
    generation: int

    @property
    def name(self) -> str:
        """The object's, below the upload's."""
        return f"state/{self.epoch}.{self.generation}"


@attrs.frozen
class Piece:
    """An object with bytes of the upload, as many as a part may have."""

    name: str
    size: int


@attrs.frozen
class Stored:
    """What is stored of an upload."""

    #: Of the upload, from its beginning.
    token: str
    #: Of these very bytes.
    mark: str
    pieces: tuple[Piece, ...] = ()
    #: What comes after the pieces, up to a part.
    tail: bytes | bytearray = attrs.field(default=b"", repr=False)

    @property
    def size(self) -> int:
        """Bytes of the upload."""
        return sum(piece.size for piece in self.pieces) + len(self.tail)

    def pack(self) -> bytes:
        """Return it as it is kept: a line of JSON, then the tail."""
        pieces = [[piece.name, piece.size] for piece in self.pieces]
        head = json.dumps([self.token, self.mark, pieces], separators=(",", ":"))
        return b"".join([head.encode(), b"\n", self.tail])

    @classmethod
    def unpack(cls, packed: bytes) -> Stored:
        """Return what `pack` made this of.

        Raises:
            ValueError: it did not.

        """
        head, newline, tail = packed.partition(b"\n")
        try:
            token, mark, pieces = json.loads(head)
            known = tuple(Piece(str(name), int(size)) for name, size in pieces)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{head[:80]!r} is no state of an upload") from error
        if not newline:
            raise ValueError("a state of an upload has no end")
        return cls(str(token), str(mark), known, tail)


@attrs.frozen
class Seen:
    """What a look at an upload has shown."""

    begun: bool
    #: Their sizes in bytes.
    states: dict[Version, int]

    @property
    def epoch(self) -> int:
        """Of the last writer."""
        return max((version.epoch for version in self.states), default=0)

    @property
    def newest(self) -> Version | None:
        """What says what is stored."""
        return max((version for version in self.states if version.generation), default=None)


@attrs.frozen
class Shelf:
    """The objects of one upload."""

    client: S3Client
    key: str

    @property
    def folder(self) -> str:
        """What their names begin with."""
        return f"{FOLDER}{self.key}/"

    async def begin(self, stored: Stored) -> None:
        """Store the first state of an upload.

        Raises:
            AlreadyExists: there is an upload. Of two that begin at once, both do: keys are random.

        """
        if (await self.look()).begun:
            raise AlreadyExists(f"there is an upload under the key {self.key} already")
        await self.put(Version(0, 1).name, stored.pack())
        await self.put(_BEGUN, b"")

    async def look(self) -> Seen:
        """See who writes and what is stored."""
        begun, states = False, {}
        async for name, size in self._objects("state/"):
            if name == _BEGUN:
                begun = True
            elif match := _STATE.fullmatch(name):
                states[Version(int(match[1]), int(match[2]))] = size
        return Seen(begun, states)

    async def put(self, name: str, body: bytes | bytearray) -> None:
        """Store an object."""
        await self.client.request("store an upload", "PUT", self.folder + name, body=body)

    async def load(self, version: Version, seen: Seen) -> Stored:
        """Return a state.

        Raises:
            NotFound: it is not there any more, because there is a later one.

        """
        size = seen.states.get(version)
        if size is None:
            raise NotFound(f"the upload {self.key} has no state {version.name} any more")
        content = S3Content(self.client, self.folder + version.name, "", size)
        packed = b"".join([data async for data in content.read(0, size)])
        try:
            return Stored.unpack(packed)
        except ValueError as error:
            raise Damaged(f"the upload {self.key} is damaged: {error}") from error

    def content(self, piece: Piece) -> S3Content:
        """Return a piece for reading."""
        return S3Content(self.client, self.folder + piece.name, "", piece.size)

    async def remove(self, names: Iterable[str]) -> None:
        """Remove objects, some of them at once; does nothing about those that are not there."""
        failure: StorageError | None = None

        async def remove(name: str) -> None:
            nonlocal failure
            try:
                with suppress(NotFound):
                    await self.client.request("remove an upload", "DELETE", self.folder + name)
            except StorageError as error:
                failure = error
            finally:
                limiter.release()

        limiter = trio.Semaphore(REMOVED_AT_ONCE)
        async with trio.open_nursery() as nursery:
            for name in names:
                await limiter.acquire()
                if failure is not None:
                    break
                nursery.start_soon(remove, name)
        if failure is not None:
            raise failure

    async def tidy(self, epoch: int, stored: Stored) -> None:
        """Remove what writers before that of `epoch` have left and its state does not name."""
        named = {piece.name for piece in stored.pieces}
        seen = await self.look()
        await self.remove([version.name for version in seen.states if version.epoch < epoch])
        pieces = [name async for name, _ in self._objects("pieces/")]
        left = [name for name in pieces if (match := _PIECE.fullmatch(name)) and int(match[1]) < epoch]
        await self.remove([name for name in left if name not in named])

    async def clear(self) -> None:
        """Remove everything; from its first step on there is no upload."""
        await self.remove([_BEGUN])
        # A writer that has not seen that yet may be adding; what it adds later still, it removes itself.
        for _ in range(ROUNDS):
            names = [name async for name, _ in self._objects("")]
            if not names:
                break
            await self.remove(names)

    async def _objects(self, below: str) -> AsyncIterator[tuple[str, int]]:
        """Iterate over names (without the folder) and sizes."""
        start = self.client.settings.prefix + self.folder
        query = {"list-type": "2", "max-keys": str(PAGE), "prefix": start + below}
        async for _, page in pages(self.client, "look at an upload", "", query, CONTINUED):
            for entry in page.iterfind("Contents"):
                name, size = entry.findtext("Key") or "", entry.findtext("Size") or ""
                if not size.isdecimal():
                    told = f"it lists an object with the size {size!r}"
                    raise StorageError(
                        self.client.explain("look at an upload", told, "See the service's log")
                    )
                yield name.removeprefix(start), int(size)


async def unfinished(client: S3Client) -> AsyncIterator[str]:
    """Iterate over the names below `FOLDER`, which are keys of uploads."""
    start = client.settings.prefix + FOLDER
    query = {"list-type": "2", "max-keys": str(PAGE), "prefix": start, "delimiter": "/"}
    async for _, page in pages(client, "list uploads", "", query, CONTINUED):
        for entry in page.iterfind("CommonPrefixes/Prefix"):
            yield (entry.text or "").removeprefix(start).removesuffix("/")
