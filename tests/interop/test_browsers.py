"""What browsers ask and need before a page of another origin may call (Fetch standard, CORS protocol)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.daemon import running
from tests.interop import expect, wire
from tests.interop.target import Target
from tests.interop.test_links import fetch, link_to, send
from tests.interop.wire import Reply

PAGE = "http://localhost:5173"

#: What each client sets, as a browser lists it in a preflight: in lower case, sorted.
ASKED = {
    "connect": "connect-protocol-version,connect-timeout-ms,content-type,x-user-agent",
    "grpc-web": "content-type,grpc-timeout,x-grpc-web,x-user-agent",
    "metadata": "authorization,content-type,fawa-board,x-trace-bin",
}


def preflight(target: Target, path: str, origin: str, method: str, asked: str = "") -> Reply:
    headers = {"origin": origin, "access-control-request-method": method}
    if asked:
        headers["access-control-request-headers"] = asked
    return wire.over_http1(target, "OPTIONS", path, headers)


def listed(reply: Reply, header: str) -> set[str]:
    return {entry.strip().lower() for entry in reply.headers.get(header, "").split(",")}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("path", [expect.UNARY, expect.SERVER_STREAM, expect.SEND_FILE])
def test_preflight(target: Target, path: str, asked: str) -> None:
    reply = preflight(target, path, PAGE, "POST", asked)
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers["access-control-allow-origin"] in {PAGE, "*"}
    assert "post" in listed(reply, "access-control-allow-methods")
    assert listed(reply, "access-control-allow-headers") >= set(asked.split(","))
    assert int(reply.headers["access-control-max-age"]) > 0


def test_preflight_of_a_get_and_of_a_link(plain: Target) -> None:
    link = link_to(plain, send(plain))
    for path in (f"{expect.UNARY}?encoding=json&message=%7B%7D", link):
        reply = preflight(plain, path, PAGE, "GET", "range")
        assert reply.status == 204
        assert "get" in listed(reply, "access-control-allow-methods")


@pytest.mark.parametrize("dialect", [wire.UNARY, wire.UNARY_JSON, wire.GRPC_WEB, wire.GRPC_WEB_TEXT], ids=str)
def test_what_a_page_may_read(target: Target, dialect: wire.Dialect) -> None:
    empty = dialect.pack(b"{}" if dialect.json else b"")
    answer = dialect.send(target, expect.UNARY, empty, {"origin": PAGE})
    assert answer.code == "ok"
    assert answer.reply.headers["access-control-allow-origin"] in {PAGE, "*"}
    shown = listed(answer.reply, "access-control-expose-headers")
    assert shown >= {"grpc-status", "grpc-message", "grpc-status-details-bin", "greet-version"}


def test_errors_can_be_read_too(plain: Target) -> None:
    """Without the header a page sees only that something failed, not what."""
    unknown = wire.over_http1(
        plain, "POST", "/nobody.v1.Nobody/Vanish", {"origin": PAGE, "content-type": "application/json"}, b"{}"
    )
    wrong = wire.over_http1(
        plain, "POST", expect.UNARY, {"origin": PAGE, "content-type": "text/plain"}, b"Ada"
    )
    bad = wire.over_http1(
        plain, "POST", expect.UNARY, {"origin": PAGE, "content-type": "application/json"}, b"{"
    )
    assert [reply.status for reply in (unknown, wrong, bad)] == [404, 415, 400]
    for reply in (unknown, wrong, bad):
        assert reply.headers["access-control-allow-origin"] in {PAGE, "*"}


def test_a_page_reads_a_link(plain: Target) -> None:
    reply = fetch(plain, link_to(plain, send(plain)), origin=PAGE, range="bytes=0-9")
    assert reply.status == 206
    assert reply.headers["access-control-allow-origin"] in {PAGE, "*"}
    shown = listed(reply, "access-control-expose-headers")
    assert shown >= {"content-disposition", "content-range", "etag", "accept-ranges"}


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost.evil.example", "null"])
def test_a_page_from_elsewhere(plain: Target, origin: str) -> None:
    """It is not told that it may, so the browser neither sends what needs leave nor shows an answer."""
    assert "access-control-allow-origin" not in preflight(plain, expect.UNARY, origin, "POST").headers
    answer = wire.UNARY.send(plain, expect.UNARY, b"", {"origin": origin})
    assert "access-control-allow-origin" not in answer.reply.headers
    assert "origin" in listed(answer.reply, "vary")


def test_origins_are_a_setting(tmp_path: Path) -> None:
    with running(tmp_path, "--cors-origins", "https://app.example,http://localhost:*") as daemon:
        plain = Target(daemon.plain, None)
        for origin, allowed in [
            ("https://app.example", True),
            ("http://localhost:1234", True),
            ("https://localhost:1234", False),
            ("https://app.example:444", False),
            ("http://app.example", False),
        ]:
            reply = preflight(plain, expect.UNARY, origin, "POST")
            assert (reply.headers.get("access-control-allow-origin") == origin) == allowed, origin
