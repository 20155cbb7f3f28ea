"""What an operator asks of a running daemon, over its own listener."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from fawa.config import load
from fawa.net.exchange import Exchange
from fawa.net.router import Route
from fawa.net.tcp import bind_unix
from fawa.ops.meters import gauge
from fawa.services.base import Offer, Service
from fawa.services.greet import GreetRpc
from fawa.storage.base import OutOfReach
from fawa.supervisor import StartError, Supervisor

TOKEN = "a-token-of-sixteen-or-more"
HELLO = b'{"name":"x"}'


@attrs.define
class Shop:
    """A service with a page, a figure, and a supplier who may be away."""

    name: str = "shop"
    crash: trio.Event = attrs.field(factory=trio.Event)
    fault: Exception | None = None
    #: Why it cannot start.
    away: Exception | None = None
    #: Whether the supplier answers at all.
    answers: bool = True

    def outline(self) -> Offer:
        http = {"/page": Route(("GET",), self._page), "/goods/": Route(("GET",), self._page)}
        return Offer(rpc=(GreetRpc(),), http=http)

    async def run(self, task_status: trio.TaskStatus[Offer]) -> None:
        if self.away is not None:
            raise self.away
        self.crash = trio.Event()
        checks: dict[str, Callable[[], Awaitable[None]]] = {"supplier": self._check}
        figures = (gauge("shop_customers", "In the shop.", lambda: 3),)
        task_status.started(attrs.evolve(self.outline(), checks=checks, figures=figures))
        await self.crash.wait()
        raise ValueError("told to crash")

    async def _check(self) -> None:
        if not self.answers:
            await trio.sleep_forever()
        if self.fault is not None:
            raise self.fault

    async def _page(self, exchange: Exchange) -> None:
        exchange.respond_text(200, "page")


@attrs.define
class Ops:
    """A supervisor at work, and its socket for operators."""

    supervisor: Supervisor
    socket: Path
    address: str

    async def ask(self, method: str, path: str, *fields: str, body: bytes = b"") -> tuple[int, bytes]:
        """Ask the admin listener; return status and body."""
        async with await trio.open_unix_socket(str(self.socket)) as stream:
            return await request(stream, method, path, *fields, body=body)

    async def call(self, method: str, path: str, *fields: str, body: bytes = b"") -> tuple[int, bytes]:
        """Ask the daemon itself."""
        host, _, port = self.address.rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            return await request(stream, method, path, *fields, body=body)

    async def ready(self) -> tuple[int, dict[str, str]]:
        status, body = await self.ask("GET", "/readyz")
        answer = json.loads(body)
        assert answer["ready"] == (status == 200)
        return status, answer["checks"]

    async def samples(self) -> dict[str, float]:
        """Return the metrics as "name{label=value,…}"."""
        status, text = await self.ask("GET", "/metrics")
        assert status == 200
        return {
            sample.name
            + (
                f"{{{','.join(f'{k}={v}' for k, v in sorted(sample.labels.items()))}}}"
                if sample.labels
                else ""
            ): sample.value
            for family in text_string_to_metric_families(text.decode())
            for sample in family.samples
        }


async def request(
    stream: trio.abc.Stream, method: str, path: str, *fields: str, body: bytes = b""
) -> tuple[int, bytes]:
    head = [
        f"{method} {path} HTTP/1.1",
        "Host: x",
        "Connection: close",
        f"Content-Length: {len(body)}",
        *fields,
    ]
    await stream.send_all("\r\n".join([*head, "", ""]).encode() + body)
    answer = b""
    while piece := await stream.receive_some(65536):
        answer += piece
    top, _, content = answer.partition(b"\r\n\r\n")
    return int(top.split()[1]), content


async def watch(
    folder: Path, *flags: str, services: tuple[Service, ...], look: Callable[[Ops], Awaitable[None]]
) -> None:
    """Run a daemon, look at it, end it."""
    socket = folder / "admin.sock"
    base = ["--data-dir", str(folder), "--listen", "127.0.0.1:0", "--listen-tls", "off"]
    loaded = load([*base, "--admin-listen", f"unix:{socket}", *flags], {}, folder)
    supervisor = Supervisor(loaded, lambda: loaded, services)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            endpoints = await nursery.start(supervisor.run)
            await look(Ops(supervisor, socket, endpoints[0].address))
            nursery.cancel_scope.cancel()


async def test_health_readiness_and_what_is_missing(tmp_path: Path) -> None:
    shop = Shop()

    async def look(ops: Ops) -> None:
        assert await ops.ask("GET", "/healthz") == (200, b"ok\n")
        assert await ops.ready() == (200, {"shop": "ok", "supplier": "ok"})
        shop.fault = OSError("redis at 10.0.0.7:6379 does not answer")
        assert await ops.ready() == (
            503,
            {"shop": "ok", "supplier": "redis at 10.0.0.7:6379 does not answer"},
        )
        shop.fault, shop.answers = None, False
        assert (await ops.ready())[1]["supplier"] == "no answer within 2 s"
        shop.answers = True
        shop.crash.set()
        while (found := await ops.ready())[0] == 200:
            pass
        assert found[1]["shop"] == "starting again after a crash"
        while (await ops.ready())[0] != 200:
            pass
        assert (await ops.samples())["fawa_service_crashes_total{service=shop}"] == 1
        assert (await ops.ask("GET", "/nothing"))[0] == 404
        assert (await ops.ask("POST", "/metrics"))[0] == 405

    await watch(tmp_path, services=(shop,), look=look)


async def test_metrics_count_what_was_called(tmp_path: Path) -> None:
    async def look(ops: Ops) -> None:
        fields = "Content-Type: application/json"
        for _ in range(3):
            assert (await ops.call("POST", "/greet.v1.GreetService/SayHello", fields, body=HELLO))[0] == 200
        assert (await ops.call("POST", "/greet.v1.GreetService/SayHello", fields, body=b"{"))[0] == 400
        assert (await ops.call("POST", "/made.up.Service/ByAnybody", fields, body=HELLO))[0] == 404
        assert (await ops.call("GET", "/made/up"))[0] == 404
        assert (await ops.call("GET", "/goods/secret-key"))[0] == 200
        samples = await ops.samples()
        count = "fawa_rpc_duration_seconds_count{{code={2},dialect={1},method={0}}}".format
        hello = "/greet.v1.GreetService/SayHello"
        assert samples[count(hello, "connect", "OK")] == 3
        assert samples[count(hello, "connect", "INVALID_ARGUMENT")] == 1
        assert samples[f"fawa_received_bytes_total{{route={hello}}}"] >= 3 * len(HELLO)
        assert samples["fawa_http_request_duration_seconds_count{method=GET,route=/goods/…,status=200}"] == 1
        assert samples["fawa_http_request_duration_seconds_count{method=GET,route=other,status=404}"] == 1
        assert not [name for name in samples if "made" in name or "secret" in name]
        assert samples["fawa_tcp_connections_accepted_total"] == 7
        assert samples["shop_customers"] == 3
        assert samples["fawa_ready"] == samples["fawa_service_up{service=shop}"] == 1
        assert samples["process_resident_memory_bytes"] > 1_000_000
        status, text = await ops.ask("GET", "/metrics", "Accept: application/openmetrics-text; version=1.0.0")
        assert status == 200
        assert text.endswith(b"# EOF\n")

    await watch(tmp_path, services=(Shop(),), look=look)


async def test_the_token_guards_all_but_the_probes(tmp_path: Path) -> None:
    async def look(ops: Ops) -> None:
        for path in ("/healthz", "/readyz"):
            assert (await ops.ask("GET", path))[0] == 200
        for path in ("/metrics", "/debug/tasks", "/log-level"):
            assert (await ops.ask("GET", path))[0] == 401
            assert (await ops.ask("GET", path, "Authorization: Bearer wrong"))[0] == 401
            assert (await ops.ask("GET", path, f"Authorization: Basic {TOKEN}"))[0] == 401
            assert (await ops.ask("GET", path, f"Authorization: bearer {TOKEN}"))[0] == 200
        assert (await ops.ask("PUT", "/log-level", body=b"debug"))[0] == 401

    await watch(tmp_path, "--admin-token", TOKEN, services=(Shop(),), look=look)


async def test_the_log_level_changes_until_the_settings_are_read_again(tmp_path: Path) -> None:
    async def look(ops: Ops) -> None:
        assert await ops.ask("GET", "/log-level") == (200, b"info\n")
        assert await ops.ask("PUT", "/log-level", body=b"warning\n") == (200, b"warning\n")
        assert await ops.ask("GET", "/log-level") == (200, b"warning\n")
        status, text = await ops.ask("PUT", "/log-level", body=b"loud")
        assert (status, text) == (400, b"'loud' is no log level: debug, info, warning or error\n")
        assert (await ops.ask("PUT", "/log-level", body=b"x" * 10_000))[0] == 400
        await ops.supervisor.reload_now()
        assert await ops.ask("GET", "/log-level") == (200, b"info\n")

    await watch(tmp_path, services=(Shop(),), look=look)


async def test_the_task_tree_names_tasks_and_where_they_wait(tmp_path: Path) -> None:
    async def look(ops: Ops) -> None:
        status, text = await ops.ask("GET", "/debug/tasks")
        assert status == 200
        assert b"tests.ops.test_admin.Shop.run  at Shop.run (" in text
        assert b"Supervisor._keep  at Supervisor._keep (" in text
        assert b"nursery of" in text

    await watch(tmp_path, services=(Shop(),), look=look)


async def test_not_ready_while_a_service_waits_for_what_is_away(tmp_path: Path) -> None:
    """The daemon comes up without it, and it comes by itself."""
    shop = Shop(away=OutOfReach("cannot reach the market at http://market", "market"))

    async def look(ops: Ops) -> None:
        for _ in range(10):
            status, checks = await ops.ready()
            assert status == 503
            assert checks["shop"] == "waits for market: cannot reach the market at http://market"
            assert "supplier" not in checks
        status, body = await ops.call(
            "POST", "/greet.v1.GreetService/SayHello", "Content-Type: application/json", body=HELLO
        )
        assert status == 503
        assert b"the server cannot reach its market at the moment" in body
        assert b"http://market" not in body
        assert (await ops.samples())["fawa_service_crashes_total{service=shop}"] == 0
        shop.away = None
        while (await ops.ready())[0] != 200:
            await trio.sleep(0.01)
        assert (await ops.call("GET", "/page"))[0] == 200

    await watch(tmp_path, "--restart-max-crashes", "0", services=(shop,), look=look)


async def test_a_service_that_waited_and_then_cannot_start_ends_the_daemon(tmp_path: Path) -> None:
    shop = Shop(away=OutOfReach("cannot reach the market", "market"))

    async def look(ops: Ops) -> None:
        shop.away = OSError("the market is another's")
        await trio.sleep_forever()

    with pytest.RaisesGroup(
        pytest.RaisesExc(StartError, match="service 'shop' cannot start: the market is another's"),
        flatten_subgroups=True,
    ):
        await watch(tmp_path, services=(shop,), look=look)


async def test_not_ready_while_it_drains(tmp_path: Path) -> None:
    async def look(ops: Ops) -> None:
        async with await trio.open_unix_socket(str(ops.socket)) as stream:
            ops.supervisor._stop.set()
            status, body = await request(stream, "GET", "/readyz")
        assert (status, json.loads(body)["checks"]["daemon"]) == (503, "draining")

    await watch(tmp_path, services=(Shop(),), look=look)


async def test_the_socket_is_this_users_alone_and_replaces_one_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    first = bind_unix(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(OSError, match=r"cannot listen on unix:.*Address already in use"):
        bind_unix(path)
    await first.listener.aclose()
    assert path.exists()
    second = bind_unix(path)
    await second.listener.aclose()
    path.unlink()
    path.write_text("not a socket")
    with pytest.raises(OSError, match="Address already in use"):
        bind_unix(path)
    assert path.read_text() == "not a socket"


async def test_a_listener_that_cannot_be_had_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "no" / "such"
    loaded = load(
        ["--data-dir", str(tmp_path), "--admin-listen", f"unix:{folder}/s"], dict(os.environ), tmp_path
    )
    with pytest.RaisesGroup(
        pytest.RaisesExc(StartError, match=r"admin\.listen: cannot listen on unix:.*No such file"),
        flatten_subgroups=True,
        allow_unwrapped=True,
    ):
        await Supervisor(loaded, lambda: loaded, ()).run()
