"""aioquic's QUIC and HTTP/3 with what they leave open closed.

Flow control that follows the application (RFC 9000 section 4), malformed requests that cost their stream and
not the connection (RFC 9114 section 4.1.2), bounded headers. `quic_server` and
`quic_client` have the two sides.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pylsqpack
from aioquic.h3.connection import ErrorCode, H3Connection, H3Stream, MessageError, Setting
from aioquic.h3.events import H3Event
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    QuicConnection,
)
from aioquic.quic.packet import QuicFrameType

from fawa.net.quic_packets import QuicLimits

if TYPE_CHECKING:
    from fawa.net.quic_engine import QuicEngine

# aioquic warns of everything that peers do wrong: nothing an operator could mend.
logging.getLogger("quic").setLevel(logging.ERROR)


class QuicCore(QuicConnection):
    """aioquic's connection with windows that follow the application."""

    def __init__(self, configuration: QuicConfiguration, limits: QuicLimits, **cids: bytes | None) -> None:
        super().__init__(configuration=configuration, **cids)  # type: ignore[arg-type]
        #: Octets by stream that the application has been given and has not consumed.
        self.held: dict[int, int] = {}
        self._windows = limits
        streams = self._local_max_streams_bidi
        streams.value = streams.sent = limits.max_streams

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is to be done at any time before the idle timeout, which only moves later."""
        return False

    def release(self, stream_id: int) -> bool:
        """Give a stream's window back: all that came has been consumed.

        Returns whether the peer may have to be told of it.
        """
        return self.held.pop(stream_id, None) is not None

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

    def _unread(self) -> int:
        """Count what has arrived and is not consumed, with what waits for a gap to fill."""
        gaps = sum(
            stream.receiver.highest_offset - stream.receiver.starting_offset()
            for stream in self._streams.values()
            if not stream.receiver.is_finished
        )
        return sum(self.held.values()) + gaps

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


class H3Core(H3Connection):
    """aioquic's HTTP/3 with stream errors where a message is malformed, and without a dynamic table.

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
