"""One RPC call on the client: messages out, messages in, and how it ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

import attrs
import trio
from google.protobuf.message import Message
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from multidict import MultiDict

from fawa.client.errors import CallFailed, ConnectionLost, Refused
from fawa.client.exchange import ClientExchange, Pool
from fawa.client.method import Rpc
from fawa.client.tracing import trace_fields
from fawa.rpc.dialect import ClientDialect
from fawa.rpc.stream import MetadataLike

Sent = TypeVar("Sent", bound=Message)
Received = TypeVar("Received", bound=Message)

#: Bytes sent that are kept, in case the server refuses the call, until it answers or there are more. A server
#: has taken or refused a call long before: what is sent ahead of its first word is bounded by HTTP/2's
#: initial window and by what a connection queues.
_KEPT: Final = 512 * 1024


@attrs.frozen
class Reply(Generic[Received]):
    """The answer of a unary call."""

    message: Received
    #: Initial and trailing metadata; values of keys that end in `-bin` are bytes.
    metadata: MultiDict[str | bytes]
    trailing: MultiDict[str | bytes]


@attrs.frozen
class Caller:
    """What all calls of a channel have in common."""

    pool: Pool
    #: Host and port as the server is addressed.
    authority: str
    new_dialect: Callable[[], ClientDialect]


class Call(Generic[Sent, Received]):
    """A call under way. One task may send while another receives.

    A call that the server refused without touching it is sent once more on its own, and so is one of a method
    without side effects whose connection broke before a word came back.
    """

    def __init__(
        self,
        caller: Caller,
        rpc: Rpc[Sent, Received],
        metadata: MetadataLike | None,
        timeout: float | None,
    ) -> None:
        self._caller = caller
        self._rpc = rpc
        self._sent_metadata = _with_trace(metadata)
        self._timeout = timeout
        self._deadline = None if timeout is None else trio.current_time() + timeout
        self._exchange: ClientExchange
        self._dialect: ClientDialect
        #: The request as sent so far, to send it again; `None` once that must not be.
        self._kept: list[bytes] | None = []
        self._kept_size = 0
        self._repeating = trio.Lock()
        self._has_head = False
        self._done_sending = False
        #: Payloads received and not yet asked for: those of one piece of the body.
        self._inbox: deque[bytes] = deque()
        #: The outcome is known.
        self._over = False

    # Sending

    async def send(self, message: Sent) -> None:
        """Send one message; waits while the server is slower than the caller.

        What is sent after the server has answered OK is dropped: it wants no more.

        Raises:
            GRPCError: the call has failed.
            RuntimeError: `done_sending` was called before.

        """
        if self._done_sending:
            raise RuntimeError("no message can be sent after done_sending()")
        with self._in_time():
            await self._push(self._dialect.message(self._dialect.codec.encode(message)))

    async def done_sending(self) -> None:
        """Say that no message follows; without effect when it was said before.

        Raises:
            GRPCError: the call has failed.

        """
        if not self._done_sending:
            self._done_sending = True
            with self._in_time():
                self._exchange.finish()
                await self._look(self._exchange)

    async def _push(self, data: bytes) -> None:
        if self._kept is not None:
            if self._kept_size > _KEPT:
                self._kept = None
            else:
                self._kept.append(data)
                self._kept_size += len(data)
        exchange = self._exchange
        exchange.push(data)
        await exchange.drain()
        await self._look(exchange)

    async def _look(self, exchange: ClientExchange) -> None:
        """See whether the server has ended the call while it was being sent."""
        if exchange.error is not None:
            await self._repeat(exchange, exchange.error)
        elif exchange.ended and not self._rpc.method.kind.server_streaming:
            while not self._over:
                await self._pull()
            self._check_outcome()

    # Receiving

    @property
    def metadata(self) -> MultiDict[str | bytes]:
        """Initial metadata, known after `recv_initial_metadata` or the first message."""
        if not self._has_head:
            raise RuntimeError("initial metadata is known after recv_initial_metadata() or recv()")
        return self._dialect.metadata

    @property
    def trailing(self) -> MultiDict[str | bytes]:
        """Trailing metadata, known after the last message: `recv` has returned `None`, or `reply` ended."""
        if not self._over:
            raise RuntimeError("trailing metadata is known when the call is over")
        return self._dialect.outcome.metadata

    async def recv_initial_metadata(self) -> MultiDict[str | bytes]:
        """Wait until the server has begun to answer; returns its initial metadata.

        Raises:
            GRPCError: the call has failed.

        """
        with self._in_time():
            while not self._has_head:
                await self._pull()
        return self._dialect.metadata

    async def recv(self) -> Received | None:
        """Return the next message, or `None` after the last one of a call that ended well.

        Raises:
            GRPCError: the call has failed; messages that came before are returned first.

        """
        inbox = self._inbox
        if not inbox and not self._over:
            with self._in_time():
                while not inbox and not self._over:
                    await self._pull()
        if inbox:
            return self._decode(inbox.popleft())
        self._check_outcome()
        return None

    def __aiter__(self) -> Call[Sent, Received]:
        return self

    async def __anext__(self) -> Received:
        message = await self.recv()
        if message is None:
            raise StopAsyncIteration
        return message

    async def reply(self) -> Received:
        """End the request and return the one message of a method that answers with one.

        Raises:
            GRPCError: the call has failed.
            RuntimeError: the method answers with a stream.

        """
        if self._rpc.method.kind.server_streaming:
            raise RuntimeError(f"{self._rpc.method.path} answers with a stream: use recv()")
        await self.done_sending()
        with self._in_time():
            while not self._over:
                await self._pull()
        self._check_outcome()
        return self._decode(self._inbox.popleft())

    async def _pull(self) -> None:
        """Take in what comes next: the head, a piece of the body, or the outcome."""
        exchange = self._exchange
        data = None
        try:
            if self._has_head:
                data = await exchange.receive()
            else:
                await exchange.wait_head()
        except GRPCError as error:
            await self._repeat(exchange, error)
            return
        if self._over or (data is None and self._has_head):
            return  # the sending task has taken it in meanwhile
        dialect = self._dialect
        try:
            if data is None:
                self._kept = None
                dialect.response(exchange.status, exchange.headers)
                self._has_head = True
            elif data:
                self._inbox.extend(dialect.feed(data))
            else:
                self._inbox.extend(dialect.feed_end(exchange.trailers))
                self._over = True
        except GRPCError:
            exchange.close()
            raise

    def _decode(self, payload: bytes) -> Received:
        try:
            return self._dialect.codec.decode(payload, self._rpc.method.response_type)  # type: ignore[return-value]
        except GRPCError as error:
            raise GRPCError(Status.INTERNAL, f"the server's {error.message}") from None

    def _check_outcome(self) -> None:
        outcome = self._dialect.outcome
        if outcome.status is not Status.OK:
            raise CallFailed(
                outcome.status,
                outcome.message,
                outcome.details or None,
                self._dialect.metadata,
                outcome.metadata,
            )

    # From beginning to end

    async def start(self) -> None:
        """Open the call; a request that is whole by then goes out in one piece.

        Raises:
            GRPCError: there is no connection.
            ValueError: the metadata cannot be sent.

        """
        with self._in_time():
            await self._open()

    async def start_with(self, message: Sent) -> None:
        """Open the call of a method that takes one message, with that message.

        Raises:
            GRPCError: there is no connection.
            ValueError: the metadata cannot be sent.

        """
        self._done_sending = True
        with self._in_time():
            await self._open(message)

    async def _open(self, message: Sent | None = None) -> None:
        connection = await self._caller.pool.acquire()
        try:
            dialect = self._caller.new_dialect()
            remaining = None if self._deadline is None else max(0.0, self._deadline - trio.current_time())
            head = dialect.request(self._rpc.method, self._caller.authority, self._sent_metadata, remaining)
            if message is not None:
                self._kept = [dialect.message(dialect.codec.encode(message))]
        except BaseException:
            connection.give_back()
            raise
        kept = self._kept or []
        if self._done_sending:
            exchange = connection.open(*head, b"".join(kept))
        else:
            exchange = connection.open(*head)
            for data in kept:
                exchange.push(data)
        self._exchange = exchange
        self._dialect = dialect

    async def _repeat(self, failed: ClientExchange, error: GRPCError) -> None:
        """Send the call once more where that is safe; else raise `error`."""
        async with self._repeating:
            if failed is not self._exchange:
                return
            safe = isinstance(error, Refused) or (
                isinstance(error, ConnectionLost) and self._rpc.method.no_side_effects
            )
            if not safe or self._kept is None:
                raise error
            failed.close()
            await self._open()
            self._kept = None

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        if self._deadline is None:
            yield
            return
        with trio.CancelScope(deadline=self._deadline) as scope:
            yield
        if scope.cancelled_caught:
            self.close()
            raise GRPCError(Status.DEADLINE_EXCEEDED, f"the call took longer than {self._timeout:g} s")

    def close(self) -> None:
        """Give the call up, if it is not over."""
        if hasattr(self, "_exchange"):
            self._exchange.close()


def _with_trace(metadata: MetadataLike | None) -> MetadataLike | None:
    """Return what is sent with a call: of the active span, unless the caller tells of another."""
    fields = trace_fields()
    if not fields:
        return metadata
    given: MultiDict[str | bytes] = MultiDict(metadata or {})
    if "traceparent" not in given:
        given.extend(fields)
    return given
