"""What clients on one board see: order, batches, the ladder, resume; in memory, under a clock that jumps."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from fawa.board.board import Board, BoardLimits
from fawa.board.commands import Command
from fawa.board.effects import Ack, Effect
from fawa.board.events import DrawEvent
from fawa.rooms.room import CannotJoin
from fawa.rooms.rooms import UnknownBoard
from tests.rooms.memory import V2, Client, MemoryBoards, claim, draw, running, settings, settle


def frames_of(client: Client) -> list[bytes]:
    """Return the events that a client was sent, as they were sent."""
    frames = [frame for batch in client.writes for frame in batch.frames]
    return [frame for frame in frames if frame.startswith(b'{"event"')]


async def test_everybody_sees_everything_once_in_one_order(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        room = await rooms.create()
        clients = [Client(), Client(V2), Client()]
        with room.join(clients[0]) as first, room.join(clients[1]) as second, room.join(clients[2]):
            await settle()
            for x in range(100):
                (first if x % 3 else second).draw(0, (draw(x),))
                if x % 7 == 0:
                    await settle(0.001)
            await settle()
            assert [client.drawn for client in clients] == [list(range(100))] * 3


async def test_an_event_is_written_soon_and_those_that_follow_it_after_a_tick(
    autojump_clock: MockClock,
) -> None:
    async with running(chosen=settings(tick=0.004)) as rooms:
        room = await rooms.create()
        client = Client()
        seat = room.join(client)
        await settle()
        before, start = len(client.writes), trio.current_time()
        written = []
        for x in range(9):
            seat.draw(0, (draw(x),))
            await trio.testing.wait_all_tasks_blocked()
            written.append(len(client.drawn))
            await trio.sleep_until(start + 0.001 * (x + 1))
        assert written == [1, 1, 1, 1, 5, 5, 5, 5, 9]
        assert len(client.writes) - before == 3
        await settle()
        seat.draw(0, (draw(9),))
        await trio.testing.wait_all_tasks_blocked()
        assert client.drawn == list(range(10)), "after a pause the next does not wait"


async def test_a_hundred_events_are_one_write_for_each_client(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        room = await rooms.create()
        clients = [Client(), Client(), Client(V2)]
        seats = [room.join(client) for client in clients]
        await settle()
        before = [len(client.writes) for client in clients]
        for x in range(100):
            seats[x % 3].draw(0, (draw(x),))
        assert [len(client.writes) for client in clients] == before, "nothing is written at once"
        await settle()
        assert [len(client.writes) - number for client, number in zip(clients, before, strict=True)] == [
            1
        ] * 3
        assert clients[0].writes[-1] is clients[1].writes[-1], "the same bytes for all on one wire"
        assert clients[0].drawn == list(range(100))


async def test_without_a_tick_each_event_is_written_at_once() -> None:
    async with running(chosen=settings(tick=0.0)) as rooms:
        room = await rooms.create()
        clients = [Client(), Client(V2)]
        seats = [room.join(client) for client in clients]
        assert clients[1].writes == [], "who joins is told who it is before anything else"
        await trio.testing.wait_all_tasks_blocked()
        for x in range(3):
            seats[0].draw(0, (draw(x),))
            assert [client.drawn for client in clients] == [list(range(x + 1))] * 2


async def test_one_frozen_client_of_fifty_goes_down_the_ladder_and_delays_nobody(
    autojump_clock: MockClock,
) -> None:
    async with running(chosen=settings(limits=BoardLimits(backlog=64 * 1024, batch=16 * 1024))) as rooms:
        room = await rooms.create()
        clients = [Client(V2) for number in range(50)]
        seats = [room.join(client) for client in clients]
        await settle()
        frozen, others = clients[7], clients[:7] + clients[8:]
        frozen.stuck = True
        frozen_at = trio.current_time()
        drawn: list[int] = []
        while frozen.closed is None:
            assert trio.current_time() - frozen_at < 60
            for seat in (seats[0], seats[20], seats[49]):
                drawn.append(len(drawn))
                seat.draw(0, (draw(drawn[-1], color="#" * 64),))
                seat.move(drawn[-1], 0)
            await trio.sleep(0.1)
            # Nobody waits for the one: what was drawn is everywhere within a tick.
            assert {client.last_drawn for client in others} == {drawn[-1]}
        assert trio.current_time() - frozen_at == pytest.approx(15, abs=1)
        assert frozen.closed == (4408, "nothing was read for too long")
        assert sum(batch.size for batch in frozen.writes) < 128 * 1024, "what waits for it is bounded"
        await settle()
        assert others[0].drawn == drawn
        assert {tuple(frames_of(client)) for client in others} == {tuple(frames_of(others[0]))}
        assert [client.closed for client in others] == [None] * 49
        assert rooms.ladder["closed"] == 1
        assert rooms.counts["closed 4408"] == 1
        gone = [document["presence"]["gone"] for document in others[0].documents if "presence" in document]
        assert gone[-1] == [seats[7].client_id]


async def test_one_that_was_behind_is_brought_up_by_a_snapshot(autojump_clock: MockClock) -> None:
    async with running(chosen=settings(limits=BoardLimits(backlog=16 * 1024))) as rooms:
        room = await rooms.create()
        fast, slow = Client(V2), Client(V2)
        seat, _ = room.join(fast), room.join(slow)
        await settle()
        slow.stuck = True
        seat.draw(0, (draw(0),))
        await settle()
        for x in range(1, 500):
            seat.draw(0, (draw(x, color="#" * 64),))
            await settle(0.01)
        slow.stuck = False
        await settle()
        assert slow.closed is None
        assert rooms.ladder["snapshot"] == 1
        snapshot = [document["snapshot"] for document in slow.documents if "snapshot" in document][-1]
        assert (snapshot["seq"], snapshot["last"]) == (500, True)
        assert fast.drawn == list(range(500))


async def test_who_returns_gets_what_it_missed(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        room = await rooms.create()
        here, away = Client(V2), Client(V2)
        seat = room.join(here)
        with room.join(away, name="Bea") as gone:
            gone.draw(1, (draw(0), draw(1)))
            await settle()
            assert away.drawn == [0, 1]
        seat.draw(1, (draw(2), draw(3)))
        back = Client(V2)
        with room.join(back, claim=claim(gone, seq=2)) as again:
            await settle()
            assert again.client_id == gone.client_id
            assert (again.welcome.recovered, again.welcome.seq, again.welcome.op) == (True, 4, 2)
            assert back.drawn == [2, 3]
            # It does not know whether its second event was taken, so it sends it anew.
            assert again.draw(2, (draw(1), draw(4))) == [Ack(gone.client_id, 2)]
            await settle()
            assert back.drawn == [2, 3, 4]
        assert rooms.counts["resumed"] == 1


@pytest.mark.parametrize(
    "changes",
    [{"token": "A" * 43}, {"token": ""}, {"client_id": "SOMEBODY"}, {"token": "\ud800"}],
)
async def test_who_shows_no_good_token_is_somebody_new(
    autojump_clock: MockClock, changes: dict[str, str]
) -> None:
    async with running() as rooms:
        room = await rooms.create()
        with room.join(Client(V2)) as seat:
            other = room.join(Client(V2), claim=claim(seat, seq=0, **changes))
            assert other.client_id not in (seat.client_id, "SOMEBODY")
            assert not other.welcome.recovered
            assert not seat.closed


async def test_a_token_of_one_board_is_worth_nothing_on_another(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        first, second = await rooms.create(), await rooms.create()
        seat = first.join(Client(V2))
        assert second.join(Client(V2), claim=claim(seat, seq=0)).client_id != seat.client_id


async def test_who_returns_takes_its_seat_from_the_connection_before(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        room = await rooms.create()
        old, new = Client(V2), Client(V2)
        seat = room.join(old)
        await settle()
        again = room.join(new, claim=claim(seat, seq=0))
        assert old.closed == (4409, "resumed on another connection")
        # What the old one still says, and its leaving, concern the new one nothing.
        assert seat.draw(1, (draw(1),)) == []
        seat.move(1, 1)
        seat.change("old", None)
        seat.leave()
        again.draw(1, (draw(2),))
        await settle()
        assert new.drawn == [2]
        assert list(room.board.peers) == [again.client_id]


async def test_a_board_has_as_many_clients_as_it_may(autojump_clock: MockClock) -> None:
    async with running(chosen=settings(limits=BoardLimits(peers=2))) as rooms:
        room = await rooms.create()
        seat, _ = room.join(Client()), room.join(Client())
        third = Client()
        with pytest.raises(CannotJoin) as refused:
            room.join(third)
        assert (refused.value.code, refused.value.reason) == (
            4413,
            "the board has 2 clients, as many as it may",
        )
        assert third.closed is None
        seat.leave()
        room.join(third)
        await settle()


async def test_what_is_pushed_in_pieces_comes_whole(autojump_clock: MockClock) -> None:
    """A long history goes out a batch at a time to one whose socket takes a while for each."""
    async with running(chosen=settings(limits=BoardLimits(batch=4096, history=5000))) as rooms:
        room = await rooms.create()
        seat = room.join(Client())
        for x in range(200):
            seat.draw(0, (draw(x, stroke=0, color="#" * 64),))
        late = Client(V2, stuck=True)
        room.join(late)
        for _ in range(50):
            await settle(0.05)
            before = len(late.writes)
            late.stuck = False
            await settle(0.03)
            late.stuck = True
            assert len(late.writes) >= before
        strokes = [s for document in late.documents for s in document.get("snapshot", {}).get("strokes", [])]
        assert sum(len(stroke["points"]) // 2 - 1 for stroke in strokes) == 200


@pytest.mark.parametrize("tick", [0.0, 0.004])
async def test_a_frozen_client_costs_a_look_now_and_then(autojump_clock: MockClock, tick: float) -> None:
    async with running(chosen=settings(tick=tick)) as rooms:
        room = await rooms.create()
        frozen, calm = Client(V2, stuck=True), Client(V2)
        room.join(frozen)
        seat = room.join(calm)
        seat.draw(0, (draw(1),))
        await settle()
        frozen.asked = calm.asked = 0
        await trio.sleep(10)
        assert 1 <= frozen.asked <= 2 * 10 / 0.02
        assert calm.asked == 0
        frozen.stuck = False
        await settle()
        frozen.asked = 0
        await trio.sleep(10)
        assert frozen.asked == 0
        assert frozen.drawn == [1]


class _BrokenBoard(Board):
    """An engine with a fault that a certain event brings out."""

    def apply(self, command: Command, now: float) -> list[Effect]:
        effects = super().apply(command, now)
        if self.seq and self.peers and self.seq % 3 == 0:
            raise ZeroDivisionError("a fault in the engine")
        return effects


async def test_a_fault_of_the_engine_ends_its_board_alone(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryBoards()
    async with running(store) as rooms:
        healthy = await rooms.create()
        calm = Client()
        seat = healthy.join(calm)
        with monkeypatch.context() as patch:
            patch.setattr("fawa.rooms.rooms.Board", _BrokenBoard)
            faulty = await rooms.create()
        one, other = Client(), Client()
        first = faulty.join(one)
        faulty.join(other)
        first.draw(0, (draw(1), draw(2)))
        await settle(10)
        assert one.drawn == [1, 2]
        assert first.draw(0, (draw(3),)) == []
        assert one.closed == other.closed == (1011, "the server failed; its log says why")
        assert first.draw(0, (draw(4),)) == []
        first.leave()
        with pytest.raises(CannotJoin) as refused:
            faulty.join(Client())
        assert refused.value.code == 1011
        seat.draw(0, (draw(5),))
        await settle()
        assert calm.drawn == [5]
        # The board is there again as it was copied last.
        again = await rooms.find(faulty.code)
        assert again is not faulty
        late = Client()
        again.join(late)
        await settle()
        assert late.drawn == [1, 2]
        assert rooms.counts["failed"] == 1


async def test_a_fault_while_clients_are_fed_ends_its_board_alone(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running() as rooms:
        room = await rooms.create()
        client = Client()
        seat = room.join(client)
        await settle()
        monkeypatch.setattr(room.board, "take", lambda peer, now: 1 // 0)
        seat.draw(0, (draw(1),))
        await settle()
        assert client.closed == (1011, "the server failed; its log says why")
        with pytest.raises(UnknownBoard):
            # It had not been copied since it was made, but for being there.
            await rooms.find("NOSUCH")
        assert (await rooms.find(room.code)).board.seq == 0


async def test_a_ping_is_nobody_elses_business(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        room = await rooms.create()
        client = Client()
        seat = room.join(client)
        assert seat.draw(0, (DrawEvent("ping"),)) == []
        await settle()
        assert client.writes == []
        assert room.board.seq == 0
