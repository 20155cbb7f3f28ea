"""gRPC on the server: requests and responses as `PROTOCOL-HTTP2.md` writes them, byte by byte."""

from __future__ import annotations

import base64
import gzip

import pytest
from google.rpc import status_pb2  # type: ignore[import-untyped]
from grpclib.const import Status

from fawa.proto.greet.v1.greet_pb2 import SayHelloRequest
from fawa.rpc.dialect import End, Head, Limits, Method, ServerDialect
from tests.rpc.conversation import BIDI, CLIENT_STREAM, SERVER_STREAM, UNARY, as_dict, hear, post, refused

ADA = b"\0\0\0\0\x05\n\x03Ada"
BOB = b"\0\0\0\0\x05\n\x03Bob"
HELLO = b"\0\0\0\0\x07\n\x05Hello"

TYPE = (b"content-type", b"application/grpc")
GZIP = (b"grpc-encoding", b"gzip")
ACCEPTS = (b"grpc-accept-encoding", b"identity,gzip")
OK = End(None, b"", [(b"grpc-status", b"0")])

CUTS = pytest.mark.parametrize("cuts", [[], [1], [3, 7]], ids=["whole", "bytewise", "threes-and-sevens"])


def call(method: Method, *headers: tuple[bytes, bytes], limits: Limits | None = None) -> ServerDialect:
    return post(method, b"application/grpc", (b"te", b"trailers"), *headers, limits=limits)


@CUTS
def test_unary(cuts: list[int]) -> None:
    dialect = call(UNARY)
    assert hear(dialect, ADA, cuts) == [b"\n\x03Ada"]
    assert dialect.head(None) == Head(200, [TYPE])
    assert dialect.message(b"\n\x05Hello") == HELLO
    assert dialect.end(Status.OK) == OK


@CUTS
def test_client_stream(cuts: list[int]) -> None:
    dialect = call(CLIENT_STREAM)
    assert hear(dialect, ADA + BOB, cuts) == [b"\n\x03Ada", b"\n\x03Bob"]
    assert dialect.head(None) == Head(200, [TYPE])
    assert dialect.message(b"\n\x05Hello") == HELLO
    assert dialect.end(Status.OK) == OK


@CUTS
def test_server_stream(cuts: list[int]) -> None:
    dialect = call(SERVER_STREAM)
    assert hear(dialect, ADA, cuts) == [b"\n\x03Ada"]
    assert dialect.head(None) == Head(200, [TYPE])
    assert dialect.message(b"\n\x05Hello") == HELLO
    assert dialect.message(b"\n\x05Hello") == HELLO
    assert dialect.end(Status.OK) == OK


def test_bidi_answers_while_it_listens() -> None:
    dialect = call(BIDI)
    assert dialect.head(None) == Head(200, [TYPE])
    assert dialect.message(b"\n\x05Hello") == HELLO
    assert dialect.feed(ADA[:6]) == []
    assert dialect.feed(ADA[6:] + BOB) == [b"\n\x03Ada", b"\n\x03Bob"]
    assert dialect.message(b"\n\x05Hello") == HELLO
    assert dialect.feed_end() == []
    assert dialect.end(Status.OK) == OK


def test_streams_may_be_empty() -> None:
    dialect = call(BIDI)
    assert hear(dialect, b"") == []
    assert dialect.end(Status.OK) == End(Head(200, [TYPE, ACCEPTS, (b"grpc-status", b"0")]), b"", [])


def test_the_content_type_of_the_request_is_that_of_the_response() -> None:
    dialect = post(UNARY, b"application/grpc+proto; x=y")
    assert dialect.head(None) == Head(200, [(b"content-type", b"application/grpc+proto")])


