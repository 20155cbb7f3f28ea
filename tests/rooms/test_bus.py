"""What puts events in order: here at once, or elsewhere and later."""

from __future__ import annotations

import attrs
import trio
from trio.testing import MockClock

from fawa.board.commands import ReadOnly
from fawa.board.effects import Refuse
from fawa.board.events import Entry, Proposal
from fawa.rooms.bus import LocalBus
from fawa.rooms.rooms import Rooms
from tests.rooms.memory import SECRET, V2, Client, MemoryBoards, draw, settle

PROPOSALS = tuple(Proposal(op, draw(op)) for op in (1, 2, 3))


def test_the_local_bus_numbers_what_it_is_given() -> None:
    bus = LocalBus()
    entries = bus.publish("ABC123", "epoch", 41, PROPOSALS)
    assert entries == tuple(Entry(41 + one.op, one.op, one.event) for one in PROPOSALS)
    assert bus.publish("ABC123", "epoch", 41, ()) == ()


@attrs.define
class LateBus:
    """Commits when a test says so."""

    given: list[Proposal] = attrs.field(factory=list)

    def publish(
        self, code: str, epoch: str, after: int, proposals: tuple[Proposal, ...]
    ) -> tuple[Entry, ...]:
        self.given += proposals
        return ()

    def entries(self) -> tuple[Entry, ...]:
        return tuple(Entry(seq, one.op, one.event) for seq, one in enumerate(self.given, 1))


async def test_events_are_told_once_the_bus_has_them(autojump_clock: MockClock) -> None:
    bus = LateBus()
    rooms = Rooms(SECRET, bus=bus, clock=trio.current_time)
    async with trio.open_nursery() as nursery:
        await nursery.start(rooms.run, MemoryBoards())
        room = await rooms.create()
        client = Client(V2)
        seat = room.join(client)
        assert seat.draw(1, (draw(1), draw(2))) == []
        await settle()
        assert client.drawn == []
        assert room.board.seq == 0
        room.commit(bus.entries())
        room.commit(bus.entries())
        await settle()
        assert client.drawn == [1, 2], "what is committed again is told once"
        # What the bus does not have is not taken.
        room.board.apply(ReadOnly(True, "the bus is away"), trio.current_time())
        [refusal] = seat.draw(3, (draw(3),))
        assert isinstance(refusal, Refuse)
        assert refusal.problem.code == "read_only"
        # A bus that leaves something out has failed: nobody can tell what came between.
        room.commit((Entry(9, 0, draw(9)),))
        assert client.closed == (1011, "the server failed; its log says why")
        nursery.cancel_scope.cancel()
