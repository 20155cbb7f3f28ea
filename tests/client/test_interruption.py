"""`fawa receive` interrupted, killed and cut off; and what a terminal shows."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from tests.client.relay import relaying
from tests.client.running import PATIENCE, begin, command, end, environment, fawa, until
from tests.client.test_files import CONTENT
from tests.daemon import Daemon, running


@pytest.fixture
async def key(daemon: Daemon, tmp_path: Path) -> str:
    """A file to receive; its name is `the file`."""
    (tmp_path / "the file").write_bytes(CONTENT)
    done = await fawa("send", tmp_path / "the file", f"--server=http://{daemon.plain}", "--json")
    return str(done.succeeded().results[0]["key"])


def part_size(folder: Path) -> int:
    part = folder / "the file.part"
    return part.stat().st_size if part.exists() else 0


async def test_ctrl_c_keeps_what_has_come(daemon: Daemon, key: str, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    async with relaying(daemon.plain) as relay, trio.open_nursery() as nursery:
        relay.hold_at = 1_500_000
        process = await begin(nursery, "receive", key, f"--server={relay.url}", "-o", here)
        await until(lambda: part_size(here) > 1_000_000)
        process.send_signal(signal.SIGINT)
        done = await end(process)
        assert done.code == 130
        assert done.out == ""
        assert done.err.splitlines() == [
            f"fawa: {here}/the file.part is kept: run the same command to go on from there",
            "fawa: interrupted",
        ]
    size = part_size(here)
    assert 1_000_000 < size < len(CONTENT)
    done = await fawa("receive", key, f"--server=http://{daemon.plain}", "-o", here, "--json")
    (result,) = done.succeeded().results
    assert result["resumed_from"] == size
    assert (here / "the file").read_bytes() == CONTENT
    assert [path.name for path in here.iterdir()] == ["the file"]


async def test_a_killed_process_is_followed_by_another(daemon: Daemon, key: str, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    async with relaying(daemon.plain) as relay, trio.open_nursery() as nursery:
        relay.hold_at = 1_500_000
        process = await begin(nursery, "receive", key, f"--server={relay.url}", "-o", here)
        await until(lambda: part_size(here) > 1_000_000)
        process.send_signal(signal.SIGKILL)
        assert (await end(process)).code == -signal.SIGKILL
    size = part_size(here)
    done = await fawa("receive", key, f"--server=http://{daemon.plain}", "-o", here, "--json")
    assert done.succeeded().results[0]["resumed_from"] == size
    assert (here / "the file").read_bytes() == CONTENT


async def test_two_processes_do_not_write_one_part(daemon: Daemon, key: str, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    async with relaying(daemon.plain) as relay, trio.open_nursery() as nursery:
        relay.hold_at = 1_500_000
        process = await begin(nursery, "receive", key, f"--server={relay.url}", "-o", here)
        await until(lambda: part_size(here) > 1_000_000)
        done = await fawa("receive", key, f"--server=http://{daemon.plain}", "-o", here)
        assert done.code == 1
        assert "another process is writing" in done.err
        relay.go_on()
        assert (await end(process)).code == 0
    assert (here / "the file").read_bytes() == CONTENT


async def test_a_broken_connection_is_mended_by_itself(daemon: Daemon, key: str, tmp_path: Path) -> None:
    async with relaying(daemon.plain, 1_000_000, 500_000) as relay:
        done = await fawa("receive", key, f"--server={relay.url}", "-o", tmp_path / "x", "--json")
        assert relay.broken == 2
    assert done.code == 0
    assert len(done.results) == 1
    assert done.err.count("; going on in 0.") == 2
    assert (tmp_path / "x").read_bytes() == CONTENT


async def test_a_broken_upload_is_mended_by_itself(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    async with relaying(daemon.plain) as relay:
        relay.cuts_up = [1_500_000, 500_000]
        done = await fawa("send", tmp_path / "x", f"--server={relay.url}", "--json")
        assert relay.broken == 2
    assert done.code == 0, done
    assert done.err.count("; going on in 0.") == done.err.count("\n") == 2
    key = str(done.results[0]["key"])
    done = await fawa("receive", key, f"--server=http://{daemon.plain}", "-o", tmp_path / "y")
    done.succeeded()
    assert (tmp_path / "y").read_bytes() == CONTENT


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_an_upload_outlives_the_daemon(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    data = tmp_path / "data"
    with ExitStack() as daemons:
        first = daemons.enter_context(running(data))
        async with relaying(first.plain) as relay, trio.open_nursery() as nursery:
            relay.cuts_up = [1_500_000]
            relay.hold_after = 1
            process = await begin(nursery, "send", tmp_path / "x", f"--server={relay.url}", "--json")
            await until(lambda: relay.broken == 1)
            first.signal(how)
            await trio.to_thread.run_sync(first.wait)
            second = await trio.to_thread.run_sync(daemons.enter_context, running(data))
            relay.target = second.plain
            relay.go_on()
            done = await end(process)
        assert done.code == 0, done
        # The first daemon had stored a message of 1 MiB.
        assert relay.passed_up < len(CONTENT) + 600_000
        key = str(done.results[0]["key"])
        server = f"--server=http://{second.plain}"
        (await fawa("receive", key, server, "-o", tmp_path / "y")).succeeded()
    assert (tmp_path / "y").read_bytes() == CONTENT
    assert list((data / "files" / "resumable").iterdir()) == []


async def test_ctrl_c_while_nothing_is_kept(tmp_path: Path) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        process = await begin(nursery, "greet", "Ada", f"--server=http://127.0.0.1:{port}")
        stream = await listeners[0].accept()
        process.send_signal(signal.SIGINT)
        done = await end(process)
        await stream.aclose()
    await listeners[0].aclose()
    assert (done.code, done.out, done.err) == (130, "", "fawa: interrupted\n")


# A terminal


async def in_a_terminal(*arguments: str | Path) -> tuple[int, str]:
    """Run the command with its standard error in a terminal; returns its exit code and what one sees."""
    ours, theirs = os.openpty()
    seen = []
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                # Reading fails with EIO once nobody has the terminal open.
                try:
                    while data := await trio.to_thread.run_sync(os.read, ours, 65536, abandon_on_cancel=True):
                        seen.append(data)
                except OSError:
                    pass

            nursery.start_soon(watch)
            done = await trio.run_process(
                command(*arguments),
                capture_stdout=True,
                stderr=theirs,
                check=False,
                env=environment(TERM="xterm", COLUMNS="120"),
            )
            os.close(theirs)
    os.close(ours)
    return done.returncode, b"".join(seen).decode()


async def test_a_terminal_shows_progress(daemon: Daemon, key: str, tmp_path: Path) -> None:
    server = f"--server=http://{daemon.plain}"
    commands: dict[str, list[str | Path]] = {
        "the file": ["send", tmp_path / "the file"],
        "x": ["receive", key, "-o", tmp_path / "x"],
    }
    for name, arguments in commands.items():
        code, seen = await in_a_terminal(*arguments, server)
        assert code == 0
        assert name in seen
        # How much of how much, how fast, and how long it takes.
        assert "3.0/3.0 MB" in seen
        assert "/s" in seen
        assert "0:00:00" in seen


async def test_what_happens_meanwhile_is_shown_above_the_bar(
    daemon: Daemon, key: str, tmp_path: Path
) -> None:
    async with relaying(daemon.plain, 1_000_000) as relay:
        code, seen = await in_a_terminal("receive", key, f"--server={relay.url}", "-o", tmp_path / "x")
    assert code == 0
    assert "; going on in 0." in seen
    assert (tmp_path / "x").read_bytes() == CONTENT


async def test_a_name_cannot_draw_on_the_terminal(daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "[red]\x1b]0;owned\x07 name"
    path.write_bytes(b"x")
    code, seen = await in_a_terminal("send", path, f"--server=http://{daemon.plain}")
    # The server refuses such a name; the bar has shown it before.
    assert code == 1
    assert "[red]\\x1b]0;owned\\x07 name" in seen
    assert "\x1b]0;" not in seen
