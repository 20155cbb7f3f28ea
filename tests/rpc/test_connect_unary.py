"""Unary Connect on the server, by POST and GET: as the Connect protocol writes it, byte by byte."""

from __future__ import annotations

import base64
import gzip
import json
from urllib.parse import quote

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.timestamp_pb2 import Timestamp
from grpclib.const import Status

from fawa.proto.greet.v1.greet_pb2 import SayHelloRequest
from fawa.rpc.dialect import End, Head, HttpError, Limits, ServerDialect, negotiate
from fawa.rpc.status import CONNECT_NAME, HTTP_STATUS
from tests.rpc.conversation import QUERY, UNARY, as_dict, hear, post, refused

JSON = (b"content-type", b"application/json")
PROTO = (b"content-type", b"application/proto")
GZIP = (b"content-encoding", b"gzip")
VARY = (b"vary", b"accept-encoding")
ADA = b'{"name": "Ada"}'

CUTS = pytest.mark.parametrize("cuts", [[], [1], [3, 7]], ids=["whole", "bytewise", "threes-and-sevens"])


@CUTS
def test_json(cuts: list[int]) -> None:
    dialect = post(UNARY, b"application/json", (b"content-length", b"15"))
    assert hear(dialect, ADA, cuts) == [ADA]
    assert dialect.head(None) is None
    assert dialect.message(b'{"resp": "Hello"}') == b""
    assert dialect.end(Status.OK) == End(Head(200, [JSON]), b'{"resp": "Hello"}', [])


@CUTS
def test_proto(cuts: list[int]) -> None:
    dialect = post(UNARY, b"application/proto", (b"connect-protocol-version", b"1"))
    assert hear(dialect, b"\n\x03Ada", cuts) == [b"\n\x03Ada"]
    assert dialect.message(b"\n\x05Hello") == b""
    assert dialect.end(Status.OK) == End(Head(200, [PROTO]), b"\n\x05Hello", [])


def test_an_empty_body_is_an_empty_message() -> None:
    assert hear(post(UNARY, b"application/proto"), b"") == [b""]
    assert hear(post(UNARY, b"application/proto", GZIP), b"") == [b""]


def test_metadata_both_ways() -> None:
    dialect = post(UNARY, b"application/json", (b"accept-encoding", b"br"), (b"x-bin", b"AQ=="))
    assert as_dict(dialect.metadata) == {"x-bin": [b"\x01"]}
    assert dialect.head({"greet-version": "v1"}) is None
    dialect.message(b"{}")
    trailing: dict[str, str | bytes] = {"cost": "3", "t-bin": b"\xff"}
    assert dialect.end(Status.OK, None, None, trailing) == End(
        Head(200, [JSON, (b"greet-version", b"v1"), (b"trailer-cost", b"3"), (b"trailer-t-bin", b"/w")]),
        b"{}",
        [],
    )


def test_an_error_is_json_whatever_the_codec() -> None:
    dialect = post(UNARY, b"application/proto")
    dialect.head({"a": "b"})
    assert dialect.end(Status.UNAVAILABLE, "overloaded: back off", None, {"c": "d"}) == End(
        Head(503, [JSON, (b"a", b"b"), (b"trailer-c", b"d")]),
        b'{"code":"unavailable","message":"overloaded: back off"}',
        [],
    )


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_every_status(status: Status) -> None:
    end = post(UNARY, b"application/json").end(status)
    assert end.head == Head(HTTP_STATUS[status], [JSON])
    assert json.loads(end.body) == {"code": CONNECT_NAME[status]}


def test_an_error_after_the_message_replaces_it() -> None:
    dialect = post(UNARY, b"application/json")
    dialect.message(b"{}")
    assert dialect.end(Status.ABORTED).body == b'{"code":"aborted"}'


def test_error_details() -> None:
    given = [
        SayHelloRequest(name="me"),
        SayHelloRequest(),
        AnyMessage(type_url="type.googleapis.com/never.v1.Heard", value=b"\x08\x01"),
        Timestamp(seconds=10**15),  # no such day, so no readable form
    ]
    error = json.loads(post(UNARY, b"application/json").end(Status.NOT_FOUND, "gone", given).body)
    assert error["details"] == [
        {"type": "greet.v1.SayHelloRequest", "value": "CgJtZQ", "debug": {"name": "me"}},
        {"type": "greet.v1.SayHelloRequest", "value": ""},
        {"type": "never.v1.Heard", "value": "CAE"},
        {"type": "google.protobuf.Timestamp", "value": "CICAmqbqr+MB"},
    ]


def test_a_message_with_a_lone_surrogate() -> None:
    assert (
        post(UNARY, b"application/json").end(Status.UNKNOWN, "\ud800").body
        == b'{"code":"unknown","message":"?"}'
    )


