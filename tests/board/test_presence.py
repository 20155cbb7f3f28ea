"""The lane where the latest wins, against dicts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fawa.board import presence
from fawa.board.presence import MOST_GONE, Person, Presence, Status

names = st.sampled_from("ABCD")


@given(st.lists(st.tuples(st.sampled_from(["here", "gone", "status", "look"]), names, st.integers(0, 3))))
def test_who_looks_now_and_then_knows_who_is_here(acts: list[tuple[str, str, int]]) -> None:
    lane = Presence()
    people: dict[str, Person] = {}
    seen, shown, status = 0, dict[str, Person](), Status()
    for act, key, number in [*acts, ("look", "A", 0)]:
        if act == "here":
            people[key] = Person(str(number))
            lane.here(key, people[key])
        elif act == "gone" and key in people:
            del people[key]
            lane.gone(key)
        elif act == "status":
            lane.set_status(Status(number % 2 == 0, str(number)))
        elif act == "look":
            news = lane.since(seen)
            seen = lane.version
            if news.all:
                shown = {}
            for one in news.gone:
                shown.pop(one, None)
            shown.update(news.here)
            status = news.status or status
            assert shown == people
            assert status == lane.status


def test_nothing_new_is_nothing() -> None:
    lane = Presence()
    lane.here("A", Person("Ada"))
    assert lane.since(lane.version) == presence.News(False, [], [], None)


def test_a_change_keeps_what_it_does_not_name() -> None:
    lane = Presence()
    lane.here("A", Person("Ada", "red"))
    lane.change("A", "Bo", None)
    assert lane.since(1).here == [("A", Person("Bo", "red"))]
    lane.change("A", None, "blue")
    assert lane.since(1).here == [("A", Person("Bo", "blue"))]


def test_who_has_seen_too_little_is_shown_everybody() -> None:
    lane = Presence()
    lane.here("A", Person("Ada"))
    lane.here("B", Person("Bo"))
    seen = lane.version
    for number in range(MOST_GONE):
        lane.gone(str(number))
    assert not lane.since(seen).all
    assert len(lane.since(seen).gone) == MOST_GONE
    lane.gone("one more")
    news = lane.since(seen)
    assert news.all
    assert news.here == [("A", Person("Ada")), ("B", Person("Bo"))]
    assert not lane.since(seen + 1).all
