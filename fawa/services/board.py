"""What all services of the whiteboard have in common: the boards, and the work in their background."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import NoReturn

import attrs
import trio

from fawa.ops.meters import Figure, gauge
from fawa.rooms.rooms import Rooms
from fawa.services.base import Offer, checks
from fawa.services.figures import storage_figures
from fawa.storage.base import BoardStore
from fawa.storage.watching import StoreWatch


@attrs.define(eq=False)
class BoardService:
    """Keeps the boards going. They are there without it too: a crash loses none and closes no connection."""

    rooms: Rooms
    #: Opens where copies are kept; each run opens and closes it anew.
    open_store: Callable[[], AbstractAsyncContextManager[BoardStore]]
    name: str = "board"
    #: What is seen of the store.
    watches: tuple[StoreWatch, ...] = ()

    def outline(self) -> Offer:
        """Return what there is of it without the store."""
        return Offer(figures=self._figures())

    async def run(self, task_status: trio.TaskStatus[Offer]) -> NoReturn:
        """Work until cancelled.

        Raises:
            StorageError: the store cannot be opened.

        """
        async with self.open_store() as store, trio.open_nursery() as nursery:
            await nursery.start(self.rooms.run, store)
            offer = Offer(checks=checks(store), figures=self._figures(), drain=self.rooms.drain)
            task_status.started(offer)
        raise AssertionError("the rooms have stopped by themselves")

    def _figures(self) -> tuple[Figure, ...]:
        rooms = self.rooms

        def closed() -> list[tuple[tuple[str, ...], float]]:
            words = ((word.partition(" "), count) for word, count in rooms.counts.items())
            return [((code,), count) for (kind, _, code), count in words if kind == "closed"]

        def counted(*names: str) -> Callable[[], list[tuple[tuple[str, ...], float]]]:
            return lambda: [((name,), rooms.counts[name]) for name in names]

        return (
            gauge("fawa_boards", "Boards in memory.", lambda: rooms.boards),
            gauge("fawa_board_clients", "Clients on all boards.", lambda: rooms.clients),
            gauge("fawa_board_backlog_bytes", "What waits for clients to read it.", lambda: rooms.backlog),
            Figure(
                "fawa_board_changes",
                "Boards that were made, brought back, forgotten, and that failed; copies stored and swept.",
                counted("created", "revived", "expired", "failed", "saved", "swept"),
                ("what",),
                counts=True,
            ),
            Figure(
                "fawa_board_visits",
                "Clients that came for the first time, came back, and left.",
                counted("joined", "resumed", "left"),
                ("what",),
                counts=True,
            ),
            Figure("fawa_board_clients_closed", "Clients sent away.", closed, ("close_code",), counts=True),
            Figure(
                "fawa_board_slow_client_steps",
                "Steps taken for slow clients: cursors left out, events replaced by a snapshot, closed.",
                lambda: [((step,), rooms.ladder[step]) for step in ("lane", "snapshot", "closed")],
                ("step",),
                counts=True,
            ),
            *storage_figures(self.watches),
        )
