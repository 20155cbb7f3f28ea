"""Boards of a real `fawad`, over real sockets: both transports, restarts, and every no."""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from fawa.client import CannotReach
from fawa.client.board import BoardOver, create_board, join_board
from fawa.client.board.reach import Transport
from fawa.client.dial import Trust
from fawa.client.pool import background
from tests.client.board.seeing import PATIENCE, seeing
from tests.client.relay import Relay
from tests.daemon import Daemon, running


@asynccontextmanager
async def started(folder: Path, *flags: str) -> AsyncIterator[Daemon]:
    """Run a daemon, and let the clients of this process live while it starts and stops."""
    context = running(folder, *flags)
    daemon = await trio.to_thread.run_sync(context.__enter__)
    try:
        yield daemon
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + PATIENCE):
            await trio.to_thread.run_sync(context.__exit__, None, None, None)


async def test_two_transports_on_one_board(daemon: Daemon) -> None:
    url = f"http://{daemon.plain}"
    code = await create_board(url)
    async with (
        join_board(url, code, name="Ada") as ada,
        join_board(url, code.lower(), name="Bob", transport="websocket") as bob,
        seeing(ada) as sees,
        seeing(bob) as sees_too,
    ):
        assert (ada.transport, ada.why) == ("webtransport", "")
        assert (bob.transport, bob.why) == ("websocket", "")
        await sees.draw(1, 2)
        await sees_too.until_xs([1, 2])
        await sees_too.draw(3)
        stroke = await ada.draw([(0, 0), (4, 0), (5, 0)])
        await ada.settle()
        await sees.until(lambda: len(sees.xs) == 5)
        await sees_too.until(lambda: len(sees_too.xs) == 5)
        assert sees.xs == sees_too.xs
        await ada.undo(stroke)
        await ada.settle()
        await sees.until(lambda: {one.name for one in ada.people.people.values()} == {"Ada", "Bob"})
        bob.move(30, 40)
        with trio.fail_after(PATIENCE):
            while ada.cursors.at.get(bob.client_id) != (30, 40):
                await trio.sleep(0.01)
        bob.change("Bea", "red")
        with trio.fail_after(PATIENCE):
            while ada.people.people[bob.client_id].name != "Bea":
                await trio.sleep(0.01)
        await bob.clear()
        await sees.until(lambda: sees.xs == [])
        await bob.draw([(9, 9)])
        await sees.until_xs([9])
    # What was drawn at the very end is there.
    async with join_board(url, code) as board:
        await board.draw([(1, 1), (10, 1)])
    async with join_board(url, code) as board, seeing(board) as sees:
        await sees.until_xs([9, 10])


@pytest.mark.parametrize("how", ["ca", "insecure"])
@pytest.mark.parametrize("transport", ["webtransport", "websocket"])
async def test_tls(daemon: Daemon, how: str, transport: Transport) -> None:
    trust = Trust(daemon.certificate) if how == "ca" else Trust(insecure=True)
    url = f"https://{daemon.tls}"
    code = await create_board(url, trust=trust)
    async with join_board(url, code, transport=transport, trust=trust) as board, seeing(board) as sees:
        await sees.draw(1)
        await sees.until_xs([1])
    with pytest.raises(CannotReach, match="its certificate is not trusted"):
        await create_board(url)
    with pytest.raises(CannotReach, match="its certificate is not trusted"):
        async with join_board(url, code, transport=transport):
            pass


@pytest.mark.parametrize("transport", ["auto", "webtransport", "websocket"])
async def test_no(daemon: Daemon, transport: Transport) -> None:
    url = f"http://{daemon.plain}"
    code = await create_board(url)
    nos: list[tuple[str, dict[str, Any], int, str]] = [
        ("AAAAAA", {}, 404, "no board with this code"),
        (code, {"origin": "https://evil.example"}, 403, "may not connect"),
    ]
    for wrong, more, status, text in nos:
        with pytest.raises(BoardOver, match=text) as no:
            async with join_board(url, wrong, transport=transport, **more):
                pass
        assert no.value.code == status
    with pytest.raises(CannotReach, match="connection refused"):
        async with join_board("http://127.0.0.1:1", code, transport=transport):
            pass
    with pytest.raises(ValueError, match="must begin with http"):
        async with join_board("ftp://x", code, transport=transport):
            pass


async def test_a_full_board_and_a_server_without_quic(tmp_path: Path) -> None:
    async with started(tmp_path, "--quic-enabled", "off", "--board-max-peers", "1") as daemon:
        url = f"http://{daemon.plain}"
        code = await create_board(url)
        async with join_board(url, code) as board:
            assert board.transport == "websocket"
            assert board.why == "WebTransport could not be had: the server offers none"
            with pytest.raises(BoardOver) as full:
                async with join_board(url, code):
                    pass
            assert full.value.code == 4413
        with pytest.raises(CannotReach, match="the server offers none"):
            async with join_board(url, code, transport="webtransport"):
                pass


async def test_a_network_that_keeps_udp_out(daemon: Daemon) -> None:
    # By another address of this machine: HTTP is passed on, and what is there of UDP never answers.
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.2")
    url = f"http://127.0.0.2:{listeners[0].socket.getsockname()[1]}"
    code = await create_board(f"http://{daemon.plain}")
    async with background() as nursery:
        nursery.start_soon(trio.serve_listeners, Relay(daemon.plain).serve, listeners)
        async with join_board(url, code) as board:
            assert board.transport == "websocket"
            assert "connection refused" in board.why
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.2", int(daemon.tls.rpartition(":")[2])))
            async with join_board(url, code) as board, seeing(board) as sees:
                assert board.transport == "websocket"
                assert board.why.startswith("WebTransport could not be had: UDP did not answer within")
                await sees.draw(1)
                await sees.until_xs([1])
            with pytest.raises(CannotReach, match=r"no answer over UDP in 0\.5 s; a firewall may block it"):
                async with join_board(url, code, transport="webtransport", connect_timeout=0.5):
                    pass
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_restart_in_the_middle(tmp_path: Path, how: signal.Signals) -> None:
    async with AsyncExitStack() as clients:
        async with started(tmp_path, "--board-autosave", "100ms") as daemon:
            url = f"http://{daemon.plain}"
            ports = ("--listen", daemon.plain, "--listen-tls", daemon.tls)
            code = await create_board(url)
            ada = await clients.enter_async_context(join_board(url, code, transport="webtransport"))
            bob = await clients.enter_async_context(join_board(url, code, transport="websocket"))
            sees = await clients.enter_async_context(seeing(ada))
            sees_too = await clients.enter_async_context(seeing(bob))
            await sees.draw(*range(50))
            await sees_too.until_xs(list(range(50)))
            await trio.sleep(1)  # what was acknowledged has been saved: a power cut takes no more than that
            daemon.signal(how)
            await trio.to_thread.run_sync(daemon.wait)
        await sees.draw(50)  # over UDP nothing is noticed before something is sent
        await sees.until(lambda: not sees.statuses[-1].transport)
        await sees_too.until(lambda: not sees_too.statuses[-1].transport)
        await sees.draw(*range(51, 100))
        async with started(tmp_path, *ports):
            await sees_too.until_xs(list(range(100)))
            await sees_too.draw(*range(100, 150))
            await sees.until_xs(list(range(150)))
            await sees_too.until_xs(list(range(150)))
            assert (ada.pending, bob.pending) == (0, 0)
            assert (ada.transport, bob.transport) == ("webtransport", "websocket")
            await clients.aclose()
