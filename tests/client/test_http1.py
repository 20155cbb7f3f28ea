"""HTTP/1.1 connections of a client: kept, replaced, and what broken answers come to."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.client import CallFailed, ConnectionLost
from fawa.proto.greet.v1.greet_pb2 import GreetClientStreamRequest, SayHelloResponse
from tests.client.asking import ask, start
from tests.client.greet import GREET_CLIENT_STREAM
from tests.client.server import ScriptedServer

BODY = SayHelloResponse(resp="fine").SerializeToString()
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/proto\r\ncontent-length: %d\r\n\r\n" % len(BODY)
) + BODY


async def read_request(stream: trio.abc.Stream) -> bytes:
    """Return a request that has a content-length."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += bytes(await stream.receive_some())
        assert data
    head, _, body = data.partition(b"\r\n\r\n")
    lines = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    while len(body) < int(lines[b"content-length"]):
        body += bytes(await stream.receive_some())
    return head


async def test_a_connection_is_used_again() -> None:
    server = ScriptedServer()
    async with server.channel("connect", http="1.1") as channel, trio.open_nursery() as nursery:
        asked = ask(nursery, channel)
        stream = (await server.accept()).stream
        for _ in range(3):
            head = await read_request(stream)
            assert head.startswith(b"POST /greet.v1.GreetService/SayHello HTTP/1.1\r\nhost: server.test\r\n")
            await stream.send_all(ANSWER)
            assert await asked.answer() == "fine"
            asked = ask(nursery, channel)
        await read_request(stream)
        await stream.send_all(ANSWER)
        assert await asked.answer() == "fine"
        assert server.dialled == 1


async def test_calls_beyond_the_most_connections_wait() -> None:
    server = ScriptedServer()
    async with server.channel("connect", http="1.1", most=2) as channel, trio.open_nursery() as nursery:
        calls = [ask(nursery, channel) for _ in range(5)]

        async def serve() -> None:
            stream = (await server.accept()).stream
            while True:
                await read_request(stream)
                await stream.send_all(ANSWER)

        await trio.testing.wait_all_tasks_blocked()
        assert server.dialled == 2
        nursery.start_soon(serve)
        nursery.start_soon(serve)
        assert [await call.answer() for call in calls] == ["fine"] * 5
        assert server.dialled == 2
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "then"),
    [
        pytest.param(ANSWER.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"), None, id="says close"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/proto\r\n\r\n" + BODY, "hang up", id="until close"
        ),
        pytest.param(
            b"HTTP/1.0 200 OK\r\ncontent-type: application/proto\r\n\r\n" + BODY, "hang up", id="1.0"
        ),
        pytest.param(ANSWER, "hang up", id="closes while idle"),
        pytest.param(ANSWER + b"HTTP/1.1 408 Request Timeout\r\n\r\n", None, id="speaks unasked"),
    ],
)
async def test_a_connection_that_ends_is_replaced(answer: bytes, then: str | None) -> None:
    server = ScriptedServer()
    async with server.channel("connect", http="1.1") as channel, trio.open_nursery() as nursery:
        for number in (1, 2):
            asked = ask(nursery, channel)
            stream = (await server.accept()).stream
            await read_request(stream)
            await stream.send_all(answer)
            if then == "hang up":
                await stream.aclose()
            assert await asked.answer() == "fine"
            await trio.testing.wait_all_tasks_blocked()
            assert server.dialled == number


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-", id="half a head"),
        pytest.param(ANSWER[:-1], id="a body cut short"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/proto\r\n"
            b"transfer-encoding: chunked\r\n\r\n5\r\nab",
            id="a chunk cut short",
        ),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", id="SSH"),
        pytest.param(bytes(100), id="zeros"),
    ],
)
async def test_a_broken_answer_is_a_lost_connection(words: bytes) -> None:
    server = ScriptedServer()
    async with server.channel("connect", http="1.1") as channel, trio.open_nursery() as nursery:

        async def call() -> str:
            async with channel.client_stream(GREET_CLIENT_STREAM) as many:
                await many.send(GreetClientStreamRequest(name="Ada"))
                return (await many.reply()).summary

        asked = start(nursery, call)
        stream = (await server.accept()).stream
        await stream.receive_some()
        words = words.replace(b"application/", b"application/connect+")
        await stream.send_all(words.replace(BODY[:-1], b"\0\0\0\0"))
        await stream.aclose()
        with pytest.raises(ConnectionLost, match=r"server\.test (closed|sent what is not HTTP/1\.1)"):
            await asked.answer()
        assert server.dialled == 1


async def test_a_page_of_a_proxy_is_told_by_its_status() -> None:
    server = ScriptedServer()
    page = b"HTTP/1.1 503 No Backend\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\n<p/>"
    async with server.channel("connect", http="1.1") as channel, trio.open_nursery() as nursery:
        asked = ask(nursery, channel)
        stream = (await server.accept()).stream
        await read_request(stream)
        await stream.send_all(page)
        with pytest.raises(GRPCError, match="HTTP status 503") as caught:
            await asked.answer()
        assert caught.value.status is Status.UNAVAILABLE
        assert not isinstance(caught.value, CallFailed)


async def test_interim_responses_are_passed_over() -> None:
    server = ScriptedServer()
    async with server.channel("connect", http="1.1") as channel, trio.open_nursery() as nursery:
        asked = ask(nursery, channel)
        stream = (await server.accept()).stream
        await read_request(stream)
        await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
        await stream.send_all(ANSWER)
        assert await asked.answer() == "fine"
