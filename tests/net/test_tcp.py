"""The front door over real sockets of the loopback interface."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import ssl
import time
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from fawa.net import tcp
from fawa.net.connection import Limits
from fawa.net.cors import Cors
from fawa.net.engine import PREFACE
from fawa.net.exchange import Disconnected, Exchange
from fawa.net.router import Router
from fawa.net.tcp import Root, bind
from fawa.net.tls import development_certificate, server_context
from tests.net.door import answer, opened, read_all, read_answer, speak_http2
from tests.net.talk import DATA, SETTINGS, H2Client, frame, frames, h11_answers, head, request


@pytest.fixture
def clock() -> MockClock:
    """A clock that jumps only when the sockets, too, have had time to say something."""
    return MockClock(autojump_threshold=0.05)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate that is good for localhost."""
    folder = tmp_path_factory.mktemp("tls")
    development_certificate(folder, time.time(), "localhost")
    return folder


@pytest.fixture(scope="module")
def tls(certificate: Path) -> ssl.SSLContext:
    return server_context(certificate / "dev-cert.pem", certificate / "dev-key.pem")


def client_context(certificate: Path, *alpn: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificate / "dev-cert.pem")
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


# Who gets in


async def test_connections_over_the_cap_are_turned_away(caplog: pytest.LogCaptureFixture) -> None:
    async with opened(max_connections=2) as there:
        assert await there.get("/before") == b"/before"
        first, second = await there.connect(), await there.connect()
        for stream in (first, second):
            await stream.send_all(request("/in"))
            await read_answer(stream, b"/in")
        for number in range(1, 4):
            assert await read_all(await there.connect()) == b""
            assert (there.door.refused, there.door.connections) == (number, 2)
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert warnings == ["2 connections are open (limits.max_connections); 1 turned away so far"]
        # Those inside notice nothing, and when one leaves there is room again.
        await first.send_all(request("/still"))
        await read_answer(first, b"/still")
        await second.aclose()
        while there.door.connections > 1:
            await trio.lowlevel.checkpoint()
        assert await there.get("/after") == b"/after"
        await first.aclose()


async def test_both_versions_on_the_plain_port() -> None:
    async with opened() as there:
        assert await there.get("/one") == b"/one"
        async with await there.connect() as stream:
            await speak_http2(stream)


@pytest.mark.parametrize("size", [1, 5, 23])
async def test_the_preface_may_come_in_pieces(size: int) -> None:
    async with opened() as there, await there.connect() as stream:
        hello = PREFACE + frame(SETTINGS, 0, 0)
        for start in range(0, len(hello), size):
            await stream.send_all(hello[start : start + size])
            await trio.sleep(0.001)
        await stream.send_all(frame(1, 5, 1, b"\x82\x86\x84\x41\x01h"))
        data = b""
        while not any(kind == DATA for kind, _, _, _ in frames(data, whole=False)):
            data += await stream.receive_some(65536)


async def test_what_only_begins_like_the_preface() -> None:
    """`P` may be the beginning of POST, PUT, PATCH or PROPFIND, and `PRI` of anybody's own method."""
    async with opened() as there:
        for method in ("POST", "PUT", "PRI", "PRINT"):
            async with await there.connect() as stream:
                for byte in request("/p", method, "connection: close"):
                    await stream.send_all(bytes([byte]))
                    await trio.lowlevel.checkpoint()
                [response] = h11_answers(await read_all(stream), [method], ended=True)
                assert response.body == b"/p"
        for part in (b"", b"P", PREFACE[:20]):
            async with await there.connect() as stream:
                await stream.send_all(part)
                await stream.send_eof()
                assert await read_all(stream) == b""


# TLS


