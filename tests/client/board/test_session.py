"""The conversation with a board, document by document: no connection, and time as the test says."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest

from fawa.board.events import DrawEvent
from fawa.client.board.documents import Changed, Event, Rejected, Snapshot
from fawa.client.board.session import Session, Told, Unusable


@attrs.define
class Talk:
    """A session, and a server that says what the test says."""

    session: Session = attrs.field(factory=lambda: Session("Ada", "#e91e63", lambda: 0.5))
    now: float = 100.0

    def hear(self, **document: Any) -> list[Told]:
        """Say something to the client; returns what it tells."""
        return self.session.take_untrusted(json.dumps(document).encode(), self.now)

    def said(self) -> list[dict[str, Any]]:
        """Return what the client says."""
        said = []
        while (document := self.session.next_document(self.now)) is not None:
            said.append(json.loads(document))
        return said

    def draw(self, *xs: int) -> None:
        self.session.draw(DrawEvent("draw", curr_x=x) for x in xs)

    def drawn(self) -> list[tuple[int, list[int]]]:
        """Return the draws that the client says, as op and coordinates."""
        draws = [document["draw"] for document in self.said()]
        return [(draw["op"], [event["curr_x"] for event in draw["events"]]) for draw in draws]

    def greet(self, **more: Any) -> dict[str, Any]:
        """Connect, and answer the client's hello, which is returned."""
        self.session.begin(self.now)
        [document] = self.said()
        hello = {
            "client_id": "ADA",
            "token": "t",
            "code": "ABC123",
            "epoch": "e",
            "seq": 0,
            "op": 0,
            "recovered": True,
            "limits": {"message": 65536, "events": 256, "ping": 25},
            "read_only": False,
        }
        assert self.hear(hello=hello | more) == [Changed.STATUS]
        said: dict[str, Any] = document["hello"]
        return said

    def event(self, seq: int, op: int = 0, who: str = "BOB", **more: Any) -> list[Told]:
        return self.hear(event={"type": "draw", "seq": seq, "op": op, "client_id": who, **more})

    def lose(self, code: int = 1006, retry_after: float = 0.0) -> float:
        """Cut the connection; returns for how long the client stays away."""
        self.session.end(code, "", self.now, retry_after)
        return self.session.retry_at - self.now


def seqs(told: list[Told]) -> list[int]:
    return [one.seq for one in told if isinstance(one, Event)]


def test_the_first_hello_and_a_snapshot_in_pieces() -> None:
    talk = Talk()
    assert talk.greet(recovered=False) == {"name": "Ada", "color": "#e91e63"}
    stroke = {"type": "draw", "points": [1, 2, 3, 4]}
    assert talk.hear(snapshot={"seq": 7, "first": True, "last": False, "strokes": [stroke]}) == []
    [snapshot] = talk.hear(snapshot={"seq": 7, "first": False, "last": True, "strokes": [stroke]})
    assert isinstance(snapshot, Snapshot)
    assert [one.points for one in snapshot.strokes] == [(1, 2, 3, 4)] * 2
    assert seqs(talk.event(8)) == [8]
    talk.lose()
    hello = talk.greet()
    assert hello["resume"] == {"client_id": "ADA", "token": "t", "epoch": "e", "seq": 8}


def test_an_event_is_told_once_and_a_gap_is_not_passed_over() -> None:
    talk = Talk()
    talk.greet()
    assert seqs(talk.event(1)) == [1]
    assert talk.event(1) == []
    with pytest.raises(Unusable, match="event 3 came, and 2 did not"):
        talk.event(3)
    talk.lose()
    assert talk.greet()["resume"]["seq"] == 1
    assert seqs(talk.event(2)) == [2]


def test_what_was_not_acknowledged_is_sent_again_and_only_that() -> None:
    talk = Talk()
    talk.draw(1)
    talk.greet()
    assert talk.drawn() == [(1, [1])]
    talk.draw(2, 3)
    assert talk.drawn() == [(2, [2, 3])]
    talk.event(1, op=1, who="ADA")
    assert talk.session.pending == 2
    talk.event(2, op=2, who="BOB")  # somebody else's number
    assert talk.session.pending == 2
    talk.lose()
    talk.draw(4)
    talk.greet(op=2)
    assert talk.drawn() == [(3, [3, 4])]
    talk.hear(ack={"op": 4})
    assert talk.session.pending == 0


def test_somebody_new_counts_from_one() -> None:
    talk = Talk()
    talk.greet(op=0)
    talk.draw(1, 2)
    talk.said()
    talk.event(1, op=1, who="ADA")
    talk.lose()
    talk.greet(client_id="EVE", recovered=False)
    assert talk.drawn() == [(1, [2])]


