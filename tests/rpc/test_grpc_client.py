"""gRPC and gRPC-Web on the client: what it sends, and what it makes of every kind of answer."""

from __future__ import annotations

import gzip

import pytest
from grpclib.const import Status

from fawa import __version__
from fawa.proto.greet.v1.greet_pb2 import SayHelloRequest
from fawa.rpc.codec import JSON
from fawa.rpc.details import encode_status_details
from fawa.rpc.dialect import ClientDialect, Headers, Limits, Method, client_dialect
from fawa.rpc.grpc import GrpcClient
from tests.rpc.conversation import BIDI, CLIENT_STREAM, SERVER_STREAM, UNARY, as_dict, hear_response, refused

HELLO = b"\0\0\0\0\x07\n\x05Hello"
TYPE = (b"content-type", b"application/grpc")
WEB_TYPE = (b"content-type", b"application/grpc-web")
AGENT = (b"user-agent", b"grpc-python-fawa/" + __version__.encode())
ACCEPTS = (b"grpc-accept-encoding", b"identity,gzip")
OK: Headers = [(b"grpc-status", b"0")]
WEB_OK = b"\x80\0\0\0\x10grpc-status: 0\r\n"

CUTS = pytest.mark.parametrize("cuts", [[], [1], [3, 7]], ids=["whole", "bytewise", "threes-and-sevens"])


def call(
    method: Method, name: str = "grpc", *, compress: bool = False, limits: Limits | None = None
) -> ClientDialect:
    dialect = client_dialect(name, limits, compress=compress)
    dialect.request(method, "example.com:8080")
    return dialect


def answered(method: Method, *headers: tuple[bytes, bytes]) -> ClientDialect:
    """Return a gRPC call whose response has begun."""
    dialect = call(method)
    dialect.response(200, [TYPE, *headers])
    return dialect


def web_answered(method: Method, *headers: tuple[bytes, bytes]) -> ClientDialect:
    """Return a gRPC-Web call whose response has begun."""
    dialect = call(method, "grpc-web")
    dialect.response(200, [WEB_TYPE, *headers])
    return dialect


