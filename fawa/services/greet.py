"""`greet.v1`: an example service people copy, one method for each of the four kinds of call."""

from __future__ import annotations

from typing import Final

import attrs
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

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
from fawa.services.base import Offer
from fawa.services.unary import receive_one

#: Characters of all names that one GreetClientStream call may send: they are kept until its end.
MAX_NAMES: Final = 256 * 1024

_PARTS: Final = 10
_VERSION: Final = {"greet-version": "v1"}


class GreetRpc(GreetServiceBase):
    """The methods."""

    async def SayHello(self, stream: Stream[SayHelloRequest, SayHelloResponse]) -> None:
        """Greet one name."""
        request = await receive_one(stream)
        await stream.send_initial_metadata(metadata=_VERSION)
        await stream.send_message(SayHelloResponse(resp=f"Hello, {request.name}!"))

    async def GreetStream(self, stream: Stream[GreetStreamRequest, GreetStreamResponse]) -> None:
        """Greet one name, or the world, in ten parts."""
        request = await receive_one(stream)
        name = request.name or "World"
        for part in range(1, _PARTS + 1):
            await stream.send_message(GreetStreamResponse(part=f"Hello, {name}! (part {part})"))

    async def GreetClientStream(
        self, stream: Stream[GreetClientStreamRequest, GreetClientStreamResponse]
    ) -> None:
        """Greet many names at once; no names are answered `Hello, !`, as the same rule has it."""
        names: list[str] = []
        room = MAX_NAMES
        async for request in stream:
            # Each name also costs its place in the list, so that empty ones do not come free.
            room -= len(request.name) + 1
            if room < 0:
                raise GRPCError(
                    Status.RESOURCE_EXHAUSTED,
                    f"the names together are longer than {MAX_NAMES} characters, send them in several calls",
                )
            names.append(request.name)
        await stream.send_message(GreetClientStreamResponse(summary=f"Hello, {', '.join(names)}!"))

    async def GreetBidiStream(self, stream: Stream[GreetBidiStreamRequest, GreetBidiStreamResponse]) -> None:
        """Greet each name at once."""
        async for request in stream:
            await stream.send_message(GreetBidiStreamResponse(echo=f"Hello, {request.name}!"))


@attrs.define
class GreetService:
    """The service; it keeps nothing."""

    name: str = "greet"

    async def run(self, task_status: trio.TaskStatus[Offer]) -> None:
        """Serve until cancelled."""
        task_status.started(Offer(rpc=(GreetRpc(),)))
        await trio.sleep_forever()
