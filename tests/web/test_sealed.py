"""Files that the page seals, and opens by their link."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser import Browser
from tests.client.running import command, environment
from tests.daemon import Daemon
from tests.web.test_files import digest

SIZE = 20_000_000


@pytest.fixture
def page(browser: Browser, daemon: Daemon) -> Page:
    opened = browser.page()
    opened.goto(f"http://{daemon.plain}/#/files")
    return opened


def send_sealed(page: Page, path: Path) -> str:
    """Send a file sealed and return its link."""
    page.check("#seal")
    page.set_input_files("#file-input", path)
    expect(page.locator(".card.done h3")).to_have_text(path.name)
    return page.get_by_label(f"Link to {path.name}").input_value()


def open_link(page: Page, link: str) -> Path:
    """Open a link of a sealed file; returns where the browser has saved it."""
    page.goto(link)
    expect(page.locator("#receive-done")).to_contain_text("This file is encrypted.")
    with page.expect_download() as download:
        page.click("#receive-form button")
    expect(page.locator("#receive-done")).to_contain_text("Opened ")
    saved = download.value.path()
    assert isinstance(saved, Path)
    return saved.rename(saved.with_name(download.value.suggested_filename))


def test_sealed_there_and_back(page: Page, browser: Browser, daemon: Daemon, tmp_path: Path) -> None:
    content = tmp_path / "Geheim ä (2).bin"
    content.write_bytes(random.Random(5).randbytes(SIZE))
    asked: list[str] = []
    page.on(
        "request",
        lambda request: asked.append(f"{request.url} {request.headers} {request.post_data_buffer!r}"),
    )
    link = send_sealed(page, content)
    assert link.startswith(f"http://{daemon.plain}/#/files/")
    assert asked
    assert not [request for request in asked if link[-43:] in request], "the server learned the secret"
    expect(page.locator(".card img.qr")).to_have_count(0)
    expect(page.get_by_label(f"Key of {content.name}")).to_have_count(0)
    saved = open_link(browser.page(), link)
    assert (saved.name, digest(saved)) == (content.name, digest(content))
    kept = b"".join(path.read_bytes() for path in daemon.data_dir.rglob("*") if path.is_file())
    assert b"Geheim" not in kept


def test_sealed_for_one_download(page: Page, browser: Browser, tmp_path: Path) -> None:
    content = tmp_path / "once.bin"
    content.write_bytes(random.Random(7).randbytes(200_000))
    page.check("#once")
    link = send_sealed(page, content)
    expect(page.locator(".card-state")).to_contain_text("gone after its first download")
    assert digest(open_link(browser.page(), link)) == digest(content)
    late = browser.page()
    late.goto(link)
    late.click("#receive-form button")
    expect(late.locator("#receive-trouble")).to_contain_text("the file is gone: it has expired")
    assert browser.complaints == []


def test_from_the_page_to_the_command_and_back(page: Page, browser: Browser, tmp_path: Path) -> None:
    content = tmp_path / "a.txt"
    content.write_bytes(b"hello" * 50_000)
    received = tmp_path / "received.txt"
    fawa("receive", send_sealed(page, content), "-o", str(received))
    assert digest(received) == digest(content)
    sent = fawa("send", str(content), "--encrypt", f"--server={page.url.split('/#')[0]}")
    (link,) = (line.split()[1] for line in sent.splitlines() if line.startswith("  link "))
    saved = open_link(browser.page(), link)
    assert (saved.name, digest(saved)) == ("a.txt", digest(content))


def fawa(*arguments: str) -> str:
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, timeout=60, env=environment()
    )
    assert done.returncode == 0, done
    return done.stdout


def test_a_link_that_does_not_open(page: Page, browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hello")
    link = send_sealed(page, tmp_path / "a")
    other = browser.page()
    for bad, reason in (
        (link[:-43] + "A" * 43, "the link has another file's secret"),
        (link[:-1], "the link is not whole"),
        (link[:-60] + "abcdefghijklmnop" + link[-44:], "There is no file under this key"),
    ):
        other.goto(bad)
        other.click("#receive-form button")
        expect(other.locator("#receive-trouble")).to_contain_text(reason)
