"""What the dialects have in common, on the server's and on the client's side."""

from __future__ import annotations

import abc
from typing import ClassVar, Final

import attrs
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from multidict import MultiDict

from fawa import __version__
from fawa.rpc.codec import Codec
from fawa.rpc.compression import accepts_gzip, compress, is_gzip
from fawa.rpc.envelope import COMPRESSED, EnvelopeReader, Payload, pack, pack_around, unpack_whole
from fawa.rpc.face import ClientDialect, Head, Headers, Limits, Method, ServerDialect
from fawa.rpc.metadata import decode_metadata, encode_metadata
from fawa.rpc.stream import MetadataLike

OK: Final = Status.OK

#: As gRPC's `PROTOCOL-HTTP2.md` recommends: grpc-LANGUAGE-VARIANT/VERSION.
USER_AGENT: Final = b"grpc-python-fawa/" + __version__.encode()


@attrs.frozen
class ContentType:
    """A content type and the response heads that go with it, made once and shared by all calls."""

    value: bytes
    codec: Codec
    #: Without and with gzip announced.
    head: Head
    gzip_head: Head

    @classmethod
    def of(cls, value: bytes, codec: Codec, encoding_field: bytes) -> ContentType:
        """Return a content type; `encoding_field` is the header that announces gzip."""
        field = (b"content-type", value)
        return cls(value, codec, Head(200, [field]), Head(200, [field, (encoding_field, b"gzip")]))


class ServerBase(ServerDialect):
    """The parts of a call on the server that all dialects have."""

    __slots__ = (
        "_compress_from",
        "_content",
        "_gzip_in",
        "_gzip_out",
        "_headers",
        "_metadata",
        "_one_out",
        "_sent",
    )

    #: The header fields that say how the client compresses, what it takes, and how long the call may take.
    encoding_field: ClassVar[bytes]
    accept_field: ClassVar[bytes]
    timeout_field: ClassVar[bytes]

    @staticmethod
    @abc.abstractmethod
    def decode_timeout(value: bytes) -> float:
        """Return the seconds that the last of them says; ValueError when it cannot be read."""

    def __init__(
        self,
        content: ContentType,
        fields: dict[bytes, bytes],
        headers: Headers,
        method: Method | None,
        limits: Limits,
    ) -> None:
        """Read what the head of the request says.

        Args:
            content: type of the request and of the response.
            fields: `headers` by name.
            headers: of the request.
            method: what is called, if it exists.
            limits: of this call.

        """
        self.codec = content.codec
        self.compress = True
        self.refusal = None
        self.timeout = None
        self._content = content
        self._headers = headers
        self._metadata: MultiDict[str | bytes] | None = None
        self._compress_from = limits.compress_from
        self._one_out = method is not None and not method.kind.server_streaming
        self._sent = 0
        self._gzip_in = False
        timeout = fields.get(self.timeout_field)
        if timeout is not None:
            try:
                self.timeout = self.decode_timeout(timeout)
            except ValueError as error:
                self.refusal = GRPCError(Status.INVALID_ARGUMENT, str(error))
        encoding = fields.get(self.encoding_field)
        if encoding is not None:
            try:
                self._gzip_in = is_gzip(encoding)
            except ValueError as error:
                self.refusal = GRPCError(Status.UNIMPLEMENTED, str(error))
        # A client that does not say what it takes is taken to take what it uses.
        accepted = fields.get(self.accept_field)
        self._gzip_out = self._gzip_in if accepted is None else accepts_gzip(accepted)

    @property
    def metadata(self) -> MultiDict[str | bytes]:
        if self._metadata is None:
            try:
                self._metadata = decode_metadata(self._headers)
            except ValueError as error:
                raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from None
        return self._metadata

    def _squeeze(self, payload: bytes) -> bytes | None:
        """Return `payload` compressed, or `None` where that is not agreed or does not pay.

        A stream whose content once did not shrink (an archive, a picture) is not tried again.
        """
        if not self._gzip_out or not self.compress or len(payload) < self._compress_from:
            return None
        squeezed = compress(payload)
        if len(squeezed) < len(payload):
            return squeezed
        self.compress = False
        return None

    def _count_sent(self) -> None:
        if self._sent and self._one_out:
            raise GRPCError(
                Status.INTERNAL, "the handler sent a second message where the method answers with one"
            )
        self._sent += 1

    def _owes_message(self, status: Status) -> bool:
        return status is OK and self._one_out and not self._sent


