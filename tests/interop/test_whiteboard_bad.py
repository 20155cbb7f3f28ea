"""Bad input on every route and frame of the whiteboard, against a real daemon that must not care."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
import websockets
from websockets.sync.client import connect

from tests.daemon import PATIENCE, Daemon, running
from tests.interop.target import Target
from tests.interop.whiteboard import Person, ask, collaborator, new_board, person
from tests.net.sockets_talk import OPENING


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon where one address may be wrong often; it must have nothing to complain about."""
    flags = (
        "--board-wrong-codes",
        "100000",
        "--board-max-peers",
        "3",
        "--cors-origins",
        "https://friend.example",
    )
    with running(tmp_path_factory.mktemp("fawad"), *flags) as daemon:
        yield daemon
        assert [entry for entry in daemon.events() if entry["level"] not in {"debug", "info"}] == []


@pytest.fixture
def board(here: Daemon) -> Target:
    return Target(here.plain, None)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/create", 405),
        ("POST", "/join?code=AAAAAA", 405),
        ("POST", "/ws/canva?code=AAAAAA", 405),
        ("DELETE", "/health", 405),
        ("GET", "/join", 400),
        ("GET", "/join?code=", 400),
        ("GET", "/join?code=AAAAAA&code=AAAAAA", 400),
        ("GET", "/join?code=AAAAAA", 404),
        ("GET", "/join?code=%F0%9F%A6%8A", 404),
        ("GET", "/join?code=" + "A" * 10_000, 404),
        ("GET", "/ws/canva?code=AAAAAA", 426),
        ("GET", "/ws/canvas", 404),
    ],
)
def test_a_bad_request(board: Target, method: str, path: str, status: int) -> None:
    assert ask(board, path, method).status == status


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("", {}, 400),
        ("?code=AAAAAA", {}, 404),
        ("?code=CODE", {"Origin": "https://foe.example"}, 403),
        ("?code=CODE", {"Origin": "http://localhost:3000"}, 403),
    ],
)
def test_a_handshake_that_is_refused(board: Target, query: str, headers: dict[str, str], status: int) -> None:
    url = f"ws://{board.address}/ws/canva{query.replace('CODE', new_board(board))}"
    with (
        pytest.raises(websockets.InvalidStatus) as refused,
        connect(url, additional_headers=headers, proxy=None),
    ):
        pass
    assert refused.value.response.status_code == status


@pytest.mark.parametrize("origin", ["https://friend.example", "http://HOST"])
def test_pages_that_may_connect(board: Target, origin: str) -> None:
    url = f"ws://{board.address}/ws/canva?code={new_board(board)}"
    with connect(url, origin=websockets.Origin(origin.replace("HOST", board.address)), proxy=None) as socket:
        somebody = Person(socket)
        somebody.draw(1)
        somebody.hear_xs(1)


V1_BAD = [
    "",
    "{",
    "[]",
    '{"draw_event": {}}',
    '{"draw_event": {"type": "draw", "size": 1e99}}',
    "\ud83e\udd8a",
]


@pytest.mark.parametrize("document", V1_BAD)
def test_a_bad_document_of_wire_v1(board: Target, document: str) -> None:
    code = new_board(board)
    with person(board, code) as calm, person(board, code) as bad:
        bad.say(document.encode("utf-16", "surrogatepass").decode("utf-16"))
        assert bad.farewell()[0] == 4400
        calm.draw(1)
        calm.hear_xs(1)


@pytest.mark.parametrize("v2", [False, True])
def test_frames_that_no_client_should_send(board: Target, v2: bool) -> None:
    code = new_board(board)
    with person(board, code) as calm:
        cases: list[tuple[str | bytes, int]] = [(b"binary", 1003), (" " * 65_537, 1009)]
        for message, expected in cases:
            with person(board, code, v2=v2) as bad:
                bad.socket.send(message)
                assert bad.farewell()[0] == expected
        calm.draw(1)
        calm.hear_xs(1)


def test_wire_v2_forgives_for_a_while(board: Target) -> None:
    with person(board, new_board(board), v2=True) as bad:
        bad.say(*["{}"] * 19, {"ping": 1})
        heard = bad.hear_until(lambda documents: {"pong": 1} in documents)
        assert sum("error" in document for document in heard) == 19
        bad.say("{}")
        assert bad.farewell()[0] == 4400


def test_something_else_than_a_hello(board: Target) -> None:
    url = f"ws://{board.address}/ws/canva?code={new_board(board)}"
    with connect(url, subprotocols=[websockets.Subprotocol("fawa.v2")], proxy=None) as socket:
        bad = Person(socket)
        bad.say({"ping": 1})
        assert bad.farewell()[0] == 4401


