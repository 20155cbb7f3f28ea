"""gRPC over HTTP/2 (and HTTP/1.1 with trailers). Source: gRPC's `PROTOCOL-HTTP2.md` and `compression.md`.

Where the documents leave the status of an error open, the choices are those of the gRPC and Connect
projects' own implementations: a body that is malformed (unknown flags, cut off, bad gzip) is INTERNAL, a
number of messages that does not fit the method is UNIMPLEMENTED.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from google.protobuf.message import Message
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from multidict import MultiDict

from fawa.rpc.base import (
    OK,
    UNANSWERED,
    USER_AGENT,
    ClientBase,
    ContentType,
    EnvelopedServer,
    read_encoding,
    read_metadata,
)
from fawa.rpc.codec import PROTO, Codec
from fawa.rpc.compression import ACCEPTED_GRPC, compress
from fawa.rpc.details import decode_status_details, encode_status_details
from fawa.rpc.envelope import COMPRESSED, EnvelopeReader, pack
from fawa.rpc.face import End, Head, Headers, Limits, Method, Outcome
from fawa.rpc.metadata import encode_metadata
from fawa.rpc.status import decode_grpc_message, encode_grpc_message, grpc_from_http, parse_grpc_status
from fawa.rpc.stream import MetadataLike
from fawa.rpc.timeout import decode_grpc_timeout, encode_grpc_timeout

_TRAILERS_OK: Final[Headers] = [(b"grpc-status", b"0")]
_END_OK: Final = End(None, b"", _TRAILERS_OK)
_ACCEPT_ENCODING: Final = (b"grpc-accept-encoding", ACCEPTED_GRPC)


def content_type(value: bytes, codec: Codec) -> ContentType:
    """Return a content type of gRPC or gRPC-Web."""
    return ContentType.of(value, codec, b"grpc-encoding")


def encode_trailers(
    status: Status, message: str | None, details: Sequence[Message] | None, trailing: MetadataLike | None
) -> Headers:
    """Return the trailers that say how a call ended; also what gRPC-Web puts in its last envelope.

    Raises:
        ValueError: a key or value cannot be sent as metadata, or a detail is not a protobuf message.

    """
    fields = [(b"grpc-status", b"%d" % status.value)]
    if message:
        fields.append((b"grpc-message", encode_grpc_message(message)))
    if details:
        fields.append((b"grpc-status-details-bin", encode_status_details(status, message, details)))
    if trailing:
        fields += encode_metadata(trailing)
    return fields


class GrpcServer(EnvelopedServer):
    """A gRPC call on the server."""

    __slots__ = ()

    name = "grpc"
    fault = Status.INTERNAL
    encoding_field = b"grpc-encoding"
    accept_field = b"grpc-accept-encoding"
    timeout_field = b"grpc-timeout"
    decode_timeout = staticmethod(decode_grpc_timeout)

    def end(
        self,
        status: Status,
        message: str | None = None,
        details: Sequence[Message] | None = None,
        trailing: MetadataLike | None = None,
    ) -> End:
        if status is OK and self._sent and not (message or details or trailing):
            return _END_OK
        if self._owes_message(status):
            status, message = UNANSWERED
        if self._headed:
            return End(None, b"", encode_trailers(status, message, details, trailing))
        # Trailers-Only. It lists our encodings, as it must when the client's is what we do not support.
        fields = encode_trailers(status, message, details, trailing)
        return End(Head(200, [(b"content-type", self._content.value), _ACCEPT_ENCODING, *fields]), b"", [])


class GrpcClient(ClientBase):
    """A gRPC call on the client."""

    __slots__ = ("_reader", "_trailers_only")

    name = "grpc"
    _content_type = b"application/grpc"
    _end_flag = 0

    def __init__(self, codec: Codec = PROTO, limits: Limits | None = None, *, compress: bool = False) -> None:
        super().__init__(codec, limits or Limits(), compress=compress)
        self._trailers_only: Headers = []

    def request(
        self,
        method: Method,
        authority: str,
        metadata: MetadataLike | None = None,
        timeout: float | None = None,
    ) -> tuple[str, str, Headers]:
        self._one_in = not method.kind.server_streaming
        headers = [(b"host", authority.encode())]
        encoded = None if timeout is None else encode_grpc_timeout(timeout)
        if encoded is not None:
            headers.append((b"grpc-timeout", encoded))
        headers += self._protocol_headers()
        if self._compress:
            headers.append((b"grpc-encoding", b"gzip"))
        headers += encode_metadata(metadata or ())
        return "POST", method.path, headers

    def _protocol_headers(self) -> Headers:
        return [
            (b"te", b"trailers"),
            (b"content-type", b"%b+%b" % (self._content_type, self.codec.name.encode())),
            (b"user-agent", USER_AGENT),
            _ACCEPT_ENCODING,
        ]

    def message(self, payload: bytes) -> bytes:
        if self._compress and len(payload) >= self._limits.compress_from:
            return pack(compress(payload), COMPRESSED)
        return pack(payload)

    def response(self, status: int, headers: Headers) -> None:
        fields = dict(headers)
        self._check_content_type(status, fields)
        if b"grpc-status" in fields:
            # These are trailers; but only if nothing follows.
            self._trailers_only = headers
            self.metadata = MultiDict()
        else:
            self.metadata = read_metadata(headers)
        self._reader = EnvelopeReader(
            self._limits.max_message,
            gzip=read_encoding(fields.get(b"grpc-encoding")),
            fault=Status.INTERNAL,
            end_flag=self._end_flag,
        )

    def _check_content_type(self, status: int, fields: dict[bytes, bytes]) -> None:
        value = fields.get(b"content-type", b"")
        base, _, codec = value.partition(b";")[0].strip().lower().partition(b"+")
        if base != self._content_type:
            said = f"HTTP status {status} and content type {value.decode('latin-1')!r}"
            raise GRPCError(grpc_from_http(status), f"the server answered with {said}, not with {self.name}")
        if b"grpc-status" not in fields and status != 200:
            raise GRPCError(grpc_from_http(status), f"the server answered with HTTP status {status}")
        if (codec or b"proto") != self.codec.name.encode():
            raise GRPCError(
                Status.INTERNAL,
                f"the server answered in codec {codec.decode('latin-1')!r}, not in {self.codec.name!r}",
            )

    def feed(self, data: bytes) -> list[bytes]:
        payloads = self._reader.feed(data)
        self._count_received(payloads)
        self._trailers_only = []
        return payloads

    def feed_end(self, trailers: Headers) -> list[bytes]:
        trailers = self._last_words(trailers)
        fields = dict(trailers)
        if b"grpc-status" not in fields:
            if not trailers:
                raise GRPCError(Status.INTERNAL, "the response ended without trailers")
            raise GRPCError(Status.UNKNOWN, "the response ended without a status")
        status = parse_grpc_status(fields[b"grpc-status"])
        if status is OK:
            self._reader.finish()
        self._check_answered(status)
        message = fields.get(b"grpc-message")
        details = fields.get(b"grpc-status-details-bin")
        self.outcome = Outcome(
            status,
            None if message is None else decode_grpc_message(message),
            [] if details is None else decode_status_details(details),
            read_metadata(trailers),
        )
        return []

    def _last_words(self, trailers: Headers) -> Headers:
        """Return the fields that say how the call ended."""
        return trailers or self._trailers_only
