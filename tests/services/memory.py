"""A call and an HTTP exchange that live in memory, with the checks a connection would make."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable
from typing import Any, BinaryIO, Final, Generic, TypeVar

import attrs
import trio
from grpclib.const import Status
from multidict import MultiDict

from fawa.net.exchange import Disconnected, Exchange, Headers, Peer
from fawa.rpc.stream import MetadataLike

Received = TypeVar("Received")
Sent = TypeVar("Sent")

#: What RFC 9110 allows in names and values, in the lower case that HTTP/2 wants.
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE: Final = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")


@attrs.frozen
class Head:
    method: bytes
    path: bytes
    query: bytes


class MemoryExchange(Exchange):
    """One request without a body, and the response to it."""

    def __init__(
        self,
        target: str,
        *,
        method: str = "GET",
        headers: Collection[tuple[str, str]] = (),
        host: str = "files.example:8080",
        scheme: str = "http",
        peer: str = "192.0.2.1:40000",
        disconnect_after: int | None = None,
    ) -> None:
        path, _, query = target.partition("?")
        fields = [("host", host), *headers]
        super().__init__(
            Head(method.encode(), path.encode(), query.encode()),
            [(name.encode(), value.encode("latin-1")) for name, value in fields],
            "1.1",
            Peer(peer, scheme),
        )
        self.response: Headers = []
        #: Interim responses.
        self.informed: list[tuple[int, Headers]] = []
        self.body = b""
        self.ended = False
        self.aborted = False
        #: What was sent by the kernel: offset and count.
        self.sent_files: list[tuple[int, int]] = []
        self._disconnect_after = disconnect_after

    def answer(self, name: str) -> str | None:
        """Return a response header, `None` when missing."""
        values = [value for key, value in self.response if key == name.encode()]
        assert len(values) <= 1, f"{name} was sent {len(values)} times"
        return values[0].decode("ascii") if values else None

    @property
    def text(self) -> str:
        return self.body.decode()

    async def receive(self) -> bytes:
        return b""

    @property
    def body_over(self) -> bool:
        return True

    def inform(self, status: int, headers: Headers) -> None:
        assert self.status == 0, "the response has been started"
        self.informed.append((status, headers))

    def start(self, status: int, headers: Headers, *, end: bool = False) -> None:
        assert self.status == 0, "a response was started twice"
        for name, value in headers:
            assert _NAME.fullmatch(name), name
            assert _VALUE.fullmatch(value), value
        repeated = [name for name, count in Counter(name for name, _ in headers).items() if count > 1]
        assert not repeated
        self.status = status
        self.response = headers
        self.ended = end

    def push(self, data: bytes) -> None:
        assert self.status
        assert not self.ended
        self.body += data
        self.bytes_out += len(data)

    async def drain(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._disconnect_after is not None and len(self.body) > self._disconnect_after:
            raise Disconnected("the client is gone")

    async def send_file(self, file: BinaryIO, offset: int, count: int) -> None:
        self.sent_files.append((offset, count))
        self.push(os.pread(file.fileno(), count, offset))
        await self.drain()
        if os.fstat(file.fileno()).st_size < offset + count:
            raise EOFError("the file ends early")

    def finish(self, trailers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        assert not self.ended
        self.ended = True
        length = self.answer("content-length")
        assert length is not None
        assert int(length) == len(self.body), "content-length is not that of the body"

    def abort(self) -> None:
        assert not self.ended
        self.aborted = True

    @property
    def protocol(self) -> str:
        return ""

    def upgrade(self, headers: Headers) -> None:
        raise ValueError("the client asked for no upgrade")

    def flush(self) -> None:
        pass

    @property
    def is_flushed(self) -> bool:
        return True

    async def wait_flushed(self) -> None:
        await trio.lowlevel.checkpoint()

    def interrupt(self) -> None:
        raise AssertionError("no body here is waited for")


class Stall:
    """In a stream's messages: from here on the client sends nothing, and stays."""


class MemoryStream(Generic[Received, Sent]):
    """A call whose messages are all there; see `fawa.rpc.stream.Stream`.

    An exception among the messages is raised where it stands.
    """

    def __init__(
        self, messages: Iterable[Received | Stall | Exception], exchange: MemoryExchange | None = None
    ) -> None:
        self.exchange = exchange or MemoryExchange("/", method="POST")
        self.sent: list[Sent] = []
        #: As of our own call object: whether messages may be compressed.
        self.compress = True
        self.initial: MetadataLike | None = None
        #: How many messages the handler asked for, and when it gave up a client that stands still.
        self.taken = 0
        self.given_up_at: float | None = None
        self._messages = iter(messages)

    @property
    def metadata(self) -> MultiDict[str | bytes]:
        return MultiDict((name.decode(), value.decode()) for name, value in self.exchange.headers)

    async def recv_message(self) -> Received | None:
        await trio.lowlevel.checkpoint()
        message = next(self._messages, None)
        if isinstance(message, Exception):
            raise message
        self.taken += 1
        if isinstance(message, Stall):
            try:
                await trio.sleep_forever()
            finally:
                self.given_up_at = trio.current_time()
        return message

    async def recv_content(self, field: str) -> tuple[Received, bytes] | None:
        """As of our own call object."""
        message = await self.recv_message()
        return None if message is None else (message, getattr(message, field))

    def __aiter__(self) -> AsyncIterator[Received]:
        return self

    async def __anext__(self) -> Received:
        message = await self.recv_message()
        if message is None:
            raise StopAsyncIteration
        return message

    async def send_message(self, message: Sent) -> None:
        self.sent.append(message)
        await trio.lowlevel.checkpoint()

    async def send_content(self, message: Any, field: str, content: bytes) -> None:
        """As of our own call object."""
        assert not getattr(message, field)
        setattr(message, field, content)
        await self.send_message(message)

    async def send_initial_metadata(self, *, metadata: MetadataLike | None = None) -> None:
        assert not self.sent
        assert self.initial is None
        self.initial = metadata

    async def send_trailing_metadata(
        self,
        *,
        status: Status = Status.OK,
        status_message: str | None = None,
        status_details: Any = None,
        metadata: MetadataLike | None = None,
    ) -> None:
        raise AssertionError("no handler here ends its call itself")


class LiveStream(MemoryStream[Received, Sent]):
    """A call whose client says one thing after the other, and hears what it is sent; it may stop reading."""

    def __init__(self, exchange: MemoryExchange | None = None, *, is_half_duplex: bool = False) -> None:
        super().__init__((), exchange)
        self.is_half_duplex = is_half_duplex
        self.reads = trio.Event()
        self.reads.set()
        #: Whether the client is found to be gone when it is sent something.
        self.breaks = False
        self._say, self._said = trio.open_memory_channel[Received | Exception](1000)

    def say(self, *messages: Received | Exception) -> None:
        for message in messages:
            self._say.send_nowait(message)

    def half_close(self) -> None:
        self._say.close()

    async def recv_message(self) -> Received | None:
        try:
            message = await self._said.receive()
        except trio.EndOfChannel:
            return None
        if isinstance(message, Exception):
            raise message
        return message

    async def send_message(self, message: Sent) -> None:
        await self.reads.wait()
        if self.breaks:
            raise Disconnected("gone")
        self.sent.append(message)
        await trio.lowlevel.checkpoint()
