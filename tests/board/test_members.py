"""Who is remembered for the numbers of their events, and who is forgotten for others."""

from __future__ import annotations

from fawa.board.members import Members


def test_who_has_been_away_for_longest_is_forgotten() -> None:
    members = Members(3)
    for client_id in "ABC":
        members.find(client_id, ()).committed = 7
    members.touch("A")
    members.touch("nobody")
    members.find("D", ())
    assert [client_id for client_id, _op in members.items()] == ["C", "A", "D"]
    assert members.committed("B") == 0
    assert members.committed("C") == 7


def test_who_is_here_is_not_forgotten() -> None:
    members = Members(3)
    for client_id in "ABC":
        members.find(client_id, ())
    members.find("D", {"A", "B", "D"})
    assert {client_id for client_id, _op in members.items()} == {"A", "B", "D"}


def test_with_everybody_here_the_bound_gives_way() -> None:
    members = Members(1)
    members.find("A", {"A", "B"})
    members.find("B", {"A", "B"})
    assert len(members) == 2


def test_lost_proposals_count_as_not_taken() -> None:
    members = Members(3)
    ahead, level = members.find("A", ()), members.find("B", ())
    ahead.committed, ahead.proposed = 2, 5
    level.committed = level.proposed = 4
    assert members.forget_proposals() == ["A"]
    assert (ahead.proposed, level.proposed) == (2, 4)
