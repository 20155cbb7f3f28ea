"""One HTTP/2 connection against a simple model: whatever client and server do in whatever order, room is
given back, bytes arrive once and in order, and a connection that is done with ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

import attrs
import pytest
import trio.testing
from grpclib.const import Status
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fawa.client.errors import ConnectionLost, Refused
from fawa.client.http2 import H2Client, H2ClientExchange, H2Limits
from fawa.net.engine import Data, EndOfMessage, Event, GoAway, H2Engine, H2ErrorCode, Request, Role, RstStream

WINDOW = 70_000
MOST_REQUESTS = 12
#: Octets said at once: a little, or about as much as a window.
SIZES = st.integers(0, 100) | st.integers(20_000, 150_000)


def at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run what does not have to wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


@attrs.define(eq=False)
class Call:
    """What is known of one exchange, on both sides."""

    exchange: H2ClientExchange
    finished: bool = False
    sent: int = 0
    #: At the server.
    arrived: bool = False
    heard: int = 0
    heard_end: bool = False
    #: What the server has said.
    headed: bool = False
    said: int = 0
    ended: bool = False
    reset: int | None = None
    #: What the client has taken.
    taken: int = 0
    closed: bool = False


class Conversation(RuleBasedStateMachine):
    """The wire is the two engines' output, carried over when `carry` says so."""

    #: Rare states that some run has come to.
    reached: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        stream, _ = trio.testing.memory_stream_pair()
        self.client = H2Client(
            stream, "server.test", "http", H2Limits(stream_window=WINDOW, max_requests=MOST_REQUESTS)
        )
        self.server = H2Engine(Role.SERVER, stream_window=65535, connection_window=65535)
        self.calls: dict[int, Call] = {}
        self.opened = 0
        self.goaway: int | None = None
        self.carry()

    # The wire

    @rule()
    def carry(self) -> None:
        """Carry all that has been said, until neither has more to say."""
        while True:
            up = self.client.engine.take()
            if up:
                for event in self.server.receive(up):
                    self.on_server(event)
            down = self.server.take()
            if down:
                self.client.receive(down)
            if not up and not down:
                break
        for call in self.calls.values():
            self.compare(call)

    def on_server(self, event: Event) -> None:
        if isinstance(event, Request):
            self.calls[event.stream_id].arrived = True
        elif isinstance(event, Data):
            self.calls[event.stream_id].heard += len(event.data)
        elif isinstance(event, EndOfMessage):
            self.calls[event.stream_id].heard_end = True
        elif isinstance(event, RstStream):
            call = self.calls[event.stream_id]
            if call.reset is None:
                # The client gives up only what its caller is done with.
                assert call.closed
                assert event.error_code == H2ErrorCode.CANCEL
                call.reset = event.error_code
        elif isinstance(event, GoAway):
            self.reached["goodbye"] += 1

    def compare(self, call: Call) -> None:
        """Both sides know the same, once all has been carried."""
        exchange = call.exchange
        left_out = self.is_left_out(call)
        if call.closed:
            # The server is not left to talk to nobody.
            assert call.reset is not None or left_out or (call.ended and call.finished)
            return
        assert bool(exchange.status) == call.headed
        if call.reset is not None or left_out:
            assert exchange.error is not None
            is_refused = isinstance(exchange.error, Refused)
            self.reached["left out" if left_out else "refused" if is_refused else "reset"] += 1
            assert is_refused == (left_out or call.reset == H2ErrorCode.REFUSED_STREAM)
            assert is_refused <= (exchange.error.status is Status.UNAVAILABLE)
            return
        assert exchange.error is None
        if self.server.stream(exchange.id).pending_bytes:
            self.reached["server held back"] += 1
            # By nothing but what the caller has yet to take.
            assert exchange.buffered
            assert not exchange.ended
        else:
            assert exchange.buffered == call.said - call.taken
            assert exchange.ended == call.ended
            self.reached["answered"] += call.ended
        assert call.heard <= call.sent
        if exchange._stream.pending_bytes:
            self.reached["client held back"] += 1
            assert self.server.holds_windows
        else:
            assert call.heard == call.sent
            assert call.heard_end == call.finished

    # The client

    def open_calls(self) -> list[Call]:
        return [call for call in self.calls.values() if not call.closed]

    def pick(self, data: st.DataObject) -> Call:
        return data.draw(st.sampled_from(self.open_calls()))

    @precondition(lambda self: self.client.is_usable and self.client._held < self.client._most)
    @rule(body=st.none() | st.integers(0, 3000), carried=st.booleans())
    def open(self, body: int | None, carried: bool) -> None:
        assert at_once(self.client.acquire())
        exchange = self.client.open("POST", "/x", [(b"host", b"h")], None if body is None else bytes(body))
        assert exchange.id not in self.calls
        self.calls[exchange.id] = Call(exchange, finished=body is not None, sent=body or 0)
        self.opened += 1
        if carried:
            self.carry()

    @precondition(lambda self: self.client.is_usable and self.client._held < self.client._most)
    @rule()
    def think_better_of_it(self) -> None:
        assert at_once(self.client.acquire())
        self.client.give_back()
        self.opened += 1

    @precondition(lambda self: self.open_calls())
    @rule(data=st.data(), size=SIZES)
    def push(self, data: st.DataObject, size: int) -> None:
        call = self.pick(data)
        if not call.finished:
            call.exchange.push(bytes(size))
            call.sent += size

    @precondition(lambda self: self.open_calls())
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        call = self.pick(data)
        if not call.finished:
            call.exchange.finish()
            call.finished = True

    @precondition(lambda self: self.open_calls())
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        call = self.pick(data)
        while call.exchange.buffered:
            piece = at_once(call.exchange.receive())
            assert piece == bytes([call.exchange.id & 0xFF]) * len(piece)
            call.taken += len(piece)
        assert call.taken <= call.said
        if call.exchange.ended:
            assert call.taken == call.said
            assert at_once(call.exchange.receive()) == b""

    @precondition(lambda self: self.open_calls())
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        call = self.pick(data)
        call.exchange.close()
        call.exchange.close()
        call.closed = True
        assert call.exchange.is_over

    # The server

    def answering(self) -> list[Call]:
        return [
            call
            for call in self.calls.values()
            if call.arrived and not call.ended and call.reset is None and not self.is_left_out(call)
        ]

    def is_left_out(self, call: Call) -> bool:
        """Whether the server has said, before anything else about this one, that it does nothing with it."""
        return call.reset is None and self.goaway is not None and call.exchange.id > self.goaway

    @precondition(lambda self: self.answering())
    @rule(data=st.data(), size=SIZES, ends=st.booleans())
    def say(self, data: st.DataObject, size: int, ends: bool) -> None:
        call = data.draw(st.sampled_from(self.answering()))
        stream = self.server.stream(call.exchange.id)
        if not call.headed:
            stream.send_response(200, [])
            call.headed = True
        if size:
            stream.send_data(bytes([call.exchange.id & 0xFF]) * size)
            call.said += size
        if ends:
            stream.end_message([(b"grpc-status", b"0")])
            call.ended = True
            self.carry()

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def listen(self, data: st.DataObject) -> None:
        """Take what has come on a stream, and so give the client window."""
        self.server.release(data.draw(st.sampled_from(sorted(self.calls))))
        self.server.release(0)
        self.carry()

    @precondition(lambda self: self.answering())
    @rule(
        data=st.data(),
        code=st.sampled_from(
            [H2ErrorCode.REFUSED_STREAM, H2ErrorCode.CANCEL, H2ErrorCode.INTERNAL_ERROR, H2ErrorCode.NO_ERROR]
        ),
    )
    def reset(self, data: st.DataObject, code: H2ErrorCode) -> None:
        call = data.draw(st.sampled_from(self.answering()))
        self.server.stream(call.exchange.id).reset(code)
        call.reset = code

    @precondition(lambda self: self.goaway is None and len(self.calls) > 4)
    @rule(data=st.data())
    def go_away(self, data: st.DataObject) -> None:
        self.carry()
        # What it has begun to answer, an honest server does not leave out.
        begun = max((call.exchange.id for call in self.calls.values() if call.headed), default=0)
        self.goaway = data.draw(st.sampled_from([n for n in sorted(self.calls) if n >= begun]))
        self.server.goaway(self.goaway)

    @precondition(lambda self: self.client.is_usable)
    @rule(most=st.integers(1, 8))
    def limit(self, most: int) -> None:
        self.client.receive(b"\0\0\6\4\0\0\0\0\0\0\3" + most.to_bytes(4, "big"))
        assert self.client._most == most

    # What always holds

    @invariant()
    def room_is_given_back(self) -> None:
        if self.opened == MOST_REQUESTS:
            self.reached["rotation"] += 1
        if self.client._held >= self.client._most:
            self.reached["no room"] += 1
        assert self.client._held == len(self.open_calls())
        assert self.opened <= MOST_REQUESTS

    @invariant()
    def what_is_buffered_is_bounded(self) -> None:
        for call in self.open_calls():
            assert call.exchange.buffered <= 1.5 * WINDOW

    @invariant()
    def a_connection_that_is_done_with_ends(self) -> None:
        done = not self.client.is_usable and not self.open_calls()
        assert self.client._reading.cancel_called == done

    def teardown(self) -> None:
        self.client._lose(ConnectionLost("over"))
        for call in self.open_calls():
            assert call.exchange.is_over
            call.exchange.push(b"into the void")
            call.exchange.finish()
            call.exchange.close()
        assert self.client._held == 0


