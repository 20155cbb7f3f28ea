"""What all uploads over plain HTTP share: a body taken in, the answer for a whole file, errors as answers."""

from __future__ import annotations

import hashlib
import json
import math
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs
import trio

from fawa.net.exchange import BodyTimeout, Exchange, Headers
from fawa.ops.logging import get_logger
from fawa.services.fields import (
    accepts,
    content_length,
    count_untrusted,
    digests_untrusted,
    encoded_text_untrusted,
    field,
)
from fawa.services.figures import Flow, Transfers
from fawa.services.links import link_base, link_expiry, make_link
from fawa.services.names import check_name_untrusted
from fawa.services.quotas import NeverFits, NoRoom, Quotas, TooMuch
from fawa.services.sharing import BadTerms, Shared, Sharing
from fawa.services.uploads import (
    BeyondSize,
    Gone,
    Incomplete,
    Mismatch,
    TooLong,
    UploadLimits,
    Uploads,
    Writer,
)
from fawa.storage.base import (
    ContentStore,
    Fenced,
    FileRecord,
    MetadataStore,
    NotFound,
    OutOfSpace,
    StorageError,
    UploadRecord,
    WrongOffset,
)
from fawa.storage.lifecycle import CLEANUP_TIMEOUT

if TYPE_CHECKING:
    from hashlib import _Hash

#: Where uploads that may be interrupted are.
UPLOADS: Final = "/uploads"
PREFIX: Final = f"{UPLOADS}/"

#: Seconds after which a client may try again when storage fails.
_RETRY_AFTER: Final = 5
_SHA256_SIZE: Final = 32
#: The fields that say on what terms a file is shared, by the names in `file.v1.Terms`.
_TERMS: Final = {
    "ttl_seconds": b"fawa-ttl",
    "max_downloads": b"fawa-max-downloads",
    "password": b"fawa-password",
}

_log = get_logger("fawa.services.intake")

Read = TypeVar("Read")


class Refused(Exception):  # noqa: N818 - said as it is
    """A request gets an error for an answer."""

    def __init__(self, status: int, text: str, headers: Headers | None = None) -> None:
        super().__init__(text)
        self.status = status
        #: What was wrong and what to do.
        self.text = text
        self.headers = headers or []
        #: The problem type (RFC 9457) and its members, for those who are told by it.
        self.problem = "about:blank"
        self.members: dict[str, Any] = {}

    def as_problem(self, problem: str, **members: Any) -> Refused:
        """Name the problem type; members are written with `-` for `_`."""
        self.problem = problem
        self.members = {name.replace("_", "-"): value for name, value in members.items()}
        return self


class BadChecksum(Exception):  # noqa: N818
    """The bytes of a request are not what its checksum says: none of them was kept."""


@attrs.frozen(kw_only=True)
class IntakeSettings:
    """What can be set about uploads over HTTP."""

    limits: UploadLimits
    #: Seconds an upload may stand still before it is given up.
    progress_timeout: float
    #: Seconds a download link is valid, unless the file expires before.
    link_ttl: float
    #: What addresses begin with: scheme, authority and perhaps a path. "" takes what the client used.
    public_url: str


@attrs.frozen
class Checksum:
    """What the body of a request must come to."""

    digest: _Hash
    expected: bytes

    @classmethod
    def of(cls, algorithm: str, expected: bytes) -> Checksum:
        """Make one by the name that `hashlib` has for the algorithm."""
        return cls(hashlib.new(algorithm, usedforsecurity=False), expected)


@attrs.frozen
class WholeFile:
    """A file that is whole, and a link to it."""

    record: FileRecord
    link: str
    #: Unix seconds.
    link_expires: int
    #: Its owner's, where this is the answer to the request that began it, else "".
    token: str = attrs.field(default="", repr=False)

    @property
    def headers(self) -> Headers:
        """What tells of it beside any answer."""
        return [
            *token_field(self.token),
            (b"fawa-key", self.record.key.encode()),
            (b"fawa-link", self.link.encode()),
            (b"fawa-expires", b"%d" % _milliseconds(self.record.expires)),
            (b"repr-digest", b"sha-256=:%s:" % b64encode(self.record.sha256)),
        ]

    def answer(self, exchange: Exchange, headers: Headers) -> None:
        """Answer 201: the link as a line of text, or all there is to know as JSON where that is accepted."""
        headers = [(b"location", self.link.encode()), (b"vary", b"accept"), *self.headers, *headers]
        if not accepts(field(exchange, b"accept") or "", ("application/json",)):
            exchange.respond_text(201, self.link, headers)
            return
        record = self.record
        told = {
            "key": record.key,
            "link": self.link,
            "name": record.name,
            "size": record.size,
            "sha256": record.sha256.hex(),
            "expires_at": _milliseconds(record.expires),
            "link_expires_at": self.link_expires * 1000,
            **({"token": self.token} if self.token else {}),
        }
        body = json.dumps(told, ensure_ascii=False).encode() + b"\n"
        exchange.respond(201, [(b"content-type", b"application/json"), *headers], body)


