"""What all services of the whiteboard have in common: the boards, and the work in their background."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import NoReturn

import attrs
import trio

from fawa.rooms.rooms import Rooms
from fawa.services.base import Offer
from fawa.storage.base import BoardStore


@attrs.define(eq=False)
class BoardService:
    """Keeps the boards going. They are there without it too: a crash loses none and closes no connection."""

    rooms: Rooms
    #: Opens where copies are kept; each run opens and closes it anew.
    open_store: Callable[[], AbstractAsyncContextManager[BoardStore]]
    name: str = "board"

    async def run(self, task_status: trio.TaskStatus[Offer]) -> NoReturn:
        """Work until cancelled.

        Raises:
            StorageError: the store cannot be opened.

        """
        async with self.open_store() as store, trio.open_nursery() as nursery:
            await nursery.start(self.rooms.run, store)
            task_status.started(Offer(drain=self.rooms.drain))
        raise AssertionError("the rooms have stopped by themselves")
