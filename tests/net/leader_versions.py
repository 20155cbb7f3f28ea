"""The leader's machine over HTTP/1.1 and over HTTP/2."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import attrs
import trio
import trio.testing

from fawa.net.engine import H2ErrorCode
from fawa.net.http1 import H1Connection
from fawa.net.http2 import H2Connection
from tests.net.leader_machine import LIMITS, NEEDS_LETTING_GO, PIECE, Call, Machine, Plan
from tests.net.talk import (
    PEER,
    PING,
    H2Client,
    frame,
    frames,
    h11_answer,
    head,
    request,
)


@attrs.define(eq=False)
class H1Machine(Machine):
    """Over HTTP/1.1: answers come in the order of the requests."""

    chunked: set[int] = attrs.field(factory=set)

    def make(self, stream: trio.abc.Stream) -> H1Connection:
        return H1Connection(stream, PEER, LIMITS)

    def may_open(self) -> bool:
        return not self.ended and (not self.calls or self.calls[-1].body_ended)

    def send_head(self, call: Call) -> None:
        framing = f"content-length: {call.size}"
        if call.size and self.chance.pick([True, False, False, False]):
            self.chunked.add(call.number)
            framing = "transfer-encoding: chunked"
        call.body_ended = not call.size
        self.reached["sent ahead"] += any(c.begun and not c.over for c in self.calls[:-1])
        self.put(request(f"/{call.number}", "POST", framing))

    def send_body(self, call: Call) -> None:
        piece = call.body[call.sent : call.sent + PIECE]
        call.sent += len(piece)
        call.body_ended = call.sent == call.size
        if call.number in self.chunked:
            piece = b"%x\r\n%b\r\n" % (len(piece), piece) + b"0\r\n\r\n" * call.body_ended
        self.put(piece)

    def check(self) -> None:
        conn = self.conn
        assert isinstance(conn, H1Connection)
        waits = conn._exchange is not None and conn._exchange.scope is not None
        assert len(conn._calls.child_tasks) == waits + conn.reading
        if conn.reading:
            assert (conn._deadline == math.inf) == (conn._exchange is not None)

    def check_answers(self) -> None:
        data, closes = bytes(self.received), False
        for call in self.calls:
            if not call.begun:
                break  # the connection was drained or broken off before
            if call.breaks_off:
                assert data.startswith(b"HTTP/1.1 200 OK")
                assert not data.endswith(b"0\r\n\r\n")
                self.reached["broken off"] += 1
                data, closes = b"", True
                break
            answer, data = h11_answer(data, "POST", ended=True)
            status, body = call.expected
            assert answer.status == status
            if status == 200:
                assert answer.body == body
            if answer.header(b"connection") == b"close":
                # Said where nobody knows how much of the request is still to come, or to end the service.
                assert call.number in self.chunked or "the end: drain at once" in self.story
                closes = True
                break
        assert not data
        begun = [call.begun for call in self.calls]
        assert begun == sorted(begun, reverse=True), "calls are begun in their order"
        assert all(begun) or closes or "the end: drain at once" in self.story


@attrs.define(eq=False)
class H2Machine(Machine):
    """Over HTTP/2: calls are independent of each other, and the client may reset them."""

    client: H2Client = attrs.field(factory=lambda: H2Client(consumes=False))
    #: Frames received on each stream.
    frames: Counter[int] = attrs.field(factory=Counter)

    def make(self, stream: trio.abc.Stream) -> H2Connection:
        self.put(self.client.to_send())
        return H2Connection(stream, PEER, LIMITS)

    @property
    def h2(self) -> H2Connection:
        assert isinstance(self.conn, H2Connection)
        return self.conn

    def take_in(self, data: bytes) -> None:
        self.received += data
        whole = 0
        for _, _, stream, payload in frames(self.received, whole=False):
            self.frames[stream] += 1
            whole += 9 + len(payload)
        self.client.receive(bytes(self.received[:whole]))
        del self.received[:whole]
        if answer := self.client.to_send():
            self._outbox.append(answer)
            self._something.set()

    def send_head(self, call: Call) -> None:
        call.body_ended = not call.size
        call.stream = self.client.open(head(f"/{call.number}"), end=call.body_ended)
        self.put(self.client.to_send())

    def send_body(self, call: Call) -> None:
        if self.client[call.stream].is_over:
            call.body_ended = True  # answered before, the rest is not wanted
            return
        room = self.client.h2.local_flow_control_window(call.stream)
        self.reached["no window to send in"] += not room
        piece = call.body[call.sent : call.sent + min(PIECE, room)]
        call.sent += len(piece)
        call.body_ended = call.sent == call.size
        pad = self.chance.pick([None, None, 10]) if room - len(piece) > 10 else None
        for start in range(0, len(piece), 16_000):
            last = call.body_ended and start + 16_000 >= len(piece)
            self.client.h2.send_data(
                call.stream, piece[start : start + 16_000], end_stream=last, pad_length=pad
            )
            pad = None
        self.put(self.client.to_send())

    def _live(self) -> list[Call]:
        """Calls that the client may still reset."""
        return [
            call
            for call in self.calls
            if not call.reset and not (self.client[call.stream].is_over and call.body_ended)
            if self.client[call.stream].reset is None
        ]

    def acts(self) -> dict[str, Callable[[], None]]:
        acts: dict[str, Callable[[], None]] = {"ping": self._ping, "grant": self._grant}
        if self.may_open() and len(self.calls) < 30:
            acts["open and reset"] = self._open_and_reset
        if self._live():
            acts["reset"] = acts["reset another"] = self._reset
        return acts

    def _open_and_reset(self) -> None:
        """Give up a call in the very packet that makes it."""
        call = Call(len(self.calls), self.chance.pick(list(Plan)), self.chance.pick([0, 10]), reset=True)
        self.story.append(f"open and reset {call.number}: {call.plan.name}")
        self.calls.append(call)
        call.stream = self.client.open(head(f"/{call.number}"), end=not call.size)
        if call.size:
            self.client.h2.send_data(call.stream, call.body[: call.sent])
        self.client.h2.reset_stream(call.stream, H2ErrorCode.CANCEL)
        self._outbox.append(self.client.to_send())
        self._something.set()

    def _ping(self) -> None:
        self.put(frame(PING, 0, 0, b"pingping"))

    def _grant(self) -> None:
        self.story.append("grant")
        for call in self._live():
            if not self.client[call.stream].is_over:
                self.client.h2.increment_flow_control_window(
                    self.chance.pick([1, 5000, 200_000]), call.stream
                )
        self.put(self.client.to_send())

    def go_on(self) -> None:
        for call in self._live():
            if not self.client[call.stream].is_over:
                self.client.h2.increment_flow_control_window(1_000_000, call.stream)
        self.put(self.client.to_send())

    def _reset(self) -> None:
        call = self.chance.pick(self._live())
        exchange = self.h2.exchanges.get(call.stream)
        self.reached["reset of an answer that waits for the window"] += exchange is not None and exchange.owes
        self.reached["reset of a call that waits"] += call.plan in NEEDS_LETTING_GO and call.begun
        self.story.append(f"reset {call.number}")
        call.reset = True
        self.client.h2.reset_stream(call.stream, H2ErrorCode.CANCEL)
        self.put(self.client.to_send())

    def check(self) -> None:
        conn = self.h2
        if self._outbox or not conn.is_flushed or not self._may_read.is_set():
            return  # the two do not know everything of each other yet
        live = {call.stream for call in self.calls if not call.reset and not call.over}
        owing = {stream for stream, exchange in conn.exchanges.items() if exchange.owes}
        assert set(conn.exchanges) == live | owing
        self.reached["an answer waits for the window"] += bool(owing)
        refusing = conn.draining and not conn._refused.is_set()
        assert len(conn._calls.child_tasks) == len(conn.exchanges) + conn.reading + refusing
        assert conn._unconsumed == sum(exchange.buffered for exchange in conn.exchanges.values())
        assert (conn._deadline == math.inf) == bool(conn.exchanges)
        assert set(conn.engine.held_streams) <= set(conn.exchanges)
        for call in self.calls:
            if call.reset:
                self.reached["reset before it began"] += not call.begun
                if call.frozen is None:
                    call.frozen = self.frames[call.stream]
                assert self.frames[call.stream] == call.frozen, (
                    "a stream was written to that the client has reset"
                )

    def check_answers(self) -> None:
        for call in self.calls:
            answer = self.client[call.stream]
            if call.reset:
                continue
            assert call.begun == 1
            status, body = call.expected
            assert answer.status == status
            if call.breaks_off:
                assert (answer.ended, answer.reset) == (False, H2ErrorCode.INTERNAL_ERROR)
                continue
            assert answer.ended
            assert answer.reset in (None, H2ErrorCode.NO_ERROR)
            self.reached["answered early"] += answer.reset is not None
            if status == 200:
                assert bytes(answer.body) == body
