"""Alarms: each at its time, the earlier one where there are two, none for who is forgotten."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from fawa.rooms.agenda import Agenda, Alarms


async def test_alarms_go_off_in_the_order_of_their_times(autojump_clock: MockClock) -> None:
    alarms: Alarms[str] = Alarms()
    start = trio.current_time()
    for name, after in [("b", 2.0), ("c", 3.0), ("a", 1.0)]:
        alarms.set(name, start + after)
    heard = [(await alarms.next(), trio.current_time() - start) for _ in range(3)]
    assert [(name, round(at, 6)) for name, at in heard] == [("a", 1), ("b", 2), ("c", 3)]


async def test_an_earlier_alarm_wakes_who_sleeps_for_a_later_one(autojump_clock: MockClock) -> None:
    alarms: Alarms[str] = Alarms()
    start = trio.current_time()
    alarms.set("late", start + 100)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def change_of_mind() -> None:
            await trio.sleep(1)
            alarms.set("soon", start + 2)

        assert await alarms.next() == "soon"
    assert round(trio.current_time() - start, 6) == 2


async def test_of_two_alarms_of_one_the_earlier_counts(autojump_clock: MockClock) -> None:
    alarms: Alarms[str] = Alarms()
    start = trio.current_time()
    for after in (5.0, 1.0, 3.0):
        alarms.set("a", start + after)
    alarms.set("z", start + 10)
    assert [await alarms.next(), await alarms.next()] == ["a", "z"]
    alarms.set("a", start + 20)
    assert await alarms.next() == "a", "after an alarm one may be set again"
    assert round(trio.current_time() - start, 6) == 20


async def test_who_is_forgotten_is_not_woken(autojump_clock: MockClock) -> None:
    alarms: Alarms[str] = Alarms()
    start = trio.current_time()
    alarms.set("a", start + 1)
    alarms.set("b", start + 2)
    alarms.forget("a")
    alarms.forget("a")
    assert await alarms.next() == "b"


async def test_alarms_that_made_way_do_not_gather(autojump_clock: MockClock) -> None:
    alarms: Alarms[int] = Alarms()
    start = trio.current_time()
    for earlier in range(1000):
        for who in range(3):
            alarms.set(who, start + 10_000 - 3 * earlier - who)
            assert len(alarms._heap) <= 2 * 3
    assert [await alarms.next() for _ in range(3)] == [2, 1, 0]
    assert trio.current_time() == start + 10_000 - 3 * 999
    alarms.set(0, start + 20_000)
    assert await alarms.next() == 0


async def test_a_room_stands_once_in_each_list(autojump_clock: MockClock) -> None:
    agenda: Agenda[str] = Agenda(tick=0.004)
    for _ in range(3):
        agenda.flush("a")
        agenda.expire("a")
        agenda.poll("b")
    await agenda.wait_news()
    assert (agenda.take_dirty(), agenda.sending) == (["a"], {"b"})
    agenda.poll("b")
    with trio.move_on_after(10) as waiting:
        await agenda.wait_news()
    assert waiting.cancelled_caught, "it is known already that the room is sending"
    agenda.forget("b")
    assert (agenda.take_dirty(), agenda.sending) == ([], set())
    assert await agenda.wait_over() == ["a"]
    with trio.move_on_after(10) as waiting:
        await agenda.wait_over()
    assert waiting.cancelled_caught