@pytest.mark.parametrize(
    ("alpn", "version"), [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1"), ([], None)]
)
async def test_tls_chooses_the_version_by_alpn(
    certificate: Path, tls: ssl.SSLContext, alpn: list[str], version: str | None
) -> None:
    async with opened(tls=tls) as there:
        secure = trio.SSLStream(
            await there.connect(1), client_context(certificate, *alpn), server_hostname="localhost"
        )
        await secure.do_handshake()
        assert secure.selected_alpn_protocol() == version
        if version == "h2":
            await speak_http2(secure)
            await secure.aclose()
        else:
            await secure.send_all(request("/one", "GET", "connection: close"))
            data = b""
            while piece := await secure.receive_some(65536):  # ends with close_notify: nothing was cut off
                data += piece
            [response] = h11_answers(data, ["GET"], ended=True)
            assert (response.body, response.header(b"scheme")) == (b"/one", b"https")
            await secure.aclose()


async def test_tls_without_alpn_knows_http_2_by_its_preface(certificate: Path, tls: ssl.SSLContext) -> None:
    async with opened(tls=tls) as there:
        secure = trio.SSLStream(
            await there.connect(1), client_context(certificate), server_hostname="localhost"
        )
        await speak_http2(secure)
        await secure.aclose()


async def test_large_answers_over_tls(certificate: Path, tls: ssl.SSLContext) -> None:
    async def large(exchange: Exchange) -> None:
        exchange.start(200, [(b"content-length", b"5000000")])
        for _ in range(50):
            await exchange.send(bytes(100_000))
        exchange.finish()

    async with opened(large, tls=tls) as there:
        secure = trio.SSLStream(
            await there.connect(1),
            client_context(certificate, "http/1.1"),
            server_hostname="localhost",
            https_compatible=True,
        )
        await secure.send_all(request("/", "GET", "connection: close"))
        [response] = h11_answers(await read_all(secure), ["GET"], ended=True)
        assert response.body == bytes(5_000_000)


async def test_a_tls_client_that_leaves_without_a_word(certificate: Path, tls: ssl.SSLContext) -> None:
    cancelled = trio.Event()

    async def wait(exchange: Exchange) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with opened(wait, tls=tls) as there:
        stream = await there.connect(1)
        secure = trio.SSLStream(stream, client_context(certificate, "h2"), server_hostname="localhost")
        client = H2Client()
        client.open(end=True)
        await secure.send_all(client.to_send())
        await secure.receive_some(100)
        await stream.aclose()
        await cancelled.wait()


async def test_plain_text_at_the_tls_port_and_tls_at_the_plain_port(
    clock: MockClock, certificate: Path, tls: ssl.SSLContext
) -> None:
    async with opened(tls=tls) as there:
        async with await there.connect(1) as stream:
            await stream.send_all(request("/"))
            assert b"HTTP/1.1" not in await read_all(stream)
        secure = trio.SSLStream(
            await there.connect(0), client_context(certificate), server_hostname="localhost"
        )
        with pytest.raises(trio.BrokenResourceError):
            await secure.do_handshake()
        assert await there.get("/fine") == b"/fine"


@pytest.mark.parametrize("endpoint", [0, 1])
@pytest.mark.parametrize("sent", [b"", b"P", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00"])
async def test_a_handshake_has_only_so_much_time(
    clock: MockClock, tls: ssl.SSLContext, endpoint: int, sent: bytes
) -> None:
    async with opened(handshake_timeout=10, limits=Limits(header_timeout=15), tls=tls) as there:
        async with await there.connect(endpoint) as stream:
            began = trio.current_time()
            if sent:
                await stream.send_all(sent)
            data = await read_all(stream)
            sniffed = endpoint == 0 and not PREFACE.startswith(sent)
            assert data.startswith(b"HTTP/1.1 408 ") if sniffed else data == b""
            assert trio.current_time() - began == pytest.approx(15 if sniffed else 10, abs=1)
        while there.door.connections:
            await trio.sleep(0.01)


async def test_a_tls_handshake_that_drips(clock: MockClock, certificate: Path, tls: ssl.SSLContext) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    handshake = client_context(certificate).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        handshake.do_handshake()
    async with opened(handshake_timeout=10, tls=tls) as there, await there.connect(1) as stream:
        seconds = 0
        with contextlib.suppress(trio.BrokenResourceError):
            for byte in outgoing.read():
                await stream.send_all(bytes([byte]))
                await trio.sleep(1)
                seconds += 1
        assert 9 <= seconds <= 13


# The end of the service


async def test_drain_lets_calls_finish(clock: MockClock) -> None:
    go = trio.Event()

    async def wait(exchange: Exchange) -> None:
        await go.wait()
        await answer(exchange)

    async with opened(wait) as there:
        busy, idle, silent, other = [await there.connect() for _ in range(4)]
        await busy.send_all(request("/busy"))
        client = H2Client()
        number = client.open(head("/busy2"), end=True)
        await other.send_all(client.to_send())
        await idle.send_all(b"G")  # not silent: a request has begun
        await trio.sleep(1)
        assert there.door.connections == 4
        there.door.drain(60)
        assert await read_all(idle) == await read_all(silent) == b""
        with pytest.raises(OSError, match="all attempts to connect"):
            await there.connect()
        for stream in (idle, silent):
            await stream.aclose()
        while there.door.connections > 2:
            await trio.lowlevel.checkpoint()
        go.set()
        [response] = h11_answers(await read_all(busy), ["GET"], ended=True)
        assert (response.body, response.header(b"connection")) == (b"/busy", b"close")
        client.receive(await read_all(other))
        assert bytes(client[number].body) == b"/busy2"
        assert client.goaways == [2**31 - 1, number]


async def test_drain_ends_what_does_not_finish(clock: MockClock) -> None:
    outcome: list[BaseException] = []

    async def endless(exchange: Exchange) -> None:
        try:
            await trio.sleep_forever()
        except BaseException as error:
            outcome.append(error)
            raise

    async with opened(endless) as there:
        streams = [await there.connect() for _ in range(3)]
        for stream in streams:
            await stream.send_all(request("/busy"))
        await trio.sleep(1)
        there.door.drain(20)
        began = trio.current_time()
        for stream in streams:
            assert await read_all(stream) == b""
        assert trio.current_time() - began == pytest.approx(20, abs=1)
        assert [type(error) for error in outcome] == [trio.Cancelled] * 3


async def test_drain_in_mid_handshake(clock: MockClock, tls: ssl.SSLContext) -> None:
    async with opened(tls=tls, handshake_timeout=1000) as there:
        streams = [await there.connect(endpoint) for endpoint in (0, 1)]
        await trio.sleep(1)
        began = trio.current_time()
        there.door.drain(500)
        for stream in streams:
            assert await read_all(stream) == b""
        assert trio.current_time() - began < 5


async def test_a_connection_that_comes_with_the_drain_is_not_served() -> None:
    async with opened() as there:
        streams = [await there.connect() for _ in range(20)]
        for stream in streams:
            await stream.send_all(request("/late"))
        there.door.drain(10)
        for stream in streams:
            if data := await read_all(stream):  # served whole, or not at all
                assert [r.body for r in h11_answers(data, ["GET"], ended=True)] == [b"/late"]


# Faults


async def test_a_fault_in_a_handler_is_500_and_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(exchange: Exchange) -> None:
        if exchange.path == "/bad":
            raise LookupError("a fault")
        await answer(exchange)

    async with opened(fail) as there, await there.connect() as stream:
        await stream.send_all(request("/bad"))
        data = await read_answer(stream, b"its log says why\n")
        assert data.startswith(b"HTTP/1.1 500 ")
        await stream.send_all(request("/good"))
        await read_answer(stream, b"/good")
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == "GET /bad failed"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], LookupError)


async def test_a_fault_in_the_front_door_ends_one_connection(caplog: pytest.LogCaptureFixture) -> None:
    """A fault that gets past everything must not get past the connection."""

    async def app(exchange: Exchange) -> None:
        if exchange.path == "/bad":
            raise LookupError("a fault of ours")
        await answer(exchange)

    async with opened(app=app) as there:
        assert await there.get("/good") == b"/good"
        async with await there.connect() as stream:
            await stream.send_all(request("/bad"))
            assert await read_all(stream) == b""
        assert await there.get("/good") == b"/good"
        while there.door.connections:
            await trio.lowlevel.checkpoint()
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR] == ["connection failed"]


