"""The greetings, word by word."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

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
from fawa.services.greet import MAX_NAMES, GreetRpc, GreetService
from tests.services.memory import MemoryStream


@pytest.mark.parametrize("name", ["Ada", "", "李雷", "a\nb"])
async def test_say_hello(name: str) -> None:
    stream = MemoryStream[SayHelloRequest, SayHelloResponse]([SayHelloRequest(name=name)])
    await GreetRpc().SayHello(stream)
    assert stream.sent == [SayHelloResponse(resp=f"Hello, {name}!")]
    assert stream.initial == {"greet-version": "v1"}


@pytest.mark.parametrize(("name", "greeted"), [("Ada", "Ada"), ("", "World")])
async def test_greet_stream(name: str, greeted: str) -> None:
    stream = MemoryStream[GreetStreamRequest, GreetStreamResponse]([GreetStreamRequest(name=name)])
    await GreetRpc().GreetStream(stream)
    assert [message.part for message in stream.sent] == [
        f"Hello, {greeted}! (part {n})" for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    ]


@pytest.mark.parametrize(
    ("names", "summary"),
    [
        (["Ada"], "Hello, Ada!"),
        (["Ada", "Bob", "Cy"], "Hello, Ada, Bob, Cy!"),
        ([], "Hello, !"),
        (["", ""], "Hello, , !"),
    ],
)
async def test_greet_client_stream(names: list[str], summary: str) -> None:
    stream = MemoryStream[GreetClientStreamRequest, GreetClientStreamResponse](
        GreetClientStreamRequest(name=name) for name in names
    )
    await GreetRpc().GreetClientStream(stream)
    assert stream.sent == [GreetClientStreamResponse(summary=summary)]


@pytest.mark.parametrize("name", ["", "x" * 1000])
async def test_names_without_end_are_refused(name: str) -> None:
    taken = 0

    def forever() -> Iterator[GreetClientStreamRequest]:
        nonlocal taken
        while True:
            taken += 1
            yield GreetClientStreamRequest(name=name)

    stream = MemoryStream[GreetClientStreamRequest, GreetClientStreamResponse](forever())
    with pytest.raises(GRPCError, match="longer than 262144 characters") as caught:
        await GreetRpc().GreetClientStream(stream)
    assert caught.value.status is Status.RESOURCE_EXHAUSTED
    assert taken == MAX_NAMES // (len(name) + 1) + 1


async def test_greet_bidi_stream_answers_each_name_at_once() -> None:
    answered: list[int] = []

    def names() -> Iterator[GreetBidiStreamRequest]:
        for name in ("Ada", "", "Bob"):
            answered.append(len(stream.sent))
            yield GreetBidiStreamRequest(name=name)
        answered.append(len(stream.sent))

    stream = MemoryStream[GreetBidiStreamRequest, GreetBidiStreamResponse](names())
    await GreetRpc().GreetBidiStream(stream)
    assert [message.echo for message in stream.sent] == ["Hello, Ada!", "Hello, !", "Hello, Bob!"]
    assert answered == [0, 1, 2, 3]


async def test_a_call_without_its_request() -> None:
    stream = MemoryStream[SayHelloRequest, SayHelloResponse]([])
    with pytest.raises(GRPCError, match="takes one request message") as caught:
        await GreetRpc().SayHello(stream)
    assert caught.value.status is Status.UNIMPLEMENTED
    assert stream.sent == []


async def test_the_service_offers_its_methods_until_cancelled() -> None:
    service = GreetService()
    async with trio.open_nursery() as nursery:
        offer = await nursery.start(service.run)
        assert service.name == "greet"
        (rpc,) = offer.rpc
        assert len(rpc.__mapping__()) == 4
        assert offer.http == {}
        nursery.cancel_scope.cancel()
