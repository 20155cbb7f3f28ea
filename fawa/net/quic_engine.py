"""QUIC and HTTP/3 without I/O; with `quic_packets` all that touches aioquic.

`QuicEngine` is one connection, server side. It is fed datagrams, returns events, and gathers datagrams to
send; `now` is on any monotonic clock, in seconds. What aioquic leaves open is closed here: flow control that
follows the application (RFC 9000 section 4), malformed requests that cost their stream and not the connection
(RFC 9114 section 4.1.2), bounded headers, and reset tokens that survive a restart (RFC 9000 section 10.3).
"""

from __future__ import annotations

import logging
from typing import Final

import pylsqpack
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import (
    ErrorCode,
    FrameType,
    H3Connection,
    H3Stream,
    HeadersState,
    MessageError,
    Setting,
)
from aioquic.h3.connection import encode_frame as _encode_frame
from aioquic.h3.events import DatagramReceived, DataReceived, H3Event, Headers, HeadersReceived
from aioquic.h3.events import WebTransportStreamDataReceived as SessionStreamData
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    END_STATES,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    QuicConnectionState,
)
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
from aioquic.quic.packet import QuicFrameType

from fawa.net.quic_packets import Address, QuicLimits, QuicSecrets, TlsFacts
from fawa.net.quic_send import ShortSender

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

# aioquic warns of everything that peers do wrong: nothing an operator could mend.
logging.getLogger("quic").setLevel(logging.ERROR)


