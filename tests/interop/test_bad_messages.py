"""Bytes that are no call, in each dialect: the right status, and the server goes on."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable

import attrs
import pytest

from tests.interop import expect, wire
from tests.interop.target import Target
from tests.interop.wire import Dialect

#: 32 MiB of nothing.
BOMB = gzip.compress(bytes(32 * 1024 * 1024))

ADA = b"\n\x03Ada"
ADA_JSON = b'{"name":"Ada"}'


def good(dialect: Dialect) -> bytes:
    return dialect.pack(ADA_JSON if dialect.json else ADA)


@attrs.frozen
class Case:
    """A body and the code it must get; "fault" is what the dialect says of malformed bodies."""

    body: Callable[[Dialect], bytes]
    code: str
    encoding: str = ""


#: For dialects with envelopes.
ENVELOPES = {
    "cut off in a prefix": Case(lambda d: good(d) + b"\0\0", "fault"),
    "cut off after a prefix": Case(lambda d: good(d) + b"\0\0\0\0\x05", "fault"),
    "cut off in a message": Case(lambda d: good(d)[:-1], "fault"),
    "one byte beyond the cap": Case(
        lambda d: good(d) + b"\0" + (expect.MAX_MESSAGE + 1).to_bytes(4, "big"), "resource_exhausted"
    ),
    "4 GiB declared": Case(lambda _: b"\0\xff\xff\xff\xff" + b"x" * 1000, "resource_exhausted"),
    "unknown flags": Case(lambda d: d.pack(b"", flags=0x40), "fault"),
    "compressed without a word": Case(lambda d: d.pack(gzip.compress(good(d)), flags=1), "internal"),
    "no gzip": Case(lambda d: d.pack(b"this is not gzip", flags=1), "fault", "gzip"),
    "gzip cut off": Case(lambda d: d.pack(gzip.compress(ADA * 100)[:-9], flags=1), "fault", "gzip"),
    "more after the gzip": Case(lambda d: d.pack(gzip.compress(ADA) + b"more", flags=1), "fault", "gzip"),
    "a gzip bomb": Case(lambda d: d.pack(BOMB, flags=1), "resource_exhausted", "gzip"),
}

#: For all dialects, as the one message of a call.
MESSAGES = {
    "garbage": Case(lambda d: d.pack(b"\xff\xff\xff\xff"), "invalid_argument"),
    "a field cut off": Case(lambda d: d.pack(b"\n\x7fAda"), "invalid_argument"),
    "a string that is no UTF-8": Case(
        lambda d: d.pack(b'{"name":"\xff\xfe"}' if d.json else b"\n\x02\xff\xfe"), "invalid_argument"
    ),
    "a surrogate in UTF-8": Case(
        lambda d: d.pack(b'{"name":"\xed\xa0\x80"}' if d.json else b"\n\x03\xed\xa0\x80"), "invalid_argument"
    ),
    "an unknown compression": Case(good, "unimplemented", "br"),
}

#: For dialects with JSON.
JSON = {
    "JSON cut off": b'{"name":',
    "no JSON": b"name=Ada",
    "a list": b"[]",
    "a number for a string": b'{"name":7}',
    "nothing": b"",
    "deep JSON": b'{"x":' * 100_000,
    "a lone surrogate": b'{"name":"\\ud800"}',
}


def check(dialect: Dialect, target: Target, path: str, case: Case) -> None:
    headers = {dialect.encoding: case.encoding} if case.encoding else {}
    answer = dialect.send(target, path, case.body(dialect), headers)
    assert answer.code == (dialect.fault if case.code == "fault" else case.code)
    assert answer.message, "an error says what was wrong"
    assert answer.payloads == []


@pytest.mark.parametrize("case", ENVELOPES.values(), ids=ENVELOPES)
@wire.streaming
def test_envelopes(plain: Target, dialect: Dialect, case: Case) -> None:
    check(dialect, plain, expect.CLIENT_STREAM, case)


@pytest.mark.parametrize("case", ENVELOPES.values(), ids=ENVELOPES)
def test_envelopes_over_tls(tls: Target, case: Case) -> None:
    for dialect in (wire.GRPC, wire.CONNECT):
        check(dialect, tls, expect.CLIENT_STREAM, case)


@pytest.mark.parametrize("case", MESSAGES.values(), ids=MESSAGES)
@wire.one_message
def test_messages_of_unary_calls(plain: Target, dialect: Dialect, case: Case) -> None:
    check(dialect, plain, expect.UNARY, case)


@pytest.mark.parametrize("case", MESSAGES.values(), ids=MESSAGES)
@wire.streaming
def test_messages_of_streams(plain: Target, dialect: Dialect, case: Case) -> None:
    check(dialect, plain, expect.CLIENT_STREAM, case)


@pytest.mark.parametrize("text", JSON.values(), ids=JSON)
def test_json(plain: Target, text: bytes) -> None:
    case = Case(lambda dialect: dialect.pack(text), "invalid_argument")
    check(wire.UNARY_JSON, plain, expect.UNARY, case)
    check(wire.CONNECT_JSON, plain, expect.CLIENT_STREAM, case)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"this is not gzip", "invalid_argument"),
        (gzip.compress(ADA)[:-9], "invalid_argument"),
        (BOMB, "resource_exhausted"),
        (bytes(expect.MAX_MESSAGE + 1), "resource_exhausted"),
    ],
    ids=["no gzip", "gzip cut off", "a gzip bomb", "too large"],
)
def test_compression_of_connect_unary(plain: Target, body: bytes, code: str) -> None:
    headers = {"content-encoding": "gzip"} if len(body) <= expect.MAX_MESSAGE else {}
    assert wire.UNARY.send(plain, expect.UNARY, body, headers).code == code


UNKNOWN = ["/greet.v1.GreetService/Nothing", "/nobody.v1.Nobody/Vanish", "/greet.v1.GreetService/sayhello"]


@pytest.mark.parametrize("path", UNKNOWN)
@pytest.mark.parametrize("dialect", [wire.GRPC, wire.GRPC_WEB, wire.GRPC_WEB_TEXT], ids=str)
def test_unknown_method_of_grpc(plain: Target, dialect: Dialect, path: str) -> None:
    assert dialect.send(plain, path, good(dialect)).code == "unimplemented"


@pytest.mark.parametrize("path", UNKNOWN)
@pytest.mark.parametrize("dialect", [wire.CONNECT, wire.CONNECT_JSON, wire.UNARY, wire.UNARY_JSON], ids=str)
def test_unknown_method_of_connect(plain: Target, dialect: Dialect, path: str) -> None:
    """A path that is nobody's is 404 for HTTP, and Connect's code says the rest."""
    reply = wire.over_http1(plain, "POST", path, {"content-type": dialect.content_type}, good(dialect))
    assert (reply.status, reply.headers["content-type"]) == (404, "application/json")
    assert json.loads(reply.body)["code"] == "unimplemented"


@pytest.mark.parametrize(("count", "said"), [(0, "none"), (2, "second")])
@pytest.mark.parametrize("dialect", [wire.GRPC, wire.GRPC_WEB, wire.GRPC_WEB_TEXT], ids=str)
@pytest.mark.parametrize("path", [expect.UNARY, expect.SERVER_STREAM])
def test_not_exactly_one_message(plain: Target, dialect: Dialect, path: str, count: int, said: str) -> None:
    answer = dialect.send(plain, path, good(dialect) * count)
    assert answer.code == "unimplemented"
    assert said in answer.message


@pytest.mark.parametrize("codec", ["thrift", "json5", "prot", "proto+x"])
def test_unknown_codec(plain: Target, codec: str) -> None:
    grpc = wire.over_http2(
        plain, "POST", expect.UNARY, {"content-type": f"application/grpc+{codec}"}, good(wire.GRPC)
    )
    assert (grpc.status, (grpc.trailers or grpc.headers)["grpc-status"]) == (200, "12")
    for kind, path in [
        (f"application/grpc-web+{codec}", expect.UNARY),
        (f"application/grpc-web-text+{codec}", expect.UNARY),
        (f"application/{codec}", expect.UNARY),
        (f"application/connect+{codec}", expect.CLIENT_STREAM),
    ]:
        reply = wire.over_http1(plain, "POST", path, {"content-type": kind}, good(wire.GRPC))
        assert reply.status == 415
        assert "application/" in reply.headers["accept-post"]


@pytest.mark.parametrize("value", ["", "soon", "-1", "1.5", "123456789012", "1 S", "٣"])
@wire.streaming
def test_bad_timeout(plain: Target, dialect: Dialect, value: str) -> None:
    unit = "S" if dialect.timeout == "grpc-timeout" and value != "1 S" else ""
    headers = {dialect.timeout: value.encode().decode("latin-1") + unit}
    assert dialect.send(plain, expect.CLIENT_STREAM, good(dialect), headers).code == "invalid_argument"


@wire.streaming
def test_the_server_keeps_the_deadline(target: Target, dialect: Dialect) -> None:
    """The client does not: it leaves the request open and waits."""
    value = "200m" if dialect.timeout == "grpc-timeout" else "200"
    headers = {dialect.timeout: value}
    body = good(dialect) if dialect is not wire.GRPC_WEB_TEXT else good(dialect) * 3
    for path in (expect.CLIENT_STREAM, expect.BIDI):
        answer = dialect.send(target, path, body, headers, finish=False)
        assert answer.code == "deadline_exceeded"


@wire.streaming
def test_an_error_does_not_wait_for_the_rest(plain: Target, dialect: Dialect) -> None:
    """The request has no end; its first message is already wrong."""
    bad = b"\0\xff\xff\xff\xff" + bytes(1000)
    assert dialect.send(plain, expect.CLIENT_STREAM, bad, finish=False).code == "resource_exhausted"


@pytest.mark.parametrize(
    ("method", "path", "content_type", "body", "status"),
    [
        ("POST", "/greet.v1.GreetService/Nothing", "application/json", b"{}", 404),
        ("GET", "/nothing/here", "", b"", 404),
        ("GET", expect.CLIENT_STREAM, "", b"", 405),
        ("PUT", expect.UNARY, "application/json", b"{}", 405),
        ("POST", expect.UNARY, "text/plain", b"Ada", 415),
        ("POST", expect.CLIENT_STREAM, "application/json", b"{}", 415),
        ("POST", expect.UNARY, "application/json", b"{", 400),
        ("POST", expect.UNARY, "application/proto", bytes(expect.MAX_MESSAGE + 1), 429),
    ],
)
def test_http_status_over_http2(
    target: Target, method: str, path: str, content_type: str, body: bytes, status: int
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    assert wire.over_http2(target, method, path, headers, body).status == status
