"""Many bad clients at once over real sockets, and a good one among them that must not notice.

`FAWA_SLOW_CONNECTIONS=9000` makes it that many, and prints what each costs the server.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator

import pytest
import trio

from fawa.net.connection import Limits
from fawa.net.engine import PREFACE
from fawa.net.exchange import Exchange
from tests.net.door import Open, opened, read_answer, speak_http2
from tests.net.talk import HEADERS, SETTINGS, WINDOW_UPDATE, frame, request
from tests.net.test_http2_attacks import block

EVERYDAY = 500
HOW_MANY = int(os.environ.get("FAWA_SLOW_CONNECTIONS", EVERYDAY))


@pytest.fixture(autouse=True)
def _descriptors() -> Iterator[None]:
    """Each connection takes two file descriptors here: both ends are ours."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * HOW_MANY + 1000
    if wanted > hard:
        pytest.fail(f"{HOW_MANY} connections need {wanted} file descriptors; `ulimit -Hn` is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def answer(exchange: Exchange) -> None:
    if exchange.path == "/endless":
        exchange.start(200, [])
        for _ in range(1_000_000):
            await exchange.send(bytes(100_000))
    elif exchange.path == "/upload":
        await exchange.read_all(10**12)
    exchange.respond(200, [], exchange.path.encode())


#: What a bad client says at first, and what it then says again and again.
BAD = {
    "says nothing": (b"", b""),
    "drips a head": (b"GET / HTTP/1.1\r\n", b"x: y\r\n"),
    "drips the preface": (PREFACE[:5], b""),
    "drips a body": (request("/upload", "POST", "content-length: 1000000000"), b"x"),
    "drips an HTTP/2 head": (PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 0, 1, block()[:10]), b""),
    "holds HTTP/2 calls open": (
        PREFACE
        + frame(SETTINGS, 0, 0)
        + b"".join(frame(HEADERS, 4, stream, block()) for stream in range(1, 21, 2)),
        frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1"),
    ),
    "reads no answer": (request("/endless"), b""),
    "reads no answers": (request("/many") * 200, request("/many") * 20),
}


async def make_bad(there: Open) -> list[tuple[trio.SocketStream, bytes]]:
    bad = []
    for number in range(HOW_MANY):
        first, again = list(BAD.values())[number % len(BAD)]
        stream = await there.connect()
        if first:
            await stream.send_all(first)
        bad.append((stream, again))
    return bad


async def test_slow_clients_do_not_keep_others_from_being_served(capsys: pytest.CaptureFixture[str]) -> None:
    limits = Limits(header_timeout=3600, idle_timeout=3600, body_timeout=3600, write_timeout=3600)
    before = resident()
    async with opened(answer, limits=limits, handshake_timeout=3600, max_connections=HOW_MANY + 10) as there:
        bad = await make_bad(there)
        for turn in range(3):
            for stream, again in bad:
                if again:
                    with trio.move_on_after(0):  # a connection that is full takes no more
                        await stream.send_all(again)
            assert await there.get(f"/good{turn}") == b"/good%d" % turn
            async with await there.connect() as stream:
                await speak_http2(stream)
            async with await there.connect() as stream:  # and one that stays
                for number in range(20):
                    await stream.send_all(request(f"/{number}"))
                    await read_answer(stream, b"/%d" % number)
        while there.door.connections > HOW_MANY:
            await trio.lowlevel.checkpoint()
        assert there.door.connections == HOW_MANY
        if HOW_MANY > EVERYDAY:
            each = (resident() - before) // HOW_MANY
            with capsys.disabled():
                sys.stdout.write(f"\n{HOW_MANY} bad clients: {each} bytes each, both ends together\n")


def resident() -> int:
    """Return the bytes of memory that this process has."""
    with open("/proc/self/statm") as statm:  # noqa: PTH123
        return int(statm.read().split()[1]) * resource.getpagesize()
