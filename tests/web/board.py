"""What tests do on a board's page."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from playwright.sync_api import Page, expect

from tests.daemon import PATIENCE

#: Colours by their place in the toolbar, as a pixel of the paper has them.
BLACK, RED, GREEN = "26,26,26", "198,47,29", "45,138,62"
WHITE = "255,255,255"

_PIXEL = """([x, y]) => {
  const context = document.getElementById("paper").getContext("2d");
  return [...context.getImageData(x, y, 1, 1).data.slice(0, 3)].join();
}"""
_PICTURE = "document.getElementById('paper').toDataURL()"
_SETTLED = """() => {
  const top = document.getElementById("paper-top");
  const data = new Uint32Array(top.getContext("2d").getImageData(0, 0, top.width, top.height).data.buffer);
  return data.every((pixel) => pixel === 0);
}"""


def create(page: Page, server: str) -> str:
    """Make a board; return its address."""
    page.goto(f"{server}/")
    page.click("#create-button")
    expect_live(page)
    assert re.search(r"/#/board/[A-Z0-9]{6}$", page.url)
    return page.url


def join(page: Page, address: str) -> None:
    page.goto(address)
    expect_live(page)


def expect_live(page: Page) -> None:
    expect(page.locator("#link-word")).to_have_text("Live")


def on_screen(page: Page, point: tuple[float, float]) -> tuple[float, float]:
    """Return where a point of the board is on the screen."""
    box = page.locator("#paper").bounding_box()
    assert box is not None
    return box["x"] + point[0] / 1600 * box["width"], box["y"] + point[1] / 1000 * box["height"]


def draw(page: Page, points: Sequence[tuple[float, float]], *, color: int = 0, size: int = 1) -> None:
    """Draw a line through points of the board with a mouse."""
    page.locator("#color-group input").nth(color).check(force=True)
    page.locator("#size-group input").nth(size).check(force=True)
    page.mouse.move(*on_screen(page, points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*on_screen(page, point), steps=4)
    page.mouse.up()


def expect_pixel(page: Page, point: tuple[int, int], color: str) -> None:
    """Wait until a pixel of the paper has a colour."""
    page.wait_for_function(f"([point, color]) => ({_PIXEL})(point) === color", arg=[list(point), color])


def expect_settled(page: Page) -> None:
    """Wait until the board has taken everything that was drawn on this page."""
    # What was done before now is painted with the next frame, which comes late on a busy machine.
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.wait_for_function(_SETTLED)


def expect_same_picture(first: Page, *others: Page) -> None:
    """Wait until the papers of pages have the same pixels."""
    for page in (first, *others):
        expect_settled(page)
    patience = time.monotonic() + PATIENCE
    for page in others:
        while page.evaluate(_PICTURE) != first.evaluate(_PICTURE):
            assert time.monotonic() < patience, f"{page.url} does not come to show what {first.url} shows"
            page.wait_for_timeout(50)
