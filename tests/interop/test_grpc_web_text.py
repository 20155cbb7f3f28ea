"""gRPC-Web's text form, which the clients of Connect do not speak; and the other dialects by hand."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from fawa.proto.greet.v1 import greet_pb2 as greet
from tests.interop import expect, wire
from tests.interop.target import Target
from tests.interop.wire import Dialect

ANSWERS: dict[str, Any] = {
    expect.UNARY: greet.SayHelloResponse,
    expect.SERVER_STREAM: greet.GreetStreamResponse,
    expect.CLIENT_STREAM: greet.GreetClientStreamResponse,
    expect.BIDI: greet.GreetBidiStreamResponse,
}


def call(dialect: Dialect, target: Target, path: str, *names: str) -> list[Any]:
    """Return the texts that the server answers to `names`."""
    # All requests of greet.v1 have one field of the same name and number.
    body = b"".join(dialect.encode(greet.SayHelloRequest(name=name)) for name in names)
    answer = dialect.send(target, path, body)
    assert (answer.code, answer.message) == ("ok", "")
    kind = ANSWERS[path]
    (field,) = kind.DESCRIPTOR.fields
    return [getattr(dialect.decode(payload, kind), field.name) for payload in answer.payloads]


@pytest.mark.parametrize("dialect", [*wire.STREAMING, wire.UNARY, wire.UNARY_JSON], ids=str)
def test_all_four_kinds(target: Target, dialect: Dialect) -> None:
    two = ("Zoë", "李雷 🦊")
    if dialect in wire.ONE_MESSAGE:
        assert call(dialect, target, expect.UNARY, "Zoë") == [expect.greeting("Zoë")]
    if dialect in wire.STREAMING:
        assert call(dialect, target, expect.SERVER_STREAM, "") == expect.parts("")
        assert call(dialect, target, expect.CLIENT_STREAM, *two) == [expect.summary(*two)]
        assert call(dialect, target, expect.BIDI, *two) == [expect.greeting(name) for name in two]


def test_text_encoded_piece_by_piece(plain: Target) -> None:
    """Each message may be encoded for itself, with its own padding, or the whole body at once."""
    messages = [wire.GRPC_WEB_TEXT.encode(greet.GreetBidiStreamRequest(name="x" * n)) for n in range(9)]
    fields = {"content-type": wire.GRPC_WEB_TEXT.content_type}
    for body in (b"".join(map(base64.b64encode, messages)), base64.b64encode(b"".join(messages))):
        answer = wire.GRPC_WEB_TEXT.read(wire.over_http1(plain, "POST", expect.BIDI, fields, body))
        assert answer.code == "ok"
        echoes = [greet.GreetBidiStreamResponse.FromString(payload).echo for payload in answer.payloads]
        assert echoes == [expect.greeting("x" * n) for n in range(9)]


@pytest.mark.parametrize("body", [b"AAAA!AAA", b"AAAAA", b"====", b"\xff\xff\xff\xff"])
def test_text_that_is_no_base64(plain: Target, body: bytes) -> None:
    fields = {"content-type": wire.GRPC_WEB_TEXT.content_type}
    answer = wire.GRPC_WEB_TEXT.read(wire.over_http1(plain, "POST", expect.CLIENT_STREAM, fields, body))
    assert answer.code == "internal"
    assert answer.message
