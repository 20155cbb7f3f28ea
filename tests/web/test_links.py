"""A temporary link, sent to somebody who opens it in a browser."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Browser
from tests.client.running import PATIENCE, command, environment
from tests.daemon import Daemon


def fawa(server: str, ca: Path, name: str, *arguments: str | Path) -> dict[str, Any]:
    """Run the `fawa` command; return what it prints."""
    line = command(name, "--json", "--server", server, "--ca", ca, *arguments)
    done = subprocess.run(line, env=environment(), stdout=subprocess.PIPE, check=True, timeout=PATIENCE)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def follow(browser: Browser, link: str) -> tuple[str, Path]:
    """Click on a link; return the name under which the browser saves the file, and where it is for now."""
    page = browser.page()
    page.set_content("<a>the file you asked for</a>")
    page.evaluate("link => document.querySelector('a').href = link", link)
    with page.expect_download() as download:
        page.click("a")
    return download.value.suggested_filename, download.value.path()


@pytest.mark.parametrize(
    ("scheme", "name"),
    [
        ("http", "report.pdf"),
        ("http", "page.html"),  # which a browser would rather show than save
        ("http", "100% sure; it's = fine, or isn't it.tar.gz"),
        ("http", "報告書 Отчёт 📄.bin"),
        ("https", "Ein schöner Plan (2. Fassung).txt"),
    ],
)
def test_a_link_in_a_browser(
    browser: Browser, daemon: Daemon, tmp_path: Path, scheme: str, name: str
) -> None:
    server = f"{scheme}://{daemon.tls if scheme == 'https' else daemon.plain}"
    content = random.Random(name).randbytes(3_000_000)
    (tmp_path / "content").write_bytes(content)
    key = fawa(server, daemon.certificate, "send", tmp_path / "content", "--name", name)["key"]
    link = fawa(server, daemon.certificate, "link", key)["link"]
    assert link.startswith(server)
    saved_as, path = follow(browser, link)
    assert saved_as == name
    assert hashlib.sha256(path.read_bytes()).hexdigest() == hashlib.sha256(content).hexdigest()


def test_a_link_that_was_cut_off(browser: Browser, daemon: Daemon, tmp_path: Path) -> None:
    """Whoever opens it reads why there is no file."""
    (tmp_path / "content").write_bytes(b"secret")
    sent = fawa(f"http://{daemon.plain}", daemon.certificate, "send", tmp_path / "content", "--name", "a.txt")
    page = browser.page()
    with page.expect_console_message():
        page.goto(sent["link"][:-1])
    assert "cut off, ask for a new one" in page.inner_text("body")
    (complaint,) = browser.complaints
    assert "status of 403" in complaint
    browser.complaints.clear()
