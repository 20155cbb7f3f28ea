"""The greeting's four kinds of call, made by the page."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser import Browser
from tests.daemon import Daemon

ANSWERS = {
    "unary": ["Hello, Ada!"],
    "server": [f"Hello, Ada! (part {number})" for number in range(1, 11)],
    "client": ["Hello, Ada, Grace, Edsger!"],
    "bidi": ["Hello, Ada!", "Hello, Grace!", "Hello, Edsger!"],
}


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_the_four_kinds(browser: Browser, daemon: Daemon, secure: bool) -> None:
    page = browser.page()
    page.goto(f"https://{daemon.tls}/#/greet" if secure else f"http://{daemon.plain}/#/greet")
    heard: list[str] = []
    for number, (mode, answers) in enumerate(ANSWERS.items(), 1):
        page.click(f".mode[value={mode}]")
        expect(page.locator(".line.end")).to_have_count(number)
        heard += answers
        expect(page.locator(".line.received .line-text")).to_have_text(heard)
    expect(page.locator(".line.sent .line-text")).to_have_text(
        ["Ada", "Ada", "Ada", "Grace", "Edsger", "Ada", "Grace", "Edsger"]
    )


def test_without_a_server(browser: Browser, daemon: Daemon) -> None:
    page = browser.page()
    page.goto(f"http://{daemon.plain}/#/greet")
    browser.context.set_offline(True)
    page.press("#greet-names", "Enter")
    expect(page.locator(".line.failed")).to_contain_text("The server cannot be reached")
    assert browser.complaints
    assert [one for one in browser.complaints if "ERR_INTERNET_DISCONNECTED" not in one] == []
    browser.complaints.clear()