async def test_a_connection_that_is_reset(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "fawa.net")
    async with opened() as there:
        for sent in (b"", b"PRI", request("/")):
            stream = await there.connect()
            await stream.send_all(sent)
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await stream.aclose()
        while there.door.connections:
            await trio.lowlevel.checkpoint()
        assert await there.get("/fine") == b"/fine"
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


async def test_answers_are_dated() -> None:
    seconds = iter([784111777.0, 784111777.9, 784111778.0])
    app = Root(Router(not_found=answer), Cors(allows=lambda origin: True), None, clock=lambda: next(seconds))
    async with opened(app=app) as there, await there.connect() as stream:
        await stream.send_all(request("/") * 2 + request("/", "POST", "connection: close"))
        answers = h11_answers(await read_all(stream), ["GET", "GET", "POST"])
    dates = [found.header(b"date") for found in answers]
    assert dates == [b"Sun, 06 Nov 1994 08:49:%d GMT" % second for second in (37, 37, 38)]


async def test_the_access_log_hears_of_every_exchange() -> None:
    heard: list[tuple[str, int, str, bool]] = []

    def note(exchange: Exchange, duration: float) -> None:
        heard.append((exchange.path, exchange.status, exchange.label, duration >= 0))

    async def some(exchange: Exchange) -> None:
        match exchange.path:
            case "/gone":
                raise Disconnected("nobody there")
            case "/fails":
                raise LookupError("a fault")
            case "/large":
                await exchange.read_all(1)
            case _:
                await answer(exchange)

    preflight = ["origin: https://a.example", "access-control-request-method: POST"]
    app = Root(Router(not_found=some), Cors(allows=lambda origin: True), note)
    async with opened(app=app) as there, await there.connect() as stream:
        await stream.send_all(
            request("/fine")
            + request("/pre", "OPTIONS", *preflight)
            + request("/fails")
            + request("/large", "POST", body=b"xx")
            + request("/gone")
        )
        await read_all(stream)
    assert heard == [
        ("/fine", 200, "", True),
        ("/pre", 204, "", True),
        ("/fails", 500, "", True),
        ("/large", 413, "", True),
        ("/gone", 0, "nobody there", True),
    ]


