"""A real Chromium with a fresh profile, driven by Playwright, that tells of every error on its pages.

Playwright's synchronous interface keeps an asyncio loop running in its thread for as long as it is open.
It is opened and closed within one test, because others run loops of their own in that thread.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, WebError, sync_playwright

from tests.daemon import PATIENCE


@attrs.frozen
class Browser:
    """A running Chromium."""

    context: BrowserContext
    #: Console errors, uncaught exceptions, unhandled rejections and crashes. None may be left when the
    #: browser closes, so a test that expects some takes them out.
    complaints: list[str] = attrs.field(factory=list)

    def page(self) -> Page:
        """Open a new, empty page."""
        return self.context.new_page()


def _listen(context: BrowserContext, complaints: list[str]) -> None:
    def on_console(message: ConsoleMessage) -> None:
        url = message.location["url"]
        # Chromium asks for that by itself where a page names no icon, and so when it shows plain text.
        if message.type in {"error", "assert"} and not url.endswith("/favicon.ico"):
            complaints.append(f"console.{message.type}: {message.text} ({url})")

    def on_error(error: WebError) -> None:
        complaints.append(f"uncaught: {error.error.stack or error.error}")

    def on_crash(page: Page) -> None:
        complaints.append(f"crashed: {page.url}")

    context.on("console", on_console)
    context.on("weberror", on_error)
    context.on("page", lambda page: page.on("crash", on_crash))


def trusting(certificate: Path) -> str:
    """Return the flag by which Chromium takes connections with this certificate's key for secure."""
    key = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    return f"--ignore-certificate-errors-spki-list={base64.b64encode(digest).decode()}"


@contextlib.contextmanager
def browsing(profile: Path, *flags: str) -> Iterator[Browser]:
    """Run Chromium with its profile in `profile`, a new folder, and `flags` added to its command line.

    Raises:
        AssertionError: there is no Chromium, or a page had an error.

    """
    program = shutil.which("chromium")
    assert program, "no chromium on PATH, which the tests need (Debian: apt-get install chromium)"
    with (
        sync_playwright() as playwright,
        contextlib.closing(
            playwright.chromium.launch_persistent_context(
                profile,
                executable_path=program,
                headless=True,
                # Root and containers have no sandbox, and the pages are our own.
                chromium_sandbox=False,
                args=["--disable-gpu", *flags],
                timeout=PATIENCE * 1000,
            )
        ) as context,
    ):
        context.set_default_timeout(PATIENCE * 1000)
        browser = Browser(context)
        _listen(context, browser.complaints)
        yield browser
    # Looked at when it has closed, so that nothing more can come.
    assert not browser.complaints, "\n".join(["pages had errors:", *browser.complaints])
