"""The race between WebTransport and WebSocket, on a clock that jumps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from fawa.client.board.line import Closed, Line, Name, Refused
from fawa.client.board.reach import Reach
from fawa.client.errors import CannotReach


@attrs.define(eq=False)
class Nowhere(Line):
    """A connection on which nothing happens."""

    transport: Name

    async def send(self, document: bytes) -> None:
        raise Closed(1006, "nobody is there")

    async def receive(self) -> bytes:
        raise Closed(1006, "nobody is there")

    async def close(self) -> None:
        pass


@attrs.define
class Way:
    """One that is there after some seconds, or fails then."""

    transport: Name
    after: float = 0.0
    error: Exception | None = None
    tried: int = 0
    open: int = 0

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Line]:
        self.tried += 1
        await trio.sleep(self.after)
        if self.error is not None:
            raise self.error
        self.open += 1
        try:
            yield Nowhere(self.transport)
        finally:
            self.open -= 1


NO = CannotReach("it is broken")
SILENT = float("inf")


def ways(
    webtransport: float, websocket: float, wt: Exception | None = None, ws: Exception | None = None
) -> tuple[Way, Way]:
    return Way("webtransport", webtransport, wt), Way("websocket", websocket, ws)


@pytest.mark.parametrize(
    ("webtransport", "websocket", "transport", "seconds"),
    [
        ((0.0, None), (0.0, None), "webtransport", 0.0),
        ((0.2, None), (0.0, None), "webtransport", 0.2),
        ((0.5, None), (0.0, None), "webtransport", 0.5),  # in its time of grace
        ((0.9, None), (0.3, None), "webtransport", 0.9),
        ((5.0, None), (0.0, NO), "websocket", 0.0),
        ((0.1, NO), (0.2, None), "websocket", 0.3),
        ((0.4, NO), (0.5, None), "websocket", 0.8),
        ((SILENT, None), (0.2, None), "websocket", 1.2),
        ((0.1, Refused(502, "no upstream")), (0.1, None), "websocket", 0.2),
    ],
)
async def test_who_wins(
    webtransport: tuple[float, Exception | None],
    websocket: tuple[float, Exception | None],
    transport: str,
    seconds: float,
    autojump_clock: MockClock,
) -> None:
    better, sure = Way("webtransport", *webtransport), Way("websocket", *websocket)
    began = trio.current_time()
    if better.after == 5.0:
        # Neither: the one comes too late, the other not at all.
        with pytest.raises(CannotReach, match="it is broken; and by WebTransport: UDP did not answer"):
            async with Reach(better, sure)():
                pass
        return
    async with Reach(better, sure)() as (line, why):
        assert line.transport == transport
        assert trio.current_time() - began == pytest.approx(seconds)
        assert bool(why) == (transport == "websocket")
        await trio.testing.wait_all_tasks_blocked()
        assert better.open + sure.open == 1
    assert better.open + sure.open == 0


async def test_the_reason_of_a_fallback_and_its_memory(autojump_clock: MockClock) -> None:
    better, sure = ways(SILENT, 0.0)
    reach = Reach(better, sure)
    for _ in range(2):
        async with reach() as (line, why):
            assert line.transport == "websocket"
            assert why == "WebTransport could not be had: UDP did not answer within 1.0 s"
    assert better.tried == 1
    await trio.sleep(300)
    async with reach():
        assert better.tried == 2


async def test_a_no_ends_the_race(autojump_clock: MockClock) -> None:
    better, sure = ways(0.1, 0.0, wt=Refused(404, "no such board"))
    with pytest.raises(Refused, match="no such board"):
        async with Reach(better, sure)():
            pass
    assert sure.tried == 0
    better, sure = ways(0.1, 0.1, wt=NO, ws=Refused(403, "not you"))
    with pytest.raises(Refused, match="not you"):
        async with Reach(better, sure)():
            pass


@pytest.mark.parametrize("transport", ["webtransport", "websocket"])
async def test_one_alone(transport: Name, autojump_clock: MockClock) -> None:
    both = {"webtransport": Way("webtransport", 5.0), "websocket": Way("websocket", 5.0)}
    reach = Reach(both["webtransport"], both["websocket"], transport)
    async with reach() as (line, why):
        assert (line.transport, why) == (transport, "")
    assert sum(way.tried for way in both.values()) == 1
    for error in (NO, Refused(404, "no")):
        both[transport].error = error
        with pytest.raises(type(error)):
            async with reach():
                pass
