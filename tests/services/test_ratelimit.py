"""Token buckets: a burst after a rest, then so much a second, for each key by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fawa.services.ratelimit import Bucket, Buckets, Rate


def test_a_burst_and_then_so_many_a_minute() -> None:
    buckets = Buckets(Rate(3, 1 / 6))
    assert [buckets.take("a", 0.0) for _ in range(3)] == [0, 0, 0]
    assert buckets.take("a", 0.0) == pytest.approx(6)
    assert buckets.take("a", 4.0) == pytest.approx(2), "what is refused does not count"
    assert buckets.take("b", 4.0) == 0, "others are not concerned"
    assert buckets.take("a", 6.0) == 0
    assert buckets.take("a", 6.0) == pytest.approx(6)
    assert [buckets.take("a", 1000.0) for _ in range(3)] == [0, 0, 0], "after a rest it is full"
    assert buckets.take("a", 1000.0) > 0


def test_what_is_given_back_does_not_count() -> None:
    buckets = Buckets(Rate(1, 1))
    for _ in range(10):
        assert buckets.take("a", 0.0) == 0
        buckets.give_back("a")
    buckets.take("a", 0.0)
    assert buckets.take("a", 0.0) > 0
    buckets.give_back("nobody")


def test_many_at_once() -> None:
    buckets = Buckets(Rate(3600, 1))
    assert buckets.left("a", 5.0) == 3600
    assert buckets.take("a", 5.0, 3000) == 0
    assert buckets.left("a", 5.0) == pytest.approx(600)
    assert buckets.take("a", 5.0, 1000) == pytest.approx(400)
    assert buckets.left("a", 105.0) == pytest.approx(700)
    buckets.give_back("a", 2900)
    assert buckets.left("a", 105.0) == 3600
    assert buckets.take("a", 105.0, 3600) == 0
    assert buckets.take("a", 105.0, 1) == pytest.approx(1)


def test_who_did_something_longest_ago_is_forgotten() -> None:
    buckets = Buckets(Rate(1, 0.001), most_keys=3)
    for key in "abc":
        buckets.take(key, 0.0)
    assert buckets.take("a", 1.0) > 0
    buckets.take("d", 1.0)
    assert [buckets.take(key, 2.0) > 0 for key in "bcd"] == [True, True, True]
    assert buckets.take("a", 2.0) == 0, "a came first, and its refusal was no new thing that it did"


def test_what_is_too_much_waits() -> None:
    bucket = Bucket(Rate(10, 5))
    assert bucket.spend(10, 100.0) == 0
    assert bucket.spend(1, 100.0) == pytest.approx(0.2)
    assert bucket.spend(256, 100.2) == pytest.approx(51.2)
    assert bucket.spend(1, 100.2 + 51.2) == pytest.approx(0.2)
    assert bucket.spend(10, 1000.0) == 0


@given(
    burst=st.integers(1, 20),
    rate=st.floats(0.01, 100),
    pauses=st.lists(st.floats(0, 10), max_size=60),
)
def test_nobody_does_more_than_allowed_in_any_stretch(burst: int, rate: float, pauses: list[float]) -> None:
    buckets = Buckets(Rate(burst, rate))
    now, done = 0.0, []
    for pause in pauses:
        now += pause
        wait = buckets.take("a", now)
        if wait == 0:
            done.append(now)
        else:
            assert buckets.take("a", now + 0.99 * wait) > 0
    for first, start in enumerate(done):
        for last, end in enumerate(done[first:], first):
            assert last - first + 1 <= burst + rate * (end - start) + 1e-6


@given(
    burst=st.integers(1, 50),
    rate=st.floats(0.1, 1000),
    counts=st.lists(st.integers(1, 256), min_size=1, max_size=40),
)
def test_who_waits_as_told_keeps_to_the_rate(burst: int, rate: float, counts: list[int]) -> None:
    bucket = Bucket(Rate(burst, rate))
    now = 0.0
    for count in counts:
        now += bucket.spend(count, now)
    # All is done in the end, and no sooner than the rate allows.
    assert sum(counts) <= burst + rate * now + 1e-6 * rate
