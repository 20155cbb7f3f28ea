"""QUIC and HTTP/3 without I/O; with the other `quic_` modules, save `quic`, all that touches aioquic.

`QuicEngine` is one connection. It is fed datagrams, returns events, and gathers datagrams to send; `now` is
on any monotonic clock, in seconds.
"""

from __future__ import annotations

from typing import Final

from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import ErrorCode, FrameType, H3Connection, H3Stream, HeadersState
from aioquic.h3.connection import encode_frame as _encode_frame
from aioquic.h3.events import DatagramReceived, DataReceived, H3Event, Headers, HeadersReceived
from aioquic.h3.events import WebTransportStreamDataReceived as SessionStreamData
from aioquic.quic.connection import END_STATES, QuicConnectionState
from aioquic.quic.events import (
    ConnectionIdIssued,
    ConnectionIdRetired,
    ConnectionTerminated,
    DatagramFrameReceived,
    HandshakeCompleted,
    PingAcknowledged,
    ProtocolNegotiated,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

from fawa.net.quic_core import H3Core, QuicCore
from fawa.net.quic_packets import Address, QuicLimits

__all__ = [
    "GOAWAY_PING",
    "KEEP_ALIVE_PING",
    "ConnectionIdIssued",
    "ConnectionIdRetired",
    "ConnectionTerminated",
    "DataReceived",
    "DatagramReceived",
    "ErrorCode",
    "Event",
    "HandshakeCompleted",
    "HeadersReceived",
    "PingAcknowledged",
    "QuicEngine",
    "SessionStreamData",
    "StopSendingReceived",
    "StreamReset",
]

Event = QuicEvent | H3Event

#: Numbers of PINGs.
GOAWAY_PING: Final = 0
KEEP_ALIVE_PING: Final = 1
#: The last stream ID of a GOAWAY that only announces the end (RFC 9114 section 5.2).
ALL_STREAMS: Final = 2**62 - 4
#: Frame header and length of the largest HEADERS frame, beside its payload.
_FRAME_OVERHEAD: Final = 16

#: Datagrams that wait for room in the congestion window; further ones are not sent.
_MOST_DATAGRAMS: Final = 64
#: What a 1-RTT packet has beside its connection ID and frames: the first octet, 2 of packet number, the tag.
_PACKET_OVERHEAD: Final = 1 + 2 + 16
#: Type and length of a DATAGRAM frame.
_DATAGRAM_OVERHEAD: Final = 1 + 2


class QuicEngine:
    """One connection: `core` is one side of it, and keeps to `limits`."""

    def __init__(self, core: QuicCore, limits: QuicLimits) -> None:
        self.limits = limits
        self.quic = core
        #: Streams on which a malformed message came, until `events` tells of them.
        self.malformed: list[int] = []
        self._h3: H3Core | None = None
        #: Streams whose input is dropped until it ends.
        self._deaf: set[int] = set()
        #: Request streams whose head is not complete, and when they began: the oldest first.
        self._headless: dict[int, float] = {}
        self._now = 0.0

    # Datagrams.

    @property
    def cid(self) -> bytes:
        """The first connection ID of our own."""
        return self.quic.host_cid

    @property
    def began(self) -> bool:
        """Whether any packet of the client's could be decrypted."""
        return self.quic._state is not QuicConnectionState.FIRSTFLIGHT

    @property
    def established(self) -> bool:
        """Whether the handshake is complete."""
        return self.quic._handshake_complete

    @property
    def closed(self) -> bool:
        """Whether the connection is over, or about to be."""
        return self.quic._close_pending or self.quic._state in END_STATES

    @property
    def address(self) -> Address | None:
        """Where the peer is now; it may move (RFC 9000 section 9)."""
        address: Address | None = self.quic.get_peer_address()
        return address

    @property
    def timer(self) -> float | None:
        """When `handle_timer` is to be called."""
        return self.quic.get_timer()

    @property
    def is_quiet(self) -> bool:
        """Whether its timer has only moved later since it was looked at."""
        return not self._headless and self.quic.is_quiet

    def handle_timer(self, now: float) -> None:
        """Let time do its work: losses, delayed acknowledgements, the idle timeout."""
        self.quic.handle_timer(now)

    def receive(self, data: bytes, address: Address, now: float) -> None:
        """Take in a datagram; `events` then tells what it brought."""
        self._now = now
        self.quic.receive_datagram(data, address, now)

    def datagrams(self, now: float) -> list[tuple[bytes, Address]]:
        """Return the datagrams to send and where to."""
        return self.quic.datagrams_to_send(now)

    def close(self, code: int = ErrorCode.H3_NO_ERROR, reason: str = "") -> None:
        """Close the connection (RFC 9114 section 5.3)."""
        self.quic.close(error_code=code, reason_phrase=reason)

    def ping(self, number: int) -> None:
        """Ask the peer for a sign of life, which is a `PingAcknowledged` event with this number."""
        self.quic.send_ping(number)

    @property
    def silence(self) -> float:
        """How many seconds without a packet from the peer end the connection (RFC 9000 section 10.1)."""
        seconds: float = self.quic._idle_timeout()
        return seconds

    # What arrived.

    @property
    def has_events(self) -> bool:
        """Whether `events` has something to tell."""
        return bool(self.quic._events)

    @property
    def has_news(self) -> bool:
        """Whether there are events, or the connection is over."""
        return bool(self.quic._events) or self.closed

    def events(self) -> list[Event]:
        """Return what has happened since the last call."""
        found: list[Event] = []
        while (event := self.quic.next_event()) is not None:
            match event:
                case StreamDataReceived(stream_id=stream_id):
                    found += self._stream_data(stream_id, self._joined(event))
                case StreamReset(stream_id=stream_id):
                    self._deaf.discard(stream_id)
                    self._headless.pop(stream_id, None)
                    if self._h3 is not None:
                        self._h3.handle_event(event)
                    found.append(event)
                case StopSendingReceived():
                    if self._h3 is not None:
                        self._h3.handle_event(event)
                    found.append(event)
                case DatagramFrameReceived():
                    if self._h3 is not None and self.limits.sessions:
                        found += self._h3.handle_event(event)
                case ProtocolNegotiated():
                    self._h3 = self._new_h3()
                case _:
                    found.append(event)
        return found

    def _joined(self, event: StreamDataReceived) -> StreamDataReceived:
        """Return an event with all that has come next on its stream: HTTP/3 has a price for each."""
        waiting = self.quic._events
        pieces = [event.data]
        while waiting and not event.end_stream:
            following = waiting[0]
            if not isinstance(following, StreamDataReceived) or following.stream_id != event.stream_id:
                break
            waiting.popleft()
            event = following
            pieces.append(event.data)
        if len(pieces) > 1:
            event.data = b"".join(pieces)
        return event

    def _new_h3(self) -> H3Core:
        return H3Core(self, self.limits)

    def _stream_data(self, stream_id: int, event: StreamDataReceived) -> list[Event]:
        if stream_id in self._deaf or self._h3 is None:
            if event.end_stream:
                self._deaf.discard(stream_id)
            return []
        stream = self._h3._stream.get(stream_id)
        if (
            stream is not None
            and stream.frame_type == FrameType.WEBTRANSPORT_STREAM
            and stream.session_id is not None
            and not (stream.buffer or event.end_stream or self._h3._is_done)
        ):
            # What aioquic's HTTP/3 would make of it, in many steps.
            return [
                SessionStreamData(
                    data=event.data, session_id=stream.session_id, stream_id=stream_id, stream_ended=False
                )
            ]
        found: list[Event] = list(self._h3.handle_event(event))
        stream = self._h3._stream.get(stream_id)
        if stream_id % 4 == 0:
            self._watch_head(stream_id, stream)
        if stream is not None and stream.buffer:
            size = max(len(stream.buffer), stream.frame_size or 0)
            if size > self.limits.max_header + _FRAME_OVERHEAD:
                self.close(ErrorCode.H3_EXCESSIVE_LOAD, f"a frame of {size} octets is larger than allowed")
        for broken in self.malformed:
            if event.end_stream:
                self._deaf.discard(broken)
            found.append(StreamReset(error_code=ErrorCode.H3_MESSAGE_ERROR, stream_id=broken))
        self.malformed.clear()
        return found

    def _watch_head(self, stream_id: int, stream: H3Stream | None) -> None:
        waits = (
            stream is not None
            and stream.headers_recv_state is HeadersState.INITIAL
            and stream.session_id is None
            and stream_id not in self._deaf
        )
        if waits:
            self._headless.setdefault(stream_id, self._now)
        else:
            self._headless.pop(stream_id, None)

    @property
    def oldest_head(self) -> float | None:
        """When the oldest request began whose head is not complete yet; `None` without such."""
        return next(iter(self._headless.values()), None)

    def expire_heads(self, begun: float) -> bool:
        """Break off requests that began then or before and have no complete head; returns whether any did."""
        late = [stream_id for stream_id, since in self._headless.items() if since <= begun]
        for stream_id in late:
            self.abandon(stream_id, ErrorCode.H3_REQUEST_CANCELLED)
            self.forget(stream_id)
        return bool(late)

    def hold(self, stream_id: int, size: int) -> None:
        """Keep `size` octets of a stream's window until the application has consumed them."""
        held = self.quic.held
        held[stream_id] = held.get(stream_id, 0) + size

    def release(self, stream_id: int) -> bool:
        """Give a stream's window back: all that came has been consumed.

        Returns whether the peer is to be told, so that there is something to send.
        """
        return self.quic.release(stream_id)

    def allow_streams(self, count: int) -> None:
        """Let the peer open at least `count` more streams of each kind, and one for each that ends."""
        self.quic.allow_streams(count)

    # What is to be sent.

    @property
    def h3(self) -> H3Connection:
        """The HTTP/3 layer, which is there from the first event of a stream on."""
        if self._h3 is None:
            raise RuntimeError("nothing is sent before the handshake")
        return self._h3

    def send_headers(self, stream_id: int, headers: Headers, *, end: bool = False) -> None:
        """Send a head or trailers."""
        self.h3.send_headers(stream_id, headers, end)

    def send_data(self, stream_id: int, data: bytes) -> None:
        """Send body octets."""
        self.h3.send_data(stream_id, data, end_stream=False)

    def end(self, stream_id: int) -> None:
        """End a message without trailers."""
        with self.h3._get_or_create_stream(stream_id) as stream:
            stream.finish_sending()
        self.quic.send_stream_data(stream_id, b"", end_stream=True)

    def open_session_stream(self, session_id: int, *, is_unidirectional: bool) -> int:
        """Open a stream of a WebTransport session (draft-ietf-webtrans-http3 section 4.2 and 4.3)."""
        stream_id = self.h3.create_webtransport_stream(session_id, is_unidirectional)
        if not is_unidirectional:
            # What the peer sends on it is no HTTP/3.
            with self.h3._get_or_create_stream(stream_id) as stream:
                stream.frame_type, stream.session_id = FrameType.WEBTRANSPORT_STREAM, session_id
        return stream_id

    def send_raw(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Send octets as they are, on a stream that is not HTTP/3's."""
        self.quic.send_stream_data(stream_id, data, end_stream=end)

    def send_datagram(self, session_id: int, data: bytes) -> bool:
        """Send a datagram of a request; returns False where it is too large, or too many wait already.

        One that fits into no packet would keep all later ones from being sent.
        """
        frame = encode_uint_var(session_id // 4) + data
        pending = self.quic._datagrams_pending
        if len(frame) > self._largest_datagram() or len(pending) >= _MOST_DATAGRAMS:
            return False
        pending.append(frame)
        return True

    def _largest_datagram(self) -> int:
        """Return how many octets of a DATAGRAM frame fit into a packet, and are taken by the peer."""
        quic = self.quic
        packet = quic._max_datagram_size - len(quic._peer_cid.cid) - _PACKET_OVERHEAD
        # The peer's limit counts the frame's type and length, too (RFC 9221 section 3).
        return min(packet, quic._remote_max_datagram_frame_size or 0) - _DATAGRAM_OVERHEAD

    def goaway(self, stream_id: int = ALL_STREAMS) -> None:
        """Announce that requests from `stream_id` on are refused (RFC 9114 section 5.2)."""
        control = None if self._h3 is None else self._h3._local_control_stream_id
        if control is not None and not self.closed:
            frame = _encode_frame(FrameType.GOAWAY, encode_uint_var(stream_id))
            self.quic.send_stream_data(control, frame)

    def reset(self, stream_id: int, code: int) -> None:
        """Break off what we send on a stream; nothing where all of it has arrived."""
        stream = self.quic._streams.get(stream_id)
        if stream is not None and not stream.sender.is_finished:
            self.quic.reset_stream(stream_id, code)
            # What was queued will not be sent; it would be kept until the peer has acknowledged the reset.
            stream.sender._buffer.clear()

    def stop(self, stream_id: int, code: int) -> None:
        """Ask the peer to send no more on a stream; what still comes is dropped."""
        stream = self.quic._streams.get(stream_id)
        if stream is not None and not stream.receiver.is_finished:
            self.quic.stop_stream(stream_id, code)
            self._deaf.add(stream_id)

    def abandon(self, stream_id: int, code: int) -> None:
        """Break off both directions of a stream."""
        self.reset(stream_id, code)
        self.stop(stream_id, code)

    def reject_session_stream(self, stream_id: int, code: int) -> None:
        """Refuse a stream that the peer has opened, for which there is no WebTransport session."""
        self.stop(stream_id, code)
        if not stream_id & 2:
            self.reset(stream_id, code)
        self.forget(stream_id)

    def forget(self, stream_id: int) -> None:
        """Drop what is kept for a stream that the application is done with."""
        self.release(stream_id)
        self._headless.pop(stream_id, None)
        if self._h3 is not None:
            self._h3._stream.pop(stream_id, None)

    def reset_code(self, stream_id: int) -> int | None:
        """Return the code with which our half of a stream was broken off: ours, or that of STOP_SENDING."""
        stream = self.quic._streams.get(stream_id)
        code: int | None = None if stream is None else stream.sender._reset_error_code
        return code

    def opens(self, stream_id: int) -> bool:
        """Whether a stream is one that this side opens (RFC 9000 section 2.1)."""
        return self.quic._is_client == (stream_id & 1 == 0)

    def is_unused(self, stream_id: int) -> bool:
        """Whether we have sent nothing on a stream that the peer has opened both ways, and not ended it."""
        stream = self.quic._streams.get(stream_id)
        if stream is None or stream_id & 3:
            return False
        return not stream.sender._buffer_stop and stream.sender._buffer_fin is None

    def unsent(self, stream_id: int) -> int:
        """Count the octets of a stream that have not been sent even once."""
        stream = self.quic._streams.get(stream_id)
        if stream is None or stream.sender._reset_error_code is not None:
            return 0
        return stream.sender._buffer_stop - stream.sender.highest_offset

    def has_arrived(self, stream_id: int) -> bool:
        """Whether the peer has acknowledged all that was sent on a stream."""
        stream = self.quic._streams.get(stream_id)
        return stream is None or stream.sender.is_finished or not stream.sender._buffer

    @property
    def blocked(self) -> int:
        """How many of our streams the peer does not let be open yet."""
        return len(self.quic._streams_blocked_uni) + len(self.quic._streams_blocked_bidi)

    def backlog(self, stream_id: int) -> int:
        """Count the octets of a stream that wait for the peer.

        What is sent and not acknowledged counts an eighth: a fast connection has much of it under way.
        """
        unsent = self.unsent(stream_id)
        stream = self.quic._streams.get(stream_id)
        return unsent if stream is None else max(unsent, len(stream.sender._buffer) // 8)

    def progress(self, stream_id: int) -> int:
        """Return a number that changes when the peer takes more of a stream."""
        stream = self.quic._streams.get(stream_id)
        return 0 if stream is None else stream.sender.highest_offset + stream.sender._buffer_start

    @property
    def all_sent(self) -> bool:
        """Whether the peer has acknowledged everything that was sent on streams."""
        return all(
            stream.sender.is_finished or (not stream.sender._buffer and stream.sender._buffer_fin is None)
            for stream in self.quic._streams.values()
        )
