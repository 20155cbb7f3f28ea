"""A greeter for tests: does what the name that it is called with says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio
from google.rpc.error_details_pb2 import ErrorInfo  # type: ignore[import-untyped]
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.client import Channel
from fawa.client.method import rpc
from fawa.proto.greet.v1.greet_grpc import GreetServiceBase
from fawa.proto.greet.v1.greet_pb2 import (
    GreetBidiStreamRequest,
    GreetBidiStreamResponse,
    GreetClientStreamRequest,
    GreetClientStreamResponse,
    GreetStreamRequest,
    GreetStreamResponse,
    SayHelloRequest,
    SayHelloResponse,
)
from fawa.rpc.stream import Stream

SAY_HELLO = rpc(GreetServiceBase.SayHello)
GREET_STREAM = rpc(GreetServiceBase.GreetStream)
GREET_CLIENT_STREAM = rpc(GreetServiceBase.GreetClientStream)
GREET_BIDI_STREAM = rpc(GreetServiceBase.GreetBidiStream)

#: An error with all that an error can carry.
ERROR = GRPCError(Status.FAILED_PRECONDITION, "out of\ngreetings: 100 % ü", [ErrorInfo(reason="EMPTY")])


async def fail(stream: Stream[Any, Any]) -> None:
    """Fail with metadata on both sides of nothing."""
    first: dict[str, str | bytes] = {"first": "1", "first-bin": b"\0\xff"}
    await stream.send_initial_metadata(metadata=first)
    await stream.send_trailing_metadata(metadata={"last": "2"})
    raise ERROR


@attrs.define(eq=False)
class Greeter(GreetServiceBase):
    """Runs what a test gives it, else greets."""

    unary: Callable[[Stream[SayHelloRequest, SayHelloResponse]], Awaitable[None]] | None = None
    server_stream: Callable[[Stream[GreetStreamRequest, GreetStreamResponse]], Awaitable[None]] | None = None
    client_stream: (
        Callable[[Stream[GreetClientStreamRequest, GreetClientStreamResponse]], Awaitable[None]] | None
    ) = None
    bidi: Callable[[Stream[GreetBidiStreamRequest, GreetBidiStreamResponse]], Awaitable[None]] | None = None
    #: Calls that a handler has begun and ended, in whatever way.
    begun: int = 0
    ended: int = 0
    _changed: trio.Condition = attrs.field(factory=trio.Condition)

    async def until_ended(self, calls: int) -> None:
        """Wait until so many calls have ended."""
        async with self._changed:
            while self.ended < calls:
                await self._changed.wait()

    async def _run(self, stream: Any, own: Any, default: Any) -> None:
        self.begun += 1
        try:
            await (own or default)(stream)
        finally:
            self.ended += 1
            with trio.CancelScope(shield=True):
                async with self._changed:
                    self._changed.notify_all()

    async def SayHello(self, stream: Stream[SayHelloRequest, SayHelloResponse]) -> None:
        await self._run(stream, self.unary, _hello)

    async def GreetStream(self, stream: Stream[GreetStreamRequest, GreetStreamResponse]) -> None:
        await self._run(stream, self.server_stream, _stream)

    async def GreetClientStream(
        self, stream: Stream[GreetClientStreamRequest, GreetClientStreamResponse]
    ) -> None:
        await self._run(stream, self.client_stream, _collect)

    async def GreetBidiStream(self, stream: Stream[GreetBidiStreamRequest, GreetBidiStreamResponse]) -> None:
        await self._run(stream, self.bidi, _echo)


async def _hello(stream: Stream[SayHelloRequest, SayHelloResponse]) -> None:
    request = await stream.recv_message()
    assert request is not None
    await stream.send_message(SayHelloResponse(resp=f"Hello, {request.name}!"))


async def _stream(stream: Stream[GreetStreamRequest, GreetStreamResponse]) -> None:
    request = await stream.recv_message()
    assert request is not None
    for part in range(3):
        await stream.send_message(GreetStreamResponse(part=f"{request.name} {part}"))


async def _collect(stream: Stream[GreetClientStreamRequest, GreetClientStreamResponse]) -> None:
    names = [request.name async for request in stream]
    await stream.send_message(GreetClientStreamResponse(summary=" ".join(names)))


async def _echo(stream: Stream[GreetBidiStreamRequest, GreetBidiStreamResponse]) -> None:
    async for request in stream:
        await stream.send_message(GreetBidiStreamResponse(echo=request.name))


#: Whom `use_all` greets.
NAMES = ["Ada", "", "Zoë", "李雷 🦊", "x" * 100_000]


async def use_all(channel: Channel) -> None:
    """Make a call of each of the four kinds."""
    for name in NAMES:
        reply = await channel.unary(SAY_HELLO, SayHelloRequest(name=name))
        assert reply.message.resp == f"Hello, {name}!"
        async with channel.server_stream(GREET_STREAM, GreetStreamRequest(name=name)) as parts:
            assert [part.part async for part in parts] == [f"{name} {n}" for n in range(3)]
    async with channel.client_stream(GREET_CLIENT_STREAM) as many:
        for name in NAMES:
            await many.send(GreetClientStreamRequest(name=name))
        assert (await many.reply()).summary == " ".join(NAMES)
    async with channel.bidi(GREET_BIDI_STREAM) as talk:
        for name in NAMES:
            await talk.send(GreetBidiStreamRequest(name=name))
            answer = await talk.recv()
            assert answer is not None
            assert answer.echo == name
        await talk.done_sending()
        assert await talk.recv() is None
        assert await talk.recv() is None
