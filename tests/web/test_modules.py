"""The page's pure modules, tested by Node's own test runner: each `*.test.js` beside this file."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SUITES = sorted(path.name for path in HERE.glob("*.test.js"))


@pytest.mark.parametrize("suite", SUITES)
def test_modules(suite: str) -> None:
    done = subprocess.run(
        ["node", "--test", "--test-reporter=tap", suite],
        cwd=HERE,
        env={"PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    assert "# fail 0" in done.stdout
    assert "# tests 0" not in done.stdout
