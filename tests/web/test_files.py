"""Sending files from the page and fetching them by key."""

from __future__ import annotations

import hashlib
import random
import re
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.browser import Browser
from tests.daemon import Daemon, running
from tests.interop.kept import eventually
from tests.web.network import network

SIZE = 20_000_000


@pytest.fixture(params=["plain", "tls"])
def page(request: pytest.FixtureRequest, browser: Browser, daemon: Daemon) -> Page:
    """The page's files, over HTTP/1.1 and over HTTP/2."""
    opened = browser.page()
    server = f"http://{daemon.plain}" if request.param == "plain" else f"https://{daemon.tls}"
    opened.goto(f"{server}/#/files")
    return opened


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_there_and_back(page: Page, tmp_path: Path) -> None:
    content = tmp_path / "Bericht ä (2).bin"
    content.write_bytes(random.Random(5).randbytes(SIZE))
    before = time.time()
    page.set_input_files("#file-input", content)
    card = page.locator(".card.done")
    expect(card.locator("h3")).to_have_text(content.name)
    expect(card.locator(".card-state")).to_have_text(re.compile(r"^20\.0 MB · kept until .*2[45]:\d\d left$"))

    link = page.get_by_label(f"Link to {content.name}").input_value()
    expires = int(parse_qs(urlsplit(link).query)["expires"][0])
    assert before + 299 <= expires <= time.time() + 301
    image = card.locator("img")
    assert image.evaluate("image => image.complete && image.naturalWidth > 0")

    key = page.get_by_label(f"Key of {content.name}").input_value()
    page.fill("#receive-key", f" {key.upper()} ")
    with page.expect_download() as download:
        page.click("#receive-form button")
    assert download.value.suggested_filename == content.name
    assert digest(download.value.path()) == digest(content)
    expect(page.locator("#receive-done")).to_contain_text(f"Downloading {content.name}.")