# Twice what others have, so that each rare state comes up dozens of times.
SETTINGS = settings(
    max_examples=2 * settings().max_examples, stateful_step_count=50, report_multiple_bugs=False
)


# Inside trio's event loop, where there is a time; but nothing in the machine waits.


async def test_conversations() -> None:
    Conversation.reached.clear()
    run_state_machine_as_test(Conversation, settings=SETTINGS)
    assert set(Conversation.reached) == {
        "answered",
        "client held back",
        "goodbye",
        "left out",
        "no room",
        "refused",
        "reset",
        "rotation",
        "server held back",
    }


def say_twice(exchange: H2ClientExchange, data: bytes) -> None:
    if not exchange._closed:
        exchange._stream.send_data(data + data)


def refuse(code: int) -> Refused:
    return Refused(f"reset with {code}")


#: Bugs by name: what is put in the place of what.
BUGS: dict[str, tuple[str, Callable[..., Any]]] = {
    "a lost place": ("H2Client.give_back", lambda client: None),
    "a window never given back": ("H2Client.consumed", lambda client, exchange: None),
    "a connection that stays": ("H2Client._end_if_done", lambda client: None),
    "waiting for what the server left out": ("H2Client._on_goaway", lambda client, event: client.retire()),
    "leaving without a word": ("H2ClientExchange._close", lambda exchange: exchange._conn.forget(exchange)),
    "octets sent twice": ("H2ClientExchange.push", say_twice),
    "trying again what has begun": ("from_reset", refuse),
}


@pytest.mark.parametrize(("place", "bug"), BUGS.values(), ids=BUGS)
async def test_the_machine_sees(monkeypatch: pytest.MonkeyPatch, place: str, bug: Callable[..., Any]) -> None:
    """The machine can fail: each bug is caught."""
    monkeypatch.setattr(f"fawa.client.http2.{place}", bug)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Conversation, settings=settings(SETTINGS, phases=[Phase.generate]))
