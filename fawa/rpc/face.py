"""The face every RPC dialect shows: what one call looks like to the shell that runs it, on either side.

A dialect is one object per call. Bytes of the HTTP body go in and message payloads come out; payloads go in
and bytes come out. It is pure: no I/O, no clock, no randomness.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import attrs
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message
from grpclib.const import Cardinality, Handler, Status

from fawa.rpc.codec import Codec
from fawa.rpc.envelope import Payload
from fawa.rpc.stream import MetadataLike

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any as AnyMessage
    from grpclib.exceptions import GRPCError
    from multidict import MultiDict

#: Header fields in order, names in lower case. The same as `fawa.net.exchange.Headers`.
Headers = list[tuple[bytes, bytes]]


class Kind(enum.Enum):
    """The four kinds of RPC method."""

    UNARY = Cardinality.UNARY_UNARY
    CLIENT_STREAM = Cardinality.STREAM_UNARY
    SERVER_STREAM = Cardinality.UNARY_STREAM
    BIDI = Cardinality.STREAM_STREAM

    def __init__(self, client_streaming: bool, server_streaming: bool) -> None:
        # `Cardinality` members are tuples, and enum spreads a tuple over `__init__`.
        self.client_streaming = client_streaming
        self.server_streaming = server_streaming


_KINDS = {kind.value: kind for kind in Kind}


@attrs.frozen
class Method:
    """One RPC method."""

    #: "/package.Service/Name".
    path: str
    kind: Kind
    request_type: type[Message]
    response_type: type[Message]
    #: The .proto file says `idempotency_level = NO_SIDE_EFFECTS`: Connect allows GET.
    no_side_effects: bool = False

    @classmethod
    def from_handler(cls, path: str, handler: Handler) -> Method:
        """Return the method that a grpclib service maps to `path`.

        Idempotency is read from the descriptor of the service, found in the descriptor pool of the request
        type; a service that is not in it is taken to have side effects.
        """
        service_name, _, method_name = path.lstrip("/").partition("/")
        request_type: type[Message] = handler.request_type
        try:
            service = request_type.DESCRIPTOR.file.pool.FindServiceByName(service_name)
            level = service.methods_by_name[method_name].GetOptions().idempotency_level
        except KeyError:
            level = MethodOptions.IDEMPOTENCY_UNKNOWN
        return cls(
            path=path,
            kind=_KINDS[handler.cardinality],
            request_type=request_type,
            response_type=handler.reply_type,
            no_side_effects=level == MethodOptions.NO_SIDE_EFFECTS,
        )


@attrs.frozen
class Limits:
    """What one call may cost."""

    #: The largest message taken, in bytes after decompression (also the cap of the bytes before).
    max_message: int = attrs.field(default=4 * 1024 * 1024, validator=attrs.validators.gt(0))
    #: Messages shorter than this, in bytes, are sent uncompressed.
    compress_from: int = attrs.field(default=1024, validator=attrs.validators.ge(0))


class Head(NamedTuple):
    """The head of an HTTP response. Shared between calls: take a copy before adding to `headers`."""

    status: int
    headers: Headers


@attrs.frozen
class End:
    """How a response ends.

    With a `head`, nothing was sent before: `head` and `body` are the whole response and `trailers` is empty.
    Without one, `body` (perhaps empty) follows what was sent, and then the trailers (none when empty).
    """

    head: Head | None
    body: bytes
    trailers: Headers


@attrs.frozen
class Outcome:
    """How a call ended, as the client learned it."""

    status: Status
    message: str | None
    #: The error details that the server attached, still packed.
    details: list[AnyMessage]
    #: Trailing metadata; values of keys that end in `-bin` are bytes.
    metadata: MultiDict[str | bytes]


class HttpError(Exception):
    """The request is no RPC of any dialect: answer with plain HTTP."""

    def __init__(self, status: int, headers: Headers, text: str) -> None:
        super().__init__(text)
        self.status = status
        #: Headers that belong to the status, such as `allow`; the content type is the shell's.
        self.headers = headers
        #: One line: what was wrong and what to do.
        self.text = text


class ServerDialect(abc.ABC):
    """The server's side of one call.

    Order of use: `refusal` first (if set, go to `end` with it and call no handler), then `feed` for each
    piece of the body and `feed_end` at its end; meanwhile `head` once, `message` for each message; `end`
    last. `head` may be left out when there is an error, and must come before the first `message`.
    """

    __slots__ = ("codec", "compress", "refusal", "timeout")

    #: For logs: "grpc", "grpc-web", "grpc-web-text", "connect" (unary), "connect-get", "connect-stream".
    name: str
    codec: Codec
    #: Seconds the client allows from now on, or `None`.
    timeout: float | None
    #: What was already wrong with the head of the request: unknown codec, encoding or version, bad timeout.
    refusal: GRPCError | None
    #: Set it to `False` to send the coming messages uncompressed whatever was negotiated, such as when their
    #: content does not compress.
    compress: bool

    @property
    @abc.abstractmethod
    def metadata(self) -> MultiDict[str | bytes]:
        """Request metadata without the protocol's own headers; values of keys ending in `-bin` are bytes.

        Decoded on first access.

        Raises:
            GRPCError: INVALID_ARGUMENT, a `-bin` value is not base64.

        """

    @abc.abstractmethod
    def feed(self, data: bytes) -> list[bytes]:
        """Take a piece of the request body; return the payloads of the messages that it completes.

        Raises:
            GRPCError: the body breaks the protocol or a limit; the call ends with it.

        """

    def feed_split(self, data: bytes) -> list[Payload]:
        """As `feed`; where the dialect can, payloads are in pieces, and what is large is not copied."""
        return [*self.feed(data)]

    @abc.abstractmethod
    def feed_end(self) -> list[bytes]:
        """Take the end of the request body; return the payload that it completes, if any.

        Raises:
            GRPCError: the body ends inside a message, or has no message where the method takes one.

        """

    @abc.abstractmethod
    def head(self, metadata: MetadataLike | None) -> Head | None:
        """Return the head to send now, or `None` where it waits for the outcome (Connect unary).

        Raises:
            ValueError: a key or value cannot be sent as metadata.

        """

    @abc.abstractmethod
    def message(self, payload: bytes) -> bytes:
        """Return the body bytes that carry one encoded message, `b""` where they wait for the outcome.

        Raises:
            GRPCError: INTERNAL, the handler sent a second message where the method answers with one.

        """

    def message_around(self, head: bytes, content: bytes) -> tuple[bytes, ...]:
        """Do as `message` for a payload in two parts, of which the second is large and uncopied if it can be.

        Raises:
            GRPCError: as `message`.

        """
        return (self.message(head + content),)

    @abc.abstractmethod
    def end(
        self,
        status: Status,
        message: str | None = None,
        details: Sequence[Message] | None = None,
        trailing: MetadataLike | None = None,
    ) -> End:
        """Return the end of the response.

        An OK status where the method owes a message and none was sent becomes INTERNAL.

        Raises:
            ValueError: a key or value cannot be sent as metadata, or a detail is not a protobuf message;
                nothing has changed, so `end` can be called again without it.

        """


class ClientDialect(abc.ABC):
    """The client's side of one call.

    Order of use: `request`, `message` for each message; `response` when the head arrives, `feed` for each
    piece of the body, `feed_end` at its end (with the HTTP trailers), then `outcome`. What the server said
    is the outcome; what is wrong with the way it said it is raised, and the call is over.
    """

    __slots__ = ("codec", "metadata", "outcome")

    #: For logs: "grpc", "grpc-web", "connect".
    name: str
    codec: Codec
    #: Initial metadata, known after `response`.
    metadata: MultiDict[str | bytes]
    #: How the call ended, known after `feed_end`.
    outcome: Outcome

    @abc.abstractmethod
    def request(
        self,
        method: Method,
        authority: str,
        metadata: MetadataLike | None = None,
        timeout: float | None = None,
    ) -> tuple[str, str, Headers]:
        """Return the HTTP method, the request target and the headers, of which `host` is the first.

        Args:
            method: what is called.
            authority: host and port of the server.
            metadata: request metadata.
            timeout: seconds the server may take, or `None`.

        Raises:
            ValueError: a key or value cannot be sent as metadata.

        """

    @abc.abstractmethod
    def message(self, payload: bytes) -> bytes:
        """Return the body bytes that carry one encoded message."""

    @abc.abstractmethod
    def response(self, status: int, headers: Headers) -> None:
        """Take the head of the response.

        Raises:
            GRPCError: it is not of this dialect, such as a proxy's error page.

        """

    @abc.abstractmethod
    def feed(self, data: bytes) -> list[bytes]:
        """Take a piece of the response body; return the payloads of the messages that it completes.

        Raises:
            GRPCError: the body breaks the protocol or a limit.

        """

    @abc.abstractmethod
    def feed_end(self, trailers: Headers) -> list[bytes]:
        """Take the end of the response; return the payload that it completes, if any. Sets `outcome`.

        Raises:
            GRPCError: the response ends too early, or says OK without the message it owes.

        """
