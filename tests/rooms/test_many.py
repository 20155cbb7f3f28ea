"""Clients that come, draw, freeze, leave and return, in any order: in the end all have the same picture."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
import trio
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from fawa.board.board import BoardLimits
from fawa.rooms import rooms as rooms_module
from fawa.rooms.agenda import Agenda
from fawa.rooms.room import Room, Seat
from fawa.rooms.rooms import Rooms, UnknownBoard
from tests.net.talk import examples
from tests.rooms import memory
from tests.rooms.memory import V1, V2, Client, MemoryBoards, claim, draw

#: So tight that a few events make a slow client fall behind, and a few more end it.
TIGHT = BoardLimits(history=20, backlog=4096, batch=1024, stall=2.0, idle=5.0)

PEOPLE = 4
#: Longer than any of these times, in milliseconds.
LONG = 1_000_000

#: What is done, by whom, how much of it.
Step = tuple[str, int, int]

steps: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("draw"), st.integers(0, PEOPLE - 1), st.integers(1, 30)),
    st.tuples(st.sampled_from(["freeze", "thaw", "leave", "come"]), st.integers(0, PEOPLE - 1), st.just(0)),
    st.tuples(st.just("wait"), st.just(0), st.sampled_from([0, 1, 3, 10, 100, 1000, LONG])),
    st.tuples(st.sampled_from(["restart", "kill"]), st.just(0), st.just(0)),
)


def picture(documents: list[dict[str, Any]]) -> list[int]:
    """Return what a client that acts on documents has on its screen, as the `x` of segments."""
    screen: list[int] = []
    for document in documents:
        match document:
            case {"snapshot": snapshot}:
                screen = [] if snapshot["first"] else screen
                for stroke in snapshot["strokes"]:
                    screen += stroke["points"][2::2]
            case {"initial_history": {"events": events}}:
                screen = [event["curr_x"] for event in events]
            case {"draw_event": event} | {"event": event}:
                screen = [] if event["type"] == "clear" else [*screen, event["curr_x"]]
    return screen


@attrs.define
class Somebody:
    """One of the people, over all connections."""

    speaks_v2: bool
    client: Client | None = None
    seat: Seat | None = None
    #: What earlier connections showed that this one goes on from.
    before: list[dict[str, Any]] = attrs.field(factory=list)
    seen: int = 0

    @property
    def is_here(self) -> bool:
        return self.client is not None and self.client.closed is None

    async def come(self, rooms: Rooms, code: str) -> None:
        try:
            room = await rooms.find(code)
        except UnknownBoard:
            raise AssertionError("the board is lost") from None
        client = Client(V2 if self.speaks_v2 else V1)
        back = None
        if self.seat is not None and self.client is not None and self.speaks_v2:
            self.before += self.client.documents
            seqs = [document["event"]["seq"] for document in self.before if "event" in document]
            snapshots = [document["snapshot"] for document in self.before if "snapshot" in document]
            seqs += [snapshot["seq"] for snapshot in snapshots if snapshot["last"]]
            broken_off = bool(snapshots) and not snapshots[-1]["last"]
            back = claim(self.seat, seq=0 if broken_off else max(seqs, default=0))
        self.client, self.seat = client, room.join(client, claim=back)
        if not self.seat.welcome.recovered:
            self.before = []

    @property
    def code(self) -> int | None:
        """With which code the last connection was closed."""
        return None if self.client is None or self.client.closed is None else self.client.closed[0]

    def picture(self) -> list[int]:
        assert self.client is not None
        return picture(self.before + self.client.documents)

    def thaw(self) -> None:
        if self.client is not None:
            self.client.stuck = False

    def leave(self) -> None:
        if self.seat is not None:
            self.seat.leave()
        if self.client is not None and self.client.closed is None:
            self.client.closed = (1000, "")


#: What the scripts have met.
reached: Counter[str] = Counter()


async def play(script: list[Step]) -> None:
    """Let people do what a script says; then everybody thaws, and once more after a restart."""
    store = MemoryBoards()
    drawn: list[int] = []
    numbers = itertools.count()
    people = [Somebody(speaks_v2=bool(number % 2)) for number in range(PEOPLE)]
    todo = [*script, ("restart", 0, 0), ("draw", 0, 1), ("draw", 1, 1), ("restart", 0, 0)]
    code, how = "", ""
    while todo:
        async with memory.running(store, memory.settings(limits=TIGHT)) as rooms:
            code = code or (await rooms.create()).code
            if how == "kill":
                # What came after the last copy is lost.
                del drawn[(await rooms.find(code)).board.seq :]
            while todo and (step := todo.pop(0))[0] not in ("restart", "kill"):
                await do(step, people, rooms, code, drawn, numbers)
            how = step[0]
            here = [somebody for somebody in people if somebody.is_here]
            for somebody in here:
                somebody.thaw()
            await trio.sleep(1)
            room = await rooms.find(code)
            assert len(room.board.peers) == len([somebody for somebody in here if somebody.is_here])
            for somebody in people:
                assert somebody.code in (None, 1000, 4408, 4409)
                if somebody.is_here:
                    assert somebody.picture() == drawn
                somebody.leave()
            assert room.board.is_empty
            reached.update(key for key, count in (rooms.counts + rooms.ladder).items() if count)
            copies = dict(store.copies)
        if how == "kill":
            store.copies = copies


async def do(
    step: Step,
    people: list[Somebody],
    rooms: Rooms,
    code: str,
    drawn: list[int],
    numbers: Iterator[int],
) -> None:
    what, who, count = step
    somebody = people[who]
    match what:
        case "wait":
            await trio.sleep(count / 1000)
            if count == LONG:
                here = [one.client for one in people if one.is_here and one.client is not None]
                assert not any(client.waits for client in here), "one that reads nothing is still here"
                assert bool(here) == (code in rooms), "a board is as long in memory as it is to be"
            return
        case "leave":
            somebody.leave()
            return
    if not somebody.is_here:
        await somebody.come(rooms, code)
    assert somebody.client is not None
    assert somebody.seat is not None
    match what:
        case "freeze":
            somebody.client.stuck = True
        case "thaw":
            somebody.client.stuck = False
        case "draw":
            xs = list(itertools.islice(numbers, count))
            drawn += xs
            somebody.seat.draw(0, tuple(draw(x, color="c" * 30) for x in xs))


def drawing(who: int, times: int, pause: int = 10) -> list[Step]:
    return [("draw", who, 20), ("wait", 0, pause)] * times


IS_CLOSED: list[Step] = [("come", 1, 0), ("freeze", 1, 0), *drawing(0, 3), ("wait", 0, LONG)]
FALLS_BEHIND: list[Step] = [("come", 1, 0), ("freeze", 1, 0), *drawing(0, 5), ("thaw", 1, 0)]
RETURNS: list[Step] = [*drawing(1, 1), ("leave", 1, 0), *drawing(0, 1), ("come", 1, 0), ("draw", 1, 1)]
IS_KILLED: list[Step] = [*drawing(1, 1), ("kill", 0, 0), *drawing(0, 2), ("come", 1, 0)]
LEAVES_MEMORY: list[Step] = [*drawing(0, 1), ("leave", 0, 0), ("wait", 0, LONG), ("come", 1, 0)]


def search(most: int) -> Callable[[], None]:
    """Return what plays the scripts above, and `most` others."""

    @given(script=st.lists(steps, max_size=40))
    @example(script=IS_CLOSED)
    @example(script=FALLS_BEHIND)
    @example(script=RETURNS)
    @example(script=LEAVES_MEMORY)
    @example(script=IS_KILLED)
    @settings(max_examples=most, phases=[Phase.explicit, Phase.generate], report_multiple_bugs=False)
    def play_scripts(script: list[Step]) -> None:
        trio.run(play, script, clock=MockClock(autojump_threshold=0))

    return play_scripts


def test_in_the_end_everybody_has_the_same_picture() -> None:
    reached.clear()
    search(examples(200))()
    assert reached.keys() >= {
        *("joined", "left", "resumed", "closed 4408", "expired", "revived", "saved"),
        *("snapshot", "closed"),
    }


def _feed_regardless(self: Room, seat: Seat, now: float) -> None:
    while (batch := self.board.take(seat.client_id, now)) is not None:
        seat.connection.push(batch)
        self._has_left(seat, now)


async def _no_copies(self: Rooms) -> None:
    pass


FAULTS: dict[str, tuple[object, str, object]] = {
    "nobody looks whether who was slow goes on": (Agenda, "poll", lambda self, room: None),
    "nobody is woken": (Agenda, "wake", lambda self, room, at: None),
    "who is too slow is not closed": (Room, "_close_seat", lambda self, close: None),
    "who leaves stays": (Room, "leave", lambda self, seat: None),
    "a batch is pushed before the last has left": (Room, "_feed", _feed_regardless),
    "a board that leaves memory is lost": (Room, "save", lambda self: None),
    "no copies are made": (Rooms, "_copy_all", _no_copies),
    "a copy is good in the epoch before": (rooms_module, "new_epoch", lambda: "same"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    owner, name, mutant = FAULTS[fault]
    monkeypatch.setattr(owner, name, mutant)
    with pytest.RaisesGroup(AssertionError, flatten_subgroups=True, allow_unwrapped=True):
        search(60)()