def test_after_metadata_that_cannot_be_sent_the_call_still_ends() -> None:
    dialect = post(UNARY, b"application/json")
    with pytest.raises(ValueError, match="no header can carry"):
        dialect.head({"a": "\r\n"})
    with pytest.raises(ValueError, match="reserved"):
        dialect.end(Status.ABORTED, "", None, {"connect-x": "y"})
    with pytest.raises(ValueError, match="protobuf messages"):
        dialect.end(Status.ABORTED, "", ["x"])  # type: ignore[list-item]
    assert dialect.end(Status.INTERNAL).head == Head(500, [JSON])


def test_ok_without_the_message_it_owes_is_internal() -> None:
    end = post(UNARY, b"application/json").end(Status.OK)
    assert end.head is not None
    assert end.head.status == 500
    assert json.loads(end.body)["code"] == "internal"


def test_a_second_message_is_the_handlers_fault() -> None:
    dialect = post(UNARY, b"application/json")
    dialect.message(b"{}")
    with refused(Status.INTERNAL, "second message"):
        dialect.message(b"{}")


def test_a_method_that_does_not_exist() -> None:
    end = post(None, b"application/json").end(Status.UNIMPLEMENTED, "no such method")
    assert end == End(Head(404, [JSON]), b'{"code":"unimplemented","message":"no such method"}', [])


@CUTS
def test_compression_both_ways(cuts: list[int]) -> None:
    dialect = post(UNARY, b"application/json", GZIP, (b"accept-encoding", b"gzip, br"))
    assert hear(dialect, gzip.compress(ADA), cuts) == [ADA]
    dialect.message(b"x" * 2000)
    end = dialect.end(Status.OK)
    assert end.head == Head(200, [JSON, GZIP])
    assert gzip.decompress(end.body) == b"x" * 2000


def test_a_client_that_compresses_is_answered_in_kind() -> None:
    dialect = post(UNARY, b"application/json", GZIP)
    dialect.message(b"x" * 2000)
    assert dialect.end(Status.OK).head == Head(200, [JSON, GZIP])


def test_a_short_answer_is_not_compressed() -> None:
    dialect = post(UNARY, b"application/json", (b"accept-encoding", b"gzip"))
    dialect.message(b"{}")
    assert dialect.end(Status.OK) == End(Head(200, [JSON]), b"{}", [])


def refusal(*headers: tuple[bytes, bytes], limits: Limits | None = None) -> tuple[Status, str]:
    error = post(UNARY, b"application/json", *headers, limits=limits).refusal
    assert error is not None
    return error.status, error.message or ""


def test_compression_that_we_do_not_have() -> None:
    status, text = refusal((b"content-encoding", b"br"))
    assert status is Status.UNIMPLEMENTED
    assert "'br'" in text
    assert "identity, gzip" in text


@pytest.mark.parametrize(
    ("version", "fits"), [(b"1", True), (b"2", False), (b"", False), (b"v1", False), (b"\xff", False)]
)
def test_protocol_version(version: bytes, fits: bool) -> None:
    if fits:
        assert post(UNARY, b"application/json", (b"connect-protocol-version", version)).refusal is None
    else:
        status, text = refusal((b"connect-protocol-version", version))
        assert status is Status.INVALID_ARGUMENT
        assert "connect-protocol-version" in text


def test_timeout() -> None:
    assert post(UNARY, b"application/json", (b"connect-timeout-ms", b"1500")).timeout == 1.5
    assert refusal((b"connect-timeout-ms", b"1.5"))[0] is Status.INVALID_ARGUMENT
    assert refusal((b"connect-timeout-ms", b"10000000000"))[0] is Status.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"junk", "not valid gzip"),
        (gzip.compress(ADA)[:-1], "cut off"),
        (gzip.compress(ADA) + b"x", "after the end"),
    ],
    # Not the bytes, which hold the time: the processes that share the tests must name them alike.
    ids=["junk", "cut off", "more after the end"],
)
def test_bad_gzip(body: bytes, words: str) -> None:
    with refused(Status.INVALID_ARGUMENT, words):
        hear(post(UNARY, b"application/json", GZIP), body)


def test_too_large() -> None:
    small = Limits(max_message=10)
    assert hear(post(UNARY, b"application/proto", limits=small), b"0123456789") == [b"0123456789"]
    with refused(Status.RESOURCE_EXHAUSTED, "limit of 10 bytes"):
        hear(post(UNARY, b"application/proto", limits=small), b"01234567890", [4])
    with refused(Status.RESOURCE_EXHAUSTED, "limit of 50 bytes when decompressed"):
        hear(post(UNARY, b"application/proto", GZIP, limits=Limits(max_message=50)), gzip.compress(bytes(51)))


def test_too_large_is_seen_in_the_declared_length() -> None:
    small = Limits(max_message=10)
    assert refusal((b"content-length", b"11"), limits=small) == (
        Status.RESOURCE_EXHAUSTED,
        "message of 11 bytes is larger than the limit of 10 bytes",
    )
    assert post(UNARY, b"application/json", (b"content-length", b"10"), limits=small).refusal is None


def get(query: str, *headers: tuple[bytes, bytes], limits: Limits | None = None) -> ServerDialect:
    return negotiate("GET", list(headers), query, QUERY, limits or Limits())


