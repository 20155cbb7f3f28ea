"""gRPC-Web, binary and text. Source: gRPC's `PROTOCOL-WEB.md`.

It is gRPC whose trailers are the last envelope of the body, and whose body, in the text form, is base64.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from typing import Final

from google.protobuf.message import Message
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.rpc.base import UNANSWERED, ContentType
from fawa.rpc.envelope import Payload, pack
from fawa.rpc.face import End, Headers, Limits, Method
from fawa.rpc.grpc import GrpcClient, GrpcServer, encode_trailers
from fawa.rpc.stream import MetadataLike

#: Flag of the envelope that holds the trailers.
_TRAILERS: Final = 0x80


class GrpcWebServer(GrpcServer):
    """A gRPC-Web call on the server, binary form."""

    __slots__ = ()

    name = "grpc-web"

    def end(
        self,
        status: Status,
        message: str | None = None,
        details: Sequence[Message] | None = None,
        trailing: MetadataLike | None = None,
    ) -> End:
        if self._owes_message(status):
            status, message = UNANSWERED
        fields = encode_trailers(status, message, details, trailing)
        block = b"".join(b"%b: %b\r\n" % field for field in fields)
        # The trailers go in the body also when there is nothing else: what a browser may see of the
        # headers depends on CORS.
        return End(None if self._headed else self._content.head, pack(block, _TRAILERS), [])


class GrpcWebTextServer(GrpcWebServer):
    """A gRPC-Web call on the server, text form: what is sent at one time is base64 with its own padding."""

    __slots__ = ("_base64",)

    name = "grpc-web-text"

    def __init__(
        self,
        content: ContentType,
        fields: dict[bytes, bytes],
        headers: Headers,
        method: Method | None,
        limits: Limits,
    ) -> None:
        super().__init__(content, fields, headers, method, limits)
        self._base64 = Base64Reader()

    def feed(self, data: bytes) -> list[bytes]:
        return super().feed(self._base64.feed(data))

    def feed_split(self, data: bytes) -> list[Payload]:
        return super().feed_split(self._base64.feed(data))

    def feed_end(self) -> list[bytes]:
        self._base64.finish()
        return super().feed_end()

    def message(self, payload: bytes) -> bytes:
        return binascii.b2a_base64(super().message(payload), newline=False)

    def message_around(self, head: bytes, content: bytes) -> tuple[bytes, ...]:
        return (self.message(head + content),)

    def end(
        self,
        status: Status,
        message: str | None = None,
        details: Sequence[Message] | None = None,
        trailing: MetadataLike | None = None,
    ) -> End:
        end = super().end(status, message, details, trailing)
        return End(end.head, binascii.b2a_base64(end.body, newline=False), [])


class Base64Reader:
    """Decodes base64 that comes in any pieces and may be padded wherever the sender flushed."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return the bytes that `data` completes.

        Raises:
            GRPCError: INTERNAL, it is not base64.

        """
        data = self._rest + data
        whole = len(data) - len(data) % 4
        self._rest = data[whole:]
        decoded = bytearray()
        position = 0
        try:
            while position < whole:
                # Padding can only end a group of four, and a new piece of base64 starts after it.
                padding = data.find(b"=", position, whole)
                end = whole if padding < 0 else padding - padding % 4 + 4
                decoded += binascii.a2b_base64(data[position:end], strict_mode=True)
                position = end
        except binascii.Error as error:
            raise GRPCError(Status.INTERNAL, f"body is not valid base64: {error}") from None
        return bytes(decoded)

    def finish(self) -> None:
        """Take the end of the body.

        Raises:
            GRPCError: INTERNAL, it comes inside a group of four characters.

        """
        if self._rest:
            raise GRPCError(Status.INTERNAL, "body ends inside a group of four base64 characters")


class GrpcWebClient(GrpcClient):
    """A gRPC-Web call on the client, binary form."""

    __slots__ = ()

    name = "grpc-web"
    _content_type = b"application/grpc-web"
    _end_flag = _TRAILERS

    def _protocol_headers(self) -> Headers:
        return [(b"x-grpc-web", b"1"), *super()._protocol_headers()[1:]]

    def _last_words(self, trailers: Headers) -> Headers:
        block = self._reader.end
        return self._trailers_only if block is None else _parse_block_untrusted(block)


def _parse_block_untrusted(block: bytes) -> Headers:
    fields: Headers = []
    for line in block.split(b"\n"):
        name, colon, value = line.strip().partition(b":")
        if colon:
            fields.append((name.strip().lower(), value.strip()))
        elif name:
            raise GRPCError(Status.INTERNAL, f"the server sent a bad trailer: {name.decode('latin-1')!r}")
    return fields
