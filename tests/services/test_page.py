"""The page's routes, as conversations."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

import pytest

from fawa.services.page import MAX_QR_TEXT, Page, draw_qr, qr_svg
from tests.services.memory import MemoryExchange

WEB = Path(__file__).parents[2] / "fawa" / "web"

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.fixture(scope="module")
def page() -> Page:
    return Page.load()


async def ask(page: Page, target: str, **headers: str) -> MemoryExchange:
    fields = [(name.replace("_", "-"), value) for name, value in headers.items()]
    exchange = MemoryExchange(target, headers=fields)
    await page.routes[exchange.path].handle(exchange)
    assert exchange.ended
    return exchange


class TestFront:
    @pytest.mark.parametrize(
        "accept",
        [BROWSER, "text/html", "application/xhtml+xml", "text/plain, TEXT/HTML;q=0.5", "text/html;level=1"],
    )
    async def test_a_browser_gets_the_page(self, page: Page, accept: str) -> None:
        answer = await ask(page, "/", accept=accept)
        assert answer.status == 200
        assert answer.answer("content-type") == "text/html; charset=utf-8"
        assert answer.answer("vary") == "accept"
        assert answer.body == (WEB / "index.html").read_bytes()

    @pytest.mark.parametrize(
        "accept", ["*/*", "", "application/json", "text/plain", "text/html;q=0", "text/html; q=0.000, */*"]
    )
    async def test_everybody_else_gets_lines_to_copy(self, page: Page, accept: str) -> None:
        answer = await ask(page, "/", accept=accept)
        assert answer.status == 200
        assert answer.answer("content-type") == "text/plain; charset=utf-8"
        assert answer.answer("vary") == "accept"
        assert "http://files.example:8080/greet.v1.GreetService/SayHello" in answer.text

    async def test_without_accept(self, page: Page) -> None:
        assert (await ask(page, "/")).text.startswith("fawa ")


class TestAssets:
    async def test_every_file_of_the_page_is_served_as_its_type(self, page: Page) -> None:
        types = {
            ".css": "text/css; charset=utf-8",
            ".js": "text/javascript; charset=utf-8",
            ".svg": "image/svg+xml",
            ".webmanifest": "application/manifest+json",
        }
        # The page itself is at `/`, and what tells Node that these are modules is for the tests.
        files = [
            path
            for path in WEB.rglob("*")
            if path.is_file() and path.name not in {"index.html", "package.json"}
        ]
        assert len(files) > 20
        for path in files:
            answer = await ask(page, f"/web/{path.relative_to(WEB).as_posix()}")
            assert answer.answer("content-type") == types[path.suffix]
            assert answer.body == path.read_bytes()
        assert "/web/package.json" not in page.routes

    async def test_what_is_not_changed_is_not_sent_again(self, page: Page) -> None:
        first = await ask(page, "/web/main.js")
        tag = first.answer("etag")
        assert tag is not None
        again = await ask(page, "/web/main.js", if_none_match=tag)
        assert (again.status, again.body, again.answer("etag")) == (304, b"", tag)
        assert (await ask(page, "/web/main.js", if_none_match='"other"')).status == 200

    async def test_nothing_but_our_files_may_be_used(self, page: Page) -> None:
        for target in ("/", "/web/main.js"):
            answer = await ask(page, target, accept="text/html")
            policy = answer.answer("content-security-policy") or ""
            rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
            assert rules["default-src"] == "'none'"
            assert {rules[name] for name in ("script-src", "style-src", "img-src", "connect-src")} == {
                "'self'"
            }
            assert {rules[name] for name in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
            assert "unsafe" not in policy
            assert answer.answer("x-content-type-options") == "nosniff"
            assert answer.answer("referrer-policy") == "no-referrer"

    async def test_opener_policy_goes_over_tls_alone(self, page: Page) -> None:
        plain = MemoryExchange("/", headers=[("accept", "text/html")])
        secure = MemoryExchange("/", headers=[("accept", "text/html")], scheme="https")
        for exchange in (plain, secure):
            await page.front(exchange)
        assert plain.answer("cross-origin-opener-policy") is None
        assert secure.answer("cross-origin-opener-policy") == "same-origin"

    def test_the_page_names_no_other_host_and_has_nothing_inline(self) -> None:
        for path in WEB.rglob("*"):
            if path.suffix in {".html", ".css", ".js"}:
                text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
                assert not re.search(r"https?://|@import|innerHTML|\beval\(", text), path
        index = (WEB / "index.html").read_text("utf-8")
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", index)


class TestQr:
    async def ask(self, query: str) -> MemoryExchange:
        exchange = MemoryExchange(f"/qr.svg?{query}")
        await draw_qr(exchange)
        assert exchange.ended
        return exchange

    @pytest.mark.parametrize(
        "link",
        [
            "http://192.168.1.7:8080/#/board/ABC123",
            "https://fawa.example/files/k/a%20b?expires=1&signature=x",
        ],
    )
    async def test_a_link(self, link: str) -> None:
        answer = await self.ask(f"text={quote(link, safe='')}")
        assert answer.status == 200
        assert answer.answer("content-type") == "image/svg+xml"
        assert answer.answer("cache-control") == "no-store"
        assert answer.body == qr_svg(link)
        root = ElementTree.fromstring(answer.body)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"

    async def test_the_longest_link(self) -> None:
        link = "https://a.example/".ljust(MAX_QR_TEXT, "x")
        assert (await self.ask(f"text={link}")).status == 200
        answer = await self.ask(f"text={link}x")
        assert (answer.status, str(MAX_QR_TEXT) in answer.text) == (400, True)

    @pytest.mark.parametrize(
        "query",
        [
            "",
            "text=",
            "text",
            "other=http://a.example/",
            "text=http://a.example/&text=http://b.example/",
            "text=javascript:alert(1)",
            "text=data:text/html,hi",
            "text=WIFI:S:free;;",
            "text=//a.example/",
            "text=http:///path",
            "text=http://[::1/",
            "text=http://a.example/%0d%0aa:b",
            "text=http://a.example/a%20b",
            "text=http://a.example/%ff",
            "&".join(f"a{number}=1" for number in range(50)) + "&text=http://a.example/",
        ],
    )
    async def test_what_is_no_link_is_not_drawn(self, query: str) -> None:
        answer = await self.ask(query)
        assert answer.status == 400
        assert "link" in answer.text
