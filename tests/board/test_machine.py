"""The board against a plain model, and faults that this comparison must find."""

from __future__ import annotations

import os

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.board.machine import BoardMachine, reached
from tests.board.mutants import MUTANTS, Patch

#: HYPOTHESIS_PROFILE=search looks for new runs, and at many more of them.
SEARCH = os.environ.get("HYPOTHESIS_PROFILE") == "search"


def run(max_examples: int, *, derandomize: bool = True) -> None:
    """Let the machine run; the same way each time unless it is to look for new ways, and not shrunk."""
    run_state_machine_as_test(
        BoardMachine,
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=60,
            deadline=None,
            derandomize=derandomize,
            phases=[Phase.generate],
            report_multiple_bugs=False,
        ),
    )


def test_a_board_against_a_model() -> None:
    reached.clear()
    run(3000 if SEARCH else 200, derandomize=not SEARCH)
    assert reached.keys() == {
        "acknowledged again",
        "board is full",
        "bus away",
        "bus repeats",
        "bus skips",
        "closed: hopeless",
        "closed: stalled",
        "expired",
        "ladder: lane",
        "ladder: snapshot",
        "nearly too late: +0",
        "nearly too late: +1",
        "nearly too late: -1",
        "not recovered",
        "pictures compared: WireProto",
        "pictures compared: WireV1",
        "pictures compared: v2",
        "recovered",
        "refused: out_of_order",
        "refused: read_only",
        "restarted",
        "restarted from an older save",
        "resumed twice",
        "returns: ahead",
        "returns: forgot",
        "returns: fresh",
        "returns: stale",
        "returns: wrong epoch",
    }
    assert min(reached.values()) > 2


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_fault_is_found(mutant: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        run(300)