def test_a_file_for_one_download(page: Page, browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "once.bin").write_bytes(random.Random(7).randbytes(200_000))
    (tmp_path / "often.bin").write_bytes(b"often")
    once = page.get_by_label("Delete after the first download")
    page.locator("#seal").focus()
    page.keyboard.press("Tab")
    expect(once).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Space")
    expect(once).to_be_checked()
    page.set_input_files("#file-input", tmp_path / "once.bin")
    state = page.locator(".card.done .card-state")
    expect(state).to_have_text(re.compile(r"^200 kB · kept until .* left · gone after its first download$"))
    expect(page.locator("#live")).to_contain_text("It is gone after its first download.")
    link = page.get_by_label("Link to once.bin").input_value()
    key = page.get_by_label("Key of once.bin").input_value()

    once.uncheck()
    page.set_input_files("#file-input", tmp_path / "often.bin")
    expect(state).to_have_count(2)
    expect(state.first).not_to_contain_text("first download")

    for width in (320, 390, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == width

    with page.expect_download() as download:
        page.evaluate("link => location.assign(link)", link)
    assert digest(download.value.path()) == digest(tmp_path / "once.bin")
    late = browser.page()
    # A client may have all of a file before the server has counted that.
    eventually(lambda: (answer := late.goto(link)) is not None and answer.status != 429, "counted")
    expect(late.locator("body")).to_have_text("this file is gone: it has expired or was deleted")
    page.fill("#receive-key", key)
    page.press("#receive-key", "Enter")
    expect(page.locator("#receive-trouble")).to_contain_text("the file is gone: it has expired")
    assert all(re.search("status of (404|429)", complaint) for complaint in browser.complaints)
    browser.complaints.clear()


def test_several_files_and_an_empty_one(page: Page, tmp_path: Path) -> None:
    names = ["a.txt", "b.txt", "empty"]
    for name in names:
        (tmp_path / name).write_bytes(b"" if name == "empty" else name.encode() * 1000)
    page.set_input_files("#file-input", [tmp_path / name for name in names])
    expect(page.locator(".card.done")).to_have_count(3)
    keys = [page.get_by_label(f"Key of {name}").input_value() for name in names]
    assert len(set(keys)) == 3


def test_a_file_dropped_onto_the_page(page: Page) -> None:
    page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["dropped"], "dropped.txt"));
            const event = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
            document.getElementById("drop").dispatchEvent(event);
        }"""
    )
    expect(page.locator(".card.done h3")).to_have_text("dropped.txt")


def test_cancelled_on_its_way(page: Page, browser: Browser, tmp_path: Path) -> None:
    content = tmp_path / "large.bin"
    content.write_bytes(bytes(50_000_000))
    devtools = browser.context.new_cdp_session(page)
    devtools.send("Network.enable")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 1_000_000}
    devtools.send("Network.emulateNetworkConditions", slow)
    page.set_input_files("#file-input", content)
    expect(page.locator(".card-state")).to_contain_text("/s · ")
    page.click("text=Cancel")
    expect(page.locator(".card.cancelled .card-state")).to_have_text("cancelled")


def test_a_file_goes_on_where_the_line_broke(browser: Browser, daemon: Daemon, tmp_path: Path) -> None:
    content = tmp_path / "large.bin"
    content.write_bytes(random.Random(6).randbytes(SIZE))
    with network(daemon.plain) as line:
        page = browser.page()
        page.goto(f"http://{line.address}/#/files")
        sent: list[int] = []
        page.on("request", lambda request: sent.append(int(request.headers.get("upload-offset", 0))))
        line.break_after(SIZE // 2)
        page.set_input_files("#file-input", content)
        expect(page.locator(".card-state")).to_have_text(
            "the connection broke · going on as soon as it is back"
        )
        line.come_up()
        expect(page.locator(".card.done .card-state")).to_have_text(re.compile(r"^20\.0 MB · kept until"))
        key = page.get_by_label("Key of large.bin").input_value()
        page.fill("#receive-key", key)
        with page.expect_download() as download:
            page.click("#receive-form button")
        assert digest(download.value.path()) == digest(content)
    # From where it was.
    assert SIZE // 4 < max(sent) < SIZE
    assert all("net::ERR_" in complaint for complaint in browser.complaints)
    browser.complaints.clear()


def test_a_server_that_keeps_no_interrupted_uploads(page: Page, browser: Browser, tmp_path: Path) -> None:
    page.route("**/uploads", lambda route: route.fulfill(status=404))
    content = tmp_path / "a.txt"
    content.write_bytes(b"a" * 1000)
    page.check("#once")
    page.set_input_files("#file-input", content)
    expect(page.locator(".card.done h3")).to_have_text("a.txt")
    link = page.get_by_label("Link to a.txt").input_value()
    # It was told so, too.
    get = "async (link) => (await fetch(link)).status"
    assert page.evaluate(get, link) == 200
    eventually(lambda: page.evaluate(get, link) == 404, "counted")
    assert all(re.search("status of (404|429)", complaint) for complaint in browser.complaints)
    browser.complaints.clear()


def test_a_file_that_is_too_large(browser: Browser, tmp_path: Path) -> None:
    content = tmp_path / "large.bin"
    content.write_bytes(bytes(1_000_001))
    with running(tmp_path / "fawad", "--file-max-size", "1MB") as daemon:
        page = browser.page()
        page.goto(f"http://{daemon.plain}/#/files")
        page.set_input_files("#file-input", content)
        text = "The server will not take it: the file has 1000001 bytes, the largest taken here has 1000000."
        expect(page.locator(".card.failed .card-state")).to_have_text(text)
        (complaint,) = browser.complaints
        assert "status of 413" in complaint
        browser.complaints.clear()


def test_a_key_that_is_wrong(page: Page, browser: Browser) -> None:
    page.fill("#receive-key", "aaaaaaaaaaaaaaaa")
    page.press("#receive-key", "Enter")
    expect(page.locator("#receive-trouble")).to_contain_text("no file under this key")
    (complaint,) = browser.complaints
    assert "status of 404" in complaint
    browser.complaints.clear()


def test_no_key(page: Page) -> None:
    page.press("#receive-key", "Enter")
    expect(page.locator("#receive-trouble")).to_contain_text("no key was given")


def test_a_name_that_the_server_will_not_take(page: Page, browser: Browser) -> None:
    page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["x"], "a..b"));
            const event = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
            document.getElementById("drop").dispatchEvent(event);
        }"""
    )
    text = "It failed: the file name 'a..b' contains '..': choose another name."
    expect(page.locator(".card.failed .card-state")).to_have_text(text)
    expect(page.locator(".card.failed").get_by_text("Try again")).to_be_visible()
    (complaint,) = browser.complaints
    assert "status of 400" in complaint
    browser.complaints.clear()