@pytest.mark.parametrize(
    "query",
    [
        "encoding=json&message=%7B%22name%22%3A%20%22Ada%22%7D",
        "message=%7B%22name%22:+%22Ada%22%7D&encoding=json&connect=v1",
        "connect=v1&encoding=json&base64=1&message=eyJuYW1lIjogIkFkYSJ9&extra=%ff",
        "encoding=json&base64=0&message=" + quote(ADA),
        "encoding=json&compression=identity&message=" + quote(ADA),
        "encoding=json&message=" + quote(ADA) + "&message=second",
        "&&encoding=json&message=" + quote(ADA),
    ],
)
def test_get_json(query: str) -> None:
    dialect = get(query)
    assert dialect.refusal is None
    assert (dialect.name, dialect.codec.name) == ("connect-get", "json")
    assert dialect.feed_end() == [ADA]
    assert dialect.head(None) is None
    dialect.message(b'{"resp": "Hello"}')
    assert dialect.end(Status.OK) == End(Head(200, [JSON, VARY]), b'{"resp": "Hello"}', [])


@pytest.mark.parametrize("message", ["CgPvv70", "CgPvv70%3D"])
def test_get_proto(message: str) -> None:
    dialect = get(f"connect=v1&base64=1&encoding=proto&message={message}")
    assert dialect.feed_end() == ["\n\x03\ufffd".encode()]
    dialect.message(b"\n\x05Hello")
    assert dialect.end(Status.OK) == End(Head(200, [PROTO, VARY]), b"\n\x05Hello", [])


def test_get_takes_the_url_safe_alphabet_only() -> None:
    assert get("encoding=proto&base64=1&message=-_8").feed_end() == [b"\xfb\xff"]
    error = get("encoding=proto&base64=1&message=%2B%2F8").refusal
    assert error is not None
    assert error.status is Status.INVALID_ARGUMENT


def test_get_compressed() -> None:
    message = base64.urlsafe_b64encode(gzip.compress(ADA)).decode()
    dialect = get(
        f"encoding=json&base64=1&compression=gzip&message={message}",
        # Of a body that is not there:
        (b"content-encoding", b"br"),
        (b"content-type", b"text/plain"),
        (b"accept-encoding", b"gzip"),
    )
    assert dialect.refusal is None
    assert dialect.feed_end() == [ADA]
    dialect.message(b"x" * 2000)
    end = dialect.end(Status.OK)
    assert end.head == Head(200, [JSON, GZIP, VARY])
    assert gzip.decompress(end.body) == b"x" * 2000


def test_get_of_an_empty_message() -> None:
    assert get("encoding=proto&message=").feed_end() == [b""]
    assert get("encoding=proto&compression=gzip&message=").feed_end() == [b""]


def test_get_with_timeout_and_metadata() -> None:
    dialect = get("encoding=json&message=%7B%7D", (b"connect-timeout-ms", b"10"), (b"x-a", b"b"))
    assert dialect.timeout == 0.01
    assert as_dict(dialect.metadata) == {"x-a": ["b"]}


@pytest.mark.parametrize(
    ("query", "status", "word"),
    [
        ("", Status.INVALID_ARGUMENT, "encoding"),
        ("message=%7B%7D", Status.INVALID_ARGUMENT, "encoding"),
        ("encoding=json", Status.INVALID_ARGUMENT, "message"),
        ("encoding=json&message=!&base64=1", Status.INVALID_ARGUMENT, "base64"),
        ("encoding=json&message=%ff&base64=1", Status.INVALID_ARGUMENT, "base64"),
        ("encoding=json&message=A&base64=1", Status.INVALID_ARGUMENT, "base64"),
        ("encoding=json&message=%7B%7D&connect=v2", Status.INVALID_ARGUMENT, "connect"),
        ("encoding=json&message=%7B%7D&compression=br", Status.UNIMPLEMENTED, "'br'"),
        ("encoding=json&message=" + "x" * 21, Status.RESOURCE_EXHAUSTED, "21 bytes"),
    ],
)
def test_get_that_is_wrong(query: str, status: Status, word: str) -> None:
    dialect = get(query, limits=Limits(max_message=20))
    assert dialect.refusal is not None
    assert dialect.refusal.status is status
    assert word in (dialect.refusal.message or "")
    end = dialect.end(dialect.refusal.status, dialect.refusal.message)
    assert end.head == Head(HTTP_STATUS[status], [JSON, VARY])


def test_get_in_an_unknown_codec() -> None:
    with pytest.raises(HttpError) as error:
        get("encoding=xml&message=%3Ca%2F%3E")
    assert error.value.status == 415
    assert "'xml'" in error.value.text


def test_get_compressed_badly() -> None:
    with refused(Status.INVALID_ARGUMENT, "not valid gzip"):
        get("encoding=json&base64=1&compression=gzip&message=AAAA").feed_end()


def test_get_has_no_body() -> None:
    with refused(Status.INVALID_ARGUMENT, "in the query"):
        get("encoding=json&message=%7B%7D").feed(b"{}")
