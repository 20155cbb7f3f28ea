"""When a crashed service comes back, and when it is given up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fawa.restarts import CrashCount, GivenUp, pause


def test_pauses_double_up_to_half_a_minute() -> None:
    assert [pause(crashes, 0) for crashes in (1, 2, 3, 4)] == [0.1, 0.2, 0.4, 0.8]
    assert pause(10, 0) == pause(10_000, 0) == 30


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_chance_takes_up_to_half_away(crashes: int, chance: float) -> None:
    assert pause(crashes, 0) / 2 <= pause(crashes, chance) <= pause(crashes, 0)


def test_crashes_count_within_the_window_only() -> None:
    crashes = CrashCount(most=2, window=60)
    assert crashes.add(0) == 1
    assert crashes.add(30) == 2
    assert crashes.add(61) == 2  # the first is out of the window
    with pytest.raises(GivenUp, match=r"crashed 3 times within 60 s; at most 2 are allowed"):
        crashes.add(62)


def test_no_crash_is_allowed_at_all() -> None:
    with pytest.raises(GivenUp, match="crashed 1 times"):
        CrashCount(most=0, window=1).add(5)
