"""The opening handshake (RFC 6455 section 4.2, RFC 8441): what is accepted, and how the rest is refused."""

from __future__ import annotations

import pytest

from fawa.net.cors import Cors
from fawa.net.exchange import Exchange
from fawa.net.http1 import H1Connection
from fawa.net.http2 import H2Connection
from fawa.net.router import Route, Router
from fawa.net.tcp import Root
from fawa.net.websocket import METHODS, accept
from tests.net.sockets_talk import (
    ACCEPT,
    BOTH,
    KEY,
    OPENING,
    TEXT,
    Connect,
    ask,
    closing,
    masked,
    over_http1,
)
from tests.net.talk import DATE, Answer, H2Client, h11_answers, head, line, request, root, settle

ALLOWED = "https://app.example"


async def echo(exchange: Exchange) -> None:
    socket = accept(
        exchange, allows=lambda origin: origin == ALLOWED, subprotocols=("fawa.v2", "fawa.v1", "fawa.v0")
    )
    if socket is None:
        return
    while (message := await socket.receive()) is not None:
        await socket.send(message)


async def refused(*headers: str, method: str = "GET", version: str = "1.1") -> Answer:
    """Return the answer to a handshake that is not one."""
    async with line(H1Connection, echo) as talk:
        [answer] = h11_answers(
            await talk.say(request("/ws", method, *headers, version=version)), [method], ended=talk.ended()
        )
        return answer


def without(name: str, *more: str) -> list[str]:
    return [*(one for one in OPENING if not one.startswith(name)), *more]


async def test_the_answer_on_http_1() -> None:
    async with over_http1(echo) as client:
        assert client.status == 101
        assert client.headers == [
            (b"connection", b"Upgrade"),
            (b"upgrade", b"websocket"),
            (b"sec-websocket-accept", ACCEPT),
            DATE,
        ]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        without("connection"),
        without("upgrade"),
        without("connection", "connection: keep-alive"),
        without("upgrade", "upgrade: h2c"),
    ],
)
async def test_a_request_that_does_not_ask_is_told_how_to(headers: list[str]) -> None:
    answer = await refused(*headers)
    assert answer.status == 426
    assert answer.header(b"upgrade") == b"websocket"
    assert answer.header(b"connection") == b"upgrade"
    assert answer.header(b"sec-websocket-version") == b"13"
    assert answer.body == b"/ws is a WebSocket: connect with upgrade: websocket\n"


@pytest.mark.parametrize("version", ["12", "14", "", "0x0d", "13, 8"])
async def test_another_version_is_426_and_told_ours(version: str) -> None:
    answer = await refused(*without("sec-websocket-version", f"sec-websocket-version: {version}"))
    assert (answer.status, answer.header(b"sec-websocket-version")) == (426, b"13")
    assert repr(version).encode() in answer.body
    answer = await refused(*without("sec-websocket-version"))
    assert (answer.status, answer.header(b"sec-websocket-version")) == (426, b"13")


@pytest.mark.parametrize(
    "key", ["", KEY[:-4], KEY + KEY, KEY[:-1], "not base64, at all!!", KEY.replace("=", "")]
)
async def test_a_key_that_is_none_is_400(key: str) -> None:
    answer = await refused(*without("sec-websocket-key", f"sec-websocket-key: {key}"))
    assert answer.status == 400
    assert answer.body == b"sec-websocket-key has to be 16 bytes in base64\n"
    assert (await refused(*without("sec-websocket-key"))).status == 400


@pytest.mark.parametrize("connect", BOTH)
@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (ALLOWED, 0),
        # The host that it connects to, whatever the scheme a proxy has taken off.
        ("http://h", 0),
        ("https://h", 0),
        ("https://evil.example", 403),
        ("https://h.evil.example", 403),
        ("http://h:81", 403),
        ("null", 403),
        ("", 403),
    ],
)
async def test_pages_of_other_origins_may_not_connect(connect: Connect, origin: str, status: int) -> None:
    async with connect(echo, "/", f"origin: {origin}") as client:
        assert client.status == (status or (101 if connect is over_http1 else 200))
        # That is no cross-origin request as CORS knows it.
        assert not [name for name, _ in client.headers if name.startswith(b"access-control")]


