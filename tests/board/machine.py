"""What may happen to a board, in any order: the rules of the state machine."""

from __future__ import annotations

from collections import Counter

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fawa.board.board import BoardLimits
from fawa.board.commands import Committed, Cursor, Draw, Profile, ReadOnly, Resume
from fawa.board.events import DrawEvent, Entry, Problem, stamped
from fawa.board.wire import Wire
from fawa.board.wire_v1 import decode_v1_untrusted
from fawa.board.wire_v2 import decode_v2_untrusted
from tests.board.world import ABROAD, PROTO, V1, V2, Person, World

#: So small that a dozen events are too many.
SMALL = BoardLimits(history=8, backlog=3000, lane_backlog=600, batch=400, peers=6)
#: Little is remembered, so that latecomers see only what is new.
FORGETFUL = attrs.evolve(SMALL, history=4, snapshot=1000, batch=150)
#: All is remembered, and much is sent at once.
ROOMY = attrs.evolve(SMALL, history=1000, batch=20_000, lane_backlog=2000)

#: What the runs have met, to see that they met everything.
reached: Counter[str] = Counter()

#: Chosen among those there are.
who = st.integers(0, 7)
few = st.integers(1, 4)


somebody_is_here = precondition(lambda self: bool(self.readers()))
v2_is_here = precondition(lambda self: bool(self.v2_readers()))
#: Ends of the board's life come now and then only, so that there is a life in between.
now_and_then = precondition(lambda self: len(self.world.pictures) % 4 == 3)


