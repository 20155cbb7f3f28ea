"""What somebody on a board has seen of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import trio

from fawa.client.board import Board, Event, Snapshot, Status
from fawa.client.pool import background

#: Seconds for anything that comes to an end by itself.
PATIENCE = 60.0


@attrs.define(eq=False)
class Seer:
    """Iterates over a board; keeps the `curr_x` of all that is on it, in order, and what was told besides."""

    board: Board
    xs: list[int] = attrs.field(factory=list)
    statuses: list[Status] = attrs.field(factory=list)
    snapshots: int = 0
    seq: int = 0
    _news: trio.Event = attrs.field(factory=trio.Event)

    async def run(self) -> None:
        async for news in self.board:
            match news:
                case Snapshot(strokes):
                    self.snapshots += 1
                    self.xs = [x for stroke in strokes for x in stroke.points[2::2]]
                case Event():
                    self.xs = [] if news.type == "clear" else [*self.xs, news.curr_x]
                case Status():
                    self.statuses.append(news)
            self._news.set()
            self._news = trio.Event()

    async def until(self, holds: Callable[[], object]) -> None:
        with trio.fail_after(PATIENCE):
            while not holds():
                await self._news.wait()

    async def until_xs(self, expected: list[int]) -> None:
        """Wait until so much has been seen, and see that it is this."""
        await self.until(lambda: len(self.xs) >= len(expected))
        assert self.xs == expected

    async def draw(self, *xs: int) -> None:
        """Draw a segment for each, of one stroke."""
        for x in xs:
            await self.board.draw([(0, 0), (x, 0)])


@asynccontextmanager
async def seeing(board: Board) -> AsyncIterator[Seer]:
    """Iterate over a board beside the block."""
    seer = Seer(board)
    async with background() as nursery:
        nursery.start_soon(seer.run)
        try:
            yield seer
        finally:
            nursery.cancel_scope.cancel()
