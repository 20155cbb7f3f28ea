"""A board amid clients, a bus and a shell's clock, with a plain model of what must come of it.

Every effect of the board reaches the model through `World.perform`, and every byte that a client is sent goes
through a screen which decodes it.
"""

from __future__ import annotations

import json
import math
from collections import Counter, deque

import attrs
from google.protobuf.json_format import ParseDict

from fawa.board.board import Board, BoardLimits
from fawa.board.commands import Command, Committed, Draw, Flushed, Join, Leave, Resume, Tick
from fawa.board.effects import Ack, Close, Effect, Expire, Flush, Gap, Publish, Refuse, WakeAt
from fawa.board.events import DrawEvent, Entry, Problem
from fawa.board.tape import Batch
from fawa.board.wire import Wire, line
from fawa.board.wire_proto import WireProto, decode_proto
from fawa.board.wire_v1 import WireV1, decode_v1_untrusted
from fawa.board.wire_v2 import Draw as V2Draw
from fawa.board.wire_v2 import WireV2, decode_v2_untrusted
from fawa.proto.canva.v1 import canva_pb2 as pb
from tests.board.screens import Picture, ProtoScreen, Screen, Segment, V1Screen, V2Screen, segment

V1, V2, PROTO = WireV1(bytes), WireV2(line), WireProto(bytes)

#: Sender of what other replicas put on the bus.
ABROAD = "REMOTE00"


@attrs.define(eq=False)
class Link:
    """A connection as the shell knows it."""

    number: int
    #: What was taken for it and has not left, and when it was taken.
    taken: Batch | None = None
    taken_at: float = 0.0


@attrs.define(eq=False)
class Person:
    """A client, over all its connections."""

    client_id: str
    wire: Wire
    screen: Screen
    name: str
    #: None while it is away. A client that is cut off knows it before the board does.
    link: Link | None = None
    epoch: str = ""
    #: v2: the number of its next event, and the events that nobody has acknowledged.
    next_op: int = 1
    unsure: dict[int, DrawEvent] = attrs.field(factory=dict)
    #: Before anything new it sends anew what it is unsure about: it has just joined, or was refused.
    must_resend: bool = False
    #: What it saw at earlier times, oldest first: seq, and segments with their strokes.
    memories: deque[tuple[int, list[tuple[Segment, int]]]] = attrs.field(factory=lambda: deque(maxlen=4))
    stroke: int = 0
    at: tuple[int, int] = (0, 0)

    @property
    def v2(self) -> V2Screen:
        assert isinstance(self.screen, V2Screen)
        return self.screen


