"""What a service manager is told, on a real datagram socket."""

from __future__ import annotations

import io
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from fawa.config import load
from fawa.ops import logging
from fawa.ops.notify import Manager
from fawa.supervisor import Supervisor


@attrs.define
class Listener:
    """The manager's end of the socket."""

    sock: trio.socket.SocketType

    async def hear(self) -> dict[str, str]:
        """Return the next message's assignments."""
        with trio.fail_after(30):
            message = await self.sock.recv(4096)
        return dict(line.split("=", 1) for line in message.decode().split("\n"))


async def listening(address: str) -> Listener:
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    await sock.bind(address)
    return Listener(sock)


def daemon(folder: Path, manager: Manager) -> Supervisor:
    flags = ["--data-dir", str(folder), "--listen", "127.0.0.1:0", "--listen-tls", "off"]
    loaded = load([*flags, "--admin-listen", "off"], {}, folder)
    return Supervisor(loaded, lambda: loaded, (), manager)


async def test_a_daemon_tells_when_it_is_ready_reloads_and_stops(tmp_path: Path) -> None:
    listener = await listening(str(tmp_path / "notify"))
    supervisor = daemon(tmp_path, Manager.of({"NOTIFY_SOCKET": str(tmp_path / "notify")}))
    codes: list[int] = []

    async def run(task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
        codes.append(await supervisor.run(task_status))

    async with trio.open_nursery() as nursery:
        endpoints = await nursery.start(run)
        assert await listener.hear() == {
            "READY": "1",
            "STATUS": f"serving at http://{endpoints[0].address}/",
        }
        os.kill(os.getpid(), signal.SIGHUP)
        reloading = await listener.hear()
        # What `Type=notify-reload` asks for: the time, by the clock that systemd looks at too.
        assert reloading["RELOADING"] == "1"
        assert 0 < int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert (await listener.hear())["READY"] == "1"
        os.kill(os.getpid(), signal.SIGTERM)
        assert await listener.hear() == {"STOPPING": "1", "STATUS": "draining, for up to 30 s"}
    assert codes == [0]
    listener.sock.close()


async def test_a_name_in_the_abstract_namespace(tmp_path: Path) -> None:
    name = f"fawa-test-{os.getpid()}"
    listener = await listening(f"\0{name}")
    Manager(f"@{name}").ready("serving")
    assert await listener.hear() == {"READY": "1", "STATUS": "serving"}
    listener.sock.close()


def test_nobody_is_told_nothing() -> None:
    Manager.of({}).ready("serving")


def test_a_manager_that_is_gone_is_logged_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = io.StringIO()
    output = logging._Output(log, None, logging.LEVELS["warning"], False, time.time)
    monkeypatch.setattr(logging, "_output", output)
    Manager(str(tmp_path / "gone")).stopping("draining")
    assert "service manager not told" in log.getvalue()
    assert "No such file or directory" in log.getvalue()
