"""Answers that arrive in pieces of any size are the same answers."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs
import pytest
import trio

from fawa.client.dial import Dialer, parse_server
from fawa.proto.greet.v1.greet_pb2 import GreetBidiStreamRequest, GreetStreamRequest, SayHelloRequest
from fawa.rpc.dialect import CLIENTS
from tests.client.greet import GREET_BIDI_STREAM, GREET_STREAM, SAY_HELLO, Greeter
from tests.client.server import open_channel, serving


@attrs.define(eq=False)
class Chopped(trio.abc.Stream):
    """Gives out what is received in pieces of chosen sizes."""

    _inner: trio.abc.Stream
    _size: Callable[[], int]

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._inner.receive_some(self._size()))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._inner.aclose()


@pytest.mark.parametrize("sizes", ["byte by byte", "at random"])
@pytest.mark.parametrize("http", ["2", "1.1"])
@pytest.mark.parametrize("dialect", CLIENTS)
async def test_pieces(dialect: str, http: str, sizes: str, seed: int) -> None:
    if (dialect, http) == ("grpc", "1.1"):
        dialect = "grpc-web"
    chance = random.Random(seed)
    size = (lambda: 1) if sizes == "byte by byte" else (lambda: chance.randint(1, 40))
    async with serving(Greeter()) as server:
        origin = parse_server(server.url)
        dialer = Dialer(origin, None, "h2")

        async def dial() -> trio.abc.Stream:
            return Chopped(await dialer(), size)

        async with open_channel(dial, origin.authority, dialect, http=http) as channel:
            for name in ("", "Zoë", "x" * 300):
                reply = await channel.unary(SAY_HELLO, SayHelloRequest(name=name))
                assert reply.message.resp == f"Hello, {name}!"
                async with channel.server_stream(GREET_STREAM, GreetStreamRequest(name=name)) as parts:
                    assert [part.part async for part in parts] == [f"{name} {n}" for n in range(3)]
                async with channel.bidi(GREET_BIDI_STREAM) as talk:
                    await talk.send(GreetBidiStreamRequest(name=name))
                    await talk.done_sending()
                    assert [answer.echo async for answer in talk] == [name]
