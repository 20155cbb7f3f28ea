"""WebTransport over HTTP/3 (draft-ietf-webtrans-http3): sessions, and how a server opens them.

    session = accept(exchange, allows=...)
    if session is not None:
        while (stream := await session.accept_stream()) is not None:
            ...
        await session.close()

A session has streams both ways and datagrams, which are `fawa.net.session_streams`; here are its opening, its
capsules and its end. None of it needs a task of its own; one that runs `keep_alive` beside the others lets a
session outlive silence.

Browsers and aioquic speak draft 02, which differs from later ones in how support is announced; both are
answered. A client opens its sessions by `fawa.client.webtransport`; from there on both sides are alike.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import trio

from fawa.net.capsules import CapsuleReader, Close, Drain, encode_capsule
from fawa.net.cors import may_connect
from fawa.net.exchange import Disconnected, Exchange, Headers
from fawa.net.http3_exchange import BodySink, H3Exchange
from fawa.net.quic_engine import KEEP_ALIVE_PING, ErrorCode, QuicEngine
from fawa.net.session_streams import SessionStreams, Stream, StreamReset

__all__ = ["METHODS", "ConnectStream", "Session", "SessionHome", "Stream", "StreamReset", "accept", "admit"]

#: What a route that answers with a session takes.
METHODS: Final = ("CONNECT",)

#: Seconds that what was sent has to arrive before a session is closed, and the peer to answer the close.
_GRACE: Final = 2.0
_CLOSE_TIMEOUT: Final = 3.0
#: Streams that a peer keeps from being opened, on one connection, before it gets no further session.
_MOST_BLOCKED: Final = 512

#: A string of a structured field (RFC 9651 section 3.3.3) with its parameters, and a list of such.
_STRING: Final = r'"((?:[ !#-\[\]-~]|\\["\\])*)"(?: *;[^,"]*(?:"(?:[ !#-\[\]-~]|\\["\\])*"[^,"]*)*)?'
_ONE: Final = re.compile(_STRING)
_LIST: Final = re.compile(rf"[ \t]*{_STRING}(?:[ \t]*,[ \t]*{_STRING})*[ \t]*")


def admit(exchange: Exchange, allows: Callable[[str], bool]) -> bool:
    """Look at an opening request; returns whether `accept` will take it. If not, it has been answered.

    For routes that look at something else of the request between this and `accept`. Streams and datagrams
    that come meanwhile wait, a few of them.

    Args:
        exchange: not answered yet.
        allows: whether a page of this origin, such as `https://app.example`, may connect. A page from the
            host that it connects to always may, and what is not a browser names no origin.

    """
    if not isinstance(exchange, H3Exchange) or exchange.protocol != "webtransport":
        text = f"{exchange.path} is a WebTransport session: connect by extended CONNECT on HTTP/3"
        exchange.respond_text(400, text)
        return False
    conn = exchange.conn
    if conn.session(exchange.id) is None or conn.engine.blocked >= _MOST_BLOCKED:
        exchange.respond_text(429, "there are too many sessions on this connection; open another")
        return False
    return may_connect(exchange, allows)


def accept(
    exchange: Exchange, *, allows: Callable[[str], bool], protocols: Sequence[str] = ()
) -> Session | None:
    """Answer an opening request; returns `None` where the answer was a refusal.

    Args:
        exchange: not answered yet.
        allows: see `admit`.
        protocols: the application protocols spoken here, by preference; none is chosen when the client offers
            none of them.

    Raises:
        Disconnected: as `Exchange.upgrade`.

    """
    if not admit(exchange, allows) or not isinstance(exchange, H3Exchange):
        return None
    streams = exchange.conn.session(exchange.id)
    if streams is None:
        raise Disconnected(f"the stream of {exchange.peer} has been reset")
    headers: Headers = []
    if exchange.header(b"sec-webtransport-http3-draft02") is not None:
        headers.append((b"sec-webtransport-http3-draft", b"draft02"))
    offered = _offered(exchange)
    chosen = next((protocol for protocol in protocols if protocol in offered), None)
    if chosen is not None:
        quoted = chosen.replace("\\", "\\\\").replace('"', '\\"')
        headers.append((b"wt-protocol", b'"%s"' % quoted.encode("ascii")))
    exchange.upgrade(headers)
    return Session(exchange, streams, chosen)


def _offered(exchange: Exchange) -> list[str]:
    """Return the application protocols that a client offers; one it did not write well counts as none."""
    lines = [value.decode("latin-1") for name, value in exchange.headers if name == b"wt-available-protocols"]
    offers = ",".join(lines)
    if not _LIST.fullmatch(offers):
        return []
    return [re.sub(r"\\(.)", r"\1", found[1]) for found in _ONE.finditer(offers)]


class SessionHome(Protocol):
    """A connection that has sessions, of either side."""

    #: The session that a stream belongs to.
    session_of: dict[int, int]

    @property
    def engine(self) -> QuicEngine:
        """What speaks QUIC."""

    @property
    def lost(self) -> bool:
        """Whether nothing can be sent any more."""

    def wake(self) -> None:
        """There is something to send."""

    def made_progress(self) -> None:
        """Let those who wait in `wait_room` look again."""

    async def wait_room(self, has_room: Callable[[], bool], progress: Callable[[], int]) -> None:
        """Wait until `has_room()`, or the connection is over.

        Raises:
            Disconnected: it is over, or `progress()` has stayed the same for too long.

        """


class ConnectStream(Protocol):
    """The stream of a CONNECT request that was answered with a session, of either side."""

    #: For the log: what became of it.
    label: str

    @property
    def conn(self) -> SessionHome:
        """Its connection."""

    def push(self, data: bytes) -> None:
        """Queue octets."""

    def flush(self) -> None:
        """Let what is queued go."""

    def finish(self) -> None:
        """Send nothing more."""

    def reset(self, code: int) -> None:
        """Break off both directions with an error code of HTTP/3."""

    def divert(self, sink: BodySink) -> None:
        """Give what comes to `sink`."""


class Session:
    """One end of a session. Any task may use it."""

    def __init__(self, exchange: ConnectStream, streams: SessionStreams, protocol: str | None) -> None:
        """Take an exchange that has been answered: see `accept`."""
        #: The request it was opened with.
        self.exchange = exchange
        #: The application protocol agreed on.
        self.protocol = protocol
        #: Why it ended, once it has: what the peer said, 0 and "" where it just ended; or what this side
        #: said. `None` also where it broke off without a word.
        self.close_code: int | None = None
        self.close_reason = ""
        #: The daemon shuts down, or the peer asks that the session end soon.
        self.draining = False
        self._streams = streams
        self._reader = CapsuleReader()
        self._drains = trio.Event()
        self._peer_done = trio.Event()
        exchange.label = "webtransport"
        streams.accept()
        exchange.divert(self)

    @property
    def is_open(self) -> bool:
        """Whether anything can be sent and received."""
        return not self._streams.over

    # Streams and datagrams.

    async def accept_stream(self) -> Stream | None:
        """Return the next stream that the peer has opened, in the order they came; `None` when it is over.

        A peer has at most 1024 open each way beside its requests, and may open another for each that is over
        in both directions: a stream that nobody wants is to be stopped and reset, or used as a context.
        """
        return await self._streams.accept_stream()

    def open_uni(self) -> Stream:
        """Open a stream to the peer. See `is_flushed` before many are opened.

        Raises:
            Disconnected: the session is over.

        """
        return self._streams.open_stream(is_unidirectional=True)

    def open_bidi(self) -> Stream:
        """Open a stream both ways.

        Raises:
            Disconnected: the session is over.

        """
        return self._streams.open_stream(is_unidirectional=False)

    def send_datagram(self, data: bytes) -> bool:
        """Send a datagram, which may get lost; never waits.

        Returns False where it was not sent: it is larger than fits into a packet (about 1150 octets), the
        peer takes none, or too many wait already.
        """
        return self._streams.send_datagram(data)

    async def receive_datagram(self) -> bytes | None:
        """Return the next datagram; `None` when the session is over. The oldest go where nobody receives."""
        return await self._streams.receive_datagram()

    @property
    def is_flushed(self) -> bool:
        """Whether on all streams together little enough waits to be sent for the first time."""
        return self._streams.is_flushed

    def flush(self) -> None:
        """Let what is queued go, without waiting."""
        self.exchange.flush()

    @property
    def open_streams(self) -> int:
        """How many streams are not over."""
        return self._streams.open_streams

    # Life and end.

    async def wait_over(self) -> None:
        """Wait until the session is over."""
        await self._streams.wait_over()

    async def wait_draining(self) -> None:
        """Wait until `draining`."""
        await self._drains.wait()

    async def keep_alive(self) -> None:
        """Ask the peer for signs of life until the session is over.

        Without this a connection is over after the idle timeout in which nothing was sent. A peer that gives
        none for as long is gone: the connection ends, and the exchange's task is cancelled.
        """
        conn = self.exchange.conn
        while self.is_open:
            with trio.move_on_after(conn.engine.silence / 3):
                await self.wait_over()
                return
            conn.engine.ping(KEEP_ALIVE_PING)
            conn.wake()

    def start_close(self, code: int = 0, reason: str = "") -> None:
        """Tell the peer that the session is over, and end its streams; nothing where it is over already.

        What the peer has not got yet on streams is lost: see `close`.

        Raises:
            ValueError: the code is not 0 to 2**32 - 1. Of `reason`, 1024 octets of UTF-8 are sent at most.

        """
        capsule = encode_capsule(Close(code, reason))
        if self.is_open:
            self._end(code, reason, capsule)

    async def close(self, code: int = 0, reason: str = "") -> None:
        """Let what was sent arrive, for two seconds at most; close; wait for the peer to agree, for three.

        Raises:
            ValueError: as `start_close`.

        """
        conn = self.exchange.conn
        with trio.move_on_after(_GRACE), contextlib.suppress(Disconnected):
            await conn.wait_room(self._streams.has_arrived, self._streams.unacknowledged)
        self.start_close(code, reason)
        with trio.move_on_after(_CLOSE_TIMEOUT):
            await self._peer_done.wait()

    def drain(self) -> None:
        """Ask the peer to end the session soon."""
        if self.is_open:
            with contextlib.suppress(Disconnected):  # which ends the session anyway
                self.exchange.push(encode_capsule(Drain()))
                self.exchange.flush()
        self._drained()

    def _drained(self) -> None:
        self.draining = True
        self._drains.set()

    def _end(self, code: int, reason: str, last: bytes = b"") -> None:
        """End this side of the CONNECT stream, and with the session all its streams."""
        self.close_code, self.close_reason = code, reason
        self.exchange.label = f"webtransport {code}"
        with contextlib.suppress(Disconnected):  # it is over either way
            self.exchange.push(last)
            self.exchange.finish()
        self._streams.end()

    # What comes on the CONNECT stream: see `BodySink`.

    def body(self, data: bytes) -> None:
        """Act on capsules; what is malformed ends the session (RFC 9297 section 3.3)."""
        if not self.is_open:
            return
        try:
            capsules = self._reader.feed_untrusted(data)
        except ValueError:
            self._broken()
            return
        for capsule in capsules:
            if isinstance(capsule, Drain):
                self._drained()
            else:
                # What comes after it is of no interest.
                self._end(capsule.code, capsule.reason)
                return

    def body_end(self) -> None:
        """The peer has ended the session; without a word that is a clean end (section 6)."""
        if self.is_open:
            if self._reader.is_between:
                self._end(0, "")
            else:
                self._broken()
        self._peer_done.set()

    def interrupt(self) -> None:
        """The daemon shuts down."""
        if not self.draining:
            self.drain()

    def _broken(self) -> None:
        self.exchange.reset(ErrorCode.H3_MESSAGE_ERROR)
        self.exchange.label = "webtransport broken"
        self._peer_done.set()
        self._streams.end()
