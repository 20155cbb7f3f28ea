"""The page as a whole: sections, themes, keyboard, narrow screens."""

from __future__ import annotations

from typing import Literal

import pytest
from playwright.sync_api import Page, expect

from tests.browser import Browser
from tests.daemon import Daemon

SECTIONS = {"": "home", "#/files": "files", "#/greet": "greet"}

#: Contrast (WCAG 2.1, 1.4.3) of every piece of text in sight, as "text: ratio" where it is below AA.
LOW_CONTRAST = """() => {
  const channel = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) =>
    0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
  const ground = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const color = parse(getComputedStyle(one).backgroundColor);
      if (color.length < 4 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility() || element.closest("svg, :disabled")) continue;
    const style = getComputedStyle(element);
    const [a, b] = [luminance(parse(style.color)), luminance(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = parseFloat(style.fontSize) >= 24;
    if (ratio < (large ? 3 : 4.5)) low.push(`${element.textContent.trim()}: ${ratio.toFixed(2)}`);
  }
  return low;
}"""


#: Controls in sight that a screen reader could not name.
NAMELESS = """() => [...document.querySelectorAll("button, a, input")]
  .filter((one) => one.checkVisibility())
  .filter((one) => !one.ariaLabel && !one.innerText.trim())
  .filter((one) => ![...(one.labels ?? [])].some((label) => label.innerText.trim()))
  .map((one) => one.outerHTML)"""


@pytest.fixture
def page(browser: Browser, daemon: Daemon) -> Page:
    opened = browser.page()
    opened.goto(f"http://{daemon.plain}/")
    return opened


def expect_theme(page: Page, theme: str) -> None:
    expect(page.locator("html")).to_have_attribute("data-theme", theme)


def show(page: Page, section: str) -> None:
    page.evaluate("section => (location.hash = section || '#/')", section)
    expect(page.locator(f"#{SECTIONS[section]}")).to_be_visible()


def ground(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def test_sections(page: Page) -> None:
    for name, section in (("Files", "files"), ("Greeting", "greet"), ("Board", "home")):
        page.get_by_role("link", name=name, exact=True).click()
        for other in SECTIONS.values():
            expect(page.locator(f"#{other}")).to_be_visible(visible=other == section)
        expect(page.locator("[aria-current=page]")).to_have_text(name)
    page.go_back()
    expect(page.locator("#greet")).to_be_visible()


def test_themes(page: Page) -> None:
    page.emulate_media(color_scheme="light")
    expect_theme(page, "light")
    light = ground(page)
    page.emulate_media(color_scheme="dark")
    expect_theme(page, "dark")
    assert ground(page) != light
    page.click("#theme-button")
    expect_theme(page, "light")
    assert ground(page) == light
    page.reload()
    expect_theme(page, "light")
    # Back at what the system wants it follows the system again.
    page.click("#theme-button")
    page.emulate_media(color_scheme="light")
    expect_theme(page, "light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(page: Page, scheme: Literal["light", "dark"]) -> None:
    # A colour on its way from one to another is neither.
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    expect_theme(page, scheme)
    for section in SECTIONS:
        show(page, section)
        assert page.evaluate(LOW_CONTRAST) == []


def test_nothing_is_wider_than_the_screen(page: Page) -> None:
    for width in (320, 390, 768, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        for section in SECTIONS:
            show(page, section)
            assert page.evaluate("document.documentElement.scrollWidth") == width


def test_every_control_has_a_name(page: Page) -> None:
    for section in SECTIONS:
        show(page, section)
        assert page.evaluate(NAMELESS) == []


def test_by_keyboard_alone(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(2):
        page.keyboard.press("Tab")
    expect(page.locator("#join-code")).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.type("nonsense")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("six letters and digits")


def test_a_link_that_names_no_board(page: Page, daemon: Daemon) -> None:
    page.goto(f"http://{daemon.plain}/#/board/nonsense")
    expect(page.get_by_role("alert")).to_contain_text("names no board")
