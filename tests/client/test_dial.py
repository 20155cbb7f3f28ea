"""Addresses, TLS, and what is said when there is no connection."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from fawa.client import CannotReach, connect
from fawa.client.dial import Dialer, Origin, Trust, parse_link, parse_server
from fawa.client.dial_quic import H3Dialer, quic_trust
from fawa.net.quic_client import QuicTrust
from fawa.net.tls import development_certificate
from fawa.proto.greet.v1.greet_pb2 import SayHelloRequest
from tests.client.greet import SAY_HELLO, Greeter
from tests.client.server import serving


@pytest.mark.parametrize(
    ("url", "origin", "authority"),
    [
        ("http://localhost", Origin("http", "localhost", 80), "localhost"),
        ("http://localhost:80/", Origin("http", "localhost", 80), "localhost"),
        ("HTTPS://Example.org:8443", Origin("https", "Example.org", 8443), "Example.org:8443"),
        ("https://[::1]", Origin("https", "::1", 443), "[::1]"),
        ("http://[2001:db8::1]:8080/", Origin("http", "2001:db8::1", 8080), "[2001:db8::1]:8080"),
    ],
)
def test_servers(url: str, origin: Origin, authority: str) -> None:
    assert parse_server(url) == origin
    assert origin.authority == authority


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "must begin with http"),
        ("localhost:8080", "must begin with http"),
        ("ftp://localhost", "must begin with http"),
        ("http://", "names no host"),
        ("http://:8080", "names no host"),
        ("http://user:secret@host", "names no host"),
        ("http://a b", "names no host"),
        ("http://host/\r\nx: y", "must end after host"),
        ("http://host:99999", "[Pp]ort"),
        ("http://host/api", "must end after host"),
        ("http://host?x=1", "must end after host"),
    ],
)
def test_what_is_no_server(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_server(url)


def test_links() -> None:
    assert parse_link("https://h:1/a/%C3%A4?x=1&y=2#z") == (Origin("https", "h", 1), "/a/%C3%A4?x=1&y=2")
    assert parse_link("http://h") == (Origin("http", "h", 80), "/")
    for url in ("http://h/ä", "http://h/a b", "http://h/\x00"):
        with pytest.raises(ValueError, match="characters that no URL may have"):
            parse_link(url)


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    return development_certificate(folder, time.time(), "").path


@pytest.fixture(scope="module")
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_name("dev-key.pem"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@pytest.mark.parametrize(("dialect", "http"), [("grpc", "2"), ("connect", "2"), ("connect", "1.1")])
@pytest.mark.parametrize("trusting", ["ca", "insecure"])
async def test_tls(certificate: Path, tls: ssl.SSLContext, dialect: Any, http: Any, trusting: str) -> None:
    trust: Any = {"ca": certificate} if trusting == "ca" else {"insecure": True}
    async with (
        serving(Greeter(), tls=tls) as server,
        connect(server.url, dialect=dialect, http=http, **trust) as channel,
    ):
        reply = await channel.unary(SAY_HELLO, SayHelloRequest(name="x" * 1_000_000))
        assert len(reply.message.resp) == 1_000_008


async def test_a_certificate_that_is_not_trusted(tls: ssl.SSLContext) -> None:
    async with serving(Greeter(), tls=tls) as server, connect(server.url) as channel:
        with pytest.raises(CannotReach, match=r"certificate is not trusted \(self-signed certificate\)"):
            await channel.unary(SAY_HELLO, SayHelloRequest())


async def test_a_certificate_of_another_name(certificate: Path, tls: ssl.SSLContext) -> None:
    async with serving(Greeter(), tls=tls) as server:
        port = server.endpoint.address.rpartition(":")[2]
        async with connect(f"https://127.0.0.2:{port}", ca=certificate) as channel:
            with pytest.raises(CannotReach, match=r"127\.0\.0\.2"):
                await channel.unary(SAY_HELLO, SayHelloRequest())


async def test_a_server_that_does_not_speak_http_2_over_tls(certificate: Path) -> None:
    old = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    old.load_cert_chain(certificate, certificate.with_name("dev-key.pem"))
    async with serving(Greeter(), tls=old) as server:
        async with connect(server.url, ca=certificate) as channel:
            with pytest.raises(CannotReach, match="does not speak h2 over TLS"):
                await channel.unary(SAY_HELLO, SayHelloRequest())
        async with connect(server.url, ca=certificate, dialect="connect", http="1.1") as channel:
            assert (await channel.unary(SAY_HELLO, SayHelloRequest(name="Ada"))).message.resp == "Hello, Ada!"


async def test_tls_to_a_plain_port() -> None:
    async def plain(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with listening(plain) as port:
        dialer = Dialer(parse_server(f"https://127.0.0.1:{port}"), Trust().context("h2"), "h2")
        with pytest.raises(CannotReach, match="does not speak TLS; use http://"):
            await dialer()


async def test_files_of_certificates_are_checked(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    for ca, complaint in ((bad, "no PEM certificate in it"), (tmp_path / "none.pem", "No such file")):
        with pytest.raises(ValueError, match=complaint):
            async with connect("https://127.0.0.1:1", ca=ca):
                pass  # never reached


# No connection


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:1", "connection refused; is fawad running"),
        ("http://[::1]:1", "connection refused; is fawad running|cannot assign requested address|network"),
        ("http://no-such-host.invalid", "there is no host of that name"),
    ],
)
async def test_reasons(url: str, reason: str) -> None:
    with pytest.raises(CannotReach, match=reason):
        await Dialer(parse_server(url), None, "h2")()


@asynccontextmanager
async def listening(handler: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[int]:
    """Treat connections to a port of 127.0.0.1 as `handler` does."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handler, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_a_server_that_does_not_answer_the_handshake() -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with listening(silent) as port:
        origin = parse_server(f"https://127.0.0.1:{port}")
        dialer = Dialer(origin, Trust().context("h2"), "h2", timeout=0.2)
        with pytest.raises(CannotReach, match=r"no answer in 0\.2 s"):
            await dialer()


