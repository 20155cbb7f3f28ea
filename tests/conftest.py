"""What all tests share."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.daemon import Daemon, running


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=10, metavar="N", help="kill -9 the daemon N times during uploads (10)"
    )
    parser.addoption(
        "--seed", type=int, default=None, metavar="N", help="repeat the random choices of an earlier run"
    )


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """Where random choices start; the report of a failed test says which seed repeats them."""
    given: int | None = request.config.getoption("--seed")
    return random.SystemRandom().randrange(1 << 32) if given is None else given


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A `fawad` with its default settings, for all tests that leave it as they found it."""
    with running(tmp_path_factory.mktemp("fawad")) as started:
        yield started
        faults = [entry for entry in started.events() if entry["level"] not in {"debug", "info"}]
        assert not faults, "the daemon had something to complain about"
