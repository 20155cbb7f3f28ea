"""The greet service on grpclib's own server, on uvloop: the handlers of fawa's own, as grpclib runs them."""

from __future__ import annotations

import socket

import uvloop
from grpclib.server import Server, Stream
from grpclib.utils import graceful_exit
from ready import tell_ready

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


class Greet(GreetServiceBase):
    async def SayHello(self, stream: Stream[SayHelloRequest, SayHelloResponse]) -> None:
        request = await stream.recv_message()
        assert request is not None
        await stream.send_initial_metadata(metadata={"greet-version": "v1"})
        await stream.send_message(SayHelloResponse(resp=f"Hello, {request.name}!"))

    async def GreetStream(self, stream: Stream[GreetStreamRequest, GreetStreamResponse]) -> None:
        request = await stream.recv_message()
        assert request is not None
        for number in range(1, 11):
            await stream.send_message(GreetStreamResponse(part=f"Hello, {request.name}! (part {number})"))

    async def GreetClientStream(
        self, stream: Stream[GreetClientStreamRequest, GreetClientStreamResponse]
    ) -> None:
        names = [request.name async for request in stream]
        await stream.send_message(GreetClientStreamResponse(summary=f"Hello, {', '.join(names)}!"))

    async def GreetBidiStream(self, stream: Stream[GreetBidiStreamRequest, GreetBidiStreamResponse]) -> None:
        async for request in stream:
            await stream.send_message(GreetBidiStreamResponse(echo=f"Hello, {request.name}!"))


async def main() -> None:
    server = Server([Greet()])
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    await server.start(sock=listener)
    tell_ready(listener.getsockname()[1])
    with graceful_exit([server]):
        await server.wait_closed()


if __name__ == "__main__":
    uvloop.run(main())
