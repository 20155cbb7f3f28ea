"""grpc.aio, the C core's client on asyncio; also calls beyond what one connection may carry."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncIterator
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest

from tests.daemon import PATIENCE
from tests.interop import expect
from tests.interop.grpcio_channel import aio_channel_to
from tests.interop.target import Target

Code = grpc.StatusCode


async def each(messages: list[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message


def test_all_four_kinds(target: Target, greet: Any, greet_grpc: Any) -> None:
    async def converse(name: str) -> None:
        async with aio_channel_to(target) as channel:
            stub = greet_grpc.GreetServiceStub(channel)

            call = stub.SayHello(greet.SayHelloRequest(name=name), timeout=PATIENCE)
            assert (await call).resp == expect.greeting(name)
            assert expect.VERSION_HEADER in list(await call.initial_metadata())

            stream = stub.GreetStream(greet.GreetStreamRequest(name=name), timeout=PATIENCE)
            assert [message.part async for message in stream] == expect.parts(name)

            requests = [greet.GreetClientStreamRequest(name=each) for each in (name, "Bob")]
            reply = await stub.GreetClientStream(each(requests), timeout=PATIENCE)
            assert reply.summary == expect.summary(name, "Bob")

            talk = stub.GreetBidiStream(timeout=PATIENCE)
            for said in (name, "Bob"):
                await talk.write(greet.GreetBidiStreamRequest(name=said))
                assert (await talk.read()).echo == expect.greeting(said)
            await talk.done_writing()
            assert await talk.read() is grpc.aio.EOF
            assert await talk.code() is Code.OK

    async def main() -> None:
        for name in expect.NAMES:
            await converse(name)

    asyncio.run(main())


def test_deadline_and_cancellation(target: Target, greet: Any, greet_grpc: Any) -> None:
    async def main() -> None:
        async with aio_channel_to(target) as channel:
            stub = greet_grpc.GreetServiceStub(channel)

            late = stub.GreetBidiStream(timeout=0.5)
            await late.write(greet.GreetBidiStreamRequest(name="Ada"))
            assert (await late.read()).echo == expect.greeting("Ada")
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await late.read()
            assert failed.value.code() is Code.DEADLINE_EXCEEDED

            given_up = stub.GreetBidiStream(timeout=PATIENCE)
            await given_up.write(greet.GreetBidiStreamRequest(name="Ada"))
            assert (await given_up.read()).echo == expect.greeting("Ada")
            given_up.cancel()
            assert await given_up.code() is Code.CANCELLED

            reply = await stub.SayHello(greet.SayHelloRequest(name="Bob"), timeout=PATIENCE)
            assert reply.resp == expect.greeting("Bob")

    asyncio.run(main())


def test_gzip(target: Target, greet: Any, greet_grpc: Any) -> None:
    async def main() -> None:
        name = "Ada " * 10_000
        async with aio_channel_to(target) as channel:
            stub = greet_grpc.GreetServiceStub(channel)
            stream = stub.GreetStream(
                greet.GreetStreamRequest(name=name), compression=grpc.Compression.Gzip, timeout=PATIENCE
            )
            assert [message.part async for message in stream] == expect.parts(name)

    asyncio.run(main())


def test_many_messages_each_way_on_one_stream(target: Target, greet: Any, greet_grpc: Any) -> None:
    """More than the flow-control windows hold, read only once all of it is written or the writer waits."""
    count, name = 2_000, "x" * 1_000

    async def main() -> None:
        async with aio_channel_to(target) as channel:
            requests = [greet.GreetBidiStreamRequest(name=f"{n} {name}") for n in range(count)]
            talk = greet_grpc.GreetServiceStub(channel).GreetBidiStream(each(requests), timeout=PATIENCE)
            echoes = [answer.echo async for answer in talk]
            assert echoes == [expect.greeting(f"{n} {name}") for n in range(count)]

    asyncio.run(main())


def test_calls_beyond_one_connection(target: Target, greet: Any, greet_grpc: Any) -> None:
    """The server replaces a connection after some thousand calls, and no call may notice."""
    calls, at_once = (12_000, 50) if target.certificate is None else (4_000, 50)

    async def main() -> collections.Counter[Any]:
        outcomes: collections.Counter[Any] = collections.Counter()
        numbers = iter(range(calls))
        async with aio_channel_to(target) as channel:
            stub = greet_grpc.GreetServiceStub(channel)

            async def caller() -> None:
                for number in numbers:
                    request = greet.SayHelloRequest(name=str(number))
                    try:
                        reply = await stub.SayHello(request, timeout=PATIENCE)
                    except grpc.aio.AioRpcError as error:
                        outcomes[error.code(), error.details()] += 1
                    else:
                        outcomes["right" if reply.resp == expect.greeting(str(number)) else "wrong"] += 1

            await asyncio.gather(*(caller() for _ in range(at_once)))
        return outcomes

    assert asyncio.run(main()) == {"right": calls}
