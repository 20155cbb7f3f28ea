"""gRPC-Web on the server, binary and text: as `PROTOCOL-WEB.md` writes it, byte by byte."""

from __future__ import annotations

import base64
import gzip

import pytest
from grpclib.const import Status
from hypothesis import given
from hypothesis import strategies as st

from fawa.rpc.dialect import End, Head, Method
from fawa.rpc.grpcweb import Base64Reader
from tests.rpc.conversation import (
    BIDI,
    CLIENT_STREAM,
    METHODS,
    SERVER_STREAM,
    UNARY,
    hear,
    pieces,
    post,
    refused,
    sizes,
)

ADA = b"\0\0\0\0\x05\n\x03Ada"
HELLO = b"\0\0\0\0\x07\n\x05Hello"
OK = b"\x80\0\0\0\x10grpc-status: 0\r\n"

TYPE = (b"content-type", b"application/grpc-web+proto")
TEXT = (b"content-type", b"application/grpc-web-text")

CUTS = pytest.mark.parametrize("cuts", [[], [1], [3, 7]], ids=["whole", "bytewise", "threes-and-sevens"])


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.kind.name)
@CUTS
def test_every_kind(method: Method, cuts: list[int]) -> None:
    dialect = post(method, b"application/grpc-web+proto", (b"x-grpc-web", b"1"))
    requests = 3 if method.kind.client_streaming else 1
    assert hear(dialect, ADA * requests, cuts) == [b"\n\x03Ada"] * requests
    assert dialect.head(None) == Head(200, [TYPE])
    for _ in range(3 if method.kind.server_streaming else 1):
        assert dialect.message(b"\n\x05Hello") == HELLO
    assert dialect.end(Status.OK) == End(None, OK, [])


def test_trailers_are_in_the_body() -> None:
    dialect = post(SERVER_STREAM, b"application/grpc-web+proto")
    dialect.head({"a": "b"})
    block = b"grpc-status: 5\r\ngrpc-message: gone %E2%98%B9\r\ncost: 3\r\n"
    assert dialect.end(Status.NOT_FOUND, "gone ☹", None, {"cost": "3"}) == End(
        None, b"\x80\0\0\0" + bytes([len(block)]) + block, []
    )


def test_an_error_before_anything_was_sent() -> None:
    dialect = post(UNARY, b"application/grpc-web+proto")
    block = b"grpc-status: 16\r\n"
    assert dialect.end(Status.UNAUTHENTICATED) == End(Head(200, [TYPE]), b"\x80\0\0\0\x11" + block, [])


def test_ok_without_the_message_it_owes_is_internal() -> None:
    dialect = post(CLIENT_STREAM, b"application/grpc-web+proto")
    assert b"grpc-status: 13\r\n" in dialect.end(Status.OK).body


def test_trailers_have_no_way_out_of_their_lines() -> None:
    dialect = post(UNARY, b"application/grpc-web+proto")
    end = dialect.end(Status.UNKNOWN, "x\r\ngrpc-status: 0")
    assert end.body.count(b"\n") == 2
    with pytest.raises(ValueError, match="no header can carry"):
        dialect.end(Status.UNKNOWN, "", None, {"a": "x\r\ngrpc-status: 0"})


@pytest.mark.parametrize("method", [UNARY, SERVER_STREAM])
@pytest.mark.parametrize("content_type", [b"application/grpc-web", b"application/grpc-web-text"])
def test_requests_are_counted(method: Method, content_type: bytes) -> None:
    body = ADA + ADA
    with refused(Status.UNIMPLEMENTED, "none was sent"):
        hear(post(method, content_type), b"")
    with refused(Status.UNIMPLEMENTED, "second"):
        hear(post(method, content_type), base64.b64encode(body) if b"text" in content_type else body)


def test_a_request_has_no_trailers() -> None:
    with refused(Status.INTERNAL, "unknown flags"):
        hear(post(BIDI, b"application/grpc-web"), OK)


def test_compression_both_ways() -> None:
    dialect = post(
        UNARY, b"application/grpc-web", (b"grpc-encoding", b"gzip"), (b"grpc-accept-encoding", b"gzip")
    )
    squeezed = gzip.compress(b"\n\x03Ada")
    assert hear(dialect, bytes([1, 0, 0, 0, len(squeezed)]) + squeezed) == [b"\n\x03Ada"]
    head = dialect.head(None)
    assert head is not None
    assert (b"grpc-encoding", b"gzip") in head.headers
    assert gzip.decompress(dialect.message(b"x" * 2000)[5:]) == b"x" * 2000


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.kind.name)
@CUTS
def test_text_of_every_kind(method: Method, cuts: list[int]) -> None:
    dialect = post(method, b"application/grpc-web-text")
    requests = 3 if method.kind.client_streaming else 1
    # Each message is flushed alone, so there is padding in the middle.
    assert hear(dialect, b"AAAAAAUKA0FkYQ==" * requests, cuts) == [b"\n\x03Ada"] * requests
    assert dialect.head(None) == Head(200, [TEXT])
    for _ in range(3 if method.kind.server_streaming else 1):
        assert dialect.message(b"\n\x05Hello") == b"AAAAAAcKBUhlbGxv"
    assert dialect.end(Status.OK) == End(None, base64.b64encode(OK), [])


def test_text_error_before_anything_was_sent() -> None:
    end = post(UNARY, b"application/grpc-web-text").end(Status.ABORTED)
    assert end.head == Head(200, [TEXT])
    assert base64.b64decode(end.body) == b"\x80\0\0\0\x11grpc-status: 10\r\n"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"AAAA!AAA", "not valid base64"),
        (b"AA=A", "not valid base64"),
        (b"====", "not valid base64"),
        (b"AAAA\r\nAA", "not valid base64"),
        (b"AAAA_-AA", "not valid base64"),
        (b"AAAAAAUKA0FkYQ=", "four base64 characters"),
        (b"AAAAAAUKA0FkYQ", "four base64 characters"),
        (b"AAAAAAUK", "4 bytes before the end"),
    ],
)
@CUTS
def test_text_that_is_none(body: bytes, words: str, cuts: list[int]) -> None:
    with refused(Status.INTERNAL, words):
        hear(post(BIDI, b"application/grpc-web-text"), body, cuts)


@given(st.lists(st.binary(max_size=30)), sizes)
def test_base64_padded_anywhere_in_any_pieces(flushed: list[bytes], cuts: list[int]) -> None:
    text = b"".join(base64.b64encode(part) for part in flushed)
    reader = Base64Reader()
    assert b"".join(reader.feed(piece) for piece in pieces(text, cuts)) == b"".join(flushed)
    reader.finish()
