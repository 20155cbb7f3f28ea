"""Signals as an operator sends them, seen from the clients' side."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import grpc  # type: ignore[import-untyped]
import pytest

from tests.daemon import PATIENCE, Daemon, running
from tests.interop import expect
from tests.interop.grpcio_channel import Conversation, channel_to
from tests.interop.kept import eventually
from tests.interop.programs import REPOSITORY
from tests.interop.target import Target
from tests.interop.test_browsers import preflight
from tests.interop.test_grpcio_files import download


@attrs.frozen
class Talk:
    """A bidirectional stream in the middle of its conversation."""

    said: Conversation
    answers: Any
    greet: Any

    def exchange(self, name: str) -> None:
        self.said.say(self.greet.GreetBidiStreamRequest(name=name))
        assert next(self.answers).echo == expect.greeting(name)

    def finish(self) -> None:
        self.said.hang_up()
        assert list(self.answers) == []
        assert self.answers.code() is grpc.StatusCode.OK


@contextlib.contextmanager
def talking(target: Target, greet: Any, greet_grpc: Any) -> Iterator[Talk]:
    with channel_to(target) as channel:
        said = Conversation()
        stub = greet_grpc.GreetServiceStub(channel)
        talk = Talk(said, stub.GreetBidiStream(iter(said), timeout=PATIENCE), greet)
        talk.exchange("Ada")
        yield talk
        said.hang_up()


def refuses(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False


def targets(daemon: Daemon) -> list[Target]:
    return [Target(daemon.plain, None), Target(daemon.tls, daemon.certificate)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_drain(tmp_path: Path, number: signal.Signals, greet: Any, greet_grpc: Any) -> None:
    """Streams that are open go on to their end; nobody new gets in; the exit code is 0."""
    with running(tmp_path) as daemon, contextlib.ExitStack() as stack:
        talks = [stack.enter_context(talking(target, greet, greet_grpc)) for target in targets(daemon)]
        daemon.signal(number)
        eventually(lambda: refuses(daemon.plain) and refuses(daemon.tls), "new connections are refused")
        for talk in talks:
            talk.exchange("Bob")
        assert daemon.process.poll() is None
        for talk in talks:
            talk.finish()
        assert daemon.wait() == 0


def test_an_upload_is_drained_too(tmp_path: Path, file: Any, file_grpc: Any) -> None:
    data = expect.content(1_000_000)
    with running(tmp_path) as daemon, channel_to(Target(daemon.plain, None)) as channel:
        upload = Conversation()
        sent = file_grpc.FileServiceStub(channel).SendFile.future(iter(upload), timeout=PATIENCE)
        upload.say(file.SendFileRequest(info=file.FileInfo(name="late.bin", size=len(data))))
        upload.say(file.SendFileRequest(chunk_data=data[:500_000]))
        eventually(lambda: any((tmp_path / "files" / "uploads").iterdir()), "the upload has begun")
        daemon.signal(signal.SIGTERM)
        eventually(lambda: refuses(daemon.plain), "new connections are refused")
        upload.say(file.SendFileRequest(chunk_data=data[500_000:]))
        upload.hang_up()
        key = sent.result().randomkey
        assert daemon.wait() == 0
    with running(tmp_path) as daemon, channel_to(Target(daemon.plain, None)) as channel:
        assert download(file_grpc.FileServiceStub(channel), file, key) == ("late.bin", data)


#: Nothing of these ends anything while a test runs.
FOR_EVER = [
    f"--{name}=10m" for name in ("drain-grace", "timeouts-header", "timeouts-idle", "timeouts-handshake")
]


def test_idle_connections_do_not_hold_the_end_up(tmp_path: Path) -> None:
    with running(tmp_path, *FOR_EVER) as daemon, contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", target.port), timeout=PATIENCE))
            for target in targets(daemon)
        ]
        client = http.client.HTTPConnection(daemon.plain, timeout=PATIENCE)
        stack.callback(client.close)
        client.request("GET", f"{expect.UNARY}?encoding=json&message=%7B%7D")
        assert client.getresponse().read()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert [sock.recv(1) for sock in silent] == [b"", b""]


def test_a_second_signal_ends_at_once(tmp_path: Path, greet: Any, greet_grpc: Any) -> None:
    with (
        running(tmp_path, *FOR_EVER) as daemon,
        talking(Target(daemon.plain, None), greet, greet_grpc) as talk,
    ):
        daemon.signal(signal.SIGTERM)
        eventually(lambda: refuses(daemon.plain), "new connections are refused")
        talk.exchange("Bob")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        with pytest.raises(grpc.RpcError):
            next(talk.answers)


def test_the_grace_of_a_drain_ends(tmp_path: Path, greet: Any, greet_grpc: Any) -> None:
    with (
        running(tmp_path, "--drain-grace", "300ms") as daemon,
        talking(Target(daemon.plain, None), greet, greet_grpc) as talk,
    ):
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        with pytest.raises(grpc.RpcError) as ended:
            next(talk.answers)
        assert ended.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


def test_reload_keeps_connections(tmp_path: Path, greet: Any, greet_grpc: Any) -> None:
    settings = tmp_path / "config.yaml"
    settings.write_text("cors:\n  origins: https://old.example\n")

    def allowed(daemon: Daemon, origin: str) -> bool:
        reply = preflight(Target(daemon.plain, None), expect.UNARY, origin, "POST")
        return reply.headers.get("access-control-allow-origin") == origin

    with running(tmp_path / "data", "--config", str(settings)) as daemon, contextlib.ExitStack() as stack:
        talks = [stack.enter_context(talking(target, greet, greet_grpc)) for target in targets(daemon)]
        assert allowed(daemon, "https://old.example")
        settings.write_text("cors:\n  origins: https://new.example\n")
        daemon.signal(signal.SIGHUP)
        eventually(lambda: allowed(daemon, "https://new.example"), "the new settings are in force")
        assert not allowed(daemon, "https://old.example")

        settings.write_text("cors:\n  origin: https://typo.example\n")
        daemon.signal(signal.SIGHUP)
        refused = daemon.wait_for_event(lambda entry: entry["event"] == "settings not reloaded")
        assert "origins" in refused["reason"], "the nearest name is suggested"
        assert allowed(daemon, "https://new.example")
        for talk in talks:
            talk.exchange("Bob")
            talk.finish()


def test_health_tells_of_the_end(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        command = [
            sys.executable,
            "-m",
            "tests.interop.clients.grpcio_health",
            "watch_shutdown",
            daemon.plain,
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY, text=True) as watcher:
            assert watcher.stdout is not None
            assert watcher.stdout.readline() == "SERVING\n"
            daemon.signal(signal.SIGTERM)
            told, _ = watcher.communicate(timeout=PATIENCE)
        assert told.splitlines() == ["NOT_SERVING", "UNAVAILABLE", "watch_shutdown: done"]
        assert daemon.wait() == 0
