"""Files from a server, with progress; downloads go on after a broken connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.client.channel import Channel
from fawa.client.dial import Trust
from fawa.client.errors import CannotReach, ConnectionLost
from fawa.client.exchange import ClientExchange
from fawa.client.link import Facts, fetch, range_headers, read_slice_untrusted
from fawa.client.method import rpc
from fawa.client.part import Part, TransferError, already_there, safe_name
from fawa.client.retrying import Progress, trying_again
from fawa.proto.file.v1.file_grpc import FileServiceBase
from fawa.proto.file.v1.file_pb2 import (
    GetDownloadURLRequest,
    GetDownloadURLResponse,
    ReceiveFileRequest,
)

#: Bytes of a download by link that are written at once.
_WRITE: Final = 256 * 1024
#: Seconds a link has to tell what it leads to, before the download begins without knowing.
_PATIENCE: Final = 5.0
#: Statuses with which HTTP servers ask to try again later.
_LATER: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


async def get_link(channel: Channel, key: str, password: str = "") -> GetDownloadURLResponse:
    """Return a link to the file under a key, and the file's name.

    Raises:
        GRPCError: the call failed.

    """
    reply = await channel.unary(
        rpc(FileServiceBase.GetDownloadURL), GetDownloadURLRequest(randomkey=key, password=password)
    )
    return reply.message


@attrs.frozen
class Received:
    """A file that has been received."""

    path: Path
    #: As the server has it.
    name: str
    size: int
    #: Bytes that were there from an earlier attempt.
    resumed_from: int


class _StartOver(Exception):  # noqa: N818 - said as it is
    """The link is of no use; the text says why."""


@attrs.define(eq=False)
class Download:
    """Receives one file.

    What an interruption leaves is completed by a ReceiveFile call from where it broke off, if the server
    still has the same content (by its SHA-256), else from the start. A server that tells no SHA-256 knows no
    offsets either: there it is completed through the file's link (`If-Range`), if it can be.
    """

    channel: Channel
    key: str
    #: File or folder to save in, `None` for the current folder.
    destination: Path | None
    #: Replace what is there.
    force: bool
    #: For the link's host.
    trust: Trust
    progress: Progress
    password: str = attrs.field(default="", repr=False)
    _part: Part | None = attrs.field(default=None, init=False)
    #: As the server has it.
    _name: str = attrs.field(default="", init=False)
    #: Of the whole content, once a server has told it.
    _sha256: bytes | None = attrs.field(default=None, init=False)
    #: What the link leads to, where that is how to go on.
    _facts: Facts | None = attrs.field(default=None, init=False)
    _link_is_useless: bool = attrs.field(default=False, init=False)
    #: `None` until the server has said whether the content is still the same.
    _resumed_from: int | None = attrs.field(default=None, init=False)

    @property
    def kept(self) -> Path | None:
        """What the same download can go on from, after it has failed or was cancelled."""
        return self._part.path if self._part is not None and self._part.is_resumable else None

    async def run(self) -> Received:
        """Receive the file; returns once it is durable under its name.

        Raises:
            GRPCError: a call failed, or the connection kept breaking.
            TransferError: something of that name is there, or cannot be written; or the file is damaged.

        """
        try:
            await self._trying_again(self._look_up)
            await self._trying_again(self._complete)
            part = self._opened()
            await self._verify(part)
            await trio.to_thread.run_sync(lambda: part.publish(force=self.force))
            return Received(part.target, self._name, part.size, self._resumed_from or 0)
        finally:
            if self._part is not None:
                self._part.close()

    async def _trying_again(self, attempt: Callable[[], Awaitable[None]]) -> None:
        await trying_again(attempt, self._may_pass, lambda: self._size, self.progress)

    def _may_pass(self, error: GRPCError) -> bool:
        return isinstance(error, ConnectionLost) or (
            error.status is Status.UNAVAILABLE and self._part is not None
        )

    @property
    def _size(self) -> int:
        return 0 if self._part is None else self._part.size

    # What is there

    async def _look_up(self) -> None:
        """Find the target, and what there is of it already."""
        try:
            link = await get_link(self.channel, self.key, self.password)
        except GRPCError as error:
            if error.status in (Status.UNIMPLEMENTED, Status.FAILED_PRECONDITION):
                return  # no link: the first message will tell the name
            raise
        await self._open(link.filename)

    async def _open(self, name: str) -> Part:
        if self._part is None:
            self._name = name
            self._part = await trio.to_thread.run_sync(self._open_blocking, name)
        return self._part

    def _open_blocking(self, name: str) -> Part:
        target = self.destination or Path()
        if self.destination is None or target.is_dir():
            target /= safe_name(name)
        if target.is_dir():
            raise TransferError(f"{target} is a folder: give another -o")
        if not self.force and (target.exists() or target.is_symlink()):
            raise already_there(target)
        return Part(target, self.key)

    def _fit(self, part: Part, tag: str | None, size: int) -> int:
        """Empty a part of anything but the content with this tag; returns how much of that there is."""
        if tag is None or part.tag != tag or part.size > size:
            part.restart(tag)
            self._resumed_from = 0
        elif self._resumed_from is None:
            self._resumed_from = part.size
        return part.size

    async def _ask_facts(self) -> Facts | None:
        """Ask the link for one byte, to learn of what; links of some stores are good for GET alone."""
        found = None
        if not self._link_is_useless:
            with trio.move_on_after(_PATIENCE), suppress(GRPCError, ValueError):
                link = await get_link(self.channel, self.key, self.password)
                async with fetch(link.url, range_headers(0, last=0), self.trust) as response:
                    found = read_slice_untrusted(response.status, response.headers)
        return None if found is None else found.facts

    # Bytes

    async def _complete(self) -> None:
        while True:
            part, facts = self._part, self._facts
            if part is None or facts is None or not part.is_resumable:
                if await self._receive():
                    return
                continue
            try:
                await self._go_on(part, facts)
            except _StartOver as reason:
                self._link_is_useless = True
                self._facts = None
                self._fit(part, None, 0)
                self.progress.note(f"cannot resume: {reason}; starting from the beginning")
            else:
                return

    async def _receive(self) -> bool:
        """Receive the rest by a ReceiveFile call; tells whether that was possible from where it was tried."""
        part = self._part
        offset = part.size if part is not None and part.is_resumable else 0
        request = ReceiveFileRequest(randomkey=self.key, offset=offset, password=self.password)
        try:
            async with self.channel.server_stream(rpc(FileServiceBase.ReceiveFile), request) as call:
                first = await call.recv()
                if first is None or first.WhichOneof("payload") != "file_size":
                    raise TransferError("the server's answer does not begin with the size of the file")
                part = await self._open(first.filename)
                if first.sha256:
                    self._sha256 = first.sha256
                    # As the link's entity tag, so that a part does not depend on how it came.
                    there = self._fit(part, f'"{first.sha256.hex()}"', first.file_size)
                else:
                    self._facts = await self._ask_facts()
                    there = self._fit(part, None if self._facts is None else self._facts.tag, first.file_size)
                    offset = 0
                if there != offset:
                    return False
                self.progress.begin(part.target.name, first.file_size)
                if there:
                    self.progress.at(there)
                async for message in call:
                    await trio.to_thread.run_sync(part.write, message.chunk_data)
                    self.progress.at(part.size)
        except GRPCError as error:
            if error.status is Status.OUT_OF_RANGE and part is not None and offset:
                self._fit(part, None, 0)
                return False
            raise
        _check_size(part, first.file_size)
        return True

    async def _go_on(self, part: Part, facts: Facts) -> None:
        """Receive the rest through a link.

        Raises:
            ConnectionLost: it broke again, or the server asks to come back later.
            _StartOver: the rest cannot be had this way.

        """
        self.progress.begin(part.target.name, facts.size)
        self.progress.at(part.size)
        if part.size == facts.size:
            return
        link = await get_link(self.channel, self.key, self.password)
        try:
            async with fetch(link.url, range_headers(part.size, facts.tag), self.trust) as response:
                if response.status in _LATER:
                    raise ConnectionLost(f"the link answers with HTTP status {response.status}")
                found = read_slice_untrusted(response.status, response.headers)
                if found is None or found.start not in (0, part.size):
                    raise _StartOver(f"the link answers with HTTP status {response.status}")
                if found.start and found.facts.tag != facts.tag:
                    raise _StartOver("the link leads to something else now")
                if found.start == 0:
                    # Another content, or a server without ranges: this is the whole.
                    part.restart(found.facts.tag)
                    self._resumed_from = 0
                self._facts = found.facts
                await self._write_body(part, response)
        except (CannotReach, ValueError) as error:
            raise _StartOver(str(error)) from error
        _check_size(part, found.facts.size)

    async def _write_body(self, part: Part, response: ClientExchange) -> None:
        waiting: list[bytes] = []
        size = 0
        try:
            while data := await response.receive():
                waiting.append(data)
                size += len(data)
                if size >= _WRITE:
                    whole = b"".join(waiting)
                    waiting.clear()
                    size = 0
                    await trio.to_thread.run_sync(part.write, whole)
                    self.progress.at(part.size)
        finally:
            # Also what came before an error: the next attempt goes on after it.
            part.write(b"".join(waiting))
            self.progress.at(part.size)

    def _opened(self) -> Part:
        assert self._part is not None, "every complete download has written its part"  # noqa: S101
        return self._part

    async def _verify(self, part: Part) -> None:
        sha256 = self._sha256 if self._facts is None else self._facts.sha256
        if sha256 is None:
            return
        while await trio.to_thread.run_sync(part.hash_some):
            pass
        if part.sha256 != sha256:
            part.restart(None)
            raise TransferError("what arrived is not what was sent (SHA-256 differs): receive it again")


def _check_size(part: Part, size: int) -> None:
    if part.size != size:
        came = part.size
        part.restart(None)
        raise TransferError(f"the server announced {size} bytes and sent {came}")
