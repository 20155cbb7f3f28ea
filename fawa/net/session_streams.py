"""The streams and datagrams of one WebTransport session, as its connection brings them.

    connection ── events ──▶ SessionStreams ◀── accepts, opens ── `fawa.net.webtransport.Session`

They may come before the request that they belong to has been answered, even before it has come (packets
overtake each other): a few are kept until it is (draft-ietf-webtrans-http3 section 4.5).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from types import TracebackType
from typing import TYPE_CHECKING, Final

import attrs
import trio

from fawa.net.capsules import from_http_code, to_http_code
from fawa.net.connection import HIGH_WATER
from fawa.net.exchange import Disconnected

if TYPE_CHECKING:
    from fawa.net.webtransport import SessionHome

#: HTTP/3 error codes (draft-ietf-webtrans-http3 section 9.5): a stream that was not waited for, or whose
#: session there is not; and one whose session is over.
STREAM_REJECTED: Final = 0x3994BD84
SESSION_GONE: Final = 0x170D7B68

#: Octets that may wait to be sent for the first time while a session or stream counts as flushed. Like the
#: buffer of a TCP socket in the kernel, this keeps the connection busy between two looks.
_SMALL: Final = 16 * 1024
#: Streams with something to send for the first time, likewise.
_FEW: Final = 256


class StreamReset(Disconnected):
    """The peer has broken a stream off: what it sends on it (RESET_STREAM), or what it takes (STOP_SENDING).

    `code` is the application's error code, 0 to 2**32 - 1, or `None` where its HTTP/3 layer gave another.
    """

    def __init__(self, text: str, code: int | None) -> None:
        super().__init__(f"{text} with code {code}")
        self.code = code


@attrs.frozen
class SessionLimits:
    """What the peer of one session may have open or waiting."""

    #: Streams, of each direction, that it may have open beside its requests; a new one for each that closes.
    streams: int = 1024
    #: Streams that the application has not accepted yet. More than may be open both ways at once, so only a
    #: flood of one-way streams gets there: its newest are rejected.
    waiting: int = 2048
    #: Datagrams that the application has not received yet; the oldest go.
    datagrams: int = 128
    #: The same before the session is accepted.
    early_streams: int = 16
    early_datagrams: int = 16


class Stream:
    """A stream of a session. One task receives; any task may push.

    Used as a context, it leaves nothing behind: at the end it resets what was not finished, and stops what
    was not read to its end.
    """

    __slots__ = (
        "_arrived",
        "_buffer",
        "_ended",
        "_home",
        "_in_over",
        "_out_over",
        "_reset_by_peer",
        "_stopped_by_peer",
        "id",
    )

    def __init__(self, home: SessionStreams, stream_id: int) -> None:
        self.id = stream_id
        self._home = home
        #: Arrived and not received; flow control bounds it, octet by octet.
        self._buffer = bytearray()
        self._arrived: trio.Event | None = None
        self._ended = False
        #: Nothing more is received, or sent.
        is_one_way, is_ours = bool(stream_id & 2), home.conn.engine.opens(stream_id)
        self._in_over = is_one_way and is_ours
        self._out_over = is_one_way and not is_ours
        self._reset_by_peer: StreamReset | None = None
        self._stopped_by_peer: StreamReset | None = None

    @property
    def is_bidirectional(self) -> bool:
        """Whether both sides may send."""
        return not self.id & 2

    @property
    def has_ended(self) -> bool:
        """Whether all that the peer sends on it has arrived, so that `receive` does not wait any more."""
        return self._ended

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        self.reset()

    # Receiving.

    async def receive(self) -> bytes:
        """Return what has come, `b""` after the peer's last octet.

        What was returned is given back to flow control: a reader that stops calling this stops the peer.

        Raises:
            StreamReset: the peer has broken it off.
            Disconnected: the session is over, or this side has stopped the stream.

        """
        while not self._buffer:
            if self._reset_by_peer is not None:
                raise self._reset_by_peer
            if self._ended:
                return b""
            if self._in_over or self._home.over:
                raise Disconnected(f"stream {self.id} is not read any more")
            self._arrived = trio.Event()
            await self._arrived.wait()
        data = bytes(self._buffer)
        self._buffer.clear()
        is_told = self._home.conn.engine.release(self.id)
        if self._ended:
            self._input_over()
        elif is_told:
            self._home.conn.wake()
        return data

    def stop(self, code: int = 0) -> None:
        """Take no more of what the peer sends: STOP_SENDING with the application's code."""
        if not self._in_over:
            self._home.conn.engine.stop(self.id, to_http_code(code))
            self._input_over()

    # Sending.

    def push(self, data: bytes) -> None:
        """Queue octets; `flush`, `drain` or `finish` let them go.

        Raises:
            StreamReset: the peer takes no more of it.
            Disconnected: the session is over, or this side has ended the stream.

        """
        self._check()
        if data:
            self._home.conn.engine.send_raw(self.id, data)
            self._home.note_sending(self.id)

    def flush(self) -> None:
        """Let what is queued go, without waiting."""
        self._home.conn.wake()

    def send_now(self, data: bytes) -> bool:
        """Push and flush, without waiting; returns `is_flushed`.

        Raises:
            Disconnected: as `push`.

        """
        self.push(data)
        self.flush()
        return self.is_flushed

    @property
    def is_flushed(self) -> bool:
        """Whether little enough waits to be sent for the first time; False too when nothing can be sent."""
        return (
            self._stopped_by_peer is None
            and not self._home.over
            and self._home.conn.engine.unsent(self.id) <= _SMALL
        )

    async def drain(self) -> None:
        """Flush, and wait until little enough is queued for more.

        Raises:
            StreamReset: as `push`.
            Disconnected: as `push`; or the peer took nothing for the connection's write timeout.

        """
        conn = self._home.conn
        conn.wake()
        if not self._has_room():
            await conn.wait_room(self._has_room, lambda: conn.engine.progress(self.id))
        self._check()

    def _has_room(self) -> bool:
        over = self._out_over or self._home.over
        return over or self._home.conn.engine.backlog(self.id) < HIGH_WATER

    async def send(self, data: bytes) -> None:
        """Push, and wait while the peer is slower than the sender.

        Raises:
            Disconnected: as `drain`.

        """
        self.push(data)
        await self.drain()

    def finish(self) -> None:
        """End this side's sending after what was pushed.

        Raises:
            Disconnected: as `push`.

        """
        self._check()
        self._home.conn.engine.send_raw(self.id, b"", end=True)
        self._home.conn.wake()
        self._output_over()

    def reset(self, code: int = 0) -> None:
        """Break off what this side sends: RESET_STREAM with the application's code. What waits is lost."""
        if not self._out_over:
            self._home.conn.engine.reset(self.id, to_http_code(code))
            self._output_over()

    def _check(self) -> None:
        if self._stopped_by_peer is not None:
            raise self._stopped_by_peer
        if self._out_over or self._home.over:
            raise Disconnected(f"nothing can be sent on stream {self.id} any more")

    # The session's side: what has happened.

    def feed(self, data: bytes, *, ended: bool) -> None:
        """Octets have arrived."""
        if self._in_over:
            return
        if data:
            self._home.conn.engine.hold(self.id, len(data))
            self._buffer += data
        if ended:
            self._ended = True
            if not self._buffer:
                self._input_over()
        self.wake()

    def feed_reset(self, code: int) -> None:
        """The peer has broken off what it sends; what was not received is lost."""
        if not self._in_over:
            self._reset_by_peer = StreamReset(f"the peer reset stream {self.id}", from_http_code(code))
            self._input_over()
            self.wake()

    def feed_stop(self, code: int) -> None:
        """The peer takes no more; the connection has reset this side for it (RFC 9000 section 3.5)."""
        if self._stopped_by_peer is None:
            self._stopped_by_peer = StreamReset(f"the peer stopped stream {self.id}", from_http_code(code))
            self._output_over()

    def abandon(self, code: int) -> None:
        """The session is over, or does not take this stream: end it with an HTTP/3 error code."""
        engine = self._home.conn.engine
        if not self._out_over:
            engine.reset(self.id, code)
        if not self._in_over:
            engine.stop(self.id, code)
        self._input_over()
        self._output_over()
        self.wake()

    def wake(self) -> None:
        """Let `receive` look again."""
        if self._arrived is not None:
            self._arrived.set()
            self._arrived = None

    def _input_over(self) -> None:
        self._in_over = True
        if self._buffer:
            self._buffer = bytearray()
        self._home.conn.engine.release(self.id)
        self._settle()

    def _output_over(self) -> None:
        self._out_over = True
        self._settle()

    def _settle(self) -> None:
        if self._in_over and self._out_over:
            self._home.forget(self)


