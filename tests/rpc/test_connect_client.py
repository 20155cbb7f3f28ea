"""Connect on the client: what it sends, and what it makes of every kind of answer."""

from __future__ import annotations

import gzip

import pytest
from grpclib.const import Status

from fawa import __version__
from fawa.rpc.dialect import ClientDialect, Headers, Limits, Method, client_dialect
from tests.rpc.conversation import BIDI, CLIENT_STREAM, SERVER_STREAM, UNARY, as_dict, hear_response, refused

PROTO = (b"content-type", b"application/proto")
JSON = (b"content-type", b"application/json")
STREAM = (b"content-type", b"application/connect+proto")
AGENT = (b"user-agent", b"grpc-python-fawa/" + __version__.encode())
GZIP = (b"content-encoding", b"gzip")
HELLO = b"\0\0\0\0\x07\n\x05Hello"
END = b"\x02\0\0\0\x02{}"

CUTS = pytest.mark.parametrize("cuts", [[], [1], [3, 7]], ids=["whole", "bytewise", "threes-and-sevens"])


def answered(
    method: Method, status: int, *headers: tuple[bytes, bytes], limits: Limits | None = None
) -> ClientDialect:
    """Return a call whose response has begun."""
    dialect = client_dialect("connect", limits)
    dialect.request(method, "example.com")
    dialect.response(status, list(headers))
    return dialect


def end_of_stream(json: bytes) -> bytes:
    return b"\x02\0\0\0" + bytes([len(json)]) + json


def test_unary_request() -> None:
    dialect = client_dialect("connect")
    assert dialect.request(UNARY, "example.com") == (
        "POST",
        "/test.v1.Test/UNARY",
        [
            (b"host", b"example.com"),
            PROTO,
            (b"connect-protocol-version", b"1"),
            AGENT,
            (b"accept-encoding", b"gzip"),
        ],
    )
    assert dialect.message(b"\n\x03Ada") == b"\n\x03Ada"


def test_unary_request_with_everything() -> None:
    dialect = client_dialect("connect-json", compress=True)
    _, _, headers = dialect.request(UNARY, "h", {"x-bin": b"\xff"}, 1.5)
    assert headers[1] == JSON
    assert headers[5:] == [(b"connect-timeout-ms", b"1500"), GZIP, (b"x-bin", b"/w")]
    assert gzip.decompress(dialect.message(b"{}")) == b"{}"
    assert dialect.message(b"") == b""


def test_stream_request() -> None:
    dialect = client_dialect("connect")
    _, target, headers = dialect.request(BIDI, "h", None, float("inf"))
    assert target == "/test.v1.Test/BIDI"
    assert headers == [
        (b"host", b"h"),
        STREAM,
        (b"connect-protocol-version", b"1"),
        AGENT,
        (b"connect-accept-encoding", b"gzip"),
    ]
    assert dialect.message(b"\n\x05Hello") == HELLO


def test_stream_request_compressed() -> None:
    dialect = client_dialect("connect", compress=True)
    _, _, headers = dialect.request(BIDI, "h")
    assert headers[-1] == (b"connect-content-encoding", b"gzip")
    assert dialect.message(b"\n\x05Hello") == HELLO
    wire = dialect.message(b"x" * 2000)
    assert wire[0] == 1
    assert gzip.decompress(wire[5:]) == b"x" * 2000


@CUTS
def test_unary(cuts: list[int]) -> None:
    dialect = answered(UNARY, 200, PROTO, (b"greet-version", b"v1"), (b"trailer-cost", b"3"))
    assert as_dict(dialect.metadata) == {"greet-version": ["v1"]}
    assert hear_response(dialect, b"\n\x05Hello", [], cuts) == [b"\n\x05Hello"]
    assert (dialect.outcome.status, dialect.outcome.message, dialect.outcome.details) == (Status.OK, None, [])
    assert as_dict(dialect.outcome.metadata) == {"cost": ["3"]}


@CUTS
def test_unary_compressed(cuts: list[int]) -> None:
    dialect = answered(UNARY, 200, PROTO, GZIP)
    assert hear_response(dialect, gzip.compress(b"Hello"), [], cuts) == [b"Hello"]
    assert answered(UNARY, 200, PROTO, GZIP).feed_end([]) == [b""]


