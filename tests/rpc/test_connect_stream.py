"""Connect streams on the server: as the Connect protocol writes them, byte by byte."""

from __future__ import annotations

import gzip
import json

import pytest
from grpclib.const import Status

from fawa.proto.greet.v1.greet_pb2 import SayHelloRequest
from fawa.rpc.dialect import End, Head, Limits, Method
from tests.rpc.conversation import BIDI, CLIENT_STREAM, SERVER_STREAM, as_dict, hear, post, refused

JSON = (b"content-type", b"application/connect+json")
PROTO = (b"content-type", b"application/connect+proto")
GZIP = (b"connect-content-encoding", b"gzip")
ADA = b'\0\0\0\0\x0f{"name": "Ada"}'
HELLO = b'\0\0\0\0\x11{"resp": "Hello"}'
OK = End(None, b"\x02\0\0\0\x02{}", [])

CUTS = pytest.mark.parametrize("cuts", [[], [1], [3, 7]], ids=["whole", "bytewise", "threes-and-sevens"])


@pytest.mark.parametrize("method", [CLIENT_STREAM, SERVER_STREAM, BIDI], ids=lambda method: method.kind.name)
@CUTS
def test_json_of_every_kind(method: Method, cuts: list[int]) -> None:
    dialect = post(method, b"application/connect+json", (b"connect-protocol-version", b"1"))
    assert dialect.refusal is None
    requests = 3 if method.kind.client_streaming else 1
    assert hear(dialect, ADA * requests, cuts) == [b'{"name": "Ada"}'] * requests
    assert dialect.head(None) == Head(200, [JSON])
    for _ in range(3 if method.kind.server_streaming else 1):
        assert dialect.message(b'{"resp": "Hello"}') == HELLO
    assert dialect.end(Status.OK) == OK


def test_proto() -> None:
    dialect = post(BIDI, b"application/connect+proto")
    assert hear(dialect, b"\0\0\0\0\x05\n\x03Ada") == [b"\n\x03Ada"]
    assert dialect.head(None) == Head(200, [PROTO])
    assert dialect.message(b"\n\x05Hello") == b"\0\0\0\0\x07\n\x05Hello"
    assert dialect.end(Status.OK) == OK


def test_metadata_both_ways() -> None:
    dialect = post(BIDI, b"application/connect+proto", (b"x-a", b"b"), (b"connect-timeout-ms", b"10"))
    assert as_dict(dialect.metadata) == {"x-a": ["b"]}
    assert dialect.timeout == 0.01
    assert dialect.head({"greet-version": "v1"}) == Head(200, [PROTO, (b"greet-version", b"v1")])
    end = dialect.end(
        Status.OK, None, None, [("cost", "3"), ("cost", "4"), ("t-bin", b"\xff"), ("city", "Zürich")]
    )
    assert end.head is None
    assert end.body[:4] == b"\x02\0\0\0"
    assert json.loads(end.body[5:]) == {"metadata": {"cost": ["3", "4"], "t-bin": ["/w"], "city": ["Zürich"]}}


def test_an_error_in_mid_stream() -> None:
    dialect = post(SERVER_STREAM, b"application/connect+proto")
    dialect.head(None)
    dialect.message(b"")
    text = b'{"error":{"code":"unavailable","message":"overloaded"}}'
    assert dialect.end(Status.UNAVAILABLE, "overloaded") == End(
        None, b"\x02\0\0\0" + bytes([len(text)]) + text, []
    )


def test_an_error_before_anything_was_sent_is_still_200() -> None:
    dialect = post(SERVER_STREAM, b"application/connect+proto")
    text = b'{"error":{"code":"not_found"}}'
    assert dialect.end(Status.NOT_FOUND) == End(
        Head(200, [PROTO]), b"\x02\0\0\0" + bytes([len(text)]) + text, []
    )


def test_error_details() -> None:
    dialect = post(SERVER_STREAM, b"application/connect+proto")
    end = json.loads(dialect.end(Status.NOT_FOUND, "gone", [SayHelloRequest(name="me")]).body[5:])
    assert end["error"]["details"] == [
        {"type": "greet.v1.SayHelloRequest", "value": "CgJtZQ", "debug": {"name": "me"}}
    ]


