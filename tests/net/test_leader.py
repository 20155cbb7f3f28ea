"""The connection's leader and its calls under everything a client and an application may do."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import given, note, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from fawa.net import connection
from fawa.net.connection import Connection
from fawa.net.engine import H1Engine
from fawa.net.http1 import H1Connection
from fawa.net.http2 import H2Connection, H2Exchange
from tests.net.leader_machine import Drawn, H1Machine, H2Machine, Machine, Seeded

MACHINES: list[type[Machine]] = [H1Machine, H2Machine]


@pytest.mark.filterwarnings("ignore::trio.TrioDeprecationWarning")
@pytest.mark.parametrize("kind", MACHINES)
def test_every_call_is_answered_once_with_its_own_bytes(kind: type[Machine]) -> None:
    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        machine = kind(Drawn(data), Counter())
        try:
            trio.run(machine.run, 25, clock=MockClock(autojump_threshold=0))
        except BaseException:
            note("\n".join(machine.story))
            raise

    run()


def run_seeds(kind: type[Machine], seeds: range, steps: int = 40) -> Counter[str]:
    """Run the machine from each seed; returns the rare states that it has been in."""
    reached: Counter[str] = Counter()
    for seed in seeds:
        machine = kind(Seeded(random.Random(seed)), reached)
        try:
            trio.run(machine.run, steps, clock=MockClock(autojump_threshold=0))
        except BaseException as error:
            error.add_note(f"seed {seed}:\n" + "\n".join(machine.story))
            raise
    return reached


RARE = {
    H1Machine: {
        "sent ahead",
        "answered by a task that does not lead",
        "broken off",
        "drained with calls open",
        "left with calls open",
    },
    H2Machine: {
        "reset before it began",
        "reset of a call that waits",
        "reset of an answer that waits for the window",
        "an answer waits for the window",
        "no window to send in",
        "answered early",
        "drained with calls open",
        "left with calls open",
    },
}


@pytest.mark.parametrize("kind", MACHINES)
def test_the_machine_reaches_the_rare_states(kind: type[Machine]) -> None:
    reached = run_seeds(kind, range(60))
    assert {state for state in RARE[kind] if not reached[state]} == set()