# Addresses


async def test_addresses() -> None:
    [endpoint] = await bind("127.0.0.1", 0)
    host, _, port = endpoint.address.rpartition(":")
    assert host == "127.0.0.1"
    with pytest.raises(
        OSError, match=rf"cannot listen on 127\.0\.0\.1:{port}: Address already in use"
    ) as caught:
        await bind("127.0.0.1", int(port))
    assert caught.value.errno == errno.EADDRINUSE
    await endpoint.listener.aclose()
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1:1: "):  # nobody's own (RFC 5737)
        await bind("192.0.2.1", 1)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (("127.0.0.1", 80), "127.0.0.1:80"),
        (("::1", 80, 0, 0), "[::1]:80"),
        ("/run/fawa.sock", "/run/fawa.sock"),
        ("", "unix"),
    ],
)
def test_how_addresses_are_written(name: tuple[object, ...] | str, text: str) -> None:
    assert tcp._address(name) == text


async def test_a_client_that_reads_nothing_is_given_up() -> None:
    """The kernel's buffers fill, and nothing more is taken for the write timeout."""
    outcome: list[str] = []

    async def endless(exchange: Exchange) -> None:
        exchange.start(200, [])
        try:
            for _ in range(10_000):
                await exchange.send(bytes(100_000))
        except (Disconnected, trio.Cancelled) as error:
            outcome.append(type(error).__name__)
            raise

    async with opened(endless, limits=Limits(write_timeout=0.2)) as there, await there.connect() as stream:
        await stream.send_all(request("/"))
        while there.door.connections or not outcome:
            await trio.sleep(0.01)
        assert len(outcome) == 1
