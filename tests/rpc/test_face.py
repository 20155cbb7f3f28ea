from __future__ import annotations

import pytest
from grpclib.const import Cardinality, Handler
from grpclib.reflection.v1.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from fawa.proto.greet.v1.greet_pb2 import SayHelloRequest, SayHelloResponse
from fawa.rpc.dialect import Kind, Limits, Method


@pytest.mark.parametrize(
    ("kind", "client_streaming", "server_streaming"),
    [
        (Kind.UNARY, False, False),
        (Kind.CLIENT_STREAM, True, False),
        (Kind.SERVER_STREAM, False, True),
        (Kind.BIDI, True, True),
    ],
)
def test_kinds(kind: Kind, client_streaming: bool, server_streaming: bool) -> None:
    assert (kind.client_streaming, kind.server_streaming) == (client_streaming, server_streaming)


def handler(cardinality: Cardinality) -> Handler:
    return Handler(None, cardinality, SayHelloRequest, SayHelloResponse)


def test_a_method_of_a_generated_service() -> None:
    path = "/greet.v1.GreetService/SayHello"
    assert Method.from_handler(path, handler(Cardinality.UNARY_UNARY)) == Method(
        path, Kind.UNARY, SayHelloRequest, SayHelloResponse, no_side_effects=True
    )


def test_a_method_that_has_side_effects() -> None:
    method = Method.from_handler(
        "/greet.v1.GreetService/GreetClientStream", handler(Cardinality.STREAM_UNARY)
    )
    assert method.kind is Kind.CLIENT_STREAM
    assert not method.no_side_effects


@pytest.mark.parametrize("path", ["/no.such.Service/SayHello", "/greet.v1.GreetService/NoSuch"])
def test_a_method_that_no_descriptor_tells_of_may_have_side_effects(path: str) -> None:
    assert not Method.from_handler(path, handler(Cardinality.UNARY_UNARY)).no_side_effects


def test_a_bidirectional_method_of_someone_elses_service() -> None:
    method = Method.from_handler(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        Handler(None, Cardinality.STREAM_STREAM, ServerReflectionRequest, ServerReflectionResponse),
    )
    assert method.kind is Kind.BIDI


def test_limits_make_sense() -> None:
    assert Limits() == Limits(4_194_304, 1024)
    with pytest.raises(ValueError, match="max_message"):
        Limits(max_message=0)
    with pytest.raises(ValueError, match="compress_from"):
        Limits(compress_from=-1)