@pytest.mark.parametrize("connect", BOTH)
@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ([], None),
        (["fawa.v1"], b"fawa.v1"),
        (["fawa.v0, fawa.v2 ,fawa.v1"], b"fawa.v2"),
        (["fawa.v0", "other,fawa.v1"], b"fawa.v1"),
        (["other"], None),
        (["FAWA.V2"], None),
        ([""], None),
    ],
)
async def test_a_subprotocol_is_chosen_by_our_preference_and_none_unasked(
    connect: Connect, asked: list[str], chosen: bytes | None
) -> None:
    async with connect(echo, "/", *(f"sec-websocket-protocol: {one}" for one in asked)) as client:
        assert dict(client.headers).get(b"sec-websocket-protocol") == chosen


@pytest.mark.parametrize("connect", BOTH)
async def test_no_extension_is_taken(connect: Connect) -> None:
    async with connect(echo, "/", "sec-websocket-extensions: permessage-deflate") as client:
        assert b"sec-websocket-extensions" not in dict(client.headers)
        assert await ask(client, masked(TEXT, b"plain")) == [(TEXT, b"plain")]


@pytest.mark.parametrize(
    ("headers", "status", "text"),
    [
        (head("/ws", "GET"), 400, b"extended CONNECT"),
        (head("/ws", "CONNECT", (b":protocol", b"connect-udp")), 400, b"extended CONNECT"),
        (head("/ws", "CONNECT", (b":protocol", b"websocket")), 400, b"only 13 is"),
        (
            head("/ws", "CONNECT", (b":protocol", b"websocket"), (b"sec-websocket-version", b"8")),
            400,
            b"'8' is not known",
        ),
    ],
)
async def test_refusals_on_http_2(headers: list[tuple[bytes, bytes]], status: int, text: bytes) -> None:
    async with line(H2Connection, echo) as talk:
        client = H2Client()
        number = client.open(headers)
        await client.turn(talk)
        assert client[number].status == status
        assert text in client[number].body


async def test_refusals_leave_the_connection_as_it_was() -> None:
    async with line(H1Connection, echo) as talk:
        assert h11_answers(await talk.say(request()), ["GET"])[0].status == 426
        assert (await talk.say(request("/", "GET", *OPENING))).startswith(b"HTTP/1.1 101 ")


# In the house


@pytest.mark.parametrize("connect", BOTH)
async def test_a_route_takes_both_ways_of_asking(connect: Connect) -> None:
    router = Router(not_found=_not_found)
    router.add({"/ws/echo": Route(METHODS, echo), "/page": Route(("GET",), _page)})

    async def serve(exchange: Exchange) -> None:
        await router.handler(exchange)(exchange)

    async with connect(serve, "/ws/echo?code=A") as client:
        assert await ask(client, masked(TEXT, b"hello")) == [(TEXT, b"hello")]
    async with connect(serve, "/ws/none") as client:
        assert client.status == 404
    async with connect(serve, "/page") as client:
        # HTTP/1.1 may ignore an upgrade (RFC 9110 section 7.8); HTTP/2 has asked for nothing else.
        assert client.status == (200 if connect is over_http1 else 405)


async def _not_found(exchange: Exchange) -> None:
    exchange.respond_text(404, f"nothing at {exchange.path}")


async def _page(exchange: Exchange) -> None:
    exchange.respond_text(200, "a page")


@pytest.mark.parametrize("connect", BOTH)
async def test_the_access_log_has_one_line_at_the_end(connect: Connect) -> None:
    lines = []

    def note(exchange: Exchange, seconds: float) -> None:
        lines.append((exchange.status, exchange.label, exchange.bytes_in, exchange.bytes_out, seconds >= 0))

    app = Root(Router(not_found=echo), Cors(allows=lambda origin: False), access=note)
    async with connect(app) as client:
        assert await ask(client, masked(TEXT, b"hello")) == [(TEXT, b"hello")]
        assert lines == []
        await client.send(closing(4000, "enough"))
        await settle()
        sent = len(masked(TEXT, b"hello") + closing(4000, "enough"))
        status = 101 if connect is over_http1 else 200
        assert lines == [(status, "websocket 4000", sent, 7 + 4, True)]


@pytest.mark.parametrize("connect", BOTH)
async def test_a_fault_in_the_application_breaks_it_off(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(exchange: Exchange) -> None:
        socket = accept(exchange, allows=lambda origin: False)
        assert socket is not None
        await socket.receive()
        raise RuntimeError("on purpose")

    async with connect(root(fail)) as client:
        await client.send(masked(TEXT, b"hello"))
        await client.raw()
        assert client.over()
    assert "on purpose" in caplog.text