def test_metadata_both_ways() -> None:
    dialect = call(
        UNARY, (b"user-agent", b"grpc-c/1"), (b"x-board", b"ABC"), (b"trace-bin", b"AQI"), (b"grpc-foo", b"1")
    )
    assert as_dict(dialect.metadata) == {
        "user-agent": ["grpc-c/1"],
        "x-board": ["ABC"],
        "trace-bin": [b"\1\2"],
    }
    assert dialect.metadata is dialect.metadata
    assert dialect.head({"greet-version": "v1"}) == Head(200, [TYPE, (b"greet-version", b"v1")])
    assert call(UNARY).head(None) == Head(200, [TYPE])  # what one call adds, no other sees
    dialect.message(b"")
    assert dialect.end(Status.OK, trailing={"cost-bin": b"\xff"}) == End(
        None, b"", [(b"grpc-status", b"0"), (b"cost-bin", b"/w")]
    )


def test_bad_metadata_is_the_clients_fault() -> None:
    dialect = call(UNARY, (b"trace-bin", b"%%%"))
    with refused(Status.INVALID_ARGUMENT, "trace-bin"):
        dialect.metadata  # noqa: B018


def test_an_error_before_anything_was_sent_is_trailers_only() -> None:
    assert call(UNARY).end(Status.NOT_FOUND, "no such key: 50%") == End(
        Head(200, [TYPE, ACCEPTS, (b"grpc-status", b"5"), (b"grpc-message", b"no such key: 50%25")]), b"", []
    )


def test_an_error_in_mid_stream() -> None:
    dialect = call(SERVER_STREAM)
    dialect.head(None)
    dialect.message(b"")
    assert dialect.end(Status.DATA_LOSS, "oh", None, {"a": "b"}) == End(
        None, b"", [(b"grpc-status", b"15"), (b"grpc-message", b"oh"), (b"a", b"b")]
    )


def test_error_details() -> None:
    end = call(UNARY).end(Status.NOT_FOUND, "gone", [SayHelloRequest(name="me")])
    assert end.head is not None
    value = dict(end.head.headers)[b"grpc-status-details-bin"]
    whole = status_pb2.Status.FromString(base64.b64decode(value + b"=" * (-len(value) % 4)))
    assert (whole.code, whole.message) == (5, "gone")
    detail = SayHelloRequest()
    assert whole.details[0].Unpack(detail)
    assert detail.name == "me"


def test_after_metadata_that_cannot_be_sent_the_call_still_ends() -> None:
    dialect = call(UNARY)
    with pytest.raises(ValueError, match="no header can carry"):
        dialect.end(Status.OK, None, None, {"a": "\r\n"})
    with pytest.raises(ValueError, match="protobuf messages"):
        dialect.end(Status.ABORTED, "x", "details")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reserved"):
        dialect.head({"grpc-status": "0"})
    end = dialect.end(Status.INTERNAL, "the handler failed")
    assert end.head is not None
    assert (b"grpc-status", b"13") in end.head.headers


@pytest.mark.parametrize("method", [UNARY, CLIENT_STREAM])
def test_ok_without_the_message_it_owes_is_internal(method: Method) -> None:
    dialect = call(method)
    end = dialect.end(Status.OK)
    assert end.head is not None
    assert (b"grpc-status", b"13") in end.head.headers
    dialect.head(None)
    assert (b"grpc-status", b"13") in dialect.end(Status.OK).trailers


@pytest.mark.parametrize("method", [UNARY, CLIENT_STREAM])
def test_a_second_message_where_there_is_one_is_the_handlers_fault(method: Method) -> None:
    dialect = call(method)
    dialect.head(None)
    dialect.message(b"")
    with refused(Status.INTERNAL, "second message"):
        dialect.message(b"")


@pytest.mark.parametrize("method", [UNARY, SERVER_STREAM])
@CUTS
def test_requests_are_counted(method: Method, cuts: list[int]) -> None:
    with refused(Status.UNIMPLEMENTED, "none was sent"):
        hear(call(method), b"")
    with refused(Status.UNIMPLEMENTED, "second"):
        hear(call(method), ADA + BOB, cuts)


