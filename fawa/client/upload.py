"""One file to a server, in as many calls as it takes."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import Final, Protocol

import attrs
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.client.channel import Channel
from fawa.client.errors import ConnectionLost
from fawa.client.method import rpc
from fawa.client.part import TransferError
from fawa.client.retrying import Progress, trying_again
from fawa.proto.file.v1.file_grpc import FileServiceBase
from fawa.proto.file.v1.file_pb2 import (
    CancelUploadRequest,
    FileInfo,
    GetUploadRequest,
    SendFileRequest,
    SendFileResponse,
    StartUploadRequest,
    Terms,
)

#: Bytes of file in one message, well under the 4 MiB that servers take.
CHUNK: Final = 1024 * 1024
#: The same on a line that has broken before: only whole messages are stored.
_CAREFUL_CHUNK: Final = 64 * 1024
#: Seconds to tell the server that an upload is given up.
_FAREWELL: Final = 2.0
#: With which a call for an upload fails that another call can go on with: the server is away or too busy,
#: another call was still at the upload, something else is stored than was thought, or the line stood still.
_MAY_PASS: Final = frozenset(
    {Status.UNAVAILABLE, Status.ABORTED, Status.FAILED_PRECONDITION, Status.DEADLINE_EXCEEDED}
)


class Readable(Protocol):
    """What can be read from any offset: a file, or what looks like one."""

    def seek(self, offset: int, /) -> int:
        """Go on at an offset from the start."""

    def read(self, count: int, /) -> bytes:
        """Return up to `count` bytes, none at the end."""

    def close(self) -> None:
        """Be done with it."""


@attrs.define(eq=False)
class Source:
    """A file to send, hashed on the way."""

    file: Readable
    name: str
    #: Bytes of it to send.
    size: int
    _sha256: hashlib._Hash = attrs.field(factory=hashlib.sha256, init=False)
    #: Bytes from the start that are hashed, each once: what changes while it is sent again is noticed.
    _hashed: int = attrs.field(default=0, init=False)

    async def read(self, offset: int, most: int = CHUNK) -> bytes:
        """Return the next bytes from an offset, `most` unless the file ends before.

        Raises:
            TransferError: the file cannot be read, or ends too early.

        """
        return await trio.to_thread.run_sync(self._read_blocking, offset, most)

    def _read_blocking(self, offset: int, most: int) -> bytes:
        try:
            self.file.seek(offset)
            data = self.file.read(min(most, self.size - offset))
        except OSError as error:
            raise TransferError(f"cannot read {self.name}: {error.strerror}") from error
        if not data:
            raise TransferError(f"{self.name} has become shorter while it was sent: send it again")
        if offset <= self._hashed < offset + len(data):
            self._sha256.update(memoryview(data)[self._hashed - offset :])
            self._hashed = offset + len(data)
        return data

    async def check(self, answer: SendFileResponse) -> SendFileResponse:
        """Return the answer to the whole file, if it says that the server has the same.

        Raises:
            TransferError: it does not, or the file cannot be read.

        """
        if not answer.success or not answer.randomkey:
            raise TransferError(f"the server did not take {self.name}: {answer.message}")
        while self._hashed < self.size:
            await self.read(self._hashed)
        if answer.sha256 and answer.sha256 != self._sha256.digest():
            raise TransferError(
                "what has arrived is not what was read (SHA-256 differs): "
                f"send {self.name} again while nobody changes it"
            )
        return answer


async def send_file(
    channel: Channel, file: Readable, name: str, size: int, progress: Progress
) -> SendFileResponse:
    """Send `size` bytes of `file` under a name, in one call; returns the answer, with the key.

    Raises:
        GRPCError: the call failed; nothing is kept on the server.
        TransferError: the file cannot be read, or ends too early, or something else has arrived.

    """
    source = Source(file, name, size)
    progress.begin(name, size)
    return await source.check(await _send(channel, FileInfo(name=name, size=size), source, progress))


async def _send(
    channel: Channel, info: FileInfo, source: Source, progress: Progress, chunk: int = CHUNK
) -> SendFileResponse:
    """Make one call for what is in `source` from `info.offset` on."""
    async with channel.client_stream(rpc(FileServiceBase.SendFile)) as call:
        await call.send(SendFileRequest(info=info))
        sent = info.offset
        while sent < source.size:
            data = await source.read(sent, chunk)
            await call.send(SendFileRequest(chunk_data=data))
            sent += len(data)
            progress.at(sent)
        return await call.reply()


@attrs.define(eq=False)
class Upload:
    """Sends one file.

    After a broken connection, or when the server was started anew, it goes on where the server's disk has it.
    A server that keeps no interrupted uploads (UNIMPLEMENTED) gets the file in one call.
    """

    channel: Channel
    source: Source
    progress: Progress
    terms: Terms = attrs.field(factory=Terms)
    _upload_id: str = attrs.field(default="", init=False)
    _owner_token: str = attrs.field(default="", init=False, repr=False)
    #: Bytes that the server has said are stored.
    _stored: int = attrs.field(default=0, init=False)
    #: A call for content has been made.
    _begun: bool = attrs.field(default=False, init=False)
    _answer: SendFileResponse = attrs.field(factory=SendFileResponse, init=False)

    async def run(self) -> SendFileResponse:
        """Send the file; returns the answer, with the key, once the server has stored it.

        Raises:
            GRPCError: a call failed, or the connection kept breaking.
            TransferError: the file cannot be read or has changed, or something else has arrived.

        """
        source = self.source
        self.progress.begin(source.name, source.size)
        if not await self._start():
            if self.terms != Terms():
                raise TransferError("the server knows no terms of sharing: send the file without them")
            return await send_file(self.channel, source.file, source.name, source.size, self.progress)
        try:
            await trying_again(self._go_on, _may_pass, lambda: self._stored, self.progress)
        except BaseException:
            # Nothing need stay on the server, if it can be told; else it expires there.
            with trio.move_on_after(_FAREWELL, shield=True), suppress(GRPCError):
                request = CancelUploadRequest(upload_id=self._upload_id)
                await self.channel.unary(rpc(FileServiceBase.CancelUpload), request)
            raise
        answer = await source.check(self._answer)
        answer.owner_token = self._owner_token
        return answer

    async def _start(self) -> bool:
        """Begin the upload; tells whether the server can."""
        request = StartUploadRequest(name=self.source.name, size=self.source.size, terms=self.terms)

        async def start() -> None:
            reply = await self.channel.unary(rpc(FileServiceBase.StartUpload), request)
            self._upload_id = reply.message.upload_id
            self._owner_token = reply.message.owner_token

        try:
            # One that was begun without an answer that arrived expires by itself.
            await trying_again(
                start, lambda error: isinstance(error, ConnectionLost), lambda: 0, self.progress
            )
        except GRPCError as error:
            if error.status is Status.UNIMPLEMENTED:
                return False
            raise
        return True

    async def _go_on(self) -> None:
        """Send what the server does not have."""
        if self._begun:
            request = GetUploadRequest(upload_id=self._upload_id)
            told = (await self.channel.unary(rpc(FileServiceBase.GetUpload), request)).message
            self._stored = told.offset
            self.progress.begin(self.source.name, self.source.size)
            self.progress.at(told.offset)
            if told.file.success:
                # It was the answer alone that was lost.
                self._answer = told.file
                return
        chunk = _CAREFUL_CHUNK if self._begun else CHUNK
        self._begun = True
        info = FileInfo(upload_id=self._upload_id, offset=self._stored)
        self._answer = await _send(self.channel, info, self.source, self.progress, chunk)


def _may_pass(error: GRPCError) -> bool:
    return error.status in _MAY_PASS
