"""Conversations over a WebSocket, the same over either HTTP version."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, TextMessage

from fawa.net.exchange import Exchange
from fawa.net.websocket import CloseReason, WebSocket, WebSocketLimits, accept, binary_frame, text_frame
from tests.net.sockets_talk import (
    BINARY,
    BOTH,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Connect,
    ask,
    close_of,
    closing,
    hear,
    masked,
    unmasked,
)
from tests.net.talk import CHUNKINGS, Handler, examples, pieces, settle

Use = Callable[[WebSocket], Awaitable[None]]


def using(use: Use, limits: WebSocketLimits | None = None, seen: list[WebSocket] | None = None) -> Handler:
    """Return an application that opens a WebSocket and does something with it."""

    async def handle(exchange: Exchange) -> None:
        socket = accept(exchange, allows=lambda origin: False, limits=limits or WebSocketLimits())
        assert socket is not None
        if seen is not None:
            seen.append(socket)
        await use(socket)

    return handle


async def repeat(socket: WebSocket) -> None:
    """Send every message back, then close."""
    while (message := await socket.receive()) is not None:
        await socket.send(message)
    await socket.close()


def echo(limits: WebSocketLimits | None = None, seen: list[WebSocket] | None = None) -> Handler:
    return using(repeat, limits, seen)


# Messages


@pytest.mark.parametrize("connect", BOTH)
@pytest.mark.parametrize("sizes", [[], [1], [2, 5, 300]])
async def test_messages_come_back_as_they_were(connect: Connect, sizes: list[int]) -> None:
    large = "é" * 200 + "z" * 70
    async with connect(echo()) as client:
        frames = [
            masked(TEXT, b"hello"),
            masked(BINARY, bytes(range(256))),
            masked(TEXT, b""),
            masked(BINARY, b""),
            masked(TEXT, large.encode(), mask=b"\0\0\0\0"),
        ]
        assert await ask(client, b"".join(frames), sizes) == [
            (TEXT, b"hello"),
            (BINARY, bytes(range(256))),
            (TEXT, b""),
            (BINARY, b""),
            (TEXT, large.encode()),
        ]


@pytest.mark.parametrize("connect", BOTH)
@pytest.mark.parametrize("size", [125, 126, 65_535, 65_536])
async def test_every_way_to_tell_a_length(connect: Connect, size: int) -> None:
    async with connect(echo()) as client:
        assert await ask(client, masked(BINARY, bytes(size))) == [(BINARY, bytes(size))]


@pytest.mark.parametrize("connect", BOTH)
@pytest.mark.parametrize("sizes", [[], [1]])
async def test_fragments_are_put_together_and_control_frames_may_come_between(
    connect: Connect, sizes: list[int]
) -> None:
    euro = "€".encode()
    async with connect(echo()) as client:
        frames = [
            masked(TEXT, b"a" + euro[:1], fin=False),
            masked(PING, b"between"),
            masked(CONTINUATION, b"", fin=False),
            masked(CONTINUATION, euro[1:2], fin=False),
            masked(PONG, b"unasked"),
            masked(CONTINUATION, euro[2:]),
            masked(BINARY, b"", fin=False),
            masked(CONTINUATION, b""),
        ]
        assert await ask(client, b"".join(frames), sizes) == [
            (PONG, b"between"),
            (TEXT, b"a" + euro),
            (BINARY, b""),
        ]


@settings(
    max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.one_of(st.text(max_size=300), st.binary(max_size=300)), st.lists(st.integers(0, 300))),
        max_size=8,
    ),
    CHUNKINGS,
)
def test_what_a_client_of_another_make_sends_comes_back(
    messages: list[tuple[str | bytes, list[int]]], sizes: list[int]
) -> None:
    """wsproto's client cuts messages into fragments anywhere; sizes are those of what arrives at once."""

    async def talk(connect: Connect) -> None:
        theirs = Connection(ConnectionType.CLIENT)
        sent = b"".join(fragmented(theirs, message, cuts) for message, cuts in messages)
        async with connect(echo()) as client:
            await client.send(sent, sizes)
            theirs.receive_data(await client.raw())
            back: list[str | bytes] = []
            parts: list[str | bytes] = []
            for event in theirs.events():
                assert isinstance(event, TextMessage | BytesMessage)
                parts.append(event.data if isinstance(event.data, str) else bytes(event.data))
                if event.message_finished:
                    empty: str | bytes = "" if isinstance(event, TextMessage) else b""
                    back.append(empty.join(parts))  # type: ignore[arg-type]
                    parts = []
        assert back == [message for message, _ in messages]

    for connect in BOTH:
        trio.run(talk, connect)


