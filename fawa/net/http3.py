"""HTTP/3 (RFC 9114): requests on one QUIC connection become exchanges, each with a task of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from fawa.net.connection import App, Limits
from fawa.net.exchange import Disconnected, Peer
from fawa.net.http3_exchange import H3Exchange
from fawa.net.http3_head import read_head_untrusted
from fawa.net.quic_engine import (
    GOAWAY_PING,
    DatagramReceived,
    DataReceived,
    ErrorCode,
    Event,
    HeadersReceived,
    PingAcknowledged,
    QuicEngine,
    SessionStreamData,
    StopSendingReceived,
    StreamReset,
)
from fawa.net.session_streams import STREAM_REJECTED, SessionLimits, SessionStreams

#: Seconds until requests are refused after GOAWAY has announced it, where the peer does not answer the PING;
#: and, when no request is left, until the connection is closed where it acknowledges nothing.
_GOAWAY_WAIT: Final = 2.0
#: Requests given up or malformed, less those answered, that end a connection (CVE-2023-44487). A client may
#: give up everything it has open, twice over, and each may count for both directions.
_MOST_GIVEN_UP: Final = 512
#: WebTransport sessions on one connection, with those that are still to be asked for.
_MOST_SESSIONS: Final = 8


class H3Connection:
    """One connection, server side.

    Args:
        engine: what speaks QUIC and HTTP/3.
        peer: who is at the other end.
        limits: what it may take.
        app: answers each exchange.
        calls: the nursery of the tasks that do.
        wake: tells the listener that there is something to send.

    """

    def __init__(
        self,
        engine: QuicEngine,
        peer: Peer,
        limits: Limits,
        app: App,
        calls: trio.Nursery,
        wake: Callable[[], None],
    ) -> None:
        self.engine = engine
        self.peer = peer
        self.limits = limits
        self.wake = wake
        #: Open requests by stream; one is taken out when its application returns or the peer resets it.
        self.exchanges: dict[int, H3Exchange] = {}
        #: What takes the streams and datagrams of WebTransport sessions, by the stream of their CONNECT.
        self.sessions: dict[int, SessionStreams] = {}
        #: The session that a stream belongs to.
        self.session_of: dict[int, int] = {}
        #: Nothing can be sent any more.
        self.lost = False
        self.draining = False
        self._app = app
        self._calls = calls
        self._progress = trio.lowlevel.ParkingLot()
        self._next_id = 0
        self._given_up = 0
        self._refusing = False
        self._answered = trio.Event()
        #: The peer did not answer that PING, or acknowledge the last that was sent.
        self._silent = False

    # What arrived.

    def handle(self, event: Event) -> None:
        """Act on what the engine tells."""
        match event:
            case HeadersReceived(stream_id=stream_id):
                self._head(event)
            case DataReceived(stream_id=stream_id):
                if (exchange := self.exchanges.get(stream_id)) is not None:
                    if event.data:
                        self.engine.hold(stream_id, len(event.data))
                        exchange.feed(event.data)
                    if event.stream_ended:
                        exchange.feed_end()
            case StreamReset(stream_id=stream_id, error_code=code):
                if (session := self._session_of(stream_id)) is not None:
                    session.stream_reset(stream_id, code)
                elif stream_id in self.exchanges or self.engine.is_unused(stream_id):
                    # Otherwise the peer only answers our STOP_SENDING; what it is still owed goes on.
                    self._drop(stream_id)
            case StopSendingReceived(stream_id=stream_id, error_code=code):
                # What has overtaken the first octets of its stream is looked at when those come.
                if (session := self._session_of(stream_id)) is not None:
                    session.stop_sending(stream_id, code)
                elif stream_id in self.exchanges:
                    self._drop(stream_id)
            case SessionStreamData():
                self._session_data(event)
            case DatagramReceived(stream_id=session_id):
                if (session := self.session(session_id)) is not None:
                    session.datagram(event.data)
            case PingAcknowledged(uid=number) if self.draining and number == GOAWAY_PING:
                self._refuse_new()

    # WebTransport.

    def session(self, session_id: int) -> SessionStreams | None:
        """Return what takes the streams of a session; `None` where there is none, and none is on its way."""
        session = self.sessions.get(session_id)
        if session is None and self._may_become_session(session_id):
            session = self.sessions[session_id] = SessionStreams(self, session_id, SessionLimits())
        return session

    def _may_become_session(self, session_id: int) -> bool:
        exchange = self.exchanges.get(session_id)
        if exchange is None:
            may = session_id >= self._next_id  # its request may have been overtaken
        else:
            may = exchange.protocol == "webtransport" and not exchange.status
        return may and len(self.sessions) < _MOST_SESSIONS

    def _session_of(self, stream_id: int) -> SessionStreams | None:
        session_id = self.session_of.get(stream_id)
        return None if session_id is None else self.sessions.get(session_id)

    def _session_data(self, event: SessionStreamData) -> None:
        stream_id, session_id = event.stream_id, event.session_id
        if session_id % 4:
            self.engine.close(ErrorCode.H3_ID_ERROR, f"{session_id} is the stream of no session")
        elif (session := self.session(session_id)) is not None:
            self.session_of[stream_id] = session_id
            session.stream_data(stream_id, event.data, ended=event.stream_ended)
        else:
            self.engine.reject_session_stream(stream_id, STREAM_REJECTED)

    def _end_session(self, session_id: int) -> None:
        if (session := self.sessions.pop(session_id, None)) is not None:
            session.end()

    # Requests.

    def _head(self, event: HeadersReceived) -> None:
        stream_id = event.stream_id
        if (known := self.exchanges.get(stream_id)) is not None:
            if event.stream_ended:
                known.feed_end()  # these were trailers
            return
        self._next_id = max(self._next_id, stream_id + 4)
        if self._refusing or len(self.exchanges) >= self.limits.max_streams:
            # This code promises that nothing was done, so the client may safely try again (section 4.1.1).
            self._refuse(stream_id, ErrorCode.H3_REQUEST_REJECTED)
            return
        if self.engine.reset_code(stream_id) is not None:
            self._refuse(stream_id, ErrorCode.H3_REQUEST_CANCELLED)  # STOP_SENDING came before it
            return
        try:
            head = read_head_untrusted(event.headers)
        except ValueError:
            self._refuse(stream_id, ErrorCode.H3_MESSAGE_ERROR)
            return
        exchange = H3Exchange(self, stream_id, head, ended=event.stream_ended)
        exchange.draining = self.draining
        self.exchanges[stream_id] = exchange
        size = sum(len(name) + len(value) + 32 for name, value in event.headers)  # RFC 9114 section 4.2.2
        if size > self.limits.max_header:
            exchange.respond_text(431, f"the head exceeds the size limit of {self.limits.max_header} bytes")
            self._over(exchange)
        else:
            self._calls.start_soon(self._answer, exchange)

    def _refuse(self, stream_id: int, code: int) -> None:
        self.engine.abandon(stream_id, code)
        self.engine.forget(stream_id)
        self._end_session(stream_id)

    def _drop(self, stream_id: int) -> None:
        """The peer has given a request up, or sent what is none: cancel the call."""
        exchange = self.exchanges.pop(stream_id, None)
        self.engine.abandon(stream_id, ErrorCode.H3_REQUEST_CANCELLED)
        self.engine.forget(stream_id)
        self._end_session(stream_id)
        # Where there are sessions, what has had no head may be a stream of one that lost its first octets.
        self._given_up += exchange is not None or not self.sessions
        if self._given_up > _MOST_GIVEN_UP:
            self.engine.close(ErrorCode.H3_EXCESSIVE_LOAD, "too many requests have been reset")
        if exchange is not None:
            exchange.cancel()
            self.made_progress()

    # Calls.

    async def _answer(self, exchange: H3Exchange) -> None:
        """Run one call in its task."""
        scope = exchange.scope or trio.CancelScope()
        try:
            with scope:
                try:
                    await self._app(exchange)
                    if exchange.owes:
                        await exchange.see_off()
                except Disconnected:
                    exchange.abort()
        finally:
            self._over(exchange)

    def _over(self, exchange: H3Exchange) -> None:
        exchange.close()
        if self.exchanges.get(exchange.id) is exchange:
            del self.exchanges[exchange.id]
            self._given_up = max(0, self._given_up - 1)  # answered
        self._end_session(exchange.id)
        self.wake()

    def lose(self) -> None:
        """The connection is over: cancel all calls."""
        if not self.lost:
            self.lost = True
            for exchange in self.exchanges.values():
                exchange.cancel()
            self.exchanges.clear()
            for session_id in list(self.sessions):
                self._end_session(session_id)
            self._answered.set()
            self.made_progress()

    def made_progress(self) -> None:
        """Let senders that wait in `wait_room` look again."""
        if self._progress:
            self._progress.unpark_all()

    async def wait_room(self, has_room: Callable[[], bool], progress: Callable[[], int]) -> None:
        """Wait until `has_room()`; it is asked again whenever the peer has moved.

        Raises:
            Disconnected: the peer is gone, or `progress()` stayed the same for the write timeout.

        """
        self.wake()
        while not has_room() and not self.lost:
            before = progress()
            with trio.move_on_after(self.limits.write_timeout) as timeout:
                while progress() == before and not has_room() and not self.lost:
                    await self._progress.park()
            if timeout.cancelled_caught:
                raise Disconnected(f"{self.peer.address} took nothing for {self.limits.write_timeout:g} s")
        if self.lost:
            raise Disconnected(f"{self.peer.address} is gone")

    # The end.

    def start_drain(self) -> None:
        """Move the client away without losing a call: GOAWAY in two steps (section 5.2).

        The first announces the end; requests already on their way are still accepted. When the client has
        acknowledged the PING sent with it, it has seen the announcement, and the second names the last.
        """
        if self.draining or self.lost:
            return
        self.draining = True
        for exchange in self.exchanges.values():
            exchange.start_drain()
        self.engine.goaway()
        self.engine.ping(GOAWAY_PING)
        self._calls.start_soon(self._refuse_later)
        self.wake()

    async def _refuse_later(self) -> None:
        with trio.move_on_after(_GOAWAY_WAIT) as wait:
            await self._answered.wait()
        self._silent = wait.cancelled_caught
        self._refuse_new()
        while self.exchanges and not self.lost:
            await self._progress.park()
        # A client may go without a word, as browsers do whose page was closed.
        with trio.move_on_after(_GOAWAY_WAIT):
            while not self.engine.all_sent and not self.lost:
                await self._progress.park()
        self._silent = True
        self.wake()

    def _refuse_new(self) -> None:
        if not self._refusing:
            self._refusing = True
            self.engine.goaway(self._next_id)
            self._answered.set()
            self.wake()

    @property
    def is_drained(self) -> bool:
        """Whether nothing is left to do since `start_drain`."""
        return self._refusing and not self.exchanges and (self._silent or self.engine.all_sent)
