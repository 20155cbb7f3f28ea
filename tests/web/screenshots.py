"""Pictures of the page, for people to look at: `scripts/screenshots FOLDER`."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import attrs
from playwright.sync_api import Page, ViewportSize, expect

from tests.browser import Browser, browsing
from tests.daemon import running
from tests.web.board import create, draw, expect_same_picture, join, on_screen

Point = tuple[float, float]


@attrs.frozen
class Look:
    """How somebody looks at the page."""

    name: str
    scheme: Literal["light", "dark"]
    size: ViewportSize

    def show(self, page: Page) -> None:
        page.set_viewport_size(self.size)
        page.emulate_media(color_scheme=self.scheme, reduced_motion="reduce")

    def save(self, page: Page, folder: Path, what: str) -> None:
        path = folder / f"{what}-{self.name}.png"
        page.screenshot(path=path)
        print(path)  # noqa: T201


DESKTOP: ViewportSize = {"width": 1280, "height": 800}
LOOKS = (
    Look("light", "light", DESKTOP),
    Look("dark", "dark", DESKTOP),
    Look("phone", "light", {"width": 390, "height": 844}),
)


def arc(x: float, y: float, across: float, high: float, start: float, end: float) -> list[Point]:
    """Return points of an ellipse around (x, y) from one angle to another, in degrees."""
    angles = [math.radians(start + (end - start) * step / 40) for step in range(41)]
    return [(x + across * math.cos(angle), y + high * math.sin(angle)) for angle in angles]


def wave(x: float, y: float, length: float, high: float, turns: float) -> list[Point]:
    return [(x + length * step / 60, y + high * math.sin(math.tau * turns * step / 60)) for step in range(61)]


#: Line, colour and size, as they stand in the toolbar; by turns of two people.
DRAWING: Sequence[tuple[list[Point], int, int]] = (
    ([(250, 640), (246, 430), (500, 424), (506, 640), (250, 640)], 0, 1),
    (arc(1200, 240, 90, 90, 200, 565), 2, 2),
    ([(200, 440), (376, 280), (556, 442)], 1, 2),
    *((arc(1200, 240, 150, 150, angle, angle + 12), 2, 1) for angle in range(0, 360, 45)),
    ([(340, 640), (342, 520), (414, 520), (416, 640)], 0, 1),
    (wave(620, 720, 800, 26, 5), 4, 2),
    (wave(680, 790, 680, 22, 4.5), 4, 1),
    ([(880, 700), (840, 640), (1130, 640), (1090, 700)], 7, 1),
    ([(980, 640), (984, 420), (1100, 600), (984, 604)], 6, 1),
)


def introduce(page: Page, name: str, color: str) -> None:
    page.click("#people-button")
    page.fill("#profile-color", color)
    page.fill("#profile-name", name)
    page.press("#profile-name", "Enter")
    expect(page.locator("#people-list")).to_contain_text(name)
    page.locator("#people-button").blur()


def draw_together(pages: Sequence[Page]) -> None:
    for number, (line, color, size) in enumerate(DRAWING):
        draw(pages[number % len(pages)], line, color=color, size=size)
    expect_same_picture(*pages)


def take(browser: Browser, server: str, folder: Path) -> None:
    ada, bob = browser.page(), browser.page()
    board = create(ada, server)
    join(bob, board)
    introduce(ada, "Ada Lovelace", "#1a5fb4")
    introduce(bob, "Grace Hopper", "#9c2a6b")
    draw_together((ada, bob))
    bob.mouse.move(*on_screen(bob, (1130, 640)))
    page = browser.page()
    for look in LOOKS:
        look.show(page)
        page.goto(f"{server}/#/")
        look.save(page, folder, "start")
        join(page, board)
        introduce(page, "Edsger", "#17574f")
        expect_same_picture(ada, page)
        bob.mouse.move(*on_screen(bob, (1136, 646)), steps=2)
        expect(page.locator(".cursor")).not_to_have_count(0)
        look.save(page, folder, "board")
        page.click("#share-button")
        page.wait_for_function("() => document.getElementById('share-qr').complete")
        look.save(page, folder, "share")
        page.goto(f"{server}/#/files")
        page.set_input_files(
            "#file-input", {"name": "Holiday plan.pdf", "mimeType": "", "buffer": bytes(3_400_000)}
        )
        expect(page.locator(".card.done img")).to_be_visible()
        look.save(page, folder, "files")
        page.goto(f"{server}/#/greet")
        for mode in ("unary", "bidi"):
            page.click(f".mode[value={mode}]")
            expect(page.locator(".line.end")).not_to_have_count(0)
        look.save(page, folder, "greet")
        page.goto("about:blank")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as work,
        running(Path(work) / "data") as daemon,
        browsing(Path(work) / "profile") as browser,
    ):
        take(browser, f"http://{daemon.plain}", folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
