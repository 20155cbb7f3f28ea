"""The connection's leader and its calls under everything a client and an application may do."""

from __future__ import annotations

import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio
from hypothesis import given, note, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from fawa.net import connection
from fawa.net.connection import Connection
from fawa.net.engine import H2Engine
from fawa.net.engine_http1 import H1Engine
from fawa.net.exchange import Exchange
from fawa.net.http1 import H1Connection
from fawa.net.http2 import H2Connection, H2Exchange
from tests.net.leader_machine import Drawn, Machine, Seeded
from tests.net.leader_versions import H1Machine, H2Machine
from tests.net.talk import examples


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Applications fail here by plan, thousands of times."""
    monkeypatch.setattr(logging.getLogger("fawa.net"), "disabled", True)


MACHINES: list[type[Machine]] = [H1Machine, H2Machine]


@pytest.mark.filterwarnings("ignore::trio.TrioDeprecationWarning")
@pytest.mark.parametrize("kind", MACHINES)
def test_every_call_is_answered_once_with_its_own_bytes(kind: type[Machine]) -> None:
    @settings(max_examples=examples(80), deadline=None)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        machine = kind(Drawn(data), Counter())
        try:
            trio.run(machine.run, 20, clock=MockClock(autojump_threshold=0))
        except BaseException:
            note("\n".join(machine.story))
            raise

    run()


def run_seeds(kind: type[Machine], seeds: range) -> Counter[str]:
    """Run the machine from each seed; returns the rare states that it has been in."""
    reached: Counter[str] = Counter()
    for seed in seeds:
        chance = random.Random(seed)
        machine = kind(Seeded(chance), reached)
        try:
            trio.run(machine.run, chance.choice((5, 15, 40)), clock=MockClock(autojump_threshold=0))
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
    reached = run_seeds(kind, range(80))
    assert {state for state in RARE[kind] if not reached[state]} == set()


# Mutants: each is a fault that the machine must see.


def awaits_in_the_leaders_place(call: Coroutine[Any, Any, None], on_wait: Callable[[], None]) -> Any:
    return call


def leaves_corked(self: Connection[Any]) -> None:
    UNCORK(self)
    self.corked = True


def wakes_nobody(self: Connection[Any]) -> None:
    pass


def sets_no_deadline(self: Connection[Any], at: float) -> None:
    if self._deadline == math.inf:
        SET_DEADLINE(self, at)


def gives_nothing_back(self: H2Engine, stream_id: int, keep: int = 0) -> bool:
    return False


def gives_the_connection_nothing_back(self: H2Connection, stream_id: int, size: int) -> None:
    self._unconsumed -= size
    if stream_id:
        self.engine.release(stream_id)
        self.wake_writer()


def forgets_no_exchange(self: H2Connection, exchange: H2Exchange) -> None:
    exchange.close()


def only_cancels(self: H2Connection, stream_id: int) -> None:
    if (exchange := self.exchanges.pop(stream_id, None)) is not None:
        exchange.cancel()


def cancels_nothing(self: Exchange) -> None:
    pass


def owes_nothing(self: H2Connection, exchange: H2Exchange) -> bool:
    return False


def resets_nothing(self: H2Exchange, code: int) -> None:
    pass


async def answers_no_rest(self: Connection[Any]) -> None:
    pass


def turns_to_no_next(self: H1Connection) -> None:
    pass


def keeps_no_order(self: H1Engine) -> None:
    pass


def keeps_calls(self: Connection[Any]) -> None:
    pass


def keeps_the_deadline_of_the_head(self: H1Connection, data: bytes) -> None:
    PARSE(self, data)
    if data and self.reading:
        self.set_deadline(trio.current_time() + self.limits.header_timeout)


UNCORK = Connection._uncork
SET_DEADLINE = Connection.set_deadline
PARSE = H1Connection.parse

BOTH, H1, H2 = MACHINES, MACHINES[:1], MACHINES[1:]
MUTANTS: list[tuple[list[type[Machine]], object, str, object]] = [
    (BOTH, connection, "_run_until_it_waits", awaits_in_the_leaders_place),
    (BOTH, Connection, "_uncork", leaves_corked),
    (BOTH, Connection, "wake_writer", wakes_nobody),
    (BOTH, Connection, "set_deadline", sets_no_deadline),
    (H1, Connection, "_answer_rest", answers_no_rest),
    (H1, H1Connection, "_next", turns_to_no_next),
    (H1, H1Connection, "parse", keeps_the_deadline_of_the_head),
    (H1, H1Connection, "cancel_calls", keeps_calls),
    (H1, H1Engine, "_gather", keeps_no_order),
    (H2, H2Engine, "release", gives_nothing_back),
    (H2, H2Connection, "consumed", gives_the_connection_nothing_back),
    (H2, H2Connection, "close_exchange", forgets_no_exchange),
    (H2, H2Connection, "_drop", only_cancels),
    (H2, H2Connection, "cancel_calls", keeps_calls),
    (H2, H2Connection, "owes", owes_nothing),
    (H2, H2Exchange, "cancel", cancels_nothing),
    (H2, H2Exchange, "_reset", resets_nothing),
]


@pytest.mark.parametrize(
    ("kind", "owner", "name", "fault"),
    [
        pytest.param(kind, owner, name, fault, id=f"{kind.__name__}-{name}-{getattr(fault, '__name__', '')}")
        for kinds, owner, name, fault in MUTANTS
        for kind in kinds
    ],
)
def test_the_machine_sees_the_fault(
    kind: type[Machine], owner: object, name: str, fault: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, fault)
    with pytest.raises((AssertionError, ExceptionGroup)) as caught:
        run_seeds(kind, range(200))
    assert "seed" in caught.value.__notes__[-1]