def test_a_full_board(board: Target, canva: Any, canva_grpc: Any) -> None:
    code = new_board(board)
    with person(board, code) as one, person(board, code) as two, person(board, code, v2=True):
        for somebody in (one, two):
            somebody.draw(1)
        one.hear_xs(1, 1)
        two.hear_xs(1, 1)
        with person(board, code) as late:
            assert late.farewell()[0] == 4413
        with collaborator(board, canva, canva_grpc, code) as late_too:
            assert late_too.farewell()[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_client_that_breaks_off_in_the_middle_harms_nobody(board: Target) -> None:
    code = new_board(board)
    with person(board, code) as calm:
        for cut in (1, 3, 8):
            with person(board, code) as bad:
                frame = b"\x81\xfe\x10\x00" + b"abcd" * 100
                bad.socket.socket.sendall(frame[:cut])
                bad.socket.socket.close()
            calm.draw(cut)
        calm.hear_xs(1, 3, 8)


@contextlib.contextmanager
def strict(tmp_path: Path, *flags: str) -> Iterator[Target]:
    """A daemon where one address may be wrong twice, and make two boards."""
    limits = ("--board-wrong-codes", "2", "--board-wrong-codes-rate", "1", "--board-creates", "2")
    with running(tmp_path, *limits, "--board-creates-rate", "1", *flags) as daemon:
        yield Target(daemon.plain, None)


def test_codes_cannot_be_tried(tmp_path: Path, canva: Any, canva_grpc: Any) -> None:
    with strict(tmp_path) as target:
        code = new_board(target)
        assert ask(target, "/join?code=AAAAAA").status == 404
        with pytest.raises(websockets.InvalidStatus) as refused:
            connect(f"ws://{target.address}/ws/canva?code=AAAAAB", proxy=None)
        assert refused.value.response.status_code == 404
        # Whichever way it tries next, also with what it says of itself.
        answer = ask(target, f"/join?code={code}", x_forwarded_for="198.51.100.1")
        assert answer.status == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        with pytest.raises(websockets.InvalidStatus) as refused:
            connect(f"ws://{target.address}/ws/canva?code={code}", proxy=None)
        assert refused.value.response.status_code == 429
        with collaborator(target, canva, canva_grpc, code) as caller:
            status, text = caller.farewell()
            assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "too many wrong codes" in text
        # The shared board needs no code.
        with collaborator(target, canva, canva_grpc) as caller:
            assert caller.hear_history() == []


def test_boards_cannot_be_made_without_end(tmp_path: Path) -> None:
    with strict(tmp_path) as target:
        new_board(target)
        new_board(target)
        answer = ask(target, "/create")
        assert answer.status == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 60


def test_behind_a_proxy_each_client_counts_by_itself(tmp_path: Path) -> None:
    with strict(tmp_path, "--trusted-proxies", "127.0.0.0/8") as target:
        code = new_board(target)
        for client in ("198.51.100.1", "198.51.100.2"):
            statuses = [
                ask(target, "/join?code=AAAAAA", x_forwarded_for=f"203.0.113.{n}, {client}").status
                for n in range(3)
            ]
            assert statuses == [404, 404, 429]
        assert ask(target, f"/join?code={code}", x_forwarded_for="198.51.100.3").status == 200


def test_as_many_boards_as_may_be(tmp_path: Path) -> None:
    with running(tmp_path, "--board-max-boards", "1") as daemon:
        target = Target(daemon.plain, None)
        code = new_board(target)
        answer = ask(target, "/create")
        assert answer.status == 503
        assert "retry-after" in answer.headers
        with person(target, code) as ann:
            ann.draw(1)
            ann.hear_xs(1)


@contextlib.contextmanager
def frozen(target: Target, code: str) -> Iterator[socket.socket]:
    """Open a WebSocket, and read nothing of what comes on it."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", target.port))
        head = [f"GET /ws/canva?code={code} HTTP/1.1", f"host: {target.address}", *OPENING, "", ""]
        sock.sendall("\r\n".join(head).encode())
        assert sock.recv(12) == b"HTTP/1.1 101"
        yield sock


def test_one_that_reads_nothing_is_closed_and_nobody_waits_for_it(tmp_path: Path) -> None:
    flags = ("--board-stall", "1s", "--board-backlog", "64KiB", "--board-max-event-rate", "1000000")
    with running(tmp_path, *flags) as daemon:
        target = Target(daemon.plain, None)
        code = new_board(target)
        with person(target, code) as ann, person(target, code) as bob, frozen(target, code):
            drawn = 0
            is_closed = False
            while not is_closed:
                events = [{"type": "draw", "curr_x": x, "color": "#" * 64} for x in range(drawn, drawn + 200)]
                ann.say(*({"draw_event": event} for event in events))
                for somebody in (ann, bob):
                    came = [json.loads(somebody.socket.recv(PATIENCE))["draw_event"] for _ in events]
                    assert [event["curr_x"] for event in came] == [event["curr_x"] for event in events]
                drawn += len(events)
                # Beyond what the kernel holds for it, it is behind; then it has a second to read something.
                is_closed = any(entry.get("rpc") == "websocket-v1 4408" for entry in daemon.events())
                assert drawn < 500_000
            assert json.loads(ask(target, "/health").body)["status"] == "ok"