def test_read_only_and_out_of_order() -> None:
    talk = Talk()
    talk.greet()
    talk.draw(1)
    talk.said()
    talk.draw(2)
    talk.said()
    assert talk.hear(error={"code": "read_only", "message": "", "op": 1}) == [Changed.STATUS]
    talk.draw(3)
    assert talk.drawn() == []
    assert talk.hear(status={"read_only": False, "reason": ""}) == [Changed.STATUS]
    assert talk.drawn() == [(1, [1, 2, 3])]
    talk.draw(4)
    talk.said()
    assert talk.hear(error={"code": "out_of_order", "message": "", "op": 4}) == []
    assert talk.drawn() == [(1, [1, 2, 3, 4])]
    # What was on its way is answered likewise, which asks for nothing more.
    talk.hear(error={"code": "out_of_order", "message": "", "op": 4})
    assert talk.drawn() == []
    talk.hear(ack={"op": 3})
    with pytest.raises(Unusable, match="misses events"):
        talk.hear(error={"code": "out_of_order", "message": "", "op": 4})


def test_what_the_board_will_never_take_is_told_and_not_sent_again() -> None:
    talk = Talk()
    talk.greet()
    talk.draw(1, 2)
    talk.said()
    talk.draw(3)
    talk.said()
    told = talk.hear(error={"code": "bad_field", "message": "no", "op": 1})
    assert told == [Rejected(2, "bad_field", "no")]
    assert talk.session.hang_up
    talk.lose()
    talk.greet()
    assert not talk.session.hang_up
    assert talk.drawn() == [(3, [3])]


def test_draws_keep_to_the_limits() -> None:
    talk = Talk()
    talk.greet(limits={"message": 1000, "events": 3, "ping": 25})
    talk.draw(*range(7))
    assert talk.drawn() == [(1, [0, 1, 2]), (4, [3, 4, 5]), (7, [6])]
    talk.session.draw([DrawEvent("draw", color="#" * 60, curr_x=x) for x in range(20)])
    documents = []
    while (document := talk.session.next_document(talk.now)) is not None:
        documents.append(len(document))
    assert max(documents) <= 1000


def test_people_and_cursors() -> None:
    talk = Talk()
    talk.greet()
    ada, bob = {"client_id": "ADA", "name": "Ada"}, {"client_id": "BOB", "name": "Bob"}
    assert talk.hear(presence={"all": True, "here": [ada, bob], "gone": []}) == [Changed.PEOPLE]
    assert talk.hear(cursors=[{"client_id": "ADA", "x": 1, "y": 2}]) == []
    assert talk.hear(cursors=[{"client_id": "BOB", "x": 1, "y": 2}]) == [Changed.CURSORS]
    assert talk.session.cursors == {"BOB": (1, 2)}
    told = talk.hear(presence={"all": False, "here": [bob], "gone": ["BOB"]})
    assert told == [Changed.PEOPLE, Changed.CURSORS]
    assert (list(talk.session.people), talk.session.cursors) == (["ADA", "BOB"], {})
    talk.session.move(1, 1)
    talk.session.move(2, 2)
    assert talk.said() == [{"cursor": {"x": 2, "y": 2}}]
    talk.session.move(3, 3)
    assert talk.said() == []
    talk.now = talk.session.wake_at
    assert talk.said() == [{"cursor": {"x": 3, "y": 3}}]
    talk.session.change("Eve", "red")
    assert talk.said() == [{"profile": {"name": "Eve", "color": "red"}}]


def test_a_silent_server_is_asked_once_and_then_given_up() -> None:
    talk = Talk()
    talk.greet()
    assert talk.session.wake_at == 125.0
    talk.now = 125.0
    assert talk.said() == [{"ping": 1}]
    assert talk.said() == []
    assert (talk.session.wake_at, talk.session.deadline) == (float("inf"), 133.0)
    talk.now = 130.0
    assert talk.hear(pong=1) == []
    assert (talk.session.wake_at, talk.session.deadline) == (155.0, 163.0)
    assert Talk().session.wake_at == float("inf")


def test_pauses() -> None:
    talk = Talk()
    assert [talk.lose() for _ in range(8)] == [0.375, 0.75, 1.5, 3, 6, 11.25, 11.25, 11.25]
    talk.greet()
    talk.now += 10
    assert talk.lose() == 0.375
    assert talk.lose(4413) == 15
    assert talk.lose(429, retry_after=60) == 45
    talk.greet()
    talk.hear(drain={"retry_after_ms": 1234})
    assert talk.lose(1012) == pytest.approx(1.234)
    assert talk.lose(1012) > 2


@pytest.mark.parametrize("code", [400, 403, 404, 1009, 4400, 4401, 4404, 4409])
def test_no_coming_back(code: int) -> None:
    talk = Talk()
    talk.greet()
    talk.lose(code)
    assert talk.session.over is not None
    assert talk.session.over.code == code


@pytest.mark.parametrize(
    "text", [b"", b"x", b"[]", b'{"event": 1}', b'{"hello": {}}', b"[" * 100_000, b"\xff"]
)
def test_what_is_no_document(text: bytes) -> None:
    with pytest.raises(Unusable, match="what is no document"):
        Talk().session.take_untrusted(text, 0)


def test_documents_that_are_not_known_are_passed_over() -> None:
    talk = Talk()
    talk.greet()
    assert talk.hear(news={"a": 1}) == talk.hear() == talk.hear(pong=1) == []
