"""Requests to an S3 service: signed, timed out, retried, their errors turned into ours. Knows no files.

Over httpcore, which runs on trio itself. The clients made for S3 run on asyncio: they would need a second
event loop beside trio's, and would still leave to us what takes care here (bounded memory, cancellation that
leaves nothing, links signed for another host). What remains is a signature, a dozen kinds of request and a
little XML.

A request is retried when the service is out of reach or says that it is busy, so it may be done twice.
"""

from __future__ import annotations

import hashlib
import random
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import attrs
import httpcore
import trio

from fawa.ops.logging import get_logger
from fawa.storage.base import PIECE, AlreadyExists, NotFound, OutOfReach, OutOfSpace, StorageError
from fawa.storage.sigv4 import MAX_LINK_TTL, UNSIGNED, Credentials, encode_query, sign_link, sign_request

#: Tries of one request, and seconds before the second; each further wait is twice as long, with jitter.
TRIES: Final = 4
BACKOFF: Final = 0.1

#: Seconds for a connection, for each read and write, and for a free place among the connections.
_TIMEOUT: Final = {"connect": 2.5, "read": 60.0, "write": 60.0, "pool": 30.0}

#: Connections at once; a download holds one while it lasts.
CONNECTIONS: Final = 512

#: Bytes of the largest answer that is no content: a listing of 1,000 long names has under 1 MiB.
_MAX_ANSWER: Final = 8 * 1024 * 1024

#: Bytes of a body that are handed to the connection at once.
_SLICE: Final = 256 * 1024

_log = get_logger("fawa.storage.s3")

# Bytes of a body read at once at most: half a piece, so that what `S3Content.read` joins is one at most.
# Nobody else in this process uses httpcore.
httpcore.AsyncHTTP11Connection.READ_NUM_BYTES = PIECE // 2

#: What httpcore raises when the connection fails.
_BROKEN: Final = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.RemoteProtocolError)

_BUSY: Final = {429, 500, 502, 503, 504}
_FULL: Final = {
    "EntityTooLarge",
    "InsufficientStorage",
    "QuotaExceeded",
    "XMinioAdminBucketQuotaExceeded",
    "XMinioStorageFull",
}
_EXISTS: Final = {"PreconditionFailed", "ConditionalRequestConflict", "BucketAlreadyOwnedByYou"}
_ADVICE: Final = {
    "AccessDenied": "Give the access key the right to list, read, write and delete in that bucket",
    "AuthorizationHeaderMalformed": "Set s3.region to the bucket's region",
    "InvalidAccessKeyId": "Set s3.access_key to one that the service knows",
    "PermanentRedirect": "Set s3.region and s3.endpoint to those of the bucket",
    "NoSuchBucket": "The bucket was deleted: start fawad anew, and it makes the bucket",
    "RequestTimeTooSkewed": "Set the clocks of this machine and of the service right",
    "SignatureDoesNotMatch": "Set s3.secret_key to the one that belongs to s3.access_key",
}


@attrs.frozen(kw_only=True)
class S3Settings:
    """Where the content is, and who we are there."""

    #: Scheme and authority, such as `http://minio:9000`.
    endpoint: str
    bucket: str
    credentials: Credentials
    #: What object names begin with: everything below it is ours.
    prefix: str = "fawa/"
    #: Whether the bucket is the first label of the host's name; else it is the first segment of the path.
    virtual_host: bool = False
    #: PEM file with the certificates that are trusted beside the system's.
    ca: Path | None = None
    #: URL under which clients reach the service, perhaps with a path that the proxy there takes off; or "".
    public_endpoint: str = ""
    #: Seconds without a new part after which an upload of a process unknown is taken for dead.
    abort_after: float = 24 * 3600.0
    #: Bytes of an upload's first parts; services take at least 5 MiB.
    part: int = 8 * 1024 * 1024


@attrs.frozen
class Answer:
    """What the service answered."""

    status: int
    #: Names in lower case.
    headers: dict[str, str]
    body: bytes

    def xml(self) -> ElementTree.Element:
        """Return the document in the body, names without their namespace."""
        try:
            root = ElementTree.fromstring(self.body.lstrip())  # noqa: S314 - of the operator's own service, and bounded
        except ElementTree.ParseError as error:
            raise StorageError(f"the S3 service answered with something that is no XML: {error}") from error
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
        return root


@attrs.frozen
class Body:
    """An answer whose body is still coming."""

    status: int
    #: Names in lower case.
    headers: dict[str, str]
    pieces: AsyncIterator[bytes]


class _Busy(Exception):  # noqa: N818 - no error yet
    """The service cannot be reached or asks to be left alone for a moment."""


class _Slices:
    """Iterates over a body in slices, so that no copy of the whole is made on its way.

    No generator: httpcore would leave it to the garbage collector when a request is cancelled.
    """

    def __init__(self, data: bytes | bytearray) -> None:
        self._data = memoryview(data)
        self._sent = 0

    def __aiter__(self) -> _Slices:
        return self

    async def __anext__(self) -> memoryview:
        if self._sent >= len(self._data):
            raise StopAsyncIteration
        start, self._sent = self._sent, self._sent + _SLICE
        return self._data[start : self._sent]


