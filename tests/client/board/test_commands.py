"""`fawa board`, as a process of its own, with a real `fawad`."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from xml.etree import ElementTree

import pytest
import trio

from fawa.client.board import Stroke, create_board
from fawa.client.board.svg import to_svg
from tests.client.running import Done, begin, end, fawa
from tests.daemon import Daemon

LINES = b'{"points": [[10, 10], [200, 120], [5, 300]], "color": "#e91e63"}\n\n{"points": [[50, 50]]}'


async def create(daemon: Daemon) -> str:
    """Return the code of a new board."""
    return await create_board(f"http://{daemon.plain}")


async def test_create_draw_and_export(daemon: Daemon, tmp_path: Path) -> None:
    server = f"--server=http://{daemon.plain}"
    code = (await fawa("board", "create", server)).succeeded().out.strip()
    done = await fawa("board", "draw", code, server, "--name=Ada", stdin=LINES)
    assert done == Done(0, "3 events\n", "")
    svg = (await fawa("board", "export", code, server)).succeeded().out
    lines = [(one.get("stroke"), one.get("points")) for one in ElementTree.fromstring(svg)[1]]
    assert lines == [("#e91e63", "10,10 200,120 5,300"), ("#000000", "50,50 50,50")]
    path = tmp_path / "board.svg"
    done = await fawa("board", "export", code, server, "-o", path, "--json", "--transport=websocket")
    assert done.succeeded().results == [{"code": code, "path": str(path), "strokes": 2}]
    assert path.read_text() == svg
    done = await fawa("board", "export", code, server, "-o", tmp_path)
    assert (done.code, done.err) == (1, f"fawa: cannot write {tmp_path}: Is a directory\n")


async def test_what_watch_prints_can_be_drawn(daemon: Daemon) -> None:
    server = f"--server=http://{daemon.plain}"
    code, copy = await create(daemon), await create(daemon)
    (await fawa("board", "draw", code, server, stdin=LINES)).succeeded()
    async with trio.open_nursery() as nursery:
        watch = await begin(nursery, "board", "watch", code, server, "--json")
        assert watch.stdout is not None
        heard = b""
        while b'"snapshot"' not in heard:
            heard += await watch.stdout.receive_some()
        line = b'{"event": {"type": "draw", "curr_x": 7, "color": "red", "size": 2}}'
        (await fawa("board", "draw", code, server, stdin=line)).succeeded()
        while b'"curr_x": 7' not in heard:
            heard += await watch.stdout.receive_some()
        watch.send_signal(signal.SIGINT)
        done = await end(watch)
        assert done.code == 130
    heard = heard[: heard.rfind(b"\n") + 1]
    assert json.loads(heard.splitlines()[0]) == {
        "status": {"transport": "webtransport", "why": "", "read_only": False}
    }
    done = await fawa("board", "draw", copy, server, "--json", stdin=heard)
    assert done.succeeded().results == [{"code": copy, "events": 4}]
    one, other = [(await fawa("board", "export", each, server)).succeeded().out for each in (code, copy)]
    assert one == other


async def test_watch_in_words(daemon: Daemon) -> None:
    server = f"--server=http://{daemon.plain}"
    code = await create(daemon)
    async with trio.open_nursery() as nursery:
        watch = await begin(nursery, "board", "watch", code, server, "--name=Bob")
        assert watch.stdout is not None
        heard = b""
        while b"the board" not in heard:
            heard += await watch.stdout.receive_some()
        lines = b'{"points": [[1, 2], [3, 4]]}\n{"event": {"type": "clear"}}'
        (await fawa("board", "draw", code, server, "--name=Ada\x1b[2J", stdin=lines)).succeeded()
        while b"clears" not in heard:
            heard += await watch.stdout.receive_some()
        watch.send_signal(signal.SIGINT)
        await end(watch)
    text = heard.decode()
    assert "connected over webtransport\n" in text
    assert "the board: 0 segments in 0 strokes\n" in text
    assert "Ada\\x1b[2J is here\n" in text
    assert "1 Ada\\x1b[2J draws from (1, 2) to (3, 4) in #000000, 3 wide\n" in text
    assert "2 Ada\\x1b[2J clears the board\n" in text


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "text"),
    [
        (["export", "AAAAAA"], b"", 1, "NOT_FOUND: there is no board with this code"),
        (["draw", "{code}"], b"x", 1, "line 1 of standard input cannot be drawn: JSON is malformed"),
        (
            ["draw", "{code}"],
            b'{"points": []}',
            1,
            "line 1 of standard input cannot be drawn: there is nothing to draw",
        ),
        (
            ["draw", "{code}"],
            b'\n{"point": [1, 2]}',
            1,
            'line 2 of standard input cannot be drawn: it has none of "points"',
        ),
        (
            ["draw", "{code}"],
            b'{"points": [[1, 9999999999]]}',
            1,
            "line 1 of standard input cannot be drawn: a board does not",
        ),
        (["watch", "{code}", "--name", "x" * 41], b"", 2, "a name has at most 40 characters, not 41"),
        (["create", "--server=ftp://x"], b"", 2, "must begin with http"),
        (["create", "--server=http://127.0.0.1:1"], b"", 3, "connection refused; is fawad running?"),
    ],
)
async def test_what_cannot_be(
    daemon: Daemon, arguments: list[str], stdin: bytes, code: int, text: str
) -> None:
    board = await create(daemon)
    words = [word.replace("{code}", board) for word in arguments]
    done = await fawa("board", *words, FAWA_SERVER=f"http://{daemon.plain}", stdin=stdin)
    assert (done.code, done.out) == (code, "")
    assert text in done.err
    assert done.err.count("\n") == 1


def test_svg_of_nothing_and_of_harmful_colors() -> None:
    assert 'viewBox="0 0 16 16"' in to_svg([])
    harmful = Stroke("draw", (0, 0, 5, 5), '"/><script>', -3)
    other = Stroke("laser", (0, 0, 500, 500), "red")
    svg = to_svg([harmful, other])
    assert "script" not in svg
    assert 'stroke="#000000" stroke-width="1" points="0,0 5,5"' in svg
    assert 'viewBox="-8 -8 21 21"' in svg
