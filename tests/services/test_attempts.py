"""What somebody may get wrong only so often."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
from trio.testing import MockClock

from fawa.services.attempts import Attempts
from fawa.services.ratelimit import Rate


class Wrong(Exception):  # noqa: N818
    pass


class Refused(Exception):  # noqa: N818
    pass


def attempts() -> Attempts:
    """Three at once, and one more each ten seconds."""
    return Attempts(Rate(3, 1 / 10), trio.current_time)


async def attempt(these: Attempts, key: str = "ann", *, takes: float = 0, right: bool = False) -> str:
    try:
        async with these.one(key, lambda wait: Refused(f"{wait:.0f}"), Wrong):
            await trio.sleep(takes)
            if not right:
                raise Wrong
    except (Wrong, Refused) as error:
        return f"{type(error).__name__} {error}".strip()
    return "right"


async def at_once(these: Attempts, count: int, *, right: bool) -> Counter[str]:
    found: Counter[str] = Counter()

    async def one() -> None:
        found[await attempt(these, takes=1, right=right)] += 1

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return found


async def test_too_many_wrong_ones(autojump_clock: MockClock) -> None:
    these = attempts()
    assert [await attempt(these) for _ in range(4)] == ["Wrong", "Wrong", "Wrong", "Refused 10"]
    assert await attempt(these, right=True) == "Refused 10"
    assert await attempt(these, "bob", right=True) == "right"
    await trio.sleep(10)
    assert await attempt(these, right=True) == "right"
    assert [await attempt(these), await attempt(these)] == ["Wrong", "Refused 10"]


async def test_however_many_right_ones_come_at_once(autojump_clock: MockClock) -> None:
    these = attempts()
    assert await at_once(these, 100, right=True) == {"right": 100}
    assert these._undecided == {}


async def test_a_flood_of_guesses_does_not_slip_through(autojump_clock: MockClock) -> None:
    these = attempts()
    found = await at_once(these, 100, right=False)
    assert found["Wrong"] == 3
    assert sum(count for told, count in found.items() if told.startswith("Refused")) == 97
    assert these._undecided == {}


async def test_one_that_is_broken_off_was_not_wrong(autojump_clock: MockClock) -> None:
    these = attempts()
    for _ in range(10):
        with trio.move_on_after(1):
            await attempt(these, takes=10)
    assert await attempt(these, right=True) == "right"
    with pytest.raises(ZeroDivisionError):
        async with these.one("ann", lambda wait: Refused(), Wrong):
            raise ZeroDivisionError
    assert these._undecided == {}
