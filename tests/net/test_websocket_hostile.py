"""What no WebSocket peer may send, and what it must not cost."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from fawa.net.connection import HIGH_WATER, READ_UNANSWERED
from fawa.net.exchange import Exchange
from fawa.net.http1 import H1Connection
from fawa.net.websocket import WebSocket, WebSocketLimits, accept, text_frame
from tests.net.sockets_talk import (
    BINARY,
    BOTH,
    CLOSE,
    CONTINUATION,
    OPENING,
    PING,
    PONG,
    TEXT,
    Client,
    Connect,
    ask,
    close_of,
    closing,
    hear,
    masked,
    over_http1,
)
from tests.net.talk import CHUNKINGS, Handler, examples, line, lockstep_pair, request, settle

EURO = "€".encode()
LIMIT = 1000


def repeating(seen: list[WebSocket], limits: WebSocketLimits | None = None) -> Handler:
    async def repeat(exchange: Exchange) -> None:
        socket = accept(exchange, allows=lambda origin: False, limits=limits or WebSocketLimits())
        assert socket is not None
        seen.append(socket)
        while (message := await socket.receive()) is not None:
            await socket.send(message)

    return repeat


BROKEN_RULES = {
    "without a mask": ([masked(TEXT, b"hello", mask=None)], 1002),
    "reserved bit 1": ([masked(TEXT, b"hello", rsv=4)], 1002),
    "reserved bit 2": ([masked(TEXT, b"hello", rsv=2)], 1002),
    "reserved bit 3": ([masked(PING, rsv=1)], 1002),
    "reserved opcode for data": ([masked(3, b"hello")], 1002),
    "reserved opcode for control": ([masked(11)], 1002),
    "a control frame in fragments": ([masked(PING, b"a", fin=False)], 1002),
    "a close frame in fragments": ([masked(CLOSE, b"\x03\xe8", fin=False)], 1002),
    "a control frame above 125 bytes": ([masked(PING, bytes(126))], 1002),
    "a control frame with a long length": ([masked(PONG, length=b"\x7f" + bytes(7) + b"\x05")], 1002),
    "two bytes of length for 125": ([masked(TEXT, bytes(125), length=b"\x7e\x00\x7d")], 1002),
    "eight bytes of length for 65,535": ([masked(TEXT, b"", length=b"\x7f" + bytes(6) + b"\xff\xff")], 1002),
    "a length of 2^63": ([masked(BINARY, b"", length=b"\x7f\x80" + bytes(7))], 1002),
    "a continuation of nothing": ([masked(CONTINUATION, b"hello")], 1002),
    "a continuation of a whole message": ([masked(TEXT, b"a"), masked(CONTINUATION, b"b")], 1002),
    "a message inside a message": ([masked(TEXT, b"a", fin=False), masked(TEXT, b"b")], 1002),
    "a close frame with half a code": ([masked(CLOSE, b"\x03")], 1002),
    **{
        f"close code {code}": ([closing(code)], 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535)
    },
    "a close reason that is not UTF-8": ([masked(CLOSE, b"\x03\xe8\xff")], 1007),
    "text that is not UTF-8": ([masked(TEXT, b"\xff")], 1007),
    "text that ends inside a character": ([masked(TEXT, EURO[:2])], 1007),
    "text that is a surrogate": ([masked(TEXT, b"\xed\xa0\x80")], 1007),
    "a character that is cut up and not continued": (
        [
            masked(TEXT, EURO[:1], fin=False),
            masked(CONTINUATION, EURO[1:2], fin=False),
            masked(CONTINUATION, b"x"),
        ],
        1007,
    ),
    "a message above the limit": ([masked(BINARY, bytes(LIMIT + 1))], 1009),
    "a declared length above the limit": ([masked(BINARY, b"", length=b"\x7e\x03\xe9")], 1009),
    "a declared length of 2^63 - 1": ([masked(TEXT, b"", length=b"\x7f\x7f" + b"\xff" * 7)], 1009),
    "fragments above the limit": (
        [
            masked(BINARY, bytes(600), fin=False),
            masked(CONTINUATION, bytes(400), fin=False),
            masked(CONTINUATION, b"x", fin=False),
        ],
        1009,
    ),
}


@pytest.mark.parametrize("connect", BOTH)
@pytest.mark.parametrize("sizes", [[], [1], [2, 7]])
@pytest.mark.parametrize("name", BROKEN_RULES)
async def test_who_breaks_a_rule_is_told_which_and_let_go(
    connect: Connect, name: str, sizes: list[int]
) -> None:
    frames, code = BROKEN_RULES[name]
    seen: list[WebSocket] = []
    async with connect(repeating(seen, WebSocketLimits(max_message=LIMIT))) as client:
        await client.send(masked(TEXT, b"before"))
        answers = await ask(client, b"".join(frames) + masked(TEXT, b"after"), sizes)
        assert answers[0] == (TEXT, b"before")
        assert answers[1:-1] in ([], [(TEXT, b"a")])
        told, reason = close_of(answers[-1])
        assert told == code
        assert reason
        assert client.over()
    assert (seen[0].close_code, seen[0].close_reason) == (code, reason)


@pytest.mark.parametrize("connect", BOTH)
async def test_a_message_of_exactly_the_limit_passes(connect: Connect) -> None:
    async with connect(repeating([], WebSocketLimits(max_message=LIMIT))) as client:
        assert await ask(client, masked(BINARY, bytes(LIMIT))) == [(BINARY, bytes(LIMIT))]
        frames = masked(BINARY, bytes(600), fin=False) + masked(CONTINUATION, bytes(400))
        assert await ask(client, frames, [100]) == [(BINARY, bytes(LIMIT))]


@pytest.mark.parametrize("connect", BOTH)
async def test_endless_fragments_of_nothing_hold_nothing(connect: Connect) -> None:
    seen: list[WebSocket] = []
    async with connect(repeating(seen)) as client:
        await client.send(masked(TEXT, b"", fin=False))
        assert await ask(client, masked(CONTINUATION, b"", fin=False) * 5000) == []
        assert await ask(client, masked(CONTINUATION, b"end")) == [(TEXT, b"end")]


@pytest.mark.parametrize("flood", [masked(PING), masked(TEXT, b""), masked(CONTINUATION, b"", fin=False)])
async def test_a_flood_lets_others_have_their_turn(flood: bytes) -> None:
    seen: list[WebSocket] = []
    async with over_http1(repeating(seen)) as client:
        start = masked(TEXT, b"", fin=flood[0] != CONTINUATION)
        await client.talk.stream.send_all(start + flood * 6400 + closing())
        turns = 0
        while seen[0].close_code is None:
            await trio.lowlevel.checkpoint()
            turns += 1
        assert turns >= 100


async def test_pings_that_a_peer_does_not_take_the_answers_of_are_not_all_answered() -> None:
    async with line(H1Connection, repeating([]), pair=lockstep_pair(), reads=False) as talk:
        await talk.send(request("/", "GET", *OPENING))
        for _ in range(1000):
            await talk.send(masked(PING, bytes(125)))
        assert talk.conn.queued == 64 * 127


async def test_messages_that_a_peer_does_not_take_the_answers_of_stop_it() -> None:
    message = masked(BINARY, bytes(60_000))
    sent = 0

    async def send_on(stream: trio.abc.SendStream) -> None:
        nonlocal sent
        while True:
            await stream.send_all(message)
            sent += len(message)

    async with line(H1Connection, repeating([]), pair=lockstep_pair(), reads=False) as talk:
        await talk.send(request("/", "GET", *OPENING))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_on, talk.stream)
            await settle()
            nursery.cancel_scope.cancel()
        assert HIGH_WATER < sent <= READ_UNANSWERED + HIGH_WATER + 256 * 1024
        assert HIGH_WATER < talk.conn.queued <= HIGH_WATER + 60_004


@pytest.mark.parametrize("connect", BOTH)
async def test_a_frozen_peer_is_closed_by_another_task_in_time(
    autojump_clock: MockClock, connect: Connect
) -> None:
    seen: list[WebSocket] = []
    async with connect(repeating(seen)) as client:
        if connect is not over_http1:
            client.http2.consumes = False  # type: ignore[attr-defined]
        frame = text_frame(bytes(1000))
        for _ in range(100):
            seen[0].push(frame)
        seen[0].flush()
        await settle()
        seen[0].start_close(4008, "too slow")
        await trio.sleep(3.1)
        await client.raw()
        assert client.over()
    assert seen[0].close_code == 1006


async def test_a_close_whose_answer_breaks_a_rule_ends_it() -> None:
    async def leave(exchange: Exchange) -> None:
        socket = accept(exchange, allows=lambda origin: False)
        assert socket is not None
        await socket.close(4000)
        assert socket.close_code == 1002

    async with over_http1(leave) as client:
        assert len(await hear(client)) == 1
        await client.send(masked(TEXT, b"", rsv=7))
        assert client.over()


async def feed(client: Client, data: bytes, sizes: Sequence[int]) -> None:
    await client.send(data, sizes)
    await client.raw()


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.builds(
                masked,
                st.integers(0, 15),
                st.binary(max_size=140),
                fin=st.booleans(),
                rsv=st.sampled_from([0, 0, 0, 1, 4]),
            ),
        ),
        max_size=12,
    ),
    CHUNKINGS,
)
def test_any_bytes_end_in_order(sent: list[bytes], sizes: list[int]) -> None:
    """Whatever comes, it is echoed, refused by a close frame, or waited for; and nothing is left behind."""

    async def talk(connect: Connect) -> None:
        seen: list[WebSocket] = []
        async with connect(repeating(seen, WebSocketLimits(max_message=LIMIT))) as client:
            await client.send(b"".join(sent), sizes)
            answers = await hear(client)
            assert client.over() == (seen[0].close_code is not None)
            closes = [answer for answer in answers if answer[0] == CLOSE]
            assert closes == (answers[-1:] if client.over() else [])
            assert {opcode for opcode, _ in answers} <= {TEXT, BINARY, PONG, CLOSE}

    for connect in BOTH:
        trio.run(talk, connect)