#: What a call ends with instead of an OK that owes a message.
UNANSWERED: Final = (Status.INTERNAL, "the handler ended without the message that the method answers with")


class EnvelopedServer(ServerBase):
    """A call on the server whose messages come and go in envelopes."""

    __slots__ = ("_headed", "_max_message", "_one_in", "_reader", "_received")

    #: Status of the error for a body that is malformed.
    fault: ClassVar[Status]

    def __init__(
        self,
        content: ContentType,
        fields: dict[bytes, bytes],
        headers: Headers,
        method: Method | None,
        limits: Limits,
    ) -> None:
        super().__init__(content, fields, headers, method, limits)
        self._headed = False
        self._one_in = method is not None and not method.kind.client_streaming
        self._received = 0
        self._max_message = limits.max_message
        #: Made when a piece of the body is not just one whole message, as it usually is.
        self._reader: EnvelopeReader | None = None

    def feed(self, data: bytes) -> list[bytes]:
        reader = self._reader
        payload = unpack_whole(data, self._max_message) if reader is None else None
        if payload is not None:
            payloads = [payload]
        else:
            if reader is None:
                reader = self._reader = self._make_reader()
            payloads = reader.feed(data)
        if self._one_in and payloads:
            self._received += len(payloads)
            if self._received > 1:
                raise GRPCError(
                    Status.UNIMPLEMENTED, "the method takes one request message, a second one was sent"
                )
        return payloads

    def feed_split(self, data: bytes) -> list[Payload]:
        if self._one_in:
            return [*self.feed(data)]
        if self._reader is None:
            self._reader = self._make_reader()
        return self._reader.feed_split(data)

    def _make_reader(self) -> EnvelopeReader:
        return EnvelopeReader(self._max_message, gzip=self._gzip_in, fault=self.fault)

    def feed_end(self) -> list[bytes]:
        if self._reader is not None:
            self._reader.finish()
        if self._one_in and not self._received:
            raise GRPCError(Status.UNIMPLEMENTED, "the method takes one request message, none was sent")
        return []

    def head(self, metadata: MetadataLike | None) -> Head:
        if not self.compress:
            self._gzip_out = False
        head = self._content.gzip_head if self._gzip_out else self._content.head
        if metadata:
            head = Head(200, head.headers + encode_metadata(metadata))
        self._headed = True
        return head

    def message(self, payload: bytes) -> bytes:
        self._count_sent()
        if self._gzip_out:
            squeezed = self._squeeze(payload)
            if squeezed is not None:
                return pack(squeezed, COMPRESSED)
        return pack(payload)

    def message_around(self, head: bytes, content: bytes) -> tuple[bytes, ...]:
        if self._gzip_out and self.compress:
            return super().message_around(head, content)
        self._count_sent()
        return pack_around(head, content)


class ClientBase(ClientDialect):
    """The parts of a call on the client that all dialects have."""

    __slots__ = ("_compress", "_limits", "_one_in", "_received")

    def __init__(self, codec: Codec, limits: Limits, *, compress: bool) -> None:
        """Make the client's side of one call.

        Args:
            codec: of the messages, both ways.
            limits: of this call.
            compress: send messages compressed with gzip; off unless one knows that the server takes it.

        """
        self.codec = codec
        self._limits = limits
        self._compress = compress
        self._one_in = False
        self._received = 0

    def _count_received(self, payloads: list[bytes]) -> None:
        self._received += len(payloads)
        if self._one_in and self._received > 1:
            raise GRPCError(Status.UNIMPLEMENTED, "the server sent a second message where the method has one")

    def _check_answered(self, status: Status) -> None:
        if status is OK and self._one_in and not self._received:
            raise GRPCError(Status.UNIMPLEMENTED, "the server ended the call without the message it owes")


def read_metadata(headers: Headers) -> MultiDict[str | bytes]:
    """Return the metadata among a response's fields.

    Raises:
        GRPCError: INTERNAL, a `-bin` value is not base64.

    """
    try:
        return decode_metadata(headers)
    except ValueError as error:
        raise GRPCError(Status.INTERNAL, f"the server sent bad metadata: {error}") from None


def read_encoding(encoding: bytes | None) -> bool:
    """Tell whether the server may send messages compressed with gzip.

    Raises:
        GRPCError: INTERNAL, it uses a compression that we did not offer.

    """
    try:
        return is_gzip(encoding)
    except ValueError as error:
        raise GRPCError(Status.INTERNAL, f"in the server's response, {error}") from None