async def test_a_server_that_hangs_up_in_the_handshake() -> None:
    async def rude(stream: trio.SocketStream) -> None:
        await stream.aclose()

    async with listening(rude) as port:
        dialer = Dialer(parse_server(f"https://127.0.0.1:{port}"), Trust().context("h2"), "h2")
        with pytest.raises(CannotReach, match=r"closed the connection|reset by peer|eof"):
            await dialer()


# HTTP/3


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://127.0.0.1:1", "connection refused; is fawad running, with quic.enabled"),
        ("https://localhost:1", "connection refused|cannot assign requested address|network"),
        ("https://no-such-host.invalid", "there is no host of that name"),
    ],
)
async def test_reasons_over_udp(url: str, reason: str) -> None:
    with pytest.raises(CannotReach, match=reason):
        await H3Dialer(parse_server(url), QuicTrust(None, None, verify=False))()


async def test_a_server_that_does_not_answer_over_udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        origin = parse_server(f"https://127.0.0.1:{silent.getsockname()[1]}")
        dialer = H3Dialer(origin, QuicTrust(None, None, verify=False), timeout=0.2)
        with pytest.raises(CannotReach, match=r"no answer over UDP in 0\.2 s; a firewall may block it"):
            await dialer()


def test_roots_for_quic(certificate: Path, tmp_path: Path) -> None:
    assert quic_trust(Trust(certificate)) == QuicTrust(str(certificate), None)
    assert quic_trust(Trust(insecure=True)).verify is False
    system = quic_trust(Trust())
    assert system.verify
    assert system.cafile or system.capath
    with pytest.raises(ValueError, match="No such file"):
        quic_trust(Trust(tmp_path / "none.pem"))
