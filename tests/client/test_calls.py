"""Calls of all kinds in every dialect, over all versions of HTTP, against the real front door."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from google.rpc.error_details_pb2 import ErrorInfo  # type: ignore[import-untyped]
from grpclib._typing import IServable
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.client import CallFailed, Channel, connect
from fawa.net.tls import Certificate, development_certificate
from fawa.proto.greet.v1.greet_pb2 import (
    GreetBidiStreamRequest,
    GreetClientStreamRequest,
    GreetClientStreamResponse,
    GreetStreamRequest,
    GreetStreamResponse,
    SayHelloRequest,
    SayHelloResponse,
)
from fawa.rpc.dialect import CLIENTS, Limits
from tests.client import server
from tests.client.greet import (
    ERROR,
    GREET_BIDI_STREAM,
    GREET_CLIENT_STREAM,
    GREET_STREAM,
    SAY_HELLO,
    Greeter,
    fail,
    use_all,
)
from tests.client.server import Server

Connect = Callable[..., AbstractAsyncContextManager[Channel]]


@pytest.fixture(
    params=[
        pytest.param((dialect, http), id=f"{dialect} on HTTP/{http}")
        for dialect in CLIENTS
        for http in ("3", "2", "1.1")
        if (dialect, http) != ("grpc", "1.1")
    ]
)
def connecting(request: pytest.FixtureRequest) -> Connect:
    """`connect` for each dialect and each version of HTTP that it is spoken over."""
    dialect, http = request.param
    if http != "3":
        return partial(connect, dialect=dialect, http=http)

    def connect_over_udp(url: str, **more: Any) -> AbstractAsyncContextManager[Channel]:
        return connect(
            url.replace("http://", "https://"), dialect=dialect, http="3", ca=_certificate().path, **more
        )

    return connect_over_udp


@functools.cache
def _certificate() -> Certificate:
    folder = Path(tempfile.mkdtemp(prefix="fawa-test-"))
    atexit.register(shutil.rmtree, folder)
    return development_certificate(folder, time.time(), "")


def serving(*implementations: IServable, **more: Any) -> AbstractAsyncContextManager[Server]:
    """Serve over TCP and over UDP."""
    return server.serving(*implementations, quic=_certificate(), **more)


async def test_all_four_kinds(connecting: Connect) -> None:
    async with serving(Greeter()) as there, connecting(there.url) as channel:
        await use_all(channel)


async def test_streams_may_be_empty(connecting: Connect) -> None:
    async def nothing(stream: Any) -> None:
        await stream.recv_message()

    async with serving(Greeter(server_stream=nothing)) as there, connecting(there.url) as channel:
        async with channel.server_stream(GREET_STREAM, GreetStreamRequest()) as parts:
            assert await parts.recv() is None
        async with channel.client_stream(GREET_CLIENT_STREAM) as many:
            assert (await many.reply()).summary == ""
        async with channel.bidi(GREET_BIDI_STREAM) as talk:
            await talk.done_sending()
            assert await talk.recv() is None


async def test_metadata_goes_both_ways(connecting: Connect) -> None:
    async def show(stream: Any) -> None:
        values = stream.metadata.getall("text")
        assert stream.metadata["some-bin"] == b"\0\xff"
        await stream.recv_message()
        await stream.send_initial_metadata(metadata=[("text", value) for value in values])
        await stream.send_message(SayHelloResponse())
        await stream.send_trailing_metadata(metadata={"last-bin": b"\xff\0", "last": "yes"})

    async with serving(Greeter(unary=show)) as there, connecting(there.url) as channel:
        sent: list[tuple[str, str | bytes]] = [
            ("text", "one"),
            ("text", "two, three"),
            ("some-bin", b"\0\xff"),
        ]
        reply = await channel.unary(SAY_HELLO, SayHelloRequest(), metadata=sent)
        assert reply.metadata.getall("text") == ["one", "two, three"]
        assert reply.trailing["last-bin"] == b"\xff\0"
        assert reply.trailing["last"] == "yes"


async def test_initial_metadata_comes_before_messages(connecting: Connect) -> None:
    async def greet_first(stream: Any) -> None:
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
    async def check(call: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(CallFailed) as caught:
            await call()
        error = caught.value
        assert (error.status, error.message) == (ERROR.status, ERROR.message)
        (packed,) = error.details
        detail = ErrorInfo()
        assert packed.Unpack(detail)
        assert detail.reason == "EMPTY"
        assert error.metadata["first-bin"] == b"\0\xff"
        assert error.trailing["last"] == "2"

    async with serving(Greeter(fail, fail, fail, fail)) as there, connecting(there.url) as channel:

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
    async def two_then_fail(stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(GreetStreamResponse(part="one"))
        await stream.send_message(GreetStreamResponse(part="two"))
        raise ERROR

    async with (
        serving(Greeter(server_stream=two_then_fail)) as server,
        connecting(server.url) as channel,
        channel.server_stream(GREET_STREAM, GreetStreamRequest()) as parts,
    ):
        assert (await anext(parts)).part == "one"
        assert (await anext(parts)).part == "two"
        with pytest.raises(CallFailed, match="out of"):
            await anext(parts)


async def test_the_server_may_answer_before_it_has_heard_all(connecting: Connect) -> None:
    async def enough(stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(GreetClientStreamResponse(summary="enough"))

    async with serving(Greeter(client_stream=enough)) as there, connecting(there.url) as channel:
        async with channel.client_stream(GREET_CLIENT_STREAM) as many:
            for _ in range(64):
                await many.send(GreetClientStreamRequest(name="x" * 1_000_000))
            assert (await many.reply()).summary == "enough"
        # The channel is as good as before.
        assert (await channel.unary(SAY_HELLO, SayHelloRequest(name="Ada"))).message.resp == "Hello, Ada!"


async def test_a_sender_learns_that_the_server_has_failed_the_call(connecting: Connect) -> None:
    async def refuse(stream: Any) -> None:
        await stream.recv_message()
        raise ERROR

    async with (
        serving(Greeter(client_stream=refuse)) as server,
        connecting(server.url) as channel,
        channel.client_stream(GREET_CLIENT_STREAM) as many,
    ):
        # At the latest when windows and sockets are full.
        with pytest.raises(CallFailed, match="out of"):  # noqa: PT012
            for _ in range(100):
                await many.send(GreetClientStreamRequest(name="x" * 1_000_000))
        # And it is told the same however it asks.
        with pytest.raises(CallFailed, match="out of"):
            await many.reply()


@pytest.mark.parametrize("compress", [False, True])
async def test_messages_of_megabytes(connecting: Connect, compress: bool) -> None:
    name = "all work and no play " * 100_000
    async with (
        serving(Greeter()) as server,
        connecting(server.url, compress=compress) as channel,
        channel.bidi(GREET_BIDI_STREAM) as talk,
    ):
        for _ in range(3):
            await talk.send(GreetBidiStreamRequest(name=name))
            answer = await talk.recv()
            assert answer is not None
            assert answer.echo == name


async def test_messages_beyond_the_limit(connecting: Connect) -> None:
    async with (
        serving(Greeter()) as server,
        connecting(server.url, limits=Limits(max_message=1000)) as channel,
    ):
        with pytest.raises(GRPCError, match="larger than the limit of 1000 bytes") as caught:
            await channel.unary(SAY_HELLO, SayHelloRequest(name="x" * 1000))
        assert caught.value.status is Status.RESOURCE_EXHAUSTED
        # The server's limit is its own, of 4 MiB.
        with pytest.raises(CallFailed) as refused:
            await channel.unary(SAY_HELLO, SayHelloRequest(name="x" * (4 << 20)))
        assert refused.value.status is Status.RESOURCE_EXHAUSTED
        assert (await channel.unary(SAY_HELLO, SayHelloRequest(name="Ada"))).message.resp == "Hello, Ada!"


async def test_a_method_that_the_server_does_not_have(connecting: Connect) -> None:
    async with serving() as there, connecting(there.url) as channel:
        with pytest.raises(GRPCError) as caught:
            await channel.unary(SAY_HELLO, SayHelloRequest())
        assert caught.value.status is Status.UNIMPLEMENTED


async def test_misuse_is_told(connecting: Connect) -> None:
    async with serving(Greeter()) as there, connecting(there.url) as channel:
        with pytest.raises(ValueError, match="SayHello is not bidi but unary"):
            async with channel.bidi(SAY_HELLO):
                pass  # never reached
        with pytest.raises(ValueError, match="SPACE"):
            await channel.unary(SAY_HELLO, SayHelloRequest(), metadata={"SPACE ": "1"})
        async with channel.bidi(GREET_BIDI_STREAM) as talk:
            with pytest.raises(RuntimeError, match="answers with a stream"):
                await talk.reply()
            await talk.done_sending()
            await talk.done_sending()
            with pytest.raises(RuntimeError, match="after done_sending"):
                await talk.send(GreetBidiStreamRequest())
        # What was refused on this side has taken nothing from the connection.
        assert (await channel.unary(SAY_HELLO, SayHelloRequest(name="Ada"))).message.resp == "Hello, Ada!"


async def test_many_calls_at_once(connecting: Connect) -> None:
    async with serving(Greeter()) as there, connecting(there.url) as channel:
        left = iter(range(300))

        async def caller() -> None:
            for n in left:
                reply = await channel.unary(SAY_HELLO, SayHelloRequest(name=str(n)))
                assert reply.message.resp == f"Hello, {n}!"

        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(caller)
        assert next(left, None) is None
        assert there.door.connections <= 16


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"dialect": "soap"}, "dialect 'soap' is none of grpc, "),
        ({"http": "4"}, "HTTP version '4'"),
        ({"http": "3"}, "HTTP/3 is spoken over https alone"),
        ({"dialect": "grpc", "http": "1.1"}, "gRPC needs HTTP/2"),
        ({"server": "127.0.0.1:80"}, "must begin with http"),
        ({"server": "http://h/path"}, "must end after host and port"),
    ],
)
async def test_arguments_of_connect_are_checked(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        async with connect(**({"server": "http://127.0.0.1:1"} | arguments)):
            pass  # never reached
