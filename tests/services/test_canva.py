"""The routes of the whiteboard over plain HTTP, and what a handshake meets before it is a WebSocket."""

from __future__ import annotations

import json

import pytest
from trio.testing import MockClock

from fawa import __version__
from fawa.services.admission import AdmissionSettings
from fawa.services.canva import CanvaSettings
from fawa.services.ratelimit import Rate
from tests.net.sockets_talk import over_http1, over_http2
from tests.rooms.memory import MemoryBoards, settings
from tests.services.boards import Site, site

ONE_A_MINUTE = Rate(1, 1 / 60)


async def status(here: Site, target: str, method: str = "GET") -> int:
    return (await here.ask(target, method)).status


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_board_is_made_and_joined(autojump_clock: MockClock, method: str) -> None:
    async with site() as here:
        made = await here.ask("/create", method)
        assert (made.status, made.answer("content-type")) == (200, "application/json")
        assert made.answer("cache-control") == "no-store"
        code = json.loads(made.body)["code"]
        for asked in (code, code.lower()):
            joined = await here.ask(f"/join?code={asked}&utm_source=mail")
            assert (joined.status, json.loads(joined.body)) == (200, {"code": code})
        assert (await here.ask(f"/join?code={code}", "HEAD")).body == b""


async def test_it_is_healthy(autojump_clock: MockClock) -> None:
    async with site() as here:
        answer = await here.ask("/health")
        assert (answer.status, json.loads(answer.body)) == (200, {"status": "ok", "version": __version__})


@pytest.mark.parametrize(
    ("query", "expected", "says"),
    [
        ("", 400, "which board?"),
        ("?", 400, "which board?"),
        ("?code=", 400, "which board?"),
        ("?kode=ABC123", 400, "which board?"),
        ("?code=ABC123&code=ABC124", 400, "which board?"),
        ("?" + "&".join(f"a{n}=1" for n in range(100)) + "&code=ABC123", 400, "which board?"),
        ("?code=AAAAAA", 404, "no board with this code"),
        ("?code=ABC12", 404, "six characters"),
        ("?code=ABC1234", 404, "six characters"),
        ("?code=%00%ff%E2%82", 404, "six characters"),
        ("?code=../../", 404, "six characters"),
    ],
)
async def test_a_wrong_code(autojump_clock: MockClock, query: str, expected: int, says: str) -> None:
    async with site() as here:
        answer = await here.ask(f"/join{query}")
        assert (answer.status, answer.answer("cache-control")) == (expected, "no-store")
        assert says in answer.text
        for connect in (over_http1, over_http2):
            async with connect(here.handle, f"/ws/canva{query}") as client:
                assert client.status == expected


async def test_too_many_wrong_codes_and_boards(autojump_clock: MockClock) -> None:
    chosen = AdmissionSettings(wrong_codes=ONE_A_MINUTE, creates=ONE_A_MINUTE)
    async with site(admission=chosen) as here:
        assert await status(here, "/create") == 200
        answer = await here.ask("/create", "POST")
        assert (answer.status, answer.answer("retry-after")) == (429, "60")
        assert await status(here, "/join?code=AAAAAA") == 404
        answer = await here.ask("/join?code=AAAAAB")
        assert (answer.status, answer.answer("retry-after")) == (429, "60")
        async with over_http1(here.handle, f"/ws/canva?code={await here.code()}") as client:
            assert (client.status, dict(client.headers)[b"retry-after"]) == (429, b"60")


async def test_as_many_boards_as_may_be(autojump_clock: MockClock) -> None:
    async with site(settings(max_boards=0)) as here:
        answer = await here.ask("/create")
        assert (answer.status, answer.answer("retry-after")) == (503, "60")
        assert "board.max_boards" in answer.text


async def test_at_the_end_nobody_is_let_in(autojump_clock: MockClock) -> None:
    async with site() as here:
        code = await here.code()
        here.rooms.drain()
        for target in ("/create", f"/join?code={code}"):
            answer = await here.ask(target)
            assert (answer.status, answer.answer("retry-after")) == (503, "5")
        async with over_http1(here.handle, f"/ws/canva?code={code}") as client:
            assert client.status == 503


async def test_a_store_that_fails_says_nothing_of_itself(autojump_clock: MockClock) -> None:
    async with site(store=MemoryBoards(broken=True)) as here:
        answer = await here.ask("/join?code=AAAAAA")
        assert answer.status == 503
        assert "fire" not in answer.text


async def test_what_is_no_handshake(autojump_clock: MockClock) -> None:
    """It is looked at first, so it costs no attempt at a code."""
    async with site(admission=AdmissionSettings(wrong_codes=ONE_A_MINUTE)) as here:
        for _ in range(3):
            answer = await here.ask("/ws/canva?code=AAAAAA")
            assert (answer.status, answer.answer("upgrade")) == (426, "websocket")
        assert await status(here, "/join?code=AAAAAA") == 404


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://h", 101),  # the host of these requests, and so the page that is served there
        ("https://h", 101),
        ("https://friend.example", 101),
        ("https://foe.example", 403),
        ("null", 403),
    ],
)
async def test_which_pages_may_connect(autojump_clock: MockClock, origin: str, expected: int) -> None:
    chosen = CanvaSettings(allows=lambda asked: asked == "https://friend.example")
    async with site(canva=chosen, admission=AdmissionSettings(wrong_codes=ONE_A_MINUTE)) as here:
        for _ in range(2):
            path = f"/ws/canva?code={await here.code() if expected == 101 else 'AAAAAA'}"
            async with over_http1(here.handle, path, f"origin: {origin}") as client:
                assert client.status == expected