@attrs.frozen
class _Place:
    """How a bucket is addressed under a base URL."""

    scheme: str
    host: str
    port: int | None
    #: What every path begins with before it is signed: "" or `/bucket`.
    path: str
    #: What a proxy takes off the path again: "" or `/minio`.
    stripped: str

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = {"http": 80, "https": 443}[self.scheme]
        return host if self.port in (None, default) else f"{host}:{self.port}"

    @classmethod
    def of(cls, url: str, settings: S3Settings) -> _Place:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if settings.virtual_host:
            host = f"{settings.bucket}.{host}"
        path = "" if settings.virtual_host else f"/{settings.bucket}"
        return cls(parts.scheme, host, parts.port, path, parts.path.rstrip("/"))


class S3Client:
    """Sends requests to one bucket; made by `connect`."""

    def __init__(self, settings: S3Settings, pool: httpcore.AsyncConnectionPool) -> None:
        self.settings = settings
        self._pool = pool
        self._place = _Place.of(settings.endpoint, settings)
        self._public = _Place.of(settings.public_endpoint, settings) if settings.public_endpoint else None
        # Over TLS nobody can alter a body on its way, so hashing it once more would be waste.
        self._is_away = False
        self._signs_bodies = self._place.scheme == "http"

    def link(self, key: str, parameters: Mapping[str, str], now: float, seconds: int) -> str | None:
        """Return a link to an object for clients, valid for `seconds` from `now` (rounded down).

        `None` when clients cannot reach the service, or when it makes no link that lasts so long.
        """
        place = self._public
        if place is None or not 1 <= seconds <= MAX_LINK_TTL:
            return None
        path = self._path(place, key)
        query = sign_link(
            self.settings.credentials, place.authority, path, parameters, _format_time(now), seconds
        )
        # The signature is for what the service sees: the public host, and the path without the proxy's part.
        return f"{place.scheme}://{place.authority}{place.stripped}{path}?{query}"

    async def request(
        self,
        doing: str,
        method: str,
        key: str = "",
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | bytearray = b"",
        tries: int = TRIES,
    ) -> Answer:
        """Send a request, again when it may help, and return the answer.

        `doing` completes "cannot …" in the error's text.

        Raises:
            OutOfReach: the service is away, or busy all the time.
            NotFound, AlreadyExists, OutOfSpace, StorageError: it was refused.

        """
        payload = await _hash(body) if self._signs_bodies else UNSIGNED
        for left in reversed(range(tries)):
            try:
                async with self._send(method, key, query, headers, body, payload) as response:
                    content = await _read_bounded(response)
                    answer = Answer(response.status, _headers(response), content)
                    self._check(doing, answer)
                    self._note_back()
                    return answer
            except _Busy as busy:
                await self._back_off(doing, left, busy)
        raise AssertionError("the last try raises or returns")

    @asynccontextmanager
    async def get(self, doing: str, key: str, headers: Mapping[str, str]) -> AsyncIterator[Body]:
        """Send a GET and give its body as it comes. A body that breaks off raises `BrokenOff`.

        Raises:
            OutOfReach: the service is away, or busy all the time.
            NotFound, StorageError: it was refused.

        """
        payload = await _hash(b"") if self._signs_bodies else UNSIGNED
        for left in reversed(range(TRIES)):
            started = False
            try:
                async with self._send("GET", key, None, headers, b"", payload) as response:
                    if response.status >= 300:
                        content = await _read_bounded(response)
                        self._check(doing, Answer(response.status, _headers(response), content))
                    started = True
                    async with _body_of(response) as pieces:
                        yield Body(response.status, _headers(response), pieces)
                    return
            except _Busy as busy:
                if started:
                    raise BrokenOff(self.explain(doing, str(busy))) from busy
                await self._back_off(doing, left, busy)

    def explain(
        self, doing: str, reason: str, advice: str = "Check that the service runs and try again"
    ) -> str:
        """Return the text for the operator."""
        where = f"the bucket {self.settings.bucket} at {self.settings.endpoint}"
        return f"cannot {doing} in {where}: {reason}. {advice}."

    def source(self, key: str) -> str:
        """Return an object's name as requests that copy it want it."""
        return quote(f"/{self.settings.bucket}/{self.settings.prefix}{key}", safe="/-_.~")

    def _path(self, place: _Place, key: str) -> str:
        return f"{place.path}/{quote(self.settings.prefix + key, safe='/-_.~')}" if key else place.path or "/"

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        key: str,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        body: bytes | bytearray,
        payload: str,
    ) -> AsyncIterator[httpcore.Response]:
        place = self._place
        path, encoded = self._path(place, key), encode_query(query or {})
        signed = sign_request(
            self.settings.credentials,
            method,
            path,
            encoded,
            {"host": place.authority, **(headers or {})},
            payload,
            _format_time(time.time()),
        )
        if body or method in ("PUT", "POST"):
            signed["content-length"] = str(len(body))
        target = f"{path}?{encoded}" if encoded else path
        url = httpcore.URL(scheme=place.scheme, host=place.host, port=place.port, target=target)
        content: Any = _Slices(body) if body else None  # any buffer will do
        try:
            async with self._pool.stream(
                method, url, headers=list(signed.items()), content=content, extensions={"timeout": _TIMEOUT}
            ) as response:
                yield response
        except _BROKEN as error:
            raise _Busy(f"{type(error).__name__}: {error}".rstrip(": ")) from error

    async def _back_off(self, doing: str, left: int, busy: _Busy) -> None:
        """Wait before the next of the `left` tries.

        Raises:
            OutOfReach: there is none left.

        """
        if not left:
            error = OutOfReach(self.explain(doing, str(busy)), "S3")
            if not self._is_away:
                self._is_away = True
                _log.error("S3 is out of reach", error=str(error))
            raise error from busy
        await trio.sleep(BACKOFF * 2 ** (TRIES - 1 - left) * (0.5 + random.random()))  # noqa: S311 - jitter

    def _note_back(self) -> None:
        if self._is_away:
            self._is_away = False
            _log.info("S3 is back")

    def _check(self, doing: str, answer: Answer) -> None:
        """Raise what an answer that is an error means; some errors come with status 200."""
        error = _error_in(answer)
        if answer.status < 300 and error is None:
            return
        code, message = error or ("", "")
        reason = f"it answered {' '.join(filter(None, [str(answer.status), code, message]))}"
        if answer.status in _BUSY or (answer.status < 300 and code in ("InternalError", "SlowDown")):
            raise _Busy(reason)
        if code in _FULL or answer.status == 507:
            raise OutOfSpace(self.explain(doing, reason, "Free space there or raise the quota"))
        if code in _EXISTS or answer.status == 412:
            raise AlreadyExists(self.explain(doing, reason))
        if code in ("NoSuchKey", "NoSuchUpload") or (answer.status == 404 and code != "NoSuchBucket"):
            raise NotFound(self.explain(doing, reason))
        advice = _ADVICE.get(
            code or ("AccessDenied" if answer.status == 403 else ""), "See the service's log"
        )
        raise StorageError(self.explain(doing, reason, advice))


