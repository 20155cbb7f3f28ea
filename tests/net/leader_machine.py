"""A client and an application that do things in random order, and a model of what must come of it.

The machine drives one connection. A *plan* says what the application does with a call; an *act* is what the
client does next. After each act all tasks come to rest and the invariants are looked at; at the end all
that waits is let go, and every call must have been answered exactly once, with its own bytes.
"""

from __future__ import annotations

import enum
import hashlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import attrs
import trio
import trio.testing
from hypothesis import strategies as st

from fawa.net.connection import READ_UNANSWERED, Limits
from fawa.net.exchange import Exchange
from fawa.net.http1 import H1Connection
from fawa.net.http2 import H2Connection
from tests.net.talk import (
    at_rest,
    lockstep_pair,
    nothing_left,
    pieces,
    root,
    settle,
)

T = TypeVar("T")

#: Far from every timeout but that for a head, so that a deadline that was not moved shows.
#: The windows are so small that a few calls which do not read take all of the connection's.
LIMITS = Limits(
    header_timeout=15,
    idle_timeout=1e5,
    body_timeout=1e6,
    write_timeout=1e6,
    stream_window=100_000,
    connection_window=250_000,
)
PIECE = 30_000


class PlannedError(Exception):
    """What applications raise here on purpose."""


class Chance(Protocol):
    """Where decisions come from."""

    def pick(self, choices: Sequence[T]) -> T:
        """Choose one."""
        ...


@attrs.frozen
class Drawn:
    """Decisions by Hypothesis."""

    data: st.DataObject

    def pick(self, choices: Sequence[T]) -> T:
        return self.data.draw(st.sampled_from(choices))


@attrs.frozen
class Seeded:
    """Decisions by a seed."""

    source: random.Random

    def pick(self, choices: Sequence[T]) -> T:
        return self.source.choice(choices)


class Plan(enum.Enum):
    """What the application does with a call."""

    ANSWER = "answers at once"
    WAIT = "waits to be let go, then answers"
    READ = "reads the body, then answers"
    ECHO = "sends back each piece as it comes"
    STREAM = "sends pieces, and lets others run in between"
    BIG = "answers with more than any window or buffer holds"
    IGNORE = "answers without reading the body"
    FAIL = "raises at once"
    FAIL_LATE = "raises when the answer has begun"
    FAIL_AFTER_WAIT = "waits to be let go, then raises"


NEEDS_LETTING_GO = {Plan.WAIT, Plan.FAIL_AFTER_WAIT}


