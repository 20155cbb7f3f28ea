from __future__ import annotations

import pytest
from grpclib.const import Status

from fawa.rpc.dialect import HttpError, Limits, Method, is_rpc_content_type, negotiate
from tests.rpc.conversation import BIDI, CLIENT_STREAM, METHODS, QUERY, SERVER_STREAM, UNARY, post

ALL_KINDS = {
    b"application/grpc": ("grpc", "proto"),
    b"application/grpc+proto": ("grpc", "proto"),
    b"application/grpc+json": ("grpc", "json"),
    b"application/grpc-web": ("grpc-web", "proto"),
    b"application/grpc-web+proto": ("grpc-web", "proto"),
    b"application/grpc-web+json": ("grpc-web", "json"),
    b"application/grpc-web-text": ("grpc-web-text", "proto"),
    b"application/grpc-web-text+proto": ("grpc-web-text", "proto"),
}
UNARY_ONLY = {
    b"application/proto": ("connect", "proto"),
    b"application/json": ("connect", "json"),
}
STREAMS_ONLY = {
    b"application/connect+proto": ("connect-stream", "proto"),
    b"application/connect+json": ("connect-stream", "json"),
}
EVERY = ALL_KINDS | UNARY_ONLY | STREAMS_ONLY


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.kind.name)
@pytest.mark.parametrize("content_type", EVERY)
def test_the_content_type_chooses(content_type: bytes, method: Method) -> None:
    takes = ALL_KINDS | (UNARY_ONLY if method is UNARY else STREAMS_ONLY)
    if content_type in takes:
        dialect = post(method, content_type)
        assert (dialect.name, dialect.codec.name) == takes[content_type]
        assert dialect.refusal is None
    else:
        with pytest.raises(HttpError) as error:
            post(method, content_type)
        assert error.value.status == 415


@pytest.mark.parametrize(
    ("content_type", "name"),
    [
        (b"application/json; charset=utf-8", "connect"),
        (b"application/json;charset=utf-8", "connect"),
        (b"Application/JSON", "connect"),
        (b"application/grpc; a=b+c", "grpc"),
        (b" application/grpc-web+proto ;x=y", "grpc-web"),
    ],
)
def test_parameters_and_capitals_do_not_matter(content_type: bytes, name: str) -> None:
    dialect = post(UNARY, content_type)
    assert dialect.name == name
    assert dialect.refusal is None
    assert is_rpc_content_type(content_type)


@pytest.mark.parametrize(
    "content_type",
    [
        b"",
        b"text/plain",
        b"application/x-protobuf",
        b"application/grpcx",
        b"application/grpc-web+thrift",
        b"application/grpc-web-text+json",
        b"application/connect+thrift",
        b"application/connect",
        b"multipart/form-data",
        b"\xff\xfe",
        b"application/json, application/proto",
    ],
)
@pytest.mark.parametrize("method", [UNARY, BIDI, None])
def test_another_content_type_is_no_rpc(content_type: bytes, method: Method | None) -> None:
    assert not is_rpc_content_type(content_type)
    with pytest.raises(HttpError) as error:
        post(method, content_type)
    assert error.value.status == 415
    assert content_type.decode("latin-1") in error.value.text


def test_the_answer_415_says_what_is_taken() -> None:
    with pytest.raises(HttpError) as error:
        post(UNARY, b"text/plain")
    [(name, value)] = error.value.headers
    assert name == b"accept-post"
    assert set(value.split(b", ")) == set(ALL_KINDS | UNARY_ONLY)
    assert UNARY.path in error.value.text

    with pytest.raises(HttpError) as error:
        post(SERVER_STREAM, b"application/json")
    [(name, value)] = error.value.headers
    assert set(value.split(b", ")) == set(ALL_KINDS | STREAMS_ONLY)


def test_no_content_type_at_all() -> None:
    assert not is_rpc_content_type(None)
    with pytest.raises(HttpError) as error:
        negotiate("POST", [], "", UNARY, Limits())
    assert error.value.status == 415


@pytest.mark.parametrize("content_type", EVERY)
def test_a_method_that_does_not_exist_is_said_in_the_dialects_words(content_type: bytes) -> None:
    dialect = post(None, content_type)
    assert dialect.name == EVERY[content_type][0]
    end = dialect.end(Status.UNIMPLEMENTED, "no such method")
    assert end.head is not None
    assert end.head.status == (404 if dialect.name.startswith("connect") else 200)
    assert b"no such method" in end.body or end.head.headers or dialect.name == "grpc-web-text"


def test_grpc_in_a_codec_that_we_do_not_know_is_grpc_and_unimplemented() -> None:
    dialect = post(UNARY, b"application/grpc+thrift; x=1")
    assert dialect.name == "grpc"
    assert dialect.refusal is not None
    assert dialect.refusal.status is Status.UNIMPLEMENTED
    assert "application/grpc+thrift" in (dialect.refusal.message or "")
    end = dialect.end(dialect.refusal.status, "no")
    assert end.head is not None
    assert end.head.status == 200
    assert end.head.headers[0] == (b"content-type", b"application/grpc")
    assert (b"grpc-status", b"12") in end.head.headers
    assert is_rpc_content_type(b"application/grpc+thrift")


@pytest.mark.parametrize("http_method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "post", "X"])
@pytest.mark.parametrize("method", [UNARY, CLIENT_STREAM, SERVER_STREAM, BIDI])
def test_other_http_methods(http_method: str, method: Method) -> None:
    with pytest.raises(HttpError) as error:
        negotiate(http_method, [(b"content-type", b"application/grpc")], "", method, Limits())
    assert error.value.status == 405
    assert error.value.headers == [(b"allow", b"POST")]
    assert http_method in error.value.text


@pytest.mark.parametrize("http_method", ["HEAD", "PUT"])
def test_other_http_methods_where_get_is_allowed(http_method: str) -> None:
    with pytest.raises(HttpError) as error:
        negotiate(http_method, [], "encoding=json&message={}", QUERY, Limits())
    assert (error.value.status, error.value.headers) == (405, [(b"allow", b"GET, POST")])


def test_get_is_for_unary_methods() -> None:
    streaming = Method("/t.T/S", SERVER_STREAM.kind, QUERY.request_type, QUERY.response_type, True)
    with pytest.raises(HttpError) as error:
        negotiate("GET", [], "encoding=json&message={}", streaming, Limits())
    assert error.value.status == 405


def test_get_of_no_method() -> None:
    with pytest.raises(HttpError) as error:
        negotiate("GET", [], "encoding=json&message={}", None, Limits())
    assert error.value.status == 404


def test_post_to_a_method_that_takes_get_too() -> None:
    assert post(QUERY, b"application/json").name == "connect"
    assert post(QUERY, b"application/grpc").name == "grpc"


def test_of_a_field_that_comes_twice_the_first_counts() -> None:
    both = [(b"content-type", b"application/grpc"), (b"content-type", b"application/json")]
    assert negotiate("POST", both, "", UNARY, Limits()).name == "grpc"
    assert negotiate("POST", both[::-1], "", UNARY, Limits()).name == "connect"