class BrokenOff(StorageError):  # noqa: N818 - what happened to the body
    """A body ended early: the connection broke or the service died."""


@asynccontextmanager
async def connect(settings: S3Settings) -> AsyncIterator[S3Client]:
    """Give a client; connections are made when they are needed.

    Raises:
        StorageError: the file with the trusted certificates cannot be read.

    """
    context = None
    if settings.endpoint.startswith("https:"):
        context = await trio.to_thread.run_sync(_trust, settings.ca)
    pool = httpcore.AsyncConnectionPool(
        ssl_context=context, max_connections=CONNECTIONS, max_keepalive_connections=32, keepalive_expiry=15.0
    )
    async with pool:
        yield S3Client(settings, pool)


def _trust(ca: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except OSError as error:
            raise StorageError(f"cannot read the certificates in {ca} (setting s3.ca): {error}") from error
    return context


def _error_in(answer: Answer) -> tuple[str, str] | None:
    """Return code and message of the error that the body tells of, if it does."""
    if b"<Error" not in answer.body:
        return None
    try:
        root = answer.xml()
    except StorageError:
        return None
    if root.tag != "Error":
        return None
    return root.findtext("Code") or "", root.findtext("Message") or ""


@asynccontextmanager
async def _body_of(response: httpcore.Response) -> AsyncIterator[AsyncIterator[bytes]]:
    """Give the body; one that is not read to its end takes its connection with it."""
    pieces = response.aiter_stream()
    try:
        yield pieces
    finally:
        await response.aclose()  # noqa: ASYNC102 - httpcore shields it
        # This ends the generators inside httpcore, which closing the outermost one leaves to the garbage
        # collector: the connection is closed, so the next read fails (or finds them ended).
        with suppress(*_BROKEN):
            async for _ in pieces:  # noqa: ASYNC102
                pass


async def _read_bounded(response: httpcore.Response) -> bytes:
    content = bytearray()
    async with _body_of(response) as pieces:
        async for piece in pieces:
            content += piece
            if len(content) > _MAX_ANSWER:
                raise StorageError(f"the S3 service answered with more than {_MAX_ANSWER} bytes")
    return bytes(content)


def _headers(response: httpcore.Response) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}


def _format_time(seconds: float) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds))


async def _hash(body: bytes | bytearray) -> str:
    if len(body) < _SLICE:
        return hashlib.sha256(body).hexdigest()
    return (await trio.to_thread.run_sync(hashlib.sha256, body)).hexdigest()