def test_after_metadata_that_cannot_be_sent_the_call_still_ends() -> None:
    dialect = post(SERVER_STREAM, b"application/connect+proto")
    with pytest.raises(ValueError, match="no header can carry"):
        dialect.end(Status.OK, None, None, {"a": "\r\n"})
    assert dialect.end(Status.OK).body == b"\x02\0\0\0\x02{}"


def test_a_method_that_does_not_exist() -> None:
    end = post(None, b"application/connect+json").end(Status.UNIMPLEMENTED, "no such method")
    assert end == End(
        Head(404, [(b"content-type", b"application/json")]),
        b'{"code":"unimplemented","message":"no such method"}',
        [],
    )


def test_ok_without_the_message_it_owes_is_internal() -> None:
    end = post(CLIENT_STREAM, b"application/connect+json").end(Status.OK)
    assert json.loads(end.body[5:])["error"]["code"] == "internal"


@CUTS
def test_requests_are_counted(cuts: list[int]) -> None:
    with refused(Status.UNIMPLEMENTED, "none was sent"):
        hear(post(SERVER_STREAM, b"application/connect+json"), b"")
    with refused(Status.UNIMPLEMENTED, "second"):
        hear(post(SERVER_STREAM, b"application/connect+json"), ADA + ADA, cuts)


def test_compression_both_ways() -> None:
    dialect = post(BIDI, b"application/connect+json", GZIP, (b"connect-accept-encoding", b"br, gzip"))
    squeezed = gzip.compress(b"{}")
    assert hear(dialect, bytes([1, 0, 0, 0, len(squeezed)]) + squeezed) == [b"{}"]
    assert dialect.head(None) == Head(200, [JSON, GZIP])
    assert dialect.message(b"{}") == b"\0\0\0\0\x02{}"
    assert gzip.decompress(dialect.message(b"x" * 2000)[5:]) == b"x" * 2000


def test_the_unary_fields_say_nothing_of_a_stream() -> None:
    dialect = post(
        BIDI, b"application/connect+json", (b"content-encoding", b"br"), (b"accept-encoding", b"gzip")
    )
    assert dialect.refusal is None
    assert dialect.head(None) == Head(200, [JSON])


@pytest.mark.parametrize(
    ("field", "status", "word"),
    [
        ((b"connect-content-encoding", b"br"), Status.UNIMPLEMENTED, "'br'"),
        ((b"connect-timeout-ms", b"-1"), Status.INVALID_ARGUMENT, "connect-timeout-ms"),
        ((b"connect-protocol-version", b"2"), Status.INVALID_ARGUMENT, "connect-protocol-version"),
    ],
)
def test_a_head_that_is_wrong(field: tuple[bytes, bytes], status: Status, word: str) -> None:
    error = post(BIDI, b"application/connect+json", field).refusal
    assert error is not None
    assert error.status is status
    assert word in (error.message or "")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"\x01\0\0\0\x04junk", Status.INVALID_ARGUMENT),  # not gzip
        (b"\x02\0\0\0\x02{}", Status.INVALID_ARGUMENT),  # only responses have an end
        (b"\x04\0\0\0\0", Status.INVALID_ARGUMENT),  # unknown flag
        (b"\0\0\0\0\x05abc", Status.INVALID_ARGUMENT),  # cut off
        (b"\0\0\0", Status.INVALID_ARGUMENT),  # cut off
        (b"\0\0\0\0\x15", Status.RESOURCE_EXHAUSTED),
    ],
)
@CUTS
def test_a_malformed_body(body: bytes, status: Status, cuts: list[int]) -> None:
    with refused(status):
        hear(post(BIDI, b"application/connect+json", GZIP, limits=Limits(max_message=20)), body, cuts)


def test_compressed_without_agreement() -> None:
    with refused(Status.INTERNAL, "no compression was declared"):
        hear(post(BIDI, b"application/connect+json"), b"\x01\0\0\0\x01x")
