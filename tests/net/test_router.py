"""Which handler answers a path."""

from __future__ import annotations

import pytest

from fawa.net.exchange import Exchange
from fawa.net.http1 import H1Connection
from fawa.net.router import TOP_LEVEL, Handle, Route, Router
from tests.net.talk import h11_answers, line, request


def named(name: str) -> Handle:
    async def handle(exchange: Exchange) -> None:
        exchange.respond(200, [(b"shown", exchange.shown_path.encode())], name.encode())

    return handle


async def nothing(exchange: Exchange) -> None:
    exchange.respond_text(404, f"nothing at {exchange.path}")


@pytest.fixture
def router() -> Router:
    router = Router(not_found=nothing)
    router.add(
        {
            "/": Route(("GET",), named("root")),
            "/health": Route(("GET", "HEAD"), named("health")),
            "/greet.v1.GreetService/SayHello": Route(("GET", "POST"), named("hello")),
            "/d/": Route(("GET", "HEAD"), named("download")),
            "/d/info": Route(("GET",), named("info")),
        }
    )
    return router


async def ask(router: Router, method: str, path: str) -> tuple[int, str, dict[bytes, bytes]]:
    async def serve(exchange: Exchange) -> None:
        await router.handler(exchange)(exchange)

    async with line(H1Connection, serve) as talk:
        [answer] = h11_answers(await talk.say(request(path, method)), [method])
        return answer.status, answer.body.decode(), dict(answer.headers)


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/", "root"),
        ("/?a=b", "root"),
        ("/health", "health"),
        ("/health?verbose", "health"),
        ("/greet.v1.GreetService/SayHello", "hello"),
        ("/d/key", "download"),
        ("/d/key/name.txt", "download"),
        ("/d/", "download"),
        ("/d/info", "info"),
        ("/d/info/more", "download"),
    ],
)
async def test_paths(router: Router, path: str, answer: str) -> None:
    assert (await ask(router, "GET", path))[:2] == (200, answer)


@pytest.mark.parametrize(
    "path",
    [
        *("/healthy", "/health/", "/Health", "//health", "/d", "/D/key", "//d/key", "/x/d/key", "/%64/key"),
        *("/greet.v1.GreetService/", "/greet.v1.GreetService/sayhello", "*", "http://h/health"),
    ],
)
async def test_paths_that_nothing_is_served_at(router: Router, path: str) -> None:
    assert (await ask(router, "GET", path))[:2] == (404, f"nothing at {path}\n")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/health", b"GET, HEAD"),
        ("DELETE", "/greet.v1.GreetService/SayHello", b"GET, POST"),
        ("PUT", "/d/key", b"GET, HEAD"),
        ("get", "/health", b"GET, HEAD"),  # methods are case-sensitive (RFC 9110 section 9.1)
    ],
)
async def test_methods_that_a_route_does_not_take(
    router: Router, method: str, path: str, allow: bytes
) -> None:
    status, text, headers = await ask(router, method, path)
    assert (status, headers[b"allow"]) == (405, allow)
    assert text == f"{path} takes {allow.decode()}, not {method}\n"


async def test_what_logs_show_of_a_path_below_a_prefix(router: Router) -> None:
    assert (await ask(router, "GET", "/d/secret"))[2][b"shown"] == "/d/…".encode()
    assert (await ask(router, "GET", "/d/info"))[2][b"shown"] == b"/d/info"


async def test_the_top_level(router: Router) -> None:
    assert not router.serves("/…")
    router.add({TOP_LEVEL: Route(("PUT",), named("put"))})
    assert router.serves("/…")
    status, text, headers = await ask(router, "PUT", "/report.pdf")
    assert (status, text, headers[b"shown"]) == (200, "put", "/…".encode())
    # Only what nothing else is served at, and only one segment.
    assert (await ask(router, "PUT", "/health"))[0] == 405
    assert (await ask(router, "PUT", "/d/report.pdf"))[0] == 405
    for method, path in [
        ("PUT", "/x/y"),
        ("PUT", "/x/"),
        ("PUT", "//x"),
        ("PUT", "*"),
        ("GET", "/report.pdf"),
    ]:
        assert (await ask(router, method, path))[0] == 404, path
    assert (await ask(router, "GET", "/health"))[1] == "health"


async def test_routes_are_replaced(router: Router) -> None:
    router.add({"/health": Route(("GET",), named("other")), "/d/": Route(("POST",), named("upload"))})
    assert (await ask(router, "GET", "/health"))[:2] == (200, "other")
    assert (await ask(router, "POST", "/d/x"))[:2] == (200, "upload")
