"""Which pages may call from a browser, and what they are told (Fetch standard, CORS protocol)."""

from __future__ import annotations

import attrs
import pytest

from fawa.net.cors import Cors
from fawa.net.exchange import Exchange
from fawa.net.http1 import H1Connection
from fawa.net.http2 import H2Connection
from fawa.net.router import Router
from fawa.net.tcp import Root
from tests.net.talk import H2Client, h11_answers, head, line, request

GOOD = "https://app.example"
VERSIONS: list[type[H1Connection | H2Connection]] = [H1Connection, H2Connection]
Fields = dict[bytes, bytes]


@attrs.define
class Served:
    """The handler, and what reached it."""

    methods: list[str] = attrs.field(factory=list)

    async def __call__(self, exchange: Exchange) -> None:
        self.methods.append(exchange.method)
        exchange.respond(200, [(b"etag", b'"x"')])


async def ask(
    version: type[H1Connection | H2Connection], method: str, fields: dict[str, str], allowed: str = GOOD
) -> tuple[int, Fields, list[str]]:
    """Return status and headers of the answer, and which methods the handler saw."""
    served = Served()
    app = Root(Router(not_found=served), Cors(allows=lambda origin: allowed in ("*", origin)), None)
    async with line(version, served, app=app) as talk:
        if version is H1Connection:
            lines = [f"{name}: {value}" for name, value in fields.items()]
            [answer] = h11_answers(await talk.say(request("/", method, *lines)), [method])
            return answer.status, dict(answer.headers), served.methods
        client = H2Client()
        more = [(name.encode(), value.encode()) for name, value in fields.items()]
        stream = client.open(head("/", method, *more), end=True)
        await client.turn(talk)
        return client[stream].status, dict(client[stream].headers), served.methods


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("method", "fields", "status", "reached", "expected", "absent"),
    [
        pytest.param("GET", {}, 200, True, {}, ["vary", "access-control-"], id="no browser"),
        pytest.param(
            "POST",
            {"origin": GOOD},
            200,
            True,
            {"access-control-allow-origin": GOOD, "vary": "origin"},
            ["access-control-allow-methods", "access-control-allow-credentials"],
            id="a page that may",
        ),
        pytest.param(
            "POST",
            {"origin": "https://evil.example"},
            200,
            True,
            {"vary": "origin"},
            ["access-control-allow-origin"],
            id="a page that may not: its browser keeps the answer from it",
        ),
        pytest.param(
            "OPTIONS",
            {"origin": GOOD, "access-control-request-method": "POST"},
            204,
            False,
            {
                "access-control-allow-origin": GOOD,
                "access-control-allow-methods": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
                "access-control-max-age": "7200",
                "vary": "origin",
            },
            ["access-control-allow-headers"],
            id="preflight",
        ),
        pytest.param(
            "OPTIONS",
            {
                "origin": GOOD,
                "access-control-request-method": "POST",
                "access-control-request-headers": "content-type,\tconnect-timeout-ms",
            },
            204,
            False,
            {"access-control-allow-headers": "content-type, connect-timeout-ms"},
            [],
            id="preflight for headers",
        ),
        pytest.param(
            "OPTIONS",
            {"origin": "https://evil.example", "access-control-request-method": "POST"},
            204,
            False,
            {},
            ["access-control-allow-origin"],
            id="preflight of a page that may not",
        ),
        pytest.param(
            "OPTIONS",
            {"origin": GOOD},
            200,
            True,
            {"access-control-allow-origin": GOOD},
            [],
            id="OPTIONS that is no preflight",
        ),
        pytest.param(
            "OPTIONS",
            {"access-control-request-method": "POST"},
            200,
            True,
            {},
            ["access-control-"],
            id="preflight without origin",
        ),
        pytest.param(
            "GET", {"origin": "null"}, 200, True, {}, ["access-control-allow-origin"], id="a page from a file"
        ),
    ],
)
async def test_what_a_page_is_told(
    version: type[H1Connection | H2Connection],
    method: str,
    fields: dict[str, str],
    status: int,
    reached: bool,
    expected: dict[str, str],
    absent: list[str],
) -> None:
    got, headers, methods = await ask(version, method, fields)
    assert (got, methods) == (status, [method] if reached else [])
    told = {name.decode(): value.decode() for name, value in headers.items()}
    assert {name: told[name] for name in expected} == expected
    assert [name for name in told for start in absent if name.startswith(start)] == []


@pytest.mark.parametrize("version", VERSIONS)
async def test_pages_see_the_fields_that_rpc_clients_need(version: type[H1Connection | H2Connection]) -> None:
    _, headers, _ = await ask(version, "POST", {"origin": GOOD})
    exposed = headers[b"access-control-expose-headers"].decode().split(", ")
    assert {"grpc-status", "grpc-message", "grpc-status-details-bin", "greet-version", "etag"} <= set(exposed)
    assert {
        "location",
        "upload-offset",
        "tus-resumable",
        "upload-complete",
        "fawa-link",
        "fawa-token",
    } <= set(exposed)


@pytest.mark.parametrize("version", VERSIONS)
async def test_no_origin_breaks_an_answer(version: type[H1Connection | H2Connection]) -> None:
    """What comes in a request may be more than what can go out in an answer."""
    status, headers, _ = await ask(version, "GET", {"origin": "https://a\tb"}, allowed="*")
    assert (status, headers[b"access-control-allow-origin"]) == (200, b"https://a b")
