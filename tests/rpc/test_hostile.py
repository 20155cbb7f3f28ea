"""Clients and servers that mean harm: arbitrary bytes, broken conversations, bombs."""

from __future__ import annotations

import base64
import gzip
import tracemalloc
import zlib

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from hypothesis import given
from hypothesis import strategies as st

from fawa.rpc.dialect import CLIENTS, HttpError, Kind, Limits, Method, client_dialect, negotiate
from tests.rpc.conversation import METHODS, QUERY, UNARY, pieces, post, refused, sizes

BOTH = {
    b"application/grpc": b"grpc-encoding",
    b"application/grpc-web": b"grpc-encoding",
    b"application/grpc-web-text": b"grpc-encoding",
}
STREAMS = BOTH | {b"application/connect+proto": b"connect-content-encoding"}
ALL = STREAMS | {b"application/proto": b"content-encoding"}

LIMIT = 4 * 1024 * 1024


def bomb() -> bytes:
    """Return 1 GiB of zeros as gzip: one MiB of deflate blocks, repeated, as a full flush allows."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = deflater.compress(bytes(1 << 20)) + deflater.flush(zlib.Z_FULL_FLUSH)
    return (
        b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
        + block * 1024
        + b"\x03\0"
        + bytes(4)
        + (1 << 30).to_bytes(4, "little")
    )


def test_the_bomb_is_one() -> None:
    inflater = zlib.decompressobj(31)
    data, size = bomb(), 0
    while data and not inflater.eof and size < 64 << 20:
        size += len(inflater.decompress(data, 1 << 20))
        data = inflater.unconsumed_tail
    assert size >= 64 << 20


@pytest.mark.parametrize("content_type", ALL)
def test_a_bomb_takes_no_more_than_the_limit(content_type: bytes) -> None:
    body = bomb()
    assert len(body) < LIMIT
    method = METHODS[Kind.UNARY if content_type == b"application/proto" else Kind.BIDI]
    dialect = post(method, content_type, (ALL[content_type], b"gzip"), limits=Limits(max_message=LIMIT))
    if content_type != b"application/proto":
        body = b"\x01" + len(body).to_bytes(4, "big") + body
    if content_type == b"application/grpc-web-text":
        body = base64.b64encode(body)
    tracemalloc.start()
    try:
        with refused(Status.RESOURCE_EXHAUSTED, f"limit of {LIMIT} bytes"):
            for piece in pieces(body, [16384]):
                dialect.feed(piece)
            dialect.feed_end()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * LIMIT


@pytest.mark.parametrize("content_type", ALL)
@given(data=st.lists(st.binary(max_size=12), max_size=8), squeeze=st.booleans(), some=st.data())
def test_any_bytes_are_messages_or_an_error_of_the_call(
    content_type: bytes, data: list[bytes], squeeze: bool, some: st.DataObject
) -> None:
    kinds = [Kind.UNARY] if content_type == b"application/proto" else [Kind.BIDI, Kind.SERVER_STREAM]
    headers = [(ALL[content_type], b"gzip")] if squeeze else []
    method = METHODS[some.draw(st.sampled_from(kinds))]
    dialect = post(method, content_type, *headers, limits=Limits(max_message=20))
    # After an error, feeding on changes nothing: still no other error.
    for piece in data:
        try:
            assert all(len(payload) <= 20 for payload in dialect.feed(piece))
        except GRPCError as error:
            assert error.message  # noqa: PT017
    try:
        dialect.feed_end()
    except GRPCError as error:
        assert error.message  # noqa: PT017


@pytest.mark.parametrize("content_type", STREAMS)
@given(at=st.integers(0, 200), byte=st.integers(0, 255), cuts=sizes)
def test_a_stream_with_one_wrong_byte(content_type: bytes, at: int, byte: int, cuts: list[int]) -> None:
    squeezed = gzip.compress(b"the second message", mtime=0)
    body = b"\0\0\0\0\x05first" + bytes([1, 0, 0, 0, len(squeezed)]) + squeezed
    if content_type == b"application/grpc-web-text":
        body = base64.b64encode(body)
    at %= len(body)
    body = body[:at] + bytes([byte]) + body[at + 1 :]
    dialect = post(METHODS[Kind.BIDI], content_type, (STREAMS[content_type], b"gzip"))
    try:
        for piece in pieces(body, cuts):
            dialect.feed(piece)
        dialect.feed_end()
    except GRPCError as error:
        assert error.status in {Status.INTERNAL, Status.INVALID_ARGUMENT, Status.RESOURCE_EXHAUSTED}  # noqa: PT017


names = st.sampled_from(
    [
        b"content-type",
        b"content-encoding",
        b"content-length",
        b"accept-encoding",
        b"grpc-encoding",
        b"grpc-accept-encoding",
        b"grpc-timeout",
        b"connect-content-encoding",
        b"connect-accept-encoding",
        b"connect-timeout-ms",
        b"connect-protocol-version",
        b"x-bin",
        b"x",
    ]
) | st.binary(max_size=10)
values = st.sampled_from([*ALL, b"application/json", b"gzip", b"gzip;q=0", b"1", b"1S", b"99"]) | st.binary(
    max_size=20
)
methods = st.sampled_from([None, QUERY, *METHODS.values()])


@given(
    http_method=st.sampled_from(["POST", "GET", "PUT"]),
    headers=st.lists(st.tuples(names, values), max_size=6),
    query=st.text(max_size=30)
    | st.lists(
        st.tuples(
            st.sampled_from(["encoding", "message", "base64", "compression", "connect"]),
            st.sampled_from(["json", "proto", "1", "v1", "gzip", "H4sI", "%zz", "%ff", "+"]),
        ),
        max_size=5,
    ).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs)),
    method=methods,
)
def test_any_head_is_a_call_or_an_error_of_http(
    http_method: str, headers: list[tuple[bytes, bytes]], query: str, method: Method | None
) -> None:
    try:
        dialect = negotiate(http_method, headers, query, method, Limits())
    except HttpError as error:
        assert error.status in {404, 405, 415}  # noqa: PT017
        return
    try:
        assert dialect.metadata is not None
        dialect.feed_end()
    except GRPCError as error:
        assert error.message  # noqa: PT017
    refusal = dialect.refusal or GRPCError(Status.CANCELLED)
    end = dialect.end(refusal.status, refusal.message)
    assert end.head is not None
    assert all(b"\n" not in value and b"\r" not in value for _, value in end.head.headers)


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.kind.name)
@pytest.mark.parametrize("name", CLIENTS)
@given(
    http=st.sampled_from([200, 200, 200, 404, 503]),
    headers=st.lists(
        st.tuples(
            st.sampled_from(
                [b"grpc-encoding", b"content-encoding", b"grpc-status", b"a-bin", b"trailer-a-bin"]
            ),
            st.sampled_from([b"gzip", b"identity", b"0", b"5", b"/w"]) | st.binary(max_size=8),
        ),
        max_size=3,
    ),
    own_type=st.booleans(),
    body=st.lists(st.binary(max_size=12), max_size=6),
    trailers=st.lists(
        st.tuples(st.sampled_from([b"grpc-status", b"grpc-message", b"a-bin"]), st.binary(max_size=8))
    ),
)
def test_any_response_is_an_outcome_or_an_error_of_the_call(
    name: str,
    method: Method,
    http: int,
    headers: list[tuple[bytes, bytes]],
    own_type: bool,
    body: list[bytes],
    trailers: list[tuple[bytes, bytes]],
) -> None:
    client = client_dialect(name, Limits(max_message=20))
    _, _, sent = client.request(method, "h")
    content_type = dict(sent)[b"content-type"] if own_type else b"application/json"
    try:
        client.response(http, [(b"content-type", content_type), *headers])
        for piece in body:
            client.feed(piece)
        client.feed_end(trailers)
        assert client.outcome.status in Status
    except GRPCError as error:
        assert error.message  # noqa: PT017


@given(st.text(max_size=40))
def test_any_query(query: str) -> None:
    dialect = negotiate("GET", [], "encoding=json&" + query, QUERY, Limits())
    assert dialect.name == "connect-get"


def test_the_number_of_requests_is_bounded_by_the_method_not_by_memory() -> None:
    many = b"\0\0\0\0\0" * 100_000
    with refused(Status.UNIMPLEMENTED, "second"):
        post(UNARY, b"application/grpc").feed(many)