def test_request() -> None:
    dialect = client_dialect("grpc")
    assert dialect.request(UNARY, "example.com:8080") == (
        "POST",
        "/test.v1.Test/UNARY",
        [
            (b"host", b"example.com:8080"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc+proto"),
            AGENT,
            ACCEPTS,
        ],
    )
    assert dialect.message(b"\n\x03Ada") == b"\0\0\0\0\x05\n\x03Ada"


def test_request_with_everything() -> None:
    dialect = client_dialect("grpc", compress=True)
    _, _, headers = dialect.request(UNARY, "h", {"x-a": "b"}, 1.5)
    assert headers == [
        (b"host", b"h"),
        (b"grpc-timeout", b"1500000u"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc+proto"),
        AGENT,
        ACCEPTS,
        (b"grpc-encoding", b"gzip"),
        (b"x-a", b"b"),
    ]
    assert dialect.message(b"short") == b"\0\0\0\0\x05short"
    wire = dialect.message(b"x" * 2000)
    assert wire[0] == 1
    assert gzip.decompress(wire[5:]) == b"x" * 2000


def test_a_timeout_of_ages_is_none() -> None:
    _, _, headers = client_dialect("grpc").request(UNARY, "h", None, float("inf"))
    assert b"grpc-timeout" not in dict(headers)


def test_web_request() -> None:
    _, _, headers = client_dialect("grpc-web").request(UNARY, "h")
    assert headers == [
        (b"host", b"h"),
        (b"x-grpc-web", b"1"),
        (b"content-type", b"application/grpc-web+proto"),
        AGENT,
        ACCEPTS,
    ]


def test_metadata_that_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="no header can carry"):
        client_dialect("grpc").request(UNARY, "h", {"a": "\n"})


def test_no_such_dialect() -> None:
    with pytest.raises(KeyError):
        client_dialect("soap")


@CUTS
def test_unary(cuts: list[int]) -> None:
    dialect = answered(UNARY, (b"greet-version", b"v1"))
    assert as_dict(dialect.metadata) == {"greet-version": ["v1"]}
    assert hear_response(dialect, HELLO, [*OK, (b"cost", b"3")], cuts) == [b"\n\x05Hello"]
    assert (dialect.outcome.status, dialect.outcome.message, dialect.outcome.details) == (Status.OK, None, [])
    assert as_dict(dialect.outcome.metadata) == {"cost": ["3"]}


@CUTS
def test_a_stream_that_fails(cuts: list[int]) -> None:
    dialect = answered(BIDI)
    trailers = [(b"grpc-status", b"15"), (b"grpc-message", b"lost %E2%98%B9")]
    assert hear_response(dialect, HELLO * 2, trailers, cuts) == [b"\n\x05Hello"] * 2
    assert (dialect.outcome.status, dialect.outcome.message) == (Status.DATA_LOSS, "lost ☹")


def test_trailers_only() -> None:
    dialect = answered(UNARY, (b"grpc-status", b"5"), (b"grpc-message", b"gone"), (b"cost", b"3"))
    assert dialect.feed_end([]) == []
    assert (dialect.outcome.status, dialect.outcome.message) == (Status.NOT_FOUND, "gone")
    assert not dialect.metadata
    assert as_dict(dialect.outcome.metadata) == {"cost": ["3"]}


def test_a_status_in_the_head_does_not_count_when_more_follows() -> None:
    dialect = answered(UNARY, (b"grpc-status", b"8"))
    dialect.feed_end([(b"grpc-status", b"9")])
    assert dialect.outcome.status is Status.FAILED_PRECONDITION

    dialect = answered(UNARY, (b"grpc-status", b"9"))
    dialect.feed(HELLO)
    with refused(Status.INTERNAL, "without trailers"):
        dialect.feed_end([])


def test_error_details() -> None:
    details = encode_status_details(Status.NOT_FOUND, "gone", [SayHelloRequest(name="me")])
    dialect = answered(UNARY, (b"grpc-status", b"5"), (b"grpc-status-details-bin", details))
    dialect.feed_end([])
    [detail] = dialect.outcome.details
    assert detail.TypeName() == "greet.v1.SayHelloRequest"


def test_compressed_answers() -> None:
    dialect = answered(BIDI, (b"grpc-encoding", b"gzip"))
    squeezed = gzip.compress(b"Hello")
    assert dialect.feed(bytes([1, 0, 0, 0, len(squeezed)]) + squeezed) == [b"Hello"]


@pytest.mark.parametrize(
    ("http", "headers", "status", "word"),
    [
        (503, [(b"content-type", b"text/html")], Status.UNAVAILABLE, "503"),
        (404, [], Status.UNIMPLEMENTED, "404"),
        (431, [], Status.INTERNAL, "431"),
        (418, [TYPE], Status.UNKNOWN, "418"),
        (200, [(b"content-type", b"text/html")], Status.UNKNOWN, "text/html"),
        (200, [(b"content-type", b"application/grpc-web")], Status.UNKNOWN, "application/grpc-web"),
        (200, [(b"content-type", b"application/grpc+json")], Status.INTERNAL, "'json'"),
        (200, [TYPE, (b"grpc-encoding", b"br")], Status.INTERNAL, "'br'"),
        (200, [TYPE, (b"a-bin", b"%")], Status.INTERNAL, "a-bin"),
    ],
)
def test_a_head_that_is_not_ours(http: int, headers: Headers, status: Status, word: str) -> None:
    with refused(status, word):
        call(UNARY).response(http, headers)


def test_a_status_in_a_head_that_is_not_200() -> None:
    dialect = call(UNARY)
    dialect.response(503, [TYPE, (b"grpc-status", b"8")])
    dialect.feed_end([])
    assert dialect.outcome.status is Status.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("value", [b"application/grpc+proto", b"application/grpc; x=y", b"Application/gRPC"])
def test_content_types_that_are_ours(value: bytes) -> None:
    call(UNARY).response(200, [(b"content-type", value)])


def test_json() -> None:
    dialect = GrpcClient(JSON)
    _, _, headers = dialect.request(UNARY, "h")
    assert (b"content-type", b"application/grpc+json") in headers
    dialect.response(200, [(b"content-type", b"application/grpc+json")])
    with refused(Status.INTERNAL, "not in 'json'"):
        dialect.response(200, [(b"content-type", b"application/grpc")])


@pytest.mark.parametrize("method", [UNARY, CLIENT_STREAM])
def test_responses_are_counted(method: Method) -> None:
    with refused(Status.UNIMPLEMENTED, "without the message"):
        answered(method).feed_end(OK)
    with refused(Status.UNIMPLEMENTED, "second"):
        answered(method).feed(HELLO + HELLO)
    dialect = answered(method)
    dialect.feed(HELLO)
    with refused(Status.UNIMPLEMENTED, "second"):
        dialect.feed(HELLO)


def test_a_stream_may_be_empty() -> None:
    dialect = answered(SERVER_STREAM)
    assert dialect.feed_end(OK) == []
    assert dialect.outcome.status is Status.OK


@pytest.mark.parametrize(
    ("body", "trailers", "status", "words"),
    [
        (HELLO, [], Status.INTERNAL, "without trailers"),
        (HELLO, [(b"grpc-message", b"x")], Status.UNKNOWN, "without a status"),
        (b"\0\0\0\0\x05a", OK, Status.INTERNAL, "before the end"),
        (b"\0\0\0", OK, Status.INTERNAL, "prefix"),
        (b"\x01\0\0\0\x01x", OK, Status.INTERNAL, "no compression"),
        (b"\x80\0\0\0\0", OK, Status.INTERNAL, "unknown flags"),
        (b"\0\x7f\0\0\0", OK, Status.RESOURCE_EXHAUSTED, "limit"),
        (b"", [*OK, (b"a-bin", b"%")], Status.INTERNAL, "a-bin"),
    ],
)
def test_a_response_that_is_broken(body: bytes, trailers: Headers, status: Status, words: str) -> None:
    with refused(status, words):
        hear_response(answered(SERVER_STREAM), body, trailers)


def test_a_response_broken_off_with_an_error_is_that_error() -> None:
    dialect = answered(SERVER_STREAM)
    hear_response(dialect, b"\0\0\0\0\x05a", [(b"grpc-status", b"14")])
    assert dialect.outcome.status is Status.UNAVAILABLE


def test_an_unknown_status_is_unknown() -> None:
    dialect = answered(UNARY)
    dialect.feed_end([(b"grpc-status", b"99"), (b"grpc-message", b"new")])
    assert (dialect.outcome.status, dialect.outcome.message) == (Status.UNKNOWN, "new")


@CUTS
def test_web_unary(cuts: list[int]) -> None:
    dialect = web_answered(UNARY, (b"greet-version", b"v1"))
    assert hear_response(dialect, HELLO + WEB_OK, [], cuts) == [b"\n\x05Hello"]
    assert dialect.outcome.status is Status.OK
    assert as_dict(dialect.metadata) == {"greet-version": ["v1"]}


@CUTS
@pytest.mark.parametrize(
    "block",
    [
        b"grpc-status: 5\r\ngrpc-message: gone\r\ncost: 3\r\n",
        b"grpc-status:5\r\ngrpc-message:gone\r\ncost:3",
        b"Grpc-Status: 5\r\nGRPC-MESSAGE: gone\r\nCost: 3\r\n",
        b"grpc-status: 5\ngrpc-message: gone\n\ncost : 3\n",
    ],
)
def test_web_trailers(block: bytes, cuts: list[int]) -> None:
    dialect = web_answered(UNARY)
    assert hear_response(dialect, b"\x80\0\0\0" + bytes([len(block)]) + block, [], cuts) == []
    assert (dialect.outcome.status, dialect.outcome.message) == (Status.NOT_FOUND, "gone")
    assert as_dict(dialect.outcome.metadata) == {"cost": ["3"]}


def test_web_trailers_compressed() -> None:
    block = gzip.compress(b"grpc-status: 5\r\n")
    dialect = web_answered(UNARY, (b"grpc-encoding", b"gzip"))
    dialect.feed(b"\x81\0\0\0" + bytes([len(block)]) + block)
    dialect.feed_end([])
    assert dialect.outcome.status is Status.NOT_FOUND


def test_web_trailers_only() -> None:
    dialect = web_answered(UNARY, (b"grpc-status", b"5"))
    dialect.feed_end([])
    assert dialect.outcome.status is Status.NOT_FOUND


def test_web_status_in_the_head_does_not_count_when_a_body_follows() -> None:
    dialect = web_answered(UNARY, (b"grpc-status", b"8"))
    dialect.feed(b"\x80\0\0\0\x10grpc-status: 9\r\n")
    dialect.feed_end([])
    assert dialect.outcome.status is Status.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (HELLO, Status.INTERNAL, "without trailers"),
        (b"\x80\0\0\0\x0agrpc-a: 0\r\n"[:15], Status.UNKNOWN, "without a status"),
        (b"\x80\0\0\0\x04junk", Status.INTERNAL, "bad trailer: 'junk'"),
        (WEB_OK + HELLO, Status.INTERNAL, "after the end"),
        (HELLO * 2 + WEB_OK, Status.UNIMPLEMENTED, "second"),
        (WEB_OK, Status.UNIMPLEMENTED, "without the message"),
    ],
)
def test_a_web_response_that_is_broken(body: bytes, status: Status, words: str) -> None:
    with refused(status, words):
        hear_response(web_answered(UNARY), body, OK)


def test_a_web_head_that_is_not_ours() -> None:
    with refused(Status.UNKNOWN, "not with grpc-web"):
        call(UNARY, "grpc-web").response(200, [TYPE])