def fragmented(theirs: Connection, message: str | bytes, cuts: list[int]) -> bytes:
    """Encode a message in fragments that end at `cuts`."""
    ends = sorted({cut for cut in cuts if cut < len(message)})
    sent, start = b"", 0
    for end in [*ends, len(message)]:
        last = end == len(message)
        piece = message[start:end]
        event = TextMessage(piece, message_finished=last) if isinstance(piece, str) else None
        sent += theirs.send(event or BytesMessage(piece, message_finished=last))  # type: ignore[arg-type]
        start = end
    return sent


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 100_000])
def test_ready_made_frames_are_what_a_client_of_another_make_reads(size: int) -> None:
    text = "x" * size
    theirs = Connection(ConnectionType.CLIENT)
    theirs.receive_data(text_frame(text.encode()) + binary_frame(text.encode()))
    assert list(theirs.events()) == [TextMessage(text), BytesMessage(text.encode())]


@pytest.mark.parametrize("connect", BOTH)
async def test_any_task_may_send_and_one_frame_serves_many(connect: Connect) -> None:
    seen: list[WebSocket] = []
    async with connect(echo(seen=seen)) as first, connect(echo(seen=seen)) as second:
        frame = text_frame(b"news")
        for socket in seen:
            assert socket.is_flushed
            socket.push(frame)
            socket.push(frame)
            socket.flush()
            socket.send_now(frame)
        for client in (first, second):
            assert await hear(client) == [(TEXT, b"news")] * 3
        await seen[0].wait_flushed()
        assert await ask(second, masked(TEXT, b"reply")) == [(TEXT, b"reply")]


@pytest.mark.parametrize("connect", BOTH)
async def test_what_is_sent_to_one_that_has_gone_is_no_error(connect: Connect) -> None:
    async def look_away(socket: WebSocket) -> None:
        await trio.sleep_forever()

    seen: list[WebSocket] = []
    async with connect(using(look_away, seen=seen)) as client:
        await client.talk.close()
    assert seen[0].is_open, "its task has not looked"
    seen[0].push(text_frame(b"late"))
    assert not seen[0].send_now(text_frame(b"late"))


@pytest.mark.parametrize("connect", BOTH)
async def test_a_deadline_of_the_application_loses_nothing(
    autojump_clock: MockClock, connect: Connect
) -> None:
    async def impatient(socket: WebSocket) -> None:
        while True:
            with trio.move_on_after(1):
                if (message := await socket.receive()) is None:
                    return
                await socket.send(message)

    async with connect(using(impatient)) as client:
        half = masked(TEXT, b"in two halves")
        await client.send(half[:9])
        await trio.sleep(10.5)
        assert await ask(client, half[9:]) == [(TEXT, b"in two halves")]


# Signs of life


@pytest.mark.parametrize("connect", BOTH)
async def test_a_silent_peer_is_asked_and_given_up(autojump_clock: MockClock, connect: Connect) -> None:
    seen: list[WebSocket] = []
    async with connect(echo(seen=seen)) as client:
        await trio.sleep(24.9)
        assert await hear(client) == []
        await trio.sleep(0.2)
        assert await hear(client) == [(PING, b"")]
        await trio.sleep(7.8)
        assert not client.over()
        await trio.sleep(0.2)
        await client.raw()
        assert client.over()
    assert (seen[0].close_code, seen[0].close_reason) == (1006, "the peer was silent for 8 s after a ping")


@pytest.mark.parametrize("connect", BOTH)
@pytest.mark.parametrize(
    "signs", [[masked(PONG)] * 3, [masked(TEXT, b"hi")] * 3, pieces(masked(TEXT, b"drop"), [3])]
)
async def test_any_sign_of_life_will_do(
    autojump_clock: MockClock, connect: Connect, signs: list[bytes]
) -> None:
    seen: list[WebSocket] = []
    async with connect(echo(seen=seen)) as client:
        for sign in signs:
            await trio.sleep(26)
            assert (PING, b"") in await hear(client)
            await client.send(sign)
        await trio.sleep(24)
        assert seen[0].close_code is None


@pytest.mark.parametrize("connect", BOTH)
async def test_pings_are_answered_while_the_application_only_listens(connect: Connect) -> None:
    async with connect(echo()) as client:
        assert await ask(client, masked(PING, b"a" * 125)) == [(PONG, b"a" * 125)]
        # One answer does for what comes together (RFC 6455 section 5.5.3).
        assert await ask(client, masked(PING, b"one") + masked(PING, b"two")) == [(PONG, b"two")]


# Closing


@pytest.mark.parametrize("connect", BOTH)
@pytest.mark.parametrize(
    ("code", "reason"),
    [(1000, ""), (1001, "leaving"), (3000, "é"), (4999, "x" * 123), (1014, "proxy"), (None, "")],
)
async def test_a_close_is_answered_with_its_code(connect: Connect, code: int | None, reason: str) -> None:
    seen: list[WebSocket] = []
    async with connect(echo(seen=seen)) as client:
        [(opcode, payload)] = await ask(client, closing(code, reason) + masked(TEXT, b"after the end"), [1])
        assert (opcode, payload) == (CLOSE, b"" if code is None else code.to_bytes(2, "big"))
        assert client.over()
    assert (seen[0].close_code, seen[0].close_reason) == (code or 1005, reason)
    assert not seen[0].is_open
    seen[0].push(text_frame(b"nobody hears that"))
    seen[0].flush()
    seen[0].send_now(text_frame(b"nor that"))
    seen[0].start_close()
    await seen[0].close()
    assert await seen[0].receive() is None