def token_field(token: str) -> Headers:
    """Return what tells a file's sender of the token that removes it, nothing where it is ""."""
    return [(b"fawa-token", token.encode())] if token else []


def _milliseconds(seconds: float) -> int:
    """Return a Unix time as clients are told it, not later than it is."""
    return math.floor(seconds * 1000)


@attrs.frozen(eq=False)
class Intake:
    """What taking a file in needs, whichever the protocol."""

    content: ContentStore
    metadata: MetadataStore
    secret: bytes = attrs.field(repr=False)
    #: Asked for each request, so that settings can change under it.
    settings: Callable[[], IntakeSettings]
    #: The time in Unix seconds.
    clock: Callable[[], float]
    quotas: Quotas
    sharing: Sharing
    transfers: Transfers = attrs.field(factory=Transfers)

    def base(self, exchange: Exchange) -> str:
        """Return what a link will begin with; asked before anything is stored.

        Raises:
            Refused: the client named no host that a link could have.

        """
        try:
            return link_base(self.settings().public_url, exchange)
        except ValueError as error:
            raise Refused(400, str(error)) from None

    def address(self, upload_id: str) -> bytes:
        """Return where an upload is, relative to the server unless its address is set."""
        return f"{self.settings().public_url.rstrip('/')}{PREFIX}{upload_id}".encode()

    async def share(self, exchange: Exchange) -> Shared:
        """Return the terms that the request which begins an upload asks for; asked before its body is read.

        Raises:
            Refused: they cannot be.

        """
        try:
            ttl = _term(exchange, "ttl_seconds", partial(count_untrusted, of="seconds"))
            most = _term(exchange, "max_downloads", partial(count_untrusted, of="downloads"))
            password = _term(exchange, "password", encoded_text_untrusted)
            return await self.sharing.terms(ttl, most, password)
        except BadTerms as error:
            raise Refused(400, f"{_TERMS[error.term].decode().title()}: {error}") from None

    def with_link(self, record: FileRecord, base: str, token: str = "") -> WholeFile:
        """Make the link to a file that is whole; `token` is its owner's, for the one answer that tells it."""
        expires = link_expiry(record, self.clock(), self.settings().link_ttl)
        link = make_link(base, self.secret, record.key, record.name, expires)
        return WholeFile(record, link, expires, token)

    def check_size(self, exchange: Exchange, size: int | None) -> None:
        """Refuse what is too large before any of it is read; `size` is of the whole file, where it is known.

        Raises:
            TooLong: it is.

        """
        most = self.settings().limits.max_file_size
        least = size if size is not None else content_length(exchange) or 0
        if 0 < most < least:
            raise TooLong(f"the file has {least} bytes, the largest taken here has {most}")

    async def append(
        self, exchange: Exchange, writer: Writer, checksums: Sequence[Checksum], flow: Flow
    ) -> None:
        """Append the body of a request to an upload.

        What came before the line broke is kept, unless there is a checksum that it cannot be held against.

        Raises:
            BadChecksum: all of it was taken back.
            BodyTimeout: nothing came for too long.
            Disconnected: the client is gone.
            Fenced: another writer has taken over.
            OverQuota: there is no room for them.
            StorageError: the store failed.
            TooLong: the upload cannot have so many bytes.

        """
        size, length = writer.record.size, content_length(exchange)
        if size is not None and length is not None and writer.offset + length > size:
            raise BeyondSize(
                f"the upload has {size} bytes, and {length} from {writer.offset} on go beyond its end"
            )
        if length is not None:
            self.check_size(exchange, writer.offset + length)
        flow.resumed += writer.offset > 0
        try:
            while data := await exchange.receive():
                flow.bytes += len(data)
                for checksum in checksums:
                    checksum.digest.update(data)
                await writer.write(data)
            if any(checksum.digest.digest() != checksum.expected for checksum in checksums):
                raise BadChecksum("the bytes that came do not have the checksum told: send them again")
        except BaseException:
            if checksums:
                # The error that brought us here is the one to tell.
                with trio.move_on_after(CLEANUP_TIMEOUT, shield=True), suppress(StorageError):
                    await writer.rollback()
            raise


