"""grpcio, the C core's client, one thread a call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest

from tests.daemon import PATIENCE
from tests.interop import expect
from tests.interop.grpcio_channel import Conversation, channel_to
from tests.interop.target import Target

Code = grpc.StatusCode


@pytest.fixture
def channel(target: Target) -> Iterator[Any]:
    with channel_to(target) as opened:
        yield opened


@pytest.fixture
def stub(channel: Any, greet_grpc: Any) -> Any:
    return greet_grpc.GreetServiceStub(channel)


@pytest.mark.parametrize("name", expect.NAMES)
def test_all_four_kinds(stub: Any, greet: Any, name: str) -> None:
    reply = stub.SayHello(greet.SayHelloRequest(name=name), timeout=PATIENCE)
    assert reply.resp == expect.greeting(name)

    stream = stub.GreetStream(greet.GreetStreamRequest(name=name), timeout=PATIENCE)
    assert [message.part for message in stream] == expect.parts(name)

    requests = (greet.GreetClientStreamRequest(name=each) for each in (name, "Bob", name))
    assert stub.GreetClientStream(requests, timeout=PATIENCE).summary == expect.summary(name, "Bob", name)

    requests = (greet.GreetBidiStreamRequest(name=each) for each in (name, "Bob"))
    echoes = [message.echo for message in stub.GreetBidiStream(requests, timeout=PATIENCE)]
    assert echoes == [expect.greeting(name), expect.greeting("Bob")]


def test_bidi_answers_each_name_at_once(stub: Any, greet: Any) -> None:
    talk = Conversation()
    answers = stub.GreetBidiStream(iter(talk), timeout=PATIENCE)
    for name in expect.NAMES:
        talk.say(greet.GreetBidiStreamRequest(name=name))
        assert next(answers).echo == expect.greeting(name)
    talk.hang_up()
    assert list(answers) == []
    assert answers.code() is Code.OK


def test_streams_of_no_messages(stub: Any) -> None:
    assert stub.GreetClientStream(iter(()), timeout=PATIENCE).summary == expect.summary()
    assert list(stub.GreetBidiStream(iter(()), timeout=PATIENCE)) == []


def test_metadata(stub: Any, greet: Any) -> None:
    _, call = stub.SayHello.with_call(
        greet.SayHelloRequest(name="Ada"),
        metadata=[("x-plain", "a"), ("x-plain", "b"), ("x-raw-bin", bytes(range(256))), ("x-empty-bin", b"")],
        timeout=PATIENCE,
    )
    assert expect.VERSION_HEADER in [tuple(entry) for entry in call.initial_metadata()]
    assert call.code() is Code.OK


def test_deadline(stub: Any, greet: Any) -> None:
    talk = Conversation()
    answers = stub.GreetBidiStream(iter(talk), timeout=0.5)
    talk.say(greet.GreetBidiStreamRequest(name="Ada"))
    assert next(answers).echo == expect.greeting("Ada")
    with pytest.raises(grpc.RpcError) as failed:
        next(answers)
    assert failed.value.code() is Code.DEADLINE_EXCEEDED
    talk.hang_up()


def test_cancellation(stub: Any, greet: Any) -> None:
    talk = Conversation()
    answers = stub.GreetBidiStream(iter(talk), timeout=PATIENCE)
    talk.say(greet.GreetBidiStreamRequest(name="Ada"))
    assert next(answers).echo == expect.greeting("Ada")
    answers.cancel()
    with pytest.raises(grpc.RpcError) as failed:
        next(answers)
    assert failed.value.code() is Code.CANCELLED
    talk.hang_up()
    assert stub.SayHello(greet.SayHelloRequest(name="Bob"), timeout=PATIENCE).resp == expect.greeting("Bob")


def test_gzip(target: Target, greet: Any, greet_grpc: Any) -> None:
    name = "Ada " * 10_000
    with channel_to(target, default_compression_algorithm=2) as channel:
        stub = greet_grpc.GreetServiceStub(channel)
        reply = stub.SayHello(
            greet.SayHelloRequest(name=name), compression=grpc.Compression.Gzip, timeout=PATIENCE
        )
        assert reply.resp == expect.greeting(name)
        requests = (greet.GreetBidiStreamRequest(name=name) for _ in range(3))
        answers = stub.GreetBidiStream(requests, compression=grpc.Compression.Gzip, timeout=PATIENCE)
        assert [answer.echo for answer in answers] == [expect.greeting(name)] * 3


def test_message_size_limit(target: Target, greet: Any, greet_grpc: Any) -> None:
    overhead = greet.SayHelloRequest(name="x" * 3_000_000).ByteSize() - 3_000_000
    largest = "x" * (expect.MAX_MESSAGE - overhead)
    with channel_to(target, max_receive_message_length=-1) as channel:
        stub = greet_grpc.GreetServiceStub(channel)
        reply = stub.SayHello(greet.SayHelloRequest(name=largest), timeout=PATIENCE)
        assert reply.resp == expect.greeting(largest)
        with pytest.raises(grpc.RpcError) as failed:
            stub.SayHello(greet.SayHelloRequest(name=largest + "x"), timeout=PATIENCE)
        assert failed.value.code() is Code.RESOURCE_EXHAUSTED
        # Small on the wire, large in memory.
        with pytest.raises(grpc.RpcError) as failed:
            stub.SayHello(
                greet.SayHelloRequest(name=largest + "x"),
                compression=grpc.Compression.Gzip,
                timeout=PATIENCE,
            )
        assert failed.value.code() is Code.RESOURCE_EXHAUSTED
        assert stub.SayHello(greet.SayHelloRequest(name="Ada"), timeout=PATIENCE).resp == "Hello, Ada!"


@pytest.mark.parametrize(
    "path", ["/greet.v1.GreetService/Nothing", "/greet.v1.Nobody/SayHello", "/nothing.v9.Nobody/Nothing"]
)
def test_unknown_method(channel: Any, path: str) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary(path)(b"", timeout=PATIENCE)
    assert failed.value.code() is Code.UNIMPLEMENTED
    with pytest.raises(grpc.RpcError) as failed:
        list(channel.stream_stream(path)(iter([b"", b""]), timeout=PATIENCE))
    assert failed.value.code() is Code.UNIMPLEMENTED


def test_garbage_for_a_message(channel: Any) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary(expect.UNARY)(b"\xff\xff\xff", timeout=PATIENCE)
    assert failed.value.code() in {Code.INVALID_ARGUMENT, Code.INTERNAL}
