"""Calls of all kinds in every dialect, over HTTP/2 and HTTP/1.1, against the real front door."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import pytest
import trio
from google.rpc.error_details_pb2 import ErrorInfo
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.client import CallFailed, Channel, connect
from fawa.proto.greet.v1.greet_pb2 import (
    GreetBidiStreamRequest,
    GreetClientStreamRequest,
    GreetStreamRequest,
    SayHelloRequest,
    SayHelloResponse,
)
from fawa.rpc.dialect import CLIENTS, Limits
from fawa.rpc.stream import Stream
from tests.client.greet import (
    ERROR,
    GREET_BIDI_STREAM,
    GREET_CLIENT_STREAM,
    GREET_STREAM,
    SAY_HELLO,
    Greeter,
    fail,
)
from tests.client.server import serving

Connect = Callable[..., AbstractAsyncContextManager[Channel]]

NAMES = ["Ada", "", "Zoë", "李雷 🦊", "x" * 100_000]

WAYS = [
    pytest.param(dialect, http, id=f"{dialect} on HTTP/{http}")
    for dialect in CLIENTS
    for http in ("2", "1.1")
    if (dialect, http) != ("grpc", "1.1")
]


@pytest.fixture(params=WAYS)
def connecting(request: pytest.FixtureRequest) -> Connect:
    dialect, http = request.param
    return partial(connect, dialect=dialect, http=http)


@pytest.fixture
def way(request: pytest.FixtureRequest) -> Any:
    return request.param


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "ways" in metafunc.fixturenames:
        metafunc.parametrize("ways", WAYS)


async def test_all_four_kinds(connecting: Connect) -> None:
    async with serving(Greeter()) as server, connecting(server.url) as channel:
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


async def test_streams_may_be_empty(connecting: Connect) -> None:
    async def nothing(stream: Stream[Any, Any]) -> None:
        await stream.recv_message()

    async with serving(Greeter(server_stream=nothing)) as server, connecting(server.url) as channel:
        async with channel.server_stream(GREET_STREAM, GreetStreamRequest()) as parts:
            assert await parts.recv() is None
        async with channel.client_stream(GREET_CLIENT_STREAM) as many:
            assert (await many.reply()).summary == ""
        async with channel.bidi(GREET_BIDI_STREAM) as talk:
            await talk.done_sending()
            assert await talk.recv() is None


async def test_metadata_goes_both_ways(connecting: Connect) -> None:
    async def show(stream: Stream[SayHelloRequest, SayHelloResponse]) -> None:
        assert stream.metadata is not None
        values = stream.metadata.getall("text")
        assert stream.metadata["some-bin"] == b"\0\xff"
        await stream.recv_message()
        await stream.send_initial_metadata(metadata=[("text", value) for value in values])
        await stream.send_message(SayHelloResponse())
        await stream.send_trailing_metadata(metadata={"last-bin": b"\xff\0", "last": "yes"})

    async with serving(Greeter(unary=show)) as server, connecting(server.url) as channel:
        sent = [("text", "one"), ("text", "two, three"), ("some-bin", b"\0\xff")]
        reply = await channel.unary(SAY_HELLO, SayHelloRequest(), metadata=sent)
        assert reply.metadata.getall("text") == ["one", "two, three"]
        assert reply.trailing["last-bin"] == b"\xff\0"
        assert reply.trailing["last"] == "yes"


async def test_initial_metadata_comes_before_messages(connecting: Connect) -> None:
    async def greet_first(stream: Stream[Any, Any]) -> None:
        await stream.send_initial_metadata(metadata={"hello": "you"})
        await stream.recv_message()

    async with (
        serving(Greeter(bidi=greet_first)) as server,
        connecting(server.url) as channel,
        channel.bidi(GREET_BIDI_STREAM) as talk,
    ):
        with pytest.raises(RuntimeError, match="initial metadata"):
            _ = talk.metadata
        assert (await talk.recv_initial_metadata())["hello"] == "you"
        assert talk.metadata["hello"] == "you"
        with pytest.raises(RuntimeError, match="trailing metadata"):
            _ = talk.trailing
        await talk.done_sending()
        assert await talk.recv() is None
        assert len(talk.trailing) == 0


async def test_an_error_has_status_message_details_and_metadata(connecting: Connect) -> None:
    async def check(call: Callable[[], Any]) -> None:
        with pytest.raises(CallFailed) as caught:
            await call()
        error = caught.value
        assert (error.status, error.message) == (ERROR.status, ERROR.message)
        (packed,) = error.details
        detail = ErrorInfo()
        assert packed.Unpack(detail)
        assert detail.reason == "EMPTY"
        assert error.trailing["last"] == "2"

    greeter = Greeter(fail, fail, fail, fail)
    async with serving(greeter) as server, connecting(server.url) as channel:

        async def server_stream() -> None:
            async with channel.server_stream(GREET_STREAM, GreetStreamRequest()) as parts:
                await parts.recv()

        async def client_stream() -> None:
            async with channel.client_stream(GREET_CLIENT_STREAM) as many:
                await many.reply()

        async def bidi() -> None:
            async with channel.bidi(GREET_BIDI_STREAM) as talk:
                await talk.recv()

        await check(partial(channel.unary, SAY_HELLO, SayHelloRequest()))
        await check(server_stream)
        await check(client_stream)
        await check(bidi)


async def test_messages_before_an_error_arrive(connecting: Connect) -> None:
    async def two_then_fail(stream: Stream[Any, Any]) -> None:
        async for request in stream:
            await stream.send_message(type(stream)._method.response_type(part=request.name))
        raise ERROR

    async def some(stream: Any) -> None:
        request = await stream.recv_message()
        for n in range(2):
            await stream.send_message(GREET_STREAM.method.response_type(part=f"{request.name}{n}"))
        raise ERROR

    async with serving(Greeter(server_stream=some)) as server, connecting(server.url) as channel:
        async with channel.server_stream(GREET_STREAM, GreetStreamRequest(name="n")) as parts:
            got = []
            with pytest.raises(CallFailed, match="out of"):
                async for part in parts:
                    got.append(part.part)
            assert got == ["n0", "n1"]
