"""One RPC call on the server: the stream object that handlers see, over an exchange and a dialect."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import attrs
import trio
from google.protobuf.message import Message
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from multidict import MultiDict

from fawa.net.exchange import Exchange
from fawa.rpc.dialect import Method, ServerDialect
from fawa.rpc.envelope import Payload
from fawa.rpc.stream import MetadataLike

Received = TypeVar("Received", bound=Message)
Sent = TypeVar("Sent", bound=Message)


@attrs.frozen
class Deadline:
    """When a call must be over, on trio's clock."""

    at: float

    def time_remaining(self) -> float:
        """Return the seconds that remain, at least 0."""
        return max(0.0, self.at - trio.current_time())


@attrs.frozen
class CallPeer:
    """Who calls, in the form grpclib gives it to handlers."""

    address: str

    def addr(self) -> tuple[str, int]:
        """Return host and port."""
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)


class Call(Generic[Received, Sent]):
    """The `fawa.rpc.stream.Stream` of one call."""

    __slots__ = (
        "_dialect",
        "_ended",
        "_head_sent",
        "_inbox",
        "_method",
        "_received",
        "_status",
        "_trailing",
        "deadline",
        "exchange",
    )

    def __init__(self, exchange: Exchange, dialect: ServerDialect, method: Method) -> None:
        self.exchange = exchange
        self.deadline: Deadline | None = None
        self._dialect = dialect
        self._method = method
        #: Payloads received and not yet asked for; the exchange's bound on buffered body bytes bounds it.
        self._inbox: deque[Payload] = deque()
        self._ended = False
        #: Payloads received.
        self._received = 0
        self._head_sent = False
        self._trailing: MetadataLike | None = None
        self._status: tuple[Status, str | None, Sequence[Message] | None] | None = None

    @property
    def metadata(self) -> MultiDict[str | bytes]:
        """Request metadata; values of keys that end in `-bin` are bytes."""
        return self._dialect.metadata

    @property
    def compress(self) -> bool:
        """Whether messages may be sent compressed; handlers whose content does not compress say `False`."""
        return self._dialect.compress

    @compress.setter
    def compress(self, value: bool) -> None:
        self._dialect.compress = value

    @property
    def user_agent(self) -> str | None:
        """The client's user agent, if it said so."""
        value = self.exchange.header(b"user-agent")
        return None if value is None else value.decode("latin-1")

    @property
    def peer(self) -> CallPeer:
        """Who calls."""
        return CallPeer(self.exchange.peer)

    @property
    def is_half_duplex(self) -> bool:
        """Whether the client can read only once it has said all; asked after its last message.

        Then the end of its messages does not mean that it wants no more answers. So it is in browsers, which
        send a body before they read (gRPC-Web; Connect with one message), and with Connect over HTTP/1.1,
        which has full-duplex streams over HTTP/2 alone (https://connectrpc.com/docs/protocol).
        """
        name = self._dialect.name
        if name.startswith("connect"):
            return self.exchange.version.startswith("1") or self._received <= 1
        return name.startswith("grpc-web")

    async def recv_message(self) -> Received | None:
        """Return the next message, or `None` after the client's last one.

        Raises:
            GRPCError: what arrived breaks the dialect, a limit, or the message's schema.

        """
        inbox, exchange, dialect = self._inbox, self.exchange, self._dialect
        # A request that is one message is read to its end first, so that a second one is noticed.
        while not self._ended and (not inbox or not self._method.kind.client_streaming):
            if data := exchange.take() or await exchange.receive():
                inbox += dialect.feed(data)
            if exchange.body_over:
                self._ended = True
                inbox += dialect.feed_end()
        if not inbox:
            return None
        self._received += 1
        payload = inbox.popleft()
        whole = payload if isinstance(payload, bytes) else b"".join(payload)
        return dialect.codec.decode(whole, self._method.request_type)  # type: ignore[return-value]

    async def recv_contents(self, field: str) -> Iterator[tuple[Received, list[bytes | memoryview]]]:
        """Wait for messages; return all that have come, none after the client's last one.

        With each comes what its bytes field `field` holds, in pieces that are not copied if that is possible;
        the message itself may then be without the field. For methods whose client streams.

        Raises:
            GRPCError: as `recv_message`; what is wrong with one message is said when it is that one's turn.

        """
        inbox = self._inbox
        while not self._ended and not inbox:
            if data := await self.exchange.receive():
                inbox.extend(self._dialect.feed_split(data))
            if self.exchange.body_over:
                self._ended = True
                inbox.extend(self._dialect.feed_end())
        return self._take_contents(field)

    def _take_contents(self, field: str) -> Iterator[tuple[Received, list[bytes | memoryview]]]:
        codec, request_type = self._dialect.codec, self._method.request_type
        while self._inbox:
            self._received += 1
            yield codec.decode_around(self._inbox.popleft(), request_type, field)  # type: ignore[arg-type]

    def __aiter__(self) -> Call[Received, Sent]:
        return self

    async def __anext__(self) -> Received:
        message = await self.recv_message()
        if message is None:
            raise StopAsyncIteration
        return message

    async def send_initial_metadata(self, *, metadata: MetadataLike | None = None) -> None:
        """Send response metadata now; may be called once, before the first message."""
        if self._head_sent:
            raise RuntimeError("initial metadata has already been sent")
        self._send_head(metadata)

    def _send_head(self, metadata: MetadataLike | None) -> None:
        self._head_sent = True
        head = self._dialect.head(metadata)
        if head is not None:
            self.exchange.start(head.status, head.headers)

    async def send_message(self, message: Sent) -> None:
        """Send one message; waits while the client is slower than the handler."""
        if not self._head_sent:
            self._send_head(None)
        dialect = self._dialect
        if data := dialect.message(dialect.codec.encode(message)):
            self.exchange.push(data)
            if self._method.kind.server_streaming:
                await self.exchange.drain()

    async def send_content(self, message: Sent, field: str, content: bytes) -> None:
        """Send `message` with its bytes field `field` set to `content`, if possible without copying that.

        The field's number must be above those of all fields that are set. Waits as `send_message` does.
        """
        if not self._head_sent:
            self._send_head(None)
        exchange, dialect = self.exchange, self._dialect
        for part in dialect.message_around(*dialect.codec.encode_around(message, field, content)):
            if part:
                exchange.push(part)
        if self._method.kind.server_streaming:
            await exchange.drain()

    async def send_trailing_metadata(
        self,
        *,
        status: Status = Status.OK,
        status_message: str | None = None,
        status_details: Any = None,
        metadata: MetadataLike | None = None,
    ) -> None:
        """Set how the call ends; it ends when the handler returns."""
        self._status = (status, status_message, status_details)
        self._trailing = metadata

    def end(self, error: GRPCError | None = None) -> None:
        """End the response: with `error`, else as the handler said, else OK.

        Raises:
            ValueError: the handler's trailing metadata cannot be sent.

        """
        if error is not None:
            status, message, details = error.status, error.message, error.details
        else:
            status, message, details = self._status or (Status.OK, None, None)
        answer(self.exchange, self._dialect, status, message, details, self._trailing)


def answer(
    exchange: Exchange,
    dialect: ServerDialect,
    status: Status,
    message: str | None,
    details: Sequence[Message] | None = None,
    trailing: MetadataLike | None = None,
) -> None:
    """End a call's response in its dialect."""
    end = dialect.end(status, message, details, trailing)
    exchange.code = status
    if end.head is not None and not end.trailers:
        exchange.respond(end.head.status, end.head.headers, end.body)
        return
    if end.head is not None:
        exchange.start(end.head.status, end.head.headers)
    if end.body:
        exchange.push(end.body)
    exchange.finish(end.trailers)
