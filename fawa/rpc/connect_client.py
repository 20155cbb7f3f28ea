"""Connect on the client: unary calls by POST, and streams. Source: the Connect protocol."""

from __future__ import annotations

from typing import Final

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.rpc.base import OK, USER_AGENT, ClientBase, read_encoding, read_metadata
from fawa.rpc.codec import PROTO, Codec
from fawa.rpc.compression import ACCEPTED, compress, inflate_untrusted
from fawa.rpc.connect import END_STREAM
from fawa.rpc.connect_json import decode_end_stream, decode_error, decode_json_untrusted
from fawa.rpc.envelope import COMPRESSED, EnvelopeReader, pack
from fawa.rpc.face import Headers, Kind, Limits, Method, Outcome
from fawa.rpc.metadata import encode_metadata
from fawa.rpc.status import connect_from_http
from fawa.rpc.stream import MetadataLike
from fawa.rpc.timeout import encode_connect_timeout

_TRAILER: Final = b"trailer-"


class ConnectClient(ClientBase):
    """A Connect call on the client."""

    __slots__ = ("_content_type", "_gzip_in", "_partial", "_reader", "_status", "_trailing", "_unary")

    name = "connect"

    def __init__(self, codec: Codec = PROTO, limits: Limits | None = None, *, compress: bool = False) -> None:
        super().__init__(codec, limits or Limits(), compress=compress)
        self._unary = False
        self._content_type = b""
        self._status = 0
        self._trailing: Headers = []
        self._gzip_in = False
        self._partial = bytearray()

    def request(
        self,
        method: Method,
        authority: str,
        metadata: MetadataLike | None = None,
        timeout: float | None = None,
    ) -> tuple[str, str, Headers]:
        self._one_in = not method.kind.server_streaming
        self._unary = method.kind is Kind.UNARY
        prefix, field = (b"", b"") if self._unary else (b"connect+", b"connect-")
        self._content_type = b"application/" + prefix + self.codec.name.encode()
        headers = [
            (b"host", authority.encode()),
            (b"content-type", self._content_type),
            (b"connect-protocol-version", b"1"),
            (b"user-agent", USER_AGENT),
            (field + b"accept-encoding", ACCEPTED),
        ]
        encoded = None if timeout is None else encode_connect_timeout(timeout)
        if encoded is not None:
            headers.append((b"connect-timeout-ms", encoded))
        if self._compress:
            headers.append((field + b"content-encoding", b"gzip"))
        headers += encode_metadata(metadata or ())
        return "POST", method.path, headers

    def message(self, payload: bytes) -> bytes:
        if self._unary:
            # The headers have said gzip, whatever the size; but an empty body is never compressed.
            return compress(payload) if self._compress and payload else payload
        if self._compress and len(payload) >= self._limits.compress_from:
            return pack(compress(payload), COMPRESSED)
        return pack(payload)

    def response(self, status: int, headers: Headers) -> None:
        fields = dict(headers)
        self._status = status
        self._check_content_type(status, fields.get(b"content-type", b""))
        if self._unary:
            self._gzip_in = read_encoding(fields.get(b"content-encoding"))
            self._trailing = [(n.removeprefix(_TRAILER), v) for n, v in headers if n.startswith(_TRAILER)]
            self.metadata = read_metadata([field for field in headers if not field[0].startswith(_TRAILER)])
        else:
            self.metadata = read_metadata(headers)
            self._reader = EnvelopeReader(
                self._limits.max_message,
                gzip=read_encoding(fields.get(b"connect-content-encoding")),
                fault=Status.INTERNAL,
                end_flag=END_STREAM,
            )

    def _check_content_type(self, status: int, value: bytes) -> None:
        base = value.partition(b";")[0].strip().lower()
        if status != 200:
            if self._unary and base == b"application/json":
                return
            raise GRPCError(connect_from_http(status), f"the server answered with HTTP status {status}")
        if base != self._content_type:
            ours = (b"application/proto", b"application/json") if self._unary else (b"application/connect+",)
            raise GRPCError(
                # Ours with another codec, or not Connect at all.
                Status.INTERNAL if base.startswith(ours) else Status.UNKNOWN,
                f"the server answered with content type {value.decode('latin-1')!r}, "
                f"not {self._content_type.decode()!r}",
            )

    def feed(self, data: bytes) -> list[bytes]:
        if self._unary:
            if len(self._partial) + len(data) > self._limits.max_message:
                raise GRPCError(
                    Status.RESOURCE_EXHAUSTED,
                    f"message is larger than the limit of {self._limits.max_message} bytes",
                )
            self._partial += data
            return []
        payloads = self._reader.feed(data)
        self._count_received(payloads)
        return payloads

    def feed_end(self, trailers: Headers) -> list[bytes]:
        return self._end_unary() if self._unary else self._end_stream()

    def _end_unary(self) -> list[bytes]:
        body = bytes(self._partial)
        self._partial = bytearray()
        trailing = read_metadata(self._trailing)
        if self._status == 200:
            body = self._inflate(body)
            self.outcome = Outcome(OK, None, [], trailing)
            return [body]
        inferred = connect_from_http(self._status)
        try:
            error = decode_json_untrusted(self._inflate(body))
        except (ValueError, GRPCError):
            error = None
        status, message, details = decode_error(error, inferred)
        message = message or f"the server answered with HTTP status {self._status}"
        self.outcome = Outcome(status, message, details, trailing)
        return []

    def _inflate(self, body: bytes) -> bytes:
        if not self._gzip_in or not body:
            return body
        return inflate_untrusted(body, self._limits.max_message, Status.INTERNAL)

    def _end_stream(self) -> list[bytes]:
        self._reader.finish()
        if self._reader.end is None:
            raise GRPCError(Status.INTERNAL, "the response ended without an end of stream")
        status, message, details, trailing = decode_end_stream(self._reader.end)
        self._check_answered(status)
        self.outcome = Outcome(status, message, details, trailing)
        return []
