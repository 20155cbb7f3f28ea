"""What HTTP/1.1 and HTTP/2 connections have in common.

Reading, answering and writing share tasks in a way that makes a call which never waits cost no task at all:

- One task *leads*: it reads, parses, and runs the calls that have arrived, one after the other, in its own
  frame. Most calls answer without waiting, and what they queued then leaves in one write.
- When a call has to wait, the leader stays with it as that call's task, and a new task takes the lead. So a
  call that waits has a task and a cancel scope of its own, and holds up nobody.
- One task writes what cannot be sent at once, and is the only one that ever waits for the socket to take it.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import math
import ssl
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, Protocol, TypeVar

import attrs
import trio

from fawa.net.engine import MAX_HEADER_BYTES
from fawa.net.exchange import Disconnected, Exchange, Peer
from fawa.net.sockets import PlainStream

App = Callable[[Exchange], Coroutine[Any, Any, None]]

#: Bytes queued towards a peer, on one stream and on a connection, above which senders wait.
HIGH_WATER = 256 * 1024
#: Bytes asked of the socket at once: few, so that the small-object heap has them; more while it is full.
READ_SIZE = 64 * 1024
READ_SIZE_BULK = 512 * 1024
#: Bytes read while the peer takes nothing, above which no more is read: what it sends makes bytes to send.
READ_UNANSWERED = 256 * 1024
#: Bytes given at once to a stream that does not tell how much of them it has sent (TLS).
WRITE_SIZE = 64 * 1024
#: Seconds after the last byte sent in which the peer may still read before the socket is closed.
LINGER = 2.0
#: Seconds a peer that has closed its sending side keeps a call that is not finished.
HALF_CLOSE_GRACE = 5.0


@attrs.frozen
class Limits:
    """What one connection may take. Times are seconds, sizes bytes."""

    #: Until the first request's head is complete, and for each further head once it has begun.
    header_timeout: float = 15.0
    #: Between requests.
    idle_timeout: float = 300.0
    #: Without a byte of a request body that a handler waits for (streaming calls set their own).
    body_timeout: float = 60.0
    #: Without the peer taking a byte that waits to be sent.
    write_timeout: float = 60.0
    max_header: int = MAX_HEADER_BYTES
    #: Concurrent requests on one HTTP/2 connection.
    max_streams: int = 128
    #: Octets a peer may send ahead of the application on one HTTP/2 stream, and on all together.
    stream_window: int = 1024 * 1024
    connection_window: int = 8 * 1024 * 1024
    #: Requests after which an HTTP/2 connection is replaced (the engine allows 4,096).
    max_requests: int = 3500


class Taker(Protocol):
    """The part of an engine that the writer knows."""

    def take(self) -> bytes:
        """Return and clear the bytes to send."""


AnyExchange = TypeVar("AnyExchange", bound=Exchange)


def head_too_large(exchange: Exchange, limits: Limits) -> bool:
    """Whether a request's head exceeds a limit that is stricter than the engine's own."""
    return limits.max_header < MAX_HEADER_BYTES and limits.max_header < (
        len(exchange.method)
        + len(exchange.path)
        + len(exchange.query)
        + sum(len(name) + len(value) + 4 for name, value in exchange.headers)
    )


@types.coroutine
def _run_until_it_waits(
    call: Coroutine[Any, Any, None], on_wait: Callable[[], None]
) -> Generator[Any, Any, None]:
    """Run a coroutine in the current task; call `on_wait` before the first time it suspends the task."""
    try:
        trap = call.send(None)
    except StopIteration:
        return
    on_wait()
    while True:
        # What the coroutine yields is between it and the event loop (PEP 492); pass it on both ways.
        try:
            value = yield trap
        except BaseException as error:  # noqa: ASYNC103 - the coroutine decides what becomes of it
            step: Callable[[], Any] = functools.partial(call.throw, error)
        else:
            step = functools.partial(call.send, value)
        try:
            trap = step()
        except StopIteration:
            return


class _Lead(Generic[AnyExchange]):
    """The time for which one task leads."""

    __slots__ = ("exchange", "passed_on", "scope")

    def __init__(self, scope: trio.CancelScope) -> None:
        self.scope = scope
        #: The call being answered.
        self.exchange: AnyExchange | None = None
        #: That call had to wait, so it has this task to itself.
        self.passed_on = False


class Connection(abc.ABC, Generic[AnyExchange]):
    """A byte stream, the engine that reads it, and the calls on it."""

    def __init__(self, stream: trio.abc.Stream, engine: Taker, peer: Peer, limits: Limits) -> None:
        self.stream = stream
        self.peer = peer
        self.limits = limits
        #: Bytes queued since the writer last took some.
        self.queued = 0
        #: Counts the writes that the peer has made room for.
        self.writes = 0
        #: Nothing can be sent any more.
        self.lost = False
        #: No further request is accepted; the connection ends when the open ones have.
        self.draining = False
        #: Requests that have arrived and that nobody has begun to answer; the engine bounds their number.
        self.ready: deque[AnyExchange] = deque()
        #: More is to be read. Ends with the input, an error, a passed deadline, or the last response.
        self.reading = True
        #: The deadline has passed.
        self.expired = False
        self._taker = engine
        self._plain = stream if isinstance(stream, PlainStream) else None
        self._read_size = READ_SIZE
        #: The leader is at work and will write itself.
        self.corked = False
        #: What could not be sent at once, for the writer to send first.
        self._rest = b""
        self._writing = False
        #: Bytes read since the writer began to wait for the peer.
        self._unanswered = 0
        self._ending = False
        self._wake = trio.Event()
        self._progress = trio.lowlevel.ParkingLot()
        self._deadline = math.inf
        self._timer = trio.CancelScope()
        self._timer_at = math.inf
        self._lead_scope = trio.CancelScope()
        self._calls: trio.Nursery
        self._app: App

    # What the HTTP versions define.

    @abc.abstractmethod
    def parse(self, data: bytes) -> None:
        """Act on received bytes (`b""`: there will be no more); requests go to `ready`."""

    @abc.abstractmethod
    def close_exchange(self, exchange: AnyExchange) -> None:
        """Tidy up after a call, which may make the next request ready."""

    @abc.abstractmethod
    def reading_over(self) -> None:
        """No more will be read: end the calls that cannot go on without."""

    @abc.abstractmethod
    def cancel_calls(self) -> None:
        """Cancel all open calls."""

    @abc.abstractmethod
    def start_drain(self) -> None:
        """Finish the open requests, accept no other, then close (called once, at shutdown)."""

    async def may_read(self) -> None:
        """Wait until little enough is buffered for more to be read."""
        while self._unanswered > READ_UNANSWERED:
            await self._progress.park()

    def owes(self, exchange: AnyExchange) -> bool:
        """Whether the peer's flow control holds back a part of a finished response."""
        return False

    async def see_off(self, exchange: AnyExchange) -> None:
        """Wait until the peer's flow control has let the response pass."""

    # Tasks.

    async def run(self, app: App, first: bytes) -> None:
        """Serve the connection to its end; `first` are bytes already read from it."""
        self._app = app
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_loop)
            nursery.start_soon(self._watch_deadline)
            self.set_deadline(trio.current_time() + self.limits.header_timeout)
            async with trio.open_nursery() as self._calls:
                if first:
                    self.parse(first)
                self._calls.start_soon(self._lead)
            self._ending = True
            self.wake_writer()
            self._timer.cancel()
            if self.lost:
                nursery.cancel_scope.cancel()  # the writer may wait for a peer that nobody waits for any more
        if not self.lost:
            await self._linger()

    async def _lead(self) -> None:
        """Read and answer; stay with the first call that has to wait, after passing the lead on."""
        lead: _Lead[AnyExchange] = _Lead(self._lead_scope)
        pass_on = functools.partial(self._pass_on, lead)
        with lead.scope:
            while True:
                self.corked = True
                if self.ready:
                    await _run_until_it_waits(self._answer_ready(lead), pass_on)
                if lead.passed_on or not self.reading:
                    break
                self._uncork()
                await self.may_read()
                data = await self._read()
                if data is None:
                    break
                if not self.is_flushed:
                    self._unanswered += len(data)
                self.corked = True
                self.parse(data)
        if not lead.passed_on:
            self.reading = False
            self.reading_over()
            self._uncork()
        elif lead.exchange is not None:
            self.close_exchange(lead.exchange)
        await self._answer_rest()

    async def _answer_ready(self, lead: _Lead[AnyExchange]) -> None:
        """Answer the requests that have arrived; the first that has to wait is the last."""
        ready, answer = self.ready, self._app
        while ready:
            if self.queued >= HIGH_WATER:
                self._uncork()
                self.corked = True
                if self.lost:
                    return
            lead.exchange = exchange = ready.popleft()
            # The common case spares itself a frame.
            await (answer if self.queued < HIGH_WATER else self._answer)(exchange)
            if self.owes(exchange):
                await self.see_off(exchange)
            if lead.passed_on:
                return
            self.close_exchange(exchange)

    def _pass_on(self, lead: _Lead[AnyExchange]) -> None:
        """Let another task lead: a call is about to suspend this very one, so nothing may reschedule it."""
        lead.passed_on = True
        if lead.exchange is not None:
            lead.exchange.scope = lead.scope
        self._lead_scope = trio.CancelScope()
        self.corked = False
        self._wake.set()
        self._calls.start_soon(self._lead)

    async def _answer_rest(self) -> None:
        """Answer what became ready while nobody who reads would look."""
        while self.ready:
            exchange = self.ready.popleft()
            with trio.CancelScope() as exchange.scope:
                await self._answer(exchange)
            self.close_exchange(exchange)

    async def _answer(self, exchange: AnyExchange) -> None:
        """Answer one request, from when there is room for an answer until its last byte may leave."""
        try:
            if self.queued >= HIGH_WATER:
                # Of requests that a client sends ahead without reading the answers.
                await self.wait_room(lambda: self.queued < HIGH_WATER, lambda: self.writes)
            await self._app(exchange)
            if self.owes(exchange):
                await self.see_off(exchange)
        except Disconnected:
            exchange.abort()

    def stop_reading(self) -> None:
        """Read no more; what is queued is still written."""
        self.reading = False
        self._lead_scope.cancel()

    async def _read(self) -> bytes | None:
        """Return received bytes, `b""` at their end; asks for more at once while the socket is full.

        `None` when the last answer ended while the bytes were already on their way to this task.
        """
        try:
            data = bytes(await self.stream.receive_some(self._read_size))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._lose()
            return b""
        self._read_size = READ_SIZE_BULK if len(data) >= READ_SIZE else READ_SIZE
        return data if self.reading else None

    # Deadline.

    def set_deadline(self, at: float) -> None:
        """Give up on the peer at `at` on trio's clock; costs nothing while it only moves later."""
        self._deadline = at
        if at < self._timer_at:  # reading trio's own deadline costs more than a call may
            self._timer_at = at
            self._timer.deadline = at

    async def _watch_deadline(self) -> None:
        while not self._ending:
            self._timer_at = self._deadline
            with trio.CancelScope(deadline=self._deadline) as self._timer:
                await trio.sleep_forever()
            if trio.current_time() >= self._deadline:
                self._deadline = math.inf
                self.expired = True
                if self.reading:
                    self.stop_reading()
                else:
                    self.cancel_calls()

    # Writing.

    def wake_writer(self) -> None:
        """Tell the writer that bytes are queued."""
        if not self.corked:
            self._wake.set()

    def flush(self) -> None:
        """Send what is queued, at once as far as the socket takes it; any task may call this."""
        if not self.corked and not self.lost:
            self._uncork()  # else the leader will

    def break_off(self) -> None:
        """End the connection now; what is queued is not sent any more."""
        if not self.lost:
            self._lose()

    def _uncork(self) -> None:
        """Send what the leader's calls have queued, at once if the socket takes it."""
        self.corked = False
        if self._plain is None or self._writing or self._rest:
            self._wake.set()
            return
        self._rest = self._taker.take()
        self.queued = 0
        if self._rest:
            self._send_now()
            if self._rest:
                self._wake.set()
            if self._progress:
                self._progress.unpark_all()

    @property
    def is_clear(self) -> bool:
        """Whether nothing is before what `send_past` sends."""
        waiting = self.queued or self._rest or self._writing or self.corked
        return not waiting and not self.lost and self._plain is not None

    def send_past(self, data: bytes) -> bool:
        """Send past the engine, where `is_clear`; returns whether the socket has taken all of it."""
        self._rest = data
        self._send_now()
        if self._rest:
            self._wake.set()
        return not self._rest and not self.lost

    def _send_now(self) -> None:
        """Send of `_rest` what the socket takes without waiting."""
        if self._plain is not None:
            try:
                self._rest = self._rest[self._plain.send_now(self._rest) :]
            except trio.BrokenResourceError:
                self._rest = b""
                self._lose()

    async def _write_loop(self) -> None:
        """Write what is queued until the connection ends; a peer that takes nothing is lost."""
        while not self.lost:
            if not self._rest:
                self._rest = self._taker.take()
                self.queued = 0
            if not self._rest:
                self._progress.unpark_all()
                if self._ending:
                    return
                await self._wake.wait()
                self._wake = trio.Event()
                continue
            self._send_now()
            if self._rest:
                self._writing = True
                rest, self._rest = self._rest, b""
                if not await self._send_all(rest):
                    self._lose()
                self._writing = False
            self._unanswered = 0
            self._progress.unpark_all()

    async def _send_all(self, data: bytes) -> bool:
        view = memoryview(data)
        while view:
            with trio.move_on_after(self.limits.write_timeout) as timeout:
                try:
                    view = view[await self._send_some(view) :]
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return False
            if timeout.cancelled_caught:
                return False
            self.writes += 1
            self._progress.unpark_all()
        return True

    async def _send_some(self, view: memoryview) -> int:
        """Send a part of `view` once the peer makes room for it; return how many bytes that was."""
        if self._plain is not None:
            await self._plain.wait_send_all_might_not_block()
            return self._plain.send_now(view)
        piece = view[:WRITE_SIZE]
        await self.stream.send_all(piece)
        return len(piece)

    def _lose(self) -> None:
        """Take note that the peer is gone."""
        self.lost = True
        self.stop_reading()
        self.cancel_calls()
        self._progress.unpark_all()
        self._wake.set()

    async def wait_room(self, has_room: Callable[[], bool], progress: Callable[[], int]) -> None:
        """Wait until `has_room()`; it is asked again whenever the writer or the peer has moved.

        Raises:
            Disconnected: the peer is gone, or `progress()` stayed the same for the write timeout.

        """
        if not self.corked:
            self._uncork()
            if has_room() and not self.lost:
                await trio.lowlevel.checkpoint()
        while not has_room() and not self.lost:
            before = progress()
            with trio.move_on_after(self.limits.write_timeout) as timeout:
                while progress() == before and not has_room() and not self.lost:
                    await self._progress.park()
            if timeout.cancelled_caught:
                raise Disconnected(f"{self.peer.address} took nothing for {self.limits.write_timeout:g} s")
        if self.lost:
            raise Disconnected(f"{self.peer.address} is gone")

    def made_progress(self) -> None:
        """Let senders that wait in `wait_room` look again."""
        self._progress.unpark_all()

    @property
    def is_flushed(self) -> bool:
        """Whether everything that was taken from the engine has been handed to the socket."""
        return not self._writing and not self._rest

    async def _linger(self) -> None:
        """End the connection so that the peer can still read what was sent last.

        A socket closed with unread input makes the kernel send RST, which destroys what the peer has not
        read yet (RFC 9112 section 9.6): half-close, then read and discard for a moment.
        """
        stream: trio.abc.Stream = self.stream
        gone = (trio.BrokenResourceError, trio.ClosedResourceError)
        with trio.move_on_after(LINGER), contextlib.suppress(*gone):
            if isinstance(stream, trio.SSLStream):
                with contextlib.suppress(ssl.SSLError, trio.BrokenResourceError):
                    # Sends close_notify and waits for the peer's; fails when data comes instead.
                    await stream.unwrap()
                    return
                stream = stream.transport_stream
            if isinstance(stream, trio.abc.HalfCloseableStream):
                await stream.send_eof()
            while await stream.receive_some(READ_SIZE):
                pass
