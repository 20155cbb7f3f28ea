"""What all tests share."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis.internal.conjecture import providers

from tests.daemon import Daemon, running

# The everyday run tries the same examples each time, so that it says something about the change at hand; run
# with HYPOTHESIS_PROFILE=search to look for new ones. A timing never decides a test.
settings.register_profile("everyday", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile(PROFILE := os.environ.get("HYPOTHESIS_PROFILE", "everyday"))
if PROFILE == "everyday":
    # Hypothesis also tries the constants in whichever of our modules are loaded: other examples for each test
    # that the same process happens to run before. It has no setting for that.
    assert hasattr(providers, "is_local_module_file")
    vars(providers)["is_local_module_file"] = lambda path: False


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills",
        type=int,
        default=4,
        metavar="N",
        help="kill -9 fawad, Redis and S3 N times each (4)",
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
    """A `fawad` with its default settings, for all tests that leave it as they found it.

    But for one: hundreds of tests ask for a file that there is not, all from one address.
    """
    with running(tmp_path_factory.mktemp("fawad"), "--file-wrong-keys", "1000000") as started:
        yield started
        faults = [entry for entry in started.events() if entry["level"] not in {"debug", "info"}]
        assert not faults, "\n".join(
            [
                "the daemon had something to complain about:",
                *(entry.get("exception", {}).get("traceback", str(entry)) for entry in faults[:3]),
            ]
        )