class BoardMachine(RuleBasedStateMachine):
    """The rules choose; the world does, and knows what must come of it."""

    @initialize(limits=st.sampled_from([SMALL, FORGETFUL, ROOMY]), holding=st.booleans())
    def create(self, limits: BoardLimits, holding: bool) -> None:
        self.world = World(limits, holding=holding, reached=reached)
        for wire in (V1, V2, PROTO, V2)[: 3 + holding]:
            self.joins(wire, "")

    def readers(self) -> list[Person]:
        """Return those who are here and know it."""
        return [one for one in self.world.people.values() if one.link is not None]

    def v2_readers(self) -> list[Person]:
        return [one for one in self.readers() if one.wire is V2]

    def waiting(self) -> list[Person]:
        """Return those to whom something is under way."""
        return [one for one in self.readers() if one.link is not None and one.link.taken is not None]

    def ops_taken(self, person: Person) -> list[int]:
        """Return the numbers of a client's events that were taken, up to the first gap."""
        return sorted(op for client_id, op in self.world.taken if client_id == person.client_id)

    def reader(self, number: int) -> Person:
        readers = self.readers()
        return readers[number % len(readers)]

    def v2_reader(self, number: int) -> Person:
        readers = self.v2_readers()
        return readers[number % len(readers)]

    # Coming and going

    @precondition(lambda self: len(self.world.people) < 40)
    @rule(wire=st.sampled_from([V1, V2, V2, PROTO]), name=st.sampled_from(["", "Ada", "Жанна \u2603"]))
    def joins(self, wire: Wire, name: str) -> None:
        person = self.world.newcomer(wire, name if wire is V2 else "")
        self.world.join(person)

    @precondition(lambda self: len(self.world.people) < 6)
    @rule(wire=st.sampled_from([V1, V2, PROTO]))
    def crowd_joins(self, wire: Wire) -> None:
        """One more comes than there is room for."""
        for _ in range(self.world.limits.peers + 1):
            self.world.join(self.world.newcomer(wire, ""))

    @precondition(lambda self: any(one.wire is V2 for one in self.world.people.values()))
    @rule(number=who, how=st.sampled_from(["fresh", "stale", "forgot", "ahead", "wrong epoch"]))
    def returns(self, number: int, how: str) -> None:
        """Somebody connects again, be it that the board has noticed that the connection was lost or not."""
        people = [one for one in self.world.people.values() if one.wire is V2]
        person = people[number % len(people)]
        resume = self.world.resume(person)
        if person.v2.incomplete:
            # It never saw the end of a snapshot, so it has nothing to go on from.
            resume = None
        elif how == "stale" and person.memories:
            person.v2.seq, person.v2.shown = person.memories[0]
            resume = Resume(person.epoch, person.v2.seq)
        elif how == "wrong epoch":
            resume = Resume("epoch 0", self.world.arrived)
        elif how == "ahead":
            resume = Resume(f"epoch {self.world.epochs}", self.world.arrived + 1)
        elif how == "forgot":
            resume = None
        person.memories.clear()
        reached[f"returns: {how}"] += 1
        self.world.join(person, resume)

    @v2_is_here
    @precondition(lambda self: self.world.limits.history < 10)
    @rule(number=who)
    def returns_when_it_is_nearly_too_late(self, number: int) -> None:
        """Somebody misses as many events as the log has, and then one less, and one more."""
        person = self.v2_reader(number)
        for more in (0, -1, 1):
            self.world.settle()
            gone = person.link is None or person.v2.incomplete
            if gone or person.epoch != f"epoch {self.world.epochs}":
                return
            self.world.cut(person)
            self.from_abroad(self.world.limits.history + more)
            self.world.join(person, self.world.resume(person))
            reached[f"nearly too late: {more:+}"] += person.link is not None

    @somebody_is_here
    @rule(number=who)
    def leaves(self, number: int) -> None:
        self.world.notice(self.reader(number).client_id)

    @somebody_is_here
    @rule(number=who)
    def is_cut_off(self, number: int) -> None:
        self.world.cut(self.reader(number))

    @precondition(lambda self: not all(map(self.world.is_reading, self.world.live)))
    @rule()
    def the_lost_are_noticed(self) -> None:
        for client_id in [one for one in self.world.live if not self.world.is_reading(one)]:
            self.world.notice(client_id)

    # Drawing

    @somebody_is_here
    @rule(number=who, lifts=st.lists(st.booleans(), min_size=1, max_size=4))
    def draws(self, number: int, lifts: list[bool]) -> None:
        person = self.reader(number)
        self.world.draw(person, [self.world.segment(person, lift=lift) for lift in lifts])

    @somebody_is_here
    @rule(rounds=few)
    def all_draw_at_once(self, rounds: int) -> None:
        for _ in range(rounds):
            for person in self.readers():
                self.world.draw(person, [self.world.segment(person, lift=False)])

    @somebody_is_here
    @rule(number=who, kind=st.sampled_from(["arrow", "undo"]))
    def draws_something_else(self, number: int, kind: str) -> None:
        """For all but v2, an undo is an event like any other."""
        person = self.reader(number)
        kind = "arrow" if person.wire is V2 else kind
        self.world.draw(person, [self.world.segment(person, lift=True, kind=kind)])

    @somebody_is_here
    @rule(number=who)
    def clears(self, number: int) -> None:
        self.world.draw(self.reader(number), [DrawEvent("clear")])

    @v2_is_here
    @rule(number=who, back=st.sampled_from([0, 1, 2, 6, 12]))
    def takes_back(self, number: int, back: int) -> None:
        person = self.v2_reader(number)
        stroke = max(person.stroke - back, 1)
        self.world.draw(person, [DrawEvent("undo", stroke=stroke)])
        if back == 0:
            # What follows is another stroke for those who see it, under the same number or not.
            person.at = (0, 0)

    @v2_is_here
    @rule(number=who)
    def takes_back_what_is_old(self, number: int) -> None:
        person = self.v2_reader(number)
        self.world.draw(person, [self.world.segment(person, lift=True)])
        self.from_abroad(12)
        self.world.draw(person, [DrawEvent("undo", stroke=person.stroke)])

    @somebody_is_here
    @rule(number=who)
    def pings(self, number: int) -> None:
        person = self.reader(number)
        before = len(self.world.bus)
        assert self.world.tell(Draw(person.client_id, 0, (DrawEvent("ping"),))) == []
        assert len(self.world.bus) == before

    @v2_is_here
    @rule(number=who)
    def sends_again(self, number: int) -> None:
        self.world.resend(self.v2_reader(number))

    @precondition(lambda self: any(self.ops_taken(one) for one in self.v2_readers()))
    @rule(number=who, back=few, count=few)
    def sends_again_what_was_taken(self, number: int, back: int, count: int) -> None:
        senders = [one for one in self.v2_readers() if self.ops_taken(one)]
        person = senders[number % len(senders)]
        ops = self.ops_taken(person)[-back:][:count]
        events = [self.world.taken[person.client_id, op] for op in ops]
        self.world.send_numbered(person, ops[0], [stamped(event, "") for event in events])

    @somebody_is_here
    @rule(data=st.binary(max_size=20), number=who)
    def says_nonsense(self, data: bytes, number: int) -> None:
        """What cannot be decoded never gets to the board."""
        self.reader(number)
        assert isinstance(decode_v1_untrusted(data), Problem)
        assert isinstance(decode_v2_untrusted(b'{"draw":' + data), Problem)

    @v2_is_here
    @rule(number=who, x=st.integers(-9, 9), y=st.integers(-9, 9))
    def points(self, number: int, x: int, y: int) -> None:
        person = self.v2_reader(number)
        self.world.cursors[person.client_id] = (x, y)
        self.world.tell(Cursor(person.client_id, x, y))

    @v2_is_here
    @rule(number=who, name=st.sampled_from(["Bo", "Cy", "Di"]))
    def is_renamed(self, number: int, name: str) -> None:
        person = self.v2_reader(number)
        person.name = name
        self.world.tell(Profile(person.client_id, name, "#123456"))

    # Slow readers

    @somebody_is_here
    @rule(number=who)
    def is_given_a_batch(self, number: int) -> None:
        person = self.reader(number)
        self.world.take(person.client_id)

    @somebody_is_here
    @rule(number=who, seconds=st.sampled_from([14.9, 15.0, 80.0]))
    def reads_nothing(self, number: int, seconds: float) -> None:
        person = self.reader(number)
        self.world.take(person.client_id)
        self.world.advance(self.world.now + seconds)

    @precondition(lambda self: bool(self.waiting()))
    @rule(number=who)
    def reads_a_batch(self, number: int) -> None:
        waiting = self.waiting()
        self.world.arrive(waiting[number % len(waiting)].client_id)

    @somebody_is_here
    @rule(number=who, rounds=st.integers(1, 12), count=st.integers(4, 30))
    def reads_slower_than_others_draw(self, number: int, rounds: int, count: int) -> None:
        person = self.reader(number)
        for _ in range(rounds):
            link = self.world.live.get(person.client_id)
            if link is None or person.link is not link:
                break
            if link.taken is not None:
                self.world.arrive(person.client_id)
            if person.client_id in self.world.live:
                self.world.take(person.client_id)
            if person.link is link:
                self.world.draw(person, [self.world.segment(person, lift=False)])
            self.from_abroad(count)
            if self.world.board.peers and count > 20:
                self.world.advance(self.world.now + 2)

    # The bus

    def from_abroad(self, count: int, *, op: int = 0) -> None:
        """Another replica's clients draw."""
        world = self.world
        for number in range(count):
            world.markers += 1
            event = DrawEvent(
                "draw", "#fff", 1, world.markers, 0, 1, world.markers, ABROAD, 0, 1 + number // 3
            )
            world.bus.append(Entry(len(world.bus) + 1, 0, event))
        world.deliver(len(world.bus))

    @rule(count=few)
    def others_draw_elsewhere(self, count: int) -> None:
        self.from_abroad(count)

    @rule(stroke=st.integers(1, 3))
    def others_take_back_elsewhere(self, stroke: int) -> None:
        event = DrawEvent("undo", client_id=ABROAD, stroke=stroke)
        self.world.bus.append(Entry(len(self.world.bus) + 1, 0, event))

    @rule(count=few)
    def the_bus_delivers(self, count: int) -> None:
        world = self.world
        world.deliver(min(world.arrived + count, len(world.bus)))

    @precondition(lambda self: self.world.arrived)
    @rule(count=few)
    def the_bus_repeats(self, count: int) -> None:
        world = self.world
        assert world.tell(Committed(tuple(world.bus[max(world.arrived - count, 0) : world.arrived]))) == []
        reached["bus repeats"] += 1

    @rule(skipped=few, count=few)
    def the_bus_skips(self, skipped: int, count: int) -> None:
        """What comes after a gap is not applied, and the board says what it misses."""
        world = self.world
        first = world.arrived + skipped + 1
        event = DrawEvent("draw", client_id=ABROAD)
        before = world.gaps
        effects = world.tell(Committed(tuple(Entry(seq, 0, event) for seq in range(first, first + count))))
        assert len(effects) == 1
        assert world.gaps == before + 1
        reached["bus skips"] += 1

    @rule(reason=st.sampled_from(["", "the bus is away"]))
    def the_bus_goes_away(self, reason: str) -> None:
        if not self.world.board.read_only:
            self.world.lose(self.world.arrived)
            for person in self.world.people.values():
                person.must_resend = True
            reached["bus away"] += 1
        self.world.tell(ReadOnly(True, reason))

    @v2_is_here
    @rule(number=who)
    def the_bus_loses_what_it_has(self, number: int) -> None:
        """And somebody draws on, who has not heard of it yet."""
        world, person = self.world, self.v2_reader(number)
        holding, world.holding = world.holding, True
        world.draw(person, [world.segment(person, lift=True)])
        self.the_bus_goes_away("for a moment")
        self.the_bus_comes_back()
        person.must_resend = False
        world.draw(person, [world.segment(person, lift=True)])
        person.must_resend = True
        world.holding = holding

    @rule()
    def the_bus_comes_back(self) -> None:
        self.world.tell(ReadOnly(False))

    # Time, and ends

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 14.9, 15.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.advance(self.world.now + seconds)

    @now_and_then
    @rule(by=st.sampled_from([-0.001, 0.0, 0.001, 10_000.0]))
    def nearly_expires(self, by: float) -> None:
        """Everybody leaves, and the time comes at which the board goes, or nearly."""
        world = self.world
        for client_id in list(world.live):
            world.notice(client_id)
        before = world.expiries
        world.advance(max(world.idle_since + world.limits.idle + by, world.now))
        assert world.expiries > before or by < 0

    @rule()
    def saves(self) -> None:
        self.world.older_save = (self.world.arrived, self.world.board.save())
        assert not self.world.board.changed_since_save

    @now_and_then
    @rule()
    def restarts(self) -> None:
        self.world.start_again()

    @precondition(lambda self: self.world.older_save is not None)
    @rule()
    def crashes(self) -> None:
        """What came after the last save is lost."""
        assert self.world.older_save is not None
        seq, saved = self.world.older_save
        self.world.lose(seq)
        self.world.open(saved)
        reached["restarted from an older save"] += 1

    @rule()
    def all_comes_to_rest(self) -> None:
        self.world.settle()

    @invariant()
    def all_is_well(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        world.tell(ReadOnly(False))
        for person in list(world.people.values()):
            if person.wire is V2 and person.link is None and person.client_id in world.live:
                world.notice(person.client_id)
        for person in world.people.values():
            if person.link is not None and person.must_resend:
                world.resend(person)
        world.settle()
        assert not any(one.must_resend for one in world.people.values() if one.link is not None)
        for client_id in list(world.live):
            world.notice(client_id)
        assert world.board._channels == {}
        assert not world.board.has_news(world.now)
        before = world.expiries
        world.advance(world.now + world.limits.idle)
        assert world.expiries > before
