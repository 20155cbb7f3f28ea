"""`file.v1` for uploads that may be interrupted: calls on the engine, and its errors as statuses."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import attrs
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.proto.file.v1.file_pb2 import (
    FileInfo,
    GetUploadResponse,
    SendFileResponse,
    StartUploadRequest,
    StartUploadResponse,
    Terms,
    UploadOffset,
)
from fawa.services.figures import Flow
from fawa.services.names import check_name_untrusted
from fawa.services.sharing import Shared, Sharing
from fawa.services.uploads import Incomplete, Mismatch, TooLong, Uploads, Writer
from fawa.storage.base import Fenced, FileRecord, NotFound, WrongOffset

_SHA256_SIZE: Final = 32

Chunks = AsyncIterator[list[bytes | memoryview]]


@attrs.frozen(eq=False)
class UploadRpc:
    """The methods; storage errors of other kinds are the caller's to translate."""

    uploads: Uploads
    sharing: Sharing
    #: Makes the answer for a file that is whole.
    answer: Callable[[FileRecord], SendFileResponse]

    async def start(self, request: StartUploadRequest, address: str) -> StartUploadResponse:
        """Begin an upload, which is counted for an address."""
        try:
            check_name_untrusted(request.name)
        except ValueError as error:
            raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from None
        size = request.size if request.HasField("size") else None
        if size is not None and size < 0:
            raise GRPCError(Status.INVALID_ARGUMENT, f"the size of a file cannot be {size} bytes")
        shared = await share(self.sharing, request.terms)
        with _status_of_upload_errors():
            sha256 = checked_sha256(request.sha256)
            record = await self.uploads.start(request.name, size, shared, sha256=sha256, address=address)
        return StartUploadResponse(
            upload_id=record.id,
            expires_at=math.floor(record.expires * 1000),
            owner_token=shared.owner_token,
        )

    async def get(self, upload_id: str) -> GetUploadResponse:
        """Tell how far an upload has come."""
        with _status_of_upload_errors():
            progress = await self.uploads.progress(upload_id)
        record, file = progress.record, progress.file
        return GetUploadResponse(
            offset=progress.offset,
            expires_at=math.floor(record.expires * 1000),
            size=record.size if file is None else file.size,
            file=None if file is None else self.answer(file),
        )

    async def cancel(self, upload_id: str) -> None:
        """Remove an upload."""
        with _status_of_upload_errors():
            await self.uploads.cancel(upload_id)

    async def send(self, info: FileInfo, chunks: Chunks, flow: Flow, address: str) -> SendFileResponse:
        """Go on with an upload; what came is kept, however this ends."""
        if info.offset < 0:
            raise GRPCError(Status.INVALID_ARGUMENT, f"an offset cannot be {info.offset}")
        sha256 = checked_sha256(info.sha256)
        with _status_of_upload_errors():
            async with self.uploads.resume(info.upload_id, info.offset, address) as writer:
                _check_same(info, writer)
                flow.resumed += writer.offset > 0
                async for pieces in chunks:
                    for data in pieces:
                        await writer.write(data)
                if writer.is_whole or (info.complete and writer.record.size is None):
                    return self.answer(await writer.finish(sha256))
                if info.complete:
                    raise Incomplete(f"the upload has {writer.record.size} bytes, only {writer.offset} came")
                offset = await writer.sync()
                return SendFileResponse(
                    success=False,
                    message=f"{offset} bytes are stored and the rest is missing: go on from there",
                    expires_at=math.floor(writer.record.expires * 1000),
                    offset=offset,
                )


async def share(sharing: Sharing, asked: Terms) -> Shared:
    """Return the terms that a client asks for.

    Raises:
        GRPCError: INVALID_ARGUMENT, they cannot be.

    """
    try:
        return await sharing.terms(asked.ttl_seconds, asked.max_downloads, asked.password)
    except ValueError as error:
        raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from None


def checked_sha256(value: bytes) -> bytes | None:
    """Return a SHA-256 that a client has told, if it has.

    Raises:
        GRPCError: INVALID_ARGUMENT, it is none.

    """
    if value and len(value) != _SHA256_SIZE:
        raise GRPCError(Status.INVALID_ARGUMENT, f"a SHA-256 has {_SHA256_SIZE} bytes, not {len(value)}")
    return value or None


def _check_same(info: FileInfo, writer: Writer) -> None:
    record = writer.record
    if info.name and info.name != record.name:
        text = f"the upload is of {record.name!r}, not of {info.name!r}: leave info.name out, or begin anew"
        raise GRPCError(Status.INVALID_ARGUMENT, text)
    if info.size and info.size != record.size:
        was = "not told" if record.size is None else f"{record.size} bytes"
        text = f"the upload's size is {was}, not {info.size} bytes: leave info.size out, or begin anew"
        raise GRPCError(Status.INVALID_ARGUMENT, text)


@contextmanager
def _status_of_upload_errors() -> Iterator[None]:
    try:
        yield
    except NotFound:
        text = "there is no upload of this id: it is wrong, or the upload was cancelled or has expired"
        raise GRPCError(Status.NOT_FOUND, text) from None
    except WrongOffset as error:
        text = f"{error.offset} bytes of the upload are stored: go on from there"
        details = [UploadOffset(offset=error.offset)]
        raise GRPCError(Status.FAILED_PRECONDITION, text, details) from None
    except Fenced:
        text = "another call goes on with this upload or has finished or cancelled it: ask GetUpload"
        raise GRPCError(Status.ABORTED, text) from None
    except (Incomplete, TooLong) as error:
        raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from None
    except Mismatch as error:
        raise GRPCError(Status.DATA_LOSS, str(error)) from None
