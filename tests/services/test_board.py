"""The boards' own service: a crash of it, or of a service on them, takes no board away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from fawa.rooms.rooms import Rooms
from fawa.services.base import Offer
from fawa.services.board import BoardService
from fawa.storage.base import StorageError
from fawa.storage.boards import board_store
from tests.rooms.memory import SECRET, Client, MemoryBoards, draw, settle


class CrashingBoards(MemoryBoards):
    """A store with a fault that is not its own to tell."""

    async def sweep(self, now: float, most: int) -> int:
        raise ZeroDivisionError("a fault in the store")


async def test_a_crash_takes_no_board_away(autojump_clock: MockClock) -> None:
    rooms = Rooms(SECRET, clock=trio.current_time)
    stores: list[MemoryBoards] = [CrashingBoards(), MemoryBoards()]
    opened: list[MemoryBoards] = []

    @asynccontextmanager
    async def open_store() -> AsyncIterator[MemoryBoards]:
        opened.append(stores[len(opened)])
        yield opened[-1]

    service = BoardService(rooms, open_store)
    client = Client()
    seat = (await rooms.create()).join(client)
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(service.run)
            await trio.Event().wait()
    seat.draw(0, (draw(1),))
    async with trio.open_nursery() as nursery:
        offer: Offer = await nursery.start(service.run)
        await settle()
        assert client.drawn == [1]
        offer.drain()
        assert client.closed == (1012, "the server restarts")
        nursery.cancel_scope.cancel()
    assert list(opened[1].copies) == [seat.room.code]


async def test_a_store_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    open_store = partial(board_store, tmp_path / "file" / "boards.sqlite3")
    with pytest.RaisesGroup(pytest.RaisesExc(StorageError, match="Not a directory"), flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(BoardService(Rooms(SECRET), open_store).run)
            nursery.cancel_scope.cancel()