class SessionStreams:
    """What belongs to one session.

    Args:
        conn: its connection.
        session_id: the stream of its CONNECT request.
        limits: what the peer may have open or waiting.

    """

    def __init__(self, conn: SessionHome, session_id: int, limits: SessionLimits) -> None:
        self.conn = conn
        self.id = session_id
        self.limits = limits
        #: The session has ended, or was not accepted.
        self.over = False
        self.accepted = False
        #: Datagrams that were thrown away because nobody received them.
        self.dropped = 0
        #: Streams that are not over in both directions.
        self._streams: dict[int, Stream] = {}
        #: Those that the peer has opened and nobody has accepted; bounded, see `SessionLimits`.
        self._waiting: OrderedDict[int, Stream] = OrderedDict()
        self._datagrams: deque[bytes] = deque()
        #: Streams, in this order, of which something may not have been sent yet even once, and of which
        #: something may not have arrived. Looked through when they are asked for, or have grown long.
        self._unsent: dict[int, None] = {}
        self._under_way: dict[int, None] = {}
        self._longest = _FEW
        self._accepting = trio.lowlevel.ParkingLot()
        self._receiving = trio.lowlevel.ParkingLot()
        self._end = trio.Event()
        conn.engine.allow_streams(limits.streams)

    def accept(self) -> None:
        """The session was accepted: its peer may have more."""
        self.accepted = True

    @property
    def open_streams(self) -> int:
        """How many streams are not over."""
        return len(self._streams)

    # The connection's side.

    def stream_data(self, stream_id: int, data: bytes, *, ended: bool) -> None:
        """Octets have come on a stream of the session, which the peer may just have opened."""
        stream = self._streams.get(stream_id)
        if stream is None:
            stream = self._opened(stream_id)
        if not self.over:
            stream.feed(data, ended=ended)

    def _opened(self, stream_id: int) -> Stream:
        stream = self._streams[stream_id] = Stream(self, stream_id)
        most = self.limits.waiting if self.accepted else self.limits.early_streams
        if self.over:
            stream.abandon(SESSION_GONE)
        elif len(self._waiting) >= most:
            stream.abandon(STREAM_REJECTED)
        else:
            self._waiting[stream_id] = stream
            self._accepting.unpark()
            stopped = None if stream_id & 2 else self.conn.engine.reset_code(stream_id)
            if stopped is not None:
                stream.feed_stop(stopped)  # the STOP_SENDING came first
        return stream

    def stream_reset(self, stream_id: int, code: int) -> None:
        """The peer has broken off what it sends on a stream."""
        if (stream := self._streams.get(stream_id)) is not None:
            stream.feed_reset(code)
            if self._waiting.pop(stream_id, None) is not None:
                stream.reset()  # nobody will ever see it

    def stop_sending(self, stream_id: int, code: int) -> None:
        """The peer wants no more of what is sent on a stream."""
        if (stream := self._streams.get(stream_id)) is not None:
            stream.feed_stop(code)
        self.conn.made_progress()

    def datagram(self, data: bytes) -> None:
        """A datagram has come."""
        most = self.limits.datagrams if self.accepted else self.limits.early_datagrams
        if self.over:
            return
        if len(self._datagrams) >= most:
            self._datagrams.popleft()
            self.dropped += 1
        self._datagrams.append(data)
        self._receiving.unpark()

    def end(self) -> None:
        """The session is over, or was not accepted: with it all its streams are (section 6)."""
        if self.over:
            return
        self.over = True
        self._end.set()
        code = SESSION_GONE if self.accepted else STREAM_REJECTED
        if not self.conn.lost:
            for stream_id in self._under_way:
                self.conn.engine.reset(stream_id, code)
            for stream in list(self._streams.values()):
                stream.abandon(code)
            self.conn.wake()
        for stream in self._streams.values():
            stream.wake()
        self._streams.clear()
        self._unsent.clear()
        self._under_way.clear()
        self._waiting.clear()
        self._datagrams.clear()
        self._accepting.unpark_all()
        self._receiving.unpark_all()
        self.conn.made_progress()

    # The streams' side.

    def note_sending(self, stream_id: int) -> None:
        """Octets were queued on a stream."""
        self._unsent[stream_id] = self._under_way[stream_id] = None
        if len(self._under_way) > self._longest:
            self._look_through()

    def forget(self, stream: Stream) -> None:
        """A stream is over in both directions: keep nothing of it, wherever it was kept."""
        self._streams.pop(stream.id, None)
        self.conn.session_of.pop(stream.id, None)
        self.conn.engine.forget(stream.id)

    # The application's side.

    async def accept_stream(self) -> Stream | None:
        """Return the next stream that the peer has opened; `None` when the session is over."""
        while not self._waiting:
            if self.over:
                return None
            await self._accepting.park()
        return self._waiting.popitem(last=False)[1]

    def open_stream(self, *, is_unidirectional: bool) -> Stream:
        """Open a stream; it may have to wait until the peer lets more be open.

        Raises:
            Disconnected: the session is over.

        """
        if self.over:
            raise Disconnected("the session is over")
        stream_id = self.conn.engine.open_session_stream(self.id, is_unidirectional=is_unidirectional)
        self.conn.session_of[stream_id] = self.id
        stream = self._streams[stream_id] = Stream(self, stream_id)
        self.note_sending(stream_id)
        return stream

    async def wait_over(self) -> None:
        """Wait until the session is over."""
        await self._end.wait()

    def send_datagram(self, data: bytes) -> bool:
        """Send a datagram; returns False where it is too large, or too many wait already."""
        sent = not self.over and self.conn.engine.send_datagram(self.id, data)
        if sent:
            self.conn.wake()
        return sent

    async def receive_datagram(self) -> bytes | None:
        """Return the next datagram; `None` when the session is over."""
        while not self._datagrams:
            if self.over:
                return None
            await self._receiving.park()
        return self._datagrams.popleft()

    @property
    def is_flushed(self) -> bool:
        """Whether on all streams together little enough waits to be sent for the first time."""
        if self.over:
            return False
        engine = self.conn.engine
        waiting = {number: size for number in self._unsent if (size := engine.unsent(number))}
        self._unsent = dict.fromkeys(waiting)
        return sum(waiting.values()) <= _SMALL and len(waiting) <= _FEW

    def has_arrived(self) -> bool:
        """Whether the peer has acknowledged all that was sent on streams."""
        self._look_through()
        return not self._under_way

    def unacknowledged(self) -> int:
        """Return a number that changes when the peer takes more on any stream."""
        return sum(map(self.conn.engine.progress, self._under_way))

    def _look_through(self) -> None:
        """Keep no streams of which all has arrived."""
        has_arrived = self.conn.engine.has_arrived
        self._under_way = {number: None for number in self._under_way if not has_arrived(number)}
        self._unsent = {number: None for number in self._unsent if number in self._under_way}
        # Each stream is looked at a few times on average, however many there are.
        self._longest = max(_FEW, 2 * len(self._under_way))
