"""Who comes to which board, and who has to wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
from trio.testing import MockClock

from fawa.services.addresses import Proxies
from fawa.services.admission import AdmissionSettings, Refused, Why
from fawa.services.ratelimit import Rate
from tests.rooms.memory import MemoryBoards, settings
from tests.services.boards import site

PEER, OTHER = "192.0.2.1:5000", "192.0.2.2:5000"


@contextmanager
def refused(why: Why, retry_after: int = 0) -> Iterator[None]:
    with pytest.raises(Refused) as caught:
        yield
    assert (caught.value.why, caught.value.retry_after) == (why, retry_after)


async def test_a_code_is_matched_in_any_case(autojump_clock: MockClock) -> None:
    async with site() as here:
        code = await here.code()
        room = await here.admission.find(code, PEER, [])
        assert await here.admission.find(code.lower(), PEER, []) is room
        for wrong in ("", "ABC12", "ABC1234", "ABC-12", "ß" * 6, "*", code + "\n"):
            with refused(Why.MALFORMED):
                await here.admission.find(wrong, PEER, [])


async def test_wrong_codes_of_one_address_run_out(autojump_clock: MockClock) -> None:
    async with site() as here:
        code = await here.code()
        find = here.admission.find
        for _ in range(20):
            with refused(Why.UNKNOWN):
                await find("AAAAAA", PEER, [])
        with refused(Why.TOO_OFTEN, 6):
            await find("AAAAAA", PEER, [])
        # Not the right one either: else it could be told from wrong ones.
        with refused(Why.TOO_OFTEN, 6):
            await find(code, "192.0.2.1:5001", [])
        await find(code, OTHER, [])
        await trio.sleep(6)
        await find(code, PEER, [])
        with refused(Why.UNKNOWN):
            await find("AAAAAA", PEER, [])
        with refused(Why.TOO_OFTEN, 6):
            await find("AAAAAA", PEER, [])
        await trio.sleep(60)
        counts = [0, 0]
        for _ in range(12):
            with pytest.raises(Refused) as caught:
                await find("AAAAAA", PEER, [])
            counts[caught.value.why is Why.UNKNOWN] += 1
        assert counts == [2, 10], "ten a minute"


async def test_right_codes_do_not_count(autojump_clock: MockClock) -> None:
    async with site() as here:
        code = await here.code()
        for _ in range(100):
            await here.admission.find(code, PEER, [])


async def test_many_attempts_at_once_count_like_others(autojump_clock: MockClock) -> None:
    store = MemoryBoards()
    async with site(store=store) as here:
        store.gate = trio.Event()
        answers: list[Why] = []
        async with trio.open_nursery() as nursery:
            for _ in range(50):

                @nursery.start_soon
                async def guess() -> None:
                    with pytest.raises(Refused) as caught:
                        await here.admission.find("AAAAAA", PEER, [])
                    answers.append(caught.value.why)

            await trio.sleep(1)
            assert answers == []
            store.gate.set()
        assert sorted(answers, key=str) == [Why.TOO_OFTEN] * 30 + [Why.UNKNOWN] * 20


async def test_an_ipv6_network_is_one_address(autojump_clock: MockClock) -> None:
    chosen = AdmissionSettings(wrong_codes=Rate(1, 1 / 60))
    async with site(admission=chosen) as here:
        with refused(Why.UNKNOWN):
            await here.admission.find("AAAAAA", "[2001:db8::1]:1", [])
        with refused(Why.TOO_OFTEN, 60):
            await here.admission.find("AAAAAA", "[2001:db8::2]:1", [])
        with refused(Why.UNKNOWN):
            await here.admission.find("AAAAAA", "[2001:db8:0:1::1]:1", [])


async def test_behind_a_trusted_proxy_each_client_counts_by_itself(autojump_clock: MockClock) -> None:
    chosen = AdmissionSettings(wrong_codes=Rate(1, 1 / 60), proxies=Proxies.of(["192.0.2.1"]))
    async with site(admission=chosen) as here:
        find = here.admission.find
        for client in ("198.51.100.1", "198.51.100.2"):
            with refused(Why.UNKNOWN):
                await find("AAAAAA", PEER, [client])
            with refused(Why.TOO_OFTEN, 60):
                await find("AAAAAA", PEER, [f"203.0.113.5, {client}"])
        with refused(Why.UNKNOWN):
            await find("AAAAAA", OTHER, ["198.51.100.1"])
        with refused(Why.TOO_OFTEN, 60):
            await find("AAAAAA", OTHER, ["198.51.100.99"])


async def test_one_address_makes_so_many_boards(autojump_clock: MockClock) -> None:
    async with site() as here:
        for _ in range(100):
            await here.admission.create(PEER, [])
        with refused(Why.TOO_OFTEN, 1):
            await here.admission.create(PEER, [])
        await here.admission.create(OTHER, [])
        await trio.sleep(1)
        await here.admission.create(PEER, [])
        with refused(Why.TOO_OFTEN, 1):
            await here.admission.create(PEER, [])
        assert here.rooms.boards == 102


async def test_there_may_be_too_many_boards(autojump_clock: MockClock) -> None:
    async with site(settings(max_boards=1)) as here:
        await here.admission.create(PEER, [])
        with refused(Why.FULL, 60):
            await here.admission.create(PEER, [])


async def test_a_store_that_fails_is_nobodys_wrong_code(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryBoards(broken=True)
    async with site(store=store) as here:
        for _ in range(30):
            with refused(Why.AWAY, 5):
                await here.admission.find("AAAAAA", PEER, [])
        with refused(Why.AWAY, 5):
            await here.admission.shared()


async def test_at_the_end_nobody_is_let_in(autojump_clock: MockClock) -> None:
    async with site() as here:
        code = await here.code()
        here.rooms.drain()
        for attempt in (
            here.admission.find(code, PEER, []),
            here.admission.create(PEER, []),
            here.admission.shared(),
        ):
            with refused(Why.AWAY, 5):
                await attempt


async def test_settings_change_while_it_runs(autojump_clock: MockClock) -> None:
    async with site() as here:
        here.admission.settings = AdmissionSettings(wrong_codes=Rate(1, 1 / 60), creates=Rate(1, 1 / 60))
        await here.admission.create(PEER, [])
        with refused(Why.TOO_OFTEN, 60):
            await here.admission.create(PEER, [])
        with refused(Why.UNKNOWN):
            await here.admission.find("AAAAAA", PEER, [])
        with refused(Why.TOO_OFTEN, 60):
            await here.admission.find("AAAAAA", PEER, [])
