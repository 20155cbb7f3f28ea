"""Resumable uploads for HTTP (draft-ietf-httpbis-resumable-upload, interop version 8)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final, NoReturn

import attrs

from fawa.net.exchange import Exchange, Headers
from fawa.services.fields import (
    boolean_untrusted,
    content_length,
    field,
    integer_untrusted,
    media_type,
)
from fawa.services.intake import (
    Intake,
    Refused,
    WholeFile,
    checked_name,
    content_checksums,
    refusing,
    removing,
    token_field,
    whole_sha256,
)
from fawa.services.tus import PART as TUS_PART
from fawa.services.uploads import BeyondSize, Ended, Incomplete, TooLong, UploadLimits, Uploads, Writer
from fawa.storage.base import Fenced, UploadRecord, WrongOffset

INTEROP_VERSION: Final = 8
#: The type of a body that is a part of a file.
PART: Final = "application/partial-upload"

_PROBLEM: Final = "https://iana.org/assignments/http-problem-types#"
_OFFSET_PROBLEM: Final = f"{_PROBLEM}mismatching-upload-offset"
_LENGTH_PROBLEM: Final = f"{_PROBLEM}inconsistent-upload-length"
_COMPLETED_PROBLEM: Final = f"{_PROBLEM}completed-upload"


def is_complete(exchange: Exchange) -> bool | None:
    """Return `Upload-Complete`, `None` where it is missing or no Boolean (which is the same)."""
    return boolean_untrusted(field(exchange, b"upload-complete"))


def is_wanted(exchange: Exchange) -> bool:
    """Whether a file that begins here shall be kept where it is interrupted.

    Whoever sends all of it and cannot be told where to go on has no use for that.
    """
    complete = is_complete(exchange)
    return complete is False or (complete is True and _may_be_informed(exchange))


def check_whole(exchange: Exchange) -> None:
    """Refuse what says that its body is not the file as it is.

    Raises:
        Refused: it does.

    """
    if field(exchange, b"content-range") is not None:
        # RFC 9110, section 14.5.
        raise Refused(400, "a part of a file cannot be put: send it whole, or with resumable uploads")
    coding = field(exchange, b"content-encoding")
    if coding is not None and coding.strip().lower() != "identity":
        raise Refused(415, f"the Content-Encoding {coding[:80]!r} is not undone here: send the file as it is")


def offers(limits: UploadLimits) -> Headers:
    """Return what an answer to OPTIONS says."""
    return [(b"accept-patch", f"{PART}, {TUS_PART}".encode()), (b"upload-limit", _limits(limits, None))]


def _limits(limits: UploadLimits, left: float | None) -> bytes:
    """Return `Upload-Limit`; `left` are the seconds of an upload that is there."""
    age = b"max-age=%d" % max(0, int(limits.upload_ttl if left is None else left))
    return b"max-size=%d, %s" % (limits.max_file_size, age) if limits.max_file_size else age


def _may_be_informed(exchange: Exchange) -> bool:
    """Whether the client takes 104 for what it is meant."""
    asked = integer_untrusted(field(exchange, b"upload-draft-interop-version"))
    return asked == INTEROP_VERSION and exchange.version != "1.0"


@attrs.frozen(eq=False)
class Resumption:
    """The requests of one upload, and the one that begins it."""

    intake: Intake
    uploads: Uploads

    async def create(self, exchange: Exchange, name_of: Callable[[Exchange], str]) -> None:
        """Begin an upload with what its first request has of it.

        Raises:
            Disconnected: the client is gone.

        """
        with self._answering(exchange):
            check_whole(exchange)
            name = checked_name(exchange, name_of)
            complete = is_complete(exchange)
            size = _told_size(exchange, 0)
            checksums = content_checksums(exchange)
            base = self.intake.base(exchange)
            self.intake.check_size(exchange, size)
            sha256 = whole_sha256(exchange)
            shared = await self.intake.share(exchange)
            address = self.uploads.quotas.address(exchange)
            record = await self.uploads.start(name, size, shared, sha256=sha256, address=address)
            limit = (b"upload-limit", self._limits_of(record))
            begun = [(b"location", self.intake.address(record.id)), limit, *token_field(shared.owner_token)]
            informed = _may_be_informed(exchange)
            if informed:
                version = (b"upload-draft-interop-version", b"%d" % INTEROP_VERSION)
                exchange.inform(104, [*begun, version])
            async with (
                # Unless the client knows where it is, nobody can go on.
                removing(self.uploads, record, TooLong if informed else BaseException),
                self.uploads.resume(record.id, 0, address) as writer,
                self.intake.transfers.draft as flow,
            ):
                await self.intake.append(exchange, writer, checksums, flow)
                whole, stored = await self._outcome(writer, base, finish=bool(complete))
            if whole is not None:
                _answer_complete(exchange, attrs.evolve(whole, token=shared.owner_token))
            else:
                incomplete = [(b"upload-complete", b"?0"), (b"upload-offset", b"%d" % stored)]
                exchange.start(201, [*begun, *incomplete], end=True)

    async def serve(self, exchange: Exchange, method: str, upload_id: str) -> None:
        """Answer a request to an upload.

        Raises:
            Disconnected: the client is gone.

        """
        with self._answering(exchange):
            match method:
                case "HEAD":
                    await self._tell(exchange, upload_id)
                case "PATCH":
                    await self._append(exchange, upload_id)
                case _:
                    await self.uploads.cancel(upload_id)
                    exchange.start(204, [], end=True)

    async def _tell(self, exchange: Exchange, upload_id: str) -> None:
        base = self.intake.base(exchange)
        progress = await self.uploads.progress(upload_id)
        record, file = progress.record, progress.file
        size = record.size if file is None else file.size
        headers: Headers = [
            (b"cache-control", b"no-store"),
            (b"upload-offset", b"%d" % progress.offset),
            (b"upload-complete", b"?0" if file is None else b"?1"),
            (b"upload-limit", self._limits_of(record)),
        ]
        if size is not None:
            headers.append((b"upload-length", b"%d" % size))
        if file is not None:
            headers += self.intake.with_link(file, base).headers
        exchange.start(204, headers, end=True)

    async def _append(self, exchange: Exchange, upload_id: str) -> None:
        given = field(exchange, b"content-type")
        if media_type(given) != PART:
            was = "none" if given is None else f"not {given[:80]!r}"
            text = f"a PATCH must have the Content-Type {PART} (or {TUS_PART} for tus), {was}"
            raise Refused(415, text, [(b"accept-patch", f"{PART}, {TUS_PART}".encode())])
        offset, complete = integer_untrusted(field(exchange, b"upload-offset")), is_complete(exchange)
        if offset is None:
            raise Refused(400, "Upload-Offset must be a number of bytes: ask for it with HEAD")
        if complete is None:
            raise Refused(400, "Upload-Complete must be ?1 where this is the rest, ?0 where more will come")
        size = _told_size(exchange, offset)
        checksums = content_checksums(exchange)
        base = self.intake.base(exchange)
        ended = False
        try:
            address = self.uploads.quotas.address(exchange)
            async with self.uploads.resume(upload_id, offset, address) as writer:
                if size is not None:
                    self.intake.check_size(exchange, size)
                    await writer.declare_size(size)
                # Who sends more than it said does not know what it sends: nothing may follow (section 4.4.2).
                async with self.intake.transfers.draft as flow:
                    async with removing(self.uploads, writer.record, BeyondSize):
                        await self.intake.append(exchange, writer, checksums, flow)
                    whole, stored = await self._outcome(writer, base, finish=complete)
        except Ended:
            ended = True
        if ended:
            await self._refuse_more(exchange, upload_id, offset)
        if whole is not None:
            _answer_complete(exchange, whole)
        else:
            told = [(b"upload-complete", b"?0"), (b"upload-offset", b"%d" % stored)]
            exchange.start(204, told, end=True)

    async def _outcome(self, writer: Writer, base: str, *, finish: bool) -> tuple[WholeFile | None, int]:
        """Finish an upload, or make it durable; return the file if it is one now, and how far it is."""
        if finish:
            return self.intake.with_link(await writer.finish(), base), writer.offset
        return None, await writer.sync()

    async def _refuse_more(self, exchange: Exchange, upload_id: str, offset: int) -> NoReturn:
        """Refuse to append to an upload that is whole."""
        file = (await self.uploads.progress(upload_id)).file
        if file is None:
            raise Fenced("the upload was taken over")
        if offset != file.size:
            raise _wrong_offset(file.size, offset)
        if await exchange.receive():
            text = f"the upload is whole with {file.size} bytes, and more came"
            raise Refused(400, text).as_problem(_LENGTH_PROBLEM)
        text = "the upload is whole already: HEAD tells its key and link"
        raise Refused(400, text, [(b"upload-complete", b"?1")]).as_problem(_COMPLETED_PROBLEM)

    def _limits_of(self, record: UploadRecord) -> bytes:
        return _limits(self.intake.settings().limits, record.expires - self.intake.clock())

    @contextmanager
    def _answering(self, exchange: Exchange) -> Iterator[None]:
        """Answer errors as problems (RFC 9457)."""
        try:
            with refusing(), _as_problems(exchange):
                yield
        except Refused as refused:
            limits = self.intake.settings().limits
            limit = [(b"upload-limit", _limits(limits, None))] if refused.status == 413 else []
            problem = {
                "type": refused.problem,
                "title": HTTPStatus(refused.status).phrase,
                "status": refused.status,
                "detail": refused.text,
                **refused.members,
            }
            content_type = (b"content-type", b"application/problem+json")
            exchange.respond(
                refused.status, [content_type, *limit, *refused.headers], json.dumps(problem).encode() + b"\n"
            )


def _told_size(exchange: Exchange, offset: int) -> int | None:
    """Return the size that a request tells of the whole file, one way or the other.

    Raises:
        Refused: it tells two.

    """
    told, length = integer_untrusted(field(exchange, b"upload-length")), content_length(exchange)
    reached = offset + length if length is not None and is_complete(exchange) else None
    if told is not None and reached is not None and told != reached:
        text = f"Upload-Length is {told}, and the last part would end at {reached}"
        raise Refused(400, text).as_problem(_LENGTH_PROBLEM)
    return reached if told is None else told


def _answer_complete(exchange: Exchange, whole: WholeFile) -> None:
    offset = (b"upload-offset", b"%d" % whole.record.size)
    whole.answer(exchange, [(b"upload-complete", b"?1"), offset])


def _wrong_offset(stored: int, given: int | None) -> Refused:
    text = f"{stored} bytes of the upload are stored: go on from there"
    refused = Refused(409, text, [(b"upload-offset", b"%d" % stored)])
    return refused.as_problem(_OFFSET_PROBLEM, expected_offset=stored, provided_offset=given)


@contextmanager
def _as_problems(exchange: Exchange) -> Iterator[None]:
    """Turn errors that have problem types of their own into answers."""
    try:
        yield
    except WrongOffset as error:
        given = integer_untrusted(field(exchange, b"upload-offset"))
        raise _wrong_offset(error.offset, given) from None
    except (BeyondSize, Incomplete) as error:
        raise Refused(400, str(error)).as_problem(_LENGTH_PROBLEM) from None