def _term(exchange: Exchange, term: str, read: Callable[[str | None], Read]) -> Read:
    """Read one of the terms.

    Raises:
        BadTerms: it is there twice, or `read` raises ValueError.

    """
    name = _TERMS[term]
    if sum(key == name for key, _ in exchange.headers) > 1:
        raise BadTerms(term, "it is there more than once")
    try:
        return read(field(exchange, name))
    except ValueError as error:
        raise BadTerms(term, str(error)) from None


def checked_name(exchange: Exchange, name_of: Callable[[Exchange], str]) -> str:
    """Return the file name that a request tells, if it can be kept.

    Raises:
        Refused: it cannot, or `name_of` raises ValueError.

    """
    try:
        name = name_of(exchange)
        check_name_untrusted(name)
    except ValueError as error:
        raise Refused(400, f"{error}: choose another name") from None
    return name


def whole_sha256(exchange: Exchange) -> bytes | None:
    """Return the SHA-256 that the request says the whole file has (`Repr-Digest`, RFC 9530).

    Raises:
        Refused: it is none.

    """
    digest = _digests(exchange, b"repr-digest").get("sha-256")
    if digest is not None and len(digest) != _SHA256_SIZE:
        raise Refused(400, f"Repr-Digest: a SHA-256 has {_SHA256_SIZE} bytes, not {len(digest)}")
    return digest


def content_checksums(exchange: Exchange) -> list[Checksum]:
    """Return what the request says its body comes to (`Content-Digest`, RFC 9530).

    Raises:
        Refused: it is malformed.

    """
    digests = _digests(exchange, b"content-digest")
    known = {"sha-256": "sha256", "sha-512": "sha512"}
    return [Checksum.of(known[name], value) for name, value in digests.items() if name in known]


def _digests(exchange: Exchange, name: bytes) -> dict[str, bytes]:
    try:
        return digests_untrusted(field(exchange, name))
    except ValueError as error:
        raise Refused(400, f"{name.decode()}: {error}") from None


@asynccontextmanager
async def removing(uploads: Uploads, record: UploadRecord, when: type[BaseException]) -> AsyncIterator[None]:
    """Remove an upload where the block raises `when`."""
    try:
        yield
    except when:
        # The error that brought us here is the one to tell; what cannot be removed expires.
        with trio.move_on_after(CLEANUP_TIMEOUT, shield=True), suppress(StorageError):
            await uploads.remove(record)
        raise


@contextmanager
def refusing() -> Iterator[None]:
    """Turn errors of the engine and the stores into answers; what only operators should know is logged.

    Raises:
        Refused: there was one.

    """
    try:
        yield
    except Gone:
        raise Refused(410, "the file of this upload is no more: it has expired or was deleted") from None
    except NotFound:
        text = "there is no upload here: the address is wrong, or the upload was cancelled or has expired"
        raise Refused(404, text) from None
    except WrongOffset as error:
        text = f"{error.offset} bytes of the upload are stored: go on from there"
        raise Refused(409, text, [(b"upload-offset", b"%d" % error.offset)]) from None
    except Fenced:
        text = "another request goes on with this upload, or has finished or cancelled it: ask with HEAD"
        raise Refused(409, text) from None
    except (NeverFits, TooLong) as error:
        raise Refused(413, str(error)) from None
    except NoRoom as error:
        raise Refused(507, str(error)) from None
    except TooMuch as error:
        raise Refused(429, str(error), [(b"retry-after", b"%d" % math.ceil(error.wait))]) from None
    except (BadChecksum, Incomplete, Mismatch) as error:
        raise Refused(400, str(error)) from None
    except BodyTimeout as error:
        raise Refused(408, str(error)) from None
    except OutOfSpace as error:
        _log.error("there is no room for a file", error=str(error))
        raise Refused(507, "the server has no room left for this file") from error
    except StorageError as error:
        _log.error("file storage failed", error=str(error))
        retry = (b"retry-after", b"%d" % _RETRY_AFTER)
        raise Refused(503, "the file cannot be stored at the moment, try again later", [retry]) from error
