"""What the tests in a browser share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Browser, browsing, trusting
from tests.daemon import Daemon


@pytest.fixture
def browser(daemon: Daemon, tmp_path: Path) -> Iterator[Browser]:
    """A Chromium of this test's own, which trusts the daemon; an error on a page fails the test."""
    with browsing(tmp_path / "profile", trusting(daemon.certificate)) as started:
        yield started
