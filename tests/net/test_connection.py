"""What only rare turns of events reach in the connections' common ground."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import trio

from fawa.net.connection import HIGH_WATER, Limits, _run_until_it_waits
from fawa.net.engine import H2Engine, Role, _say_http
from fawa.net.engine_http1 import H1Engine
from fawa.net.exchange import Disconnected, Exchange
from fawa.net.http1 import H1Connection
from fawa.net.http2 import H2Connection
from fawa.net.sockets import PlainStream
from fawa.net.tcp import FrontDoor
from tests.net.talk import (
    PEER,
    H2Client,
    h11_answers,
    head,
    line,
    lockstep_pair,
    memory_pair,
    request,
    root,
    settle,
)

# A call in its leader's frame


class Trap:
    """An awaitable that yields itself to whoever drives the coroutine."""

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self)


def drive(call: Any, on_wait: Any = lambda: None) -> Generator[Any, Any, None]:
    run = _run_until_it_waits(call, on_wait)
    return run.__await__() if hasattr(run, "__await__") else run


def test_a_call_that_does_not_wait_passes_nothing_on() -> None:
    async def call() -> None:
        pass

    waited: list[bool] = []
    with pytest.raises(StopIteration):
        drive(call(), lambda: waited.append(True)).send(None)
    assert waited == []


def test_what_passes_between_a_call_and_the_event_loop() -> None:
    got: list[object] = []

    async def call() -> None:
        got.append(await Trap())
        try:
            await Trap()
        except KeyError as error:
            got.append(error)
        got.append(await Trap())
        raise LookupError("the end")

    waited: list[bool] = []
    run = drive(call(), lambda: waited.append(True))
    assert isinstance(run.send(None), Trap)
    assert waited == [True]
    assert isinstance(run.send("first"), Trap)
    error = KeyError("second")
    assert isinstance(run.throw(error), Trap)
    with pytest.raises(LookupError, match="the end"):
        run.send("third")
    assert got == ["first", error, "third"]
    assert waited == [True]


# Calls that go on after the peer has gone


@pytest.mark.parametrize("version", [H1Connection, H2Connection])
async def test_who_shields_itself_hears_that_the_peer_is_gone(
    version: type[H1Connection | H2Connection],
) -> None:
    heard: list[str] = []
    near, far = lockstep_pair()

    async def stubborn(exchange: Exchange) -> None:
        exchange.start(200, [])
        with trio.CancelScope(shield=True):
            await exchange.send(bytes(HIGH_WATER - 1000))  # what is queued so far has room
            with pytest.raises(Disconnected, match="is gone"):
                await exchange.send(bytes(HIGH_WATER))
            with pytest.raises(Disconnected, match=r"is gone|broke off"):
                await exchange.receive()
            heard.append("gone")

    async with line(version, stubborn, pair=(near, far), reads=False) as talk:
        if version is H1Connection:
            await talk.send(request("/", "POST", "content-length: 5"))
        else:
            client = H2Client(window=2**30)
            client.open()
            await talk.send(client.to_send())
        await trio.aclose_forcefully(far)
        await settle()
        assert heard == ["gone"]


async def test_a_call_over_a_full_connection_waits_for_room_and_then_for_its_window() -> None:
    async def large(exchange: Exchange) -> None:
        exchange.respond(200, [], bytes(100_000 if exchange.path == "/large" else 60_000))

    async with line(H2Connection, large, pair=lockstep_pair(), reads=False) as talk:
        client = H2Client()
        streams = [client.open(head("/"), end=True) for _ in range(8)]
        streams += [client.open(head("/large"), end=True) for _ in range(2)]
        await talk.send(client.to_send())
        assert talk.conn.queued <= HIGH_WATER + 60_000
        talk.start_reading()
        await client.turn(talk)
        assert [(len(client[s].body), client[s].ended) for s in streams] == [(60_000, True)] * 8 + [
            (100_000, True)
        ] * 2


@pytest.mark.parametrize("version", [H1Connection, H2Connection])
async def test_a_full_connection_that_nobody_reads_gives_its_calls_up(
    version: type[H1Connection | H2Connection],
) -> None:
    """Also those that have not begun: they wait for room that never comes."""
    begun = 0

    async def large(exchange: Exchange) -> None:
        nonlocal begun
        begun += 1
        exchange.respond(200, [], bytes(60_000))

    limits = Limits(write_timeout=0.05)
    async with line(version, large, pair=lockstep_pair(), reads=False, limits=limits) as talk:
        if version is H1Connection:
            await talk.send(request("/") * 50)
        else:
            client = H2Client(window=2**30)
            for _ in range(50):
                client.open(end=True)
            await talk.send(client.to_send())
        while not talk.lost():
            await trio.sleep(0.01)
    assert begun < 10


async def test_a_client_that_is_gone_when_the_leader_makes_room_leaves_no_call_to_begin() -> None:
    near, far = trio.socket.socketpair()
    begun: list[str] = []

    async def large(exchange: Exchange) -> None:
        begun.append(exchange.path)
        exchange.start(200, [])
        for _ in range(HIGH_WATER // 1024):
            exchange.push(bytes(1024))
        exchange.finish()
        near.close()

    pair = (trio.SocketStream(near), PlainStream(trio.SocketStream(far)))
    async with line(H2Connection, large, pair=pair) as talk:
        client = H2Client(window=2**30)
        for path in ("/first", "/second", "/third"):
            client.open(head(path), end=True)
        await talk.send(client.to_send())
        assert talk.lost()
        assert begun == ["/first"]


async def test_an_answer_that_the_windows_let_pass_is_over_at_once() -> None:
    """The leader answers it in its own frame, however large it is: nobody waits for the writer."""
    tasks: set[trio.lowlevel.Task] = set()

    async def large(exchange: Exchange) -> None:
        tasks.add(trio.lowlevel.current_task())
        exchange.respond(200, [], bytes(20_000))

    async with line(H2Connection, large) as talk:
        client = H2Client(window=2**30)
        streams = [client.open(end=True) for _ in range(3)]
        await client.turn(talk)
        assert [(len(client[stream].body), client[stream].ended) for stream in streams] == [
            (20_000, True)
        ] * 3
    assert len(tasks) == 1


# What is said of a body


@pytest.mark.parametrize("version", [H1Connection, H2Connection])
async def test_what_can_be_taken_of_a_body_without_waiting(
    version: type[H1Connection | H2Connection],
) -> None:
    taken: list[bytes] = []
    go = trio.Event()

    async def handler(exchange: Exchange) -> None:
        body = exchange.take()
        body += await exchange.receive() if not body else b""
        taken.append(body)
        taken.append(exchange.take())
        await go.wait()
        body = exchange.take()
        taken.append(body or await exchange.receive())
        taken.append(exchange.take())
        assert exchange.body_over
        assert exchange.bytes_in == 5
        exchange.respond(200, [])

    async with line(version, handler) as talk:
        if version is H1Connection:
            await talk.send(request("/", "POST", "content-length: 5") + b"ab")
            await talk.send(b"c")
            await talk.send(b"de")
        else:
            client = H2Client()
            stream = client.open()
            client.h2.send_data(stream, b"ab")
            await client.turn(talk)
            for piece in (b"c", b"de"):
                client.h2.send_data(stream, piece, end_stream=piece == b"de")
                await client.turn(talk)
        go.set()
        await settle()
    assert taken == [b"ab", b"", b"cde", b""]


@pytest.mark.parametrize("version", [H1Connection, H2Connection])
async def test_whether_the_body_is_over(version: type[H1Connection | H2Connection]) -> None:
    said: list[bool] = []

    async def look(exchange: Exchange) -> None:
        said.append(exchange.body_over)
        assert await exchange.receive() == b"abc"
        said.append(exchange.body_over)
        assert await exchange.receive() == b""
        said.append(exchange.body_over)
        exchange.respond(200, [])
        exchange.abort()  # too late to mean anything

    async with line(version, look) as talk:
        if version is H1Connection:
            await talk.send(request("/", "POST", "transfer-encoding: chunked"))
            await talk.send(b"3\r\nabc\r\n")
            await talk.send(b"0\r\n\r\n")
            assert [answer.status for answer in h11_answers(talk.take(), ["POST"])] == [200]
        else:
            client = H2Client()
            stream = client.open()
            client.h2.send_data(stream, b"abc")
            await client.turn(talk)
            client.h2.end_stream(stream)
            await client.turn(talk)
            assert (client[stream].status, client[stream].reset) == (200, None)
    assert said == [False, False, True]


# Streams and doors


class Bare(trio.abc.Stream):
    """A stream that cannot be closed on one side only."""

    def __init__(self, inner: trio.abc.HalfCloseableStream) -> None:
        self.inner = inner

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.inner.aclose()


async def test_a_stream_that_cannot_be_half_closed() -> None:
    async def answer(exchange: Exchange) -> None:
        exchange.respond(200, [], b"here")

    near, far = memory_pair()
    conn = H1Connection(Bare(far), PEER, Limits())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(conn.run, root(answer), request("/", "GET", "connection: close"))
        await settle()
        assert bytes(await near.receive_some(1000)).endswith(b"here")
        await near.send_all(b"more that nobody wants")
        await near.aclose()


async def test_a_connection_that_has_said_what_it_is_when_the_drain_begins() -> None:
    begun: list[str] = []

    async def note(exchange: Exchange) -> None:
        begun.append(exchange.path)

    door = FrontDoor(root(note), Limits(), 10, 10)
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        client = await trio.open_tcp_stream(*listener.socket.getsockname())
        server = await listener.accept()
        await client.send_all(request("/late"))
        door.drain(10)
        await door._serve(server, None)
        await client.aclose()
    assert begun == []
    assert door.connections == 0


# The engines in the client's role


def test_a_request_says_its_scheme() -> None:
    for scheme in (b"http", b"https"):
        engine = H2Engine(Role.CLIENT, stream_window=65_535, connection_window=65_535)
        engine.request(b"GET", b"/", [(b"host", b"h")], scheme=scheme)
        assert (b"https" in engine.take()) == (scheme == b"https")
    with pytest.raises(RuntimeError, match="another way"):
        _say_http(bytes(40), b"GET")


@pytest.mark.parametrize(
    ("headers", "body", "chunked"),
    [([], False, False), ([], True, True), ([(b"content-length", b"3")], True, False)],
)
def test_a_request_body_is_chunked_where_its_length_is_not_told(
    headers: list[tuple[bytes, bytes]], body: bool, chunked: bool
) -> None:
    engine = H1Engine(Role.CLIENT)
    engine.request(b"POST", b"/", [(b"host", b"h"), *headers], body=body)
    assert (b"transfer-encoding: chunked" in engine.take().lower()) == chunked
