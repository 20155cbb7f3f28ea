"""Boards in real browser windows."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from playwright.sync_api import Page, expect

from tests.browser import Browser
from tests.daemon import Daemon
from tests.web.board import (
    GREEN,
    RED,
    WHITE,
    create,
    draw,
    expect_live,
    expect_pixel,
    expect_same_picture,
    expect_settled,
    join,
    on_screen,
)
from tests.web.looks import LOW_CONTRAST, NAMELESS

LINE = [(200.0, 300.0), (600.0, 300.0)]
CURVE = [(200.0, 500.0), (300.0, 700.0), (420.0, 480.0), (560.0, 730.0), (700.0, 500.0), (640.0, 420.0)]


@pytest.fixture
def server(daemon: Daemon) -> str:
    return f"http://{daemon.plain}"


@pytest.fixture
def ada(browser: Browser, server: str) -> Page:
    """A window with a new board."""
    page = browser.page()
    create(page, server)
    return page


@pytest.fixture
def bob(browser: Browser, ada: Page) -> Page:
    """Another window with that board."""
    page = browser.page()
    join(page, ada.url)
    return page


def test_windows_see_each_others_lines_and_who_comes_late_sees_them_all(
    browser: Browser, ada: Page, bob: Page
) -> None:
    draw(ada, LINE, color=1, size=2)
    expect_pixel(bob, (400, 300), RED)
    draw(bob, CURVE, color=3, size=3)
    draw(ada, [(210, 480), (690, 720)], color=0, size=0)
    draw(bob, [(400, 200), (400, 400)], color=2)
    # A dot.
    draw(ada, [(1000, 500)], color=3, size=3)
    expect_pixel(bob, (1000, 500), GREEN)
    expect_same_picture(ada, bob)
    cleo = browser.page()
    join(cleo, ada.url)
    expect_pixel(cleo, (1000, 500), GREEN)
    expect_same_picture(ada, bob, cleo)


def test_over_tls(browser: Browser, daemon: Daemon) -> None:
    ada, bob = browser.page(), browser.page()
    join(bob, create(ada, f"https://{daemon.tls}"))
    draw(ada, LINE, color=1)
    expect_pixel(bob, (400, 300), RED)
    draw(bob, CURVE)
    expect_same_picture(ada, bob)


def test_join_by_code(browser: Browser, ada: Page, server: str) -> None:
    draw(ada, LINE, color=1)
    bob = browser.page()
    bob.goto(f"{server}/")
    bob.fill("#join-code", ada.url[-6:].lower())
    bob.press("#join-code", "Enter")
    expect_live(bob)
    expect_pixel(bob, (400, 300), RED)


def test_eraser(ada: Page, bob: Page) -> None:
    draw(ada, LINE, color=1)
    expect_pixel(bob, (400, 300), RED)
    bob.keyboard.press("e")
    bob.mouse.move(*on_screen(bob, (400, 250)))
    bob.mouse.down()
    bob.mouse.move(*on_screen(bob, (400, 350)), steps=5)
    bob.mouse.up()
    expect_pixel(ada, (400, 300), WHITE)
    expect_pixel(ada, (300, 300), RED)
    expect_same_picture(ada, bob)


def test_clear_asks_first(browser: Browser, ada: Page, bob: Page) -> None:
    draw(ada, LINE, color=1)
    expect_pixel(bob, (400, 300), RED)
    bob.click("#clear-button")
    bob.get_by_role("button", name="Keep it").click()
    draw(bob, CURVE, color=3)
    expect_same_picture(ada, bob)
    expect_pixel(ada, (400, 300), RED)
    bob.click("#clear-button")
    bob.get_by_role("button", name="Clear it").click()
    expect_pixel(ada, (400, 300), WHITE)
    expect_pixel(bob, (400, 300), WHITE)
    expect(bob.locator("#undo-button")).to_be_disabled()
    draw(ada, LINE, color=3)
    cleo = browser.page()
    join(cleo, ada.url)
    expect_pixel(cleo, (400, 300), GREEN)
    expect_same_picture(ada, bob, cleo)


def test_undo_takes_back_ones_own_strokes(browser: Browser, ada: Page, bob: Page) -> None:
    draw(ada, LINE, color=1)
    expect_pixel(bob, (400, 300), RED)
    draw(bob, [(400, 200), (400, 400)], color=3)
    expect_pixel(ada, (400, 250), GREEN)
    draw(ada, CURVE, color=1, size=2)
    ada.keyboard.press("Control+z")
    ada.click("#undo-button")
    expect(ada.locator("#undo-button")).to_be_disabled()
    for page in (ada, bob):
        expect_pixel(page, (300, 300), WHITE)
        expect_pixel(page, (400, 250), GREEN)
    ada.keyboard.press("Control+Shift+z")
    for page in (ada, bob):
        expect_pixel(page, (300, 300), RED)
    cleo = browser.page()
    join(cleo, ada.url)
    expect_pixel(cleo, (300, 300), RED)
    expect_same_picture(ada, bob, cleo)


def test_who_is_here_and_where(ada: Page, bob: Page) -> None:
    ada.click("#people-button")
    ada.fill("#profile-name", "Ada")
    ada.press("#profile-name", "Enter")
    expect(bob.locator("#people-list li", has_text="Ada")).to_have_count(1)
    ada.mouse.move(*on_screen(ada, (800, 250)), steps=3)
    cursor = bob.locator(".cursor", has_text="Ada")
    expect(cursor).to_be_visible()
    x, y = on_screen(bob, (800, 250))
    bob.wait_for_function(
        """([x, y]) => {
            const box = document.querySelector(".cursor").getBoundingClientRect();
            return Math.hypot(box.x - x, box.y - y) < 4;
        }""",
        arg=[x, y],
    )
    # The name is remembered.
    ada.reload()
    expect_live(ada)
    expect(ada.locator("#people-list li", has_text="you")).to_contain_text("Ada")
    ada.close()
    expect(cursor).to_have_count(0)
    expect(bob.locator("#people-list li")).to_have_count(1)


def test_by_keyboard_alone(ada: Page, bob: Page) -> None:
    ada.focus("#stage")
    ada.keyboard.press("2")
    ada.keyboard.press(" ")
    for _ in range(20):
        ada.keyboard.press("ArrowRight")
    ada.keyboard.press(" ")
    expect_pixel(bob, (900, 500), RED)
    ada.keyboard.press("?")
    expect(ada.locator("#help-dialog")).to_be_visible()
    ada.keyboard.press("Escape")
    expect(ada.locator("#help-dialog")).to_be_hidden()


def test_one_finger_draws_and_two_do_not(browser: Browser, ada: Page, bob: Page) -> None:
    devtools = browser.context.new_cdp_session(ada)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        places = [on_screen(ada, point) for point in points]
        fingers = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
        devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    ada.locator("#color-group input").nth(1).check(force=True)
    touch("touchStart", LINE[0])
    touch("touchMove", (400, 300))
    touch("touchMove", LINE[1])
    touch("touchEnd")
    expect_pixel(bob, (400, 300), RED)
    expect_same_picture(ada, bob)
    before = ada.evaluate("document.getElementById('paper').toDataURL()")
    width = ada.locator("#paper").bounding_box()
    touch("touchStart", (300, 600))
    touch("touchMove", (310, 610))
    touch("touchStart", (310, 610), (500, 700))
    touch("touchMove", (200, 550), (700, 800))
    touch("touchEnd")
    zoomed = ada.locator("#paper").bounding_box()
    assert width is not None
    assert zoomed is not None
    assert zoomed["width"] > width["width"]
    expect_settled(ada)
    expect_same_picture(ada, bob)
    assert bob.evaluate("document.getElementById('paper').toDataURL()") == before
    ada.click("#fit-button")
    assert ada.locator("#paper").bounding_box() == width


def test_both_themes_have_the_same_pixels(ada: Page, bob: Page) -> None:
    bob.emulate_media(color_scheme="dark")
    draw(ada, LINE, color=1)
    draw(bob, CURVE, color=3)
    expect_pixel(ada, (400, 300), RED)
    expect_same_picture(ada, bob)
    assert "invert" in bob.locator("#paper").evaluate("paper => getComputedStyle(paper).filter")


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_controls_are_named_and_in_sight(ada: Page, width: int) -> None:
    ada.set_viewport_size({"width": width, "height": 700})
    assert ada.evaluate(NAMELESS) == []
    assert ada.evaluate(LOW_CONTRAST) == []
    assert ada.evaluate("document.documentElement.scrollWidth") == width
    for tool in ada.locator(".tool:visible, .bar button:visible").all():
        box = tool.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= 700


def test_share(ada: Page) -> None:
    ada.click("#share-button")
    assert ada.input_value("#share-link") == ada.url
    ada.wait_for_function("() => document.getElementById('share-qr').naturalWidth > 0")
    expect(ada.locator("#share-code")).to_have_text(ada.url[-6:])


def test_save_as_a_picture(ada: Page) -> None:
    draw(ada, LINE, color=1)
    draw(ada, CURVE, color=3)
    expect_settled(ada)
    saved: dict[str, Path] = {}
    for kind in ("png", "svg"):
        ada.click("#export-button")
        with ada.expect_download() as download:
            ada.click(f"#export-{kind}")
        assert re.fullmatch(rf"board-[A-Z0-9]{{6}}\.{kind}", download.value.suggested_filename)
        saved[kind] = download.value.path()
    header = saved["png"].read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", header[16:]) == (1600, 1000)
    root = ElementTree.fromstring(saved["svg"].read_bytes())
    lines = root.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert {line.get("stroke") for line in lines} == {"#c62f1d", "#2d8a3e"}


def test_a_client_of_wire_v1_on_the_same_board(browser: Browser, ada: Page, server: str) -> None:
    other = browser.page()
    other.goto(f"{server}/")
    draw(ada, LINE, color=1)
    expect_settled(ada)
    url = f"{server.replace('http', 'ws')}/ws/canva?code={ada.url[-6:]}"
    history: dict[str, Any] = json.loads(
        other.evaluate(
            """url => new Promise((resolve, reject) => {
                window.socket = new WebSocket(url);
                window.socket.onmessage = ({ data }) => resolve(data);
                window.socket.onerror = reject;
            })""",
            url,
        )
    )
    events = history["initial_history"]["events"]
    assert {event["color"] for event in events} == {"#c62f1d"}
    event = {"type": "draw", "color": "#2d8a3e", "size": 9}
    segment = {"prev_x": 900, "prev_y": 100, "curr_x": 1100, "curr_y": 100}
    other.evaluate("event => window.socket.send(JSON.stringify({draw_event: event}))", event | segment)
    expect_pixel(ada, (1000, 100), GREEN)
    draw(ada, CURVE, color=0)
    expect_pixel(ada, (1000, 100), GREEN)


def test_a_reload_is_the_same_guest(ada: Page, bob: Page) -> None:
    me = "JSON.parse(sessionStorage.getItem('fawa.board.' + location.hash.slice(-6))).client_id"
    before = ada.evaluate(me)
    draw(ada, LINE, color=1)
    expect_pixel(bob, (400, 300), RED)
    ada.reload()
    expect_live(ada)
    expect_pixel(ada, (400, 300), RED)
    assert ada.evaluate(me) == before
    draw(ada, [(400, 200), (400, 400)], color=3)
    expect_pixel(bob, (400, 250), GREEN)
    # Its strokes are numbered on, so undo takes back the new one alone.
    ada.keyboard.press("Control+z")
    expect_pixel(bob, (400, 250), WHITE)
    expect_pixel(bob, (400, 300), RED)


def copy_of(page: Page, browser: Browser, *, alone: bool = False) -> Page:
    """Return a tab that begins with a copy of another's session storage, as a duplicated one does.

    Args:
        page: the tab that is duplicated.
        browser: where.
        alone: the copy cannot ask other tabs.

    """
    kept = page.evaluate("JSON.stringify(sessionStorage)")
    copy = browser.page()
    script = f"for (const [key, value] of Object.entries({kept})) sessionStorage.setItem(key, value);"
    if alone:
        script += "delete window.BroadcastChannel;"
    copy.add_init_script(script)
    copy.goto(page.url)
    expect_live(copy)
    return copy


def test_a_duplicated_tab_is_somebody_else(browser: Browser, ada: Page) -> None:
    copy = copy_of(ada, browser)
    expect(copy.locator("#people-list li")).to_have_count(2)
    draw(copy, LINE, color=1)
    expect_pixel(ada, (400, 300), RED)
    expect(ada.locator("#link-word")).to_have_text("Live")


def test_a_tab_whose_place_was_taken_can_join_anew(browser: Browser, ada: Page) -> None:
    copy = copy_of(ada, browser, alone=True)
    expect(ada.locator("#notice")).to_contain_text("open in another tab")
    draw(copy, LINE, color=1)
    ada.get_by_role("button", name="Join here as well").click()
    expect_live(ada)
    expect_pixel(ada, (400, 300), RED)
    expect(ada.locator("#people-list li")).to_have_count(2)
    expect(copy.locator("#link-word")).to_have_text("Live")


def test_a_board_that_is_not_there(browser: Browser, server: str) -> None:
    page = browser.page()
    page.goto(f"{server}/#/board/ZZZZZZ")
    expect(page.locator("#notice")).to_contain_text("This board is gone")
    browser.complaints[:] = [one for one in browser.complaints if "status of 404" not in one]
    page.get_by_role("button", name="New board").click()
    expect_live(page)
    assert not page.url.endswith("ZZZZZZ")