@pytest.mark.parametrize("connect", BOTH)
async def test_our_close_waits_for_the_answer(connect: Connect) -> None:
    async def greet(socket: WebSocket) -> None:
        await socket.send("welcome")
        await socket.close(4001, "full")

    seen: list[WebSocket] = []
    async with connect(using(greet, seen=seen)) as client:
        welcome, goodbye = await hear(client)
        assert welcome == (TEXT, b"welcome")
        assert close_of(goodbye) == (4001, "full")
        assert not client.over()
        # Messages that crossed it are thrown away, however large.
        crossing = masked(TEXT, b"x" * 60_000) + masked(BINARY, bytes(60_000), fin=False)
        assert await ask(client, crossing + masked(PING) + closing(4001, "full")) == []
        assert client.over()
    assert (seen[0].close_code, seen[0].close_reason) == (4001, "full")


@pytest.mark.parametrize("connect", BOTH)
async def test_a_peer_that_does_not_answer_our_close_is_cut(
    autojump_clock: MockClock, connect: Connect
) -> None:
    async def leave(socket: WebSocket) -> None:
        await socket.close()

    seen: list[WebSocket] = []
    async with connect(using(leave, seen=seen)) as client:
        for _ in range(3):
            assert not client.over()
            await client.send(masked(TEXT, b"still here"))
            await trio.sleep(0.9)
        await trio.sleep(0.5)
        await client.raw()
        assert client.over()
    assert seen[0].close_code == 1006
    assert "did not answer the close frame for 3 s" in seen[0].close_reason


@pytest.mark.parametrize("connect", BOTH)
async def test_another_task_starts_a_close_and_the_receiver_ends_it(connect: Connect) -> None:
    seen: list[WebSocket] = []
    async with connect(echo(seen=seen)) as client:
        seen[0].start_close(4008, "too slow")
        seen[0].start_close(1000)
        seen[0].push(text_frame(b"too late"))
        [goodbye] = await hear(client)
        assert close_of(goodbye) == (4008, "too slow")
        assert not client.over()
        assert await ask(client, closing(4008)) == []
        assert client.over()
    assert seen[0].close_code == 4008


@pytest.mark.parametrize("connect", BOTH)
async def test_another_task_closes_a_peer_that_never_answers(
    autojump_clock: MockClock, connect: Connect
) -> None:
    seen: list[WebSocket] = []
    async with connect(echo(seen=seen)) as client:
        seen[0].start_close(CloseReason.POLICY_VIOLATION)
        await trio.sleep(3.1)
        await client.raw()
        assert client.over()
    assert seen[0].close_code == 1006


@pytest.mark.parametrize("connect", BOTH)
async def test_a_peer_that_ends_without_a_word(connect: Connect) -> None:
    seen: list[WebSocket] = []
    async with connect(echo(seen=seen)) as client:
        await client.end()
        assert await client.raw() == b""
        assert client.over()
    assert seen[0].close_code == 1006


@pytest.mark.parametrize("connect", BOTH)
async def test_the_reason_is_cut_between_characters(connect: Connect) -> None:
    async def leave(socket: WebSocket) -> None:
        await socket.close(4000, "é" * 100)

    async with connect(using(leave)) as client:
        [goodbye] = await hear(client)
        assert close_of(goodbye) == (4000, "é" * 61)
        await client.send(closing(4000))


# The end of the service


@pytest.mark.parametrize("connect", BOTH)
async def test_the_end_of_the_service_is_told_once_and_said_with_1012(connect: Connect) -> None:
    async def with_goodbye(socket: WebSocket) -> None:
        while True:
            message = await socket.receive()
            if message is None and socket.close_code is None:
                assert socket.draining
                await socket.send("going down")
            elif message is None:
                return
            elif message == "and now":
                await socket.close(CloseReason.SERVICE_RESTART, "retry in 250 ms")

    seen: list[WebSocket] = []
    async with connect(using(with_goodbye, seen=seen)) as client:
        assert not seen[0].draining
        client.talk.conn.start_drain()
        assert await hear(client) == [(TEXT, b"going down")]
        [goodbye] = await ask(client, masked(TEXT, b"and now"))
        assert close_of(goodbye) == (1012, "retry in 250 ms")
        await client.send(closing(1012))
        assert await hear(client) == []
        assert client.over()
        await settle()
        assert client.talk.ended()
    assert seen[0].close_code == 1012


def test_the_servers_frames_are_read_back_by_the_tests() -> None:
    data = text_frame(b"one") + binary_frame(bytes(300))
    assert unmasked(data + b"\x81\x05he") == ([(TEXT, b"one"), (BINARY, bytes(300))], b"\x81\x05he")