class World:
    """One board through its life, and its successors after restarts."""

    def __init__(self, limits: BoardLimits, *, holding: bool, reached: Counter[str]) -> None:
        """Make a board without peers.

        Args:
            limits: of the board.
            holding: the bus keeps what it is given until `deliver` is called.
            reached: counts what was met.

        """
        self.limits = limits
        self.holding = holding
        self.reached = reached
        self.now = 1000.0
        self.epochs = 0
        self.connections = 0
        self.markers = 0
        self.people: dict[str, Person] = {}
        #: All events in the order of the bus; those after `arrived` have not reached the board.
        self.bus: list[Entry] = []
        self.arrived = 0
        #: What can be seen now, and what the board looked like after each event.
        self.visible: list[DrawEvent] = []
        self.pictures: list[Picture] = [[]]
        #: Numbered events that were taken, by sender and number.
        self.taken: dict[tuple[str, int], DrawEvent] = {}
        self.gaps = 0
        self.expiries = 0
        self.open(None)

    def open(self, saved: bytes | None) -> None:
        """Begin the next life of the board."""
        self.epochs += 1
        self.board = Board("ABC123", f"epoch {self.epochs}", self.limits, self.now, saved)
        self.wakes = [self.board.wake_at]
        #: What an earlier save returned, and the event it was made after.
        self.older_save: tuple[int, bytes] | None = None
        self.idle_since = self.now
        #: Whether the shell has been told to look for what is to be sent.
        self.flush_due = False
        #: Connections by client, as the board must know them.
        self.live: dict[str, Link] = {}
        for person in self.people.values():
            self.cut(person)
        self.cursors: dict[str, tuple[int, int]] = {}

    def start_again(self) -> None:
        """The board is saved, forgotten, and comes back."""
        self.lose(self.arrived)
        self.open(self.board.save())
        self.reached["restarted"] += 1

    # The shell

    def tell(self, command: Command) -> list[Effect]:
        """Send a command and perform what comes of it."""
        effects = self.board.apply(command, self.now)
        self.perform(effects)
        return effects

    def perform(self, effects: list[Effect]) -> None:
        """Do what the board wants done. The only place where effects reach the model."""
        for effect in effects:
            match effect:
                case Publish():
                    self.publish(effect)
                case Refuse(peer, op, problem):
                    assert peer in self.live
                    self.refused(self.people[peer], op, problem)
                case Ack(peer, op):
                    assert peer in self.live
                    self.reached["acknowledged again"] += 1
                    person = self.people[peer]
                    acknowledged = {(peer, number) for number in person.unsure if number <= op}
                    assert acknowledged <= self.taken.keys(), "what is acknowledged was never taken"
                    person.unsure = {number: one for number, one in person.unsure.items() if number > op}
                case Close():
                    self.close(effect)
                case Flush():
                    self.flush_due = True
                case WakeAt(time):
                    assert time >= self.now
                    self.wakes.append(time)
                case Expire():
                    assert not self.live, "a board with peers never expires"
                    assert self.now >= self.idle_since + self.limits.idle, "it expires too early"
                    self.expiries += 1
                    self.reached["expired"] += 1
                case Gap(expected, got):
                    assert expected == self.board.seq + 1 < got
                    self.gaps += 1

    def publish(self, effect: Publish) -> None:
        assert effect.entries
        assert not self.board.read_only
        for proposal in effect.entries:
            event = proposal.event
            assert event.type != "ping"
            assert event.client_id in self.live
            if proposal.op:
                key = (event.client_id, proposal.op)
                assert key not in self.taken, "an event is taken twice"
                self.taken[key] = event
            self.bus.append(Entry(len(self.bus) + 1, proposal.op, event))
        if not self.holding:
            self.deliver(len(self.bus))

    def deliver(self, until: int) -> None:
        """Let what the bus has put in order arrive."""
        entries = tuple(self.bus[self.arrived : until])
        self.arrived = until
        for entry in entries:
            self.show(entry.event)
        self.tell(Committed(entries))
        assert self.board.seq == until

    def show(self, event: DrawEvent) -> None:
        """Keep what the board looks like after one more event."""
        if event.type == "clear":
            self.visible = []
        elif event.type == "undo" and event.stroke:
            taken_back = (event.client_id, event.stroke)
            self.visible = [one for one in self.visible if (one.client_id, one.stroke) != taken_back]
        else:
            self.visible.append(event)
        self.pictures.append(list(map(segment, self.visible)))

    def lose(self, upto: int) -> None:
        """The bus loses everything after an event."""
        for entry in self.bus[upto:]:
            self.taken.pop((entry.event.client_id, entry.op), None)
        self.bus = self.bus[:upto]
        self.arrived = min(self.arrived, upto)
        self.visible, self.pictures = [], [[]]
        for entry in self.bus[: self.arrived]:
            self.show(entry.event)

    def refused(self, person: Person, op: int, problem: Problem) -> None:
        self.reached[f"refused: {problem.code}"] += 1
        person.must_resend = True
        if problem.code == "read_only":
            assert self.board.read_only
        else:
            assert problem.code == "out_of_order"
            before = [one for one in person.unsure if one < op]
            assert any((person.client_id, one) not in self.taken for one in before), "nothing is missing"

    def close(self, close: Close) -> None:
        if close.code == 4413:
            assert len(self.live) == self.limits.peers
            self.reached["board is full"] += 1
            return
        link = self.live[close.peer]
        assert link.number == close.connection, "what is closed is not live"
        if close.code == 4409:
            self.reached["resumed twice"] += 1
        else:
            assert close.code == 4408
            if link.taken is None:
                self.reached["closed: hopeless"] += 1
            else:
                assert self.now >= self.overdue_at(link)
                self.reached["closed: stalled"] += 1
            self.left(close.peer)
        person = self.people[close.peer]
        if person.link is link:
            person.link = None

    def overdue_at(self, link: Link) -> float:
        """Return when a connection to which something is under way is to be closed."""
        if link.taken is None:
            return math.inf
        return link.taken_at + self.limits.stall * max(1, link.taken.size / self.limits.batch)

    def left(self, client_id: str) -> None:
        """The board must know that a client has gone."""
        del self.live[client_id]
        self.cursors.pop(client_id, None)
        if not self.live:
            self.idle_since = self.now

    def advance(self, until: float) -> None:
        """Let it become `until`; each wake-up comes when it is due."""
        while min(self.wakes, default=math.inf) <= until:
            self.now = max(self.now, min(self.wakes))
            self.wakes.remove(min(self.wakes))
            before = self.expiries
            self.tell(Tick())
            if self.expiries > before:
                self.start_again()
        self.now = until

    # Coming and going

    def newcomer(self, wire: Wire, name: str) -> Person:
        """Return a client that was never here, and is not yet."""
        client_id = f"PERSON{len(self.people):02d}"
        screen = {V1: V1Screen, V2: V2Screen, PROTO: ProtoScreen}[wire]()
        person = self.people[client_id] = Person(client_id, wire, screen, name)
        return person

    def join(self, person: Person, resume: Resume | None = None) -> bool:
        """Let a client join; returns whether the board took it."""
        self.connections += 1
        link = Link(self.connections)
        is_full = len(self.live) == self.limits.peers and person.client_id not in self.live
        number_before = len(self.live)
        name = person.name
        color = "#123456" if name else ""
        self.tell(Join(person.client_id, link.number, person.wire, name, color, resume))
        if is_full:
            assert len(self.board.peers) == number_before
            return False
        self.live[person.client_id] = person.link = link
        welcome = self.board.welcome(person.client_id)
        assert welcome.epoch == f"epoch {self.epochs}"
        assert welcome.seq == self.arrived
        assert welcome.read_only == self.board.read_only
        if person.wire is V2:
            self.welcome_v2(person, resume, welcome.recovered, welcome.op)
        return True

    def welcome_v2(self, person: Person, resume: Resume | None, recovered: bool, op: int) -> None:
        committed = [one.op for one in self.bus[: self.arrived] if one.event.client_id == person.client_id]
        assert op == max(committed, default=0)
        person.unsure = {number: event for number, event in person.unsure.items() if number > op}
        person.next_op = max(person.next_op, op + 1)
        screen = V2Screen(client_id=person.client_id)
        if recovered:
            assert resume is not None
            assert resume.epoch == f"epoch {self.epochs}", "the epoch is another"
            assert resume.seq <= self.arrived
            screen.seq, screen.shown = person.v2.seq, person.v2.shown
            self.reached["recovered"] += 1
        elif resume is not None:
            self.reached["not recovered"] += 1
            if resume.epoch == f"epoch {self.epochs}" and resume.seq <= self.arrived:
                missed = self.bus[resume.seq : self.arrived]
                was_cleared = any(entry.event.type == "clear" for entry in missed)
                assert len(missed) > self.limits.history or was_cleared or not self.arrived
        person.screen = screen
        person.must_resend = True
        person.epoch = f"epoch {self.epochs}"

    def resume(self, person: Person) -> Resume | None:
        """Return what a client that comes back shows."""
        return Resume(person.epoch, person.v2.seq) if person.epoch else None

    def cut(self, person: Person) -> None:
        """A client loses its connection and what was under way; the board does not know."""
        person.link = None

    def notice(self, client_id: str) -> None:
        """The shell sees that a connection has ended."""
        link = self.live[client_id]
        self.tell(Leave(client_id, link.number + 1))
        assert client_id in self.board.peers, "that was another connection"
        self.left(client_id)
        self.tell(Leave(client_id, link.number))
        self.cut(self.people[client_id])

    # Drawing

    def segment(self, person: Person, *, lift: bool, kind: str = "draw") -> DrawEvent:
        """Return an event like no other: the pen's next, where it was or, lifted, elsewhere."""
        self.markers += 1
        if lift:
            person.stroke += 1
            person.at = (self.markers, -self.markers)
        before, person.at = person.at, (self.markers, 7)
        stroke = person.stroke if person.wire is V2 else 0
        time = 1_700_000_000_000 + self.markers
        return DrawEvent(kind, "#0a0b0c", 3, *before, *person.at, "", time, stroke)

    def draw(self, person: Person, events: list[DrawEvent]) -> None:
        """Send events as the client's wire has them, through the decoder."""
        assert person.link is not None
        if person.wire is V2:
            if person.must_resend:
                self.resend(person)
            first = person.next_op
            person.next_op += len(events)
            for op, event in enumerate(events, first):
                person.unsure[op] = event
            self.send_numbered(person, first, events)
        for event in events if person.wire is V1 else ():
            decoded = decode_v1_untrusted(json.dumps({"draw_event": fields(event)}).encode())
            assert decoded == event
            self.tell(Draw(person.client_id, 0, (decoded,)))
        for event in events if person.wire is PROTO else ():
            named = {name: value for name, value in fields(event).items() if name != "time"}
            received = decode_proto(pb.ClientDrawRequest(draw_event=ParseDict(named, pb.DrawEvent())))
            assert isinstance(received, DrawEvent)
            self.tell(Draw(person.client_id, 0, (received,)))

    def send_numbered(self, person: Person, op: int, events: list[DrawEvent]) -> None:
        sent = json.dumps({"draw": {"op": op, "events": list(map(fields, events))}}).encode()
        decoded = decode_v2_untrusted(sent)
        assert isinstance(decoded, V2Draw)
        assert list(decoded.events) == events
        new = [
            number for number in range(op, op + len(events)) if (person.client_id, number) not in self.taken
        ]
        effects = self.tell(Draw(person.client_id, decoded.op, decoded.events))
        published = [one.op for effect in effects if isinstance(effect, Publish) for one in effect.entries]
        was_refused = any(isinstance(effect, Refuse) for effect in effects)
        assert published == ([] if was_refused else new), "an event is lost"

    def resend(self, person: Person) -> None:
        """Send anew, in order, what the client is unsure about."""
        person.must_resend = False
        if person.unsure:
            self.send_numbered(
                person, min(person.unsure), [person.unsure[op] for op in sorted(person.unsure)]
            )

    # What clients are sent

    def take(self, link_of: str) -> bool:
        """Take what is next for a client; returns whether there was something."""
        link = self.live[link_of]
        batch = self.board.take(link_of, self.now)
        if link.taken is not None:
            assert batch is None, "there was something under way"
            return False
        if batch is None:
            return False
        assert batch.data == b"".join(batch.frames)
        assert batch.size == len(batch.data) > 0
        reliable = [frame for frame in batch.frames if not frame.startswith((b'{"pr', b'{"cu', b'{"st'))]
        assert sum(map(len, reliable)) <= self.limits.batch or len(reliable) == 1
        link.taken, link.taken_at = batch, self.now
        return True

    def arrive(self, client_id: str) -> None:
        """What is under way to a client reaches it."""
        link, person = self.live[client_id], self.people[client_id]
        assert person.link is link
        assert link.taken is not None
        for frame in link.taken.frames:
            person.screen.feed(frame)
        self.tell(Flushed(client_id, link.number + 1))
        assert self.board.take(client_id, self.now) is None, "that was another connection"
        link.taken = None
        self.tell(Flushed(client_id, link.number))
        if person.wire is V2:
            for op in person.v2.acknowledged:
                person.unsure.pop(op, None)
            if not person.v2.incomplete:
                person.memories.append((person.v2.seq, list(person.v2.shown)))

    def is_reading(self, client_id: str) -> bool:
        """Whether what is sent to a live client reaches it."""
        return client_id in self.live and self.people[client_id].link is self.live[client_id]

    def pump(self) -> None:
        """Everything that is to be sent to those who read reaches them.

        One batch for each at a time, and another round only when the board says so.
        """
        self.flush_due = True
        while self.flush_due:
            self.flush_due = False
            for client_id in self.live:
                self.take(client_id)
            for client_id in list(self.live):
                if self.is_reading(client_id) and self.live[client_id].taken:
                    self.arrive(client_id)
        assert not self.board.has_news(self.now), "nobody was told that there is something to send"

    def settle(self) -> None:
        """Let everything come to rest, and compare every screen with the model."""
        self.deliver(len(self.bus))
        self.pump()
        self.advance(self.now + self.limits.repaint)
        self.pump()
        here = {one: (self.people[one].name, "#123456" if self.people[one].name else "") for one in self.live}
        for client_id in filter(self.is_reading, self.live):
            person = self.people[client_id]
            self.compare(person.screen.picture, self.pictures[self.arrived])
            if person.wire is V2:
                assert not person.v2.incomplete
                assert person.v2.seq == self.arrived
                assert person.v2.people == here
                assert person.v2.cursors == self.cursors
                assert person.v2.status[0] == self.board.read_only
                assert person.must_resend or person.unsure == {}, "nobody said what became of these"
                self.reached["pictures compared: v2"] += 1
            else:
                self.reached[f"pictures compared: {type(person.wire).__name__}"] += 1

    def compare(self, shown: Picture, expected: Picture) -> None:
        """Fail unless a screen shows what it must; a forgetful board leaves out the oldest for latecomers."""
        if self.limits.snapshot >= 1 << 20:
            assert shown == expected
        else:
            assert shown == expected[len(expected) - len(shown) :]

    def check(self) -> None:
        """Fail unless the invariants hold."""
        board = self.board
        assert board.seq == self.arrived
        assert {one: peer.connection for one, peer in board.peers.items()} == {
            one: link.number for one, link in self.live.items()
        }
        assert board.is_empty == (not self.live)
        if board.has_news(self.now):
            assert self.flush_due, "nobody was told that there is something to send"
        due = min(map(self.overdue_at, self.live.values()), default=self.now)
        due = min(due, self.now + self.limits.stall)
        if not self.live:
            due = self.idle_since + self.limits.idle
        assert min(self.wakes) <= due, "the board does not wake in time"
        assert due > self.now, "somebody should have been closed"
        for person in self.people.values():
            if person.wire is V2 and person.epoch == f"epoch {self.epochs}" and not person.v2.incomplete:
                assert person.v2.seq <= self.arrived
                self.compare(person.v2.picture, self.pictures[person.v2.seq])
        # The bounds, which no client can see.
        assert len(board._history.log) <= self.limits.history
        assert board._history.snapshot.size <= self.limits.snapshot
        for channel in board._channels.values():
            assert channel.tape.size <= self.limits.backlog
        for name in ("lane", "snapshot"):
            self.reached[f"ladder: {name}"] += board.counts.pop(name, 0)


def fields(event: DrawEvent) -> dict[str, str | int]:
    """Return the fields that a client sends of an event."""
    values = {name: getattr(event, name) for name in event.__struct_fields__}
    return {name: value for name, value in values.items() if value or name == "type"}
