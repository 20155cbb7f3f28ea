"""Files to and from a server, with progress; downloads go on after a broken connection."""

from __future__ import annotations

import random
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import attrs
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa import restarts
from fawa.client.channel import Channel
from fawa.client.dial import Trust
from fawa.client.errors import CannotReach, ConnectionLost
from fawa.client.exchange import ClientExchange
from fawa.client.link import Facts, fetch, range_headers, read_slice_untrusted
from fawa.client.method import rpc
from fawa.client.part import Part, TransferError, already_there, safe_name
from fawa.proto.file.v1.file_grpc import FileServiceBase
from fawa.proto.file.v1.file_pb2 import (
    FileInfo,
    GetDownloadURLRequest,
    GetDownloadURLResponse,
    ReceiveFileRequest,
    SendFileRequest,
    SendFileResponse,
)

#: Bytes of file in one message, well under the 4 MiB that servers take.
CHUNK: Final = 1024 * 1024
#: Bytes of a download by link that are written at once.
_WRITE: Final = 256 * 1024
#: Failures in a row, without a byte received in between, after which a download is given up.
_TRIES: Final = 6
#: Seconds a link has to tell what it leads to, before the download begins without knowing.
_PATIENCE: Final = 5.0
#: Statuses with which HTTP servers ask to try again later.
_LATER: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class Progress(Protocol):
    """Told how a transfer gets on."""

    def begin(self, name: str, total: int) -> None:
        """Begin a transfer of `total` bytes."""

    def at(self, done: int) -> None:
        """So many bytes are done."""

    def note(self, text: str) -> None:
        """Say in one line what goes on."""


async def send_file(
    channel: Channel, file: BinaryIO, name: str, size: int, progress: Progress
) -> SendFileResponse:
    """Send `size` bytes of `file` under a name; returns the answer, with the key.

    Raises:
        GRPCError: the call failed; nothing is kept on the server.
        TransferError: the file cannot be read, or ends too early.

    """
    progress.begin(name, size)
    async with channel.client_stream(rpc(FileServiceBase.SendFile)) as call:
        await call.send(SendFileRequest(info=FileInfo(name=name, size=size)))
        sent = 0
        while sent < size:
            try:
                data = await trio.to_thread.run_sync(file.read, min(CHUNK, size - sent))
            except OSError as error:
                raise TransferError(f"cannot read {name}: {error.strerror}") from error
            if not data:
                raise TransferError(f"{name} has become shorter while it was sent: send it again")
            await call.send(SendFileRequest(chunk_data=data))
            sent += len(data)
            progress.at(sent)
        answer = await call.reply()
    if not answer.success or not answer.randomkey:
        raise TransferError(f"the server did not take {name}: {answer.message}")
    return answer


async def get_link(channel: Channel, key: str) -> GetDownloadURLResponse:
    """Return a link to the file under a key, and the file's name.

    Raises:
        GRPCError: the call failed.

    """
    reply = await channel.unary(rpc(FileServiceBase.GetDownloadURL), GetDownloadURLRequest(randomkey=key))
    return reply.message


@attrs.frozen
class Received:
    """A file that has been received."""

    path: Path
    size: int
    #: Bytes that were there from an earlier attempt.
    resumed_from: int


class _StartOver(Exception):  # noqa: N818 - said as it is
    """The link is of no use; the text says why."""


@attrs.define(eq=False)
class Download:
    """Receives one file.

    The first attempt is a ReceiveFile call. What an interruption leaves is completed through the file's link,
    if the server still has the same content (`If-Range`), else from the start.
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
    _part: Part | None = attrs.field(default=None, init=False)
    _facts: Facts | None = attrs.field(default=None, init=False)
    _resumed_from: int = attrs.field(default=0, init=False)

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
            return Received(part.target, part.size, self._resumed_from)
        finally:
            if self._part is not None:
                self._part.close()

    async def _trying_again(self, attempt: _Attempt) -> None:
        """Run an attempt until it succeeds; after a failure that may pass, wait a moment and go on."""
        failures = 0
        while True:
            before = self._size
            try:
                await attempt()
            except GRPCError as error:
                failures = 1 if self._size > before else failures + 1
                may_pass = isinstance(error, ConnectionLost) or (
                    error.status is Status.UNAVAILABLE and self._part is not None
                )
                if not may_pass or failures == _TRIES:
                    raise
                seconds = restarts.pause(failures, random.random())  # noqa: S311 - jitter, not a secret
                self.progress.note(f"{error.message}; going on in {seconds:.1f} s")
                await trio.sleep(seconds)
            else:
                return

    @property
    def _size(self) -> int:
        return 0 if self._part is None else self._part.size

    # What is asked for

    async def _look_up(self) -> None:
        """Find the target, what there is of it already, and what the server has."""
        try:
            link = await get_link(self.channel, self.key)
        except GRPCError as error:
            if error.status in (Status.UNIMPLEMENTED, Status.FAILED_PRECONDITION):
                return  # no link, so nothing can be resumed: the first message will tell the name
            raise
        part = await self._open(link.filename)
        self._facts = await self._ask_facts(link.url)
        if self._facts is not None and part.tag == self._facts.tag and part.size <= self._facts.size:
            self._resumed_from = part.size
        else:
            part.restart(None if self._facts is None else self._facts.tag)

    async def _open(self, name: str) -> Part:
        if self._part is None:
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

    async def _ask_facts(self, url: str) -> Facts | None:
        """Ask the link for one byte, to learn of what; links of some stores are good for GET alone."""
        found = None
        with trio.move_on_after(_PATIENCE):
            try:
                async with fetch(url, range_headers(0, last=0), self.trust) as response:
                    found = read_slice_untrusted(response.status, response.headers)
            except (GRPCError, ValueError):
                return None
        return None if found is None else found.facts

    # Bytes

    async def _complete(self) -> None:
        if self._part is not None and self._part.is_resumable and self._facts is not None:
            try:
                await self._go_on(self._part, self._facts)
            except _StartOver as reason:
                self._facts = None
                self.progress.note(f"cannot resume: {reason}; starting from the beginning")
            else:
                return
        await self._receive()

    async def _receive(self) -> None:
        """Receive the whole file by a ReceiveFile call."""
        request = ReceiveFileRequest(randomkey=self.key)
        async with self.channel.server_stream(rpc(FileServiceBase.ReceiveFile), request) as call:
            first = await call.recv()
            if first is None or first.WhichOneof("payload") != "file_size":
                raise TransferError("the server's answer does not begin with the size of the file")
            part = await self._open(first.filename)
            self._resumed_from = 0
            part.restart(None if self._facts is None else self._facts.tag)
            self.progress.begin(part.target.name, first.file_size)
            async for message in call:
                await trio.to_thread.run_sync(part.write, message.chunk_data)
                self.progress.at(part.size)
        _check_size(part, first.file_size)

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
        link = await get_link(self.channel, self.key)
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
        if self._facts is None or self._facts.sha256 is None:
            return
        while await trio.to_thread.run_sync(part.hash_some):
            pass
        if part.sha256 != self._facts.sha256:
            part.restart(None)
            raise TransferError("what arrived is not what was sent (SHA-256 differs): receive it again")


class _Attempt(Protocol):
    async def __call__(self) -> None: ...


def _check_size(part: Part, size: int) -> None:
    if part.size != size:
        came = part.size
        part.restart(None)
        raise TransferError(f"the server announced {size} bytes and sent {came}")
