"""Folding: nothing moves, nothing is lost but what the bound says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fawa.board.events import DrawEvent
from fawa.board.saved import SavedRun
from fawa.board.strokes import MOST_POINTS, Run, Snapshot, expand, fold

int32 = st.integers(-(1 << 31), (1 << 31) - 1)
near = st.integers(0, 2)


def events(number: st.SearchStrategy[int] = near) -> st.SearchStrategy[list[DrawEvent]]:
    """Events of few kinds at few places, so that many can be joined and some only nearly."""
    return st.lists(
        st.builds(
            DrawEvent,
            type=st.sampled_from(["draw", "arrow"]),
            color=st.sampled_from(["", "#fff"]),
            size=st.integers(1, 2),
            prev_x=number,
            prev_y=st.just(0),
            curr_x=number,
            curr_y=st.just(0),
            client_id=st.sampled_from(["AAAAAAAA", "BBBBBBBB"]),
            stroke=st.integers(0, 1),
        )
    )


@given(events() | events(int32))
def test_folded_and_expanded_events_are_the_same(some: list[DrawEvent]) -> None:
    runs = fold(some)
    assert list(expand(runs)) == some
    assert [list(SavedRun.of(run).run().events()) for run in runs] == [list(run.events()) for run in runs]


@given(events())
def test_a_snapshot_keeps_order_too(some: list[DrawEvent]) -> None:
    snapshot = Snapshot(1 << 20)
    for event in some:
        snapshot.add(event)
    assert list(expand(snapshot.runs)) == some
    assert [run.numbers() for run in snapshot.runs] == [run.numbers() for run in fold(some)]
    assert snapshot.is_whole


@given(events(), st.integers(0, 4000), st.sampled_from(["AAAAAAAA", "BBBBBBBB"]))
def test_beyond_its_bound_a_snapshot_forgets_the_oldest(
    some: list[DrawEvent], limit: int, client_id: str
) -> None:
    snapshot = Snapshot(limit)
    for event in some:
        snapshot.add(event)
        assert snapshot.size <= limit
    kept = list(expand(snapshot.runs))
    assert kept == some[len(some) - len(kept) :]
    assert snapshot.is_whole == (len(kept) == len(some))
    # Strokes can be taken out as before, and what is left makes up the size.
    stroke = (client_id, 1)
    left = [event for event in kept if (event.client_id, event.stroke) != stroke]
    assert snapshot.remove(stroke) == (left != kept)
    assert not snapshot.remove(stroke)
    assert list(expand(snapshot.runs)) == left
    assert snapshot.size == sum(300 + len(run.points) for run in snapshot.runs)


def test_removing_the_last_run_lets_the_one_before_go_on() -> None:
    snapshot = Snapshot(1 << 20)
    snapshot.add(DrawEvent("draw", curr_x=1, client_id="AAAAAAAA", stroke=1))
    snapshot.add(DrawEvent("draw", curr_x=5, client_id="BBBBBBBB", stroke=1))
    snapshot.remove(("BBBBBBBB", 1))
    snapshot.add(DrawEvent("draw", prev_x=1, curr_x=2, client_id="AAAAAAAA", stroke=1))
    assert [run.numbers() for run in snapshot.runs] == [(0, 0, 1, 0, 2, 0)]


def test_times_become_that_of_the_first() -> None:
    run = Run.of(DrawEvent("draw", curr_x=1, time=7))
    assert run.join(DrawEvent("draw", prev_x=1, curr_x=2, time=9))
    assert [event.time for event in run.events()] == [7, 7]


def test_a_run_has_a_longest_length() -> None:
    some = [DrawEvent("draw", prev_x=x, curr_x=x + 1) for x in range(2 * MOST_POINTS)]
    runs = fold(some)
    assert [len(run.numbers()) // 2 for run in runs] == [MOST_POINTS, MOST_POINTS, 3]
    assert list(expand(runs)) == some


@pytest.mark.parametrize(
    "change",
    [
        {"type": "arrow"},
        {"color": "#fff"},
        {"size": 2},
        {"client_id": "BBBBBBBB"},
        {"stroke": 2},
        {"prev_x": 2},
        {"prev_y": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_differs_is_not_joined(change: dict[str, str | int]) -> None:
    fields: dict[str, str | int] = {"type": "draw", "prev_x": 1, "client_id": "AAAAAAAA", "stroke": 1}
    run = Run.of(DrawEvent("draw", "", 0, 0, 0, 1, 0, "AAAAAAAA", 0, 1))
    assert not run.join(DrawEvent(**{**fields, **change}))  # type: ignore[arg-type]
    assert run.join(DrawEvent(**fields))  # type: ignore[arg-type]