@CUTS
def test_unary_error(cuts: list[int]) -> None:
    dialect = answered(
        UNARY, 404, (b"content-type", b"application/json; charset=utf-8"), (b"trailer-a", b"b")
    )
    body = b"""{"code": "not_found", "message": "gone", "more": 1, "details": [
        {"type": "greet.v1.SayHelloRequest", "value": "CgJtZQ", "debug": {"name": "me"}, "frob": 1},
        {"type": "greet.v1.SayHelloRequest", "value": "CgJtZQ=="},
        {"type": "greet.v1.SayHelloRequest", "value": "%"},
        {"type": "greet.v1.SayHelloRequest"},
        "junk"
    ]}"""
    assert hear_response(dialect, body, [], cuts) == []
    outcome = dialect.outcome
    assert (outcome.status, outcome.message) == (Status.NOT_FOUND, "gone")
    assert as_dict(outcome.metadata) == {"a": ["b"]}
    assert [(detail.type_url, detail.value) for detail in outcome.details] == [
        ("type.googleapis.com/greet.v1.SayHelloRequest", b"\n\x02me")
    ] * 2


def test_unary_error_compressed() -> None:
    dialect = answered(UNARY, 409, JSON, GZIP)
    hear_response(dialect, gzip.compress(b'{"code": "aborted"}'), [])
    assert (dialect.outcome.status, dialect.outcome.message) == (
        Status.ABORTED,
        "the server answered with HTTP status 409",
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", None),
        (b"null", None),
        (b"[]", None),
        (b"junk", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
        (b'{"message": "oops"}', "oops"),
        (b'{"code": null, "message": "oops"}', "oops"),
        (b'{"code": "no_such_code", "message": "oops"}', "oops"),
        (b'{"code": 5, "message": 5, "details": 5}', None),
    ],
)
def test_an_error_that_cannot_be_read_is_what_http_says(body: bytes, message: str | None) -> None:
    dialect = answered(UNARY, 429, JSON)
    hear_response(dialect, body, [])
    assert dialect.outcome.status is Status.UNAVAILABLE
    assert dialect.outcome.message == (message or "the server answered with HTTP status 429")


def test_an_error_compressed_badly_is_what_http_says() -> None:
    dialect = answered(UNARY, 401, JSON, GZIP)
    hear_response(dialect, b"junk", [])
    assert dialect.outcome.status is Status.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("method", "http", "headers", "status", "word"),
    [
        (UNARY, 403, [PROTO], Status.PERMISSION_DENIED, "403"),
        (UNARY, 503, [(b"content-type", b"text/html")], Status.UNAVAILABLE, "503"),
        (UNARY, 204, [], Status.UNKNOWN, "204"),
        (UNARY, 200, [(b"content-type", b"image/jpeg")], Status.UNKNOWN, "image/jpeg"),
        (UNARY, 200, [JSON], Status.INTERNAL, "application/json"),
        (UNARY, 200, [PROTO, (b"content-encoding", b"br")], Status.INTERNAL, "'br'"),
        (UNARY, 200, [PROTO, (b"a-bin", b"%")], Status.INTERNAL, "a-bin"),
        (BIDI, 404, [JSON], Status.UNIMPLEMENTED, "404"),
        (BIDI, 431, [], Status.UNKNOWN, "431"),
        (BIDI, 200, [PROTO], Status.UNKNOWN, "application/proto"),
        (BIDI, 200, [(b"content-type", b"application/connect+json")], Status.INTERNAL, "connect+json"),
        (BIDI, 200, [STREAM, (b"connect-content-encoding", b"br")], Status.INTERNAL, "'br'"),
    ],
)
def test_a_head_that_is_not_ours(
    method: Method, http: int, headers: Headers, status: Status, word: str
) -> None:
    with refused(status, word):
        answered(method, http, *headers)


def test_unary_answers_that_are_broken() -> None:
    with refused(Status.INTERNAL, "not valid gzip"):
        hear_response(answered(UNARY, 200, PROTO, GZIP), b"junk", [])
    with refused(Status.RESOURCE_EXHAUSTED, "limit of 5 bytes"):
        hear_response(answered(UNARY, 200, PROTO, limits=Limits(max_message=5)), b"123456", [])
    with refused(Status.INTERNAL, "a-bin"):
        hear_response(answered(UNARY, 200, PROTO, (b"trailer-a-bin", b"%")), b"", [])


@CUTS
def test_stream(cuts: list[int]) -> None:
    dialect = answered(SERVER_STREAM, 200, STREAM, (b"greet-version", b"v1"))
    assert as_dict(dialect.metadata) == {"greet-version": ["v1"]}
    end = end_of_stream(
        '{"metadata": {"Cost": ["3", "4"], "t-bin": ["/w", "/w=="], "city": ["Zürich"]}}'.encode()
    )
    assert hear_response(dialect, HELLO * 2 + end, [], cuts) == [b"\n\x05Hello"] * 2
    assert dialect.outcome.status is Status.OK
    assert as_dict(dialect.outcome.metadata) == {
        "cost": ["3", "4"],
        "t-bin": [b"\xff", b"\xff"],
        "city": ["Zürich"],
    }


