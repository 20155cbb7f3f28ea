"""Our client on one board with clients that others wrote."""

from __future__ import annotations

from typing import Any

import trio

from fawa.client.board import create_board, join_board
from tests.client.board.seeing import seeing
from tests.interop.target import Target
from tests.interop.whiteboard import collaborator, person


async def test_both_transports_grpcio_and_websockets(plain: Target, canva: Any, canva_grpc: Any) -> None:
    code = await create_board(plain.url)
    with (
        collaborator(plain, canva, canva_grpc, code) as cem,
        person(plain, code, v2=True, name="Dee") as dee,
    ):
        async with (
            join_board(plain.url, code, transport="webtransport") as ada,
            join_board(plain.url, code, transport="websocket") as bob,
            seeing(ada) as sees,
            seeing(bob) as sees_too,
        ):
            await trio.to_thread.run_sync(cem.hear_history)
            await sees.draw(1, 2)
            await sees_too.until_xs([1, 2])
            cem.draw(3)
            await sees.until_xs([1, 2, 3])
            await sees_too.draw(4)
            await sees.until_xs([1, 2, 3, 4])
            dee.draw_v2(1, 5, 6)
            whole = [1, 2, 3, 4, 5, 6]
            await sees.until_xs(whole)
            await sees_too.until_xs(whole)
            await trio.to_thread.run_sync(cem.hear_xs, *whole)
            await trio.to_thread.run_sync(dee.hear_xs, *whole)
            assert "Dee" in {one.name for one in ada.people.people.values()}
