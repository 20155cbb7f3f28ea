"""A board over WebTransport on a network in memory that loses, reorders and duplicates."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from fawa.client.board.board import Board, open_board
from fawa.client.board.line import Line
from fawa.client.board.reach import Reach
from fawa.client.board.webtransport import webtransport_line
from fawa.client.webtransport import LIMITS, kept
from fawa.net.tls import Certificate
from tests.client.board.seeing import seeing
from tests.client.quic_server import Quic
from tests.net.quic_talk import Weather, certificate, listening
from tests.services.boards import Site, site

STORMY = Weather(loss=0.05, reorder=0.1, duplicate=0.05)


@pytest.fixture(scope="module")
def cert(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def joined(server: Quic, code: str) -> AsyncIterator[Board]:
    """Join a board over the network in memory."""
    target = f"/webtransport/canva?code={code}"

    @asynccontextmanager
    async def session() -> AsyncIterator[Line]:
        connection = await server.dial(server.dialer(limits=LIMITS))
        async with kept(connection), webtransport_line(connection, target) as line:
            yield line

    # What breaks while it connects is told as a client's own ways of connecting tell it.
    async with open_board(Reach(session, session, "webtransport")) as board:
        yield board


@asynccontextmanager
async def stormy(cert: Certificate, seed: int) -> AsyncIterator[tuple[Site, Quic]]:
    async with site() as here, listening(cert, app=here.handle, weather=STORMY, seed=seed) as there:
        yield here, Quic(there, cert)


@pytest.mark.parametrize("seed", range(3))
async def test_everybody_sees_the_same(cert: Certificate, seed: int, autojump_clock: MockClock) -> None:
    async with stormy(cert, seed) as (here, server):
        code = await here.code()
        async with (
            joined(server, code) as ada,
            joined(server, code) as bob,
            seeing(ada) as sees,
            seeing(bob) as sees_too,
        ):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sees.draw, *range(300))
                nursery.start_soon(sees_too.draw, *range(300, 600))
                for step in range(20):
                    ada.move(step, step)
                    await trio.sleep(0.05)
            await sees.until(lambda: len(sees.xs) == 600)
            await sees_too.until(lambda: len(sees_too.xs) == 600)
            assert sees.xs == sees_too.xs
            assert sorted(sees.xs) == list(range(600))
            assert [x for x in sees.xs if x < 300] == list(range(300))
            assert (sees.snapshots, sees_too.snapshots) == (1, 1)


@pytest.mark.parametrize("seed", range(3))
async def test_connections_that_break_lose_and_double_nothing(
    cert: Certificate, seed: int, autojump_clock: MockClock
) -> None:
    async with stormy(cert, seed) as (here, server):
        code = await here.code()
        async with (
            joined(server, code) as ada,
            joined(server, code) as bob,
            seeing(ada) as sees,
            seeing(bob) as sees_too,
        ):
            # Of a board without events nothing can be resumed, which is no loss: its snapshot comes again.
            await sees.draw(-1)
            await sees.until_xs([-1])
            await sees_too.until_xs([-1])
            for start in range(0, 500, 100):
                await sees.draw(*range(start, start + 50))
                await trio.sleep(0.02)  # some of it has gone out, and some of that has been answered
                for client in server.clients:
                    client.end()
                await sees.draw(*range(start + 50, start + 100))
                await trio.sleep(2)  # both are back
            await sees.until_xs(list(range(-1, 500)))
            await sees_too.until_xs(list(range(-1, 500)))
            assert len(server.clients) >= 8
            # All of it came by resuming.
            assert (sees.snapshots, sees_too.snapshots) == (1, 1)
            await ada.settle()
            assert ada.pending == 0


async def test_who_does_not_look_is_told_the_whole_board(
    cert: Certificate, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fawa.client.board.board._MOST_QUEUED", 10)
    async with stormy(cert, 1) as (here, server):
        code = await here.code()
        async with joined(server, code) as ada, joined(server, code) as bob:
            async with seeing(bob) as sees:
                await sees.draw(*range(40))
                await sees.until_xs(list(range(40)))
            await trio.sleep(5)
            assert len(ada._queue) <= 10
            async with seeing(ada) as late:
                await late.until_xs(list(range(40)))
                await bob.draw([(0, 0), (40, 0)])
                await late.until_xs(list(range(41)))
