"""`file.v1`: send a file, receive it, share a temporary link to it."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from typing import Any, cast

import attrs
import trio
from google.protobuf.message import Message
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.ops.logging import get_logger
from fawa.proto.file.v1.file_grpc import FileServiceBase
from fawa.proto.file.v1.file_pb2 import (
    CancelUploadRequest,
    CancelUploadResponse,
    DeleteFileRequest,
    DeleteFileResponse,
    FileInfo,
    GetDownloadURLRequest,
    GetDownloadURLResponse,
    GetUploadRequest,
    GetUploadResponse,
    ReceiveFileRequest,
    ReceiveFileResponse,
    SendFileRequest,
    SendFileResponse,
    StartUploadRequest,
    StartUploadResponse,
)
from fawa.rpc.stream import Stream
from fawa.services.downloads import AllTaken, Downloads
from fawa.services.figures import Flow, Transfers
from fawa.services.file_settings import FileSettings
from fawa.services.file_uploads import UploadRpc, checked_sha256, share
from fawa.services.links import link_base, link_expiry, make_link
from fawa.services.names import check_name_untrusted, content_disposition
from fawa.services.quotas import OverQuota, Quotas, Room
from fawa.services.sharing import Denied, Sharing, TooOften
from fawa.services.unary import receive_one
from fawa.services.uploads import Uploads, make_key
from fawa.storage.base import (
    ContentStore,
    Damaged,
    FileRecord,
    MetadataStore,
    NotFound,
    OutOfReach,
    OutOfSpace,
    StorageError,
    Upload,
    is_key,
)
from fawa.storage.lifecycle import find, open_file, publish, remove

_log = get_logger("fawa.services.file")


@attrs.frozen(eq=False)
class FileRpc(FileServiceBase):
    """The methods."""

    content: ContentStore
    metadata: MetadataStore
    secret: bytes = attrs.field(repr=False)
    #: Asked at each call, so that settings can change under it.
    settings: Callable[[], FileSettings]
    #: The time in Unix seconds.
    clock: Callable[[], float]
    sharing: Sharing
    quotas: Quotas
    #: Uploads that may be interrupted, where the stores can keep them.
    uploads: Uploads | None = None
    transfers: Transfers = attrs.field(factory=Transfers)

    async def SendFile(self, stream: Stream[SendFileRequest, SendFileResponse]) -> None:
        """Store a file; answers once it is durable. An upload that does not end well leaves nothing."""
        settings = self.settings()
        info = await _receive_info(stream, settings)
        address = self._address(stream)
        if info.upload_id:
            with _status_of_storage_errors():
                resumable = self._resumable()
                async with (
                    self.transfers.rpc_up as flow,
                    aclosing(_contents(stream, settings.progress_timeout, flow)) as chunks,
                ):
                    answer = await resumable.send(info, chunks, flow, address)
            await stream.send_message(answer)
            return
        expected = checked_sha256(info.sha256)
        with _status_of_storage_errors():
            # Whoever sends much should not hear at its end what was known at its beginning.
            await self.metadata.check()
            shared = await share(self.sharing, info.terms)
            key = make_key()
            async with (
                self.quotas.room(key, info.size, address) as room,
                self.transfers.rpc_up as flow,
                self.content.create(key) as upload,
            ):
                await _receive_content(stream, upload, room, info.size, settings.progress_timeout, flow)
                sha256 = await upload.digest()
                if expected is not None and expected != sha256:
                    text = f"what came has the SHA-256 {sha256.hex()}, not {expected.hex()}: send it again"
                    raise GRPCError(Status.DATA_LOSS, text)
                record = shared.record(key, info.name, info.size, sha256, self.clock(), settings.ttl)
                await publish(self.content, self.metadata, upload, record)
        await stream.send_message(_answer(record, shared.owner_token))

    async def StartUpload(self, stream: Stream[StartUploadRequest, StartUploadResponse]) -> None:
        """Begin an upload that may be interrupted."""
        request = await receive_one(stream)
        with _status_of_storage_errors():
            answer = await self._resumable().start(request, self._address(stream))
        await stream.send_message(answer)

    async def GetUpload(self, stream: Stream[GetUploadRequest, GetUploadResponse]) -> None:
        """Tell how far an upload has come."""
        request = await receive_one(stream)
        with _status_of_storage_errors():
            answer = await self._resumable().get(request.upload_id)
        await stream.send_message(answer)

    async def CancelUpload(self, stream: Stream[CancelUploadRequest, CancelUploadResponse]) -> None:
        """Remove an upload."""
        request = await receive_one(stream)
        with _status_of_storage_errors():
            await self._resumable().cancel(request.upload_id)
        await stream.send_message(CancelUploadResponse())

    def _address(self, stream: object) -> str:
        """Return whom the bytes of a call are counted for."""
        return self.quotas.address(cast("Any", stream).exchange)

    def _resumable(self) -> UploadRpc:
        if self.uploads is None:
            raise GRPCError(
                Status.UNIMPLEMENTED, "this server keeps no interrupted uploads: use SendFile alone"
            )
        return UploadRpc(self.uploads, self.sharing, _answer)

    async def ReceiveFile(self, stream: Stream[ReceiveFileRequest, ReceiveFileResponse]) -> None:
        """Send a file back: its name and size, then its content."""
        request = await receive_one(stream)
        key = _checked_key(request.randomkey)
        with _status_of_storage_errors():
            record = await self._admit(stream, key, request.password)
            async with self.downloads.open(record) as download:
                content = download.content
                name = record.name
                start, count = _asked_range(request, record)
                _leave_uncompressed(stream)
                first = ReceiveFileResponse(
                    filename=name,
                    file_size=record.size,
                    sha256=record.sha256,
                    expires_at=_milliseconds(record.expires),
                )
                await stream.send_message(first)
                async with self.transfers.rpc_down as flow, aclosing(content.read(start, count)) as pieces:
                    async for piece in pieces:
                        await _send_content(stream, ReceiveFileResponse(filename=name), "chunk_data", piece)
                        flow.bytes += len(piece)
                # Of a download in parts, exactly one has the last byte.
                download.completed = start + count == record.size

    async def _admit(self, stream: object, key: str, password: str) -> FileRecord:
        """Return the record of a file for whoever has its key and password."""
        async with self.sharing.guessing(cast("Any", stream).exchange):
            record = await find(self.metadata, key, self.clock())
            await self.sharing.check_password(record, password)
        return record

    @property
    def downloads(self) -> Downloads:
        """What opens files."""
        return Downloads(self.content, self.metadata, self.clock)

    async def GetDownloadURL(self, stream: Stream[GetDownloadURLRequest, GetDownloadURLResponse]) -> None:
        """Answer with a link that works for a while without anything else."""
        request = await receive_one(stream)
        key = _checked_key(request.randomkey)
        settings = self.settings()
        now = self.clock()
        with _status_of_storage_errors():
            record = await self._admit(stream, key, request.password)
            # No link to content that is not there.
            async with open_file(self.content, record):
                pass
        expires = link_expiry(record, now, settings.link_ttl)
        url = self._direct_link(record, now, expires)
        if url is None:
            base = _link_base(settings.public_url, stream)
            url = make_link(base, self.secret, key, record.name, expires)
        answer = GetDownloadURLResponse(
            url=url,
            filename=record.name,
            expires_at=expires * 1000,
            file_expires_at=_milliseconds(record.expires),
        )
        await stream.send_message(answer)

    def _direct_link(self, record: FileRecord, now: float, expires: int) -> str | None:
        """Return a link to the backend, if clients reach it; what goes that way is not counted."""
        if record.terms.max_downloads:
            return None
        headers = {
            "cache-control": "private",
            "content-disposition": content_disposition(record.name),
            "content-type": record.content_type,
        }
        return self.content.link(record.key, headers, now, expires - math.floor(now))

    async def DeleteFile(self, stream: Stream[DeleteFileRequest, DeleteFileResponse]) -> None:
        """Remove a file for its owner."""
        request = await receive_one(stream)
        key = _checked_key(request.randomkey)
        with _status_of_storage_errors():
            async with self.sharing.guessing(cast("Any", stream).exchange):
                record = await find(self.metadata, key, self.clock())
                self.sharing.check_owner(record, request.owner_token)
            await remove(self.content, self.metadata, key)
        await stream.send_message(DeleteFileResponse())


def _answer(record: FileRecord, owner_token: str = "") -> SendFileResponse:
    """Return the answer for a file that is stored."""
    until = datetime.fromtimestamp(record.expires, UTC).isoformat(" ", "seconds")
    return SendFileResponse(
        success=True,
        message=f"{record.size} bytes received, kept until {until}",
        randomkey=record.key,
        expires_at=_milliseconds(record.expires),
        sha256=record.sha256,
        offset=record.size,
        owner_token=owner_token,
    )


def _asked_range(request: ReceiveFileRequest, record: FileRecord) -> tuple[int, int]:
    """Return first byte and number of bytes of the part of a file that is asked for."""
    size = record.size
    if request.offset < 0 or request.length < 0:
        text = f"offset {request.offset} and length {request.length} must not be negative"
        raise GRPCError(Status.INVALID_ARGUMENT, text)
    if request.offset > size:
        raise GRPCError(Status.OUT_OF_RANGE, f"the file has {size} bytes, so none from {request.offset} on")
    rest = size - request.offset
    count = min(request.length, rest) if request.length else rest
    if count < rest and record.terms.max_downloads:
        text = "this file may be downloaded a few times only, so it is given out to its end: leave length out"
        raise GRPCError(Status.INVALID_ARGUMENT, text)
    return request.offset, count


def _milliseconds(seconds: float) -> int:
    """Return a Unix time as the contract has it, not later than it is."""
    return math.floor(seconds * 1000)


async def _receive_info(stream: Stream[SendFileRequest, Any], settings: FileSettings) -> FileInfo:
    """Return the first message of an upload, once it is known to be one that can be stored."""
    first = None
    with trio.move_on_after(settings.progress_timeout) as waiting:
        first = await stream.recv_message()
    if waiting.cancelled_caught:
        raise _stalled(settings.progress_timeout)
    kind = None if first is None else first.WhichOneof("payload")
    if first is None or kind != "info":
        came = "the stream ended" if first is None else f"{kind or 'a message without payload'} came"
        raise GRPCError(Status.INVALID_ARGUMENT, f"the first message must be info, but {came}")
    info = first.info
    if info.upload_id:
        return info  # the rest was checked when the upload began
    try:
        check_name_untrusted(info.name)
    except ValueError as error:
        raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from None
    if info.size < 0:
        raise GRPCError(Status.INVALID_ARGUMENT, f"the size of a file cannot be {info.size} bytes")
    if 0 < settings.max_file_size < info.size:
        raise GRPCError(
            Status.RESOURCE_EXHAUSTED,
            f"the file has {info.size} bytes, the largest taken here has {settings.max_file_size}",
        )
    return info


async def _receive_content(
    stream: Stream[SendFileRequest, Any],
    upload: Upload,
    room: Room,
    size: int,
    progress_timeout: float,
    flow: Flow,
) -> None:
    """Write the chunks of an upload; they must come to exactly `size` bytes."""
    received = 0
    async with aclosing(_contents(stream, progress_timeout, flow)) as chunks:
        async for pieces in chunks:
            received += sum(map(len, pieces))
            if received > size:
                raise GRPCError(
                    Status.INVALID_ARGUMENT, f"info.size says {size} bytes, and at least {received} came"
                )
            await room.grow(received)
            for data in pieces:
                await upload.write(data)
    if received < size:
        raise GRPCError(
            Status.INVALID_ARGUMENT, f"info.size says {size} bytes, but the stream ended after {received}"
        )


async def _contents(
    stream: Stream[SendFileRequest, Any], progress_timeout: float, flow: Flow
) -> AsyncGenerator[list[bytes | memoryview], None]:
    """Iterate over what the chunks hold, to the end of the call; all that has come at once, in pieces."""
    deadline = trio.current_time() + progress_timeout
    while True:
        with trio.move_on_at(deadline) as waiting:
            contents = await _receive_contents_of(stream, "chunk_data")
        if waiting.cancelled_caught:
            raise _stalled(progress_timeout)
        come: list[bytes | memoryview] = []
        wrong: GRPCError | None = None
        ended = True
        try:
            for message, pieces in contents:
                ended = False
                if not pieces and (kind := message.WhichOneof("payload")) != "chunk_data":
                    what = "a second info" if kind == "info" else "a message without payload"
                    raise GRPCError(Status.INVALID_ARGUMENT, f"after info only chunks may come, not {what}")
                come += pieces
        except GRPCError as error:
            wrong = error  # what came before it counts
        if come:
            flow.bytes += sum(map(len, come))
            yield come
            # Empty chunks are no progress: they do not move the deadline.
            deadline = trio.current_time() + progress_timeout
        if wrong is not None:
            raise wrong
        if ended:
            return


def _stalled(timeout: float) -> GRPCError:
    return GRPCError(
        Status.DEADLINE_EXCEEDED, f"nothing of the file came for {timeout:g} seconds; send it again"
    )


def _checked_key(key: str) -> str:
    if not key:
        raise GRPCError(Status.INVALID_ARGUMENT, "randomkey is empty: give the key that SendFile answered")
    if not is_key(key):
        raise _unknown_key()
    return key


def _unknown_key() -> GRPCError:
    return GRPCError(
        Status.NOT_FOUND, "there is no file under this key: it is wrong, or the file has expired"
    )


@contextmanager
def _status_of_storage_errors() -> Iterator[None]:
    """Turn storage errors into statuses; what only operators should know goes to the log."""
    try:
        yield
    except NotFound:
        raise _unknown_key() from None
    except Denied as error:
        raise GRPCError(Status.PERMISSION_DENIED, str(error)) from None
    except (AllTaken, OverQuota, TooOften) as error:
        raise GRPCError(Status.RESOURCE_EXHAUSTED, str(error)) from None
    except OutOfSpace as error:
        _log.error("there is no room for a file", error=str(error))
        raise GRPCError(Status.RESOURCE_EXHAUSTED, "the server has no room left for this file") from error
    except Damaged as error:
        _log.error("a file could not be sent", error=str(error))
        raise GRPCError(Status.DATA_LOSS, "the file is damaged on the server, send it again") from error
    except OutOfReach as error:
        # The backend's module logs when this begins and ends; calls may come by the thousand.
        _log.debug("file storage is out of reach", error=str(error))
        raise GRPCError(Status.UNAVAILABLE, error.told) from error
    except StorageError as error:
        _log.error("file storage failed", error=str(error))
        raise GRPCError(Status.UNAVAILABLE, "file storage fails at the moment, try again later") from error


# What grpclib's stream has no word for is asked of our own call object here, and nowhere else.


def _leave_uncompressed(stream: object) -> None:
    """Send content as it is: most files are compressed already, and those that are not cost time."""
    cast("Any", stream).compress = False


async def _receive_contents_of(stream: object, field: str) -> Iterator[tuple[Any, list[bytes | memoryview]]]:
    """Receive messages whose bytes field `field` is large and so better not copied; none at their end."""
    received: Iterator[tuple[Any, list[bytes | memoryview]]] = await cast("Any", stream).recv_contents(field)
    return received


async def _send_content(stream: object, message: Message, field: str, content: bytes) -> None:
    """Send a message whose bytes field `field` is `content`, which is large and so better not copied."""
    await cast("Any", stream).send_content(message, field, content)


def _link_base(public_url: str, stream: object) -> str:
    """Return what links begin with.

    Raises:
        GRPCError: FAILED_PRECONDITION, the client named no host that a link could have.

    """
    try:
        return link_base(public_url, cast("Any", stream).exchange)
    except ValueError as error:
        raise GRPCError(Status.FAILED_PRECONDITION, str(error)) from None
