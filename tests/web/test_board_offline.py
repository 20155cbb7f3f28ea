"""A board whose connection is lost and comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser import Browser, browsing
from tests.daemon import Daemon, running
from tests.web.board import (
    GREEN,
    RED,
    WHITE,
    create,
    draw,
    expect_live,
    expect_pixel,
    expect_same_picture,
    join,
)
from tests.web.network import Network, network

LINE = [(200.0, 300.0), (600.0, 300.0)]
CURVE = [(200.0, 500.0), (300.0, 700.0), (420.0, 480.0), (560.0, 730.0), (700.0, 500.0)]


#: The network that goes down here carries TCP.
WITHOUT_WEBTRANSPORT = "delete globalThis.WebTransport"


@pytest.fixture
def line(daemon: Daemon, browser: Browser) -> Iterator[Network]:
    browser.context.add_init_script(WITHOUT_WEBTRANSPORT)
    with network(daemon.plain) as made:
        yield made


def forgive(browser: Browser) -> None:
    """Chromium tells of each request and WebSocket that fails, as it should here."""
    browser.complaints[:] = [
        one for one in browser.complaints if "net::ERR_" not in one and "WebSocket connection" not in one
    ]


def try_now(page: Page) -> None:
    """Press the notice's button, unless the page has come back by itself."""
    page.evaluate("document.querySelector('#notice button')?.click()")


def test_drawn_offline_is_sent_on_return_once(
    browser: Browser, daemon: Daemon, line: Network, tmp_path: Path
) -> None:
    ada, bob = browser.page(), browser.page()
    address = create(ada, f"http://{line.address}")
    join(bob, address.replace(line.address, daemon.plain))
    draw(ada, LINE, color=1)
    expect_pixel(bob, (400, 300), RED)

    line.go_down()
    expect(ada.locator("#notice")).to_contain_text("Trying again in")
    draw(ada, CURVE, color=3, size=2)
    draw(bob, [(400, 200), (400, 400)], color=0)
    draw(ada, [(1000, 500)], color=3, size=3)
    # It shows at once where it was drawn, over what the board has.
    ada.wait_for_function(
        "() => document.getElementById('paper-top').getContext('2d')"
        ".getImageData(1000, 500, 1, 1).data[3] === 255"
    )
    expect(ada.locator("#link-facts")).to_contain_text("segments")
    expect_pixel(bob, (1000, 500), WHITE)

    line.come_up()
    try_now(ada)
    expect_live(ada)
    expect_pixel(bob, (1000, 500), GREEN)
    expect_same_picture(ada, bob)
    cleo = browser.page()
    join(cleo, bob.url)
    expect_same_picture(bob, cleo)
    # Once: undoing them leaves nothing of them.
    for _ in range(2):
        ada.keyboard.press("Control+z")
    expect_pixel(bob, (1000, 500), WHITE)
    forgive(browser)


def test_undo_and_clear_offline(browser: Browser, daemon: Daemon, line: Network) -> None:
    ada, bob = browser.page(), browser.page()
    address = create(ada, f"http://{line.address}")
    join(bob, address.replace(line.address, daemon.plain))
    draw(ada, LINE, color=1)
    expect_pixel(bob, (400, 300), RED)
    line.go_down()
    expect(ada.locator("#notice")).to_be_visible()
    ada.keyboard.press("Control+z")
    expect_pixel(ada, (400, 300), WHITE)
    ada.click("#clear-button")
    ada.get_by_role("button", name="Clear it").click()
    draw(ada, [(1000, 500)], color=3, size=3)
    line.come_up()
    try_now(ada)
    expect_pixel(bob, (400, 300), WHITE)
    expect_pixel(bob, (1000, 500), GREEN)
    expect_same_picture(ada, bob)
    forgive(browser)


def test_comes_back_by_itself(browser: Browser, line: Network) -> None:
    ada = browser.page()
    create(ada, f"http://{line.address}")
    line.go_down()
    expect(ada.locator("#notice")).to_be_visible()
    line.come_up()
    expect_live(ada)
    expect(ada.locator("#notice")).to_be_hidden()
    forgive(browser)


def test_a_reload_while_offline_loses_nothing(browser: Browser, daemon: Daemon, line: Network) -> None:
    ada, bob = browser.page(), browser.page()
    address = create(ada, f"http://{line.address}")
    join(bob, address.replace(line.address, daemon.plain))
    line.go_down()
    expect(ada.locator("#notice")).to_be_visible()
    draw(ada, LINE, color=1)
    line.come_up()
    ada.reload()
    expect_live(ada)
    expect_pixel(bob, (400, 300), RED)
    expect_same_picture(ada, bob)
    forgive(browser)


def test_a_server_that_is_restarted(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with browsing(tmp_path / "profile") as browser:
        browser.context.add_init_script(WITHOUT_WEBTRANSPORT)
        ada = browser.page()
        with running(data) as daemon, network(daemon.plain) as line:
            create(ada, f"http://{line.address}")
            draw(ada, LINE, color=1)
            expect_pixel(ada, (400, 300), RED)
            daemon.stop()
            expect(ada.locator("#notice")).to_contain_text("Trying again in")
            draw(ada, CURVE, color=3, size=3)
            with running(data) as again:
                line.target = again.plain
                try_now(ada)
                expect_live(ada)
                bob = browser.page()
                join(bob, ada.url.replace(line.address, again.plain))
                expect_pixel(bob, (400, 300), RED)
                expect_same_picture(ada, bob)
                # What was drawn meanwhile is there.
                ada.keyboard.press("Control+z")
                expect_pixel(bob, (400, 300), RED)
                expect_same_picture(ada, bob)
                forgive(browser)
                ada.close()
                bob.close()
