"""The tests' browser tells of what goes wrong on a page, and says so when there is no browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import Browser, browsing
from tests.daemon import Daemon

#: Each with what is told of it.
FAULTS = {
    "console.error('no such board')": "console.error: no such board",
    "console.assert(1 === 2, 'one is not two')": "console.assert: one is not two",
    "setTimeout(() => { throw new Error('late') })": "uncaught: Error: late",
    "setTimeout(() => { throw 'a word' })": "uncaught: a word",
    "Promise.reject(new Error('nobody waits')), 0": "uncaught: Error: nobody waits",
    "fetch(location.origin + '/nothing').then(() => 0)": "console.error: Failed to load resource: the server "
    "responded with a status of 404",
}


def test_what_goes_wrong_on_a_page(daemon: Daemon, tmp_path: Path) -> None:
    def misbehave() -> None:
        with browsing(tmp_path / "profile") as browser:
            page = browser.page()
            page.goto(f"http://{daemon.plain}/")
            for script in FAULTS:
                page.evaluate(script)
            # What was to happen later has happened.
            page.evaluate("() => new Promise(resolve => setTimeout(resolve))")

    with pytest.raises(AssertionError) as raised:
        misbehave()
    told = str(raised.value)
    assert [complaint for complaint in FAULTS.values() if complaint not in told] == []


def test_an_expected_error(browser: Browser) -> None:
    browser.page().evaluate("console.log('hello'), console.error('as expected')")
    assert [complaint.partition(" (")[0] for complaint in browser.complaints] == [
        "console.error: as expected"
    ]
    browser.complaints.clear()


def test_no_chromium(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(AssertionError, match=r"no chromium on PATH.*apt-get install chromium"),
        browsing(tmp_path / "profile"),
    ):
        pass
