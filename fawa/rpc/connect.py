"""Connect on the server: unary calls by POST and GET, and streams. Source: the Connect protocol.

Where it leaves the status of an error open, the choices are those of connect-go and the Connect conformance
suite: a body that is malformed is INVALID_ARGUMENT, but a message compressed without agreement is INTERNAL;
a number of messages that does not fit the method is UNIMPLEMENTED.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final
from urllib.parse import unquote_to_bytes

import msgspec
from google.protobuf.message import Message
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.rpc.base import OK, UNANSWERED, ContentType, EnvelopedServer, ServerBase
from fawa.rpc.codec import Codec
from fawa.rpc.compression import inflate_untrusted
from fawa.rpc.connect_json import encode_end_stream, encode_error
from fawa.rpc.envelope import pack
from fawa.rpc.face import End, Head, Headers, Limits, Method
from fawa.rpc.metadata import decode_base64, encode_metadata
from fawa.rpc.status import HTTP_STATUS
from fawa.rpc.stream import MetadataLike
from fawa.rpc.timeout import decode_connect_timeout

#: Flag of the envelope that ends a stream.
END_STREAM: Final = 0x02

_JSON: Final = (b"content-type", b"application/json")


def unary_content_type(value: bytes, codec: Codec) -> ContentType:
    """Return a content type of unary Connect."""
    return ContentType.of(value, codec, b"content-encoding")


def stream_content_type(value: bytes, codec: Codec) -> ContentType:
    """Return a content type of Connect streams."""
    return ContentType.of(value, codec, b"connect-content-encoding")


def _refuse_version(version: bytes | None, expected: bytes, field: str) -> GRPCError | None:
    if version is None or version == expected:
        return None
    said = version.decode("latin-1")
    return GRPCError(Status.INVALID_ARGUMENT, f"{field} must be {expected.decode()!r}, not {said!r}")


class ConnectStreamServer(EnvelopedServer):
    """A Connect call on the server whose method streams in some direction."""

    __slots__ = ("_exists",)

    name = "connect-stream"
    fault = Status.INVALID_ARGUMENT
    encoding_field = b"connect-content-encoding"
    accept_field = b"connect-accept-encoding"
    timeout_field = b"connect-timeout-ms"
    decode_timeout = staticmethod(decode_connect_timeout)

    def __init__(
        self,
        content: ContentType,
        fields: dict[bytes, bytes],
        headers: Headers,
        method: Method | None,
        limits: Limits,
    ) -> None:
        super().__init__(content, fields, headers, method, limits)
        self._exists = method is not None
        self.refusal = self.refusal or _refuse_version(
            fields.get(b"connect-protocol-version"), b"1", "connect-protocol-version"
        )

    def end(
        self,
        status: Status,
        message: str | None = None,
        details: Sequence[Message] | None = None,
        trailing: MetadataLike | None = None,
    ) -> End:
        if self._owes_message(status):
            status, message = UNANSWERED
        error = None if status is OK else encode_error(status, message, details)
        if not self._exists:
            return End(Head(404, [_JSON]), msgspec.json.encode(error), [])
        body = pack(encode_end_stream(error, trailing), END_STREAM)
        return End(None if self._headed else self._content.head, body, [])


class ConnectUnaryServer(ServerBase):
    """A unary Connect call on the server: the body is the message, the HTTP status tells the outcome."""

    __slots__ = ("_answer", "_exists", "_initial", "_limit", "_partial")

    name = "connect"
    encoding_field = b"content-encoding"
    accept_field = b"accept-encoding"
    timeout_field = b"connect-timeout-ms"
    decode_timeout = staticmethod(decode_connect_timeout)
    #: Headers that every answer has.
    _always: ClassVar[Headers] = []

    def __init__(
        self,
        content: ContentType,
        fields: dict[bytes, bytes],
        headers: Headers,
        method: Method | None,
        limits: Limits,
    ) -> None:
        super().__init__(content, fields, headers, method, limits)
        self._exists = method is not None
        self._limit = limits.max_message
        self._partial = bytearray()
        self._initial: Headers = []
        self._answer = b""
        if self.refusal is None:
            self.refusal = self._refuse(fields)

    def _refuse(self, fields: dict[bytes, bytes]) -> GRPCError | None:
        length = fields.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._limit:
            return self._too_large(f"of {int(length)} bytes ")
        return _refuse_version(fields.get(b"connect-protocol-version"), b"1", "connect-protocol-version")

    def _too_large(self, size: str = "") -> GRPCError:
        return GRPCError(
            Status.RESOURCE_EXHAUSTED, f"message {size}is larger than the limit of {self._limit} bytes"
        )

    def feed(self, data: bytes) -> list[bytes]:
        if len(self._partial) + len(data) > self._limit:
            raise self._too_large()
        self._partial += data
        return []

    def feed_end(self) -> list[bytes]:
        payload = bytes(self._partial)
        self._partial = bytearray()
        if self._gzip_in and payload:
            payload = inflate_untrusted(payload, self._limit, Status.INVALID_ARGUMENT)
        return [payload]

    def head(self, metadata: MetadataLike | None) -> None:
        if metadata:
            self._initial = encode_metadata(metadata)

    def message(self, payload: bytes) -> bytes:
        self._count_sent()
        self._answer = payload
        return b""

    def end(
        self,
        status: Status,
        message: str | None = None,
        details: Sequence[Message] | None = None,
        trailing: MetadataLike | None = None,
    ) -> End:
        if self._owes_message(status):
            status, message = UNANSWERED
        extra = self._initial
        if trailing:
            extra = extra + [(b"trailer-" + name, value) for name, value in encode_metadata(trailing)]
        if status is not OK:
            http = HTTP_STATUS[status] if self._exists else 404
            body = msgspec.json.encode(encode_error(status, message, details))
            return End(Head(http, [_JSON, *self._always, *extra]), body, [])
        squeezed = self._squeeze(self._answer)
        head = self._content.head if squeezed is None else self._content.gzip_head
        if extra or self._always:
            head = Head(200, [*head.headers, *self._always, *extra])
        return End(head, self._answer if squeezed is None else squeezed, [])


class ConnectGetServer(ConnectUnaryServer):
    """A unary Connect call by GET: the message is in the query."""

    __slots__ = ("_query",)

    name = "connect-get"
    # Caches keep answers to GET, and ours depend on this field.
    _always: ClassVar[Headers] = [(b"vary", b"accept-encoding")]

    def __init__(
        self,
        content: ContentType,
        fields: dict[bytes, bytes],
        headers: Headers,
        method: Method,
        limits: Limits,
        query: dict[str, bytes],
    ) -> None:
        self._query = query
        # What the message is compressed with is said in the query too.
        fields = fields | {self.encoding_field: query.get("compression", b"")}
        super().__init__(content, fields, headers, method, limits)

    def _refuse(self, fields: dict[bytes, bytes]) -> GRPCError | None:
        query = self._query
        if "encoding" not in query:
            return GRPCError(
                Status.INVALID_ARGUMENT, "the query has no parameter 'encoding'; give encoding=json or =proto"
            )
        message = query.get("message")
        if message is None:
            return GRPCError(Status.INVALID_ARGUMENT, "the query has no parameter 'message'")
        if query.get("base64") == b"1":
            try:
                message = decode_base64(message.translate(_URL_SAFE).decode("latin-1"))
            except ValueError as error:
                return GRPCError(
                    Status.INVALID_ARGUMENT, f"parameter 'message' is not URL-safe base64: {error}"
                )
        if len(message) > self._limit:
            return self._too_large(f"of {len(message)} bytes ")
        self._partial += message
        return _refuse_version(query.get("connect"), b"v1", "parameter 'connect'")

    def feed(self, data: bytes) -> list[bytes]:
        raise GRPCError(Status.INVALID_ARGUMENT, "a GET request has its message in the query, not in a body")


#: From the alphabet of RFC 4648 §5 to that of §4; characters of the latter alone become invalid ones.
_URL_SAFE: Final = bytes.maketrans(b"-_+/", b"+/!!")


def parse_query(query: str) -> dict[str, bytes]:
    """Return the parameters of a query, decoded; of several with one name the first."""
    parameters: dict[str, bytes] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        decoded = unquote_to_bytes(value.replace("+", " "))
        parameters.setdefault(unquote_to_bytes(name).decode("utf-8", "replace"), decoded)
    return parameters
