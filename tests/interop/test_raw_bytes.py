"""Bytes no client library would send, or not in this way, straight into the ports."""

from __future__ import annotations

import contextlib

import pytest

from tests.interop import expect, wire
from tests.interop.target import Target

GET = f"{expect.UNARY}?encoding=json&message=%7B%22name%22%3A%22{{name}}%22%7D"


#: How a client begins that takes the plain port for the TLS port.
TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(505)


def say(target: Target, data: bytes) -> bytes:
    """Send bytes in one go; return all that comes until the server closes."""
    heard = b""
    with wire.connected(target, "http/1.1") as sock:
        sock.sendall(data)
        with contextlib.suppress(ConnectionResetError):
            while piece := sock.recv(65536):
                heard += piece
    return heard


def get(name: str, *headers: str, version: str = "1.1") -> bytes:
    lines = [f"GET {GET.format(name=name)} HTTP/{version}", "host: x", *headers, "", ""]
    return "\r\n".join(lines).encode()


def test_pipelined_requests_are_answered_in_order(target: Target) -> None:
    names = [f"number{n}" for n in range(50)]
    requests = [get(name) for name in names[:-1]] + [get(names[-1], "connection: close")]
    heard = say(target, b"".join(requests)).decode()
    assert heard.count("HTTP/1.1 200 OK") == len(names)
    places = [heard.index(f'"{expect.greeting(name)}"') for name in names]
    assert places == sorted(places)


def test_http_1_0(target: Target) -> None:
    heard = say(target, get("Ada", version="1.0")).decode()
    assert heard.startswith("HTTP/1.1 200 OK\r\n")
    assert heard.endswith('"Hello, Ada!"}')
    assert "chunked" not in heard


def test_a_request_byte_by_byte(target: Target) -> None:
    request = get("Ada", "connection: close")
    with wire.connected(target, "http/1.1") as sock:
        for byte in request:
            sock.sendall(bytes([byte]))
        heard = b""
        while piece := sock.recv(65536):
            heard += piece
    assert heard.endswith(b'"Hello, Ada!"}')


def test_an_answer_that_comes_before_the_body(target: Target) -> None:
    """Clients that write first and read then must get it, and be told if the connection ends with it."""
    size = expect.MAX_MESSAGE + 1
    head = [f"POST {expect.UNARY} HTTP/1.1", "host: x", "content-type: application/proto"]
    head += [f"content-length: {size}", "", ""]
    with wire.connected(target, "http/1.1") as sock:
        sock.sendall("\r\n".join(head).encode() + bytes(65_536))
        answer = b""
        while not answer.endswith(b"}"):
            answer += sock.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 429 ")
        sock.sendall(bytes(size - 65_536))
        if b"\r\nconnection: close\r\n" not in answer.lower():
            sock.sendall(get("Ada", "connection: close"))
            assert sock.recv(65_536).startswith(b"HTTP/1.1 200 ")
        while sock.recv(65_536):
            pass


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n", {400}),
        (b"GET / HTTP/9.9\r\nhost: x\r\n\r\n", {400, 505}),
        (b"GET /%s HTTP/1.1\r\nhost: x\r\n\r\n" % (b"x" * 100_000), {400, 414, 431}),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: %s\r\n\r\n" % (b"x" * 100_000), {400, 431}),
        (
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            {400},
        ),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!", {400}),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n", {400}),
        (b"hello, is this SSH?\r\n\r\n", {400}),
    ],
    ids=[
        "no colon",
        "version",
        "long target",
        "long header",
        "smuggling",
        "two lengths",
        "negative",
        "SSH",
    ],
)
def test_what_is_no_request(plain: Target, data: bytes, status: set[int]) -> None:
    heard = say(plain, data)
    assert int(heard.split(b" ", 2)[1]) in status
    assert b"\r\nconnection: close\r\n" in heard.lower()


@pytest.mark.parametrize(
    "data", [b"", TLS_HELLO, b"\n", b"\r\n", b"\0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 200]
)
def test_probes_do_no_harm(target: Target, data: bytes) -> None:
    """What load balancers, port scanners and the confused send: the daemon is there afterwards."""
    with wire.connected(target, "http/1.1") as sock:
        sock.sendall(data)
    assert wire.UNARY.send(target, expect.UNARY, b"").code == "ok"


def test_plain_http_on_the_tls_port(tls: Target) -> None:
    plain = Target(tls.address, None)
    heard = say(plain, get("Ada"))
    assert b"Hello" not in heard
    assert wire.UNARY.send(tls, expect.UNARY, b"").code == "ok"
