"""The nursery tree in this process: starts, crashes, drains, reloads; requests come over real sockets."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from fawa.config import Loaded, load
from fawa.net.exchange import Exchange
from fawa.net.router import Route
from fawa.net.tcp import Endpoint
from fawa.services.base import Offer, Service
from fawa.services.board import BoardService
from fawa.services.canva import CanvaService
from fawa.services.canva_client import SocketSettings
from fawa.services.canvax import CanvaxService
from fawa.services.greet import GreetRpc
from fawa.services.health import NOT_SERVING, SERVING
from fawa.services.ratelimit import Rate
from fawa.supervisor import StartError, Supervisor
from fawa.wiring import make_services

GREET = "greet.v1.GreetService"
HELLO = b"POST /greet.v1.GreetService/SayHello HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@attrs.define
class Page:
    """A service with one page that answers when it is let to, and that crashes when told to."""

    name: str = "page"
    crash: trio.Event = attrs.field(factory=trio.Event)
    #: Set by a request that has come in; awaited before it is answered.
    asked: trio.Event = attrs.field(factory=trio.Event)
    answer: trio.Event = attrs.field(factory=trio.Event)
    runs: int = 0
    #: Whether the next start fails.
    broken: bool = False
    #: How often it was told that the daemon drains.
    drains: int = 0
    #: Whether it then answers what it has not answered.
    hurries: bool = False

    async def run(self, task_status: trio.TaskStatus[Offer]) -> None:
        self.runs += 1
        if self.broken:
            raise OSError("the cupboard is bare")
        self.crash = trio.Event()
        pages = {"/page": Route(("GET",), self._page)}
        task_status.started(Offer(rpc=(GreetRpc(),), http=pages, drain=self._drain))
        await self.crash.wait()
        raise ValueError("told to crash")

    def _drain(self) -> None:
        self.drains += 1
        if self.hurries:
            self.answer.set()

    async def _page(self, exchange: Exchange) -> None:
        self.asked.set()
        await self.answer.wait()
        exchange.respond_text(200, "page")


def settings(folder: Path, *flags: str) -> Loaded:
    """Return settings for a daemon on a free port."""
    base = [
        "--data-dir",
        str(folder),
        "--listen",
        "127.0.0.1:0",
        "--listen-tls",
        "off",
        "--admin-listen",
        "off",
    ]
    return load([*base, *flags], {}, folder)


@attrs.define
class Running:
    """A supervisor at work."""

    supervisor: Supervisor
    #: "host:port" of the first listener.
    address: str = ""
    code: int | None = None
    over: trio.Event = attrs.field(factory=trio.Event)

    async def ask(self, request: bytes) -> bytes:
        """Send one request on a connection of its own; return all that comes back."""
        host, _, port = self.address.rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(request)
            answer = b""
            while piece := await stream.receive_some(65536):
                answer += piece
            return answer

    async def page(self) -> bytes:
        return await self.ask(b"GET /page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    async def wait_status(self, status: int) -> None:
        """Wait until the RPC service has a health status."""
        with trio.fail_after(20):
            while (now := self.supervisor.health.get(GREET)) != status:
                await self.supervisor.health.wait_change(GREET, now)


async def refuses(address: str) -> bool:
    """Wait until nobody listens on an address any more."""
    host, _, port = address.rpartition(":")
    while True:
        try:
            await (await trio.open_tcp_stream(host, int(port))).aclose()
        except OSError:
            return True


@asynccontextmanager
async def running(loaded: Loaded, *services: Service) -> AsyncIterator[Running]:
    """Run a supervisor; it is stopped at the end if it still runs."""
    supervisor = Supervisor(loaded, lambda: loaded, services)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            state = Running(supervisor)

            async def run(task_status: trio.TaskStatus[list[Endpoint]]) -> None:
                state.code = await supervisor.run(task_status)
                state.over.set()

            endpoints: list[Endpoint] = await nursery.start(run)
            state.address = endpoints[0].address
            yield state
            if state.code is None:
                os.kill(os.getpid(), signal.SIGTERM)


async def test_starts_serves_and_stops(tmp_path: Path) -> None:
    service = Page()
    service.answer.set()
    async with running(settings(tmp_path), service) as state:
        assert (await state.page()).endswith(b"\r\n\r\npage\n")
        assert b"fawa" in await state.ask(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert state.supervisor.health.get("") == SERVING
    assert state.code == 0
    assert state.supervisor.health.get("") == NOT_SERVING


async def test_a_crashed_service_comes_back_and_others_never_notice(tmp_path: Path) -> None:
    page, calm = Page(), Page(name="calm")
    page.answer.set()
    async with running(settings(tmp_path), calm, page) as state:
        page.crash.set()
        await state.wait_status(NOT_SERVING)
        answer = await state.page()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"'page' is starting again" in answer
        assert b"retry-after: 1" in answer
        body = b'{"name":"x"}'
        call = HELLO + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        refused = await state.ask(call)
        assert b'"unavailable"' in refused
        await state.wait_status(SERVING)
        assert (await state.page()).endswith(b"page\n")
        assert b"Hello, x!" in await state.ask(call)
    assert (page.runs, calm.runs, state.code) == (2, 1, 0)


async def test_a_service_that_crashes_too_often_ends_the_daemon(tmp_path: Path) -> None:
    service = Page()
    async with running(settings(tmp_path, "--restart-max-crashes", "2"), service) as state:
        for _ in range(2):
            service.crash.set()
            await state.wait_status(NOT_SERVING)
            await state.wait_status(SERVING)
        service.crash.set()
        await state.over.wait()
    assert (service.runs, state.code) == (3, 1)


async def test_a_restart_that_fails_counts_as_a_crash(tmp_path: Path) -> None:
    service = Page()
    async with running(settings(tmp_path, "--restart-max-crashes", "2"), service) as state:
        service.broken = True
        service.crash.set()
        await state.over.wait()
    assert (service.runs, state.code) == (3, 1)


async def test_a_service_that_cannot_start_is_told_at_once(tmp_path: Path) -> None:
    with pytest.RaisesGroup(
        pytest.RaisesExc(StartError, match="service 'page' cannot start: the cupboard is bare"),
        flatten_subgroups=True,
    ):
        await Supervisor(settings(tmp_path), lambda: settings(tmp_path), [Page(broken=True)]).run()


async def test_an_address_in_use_is_told_with_the_address(tmp_path: Path) -> None:
    async with running(settings(tmp_path), Page()) as state:
        taken = state.address
        loaded = load(
            ["--data-dir", str(tmp_path), "--listen", taken, "--listen-tls", "off", "--admin-listen", "off"],
            {},
            tmp_path,
        )
        with pytest.RaisesGroup(
            pytest.RaisesExc(StartError, match=f"^cannot listen on {taken}: Address already in use$"),
            flatten_subgroups=True,
        ):
            await Supervisor(loaded, lambda: loaded, [Page()]).run()


async def test_a_drain_lets_open_requests_finish(tmp_path: Path) -> None:
    service = Page()
    answers: list[bytes] = []
    async with running(settings(tmp_path), service) as state, trio.open_nursery() as nursery:

        async def ask() -> None:
            answers.append(await state.page())

        nursery.start_soon(ask)
        await service.asked.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await state.wait_status(NOT_SERVING)
        assert await refuses(state.address)
        assert answers == []
        service.answer.set()
        await state.over.wait()
    assert answers[0].endswith(b"page\n")
    assert b"connection: close" in answers[0]
    assert state.code == 0


async def test_the_grace_ends_a_drain(tmp_path: Path) -> None:
    service = Page()
    answers: list[bytes] = []
    loaded = settings(tmp_path, "--drain-grace", "0.2s")
    async with running(loaded, service) as state, trio.open_nursery() as nursery:

        async def ask() -> None:
            answers.append(await state.page())

        nursery.start_soon(ask)
        await service.asked.wait()
        os.kill(os.getpid(), signal.SIGINT)
        await state.over.wait()
    assert (answers, state.code) == ([b""], 0)


async def test_a_second_signal_ends_it_now(tmp_path: Path) -> None:
    service = Page()
    loaded = settings(tmp_path, "--drain-grace", "1h")
    async with running(loaded, service) as state, trio.open_nursery() as nursery:
        nursery.start_soon(state.page)
        await service.asked.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await state.wait_status(NOT_SERVING)
        os.kill(os.getpid(), signal.SIGTERM)
        await state.over.wait()


async def test_a_service_is_told_that_the_daemon_drains(tmp_path: Path) -> None:
    """So it can end what would not come to an end by itself."""
    service = Page(hurries=True)
    answers: list[bytes] = []
    loaded = settings(tmp_path, "--drain-grace", "1h")
    async with running(loaded, service) as state, trio.open_nursery() as nursery:

        async def ask() -> None:
            answers.append(await state.page())

        nursery.start_soon(ask)
        await service.asked.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await state.over.wait()
    assert answers[0].endswith(b"page\n")
    assert (service.drains, state.code) == (1, 0)


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ("greet", ["greet"]),
        ("canva", ["board", "canva"]),
        ("canvax,greet", ["board", "canvax", "greet"]),
        ("greet,file,canva,canvax", ["board", "greet", "file", "canva", "canvax"]),
    ],
)
async def test_services_are_those_chosen(tmp_path: Path, chosen: str, names: list[str]) -> None:
    services = await make_services(settings(tmp_path, "--services", chosen).settings)
    assert [service.name for service in services] == names


async def test_browsers_and_grpc_clients_share_their_boards(tmp_path: Path) -> None:
    services = {service.name: service for service in await make_services(settings(tmp_path).settings)}
    board, canva, canvax = services["board"], services["canva"], services["canvax"]
    assert isinstance(board, BoardService)
    assert isinstance(canva, CanvaService)
    assert isinstance(canvax, CanvaxService)
    assert canva.admission is canvax.admission
    assert canva.admission.rooms is board.rooms


async def test_a_reload_reaches_the_whiteboard(tmp_path: Path) -> None:
    flags = ["--board-tick", "0", "--board-max-event-rate", "7", "--board-max-message", "2KiB"]
    flags += [
        "--board-wrong-codes",
        "3",
        "--trusted-proxies",
        "10.0.0.0/8",
        "--cors-origins",
        "https://a.example",
    ]
    first, second = settings(tmp_path), settings(tmp_path, *flags)
    services = await make_services(first.settings)
    board, _, _, canva, canvax = services
    assert isinstance(board, BoardService)
    assert isinstance(canva, CanvaService)
    assert isinstance(canvax, CanvaxService)
    assert board.rooms.settings.tick == 0.004
    assert (canva.settings.allows("https://a.example"), canvax.event_rate) == (False, Rate(2000, 1000))
    await Supervisor(first, lambda: second, services).reload_now()
    assert board.rooms.settings.tick == 0
    assert canva.settings.allows("https://a.example")
    assert canva.settings.socket == SocketSettings(max_message=2048, event_rate=Rate(14, 7))
    assert canvax.event_rate == Rate(14, 7)
    assert canva.admission.settings.wrong_codes == Rate(3, 10 / 60)
    assert canva.admission.settings.proxies.client("10.0.0.1:1", ["192.0.2.1"]) == "192.0.2.1"


async def test_reload_changes_what_can_change(tmp_path: Path) -> None:
    first = settings(tmp_path)
    answers = iter(
        [
            settings(
                tmp_path, "--limits-max-connections", "7", "--file-ttl", "1h", "--window-stream", "2MiB"
            ),
        ]
    )
    services = await make_services(first.settings)

    def reload() -> Loaded:
        try:
            return next(answers)
        except StopIteration:
            raise ValueError("the file is broken now") from None

    supervisor = Supervisor(first, reload, services)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            await supervisor.reload_now()
            assert supervisor.settings.limits.max_connections == 7
            assert supervisor.max_connections == 7
            [service] = [service for service in services if service.name == "file"]
            assert service.settings.ttl == 3600  # type: ignore[attr-defined]  # the file service has them
            await supervisor.reload_now()
            assert supervisor.settings.limits.max_connections == 7
            os.kill(os.getpid(), signal.SIGTERM)
