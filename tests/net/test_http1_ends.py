"""How HTTP/1.1 connections end: by the client, and by the service."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from fawa.net.exchange import Disconnected, Exchange
from fawa.net.http1 import H1Connection
from tests.net.talk import (
    line,
    lockstep_pair,
    request,
    settle,
)
from tests.net.test_http1 import BODY, heard, ignore, stream, tell

# Clients that go


async def test_a_client_that_closes_its_side_still_gets_its_answer() -> None:
    go = trio.Event()

    async def slow(exchange: Exchange) -> None:
        await go.wait()
        exchange.respond(200, [], exchange.path.encode())

    async with line(H1Connection, slow) as talk:
        await talk.send(request("/a") + request("/b"))
        await talk.half_close()
        go.set()
        await settle()
        assert talk.ended()
        assert [a.body for a in heard(talk, "GET", "GET")] == [b"/a", b"/b"]


async def test_what_comes_as_the_last_answer_ends_is_no_request() -> None:
    # Whether the call or what reads comes first is up to trio's scheduler, which draws lots.
    go = trio.Event()

    async def refuse(exchange: Exchange) -> None:
        await go.wait()
        exchange.respond_text(413, "too large")

    for _ in range(40):
        go = trio.Event()
        async with line(H1Connection, refuse) as talk:
            await talk.send(request("/a", "POST", f"content-length: {2**30}") + b"abc")
            await talk.stream.send_all(b"x" * 70_000)
            go.set()
            await settle()
            (answer,) = heard(talk, "POST")
            assert answer.status == 413
            assert answer.header(b"connection") == b"close"


async def test_a_client_that_sends_all_and_closes_its_side_at_once() -> None:
    async with line(H1Connection, tell) as talk:
        await talk.stream.send_all(request("/a") + request("/b", "POST", body=BODY) + b"GET /c")
        await talk.half_close()
        assert talk.ended()
        assert [a.body for a in heard(talk, "GET", "POST")] == [b"/a", b"/b"]


async def test_a_half_closed_client_does_not_hold_a_call_for_ever(autojump_clock: MockClock) -> None:
    outcome: list[str] = []

    async def endless(exchange: Exchange) -> None:
        try:
            await trio.sleep_forever()
        finally:
            outcome.append(exchange.path)

    async with line(H1Connection, endless) as talk:
        await talk.send(request("/a") + request("/b"))
        await talk.half_close()
        await trio.sleep(10)
        assert talk.ended()
        assert outcome == ["/a"]


@pytest.mark.parametrize("begun", [False, True])
async def test_a_client_that_goes_in_mid_body_cancels_the_call(begun: bool) -> None:
    outcome: list[BaseException] = []

    async def read(exchange: Exchange) -> None:
        if begun:
            exchange.start(200, [])
        try:
            await exchange.read_all(1000)
        except BaseException as error:
            outcome.append(error)
            raise

    async with line(H1Connection, read) as talk:
        await talk.send(request("/a", "POST", "content-length: 100") + b"abc")
        await talk.half_close()
        assert talk.ended()
        assert len(outcome) == 1
        assert isinstance(outcome[0], (trio.Cancelled, Disconnected))


async def test_a_client_that_goes_while_a_call_waits_cancels_it() -> None:
    outcome: list[str] = []

    async def wait(exchange: Exchange) -> None:
        with pytest.raises(trio.Cancelled):
            await trio.sleep_forever()
        with pytest.raises(Disconnected):
            exchange.start(200, [])
        with pytest.raises(Disconnected):
            await exchange.receive()
        outcome.append("cancelled")
        raise Disconnected("gone")

    async with line(H1Connection, wait) as talk:
        await talk.send(request("/a", "POST", "content-length: 5"))
        await talk.close()
        assert outcome == ["cancelled"]


async def test_a_client_that_breaks_the_connection_cancels_the_call() -> None:
    near, far = lockstep_pair()
    outcome: list[str] = []

    async def wait(exchange: Exchange) -> None:
        try:
            await trio.sleep_forever()
        finally:
            outcome.append("cancelled")

    async with line(H1Connection, wait, pair=(near, far)) as talk:
        await talk.send(request("/a"))
        await trio.aclose_forcefully(far)
        await settle()
        assert outcome == ["cancelled"]
        assert talk.lost()


async def test_who_asks_for_close_gets_it() -> None:
    async with line(H1Connection, tell) as talk:
        await talk.send(request("/a", "GET", "connection: close") + request("/b"))
        assert talk.ended()
        [answer] = heard(talk, "GET")
        assert (answer.body, answer.header(b"connection")) == (b"/a", b"close")
    async with line(H1Connection, stream) as talk:
        await talk.send(request("/a", "GET", "connection: close"))
        assert talk.ended()
        assert heard(talk, "GET")[0].header(b"connection") == b"close"


# The end of the service


async def test_drain_closes_an_idle_connection_at_once() -> None:
    async with line(H1Connection, tell) as talk:
        await talk.say(request("/a"))
        talk.conn.start_drain()
        await settle()
        assert talk.ended()
        assert talk.take() == b""


@pytest.mark.parametrize("handler", [ignore, stream])
async def test_drain_lets_the_call_finish_and_says_close(handler: object) -> None:
    go = trio.Event()

    async def later(exchange: Exchange) -> None:
        await go.wait()
        await handler(exchange)  # type: ignore[operator]

    async with line(H1Connection, later) as talk:
        await talk.send(request("/a"))
        talk.conn.start_drain()
        await settle()
        assert not talk.ended()
        go.set()
        await settle()
        assert talk.ended()
        [answer] = heard(talk, "GET")
        assert (answer.status, answer.header(b"connection")) == (200, b"close")


async def test_drain_after_the_head_is_out_closes_behind_the_answer() -> None:
    go = trio.Event()

    async def later(exchange: Exchange) -> None:
        exchange.start(200, [])
        await go.wait()
        exchange.finish()

    async with line(H1Connection, later) as talk:
        await talk.send(request("/a") + request("/b"))
        talk.conn.start_drain()
        go.set()
        await settle()
        assert talk.ended()
        assert len(heard(talk, "GET")) == 1
