"""Calls of every kind and every end, over HTTP/2 in memory."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
from google.protobuf.message import Message
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError

from fawa.calls import serve
from fawa.net.cors import Cors
from fawa.net.exchange import Exchange
from fawa.net.router import Route, Router
from fawa.net.tcp import Root
from fawa.proto.file.v1.file_pb2 import FileInfo, ReceiveFileResponse, SendFileRequest
from fawa.proto.greet.v1.greet_pb2 import SayHelloRequest, SayHelloResponse
from fawa.rpc.codec import JSON as JSON_CODEC
from fawa.rpc.codec import PROTO
from fawa.rpc.dialect import Limits
from fawa.rpc.envelope import EnvelopeReader, pack
from tests.calls.client import serving

GRPC = {"content-type": "application/grpc", "te": "trailers"}
JSON = {"content-type": "application/json"}
UNARY = "/test.v1.Test/Unary"
STREAM = "/test.v1.Test/Stream"

HandlerFunction = Callable[[Any], Awaitable[None]]


@attrs.frozen
class Implementation:
    """A service of two methods with the same handler: unary, and streaming both ways."""

    handler: HandlerFunction
    types: tuple[type[Message], type[Message]] = (SayHelloRequest, SayHelloResponse)

    def __mapping__(self) -> dict[str, Handler]:
        return {
            UNARY: Handler(self.handler, Cardinality.UNARY_UNARY, *self.types),
            STREAM: Handler(self.handler, Cardinality.STREAM_STREAM, *self.types),
        }


def app(
    handler: HandlerFunction,
    seen: list[Exchange] | None = None,
    types: tuple[type[Message], type[Message]] = (SayHelloRequest, SayHelloResponse),
) -> Root:
    """Return the application that serves `handler`; finished exchanges go to `seen`."""
    router = Router(serve.not_found)
    router.add(serve.routes([Implementation(handler, types)], Limits()))

    def access(exchange: Exchange, seconds: float) -> None:
        if seen is not None:
            seen.append(exchange)

    return Root(router, Cors(lambda origin: True), access)


def framed(name: str) -> bytes:
    """Return one request message as gRPC frames it."""
    payload = SayHelloRequest(name=name).SerializeToString()
    return b"\0" + len(payload).to_bytes(4, "big") + payload


def answer_in(body: bytes) -> str:
    """Return the answer in a body of one gRPC message."""
    assert body[:1] == b"\0"
    assert int.from_bytes(body[1:5], "big") == len(body) - 5
    return SayHelloResponse.FromString(body[5:]).resp


async def greet(stream: Any) -> None:
    request = await stream.recv_message()
    await stream.send_message(SayHelloResponse(resp=f"Hello, {request.name}!"))


async def test_a_unary_call() -> None:
    seen: list[Exchange] = []
    async with serving(app(greet, seen)) as client:
        response = await client.call(UNARY, GRPC, framed("fawa"))
    assert response.headers[":status"] == "200"
    assert answer_in(response.body) == "Hello, fawa!"
    assert response.grpc_status == 0
    [exchange] = seen
    assert (exchange.label, exchange.code, exchange.peer) == ("grpc", Status.OK, "192.0.2.1:5000")


async def test_a_stream_is_answered_message_by_message() -> None:
    async def echo(stream: Any) -> None:
        async for request in stream:
            await stream.send_message(SayHelloResponse(resp=request.name))

    async with serving(app(echo)) as client:
        stream_id = await client.open(STREAM, GRPC)
        for name in ("a", "b"):
            await client.send(stream_id, framed(name))
            await trio.testing.wait_all_tasks_blocked()
            assert client.responses[stream_id].body.endswith(SayHelloResponse(resp=name).SerializeToString())
        await client.send(stream_id, b"", end=True)
        assert (await client.result(stream_id)).grpc_status == 0


@pytest.mark.parametrize("content_type", ["application/grpc", "application/connect+json"])
async def test_content_is_sent_and_received_beside_its_messages(content_type: str) -> None:
    async def echo(stream: Any) -> None:
        while received := list(await stream.recv_contents("chunk_data")):
            for message, pieces in received:
                answer = ReceiveFileResponse(filename=message.WhichOneof("payload") or "a chunk")
                await stream.send_content(answer, "chunk_data", b"".join(pieces))

    codec = JSON_CODEC if content_type.endswith("json") else PROTO
    requests = [
        SendFileRequest(info=FileInfo(name="a")),
        *(SendFileRequest(chunk_data=bytes(size)) for size in (1, 10_000, 0)),
    ]
    async with serving(app(echo, types=(SendFileRequest, ReceiveFileResponse))) as client:
        body = b"".join(pack(codec.encode(request)) for request in requests)
        response = await client.call(STREAM, {"content-type": content_type, "te": "trailers"}, body)
    reader = EnvelopeReader(200_000, gzip=False, fault=Status.INTERNAL, end_flag=0x02)
    answers = [codec.decode(payload, ReceiveFileResponse) for payload in reader.feed(response.body)]
    assert [len(answer.chunk_data) for answer in answers] == [0, 1, 10_000, 0]
    assert answers[0].filename == "info"


async def test_metadata_both_ways() -> None:
    async def handler(stream: Any) -> None:
        assert stream.metadata["greeting"] == "hi"
        assert stream.metadata["key-bin"] == b"\x00\xff"
        assert stream.user_agent == "tester"
        assert stream.peer.addr() == ("192.0.2.1", 5000)
        await stream.recv_message()
        await stream.send_initial_metadata(metadata={"first": "1"})
        with pytest.raises(RuntimeError, match="already"):
            await stream.send_initial_metadata()
        await stream.send_message(SayHelloResponse())
        await stream.send_trailing_metadata(metadata={"last-bin": b"\x01"})

    headers = {**GRPC, "greeting": "hi", "key-bin": "AP8", "user-agent": "tester"}
    async with serving(app(handler)) as client:
        response = await client.call(UNARY, headers, framed(""))
    assert response.headers["first"] == "1"
    assert response.trailers["last-bin"].rstrip("=") == "AQ"
    assert response.grpc_status == 0


async def test_initial_metadata_goes_out_before_the_handler_is_done() -> None:
    go_on = trio.Event()

    async def handler(stream: Any) -> None:
        await stream.send_initial_metadata(metadata={"early": "yes"})
        await go_on.wait()
        await stream.send_message(SayHelloResponse())

    async with serving(app(handler)) as client:
        stream_id = await client.open(STREAM, GRPC)
        await trio.testing.wait_all_tasks_blocked()
        assert client.responses[stream_id].headers["early"] == "yes"
        go_on.set()
        assert (await client.result(stream_id)).grpc_status == 0


async def test_an_error_of_the_handler() -> None:
    async def handler(stream: Any) -> None:
        raise GRPCError(Status.NOT_FOUND, "no such thing: é")

    async with serving(app(handler)) as client:
        grpc = await client.call(UNARY, GRPC, framed(""))
        connect = await client.call(UNARY, JSON, b"{}")
    assert (grpc.grpc_status, grpc.grpc_message) == (5, "no such thing: %C3%A9")
    assert connect.headers[":status"] == "404"
    assert json.loads(connect.body) == {"code": "not_found", "message": "no such thing: é"}


async def test_a_status_set_by_the_handler() -> None:
    async def handler(stream: Any) -> None:
        await stream.recv_message()
        await stream.send_trailing_metadata(status=Status.ABORTED, status_message="try again")

    async with serving(app(handler)) as client:
        response = await client.call(UNARY, GRPC, framed(""))
    assert (response.grpc_status, response.grpc_message) == (10, "try again")


async def test_a_fault_of_the_handler_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(stream: Any) -> None:
        raise ZeroDivisionError("secret detail")

    async with serving(app(handler)) as client:
        response = await client.call(UNARY, GRPC, framed(""))
        again = await client.call(UNARY, GRPC, framed(""))
    assert response.grpc_status == again.grpc_status == Status.INTERNAL.value
    assert "secret" not in response.grpc_message
    assert "secret detail" in caplog.text


async def test_no_answer_where_one_is_owed() -> None:
    async def handler(stream: Any) -> None:
        await stream.recv_message()

    async with serving(app(handler)) as client:
        assert (await client.call(UNARY, GRPC, framed(""))).grpc_status == Status.INTERNAL.value
        assert (await client.call(STREAM, GRPC, framed(""))).grpc_status == 0


async def test_trailing_metadata_that_cannot_be_sent(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(SayHelloResponse())
        await stream.send_trailing_metadata(metadata={"bad": "line\r\nbreak: 1"})

    async with serving(app(handler)) as client:
        response = await client.call(UNARY, GRPC, framed(""))
    assert response.grpc_status == Status.INTERNAL.value
    assert "trailing metadata" in caplog.text


async def test_the_deadline_cancels_the_handler(autojump_clock: trio.testing.MockClock) -> None:
    cancelled = trio.Event()

    async def handler(stream: Any) -> None:
        assert stream.deadline.time_remaining() == pytest.approx(2)
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with serving(app(handler)) as client:
        began = trio.current_time()
        response = await client.call(UNARY, {**GRPC, "grpc-timeout": "2S"}, framed(""))
        assert trio.current_time() - began == pytest.approx(2)
    assert cancelled.is_set()
    assert response.grpc_status == Status.DEADLINE_EXCEEDED.value
    assert "2%20s" in response.grpc_message or "2 s" in response.grpc_message


async def test_a_client_that_goes_away_cancels_the_handler() -> None:
    started, cancelled = trio.Event(), trio.Event()
    seen: list[Exchange] = []

    async def handler(stream: Any) -> None:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with serving(app(handler, seen)) as client:
        stream_id = await client.open(STREAM, GRPC)
        await started.wait()
        await client.reset(stream_id)
        await cancelled.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert seen[0].code is Status.CANCELLED
        await client.open(STREAM, GRPC)
    assert [exchange.code for exchange in seen] == [Status.CANCELLED] * 2


async def test_a_unary_body_that_stops_coming(autojump_clock: trio.testing.MockClock) -> None:
    async with serving(app(greet)) as client:
        stream_id = await client.open(UNARY, GRPC)
        await client.send(stream_id, framed("fawa")[:7])
        response = await client.result(stream_id)
    assert response.grpc_status == Status.DEADLINE_EXCEEDED.value


async def test_a_stream_may_be_silent_for_long(autojump_clock: trio.testing.MockClock) -> None:
    async with serving(app(greet)) as client:
        stream_id = await client.open(STREAM, GRPC)
        await trio.sleep(3600)
        await client.send(stream_id, framed("late"), end=True)
        response = await client.result(stream_id)
    assert answer_in(response.body) == "Hello, late!"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (framed("a")[:-1], {Status.INVALID_ARGUMENT, Status.INTERNAL}),
        (framed("a") + framed("b"), {Status.UNIMPLEMENTED, Status.INVALID_ARGUMENT}),
        (b"\0\xff\xff\xff\xff", {Status.RESOURCE_EXHAUSTED}),
        (b"\0\0\0\0\x02\xff\xff", {Status.INVALID_ARGUMENT}),
        (b"\x01\0\0\0\x01x", {Status.INTERNAL, Status.INVALID_ARGUMENT, Status.UNIMPLEMENTED}),
    ],
    ids=["truncated", "two messages", "too long", "garbage", "compressed unasked"],
)
async def test_bad_input_has_its_status(body: bytes, status: set[Status]) -> None:
    async with serving(app(greet)) as client:
        response = await client.call(UNARY, GRPC, body)
    assert Status(response.grpc_status) in status
    assert response.grpc_message


async def test_what_nobody_serves() -> None:
    async with serving(app(greet)) as client:
        grpc = await client.call("/test.v1.Test/Nothing", GRPC, framed(""))
        connect = await client.call("/test.v1.Test/Nothing", JSON, b"{}")
        plain = await client.call("/nothing", {"content-type": "text/plain"}, b"")
        deep = await client.call("/a/b/c", GRPC, b"")
        wrong_type = await client.call(UNARY, {"content-type": "text/plain"}, b"")
        stream_id = await client.open(UNARY, {}, method="GET")
        wrong_method = await client.result(stream_id)
    assert grpc.grpc_status == Status.UNIMPLEMENTED.value
    assert "/test.v1.Test/Nothing" in grpc.grpc_message
    assert connect.headers[":status"] == "404"
    assert json.loads(connect.body)["code"] == "unimplemented"
    assert (plain.headers[":status"], plain.body) == ("404", b"nothing is served at /nothing\n")
    assert deep.headers[":status"] == "404"
    assert wrong_type.headers[":status"] == "415"
    assert (wrong_method.headers[":status"], wrong_method.headers["allow"]) == ("405", "POST")


async def test_a_service_that_is_away() -> None:
    async def never(stream: Any) -> None:
        raise AssertionError

    async def page(exchange: Exchange) -> None:
        raise AssertionError

    router = Router(serve.not_found)
    pages = {"/page": Route(("POST",), page)}
    router.add(serve.unavailable([Implementation(never)], pages, Limits(), "away"))
    async with serving(Root(router, Cors(lambda origin: True), None)) as client:
        grpc = await client.call(UNARY, GRPC, framed(""))
        connect = await client.call(UNARY, JSON, b"{}")
        plain = await client.call("/page", {"content-type": "text/plain"}, b"")
    assert grpc.grpc_status == Status.UNAVAILABLE.value
    assert (connect.headers[":status"], json.loads(connect.body)["code"]) == ("503", "unavailable")
    assert (plain.headers[":status"], plain.headers["retry-after"]) == ("503", "1")


async def test_a_refused_head_never_reaches_the_handler() -> None:
    async def never(stream: Any) -> None:
        raise AssertionError

    async with serving(app(never)) as client:
        response = await client.call(UNARY, {**GRPC, "grpc-encoding": "snappy"}, framed(""))
        bad_timeout = await client.call(UNARY, {**GRPC, "grpc-timeout": "soon"}, framed(""))
        unknown = await client.call("/test.v1.Test/No", {**GRPC, "content-type": "application/grpc+x"}, b"")
    assert response.grpc_status == Status.UNIMPLEMENTED.value
    assert bad_timeout.grpc_status in (Status.INVALID_ARGUMENT.value, Status.INTERNAL.value)
    assert unknown.grpc_status == Status.UNIMPLEMENTED.value


async def test_many_small_writes_leave_together() -> None:
    async def handler(stream: Any) -> None:
        await stream.recv_message()
        for _ in range(100):
            await stream.send_message(SayHelloResponse(resp="x"))

    async with serving(app(handler)) as client:
        stream_id = await client.open(STREAM, GRPC)
        await trio.testing.wait_all_tasks_blocked()
        before = client.writes
        await client.send(stream_id, framed(""), end=True)
        response = await client.result(stream_id)
        assert client.writes == before + 1
    assert response.body.count(b"\n\x01x") == 100
