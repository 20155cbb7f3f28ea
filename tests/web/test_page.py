"""The page as a whole: sections, themes, keyboard, narrow screens."""

from __future__ import annotations

from typing import Literal

import pytest
from playwright.sync_api import Page, expect

from tests.browser import Browser
from tests.daemon import Daemon
from tests.web.looks import LOW_CONTRAST, NAMELESS

SECTIONS = {"": "home", "#/files": "files", "#/greet": "greet"}


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