@CUTS
def test_stream_that_fails(cuts: list[int]) -> None:
    dialect = answered(BIDI, 200, STREAM)
    end = end_of_stream(b'{"error": {"code": "data_loss", "message": "lost"}, "metadata": {"a": ["b"]}}')
    assert hear_response(dialect, HELLO + end, [], cuts) == [b"\n\x05Hello"]
    assert (dialect.outcome.status, dialect.outcome.message) == (Status.DATA_LOSS, "lost")
    assert as_dict(dialect.outcome.metadata) == {"a": ["b"]}


def test_stream_compressed() -> None:
    dialect = answered(BIDI, 200, STREAM, (b"connect-content-encoding", b"gzip"))
    message, end = gzip.compress(b"Hello"), gzip.compress(b"{}")
    assert dialect.feed(bytes([1, 0, 0, 0, len(message)]) + message) == [b"Hello"]
    assert dialect.feed(bytes([3, 0, 0, 0, len(end)]) + end) == []
    assert dialect.feed_end([]) == []
    assert dialect.outcome.status is Status.OK


@pytest.mark.parametrize(
    ("json", "status", "message"),
    [
        (b'{"error": null}', Status.OK, None),
        (b'{"metadata": null}', Status.OK, None),
        (b'{"error": {"code": null, "message": "oops"}}', Status.UNKNOWN, "oops"),
        (b'{"error": {"message": "oops"}}', Status.UNKNOWN, "oops"),
        (b'{"error": {"code": "no_such_code"}}', Status.UNKNOWN, None),
        (b'{"error": {}}', Status.UNKNOWN, None),
        (b'{"error": "oops"}', Status.UNKNOWN, None),
        (b'{"error": {"code": "out_of_range", "more": 1}}', Status.OUT_OF_RANGE, None),
    ],
)
def test_ends_of_stream(json: bytes, status: Status, message: str | None) -> None:
    dialect = answered(SERVER_STREAM, 200, STREAM)
    hear_response(dialect, end_of_stream(json), [])
    assert (dialect.outcome.status, dialect.outcome.message) == (status, message)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (HELLO, Status.INTERNAL, "without an end of stream"),
        (HELLO[:7], Status.INTERNAL, "before the end"),
        (HELLO[:3], Status.INTERNAL, "prefix"),
        (END + HELLO, Status.INTERNAL, "after the end"),
        (end_of_stream(b"junk"), Status.INTERNAL, "bad end of stream"),
        (end_of_stream(b""), Status.INTERNAL, "bad end of stream"),
        (end_of_stream(b"[]"), Status.INTERNAL, "not an object"),
        (end_of_stream(b'{"metadata": 1}'), Status.INTERNAL, "metadata is not an object"),
        (end_of_stream(b'{"metadata": {"a": "b"}}'), Status.INTERNAL, "'a' is not a list"),
        (end_of_stream(b'{"metadata": {"a": [1]}}'), Status.INTERNAL, "'a' is not a list"),
        (end_of_stream(b'{"metadata": {"a-bin": ["%"]}}'), Status.INTERNAL, "a-bin"),
        (b"\x01\0\0\0\x01x", Status.INTERNAL, "no compression"),
        (b"\x80\0\0\0\0", Status.INTERNAL, "unknown flags"),
        (b"\0\x7f\0\0\0", Status.RESOURCE_EXHAUSTED, "limit"),
    ],
)
def test_a_stream_that_is_broken(body: bytes, status: Status, words: str) -> None:
    with refused(status, words):
        hear_response(answered(SERVER_STREAM, 200, STREAM), body, [])


def test_responses_are_counted() -> None:
    with refused(Status.UNIMPLEMENTED, "without the message"):
        hear_response(answered(CLIENT_STREAM, 200, STREAM), END, [])
    with refused(Status.UNIMPLEMENTED, "second"):
        hear_response(answered(CLIENT_STREAM, 200, STREAM), HELLO * 2 + END, [])
    dialect = answered(CLIENT_STREAM, 200, STREAM)
    hear_response(dialect, end_of_stream(b'{"error": {"code": "aborted"}}'), [])
    assert dialect.outcome.status is Status.ABORTED