def test_compression_both_ways() -> None:
    dialect = call(SERVER_STREAM, GZIP, (b"grpc-accept-encoding", b"identity, deflate, gzip"))
    squeezed = gzip.compress(b"\n\x03Ada")
    assert hear(dialect, bytes([1, 0, 0, 0, len(squeezed)]) + squeezed) == [b"\n\x03Ada"]
    assert dialect.head(None) == Head(200, [TYPE, GZIP])
    assert dialect.message(b"\n\x05Hello") == HELLO  # too short to pay
    wire = dialect.message(b"x" * 1024)
    assert wire[0] == 1
    assert int.from_bytes(wire[1:5], "big") == len(wire) - 5 < 100
    assert gzip.decompress(wire[5:]) == b"x" * 1024


def test_a_client_that_compresses_is_answered_in_kind() -> None:
    assert call(UNARY, GZIP).head(None) == Head(200, [TYPE, GZIP])
    assert call(UNARY, GZIP, (b"grpc-accept-encoding", b"identity")).head(None) == Head(200, [TYPE])


def test_content_that_does_not_shrink_goes_as_it_is_from_then_on() -> None:
    dialect = call(SERVER_STREAM, (b"grpc-accept-encoding", b"gzip"), limits=Limits(compress_from=0))
    dialect.head(None)
    assert dialect.message(b"\x93\xf1") == b"\0\0\0\0\x02\x93\xf1"
    assert dialect.message(b"x" * 2000)[0] == 0


def test_the_shell_can_switch_compression_off() -> None:
    dialect = call(SERVER_STREAM, (b"grpc-accept-encoding", b"gzip"))
    dialect.compress = False
    assert dialect.head(None) == Head(200, [TYPE])
    dialect.compress = True  # too late: the head did not announce it
    assert dialect.message(b"x" * 2000)[0] == 0


def test_compression_that_we_do_not_have() -> None:
    dialect = call(UNARY, (b"grpc-encoding", b"snappy"))
    assert dialect.refusal is not None
    assert dialect.refusal.status is Status.UNIMPLEMENTED
    assert "'snappy'" in (dialect.refusal.message or "")
    end = dialect.end(dialect.refusal.status, dialect.refusal.message)
    assert end.head is not None
    assert ACCEPTS in end.head.headers


def test_identity_is_no_compression() -> None:
    dialect = call(UNARY, (b"grpc-encoding", b"identity"))
    assert dialect.refusal is None
    with refused(Status.INTERNAL, "no compression was declared"):
        dialect.feed(b"\x01\0\0\0\x01x")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"\x01\0\0\0\x04junk", Status.INTERNAL),  # not gzip
        (b"\x02\0\0\0\0", Status.INTERNAL),  # unknown flag
        (b"\x80\0\0\0\0", Status.INTERNAL),  # gRPC-Web's trailers
        (b"\0\0\0\0\x05abc", Status.INTERNAL),  # cut off
        (b"\0\0\0", Status.INTERNAL),  # cut off
        (b"\0\0\x40\0\x01", Status.RESOURCE_EXHAUSTED),  # a byte over 4 MiB
        (b"\x01\xff\xff\xff\xff", Status.RESOURCE_EXHAUSTED),
    ],
)
@CUTS
def test_a_malformed_body(body: bytes, status: Status, cuts: list[int]) -> None:
    with refused(status):
        hear(call(CLIENT_STREAM, GZIP), body, cuts)


def test_timeout() -> None:
    assert call(UNARY).timeout is None
    assert call(UNARY, (b"grpc-timeout", b"1500m")).timeout == 1.5
    dialect = call(UNARY, (b"grpc-timeout", b"soon"))
    assert dialect.timeout is None
    assert dialect.refusal is not None
    assert dialect.refusal.status is Status.INVALID_ARGUMENT
    assert "grpc-timeout 'soon'" in (dialect.refusal.message or "")


def test_json() -> None:
    dialect = post(UNARY, b"application/grpc+json")
    [payload] = hear(dialect, b'\0\0\0\0\x0e{"name":"Ada"}')
    assert dialect.codec.decode(payload, SayHelloRequest).name == "Ada"
