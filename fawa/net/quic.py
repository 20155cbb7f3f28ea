"""The front door on UDP: QUIC connections, their timers, and what is done before there is one.

    receive ── by connection ID ── engine ── H3Connection ── calls
                                     ↑↓
                               timers, flusher

One task for each socket receives, one runs the timers of all connections, one sends what calls have ready;
a connection has no task of its own, only its calls have.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Final

import attrs
import trio

from fawa.net.connection import App, Limits
from fawa.net.exchange import Peer
from fawa.net.http3 import H3Connection
from fawa.net.quic_engine import ConnectionIdIssued, ConnectionIdRetired, ConnectionTerminated, QuicEngine
from fawa.net.quic_packets import (
    CID_LENGTH,
    Address,
    Opening,
    QuicLimits,
    QuicSecrets,
    TlsFacts,
    read_opening_untrusted,
)
from fawa.net.quic_server import ServerCore
from fawa.net.quic_timers import Alarm, Timers
from fawa.net.tls import Certificate, CertificateSource
from fawa.net.udp import BATCH, DatagramSocket

_log = logging.getLogger("fawa.net")

#: Handshakes in flight, as a share of the most there may be, from which `auto` asks for address validation.
_RETRY_FROM: Final = 1 / 4
#: Seconds by which timers fire late. aioquic compares sums of floats: asked in the very instant that it
#: named, it may find nothing to do and name the same instant again.
_LATE: Final = 1e-4
#: Seconds in which acknowledgements gather, and from how many connections on that wait for some. What asks
#: for an answer and comes meanwhile waits with them.
_GATHER: Final = 0.002
_SEVERAL: Final = 5
#: Stateless resets in a second, all peers together: each answers one packet that anybody can send.
_MOST_RESETS: Final = 100


@attrs.frozen
class QuicSettings:
    """What the listener may take. Times are seconds."""

    #: "auto", "always" or "never".
    retry: str = "auto"
    idle_timeout: float = 30.0
    handshake_timeout: float = 10.0
    max_handshakes: int = 1000


@attrs.define(eq=False)
class _Link:
    """One connection and what the listener knows of it."""

    engine: QuicEngine
    sock: DatagramSocket
    #: Its handshake has to be complete by then.
    deadline: float
    h3: H3Connection = attrs.field(init=False)
    #: The connection IDs that lead here.
    cids: set[bytes] = attrs.field(factory=set)
    #: When the timers look at it next: for what it waits for, and whether it has been idle for too long.
    alarm: Alarm[_Link] | None = None
    idle: Alarm[_Link] | None = None


@attrs.define
class QuicCounts:
    """What has come to be a connection, and what happened before there was one."""

    #: Handshakes that were complete.
    completed: int = 0
    #: Handshakes that were not complete in time.
    expired: int = 0
    #: Connections not taken because there were too many, of them or of handshakes.
    refused: int = 0
    #: Retry packets and stateless resets sent.
    retried: int = 0
    reset: int = 0
    #: Datagrams that were no QUIC, or of no connection that is known.
    strays: int = 0


class QuicListener:
    """Takes connections on UDP and serves each to its end.

    Args:
        app: answers each exchange.
        limits: what one connection may take.
        settings: what the listener may take.
        certificates: the certificate of new handshakes.
        secret: where stateless reset tokens come from; best one that outlives the process.
        max_connections: how many are let in at once.

    """

    def __init__(
        self,
        app: App,
        limits: Limits,
        settings: QuicSettings,
        certificates: CertificateSource,
        secret: bytes,
        max_connections: int,
    ) -> None:
        self.settings = settings
        self.max_connections = max_connections
        self.counts = QuicCounts()
        self._app = app
        self._limits = limits
        self._secrets = QuicSecrets(secret)
        self._certificates = certificates
        self._parsed: tuple[Certificate, TlsFacts] | None = None
        self._links: set[_Link] = set()
        self._routes: dict[bytes, _Link] = {}
        self._greeting: set[_Link] = set()
        self._touched: set[_Link] = set()
        self._flush_wanted = trio.Event()
        self._timers = Timers[_Link]()
        #: How many connections have an alarm: they wait for an acknowledgement, or to send one.
        self._waiting = 0
        self._draining = trio.Event()
        self._quiet = trio.Event()
        self._grace = 0.0
        self._resets_since = (0.0, 0)
        self._calls: trio.Nursery

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._links)

    @property
    def handshakes(self) -> int:
        """How many handshakes are under way."""
        return len(self._greeting)

    def drain(self, grace: float) -> None:
        """Take no more connections; open requests have `grace` seconds to finish."""
        self._grace = grace
        self._draining.set()

    async def run(
        self, sockets: Sequence[DatagramSocket], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until `drain`, then finish what is open within its grace. Closes the sockets.

        Raises:
            ValueError: the certificate or its key cannot be used for QUIC.

        """
        self._facts()
        try:
            async with trio.open_nursery() as transport:
                for sock in sockets:
                    transport.start_soon(self._receive, sock)
                transport.start_soon(self._run_timers)
                transport.start_soon(self._flush_when_wanted)
                async with trio.open_nursery() as self._calls:
                    self._calls.start_soon(self._serve_until_drained)
                    task_status.started()
                self._close_all()
                transport.cancel_scope.cancel()
        finally:
            self._close_all()
            for sock in sockets:
                sock.close()

    async def _serve_until_drained(self) -> None:
        await self._draining.wait()
        self._calls.cancel_scope.deadline = trio.current_time() + self._grace
        for link in list(self._links):
            if link in self._greeting:
                link.engine.close()
                self._touch(link)
            else:
                link.h3.start_drain()
        if self._links:
            await self._quiet.wait()

    def _close_all(self) -> None:
        """Say goodbye on every connection that is still open."""
        for link in list(self._links):
            link.engine.close()
            self._send(link)
            self._forget(link)

    # Receiving.

    async def _receive(self, sock: DatagramSocket) -> None:
        """Take in what comes.

        What was sent to several is answered by as many acknowledgements, one by one, and to be woken for
        each costs more than to act on it. So where a batch brings nothing else, nothing has waited for it,
        and more of them are to come, they gather for a moment. Not while somebody shakes hands, nor when so
        many come that the socket could overflow.
        """
        while True:
            datagrams = await sock.receive()
            now = trio.current_time()
            for data, address in datagrams:
                self._take_untrusted(data, address, sock, now)
            is_calm = not self._greeting and len(datagrams) < BATCH
            if not self._flush() and is_calm and self._waiting >= _SEVERAL:
                await trio.sleep(_GATHER)

    def _take_untrusted(self, data: bytes, address: Address, sock: DatagramSocket, now: float) -> None:
        """Give a datagram to its connection, or see whether it may open one."""
        if not data:
            return
        if data[0] & 0x80:
            cid = data[6 : 6 + data[5]] if len(data) > 5 else b""
        else:
            cid = data[1 : 1 + CID_LENGTH]
        link = self._routes.get(cid)
        if link is None:
            link = self._open_untrusted(data, address, sock, now)
            if link is None:
                return
        try:
            link.engine.receive(data, address, now)
        except Exception:
            self._fail(link)
            return
        if not link.engine.began:
            # Nothing in it could be decrypted: it was no client.
            self.counts.strays += 1
            self._forget(link)
            return
        self._touch(link)

    def _open_untrusted(
        self, data: bytes, address: Address, sock: DatagramSocket, now: float
    ) -> _Link | None:
        """Return a new connection for a packet of none, or answer what does not get one."""
        opening = read_opening_untrusted(data)
        if opening is None:
            self.counts.strays += 1
            return None
        facts = self._facts()
        if answer := opening.version_negotiation(facts):
            sock.send([(answer, address)])
            return None
        if not opening.is_initial:
            self.counts.strays += 1
            self._reset(data, address, sock, now)
            return None
        if (
            self._draining.is_set()
            or len(self._links) >= self.max_connections
            or len(self._greeting) >= self.settings.max_handshakes
        ):
            self.counts.refused += 1
            if self.counts.refused == 1 or self.counts.refused % 1000 == 0:
                _log.warning(
                    "%d QUIC connections and %d handshakes are open; %d turned away so far "
                    "(limits.max_connections, quic.max_handshakes)",
                    len(self._links),
                    len(self._greeting),
                    self.counts.refused,
                )
            return None
        retry_cid = None
        original_cid = opening.cid
        if opening.has_token:
            try:
                original_cid = self._secrets.original_cid(opening, address, now)
            except ValueError:
                pass  # of an earlier process, or too old: as if there were none (RFC 9000 section 8.1.3)
            else:
                retry_cid = opening.cid
        if retry_cid is None and self._wants_retry():
            self.counts.retried += 1
            sock.send([(self._secrets.retry(opening, address, now), address)])
            return None
        return self._add(opening, facts, sock, address, now, original_cid, retry_cid)

    def _wants_retry(self) -> bool:
        """Whether a client has to show that it receives at its address before it costs a handshake."""
        if self.settings.retry == "auto":
            return len(self._greeting) >= self.settings.max_handshakes * _RETRY_FROM
        return self.settings.retry == "always"

    def _add(
        self,
        opening: Opening,
        facts: TlsFacts,
        sock: DatagramSocket,
        address: Address,
        now: float,
        original_cid: bytes,
        retry_cid: bytes | None,
    ) -> _Link:
        core = ServerCore(facts, self._secrets, original_cid=original_cid, retry_cid=retry_cid)
        engine = QuicEngine(core, facts.limits)
        link = _Link(engine, sock, now + self.settings.handshake_timeout)
        host, port = address[:2]
        peer = Peer(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", "https")
        link.h3 = H3Connection(
            engine, peer, self._limits, self._app, self._calls, lambda: self._touch(link, flush=True)
        )
        self._links.add(link)
        self._greeting.add(link)
        for cid in (opening.cid, engine.cid):
            self._route(cid, link)
        return link

    def _route(self, cid: bytes, link: _Link) -> None:
        link.cids.add(cid)
        self._routes[cid] = link

    def _reset(self, data: bytes, address: Address, sock: DatagramSocket, now: float) -> None:
        """Tell the peer of a connection that is not known any more (RFC 9000 section 10.3)."""
        since, count = self._resets_since
        if now - since >= 1:
            since, count = now, 0
        if count < _MOST_RESETS and (answer := self._secrets.stateless_reset(data)):
            self.counts.reset += 1
            sock.send([(answer, address)])
            count += 1
        self._resets_since = (since, count)

    def _facts(self) -> TlsFacts:
        """Return the certificate for new handshakes, parsed again only when there is another one."""
        current = self._certificates.current
        if self._parsed is not None and self._parsed[0] is current:
            return self._parsed[1]
        limits = QuicLimits(
            idle_timeout=self.settings.idle_timeout,
            max_streams=self._limits.max_streams,
            stream_window=self._limits.stream_window,
            connection_window=self._limits.connection_window,
            sessions=True,
        )
        try:
            facts = TlsFacts(current.chain, current.key, limits)
        except ValueError as error:
            if self._parsed is None:
                raise
            _log.error("QUIC keeps the earlier certificate: %s", error)
            facts = self._parsed[1]
        self._parsed = (current, facts)
        return facts

    # Sending.

    def _touch(self, link: _Link, *, flush: bool = False) -> None:
        """Note that a connection may have something to send."""
        self._touched.add(link)
        if flush:
            self._flush_wanted.set()

    async def _flush_when_wanted(self) -> None:
        while True:
            await self._flush_wanted.wait()
            self._flush_wanted = trio.Event()
            self._flush()

    def _flush(self) -> bool:
        """Act on what connections tell, and send what they have; returns whether there was any of either."""
        touched, self._touched = self._touched, set()
        did = False
        for link in touched:
            if link not in self._links:
                continue
            try:
                if link.engine.has_news or link.h3.draining:
                    did = True
                    self._act(link)
                if self._send(link):
                    did = True
                    if link.engine.has_events:
                        self._act(link)  # sending may give out connection IDs
            except Exception:
                self._fail(link)
                continue
            link.h3.made_progress()
            if link.engine.closed and self._draining.is_set():
                self._forget(link)  # nobody waits for what the peer may still send
            elif link in self._links:
                self._arm(link)
        self._timers.tidy()
        return did

    def _act(self, link: _Link) -> None:
        """Take a connection's events to where they belong."""
        engine = link.engine
        for event in engine.events():
            match event:
                case ConnectionIdIssued(connection_id=cid):
                    self._route(cid, link)
                case ConnectionIdRetired(connection_id=cid):
                    link.cids.discard(cid)
                    self._routes.pop(cid, None)
                case ConnectionTerminated():
                    self._forget(link)
                    return
                case _:
                    link.h3.handle(event)
        if engine.established and link in self._greeting:
            self._greeting.discard(link)
            self.counts.completed += 1
            if self._draining.is_set():
                link.h3.start_drain()
        if link.h3.is_drained:
            engine.close()
        if engine.closed:
            link.h3.lose()

    def _send(self, link: _Link) -> bool:
        """Send what a connection has; returns whether there was anything."""
        datagrams = link.engine.datagrams(trio.current_time())
        if datagrams:
            link.sock.send(datagrams)
        return bool(datagrams)

    def _forget(self, link: _Link) -> None:
        """A connection is over, to its last packet."""
        link.h3.lose()
        self._disarm(link)
        if link.idle is not None:
            link.idle.who = None  # the heap would keep it until its time comes
            link.idle = None
        for cid in link.cids:
            if self._routes.get(cid) is link:
                del self._routes[cid]
        self._links.discard(link)
        self._greeting.discard(link)
        self._touched.discard(link)
        if self._draining.is_set() and not self._links:
            self._quiet.set()

    def _fail(self, link: _Link) -> None:
        """A fault while a connection was served is that connection's end, and no other's."""
        _log.exception("QUIC connection of %s failed", link.h3.peer.address)
        self._forget(link)

    # Time.

    def _arm(self, link: _Link) -> None:
        """Have the timers look at a connection when it wants.

        While it waits for nothing its time only moves later, which costs nothing: it is looked at when it was
        to be before. What was waited for has mostly come before its time; then nobody is woken for it.
        """
        if link.engine.is_quiet:
            self._disarm(link)
            if link.idle is None:
                link.idle = self._timers.set(link, self._due(link))
            return
        at = self._due(link)
        if link.alarm is None or link.alarm.at > at:
            self._disarm(link)
            link.alarm = self._timers.set(link, at)
            self._waiting += 1

    def _disarm(self, link: _Link) -> None:
        if link.alarm is not None:
            link.alarm.who = None
            link.alarm = None
            self._waiting -= 1

    def _due(self, link: _Link) -> float:
        timer = link.engine.timer
        at = math.inf if timer is None else timer + _LATE
        if link in self._greeting:
            return min(at, link.deadline)
        oldest = link.engine.oldest_head
        return at if oldest is None else min(at, oldest + self._limits.header_timeout)

    async def _run_timers(self) -> None:
        while True:
            await self._timers.sleep()
            self._fire(trio.current_time())
            self._flush()

    def _fire(self, now: float) -> None:
        for alarm, link in self._timers.due(now):
            if link.alarm is alarm:
                self._disarm(link)
            else:
                link.idle = None
            if link in self._greeting and now >= link.deadline:
                self.counts.expired += 1
                self._forget(link)
                continue
            if self._due(link) > now:
                self._arm(link)  # it has moved
                continue
            link.engine.expire_heads(now - self._limits.header_timeout)
            timer = link.engine.timer
            if timer is not None and timer <= now:
                link.engine.handle_timer(now)
            self._touch(link)
