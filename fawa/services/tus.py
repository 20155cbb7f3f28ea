"""tus 1.0.0 (https://tus.io/protocols/resumable-upload): uploads that may be interrupted, for its clients."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import attrs

from fawa.net.exchange import Exchange, Headers
from fawa.services.conditions import format_date
from fawa.services.fields import base64_untrusted, field, media_type
from fawa.services.intake import (
    BadChecksum,
    Checksum,
    Intake,
    Refused,
    checked_name,
    refusing,
    removing,
    token_field,
)
from fawa.services.names import UNNAMED
from fawa.services.uploads import Ended, Mismatch, Uploads, Writer
from fawa.storage.base import UploadRecord, WrongOffset

VERSION: Final = "1.0.0"
#: The type of a body that is a part of a file.
PART: Final = "application/offset+octet-stream"

_EXTENSIONS: Final = b"creation,creation-with-upload,creation-defer-length,checksum,expiration,termination"
#: By the name that `hashlib` has for each, with the bytes of a digest.
_ALGORITHMS: Final = {"sha1": 20, "sha256": 32}
_NUMBER: Final = re.compile(r"[0-9]{1,15}")
_PAIR: Final = re.compile(r"[ ]*([\x21-\x2b\x2d-\x7e]+)(?:[ ]+([A-Za-z0-9+/=]*))?[ ]*")
#: What clients call the file's name, the first going before the second (Uppy sends both).
_NAME_KEYS: Final = ("filename", "name")


def offers(max_file_size: int) -> Headers:
    """Return what an answer to OPTIONS says; 0 is no limit."""
    return [
        (b"tus-version", VERSION.encode()),
        (b"tus-extension", _EXTENSIONS),
        (b"tus-checksum-algorithm", ",".join(_ALGORITHMS).encode()),
        *([(b"tus-max-size", b"%d" % max_file_size)] if max_file_size else []),
    ]


@attrs.frozen(eq=False)
class Tus:
    """The requests of one upload, and the one that begins it."""

    intake: Intake
    uploads: Uploads

    async def serve(self, exchange: Exchange, method: str, upload_id: str) -> None:
        """Answer a request to an upload, or where `upload_id` is "" to their folder.

        Raises:
            Disconnected: the client is gone.

        """
        exchange.extra_headers.append((b"tus-resumable", VERSION.encode()))
        try:
            with _refusing():
                if (version := field(exchange, b"tus-resumable")) != VERSION:
                    said = "it is missing" if version is None else f"not {version[:80]!r}"
                    text = f"Tus-Resumable must be {VERSION}, {said}"
                    raise Refused(412, text, [(b"tus-version", VERSION.encode())])
                match method:
                    case "POST":
                        await self._create(exchange)
                    case "HEAD":
                        await self._tell(exchange, upload_id)
                    case "PATCH":
                        await self._append(exchange, upload_id)
                    case _:
                        await self.uploads.cancel(upload_id)
                        exchange.start(204, [], end=True)
        except Refused as refused:
            exchange.respond_text(refused.status, refused.text, refused.headers)

    async def _create(self, exchange: Exchange) -> None:
        size = _asked_size(exchange)
        metadata = field(exchange, b"upload-metadata") or ""
        name = checked_name(exchange, lambda _: name_untrusted(metadata))
        checksums = _checksums(exchange)
        base = self.intake.base(exchange)
        shared = await self.intake.share(exchange)
        has_part = media_type(field(exchange, b"content-type")) == PART
        if not has_part and await exchange.receive():
            raise Refused(415, f"a body must have the Content-Type {PART}")
        address = self.uploads.quotas.address(exchange)
        record = await self.uploads.start(name, size, shared, metadata=metadata, address=address)
        begun = [(b"location", self.intake.address(record.id)), *token_field(shared.owner_token)]
        if not has_part and size != 0:
            exchange.start(201, [*begun, *_expiry(record)], end=True)
            return
        async with (
            # Nobody has been told where it is.
            removing(self.uploads, record, BaseException),
            self.uploads.resume(record.id, 0, address) as writer,
            self.intake.transfers.tus as flow,
        ):
            await self.intake.append(exchange, writer, checksums, flow)
            told = await self._outcome(writer, base)
        exchange.start(201, [*begun, *told], end=True)

    async def _tell(self, exchange: Exchange, upload_id: str) -> None:
        base = self.intake.base(exchange)
        progress = await self.uploads.progress(upload_id)
        record, file = progress.record, progress.file
        size = record.size if file is None else file.size
        headers: Headers = [
            (b"cache-control", b"no-store"),
            (b"upload-offset", b"%d" % progress.offset),
            (b"upload-defer-length", b"1") if size is None else (b"upload-length", b"%d" % size),
        ]
        if record.metadata:
            headers.append((b"upload-metadata", record.metadata.encode("latin-1")))
        headers += _expiry(record) if file is None else self.intake.with_link(file, base).headers
        exchange.start(200, headers, end=True)

    async def _append(self, exchange: Exchange, upload_id: str) -> None:
        if media_type(field(exchange, b"content-type")) != PART:
            raise Refused(
                415, f"a PATCH must have the Content-Type {PART}", [(b"accept-patch", PART.encode())]
            )
        offset = _number(exchange, b"upload-offset")
        if offset is None:
            raise Refused(400, "Upload-Offset is missing: ask for it with HEAD")
        size = _number(exchange, b"upload-length")
        checksums = _checksums(exchange)
        base = self.intake.base(exchange)
        told: Headers | None = None
        try:
            address = self.uploads.quotas.address(exchange)
            async with self.uploads.resume(upload_id, offset, address) as writer:
                if size is not None:
                    self.intake.check_size(exchange, size)
                    await writer.declare_size(size)
                async with self.intake.transfers.tus as flow:
                    await self.intake.append(exchange, writer, checksums, flow)
                    told = await self._outcome(writer, base)
        except Ended:
            pass
        if told is None:
            told = await self._again(exchange, upload_id, offset, base)
        exchange.start(204, told, end=True)

    async def _outcome(self, writer: Writer, base: str) -> Headers:
        """Finish an upload that is whole, make one durable that is not, and say how far it is."""
        if writer.is_whole:
            whole = self.intake.with_link(await writer.finish(), base)
            return [(b"upload-offset", b"%d" % whole.record.size), *whole.headers]
        return [(b"upload-offset", b"%d" % await writer.sync()), *_expiry(writer.record)]

    async def _again(self, exchange: Exchange, upload_id: str, offset: int, base: str) -> Headers:
        """Say of an upload that is whole what its last answer said, to whom that was lost."""
        progress = await self.uploads.progress(upload_id)
        stored, file = progress.offset, progress.file
        if file is None or offset != stored:
            raise WrongOffset(f"{stored} bytes are stored, not {offset}", stored)
        if await exchange.receive():
            raise Refused(413, f"the upload is whole with {file.size} bytes, and more came")
        return [(b"upload-offset", b"%d" % file.size), *self.intake.with_link(file, base).headers]


@contextmanager
def _refusing() -> Iterator[None]:
    """As `refusing`, and with the status that tus has for checksums."""
    with refusing():
        try:
            yield
        except (BadChecksum, Mismatch) as error:
            raise Refused(460, str(error)) from None


def _expiry(record: UploadRecord) -> Headers:
    return [(b"upload-expires", format_date(int(record.expires)).encode())]


def _asked_size(exchange: Exchange) -> int | None:
    """Return the size of a new upload, `None` where it comes later."""
    if field(exchange, b"upload-concat") is not None:
        raise Refused(400, "Upload-Concat: uploads are not joined here, send the file as one")
    size, deferred = _number(exchange, b"upload-length"), field(exchange, b"upload-defer-length")
    if deferred not in {None, "1"}:
        raise Refused(400, f"Upload-Defer-Length must be 1, not {deferred[:80]!r}")
    if (size is None) == (deferred is None):
        raise Refused(400, "tell Upload-Length, or Upload-Defer-Length: 1 if it comes later, and not both")
    return size


def _number(exchange: Exchange, name: bytes) -> int | None:
    value = field(exchange, name)
    if value is not None and not _NUMBER.fullmatch(value):
        text = f"{name.decode()} must be a number of bytes with up to 15 digits, not {value[:80]!r}"
        raise Refused(400, text)
    return None if value is None else int(value)


def name_untrusted(metadata: str) -> str:
    """Return the file name in an `Upload-Metadata`: keys, each with a value in Base64.

    Raises:
        ValueError: it is malformed.

    """
    found: dict[str, str] = {}
    for entry in metadata.split(",") if metadata else []:
        match = _PAIR.fullmatch(entry)
        if match is None:
            raise ValueError(f"Upload-Metadata: {entry[:80]!r} is no key with a value in Base64")
        key, value = match.groups()
        if key in found:
            raise ValueError(f"Upload-Metadata: {key[:80]!r} is there twice")
        found[key] = value or ""
    text = next((found[key] for key in _NAME_KEYS if found.get(key)), None)
    if text is None:
        return UNNAMED
    try:
        return base64_untrusted(text).decode()
    except UnicodeDecodeError:
        raise ValueError("Upload-Metadata: the file name is not valid UTF-8") from None
    except ValueError as error:
        raise ValueError(f"Upload-Metadata: {error}") from None


def _checksums(exchange: Exchange) -> list[Checksum]:
    value = field(exchange, b"upload-checksum")
    if value is None:
        return []
    algorithm, _, text = value.partition(" ")
    size = _ALGORITHMS.get(algorithm)
    if size is None:
        known = ", ".join(_ALGORITHMS)
        raise Refused(400, f"Upload-Checksum: {algorithm[:80]!r} is not known here, but {known}")
    try:
        digest = base64_untrusted(text)
    except ValueError as error:
        raise Refused(400, f"Upload-Checksum: {error}") from None
    if len(digest) != size:
        raise Refused(400, f"Upload-Checksum: {algorithm} has {size} bytes, not {len(digest)}")
    return [Checksum.of(algorithm, digest)]