@attrs.define(eq=False)
class Call:
    """A call as the model knows it."""

    number: int
    plan: Plan
    size: int
    #: Bytes of the body handed to the sender.
    sent: int = 0
    body_ended: bool = False
    let_go: trio.Event = attrs.field(factory=trio.Event)
    begun: int = 0
    over: bool = False
    #: HTTP/2: the stream, and whether the client has reset it.
    stream: int = 0
    reset: bool = False
    #: How many frames had come on the stream when the reset had arrived.
    frozen: int | None = None

    @property
    def body(self) -> bytes:
        tag = b"%d." % self.number
        return (tag * (self.size // len(tag) + 1))[: self.size]

    @property
    def expected(self) -> tuple[int, bytes]:
        """Status and body of the answer; a body of a failed call is not looked at."""
        tag = b"call %d " % self.number
        match self.plan:
            case Plan.READ:
                return 200, tag + hashlib.sha256(self.body).hexdigest().encode()
            case Plan.ECHO:
                return 200, tag + self.body
            case Plan.STREAM:
                return 200, tag + b"piece " * 5
            case Plan.BIG:
                return 200, tag + bytes(400_000)
            case Plan.FAIL | Plan.FAIL_AFTER_WAIT:
                return 500, b""
            case _:
                return 200, tag

    @property
    def breaks_off(self) -> bool:
        return self.plan is Plan.FAIL_LATE


@attrs.define(eq=False)
class Machine:
    """One connection, its client, and what must be true of them. Subclasses speak an HTTP version."""

    chance: Chance
    #: Rare states that the run has been in.
    reached: Counter[str]
    calls: list[Call] = attrs.field(factory=list)
    conn: H1Connection | H2Connection = attrs.field(init=False)
    received: bytearray = attrs.field(factory=bytearray)
    ended: bool = False
    #: The server is done with the connection.
    over: trio.Event = attrs.field(factory=trio.Event)
    #: Acts that the client has gone through, for the report of a failure.
    story: list[str] = attrs.field(factory=list)
    leaders: int = 0
    _near: trio.abc.HalfCloseableStream = attrs.field(init=False)
    _outbox: list[bytes] = attrs.field(factory=list)
    _something: trio.Event = attrs.field(factory=trio.Event)
    _may_read: trio.Event = attrs.field(factory=trio.Event)

    # The application.

    async def serve(self, exchange: Exchange) -> None:
        call = self.calls[int(exchange.path[1:])]
        call.begun += 1
        assert call.begun == 1, f"call {call.number} was begun twice"
        try:
            await self._carry_out(call, exchange)
        finally:
            call.over = True

    async def _carry_out(self, call: Call, exchange: Exchange) -> None:
        tag = b"call %d " % call.number
        if call.plan in NEEDS_LETTING_GO:
            await call.let_go.wait()
        match call.plan:
            case Plan.FAIL | Plan.FAIL_AFTER_WAIT:
                raise PlannedError("as planned")
            case Plan.FAIL_LATE:
                exchange.start(200, [])
                exchange.push(tag)
                raise PlannedError("as planned")
            case Plan.READ:
                body = await exchange.read_all(10_000_000)
                exchange.respond(200, [], tag + hashlib.sha256(body).hexdigest().encode())
            case Plan.ECHO | Plan.STREAM:
                exchange.start(200, [])
                exchange.push(tag)
                if call.plan is Plan.ECHO:
                    while piece := await exchange.receive():
                        await exchange.send(piece)
                else:
                    for _ in range(5):
                        await exchange.send(b"piece ")
                        await trio.lowlevel.checkpoint()
                exchange.finish([(b"tag", tag.strip())])
            case _:
                exchange.respond(200, [], call.expected[1])

    # The client's tasks.

    def put(self, data: bytes) -> None:
        """Hand bytes to the sender, in random pieces."""
        sizes = self.chance.pick([[], [], [1000], [1, 5, 2, 100_000], [17, 3000]])
        self._outbox += pieces(data, sizes)
        self._something.set()

    async def _send(self) -> None:
        while True:
            while self._outbox:
                try:
                    await self._near.send_all(self._outbox.pop(0))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self._outbox.clear()
            await self._something.wait()
            self._something = trio.Event()

    async def _read(self) -> None:
        while True:
            await self._may_read.wait()
            try:
                data = await self._near.receive_some(20_000)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                break
            self.take_in(bytes(data))
        self.ended = True
        await trio.aclose_forcefully(self._near)

    # What the HTTP versions add.

    def make(self, stream: trio.abc.Stream) -> H1Connection | H2Connection:
        raise NotImplementedError

    def take_in(self, data: bytes) -> None:
        self.received += data

    def may_open(self) -> bool:
        """Whether the client may make a request now."""
        return not self.ended

    def send_head(self, call: Call) -> None:
        raise NotImplementedError

    def send_body(self, call: Call) -> None:
        """Send the next piece of a body, and its end behind the last."""
        raise NotImplementedError

    def acts(self) -> dict[str, Callable[[], None]]:
        """Return what else the client can do now."""
        return {}

    def go_on(self) -> None:
        """Do what keeps the conversation going at its end."""

    def check(self) -> None:
        """Look at the version's own invariants."""

    def check_answers(self) -> None:
        """Look at all answers when everything is over."""
        raise NotImplementedError

    # Acts.

    def _open(self) -> None:
        plan = self.chance.pick([*Plan, *(plan for plan in Plan if plan is not Plan.FAIL_LATE)])
        size = self.chance.pick([0, 0, 10, 3000, 150_000])
        call = Call(len(self.calls), plan, size)
        self.story.append(f"open {call.number}: {plan.name} with {size} bytes")
        self.calls.append(call)
        self.send_head(call)
        while not call.body_ended and self.chance.pick([True, False]):
            self.send_body(call)

    def _more_body(self) -> None:
        call = self.chance.pick(self._unended())
        self.story.append(f"body {call.number}")
        self.send_body(call)

    def _unended(self) -> list[Call]:
        return [call for call in self.calls if not call.body_ended and not call.reset]

    def _let_go(self) -> None:
        call = self.chance.pick(self._waiting())
        self.story.append(f"let go {call.number}")
        call.let_go.set()

    def _waiting(self) -> list[Call]:
        return [c for c in self.calls if c.plan in NEEDS_LETTING_GO and c.begun and not c.let_go.is_set()]

    def _stop_reading(self) -> None:
        self.story.append("stop reading")
        self._may_read = trio.Event()

    def _go_on_reading(self) -> None:
        self.story.append("go on reading")
        self._may_read.set()

    def _possible(self) -> dict[str, Callable[[], None]]:
        acts: dict[str, Callable[[], None]] = {}
        if self.may_open() and len(self.calls) < 30:
            acts["open"] = acts["open another"] = self._open
        if self._unended():
            acts["body"] = acts["more body"] = self._more_body
        if self._waiting():
            acts["let go"] = self._let_go
        acts["reading"] = self._stop_reading if self._may_read.is_set() else self._go_on_reading
        return acts | self.acts()

    # A run.

    async def run(self, steps: int) -> None:
        """Take `steps` random acts, then let everything come to its end."""
        self._near, far = lockstep_pair()
        self._may_read.set()
        self.conn = self.make(far)
        self._watch(self.conn)

        async def run() -> None:
            await self.conn.run(root(self.serve), b"")
            await trio.aclose_forcefully(far)
            self.over.set()

        async with trio.open_nursery() as nursery:
            for task in (run, self._send, self._read):
                nursery.start_soon(task)
            await settle()
            for _ in range(steps):
                if self.ended:
                    break
                acts = self._possible()
                if self.chance.pick([False] * 9 + [True]):
                    self.story.append("20 seconds pass")
                    await trio.sleep(20)
                else:
                    acts[self.chance.pick(sorted(acts))]()
                if self.chance.pick([True, True, True, False]):
                    await self._settle()
            await self._end()
            nursery.cancel_scope.cancel()

    async def _settle(self) -> None:
        """Let all come to rest, then look at the invariants."""
        await settle()
        if self.ended:
            return
        assert at_rest(self.conn) == []
        assert self.leaders == self.conn.reading, "one task reads, as long as anything is to be read"
        self.check()

    async def _end(self) -> None:
        how = self.chance.pick(["drain", "leave", "half-close", *["drain at once", "leave at once"] * 2])
        self.story.append(f"the end: {how}")
        open_calls = sum(call.begun and not call.over for call in self.calls)
        if how == "drain at once":
            self.reached["drained with calls open"] += open_calls
            self.conn.start_drain()
        if how == "leave at once":
            self.reached["left with calls open"] += open_calls
        else:
            await self._finish_all()
        match how:
            case "drain":
                self.conn.start_drain()
            case "half-close":
                await self._near.send_eof()
            case "leave" | "leave at once":
                await self._near.aclose()
        self._may_read.set()
        with trio.fail_after(1000):
            await self.over.wait()
        await settle()
        assert nothing_left(self.conn) == []
        if how != "leave at once":  # else nobody was there to hear the answers
            self.check_answers()

    async def _finish_all(self) -> None:
        """Send every body to its end, let every call go, read every answer."""
        self._may_read.set()
        for _ in range(100):
            for call in self._unended():
                self.send_body(call)
            for call in self.calls:
                call.let_go.set()
            self.go_on()
            await self._settle()
            if self.ended or (all(call.over for call in self.calls) and not self._unended()):
                break
        self.go_on()
        await self._settle()

    def _watch(self, conn: H1Connection | H2Connection) -> None:
        """Count who leads, and note the rare states, without changing what is done."""
        read, may_read, answer_rest = conn._read, conn.may_read, conn._answer_rest

        async def lead_in(act: Callable[[], Awaitable[T]]) -> T:
            self.leaders += 1
            assert self.leaders == 1, "two tasks lead"
            try:
                return await act()
            finally:
                self.leaders -= 1

        async def watched_rest() -> None:
            self.reached["answered by a task that does not lead"] += bool(conn.ready)
            await answer_rest()

        async def watched_may_read() -> None:
            self.reached["read no more until the client has read"] += conn._unanswered > READ_UNANSWERED
            await lead_in(may_read)

        conn._read = lambda: lead_in(read)  # type: ignore[method-assign]
        conn.may_read = watched_may_read  # type: ignore[method-assign]
        conn._answer_rest = watched_rest  # type: ignore[method-assign]
