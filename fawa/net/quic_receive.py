"""The packets that most are, as they come: short headers, with acknowledgements and stream data.

aioquic reads and writes every kind of packet by one general way, which costs a server most of its time. Here,
and in `quic_send`, the common packets have a way of their own (RFC 9000 section 17.3); whatever is not common
is left to aioquic, untouched, before anything has been changed. `tests/net/test_quic_twins.py` has both.
"""

from __future__ import annotations

import itertools
from typing import Any, Final

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.congestion.base import K_GRANULARITY
from aioquic.quic.connection import (
    END_STATES,
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicStreamFrame, decode_packet_number
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import MAX_ACK_RANGES, QuicPacketSpace
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch
from cryptography.exceptions import InvalidTag

from fawa.net.quic_core import QuicCore
from fawa.net.quic_packets import Address, QuicLimits

#: Where the sample of header protection begins, behind the packet number's begin (RFC 9001 section 5.4.2).
_SAMPLE: Final = 4
#: Frames: ACK without ECN counts, and STREAM with its bits OFF, LEN and FIN.
_ACK: Final = 0x02
_STREAM: Final = 0x08
_OFF, _LEN, _FIN = 4, 2, 1
#: Seconds until a few packets are acknowledged (RFC 9000 section 13.2.1: up to 25 ms), so that what answers
#: them takes that along; and how many are acknowledged as soon as aioquic would. Section 13.2.2 has every
#: second one for that; each acknowledgement costs both sides as much as other packets, so it is fewer here.
_FEW_ACK_DELAY: Final = 0.005
_MANY: Final = 8


class ShortReceiver(QuicCore):
    """A connection, server side, with a shorter way in for common packets."""

    def __init__(self, configuration: QuicConfiguration, limits: QuicLimits, **cids: bytes | None) -> None:
        super().__init__(configuration, limits, **cids)
        #: Streams on which something has come, or was consumed, since limits were looked at.
        self.moved: set[int] = set()
        #: Packets that ask for an acknowledgement and have none.
        self._unacknowledged = 0
        #: The packet number space and keys of short headers, once the handshake is confirmed.
        self._short_space: QuicPacketSpace
        self._short_keys: CryptoPair

    def _confirm_handshake(self) -> None:
        super()._confirm_handshake()
        # Keys change in place; to find them by their epoch takes as long as to decrypt a small packet.
        self._short_space = self._spaces[Epoch.ONE_RTT]
        self._short_keys = self._cryptos[Epoch.ONE_RTT]

    def release(self, stream_id: int) -> bool:
        """Give a stream's window back: all that came has been consumed.

        Returns whether the peer may have to be told of it.
        """
        if not super().release(stream_id):
            return False
        self.moved.add(stream_id)
        return True

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> QuicStream:
        self.moved.add(stream_id)
        return super()._get_or_create_stream(frame_type, stream_id)

    def receive_datagram(self, data: bytes, addr: Address, now: float) -> None:
        """Take in a datagram."""
        if not self._receive_short(data, addr, now):
            super().receive_datagram(data, addr, now)

    def _receive_short(self, data: bytes, addr: Address, now: float) -> bool:
        """Take in a datagram that is one common packet; returns False, and does nothing, where it is not."""
        cid = self.host_cid
        begin = 1 + len(cid)
        if (
            not self._handshake_confirmed
            or self._state is not QuicConnectionState.CONNECTED
            or self._close_pending
            or len(data) < begin + _SAMPLE + 16
            or data[0] & 0xC0 != 0x40
            or data[1:begin] != cid
        ):
            return False
        path = self._network_paths[0]
        if path.addr != addr or not path.is_validated:
            return False
        crypto: Any = self._short_keys.recv  # has keys by now
        space = self._short_space
        mask = crypto.hp._mask(data[begin + _SAMPLE : begin + _SAMPLE + 16])
        first = data[0] ^ (mask[0] & 0x1F)
        if first & 0x18 or (first & 4) >> 2 != crypto.key_phase:
            return False  # an error, or other keys
        size = (first & 3) + 1
        end = begin + size
        truncated = int.from_bytes(data[begin:end], "big") ^ int.from_bytes(mask[1 : 1 + size], "big")
        number = decode_packet_number(truncated, size * 8, space.expected_packet_number)
        if number in space.received_packets:
            return False
        header = bytes((first,)) + cid + truncated.to_bytes(size, "big")
        aead = crypto.aead
        try:
            plain = aead._aead.decrypt((aead._iv ^ number).to_bytes(12, "big"), data[end:], header)
        except InvalidTag:
            return False  # it may be a stateless reset
        self._received(number, plain, first, space, now)
        return True

    def _received(self, number: int, plain: bytes, first: int, space: QuicPacketSpace, now: float) -> None:
        """Act on a packet."""
        if number > space.expected_packet_number:
            space.expected_packet_number = number + 1
        if number > self._spin_highest_pn:
            self._spin_bit = bool(first & 0x20)
            self._spin_highest_pn = number
        try:
            is_ack_eliciting = self._frames_received(plain, space, now)
        except QuicConnectionError as error:
            self.close(
                error_code=error.error_code, frame_type=error.frame_type, reason_phrase=error.reason_phrase
            )
        if self._state in END_STATES or self._close_pending:
            return
        self._close_at = now + self._idle_timeout()
        self._ack_eliciting_sent_since_receipt = False
        if number > space.largest_received_packet:
            space.largest_received_packet = number
            space.largest_received_time = now
        space.ack_queue.add(number)
        space.received_packets.add(number)
        if len(space.ack_queue) > MAX_ACK_RANGES:
            space.ack_queue.shift()
        if is_ack_eliciting:
            self._acknowledge_later(space, now)

    def _acknowledge_later(self, space: QuicPacketSpace, now: float) -> None:
        """Wait with the acknowledgement of a few packets: mostly an answer takes it along."""
        self._unacknowledged += 1
        if space.ack_at is None:
            self._unacknowledged = 1
            space.ack_at = now + _FEW_ACK_DELAY
        elif self._unacknowledged == _MANY:
            space.ack_at = min(space.ack_at, now + self._ack_delay)

    def _frames_received(self, plain: bytes, space: QuicPacketSpace, now: float) -> bool:
        """Act on frames; returns whether any asks for an acknowledgement.

        Raises:
            QuicConnectionError: the peer has done something that ends the connection.

        """
        is_ack_eliciting = False
        at, end = 0, len(plain)
        while at < end or not end:
            kind = plain[at] if end else 0
            following = None
            if kind == _ACK:
                following = self._ack_received(plain, at + 1, space, now)
            elif kind & 0xF8 == _STREAM:
                following = self._stream_received(plain, at + 1, kind)
                if following is not None:
                    is_ack_eliciting = True
            if following is None:
                # Something else, or something wrong: aioquic has a word for each.
                context = QuicReceiveContext(
                    epoch=Epoch.ONE_RTT,
                    host_cid=self.host_cid,
                    network_path=self._network_paths[0],
                    quic_logger_frames=None,
                    time=now,
                    version=None,
                )
                others, _ = self._payload_received(context, plain[at:])
                return is_ack_eliciting or others
            at = following
        return is_ack_eliciting

    def _ack_received(self, plain: bytes, at: int, space: QuicPacketSpace, now: float) -> int | None:
        """Act on an ACK frame; returns where it ends, `None` where it is left to aioquic."""
        try:
            largest, at = read_uint(plain, at)
            delay, at = read_uint(plain, at)
            count, at = read_uint(plain, at)
            length, at = read_uint(plain, at)
        except IndexError:
            return None
        if count or length > largest:
            return None
        self._acknowledged(largest - length, largest, delay << self._remote_ack_delay_exponent, space, now)
        return at

    def _acknowledged(self, first: int, last: int, delay: int, space: QuicPacketSpace, now: float) -> None:
        """Packets have arrived (RFC 9002 section A.7); `delay` is how long the peer waited, microseconds."""
        loss, sent = self._loss, space.sent_packets
        oldest = next(iter(sent), last + 1)
        if oldest < first or last < space.largest_acked_packet:
            # Some before them, or before what is acknowledged already, have not: they may be lost.
            found = RangeSet()
            found.add(first, last + 1)
            loss.on_ack_received(ack_rangeset=found, ack_delay=delay / 1_000_000, now=now, space=space)
            return
        space.largest_acked_packet = last
        if oldest > last:
            return
        is_ack_eliciting = False
        # In the order in which they were sent; none is passed over.
        for number in list(itertools.takewhile(last.__ge__, sent)):
            packet = sent.pop(number)
            if packet.is_ack_eliciting:
                is_ack_eliciting = True
                space.ack_eliciting_in_flight -= 1
            if packet.in_flight:
                loss._cc.on_packet_acked(packet=packet, now=now)
            for handler, arguments in packet.delivery_handlers:
                handler(QuicDeliveryState.ACKED, *arguments)
        space.loss_time = None
        loss._pto_count = 0
        if packet.packet_number == last and is_ack_eliciting:
            sent_at: Any = packet.sent_time
            self._rtt_sampled(now - sent_at, min(delay / 1_000_000, loss.max_ack_delay), now)

    def _rtt_sampled(self, rtt: float, delay: float, now: float) -> None:
        """Update the estimate of the round-trip time as aioquic does (RFC 9002 section 5.3)."""
        loss = self._loss
        latest = max(rtt, K_GRANULARITY)
        loss._rtt_min = min(loss._rtt_min, latest)
        if latest > loss._rtt_min + delay:
            latest -= delay
        loss._rtt_latest = latest
        if loss._rtt_initialized:
            loss._rtt_variance = 3 / 4 * loss._rtt_variance + 1 / 4 * abs(loss._rtt_min - latest)
            loss._rtt_smoothed = 7 / 8 * loss._rtt_smoothed + 1 / 8 * latest
        else:
            loss._rtt_first_sample_time = now
            loss._rtt_initialized = True
            loss._rtt_variance = rtt / 2
            loss._rtt_smoothed = rtt
        loss._cc.on_rtt_measurement(now=now, rtt=rtt)
        loss._pacer.update_rate(congestion_window=loss._cc.congestion_window, smoothed_rtt=loss._rtt_smoothed)

    def _stream_received(self, plain: bytes, at: int, kind: int) -> int | None:
        """Act on a STREAM frame that brings new data; `None` where it is left to aioquic."""
        offset = 0
        try:
            stream_id, at = read_uint(plain, at)
            if kind & _OFF:
                offset, at = read_uint(plain, at)
            if kind & _LEN:
                length, at = read_uint(plain, at)
            else:
                length = len(plain) - at
        except IndexError:
            return None
        end = at + length
        stream = self._streams.get(stream_id)
        if stream is None or end > len(plain):
            return None
        receiver, limit = stream.receiver, self._local_max_data
        stop = offset + length
        new = stop - receiver.highest_offset
        if (
            receiver.is_finished
            or receiver._final_size is not None
            or new < 0
            or stop > stream.max_stream_data_local
            or limit.used + new > limit.value
        ):
            return None
        self.moved.add(stream_id)
        frame = QuicStreamFrame(data=plain[at:end], fin=bool(kind & _FIN), offset=offset)
        if (event := receiver.handle_frame(frame)) is not None:
            self._events.append(event)
        limit.used += new
        return end


def read_uint(data: bytes, at: int) -> tuple[int, int]:
    """Return the variable-length integer (RFC 9000 section 16) at a position, and where it ends.

    Raises:
        IndexError: the data end before it.

    """
    value = data[at]
    if value < 0x40:
        return value, at + 1
    if value < 0x80:
        return (value & 0x3F) << 8 | data[at + 1], at + 2
    end = at + (4 if value < 0xC0 else 8)
    if end > len(data):
        raise IndexError
    return int.from_bytes(data[at:end], "big") & ((1 << 8 * (end - at) - 2) - 1), end
