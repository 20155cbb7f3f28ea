"""Boards that come and go: found, expired, copied, brought back; limits, failing stores, the daemon's end."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from fawa.board.board import BoardLimits
from fawa.rooms.room import Room
from fawa.rooms.rooms import SHARED, Draining, Rooms, TooManyBoards, UnknownBoard
from fawa.storage.base import StorageError
from tests.rooms.memory import SECRET, V2, Client, MemoryBoards, claim, draw, running, settings, settle

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


async def history(room: Room) -> list[int]:
    """Return what somebody sees who joins now."""
    client = Client()
    with room.join(client):
        await settle()
    return client.drawn


async def drawn_on(rooms: Rooms, *xs: int) -> Room:
    """Make a board that somebody has drawn on and left."""
    room = await rooms.create()
    with room.join(Client()) as seat:
        for x in xs:
            seat.draw(0, (draw(x),))
        await settle()
    return room


async def test_a_board_is_found_by_its_code_alone(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        first, second = await rooms.create(), await rooms.create()
        assert first.code != second.code
        assert await rooms.find(first.code) is first
        assert rooms.boards == 2
        with pytest.raises(UnknownBoard, match="AAAAAA"):
            await rooms.find("AAAAAA")


async def test_a_board_that_nobody_is_on_leaves_memory_and_comes_back(autojump_clock: MockClock) -> None:
    store = MemoryBoards()
    async with running(store) as rooms:
        room = await drawn_on(rooms, 1, 2, 3)
        epoch = room.board.epoch
        await trio.sleep(9.9 * MINUTE)
        assert rooms.boards == 1
        await trio.sleep(0.2 * MINUTE)
        assert rooms.boards == 0
        await trio.sleep(23 * HOUR)
        again = await rooms.find(room.code)
        assert again is not room
        assert again.board.epoch != epoch
        assert again.board.seq == 3
        assert await history(again) == [1, 2, 3]
        assert rooms.counts["expired"] == rooms.counts["revived"] == 1


async def test_a_board_that_somebody_is_on_never_expires(autojump_clock: MockClock) -> None:
    store = MemoryBoards()
    async with running(store, settings(grace=HOUR)) as rooms:
        room = await rooms.create()
        client = Client()
        with room.join(client) as seat:
            seat.draw(0, (draw(1),))
            await trio.sleep(10 * HOUR)
            assert await rooms.find(room.code) is room
            # Its copy does not expire either, though nothing changes.
            [(_, expires)] = store.copies.values()
            assert expires > trio.current_time() + 0.4 * HOUR
        await trio.sleep(11 * MINUTE)
        assert rooms.boards == 0


async def test_a_copy_expires(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        room = await drawn_on(rooms, 1)
        await trio.sleep(DAY + 11 * MINUTE)
        with pytest.raises(UnknownBoard):
            await rooms.find(room.code)


async def test_without_grace_a_board_that_expires_is_gone(autojump_clock: MockClock) -> None:
    store = MemoryBoards()
    async with running(store, settings(grace=0.0)) as rooms:
        room = await drawn_on(rooms, 1)
        await trio.sleep(11 * MINUTE)
        with pytest.raises(UnknownBoard):
            await rooms.find(room.code)
    assert store.puts == 0


async def test_a_link_to_a_board_works_though_nobody_has_been_there_yet(autojump_clock: MockClock) -> None:
    store = MemoryBoards()
    async with running(store) as rooms:
        room = await rooms.create()
        assert list(store.copies) == [room.code], "also if the daemon is killed at once"
        await trio.sleep(11 * MINUTE)
        assert rooms.boards == 0
        assert (await rooms.find(room.code)).board.seq == 0


async def test_grace_that_is_taken_away_takes_copies_away(autojump_clock: MockClock) -> None:
    store = MemoryBoards()
    async with running(store) as rooms:
        room = await drawn_on(rooms, 1)
        await trio.sleep(6)
        rooms.settings = settings(grace=0.0)
        await trio.sleep(11 * MINUTE)
        assert store.copies == {}
        with pytest.raises(UnknownBoard):
            await rooms.find(room.code)


async def test_after_a_restart_boards_are_as_they_were(autojump_clock: MockClock) -> None:
    store = MemoryBoards()
    async with running(store) as rooms:
        room = await rooms.create()
        client = Client(V2)
        seat = room.join(client)
        seat.draw(1, (draw(1), draw(2)))
        # The last copies are made at the very end.
    async with running(store) as rooms:
        again = await rooms.find(room.code)
        assert await history(again) == [1, 2]
        back = Client(V2)
        returned = again.join(back, claim=claim(seat, seq=2))
        assert returned.client_id == seat.client_id, "tokens are good after a restart"
        assert (returned.welcome.recovered, returned.welcome.op) == (False, 2)
        returned.draw(2, (draw(2), draw(3)))
        await settle()
        assert back.drawn == [3], "what was taken before the restart is not taken again"


async def test_what_was_copied_survives_a_kill(autojump_clock: MockClock) -> None:
    store = MemoryBoards()
    async with running(store) as rooms:
        room = await rooms.create()
        seat = room.join(Client())
        seat.draw(0, (draw(1),))
        await trio.sleep(5.1)
        seat.draw(0, (draw(2),))
        killed = MemoryBoards(dict(store.copies))
    async with running(killed) as rooms:
        assert await history(await rooms.find(room.code)) == [1]


async def test_only_what_has_changed_is_copied(autojump_clock: MockClock) -> None:
    store = MemoryBoards()
    async with running(store) as rooms:
        seat = (await rooms.create()).join(Client())
        await rooms.create()
        await trio.sleep(60)
        assert store.puts == 2
        seat.draw(0, (draw(1),))
        await trio.sleep(60)
        assert store.puts == 3
        assert rooms.counts["saved"] == 3


async def test_copies_are_swept(autojump_clock: MockClock) -> None:
    store = MemoryBoards()
    async with running(store, settings(max_kept=1234)) as rooms:
        await trio.sleep(2.5 * MINUTE)
        rooms.settings = settings(max_kept=99)
        await trio.sleep(MINUTE)
    assert [most for _, most in store.sweeps] == [1234, 1234, 1234, 99]


@pytest.mark.parametrize("leaves", [False, True])
async def test_one_that_comes_while_a_board_is_taken_away_keeps_it(
    autojump_clock: MockClock, leaves: bool
) -> None:
    store = MemoryBoards()
    async with running(store) as rooms:
        room = await drawn_on(rooms, 1)
        await trio.sleep(5)
        store.gate = trio.Event()
        await trio.sleep(11 * MINUTE)
        again = await rooms.find(room.code)
        assert again is room
        with again.join(Client()) as seat:
            seat.draw(0, (draw(2),))
            if leaves:
                seat.leave()
            store.gate.set()
            await settle()
            assert await rooms.find(room.code) is room
            assert await history(again) == [1, 2]
            await trio.sleep(11 * MINUTE)
            assert (room.code in rooms) is not leaves
        assert await history(await rooms.find(room.code)) == [1, 2]


async def test_the_end_comes_while_a_board_is_taken_away(autojump_clock: MockClock) -> None:
    store = MemoryBoards()
    async with trio.open_nursery() as nursery, running(store, settings(autosave=HOUR)) as rooms:
        room = await drawn_on(rooms, 1)
        gate = store.gate = trio.Event()
        await trio.sleep(11 * MINUTE)

        @nursery.start_soon
        async def go_on() -> None:
            await trio.sleep(1)
            gate.set()

    async with running(store) as rooms:
        assert await history(await rooms.find(room.code)) == [1]


async def test_two_that_come_at_once_meet_on_one_board(autojump_clock: MockClock) -> None:
    store = MemoryBoards()
    async with running(store) as rooms:
        room = await drawn_on(rooms, 1)
    found: list[Room] = []
    async with running(store) as rooms, trio.open_nursery() as nursery:
        for _ in range(3):

            @nursery.start_soon
            async def come() -> None:
                found.append(await rooms.find(room.code))

    assert [one is found[0] for one in found] == [True] * 3


async def test_the_shared_board_is_one_and_nobodys(autojump_clock: MockClock) -> None:
    store = MemoryBoards()
    async with running(store, settings(max_boards=1)) as rooms:
        await rooms.create()
        shared = await rooms.shared()
        assert await rooms.shared() is shared
        with shared.join(Client()) as seat:
            seat.draw(0, (draw(1),))
    async with running(store) as rooms:
        assert await history(await rooms.shared()) == [1]
        assert rooms.clients == 0
        with (await rooms.shared()).join(Client()):
            assert rooms.clients == 1


async def test_there_are_as_many_boards_as_may_be(autojump_clock: MockClock) -> None:
    store = MemoryBoards()
    async with running(store) as rooms:
        old = await drawn_on(rooms, 1)
    async with running(store, settings(max_boards=2)) as rooms:
        first = await rooms.create()
        await rooms.create()
        with pytest.raises(TooManyBoards, match="2 boards"):
            await rooms.create()
        with pytest.raises(TooManyBoards):
            await rooms.find(old.code)
        assert await rooms.find(first.code) is first
        await trio.sleep(11 * MINUTE)
        await rooms.find(old.code)


async def test_a_store_that_fails_costs_copies_alone(autojump_clock: MockClock) -> None:
    store = MemoryBoards(broken=True)
    async with running(store) as rooms:
        room = await rooms.create()
        client = Client()
        seat = room.join(client)
        seat.draw(0, (draw(1),))
        await trio.sleep(10 * MINUTE)
        assert client.drawn == [1]
        with pytest.raises(StorageError):
            await rooms.find("AAAAAA")
        with pytest.raises(StorageError):
            await rooms.shared()
        store.broken = False
        await trio.sleep(6)
        assert list(store.copies) == [room.code], "copies are made as soon as that is possible"


async def test_boards_go_on_while_nothing_works_for_them(autojump_clock: MockClock) -> None:
    rooms = Rooms(SECRET, clock=trio.current_time)
    room = await rooms.create()
    seat = room.join(Client())
    seat.draw(0, (draw(1),))
    assert await rooms.find(room.code) is room
    with pytest.raises(StorageError, match="starting again"):
        await rooms.find("AAAAAA")
    async with trio.open_nursery() as nursery:
        await nursery.start(rooms.run, MemoryBoards())
        assert await history(room) == [1]
        nursery.cancel_scope.cancel()


async def test_a_copy_that_cannot_be_made_leaves_the_one_before(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryBoards()
    async with running(store) as rooms:
        watched, left = await drawn_on(rooms, 1), await drawn_on(rooms, 2)
        client = Client()
        seat = watched.join(client)
        await trio.sleep(6)
        for room in (watched, left):
            monkeypatch.setattr(room.board, "save", lambda: 1 // 0)
        seat.draw(0, (draw(3),))
        await trio.sleep(11 * MINUTE)
        assert client.closed == (1011, "the server failed; its log says why")
        assert rooms.counts["failed"] == 2
        assert await history(await rooms.find(watched.code)) == [1]
        assert await history(await rooms.find(left.code)) == [2]


async def test_a_copy_that_cannot_be_read_is_no_board(autojump_clock: MockClock) -> None:
    store = MemoryBoards({"AAAAAA": (b"certainly not a board", DAY)})
    async with running(store) as rooms:
        with pytest.raises(UnknownBoard):
            await rooms.find("AAAAAA")
        assert rooms.boards == 0


async def test_the_end_closes_everybody_and_loses_nothing(autojump_clock: MockClock) -> None:
    store = MemoryBoards()
    async with running(store) as rooms:
        room = await rooms.create()
        clients = [Client(), Client(V2)]
        seats = [room.join(client) for client in clients]
        seats[0].draw(0, (draw(1),))
        rooms.drain()
        assert [client.drawn for client in clients] == [[1], [1]], "what was drawn is told first"
        assert [client.closed for client in clients] == [(1012, "the server restarts")] * 2
        for attempt in (rooms.find(room.code), rooms.shared(), rooms.create()):
            with pytest.raises(Draining):
                await attempt
        # Until their adapters have ended they may still draw, and are not closed twice.
        seats[1].draw(1, (draw(2),))
        rooms.drain()
        for seat in seats:
            seat.leave()
    async with running(store) as rooms:
        assert await history(await rooms.find(room.code)) == [1, 2]


async def test_a_store_that_hangs_does_not_hold_the_end_up(autojump_clock: MockClock) -> None:
    store = MemoryBoards()
    async with running(store) as rooms:
        (await rooms.create()).join(Client()).draw(0, (draw(1),))
        store.gate = trio.Event()
        start = trio.current_time()
    assert trio.current_time() - start == pytest.approx(10, abs=1)


async def test_settings_change_under_running_boards(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        room = await rooms.create()
        client = Client()
        seat = room.join(client)
        rooms.settings = settings(tick=0.0, limits=BoardLimits(peers=1))
        seat.draw(0, (draw(1),))
        assert client.drawn == [1]
        assert room.board.limits.peers == 2000, "a board keeps the bounds that it was made with"
        assert (await rooms.create()).board.limits.peers == 1


def test_no_code_is_that_of_the_shared_board() -> None:
    assert SHARED == "*"
