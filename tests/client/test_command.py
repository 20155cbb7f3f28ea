"""The `fawa` command, as a process of its own, with a real `fawad`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.client.running import PATIENCE, Done, command, environment, fawa
from tests.client.test_files import CONTENT
from tests.daemon import Daemon


@pytest.fixture
def server(daemon: Daemon) -> str:
    return f"--server=http://{daemon.plain}"


async def send(server: str, path: Path) -> str:
    (result,) = (await fawa("send", path, server, "--json")).succeeded().results
    return str(result["key"])


# greet

PARTS = "".join(f"Hello, Ada! (part {n})\n" for n in range(1, 11))


@pytest.mark.parametrize(
    ("arguments", "out"),
    [
        (["Ada"], "Hello, Ada!\n"),
        (["Ada", "Zoë 🦊"], "Hello, Ada!\nHello, Zoë 🦊!\n"),
        (["Ada", "--mode=unary", "--timeout=30"], "Hello, Ada!\n"),
        (["Ada", "--mode=server-stream"], PARTS),
        (["Ada", "Bo", "--mode=client-stream"], "Hello, Ada, Bo!\n"),
        (["Ada", "Bo", "--mode=bidi"], "Hello, Ada!\nHello, Bo!\n"),
        (["Ada\x1b[2J", "--mode=bidi"], "Hello, Ada\\x1b[2J!\n"),
    ],
)
async def test_greet(server: str, arguments: list[str], out: str) -> None:
    assert await fawa("greet", *arguments, server) == Done(0, out, "")


@pytest.mark.parametrize("dialect", ["grpc-web", "connect", "connect-json"])
async def test_greet_in_another_dialect(server: str, dialect: str) -> None:
    done = await fawa("greet", "Ada", "Bo", server, "--mode=bidi", f"--dialect={dialect}")
    assert done == Done(0, "Hello, Ada!\nHello, Bo!\n", "")


async def test_greet_in_json(server: str) -> None:
    done = await fawa("greet", "Ada", "Zoë", server, "--json")
    assert done.succeeded().results == [
        {"mode": "unary", "name": "Ada", "text": "Hello, Ada!"},
        {"mode": "unary", "name": "Zoë", "text": "Hello, Zoë!"},
    ]
    done = await fawa("greet", "Ada", "Bo", server, "--json", "--mode=client-stream")
    assert done.succeeded().results == [
        {"mode": "client-stream", "names": ["Ada", "Bo"], "text": "Hello, Ada, Bo!"}
    ]
    done = await fawa("greet", "Ada", server, "--json", "--mode=server-stream")
    assert done.succeeded().results[9] == {
        "mode": "server-stream",
        "name": "Ada",
        "text": "Hello, Ada! (part 10)",
    }


async def test_the_server_from_the_environment(daemon: Daemon) -> None:
    done = await fawa("greet", "Ada", FAWA_SERVER=f"http://{daemon.plain}")
    assert done == Done(0, "Hello, Ada!\n", "")


async def test_tls(daemon: Daemon) -> None:
    server = f"--server=https://{daemon.tls}"
    assert (await fawa("greet", "Ada", server, f"--ca={daemon.certificate}")).out == "Hello, Ada!\n"
    assert (await fawa("greet", "Ada", server, "--insecure")).out == "Hello, Ada!\n"
    done = await fawa("greet", "Ada", server)
    assert done.code == 3
    assert "its certificate is not trusted" in done.err


async def test_http_3(daemon: Daemon, tmp_path: Path) -> None:
    options = ["--http3", f"--server=https://{daemon.tls}", f"--ca={daemon.certificate}"]
    done = await fawa("greet", "Ada", "Bo", "--mode=bidi", *options)
    assert done == Done(0, "Hello, Ada!\nHello, Bo!\n", "")
    path = tmp_path / "x"
    path.write_bytes(CONTENT)
    (result,) = (await fawa("send", path, "--json", *options)).succeeded().results
    (await fawa("receive", result["key"], "-o", tmp_path / "y", *options)).succeeded()
    assert (tmp_path / "y").read_bytes() == CONTENT
    done = await fawa("greet", "Ada", "--http3", f"--server=https://{daemon.tls}", "--json")
    failed(3, "its certificate is not trusted (self-signed certificate)", "UNAVAILABLE", done)
    done = await fawa("greet", "Ada", "--http3", f"--server=https://{daemon.tls}", "--insecure")
    assert done == Done(0, "Hello, Ada!\n", "")


async def test_http_3_where_nobody_listens() -> None:
    done = await fawa("greet", "Ada", "--http3", "--server=https://127.0.0.1:1", "--json")
    told = "cannot reach https://127.0.0.1:1: connection refused; is fawad running, with quic.enabled?"
    failed(3, told, "UNAVAILABLE", done)


# send, receive, link


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("report.pdf", 3_000_000),
        ("a name  with spaces.txt", 1),
        ("Grüße 東京 🦊.bin", 100_000),
        ("-dash", 10),
        ("empty", 0),
    ],
)
async def test_there_and_back(server: str, tmp_path: Path, name: str, size: int) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "back").mkdir()
    path = tmp_path / "there" / name
    path.write_bytes(CONTENT[:size])
    key = await send(server, path)
    done = await fawa("receive", key, server, cwd=tmp_path / "back")
    assert done == Done(0, f"{name}\n", "")
    assert [path.name for path in (tmp_path / "back").iterdir()] == [name]
    assert (tmp_path / "back" / name).read_bytes() == CONTENT[:size]


async def test_over_tls_and_another_dialect(daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(CONTENT)
    options = [f"--server=https://{daemon.tls}", f"--ca={daemon.certificate}", "--dialect=connect"]
    (result,) = (await fawa("send", path, "--json", *options)).succeeded().results
    (await fawa("receive", result["key"], "-o", tmp_path / "y", *options)).succeeded()
    assert (tmp_path / "y").read_bytes() == CONTENT


async def test_what_send_prints(server: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"aaa")
    (tmp_path / "b").write_bytes(b"")
    done = (await fawa("send", "a", "b", server, cwd=tmp_path)).succeeded()
    lines = done.out.splitlines()
    assert len(lines) == 10
    assert [lines[0], lines[5]] == ["a", "b"]
    assert lines[1].startswith("  key   ")
    assert lines[2].startswith(f"  link  {server.removeprefix('--server=')}/files/")
    assert lines[3].startswith("  token ")
    assert lines[4].startswith("  3 bytes received, kept until ")

    done = (await fawa("send", "a", "b", server, "--json", cwd=tmp_path)).succeeded()
    assert [(result["file"], result["name"], result["size"]) for result in done.results] == [
        ("a", "a", 3),
        ("b", "b", 0),
    ]
    assert set(done.results[0]) == {
        *("file", "name", "size", "encrypted", "key", "link", "owner_token", "message")
    }


async def test_what_receive_and_link_print(server: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"aaa")
    key = await send(server, tmp_path / "a")
    done = await fawa("receive", key, server, "-o", tmp_path / "b", "--json")
    assert done.succeeded().results == [
        {"key": key, "path": str(tmp_path / "b"), "size": 3, "resumed_from": 0}
    ]
    done = (await fawa("link", key, server)).succeeded()
    url = done.out.strip()
    assert url.startswith(f"{server.removeprefix('--server=')}/files/{key}/a?")
    (result,) = (await fawa("link", key, server, "--json")).succeeded().results
    assert (result["key"], result["name"]) == (key, "a")
    assert result["link"].startswith(url.partition("?")[0])


async def test_standard_input(server: str, tmp_path: Path) -> None:
    done = await fawa("send", "-", "--name=from a pipe", server, "--json", stdin=CONTENT)
    (result,) = done.succeeded().results
    assert (result["file"], result["name"], result["size"]) == ("-", "from a pipe", len(CONTENT))
    (await fawa("receive", result["key"], server, "-o", tmp_path / "x")).succeeded()
    assert (tmp_path / "x").read_bytes() == CONTENT


async def test_a_named_pipe(server: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    async def write() -> None:
        await trio.to_thread.run_sync((tmp_path / "pipe").write_bytes, CONTENT)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        key = await send(server, tmp_path / "pipe")
    (await fawa("receive", key, server, "-o", tmp_path / "x")).succeeded()
    assert (tmp_path / "x").read_bytes() == CONTENT


async def test_a_name_of_ones_own(server: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"aaa")
    (result,) = (await fawa("send", tmp_path / "a", "--name=b", server, "--json")).succeeded().results
    assert result["name"] == "b"


# What goes wrong


def failed(code: int, told: str, status: str, done: Done) -> None:
    """See that the command failed, and said so in one line, for people and for programs."""
    assert done.code == code, done
    assert told in done.err
    assert done.err.startswith("fawa: ")
    assert done.err.count("\n") == 1
    *_, last = done.results
    assert last["exit_code"] == code
    assert last["error"]["status"] == status
    assert set(last) == {"error", "exit_code"}
    assert set(last["error"]) == {"status", "message"}


async def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"aaa")
    told = "cannot reach http://127.0.0.1:1: connection refused; is fawad running?"
    for arguments in (["greet", "Ada"], ["send", str(tmp_path / "a")], ["receive", "key"], ["link", "key"]):
        done = await fawa(*arguments, "--server=http://127.0.0.1:1", "--json")
        failed(3, told, "UNAVAILABLE", done)


async def test_unknown_keys(server: str, tmp_path: Path) -> None:
    for arguments in (["receive", "abcdefghijklmnop"], ["link", "abcdefghijklmnop"], ["receive", "../x"]):
        done = await fawa(*arguments, server, "--json", cwd=tmp_path)
        failed(1, "NOT_FOUND: there is no file under this key", "NOT_FOUND", done)
    assert list(tmp_path.iterdir()) == []


async def test_files_that_cannot_be_sent(server: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"aaa")
    failed(1, "No such file", "", await fawa("send", tmp_path / "no", server, "--json"))
    # Nothing is sent unless all can be.
    done = await fawa("send", tmp_path / "a", tmp_path / "no", server, "--json")
    failed(1, "No such file", "", done)
    assert len(done.results) == 1
    bad = os.fsencode(tmp_path) + b"/\xff"
    Path(os.fsdecode(bad)).write_bytes(b"x")
    failed(1, "is not valid UTF-8", "", await fawa("send", os.fsdecode(bad), server, "--json"))
    (await fawa("send", os.fsdecode(bad), "--name=good", server, "--json")).succeeded()
    # The server has a say too.
    done = await fawa("send", tmp_path / "a", "--name=../a", server, "--json")
    failed(1, "INVALID_ARGUMENT: ", "INVALID_ARGUMENT", done)


async def test_places_that_cannot_be_written(server: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"aaa")
    key = await send(server, tmp_path / "a")
    target = tmp_path / "there"
    target.write_bytes(b"mine")
    done = await fawa("receive", key, "-o", target, server, "--json")
    failed(1, "is already there: give another -o, or --force to replace it", "", done)
    assert target.read_bytes() == b"mine"
    done = await fawa("receive", key, "-o", target, server, "--force")
    assert target.read_bytes() == b"aaa"
    done = await fawa("receive", key, "-o", tmp_path / "no" / "x", server, "--json")
    failed(1, "No such file or directory", "", done)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
        (["greet"], "NAME"),
        (["greet", "Ada", "--mode=shout"], "invalid choice: 'shout'"),
        (["greet", "Ada", "--dialect=soap"], "invalid choice: 'soap'"),
        (["greet", "Ada", "--timeout=0"], "'0' is not a number of seconds above 0"),
        (["greet", "Ada", "--timeout=soon"], "'soon' is not a number of seconds above 0"),
        (["greet", "Ada", "--server=127.0.0.1:80"], "must begin with http:// or https://"),
        (["greet", "Ada", "--server=http://h/x"], "must end after host and port"),
        (["greet", "Ada", "--http3"], "--server https://127.0.0.1:8443"),
        (["greet", "Ada", "--ca=/no/such/file"], "/no/such/file cannot be read"),
        (["greet", os.fsdecode(b"\xff")], "is not valid UTF-8"),
        (["send"], "FILE"),
        (["send", "-"], "standard input has no name: give one with --name"),
        (["send", "a", "b", "--name=c"], "--name is for one file"),
        (["receive"], "KEY"),
    ],
)
async def test_wrong_command_lines(arguments: list[str], told: str) -> None:
    done = await fawa(*arguments)
    assert (done.code, done.out) == (2, "")
    assert told in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("arguments", [["greet", "Ada"], ["link", "key"], ["receive", "key"]])
async def test_a_server_that_says_nothing(arguments: list[str], tmp_path: Path) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    done = await fawa(
        *arguments, f"--server=http://127.0.0.1:{port}", "--timeout=0.2", "--json", cwd=tmp_path
    )
    assert done.code == 1
    assert done.results[0]["error"]["status"] == "DEADLINE_EXCEEDED"
    await listeners[0].aclose()


async def test_a_reader_that_has_seen_enough(server: str) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            command("greet", "Ada", "--mode=server-stream", server),
            stdout=theirs,
            capture_stderr=True,
            check=False,
            env=environment(),
        )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, b"")


async def test_names_in_a_terminal_without_their_letters(server: str) -> None:
    done = await fawa("greet", "Zoë", server, PYTHONIOENCODING="ascii")
    assert done == Done(0, "Hello, Zo\\xeb!\n", "")


# Help


async def test_help_tells_the_exit_codes() -> None:
    done = (await fawa("--help")).succeeded()
    for words in ("greet", "send", "receive", "link", "exit codes:", "0    done", "3    the server", "130"):
        assert words in done.out
    done = (await fawa("receive", "--help")).succeeded()
    for words in (
        "--server",
        "--dialect",
        "--ca",
        "--insecure",
        "--http3",
        "--timeout",
        "--json",
        "--force",
        "FAWA_SERVER",
    ):
        assert words in done.out
    assert (await fawa("--version")).succeeded().out.startswith("fawa ")


def test_help_comes_before_anything_slow_is_imported() -> None:
    program = (
        "import sys\n"
        "from fawa.client.command import fawa\n"
        "try:\n"
        "    fawa(['--help'])\n"
        "except SystemExit:\n"
        "    pass\n"
        "slow = {'trio', 'grpclib', 'google.protobuf', 'rich', 'attrs', 'zttp'} & set(sys.modules)\n"
        "sys.exit(f'imported: {slow}' if slow else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