class _Quic(ShortSender):
    """aioquic's connection with windows that follow the application, and our reset tokens."""

    def __init__(
        self, facts: TlsFacts, secrets: QuicSecrets, *, original_cid: bytes, retry_cid: bytes | None
    ) -> None:
        super().__init__(
            configuration=facts.configuration,
            original_destination_connection_id=original_cid,
            retry_source_connection_id=retry_cid,
        )
        #: Octets by stream that the application has been given and has not consumed.
        self.held: dict[int, int] = {}
        self._windows = facts.limits
        self._secrets = secrets
        self._host_cids[0].stateless_reset_token = secrets.reset_token(self._host_cids[0].cid)
        streams = self._local_max_streams_bidi
        streams.value = streams.sent = facts.limits.max_streams

    def allow_streams(self, count: int) -> None:
        """Let the peer open at least `count` more streams of each kind."""
        for limit in (self._local_max_streams_bidi, self._local_max_streams_uni):
            limit.value = max(limit.value, limit.used + count)

    def _write_reset_stream_frame(self, builder, stream) -> None:  # type: ignore[no-untyped-def]
        # One beyond what the peer lets be open would end the connection (RFC 9000 section 4.6).
        if not stream.is_blocked:
            super()._write_reset_stream_frame(builder, stream)

    def _write_stop_sending_frame(self, builder, stream) -> None:  # type: ignore[no-untyped-def]
        if not stream.is_blocked:
            super()._write_stop_sending_frame(builder, stream)

    def _replenish_connection_ids(self) -> None:
        super()._replenish_connection_ids()
        for cid in self._host_cids:
            if not cid.was_sent:
                cid.stateless_reset_token = self._secrets.reset_token(cid.cid)

    def _unread(self) -> int:
        """Count what has arrived and is not consumed, with what waits for a gap to fill."""
        gaps = sum(
            stream.receiver.highest_offset - stream.receiver.starting_offset()
            for stream in self._streams.values()
            if not stream.receiver.is_finished
        )
        return sum(self.held.values()) + gaps

    def _has_limits_to_tell(self) -> bool:
        data, window = self._local_max_data, self._windows.stream_window
        if data.sent - data.used < self._windows.connection_window // 2 or data.value != data.sent:
            return True
        for limit in (self._local_max_streams_bidi, self._local_max_streams_uni):
            if limit.sent - limit.used < limit.value - limit.sent:
                return True
        for stream_id in self.moved:
            stream = self._streams.get(stream_id)
            if stream is None or stream.receiver.is_finished or not stream.max_stream_data_local:
                continue
            told = stream.max_stream_data_local_sent
            due = stream.receiver.starting_offset() + window - self.held.get(stream_id, 0)
            if due - told >= window // 2 or told != stream.max_stream_data_local:
                return True
        self.moved.clear()
        return False

    def _write_connection_limits(self, builder, space) -> None:  # type: ignore[no-untyped-def]
        data = self._local_max_data
        window = self._windows.connection_window
        if data.sent - data.used < window // 2:
            free = max(0, window - self._unread())
            # Small steps where little is free, so that one stream that nobody reads does not stop the others.
            if data.used + free - data.value >= min(window // 4, free // 2 + 1):
                data.value = data.used + free
        for limit in (data, self._local_max_streams_bidi, self._local_max_streams_uni):
            due = limit is data or limit.sent - limit.used < limit.value - limit.sent
            if due and limit.value != limit.sent:
                buf = builder.start_frame(
                    limit.frame_type,
                    capacity=CONNECTION_LIMIT_FRAME_CAPACITY,
                    handler=self._on_connection_limit_delivery,
                    handler_args=(limit,),
                )
                buf.push_uint_var(limit.value)
                limit.sent = limit.value

    def _write_stream_limits(self, builder, space, stream) -> None:  # type: ignore[no-untyped-def]
        receiver = stream.receiver
        if receiver.is_finished or not stream.max_stream_data_local:
            return
        window = self._windows.stream_window
        limit = receiver.starting_offset() + window - self.held.get(stream.stream_id, 0)
        if limit - stream.max_stream_data_local >= window // 2:
            stream.max_stream_data_local = limit
        if stream.max_stream_data_local_sent != stream.max_stream_data_local:
            buf = builder.start_frame(
                QuicFrameType.MAX_STREAM_DATA,
                capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
                handler=self._on_max_stream_data_delivery,
                handler_args=(stream,),
            )
            buf.push_uint_var(stream.stream_id)
            buf.push_uint_var(stream.max_stream_data_local)
            stream.max_stream_data_local_sent = stream.max_stream_data_local


class _H3(H3Connection):
    """aioquic's HTTP/3 with stream errors where a request is malformed, and without a dynamic table.

    A header section that refers to no dynamic table (RFC 9204 section 3.2) decodes to little more than its
    own size, and never has to wait for another stream.
    """

    def __init__(self, engine: QuicEngine, limits: QuicLimits) -> None:
        self._engine = engine
        self._limits = limits
        super().__init__(engine.quic, enable_webtransport=limits.sessions)

    def _init_connection(self) -> None:
        self._max_table_capacity = self._blocked_streams = 0
        self._decoder = pylsqpack.Decoder(0, 0)
        super()._init_connection()

    def _get_local_settings(self) -> dict[int, int]:
        return super()._get_local_settings() | {Setting.MAX_FIELD_SECTION_SIZE: self._limits.max_header}

    def _receive_request_or_push_data(
        self, stream: H3Stream, data: bytes, stream_ended: bool
    ) -> list[H3Event]:
        try:
            return super()._receive_request_or_push_data(stream, data, stream_ended)
        except MessageError:
            # Told to the application as if the peer had reset the stream.
            self._engine.abandon(stream.stream_id, ErrorCode.H3_MESSAGE_ERROR)
            self._engine.malformed.append(stream.stream_id)
            return []

    def _abort_incomplete_request(self, stream_id: int) -> None:
        # One that was forgotten is no new one: its client answers STOP_SENDING, and is still owed the rest.
        if self._engine.is_unused(stream_id):
            super()._abort_incomplete_request(stream_id)


class QuicEngine:
    """One connection, server side.

    Args:
        facts: the certificate and the limits.
        secrets: makes reset tokens.
        original_cid: the connection ID that the client chose for its first packet.
        retry_cid: the one that our Retry gave it, if there was one.

    """

    def __init__(
        self, facts: TlsFacts, secrets: QuicSecrets, *, original_cid: bytes, retry_cid: bytes | None = None
    ) -> None:
        self.limits = facts.limits
        self.quic = _Quic(facts, secrets, original_cid=original_cid, retry_cid=retry_cid)
        #: Streams on which a malformed message came, until `events` tells of them.
        self.malformed: list[int] = []
        self._h3: _H3 | None = None
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
                    self._h3 = _H3(self, self.limits)
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

    def _stream_data(self, stream_id: int, event: StreamDataReceived) -> list[Event]:
        if stream_id in self._deaf or self._h3 is None:
            if event.end_stream:
                self._deaf.discard(stream_id)
            return []
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

    def release(self, stream_id: int) -> None:
        """Give a stream's window back: all that came has been consumed."""
        if self.quic.held.pop(stream_id, None):
            self.quic.moved.add(stream_id)

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
        """Send a response head or trailers."""
        self.h3.send_headers(stream_id, headers, end)

    def send_data(self, stream_id: int, data: bytes) -> None:
        """Send body octets."""
        self.h3.send_data(stream_id, data, end_stream=False)

    def end(self, stream_id: int) -> None:
        """End a response without trailers."""
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
