"""The packets that most are, as they go out: the counterpart of `quic_receive`."""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Final

from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE, QuicConfiguration
from aioquic.quic.connection import (
    END_STATES,
    QuicConnectionState,
    QuicNetworkPath,
    stream_is_client_initiated,
)
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicSentPacket
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream, QuicStreamSender
from aioquic.tls import Epoch

from fawa.net.quic_packets import Address, QuicLimits
from fawa.net.quic_receive import ShortReceiver

_WAS_SENT: Final = attrgetter("was_sent")
#: The first octet of a short header: the fixed bit, and packet numbers of two octets.
_FIRST: Final = 0x40 | 1
_PACKET_NUMBER: Final = 2
_TAG: Final = 16
#: Where the sample of header protection begins in what is sealed (RFC 9001 section 5.4.2), and its size.
_SAMPLE: Final = 4 - _PACKET_NUMBER
_SAMPLE_SIZE: Final = 16
#: STREAM frames, and their bits.
_STREAM: Final = 0x08
_OFF, _LEN = 4, 2
#: The larger datagrams: what Ethernet takes, less the headers of IPv6 and UDP. After how many packets, and
#: how often, it is tried whether they arrive; and how often in a row they are lost until they are given up.
_MTU: Final = 1500 - 40 - 8
_MTU_FROM: Final = 16
_MTU_TRIES: Final = 3
_MTU_LOST: Final = 3


class _Sent(QuicSentPacket):
    """The record of a packet, made at less cost than aioquic's: most of it is the same for all."""

    epoch = Epoch.ONE_RTT
    packet_type = QuicPacketType.ONE_RTT
    in_flight = is_ack_eliciting = is_crypto_packet = False
    sent_bytes = 0

    def __init__(self, number: int, now: float) -> None:
        self.packet_number = number
        self.sent_time = now
        self.delivery_handlers = []


class ShortSender(ShortReceiver):
    """A connection, server side, with a shorter way for common packets."""

    def __init__(self, configuration: QuicConfiguration, limits: QuicLimits, **cids: bytes | None) -> None:
        super().__init__(configuration, limits, **cids)
        #: The path whose largest datagram is known, and how often a larger one may still be tried.
        self._mtu_path: QuicNetworkPath | None = None
        self._mtu_tries = 0
        #: The packet from which on that is tried.
        self._mtu_from = _MTU_FROM
        #: How often large packets were lost since one arrived, and the first packet whose loss counts anew.
        self._large_lost = 0
        self._large_mark = 0

    # What is to be looked at before the shorter way is taken.

    def release(self, stream_id: int) -> bool:
        """Give a stream's window back; returns whether the peer is to be told of it."""
        return super().release(stream_id) and self._has_limits_to_tell()

    def _on_max_stream_data_delivery(self, delivery: QuicDeliveryState, stream: QuicStream) -> None:
        number: Any = stream.stream_id  # aioquic's types allow for streams without one
        self.moved.add(number)
        super()._on_max_stream_data_delivery(delivery, stream)

    def _has_limits_to_tell(self) -> bool:
        """Whether flow control or stream limits may have to be raised."""
        if self.moved:
            self.moved = {number for number in self.moved if self._has_window_to_tell(number)}
        data, bidi, uni = self._local_max_data, self._local_max_streams_bidi, self._local_max_streams_uni
        return (
            bool(self.moved)
            or data.sent - data.used < self._windows.connection_window // 2
            or data.value != data.sent
            or bidi.sent - bidi.used < bidi.value - bidi.sent
            or uni.sent - uni.used < uni.value - uni.sent
        )

    def _has_window_to_tell(self, number: int) -> bool:
        stream = self._streams.get(number)
        if stream is None or stream.receiver.is_finished or not stream.max_stream_data_local:
            return False
        told, window = stream.max_stream_data_local_sent, self._windows.stream_window
        due = stream.receiver.starting_offset() + window - self.held.get(number, 0)
        return due - told >= window // 2 or told != stream.max_stream_data_local

    # Time.

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is to be done at any time before the idle timeout, which only moves later."""
        if not self._handshake_confirmed or self._state in END_STATES:
            return False
        space = self._short_space
        return (
            not space.ack_eliciting_in_flight
            and space.ack_at is None
            and self._pacing_at is None
            and len(self._network_paths) == 1
            and self._network_paths[0].is_validated
        )

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is to be called."""
        at = self._close_at
        if (
            at is None
            or not self._handshake_confirmed
            or self._state in END_STATES
            or len(self._network_paths) > 1
            or not self._network_paths[0].is_validated
        ):
            return super().get_timer()
        space = self._short_space
        self._loss_at = None
        if space.ack_at is not None and space.ack_at < at:
            at = space.ack_at
        if space.ack_eliciting_in_flight or space.loss_time is not None:
            loss = self._loss
            due = space.loss_time
            if due is None:
                wait = loss.get_probe_timeout() * (1 << loss._pto_count)
                due = loss._time_of_last_sent_ack_eliciting_packet + wait
            self._loss_at = due
            at = min(at, due)
        return at if self._pacing_at is None else min(at, self._pacing_at)

    # Writing.

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        """Return the datagrams to send and where to."""
        if self._network_paths[0] is not self._mtu_path:
            self._mtu_path = self._network_paths[0]
            self._use_mtu(SMALLEST_MAX_DATAGRAM_SIZE, tries=_MTU_TRIES)
        if self._has_special():
            return super().datagrams_to_send(now)
        ready: list[QuicStream] = []
        finished: list[QuicStream] = []
        for stream in self._streams_queue:
            sender, receiver = stream.sender, stream.receiver
            if sender.reset_pending or receiver.stop_pending:
                return super().datagrams_to_send(now)
            if sender.is_finished:
                if receiver.is_finished:
                    finished.append(stream)
            elif not (sender.buffer_is_empty or stream.is_blocked):
                ready.append(stream)
        if finished:
            for stream in finished:
                self._discard(stream)
            if self._has_limits_to_tell():
                return super().datagrams_to_send(now)
        self._pacing_at = None
        space = self._short_space
        if ready or (space.ack_at is not None and space.ack_at <= now):
            return self._write_short(ready, space, now)
        return []

    def _discard(self, stream: QuicStream) -> None:
        """Forget a stream that is over; its peer may open another (RFC 9000 section 4.6)."""
        number: Any = stream.stream_id
        self._streams_queue.remove(stream)
        del self._streams[number]
        if stream_is_client_initiated(number):
            self._stream_limit(number).value += 1

    def _has_special(self) -> bool:
        """Whether anything is to be sent beside acknowledgements and what is on streams."""
        if (
            not self._handshake_confirmed
            or self._state is not QuicConnectionState.CONNECTED
            or self._close_pending
            or self._datagrams_pending
            or self._ping_pending
            or self._probe_pending
            or self._handshake_done_pending
            or self._retire_connection_ids
            or self._streams_blocked_pending
            or len(self._network_paths) > 1
        ):
            return True
        path, crypto = self._network_paths[0], self._short_keys
        if (
            not path.is_validated
            or path.remote_challenges
            or crypto._update_key_requested
            or not self._crypto_streams[Epoch.ONE_RTT].sender.buffer_is_empty
            or len(self._short_space.ack_queue) > 1
        ):
            return True
        return not all(map(_WAS_SENT, self._host_cids)) or self._has_limits_to_tell()

    def _write_short(
        self, ready: list[QuicStream], space: QuicPacketSpace, now: float
    ) -> list[tuple[bytes, Address]]:
        """Write packets with an acknowledgement, if one waits, and what these streams have."""
        loss, pacer, path = self._loss, self._loss._pacer, self._network_paths[0]
        overhead = 1 + len(self._peer_cid.cid) + _PACKET_NUMBER + _TAG
        found: list[tuple[bytes, Address]] = []
        served: list[QuicStream] = []
        several = len(ready) > 1
        while True:
            is_due = space.ack_at is not None and space.ack_at <= now
            if not is_due:
                if not ready:
                    break
                self._pacing_at = pacer.next_send_time(now)
                if self._pacing_at is not None:
                    break
            frames: list[bytes] = []
            packet = _Sent(self._packet_number, now)
            room = self._max_datagram_size - overhead
            if space.ack_at is not None:
                ack = self._short_ack(packet, space, now)
                frames.append(ack)
                room -= len(ack)
            allowed = loss.congestion_window - loss.bytes_in_flight - (self._max_datagram_size - room)
            if ready:
                # Parts of packets are not worth the window: there will be more of it.
                if allowed < room and loss.bytes_in_flight:
                    ready = [stream for stream in ready if _waiting(stream) <= allowed]
                ready = self._write_streams(ready, served, packet, frames, min(room, allowed))
            if not frames:
                break
            payload = frames[0] if len(frames) == 1 else b"".join(frames)
            found.append((self._seal(packet, payload, space, now), path.addr))
            pacer.update_after_send(now)
            if (
                self._mtu_tries > 0
                and self._packet_number >= self._mtu_from
                and loss.congestion_window - loss.bytes_in_flight >= _MTU
            ):
                found.append((self._probe_mtu(space, now), path.addr))
                pacer.update_after_send(now)
        if several:
            # Those that were served come last the next time.
            were = set(served)
            self._streams_queue = [stream for stream in self._streams_queue if stream not in were]
            self._streams_queue += dict.fromkeys(served)
        return found

    def _seal(self, packet: QuicSentPacket, payload: bytes, space: QuicPacketSpace, now: float) -> bytes:
        """Return a packet with these frames, protected, and take note that it is sent."""
        keys, cid, number = self._short_keys, self._peer_cid.cid, packet.packet_number
        crypto: Any = keys.send  # has keys by now
        aead, short = crypto.aead, number & 0xFFFF
        first = _FIRST | self._spin_bit << 5 | keys.key_phase << 2
        header = b"%c%b%b" % (first, cid, short.to_bytes(_PACKET_NUMBER, "big"))
        sealed = aead._aead.encrypt((aead._iv ^ number).to_bytes(12, "big"), payload, header)
        mask = crypto.hp._mask(sealed[_SAMPLE : _SAMPLE + _SAMPLE_SIZE])
        hidden = (short ^ (mask[1] << 8 | mask[2])).to_bytes(_PACKET_NUMBER, "big")
        data = b"%c%b%b%b" % (first ^ mask[0] & 0x1F, cid, hidden, sealed)
        packet.sent_bytes = len(data)
        if packet.sent_bytes > SMALLEST_MAX_DATAGRAM_SIZE:
            packet.delivery_handlers.append((self._on_large_delivery, (packet.sent_bytes, number)))
        self._loss.on_packet_sent(packet=packet, space=space)
        self._network_paths[0].bytes_sent += packet.sent_bytes
        self._packet_number = number + 1
        if packet.is_ack_eliciting and not self._ack_eliciting_sent_since_receipt:
            self._close_at = now + self._idle_timeout()
            self._ack_eliciting_sent_since_receipt = True
        return data

    # Larger datagrams, where the path takes them (RFC 9000 section 14.3, RFC 8899).

    def _probe_mtu(self, space: QuicPacketSpace, now: float) -> bytes:
        """Return a large packet, whose loss says nothing of congestion (section 14.4).

        So it is sent only where the window has room for it, and then not counted as in flight.
        """
        self._mtu_tries -= 1
        self._mtu_from = self._packet_number + _MTU_FROM
        packet = _Sent(self._packet_number, now)
        packet.is_ack_eliciting = True
        room = _MTU - 1 - len(self._peer_cid.cid) - _PACKET_NUMBER - _TAG
        return self._seal(packet, b"\x01".ljust(room, b"\x00"), space, now)

    def _on_large_delivery(self, delivery: QuicDeliveryState, size: int, number: int) -> None:
        if delivery is QuicDeliveryState.ACKED:
            self._large_lost = 0
            if size > self._max_datagram_size and self._mtu_tries >= 0:
                self._use_mtu(size, tries=0)
        elif size <= self._max_datagram_size and number >= self._large_mark:
            # What was sent until now may have been lost by the same congestion.
            self._large_mark = self._packet_number
            self._large_lost += 1
            if self._large_lost >= _MTU_LOST:
                self._use_mtu(SMALLEST_MAX_DATAGRAM_SIZE, tries=-1)

    def _use_mtu(self, size: int, *, tries: int) -> None:
        if size < self._max_datagram_size:
            self._datagrams_pending.clear()  # those too large would keep all later ones from being sent
        self._max_datagram_size = size
        congestion: Any = self._loss._cc
        congestion._max_datagram_size = size
        self._loss._pacer._max_datagram_size = size
        self._mtu_tries, self._large_lost = tries, 0

    def handle_timer(self, now: float) -> None:
        """Let time do its work; where nothing comes back any more, smaller datagrams may."""
        super().handle_timer(now)
        if self._loss._pto_count >= 2 and self._max_datagram_size > SMALLEST_MAX_DATAGRAM_SIZE:
            self._use_mtu(SMALLEST_MAX_DATAGRAM_SIZE, tries=-1)

    def _short_ack(self, packet: QuicSentPacket, space: QuicPacketSpace, now: float) -> bytes:
        """Return an ACK frame of all that was received, which is one range (RFC 9000 section 19.3)."""
        [received] = space.ack_queue
        since: Any = space.largest_received_time
        delay = int((now - since) * 1_000_000) >> self._local_ack_delay_exponent
        space.ack_at = None
        packet.delivery_handlers.append((self._on_ack_delivery, (space, space.largest_received_packet)))
        last = received.stop - 1
        return b"\x02" + _uint(last) + _uint(delay) + b"\x00" + _uint(last - received.start)

    def _write_streams(
        self,
        ready: list[QuicStream],
        served: list[QuicStream],
        packet: QuicSentPacket,
        frames: list[bytes],
        room: int,
    ) -> list[QuicStream]:
        """Add STREAM frames to a packet; returns the streams that have more, in the order of their turns.

        As with aioquic, what is sent anew keeps a stream's turn, and what is new ends it.
        """
        again: list[QuicStream] = []
        more: list[QuicStream] = []
        for position, stream in enumerate(ready):
            sender = stream.sender
            number: Any = stream.stream_id
            pending = sender._pending
            offset = pending[0].start if len(pending) else sender._buffer_stop
            begin = _uint(number) + _uint(offset) if offset else _uint(number)
            left = room - len(begin) - 3
            if left <= 0:
                return again + ready[position:] + more
            before = sender.highest_offset
            most = min(
                before + self._remote_max_data - self._remote_max_data_used, stream.max_stream_data_remote
            )
            found = _next(sender, offset, min(offset + left, most))
            if found is None:
                continue  # flow control; what raises it comes in a packet
            data, fin = found
            size = len(data)
            kind = _STREAM | _LEN | (_OFF if offset else 0) | fin
            frames.append(b"%c%b%b" % (kind, begin, (size | 0x4000).to_bytes(2, "big")))
            frames.append(data)
            room = left - size
            packet.delivery_handlers.append((_data_delivered, (sender, offset, offset + size, fin)))
            packet.in_flight = packet.is_ack_eliciting = True
            is_new = sender.highest_offset > before
            self._remote_max_data_used += sender.highest_offset - before
            if is_new:
                served.append(stream)
            if len(pending) or sender._pending_eof:
                (more if is_new else again).append(stream)
            else:
                sender.buffer_is_empty = True
        return again + more


def _next(sender: QuicStreamSender, start: int, most: int) -> tuple[bytes, bool] | None:
    """Take what a stream has at `start`, up to `most` at the farthest, and whether it ends with that."""
    pending = sender._pending
    if not len(pending):
        if not sender._pending_eof:
            sender.buffer_is_empty = True
            return None
        sender._pending_eof = False
        return b"", True
    stop = min(pending[0].stop, most)
    if stop <= start:
        return None
    begin = sender._buffer_start
    data = bytes(sender._buffer[start - begin : stop - begin])
    pending.subtract(start, stop)
    sender.highest_offset = max(sender.highest_offset, stop)
    fin = sender._buffer_fin == stop
    if fin:
        sender._pending_eof = False
    return data, fin


def _data_delivered(
    delivery: QuicDeliveryState, sender: QuicStreamSender, start: int, stop: int, fin: bool
) -> None:
    """What was sent of a stream has arrived, mostly all before it, too; or is lost."""
    if (
        delivery is QuicDeliveryState.ACKED
        and start == sender._buffer_start
        and not fin
        and not len(sender._acked)
        and sender._reset_error_code is None
    ):
        sender._buffer_start = stop
        del sender._buffer[: stop - start]
    else:
        sender.on_data_delivery(delivery, start, stop, fin)


def _waiting(stream: QuicStream) -> int:
    """Count the octets that a stream's next frame would like to have."""
    pending = stream.sender._pending
    return len(pending[0]) + 16 if len(pending) else 16


def _uint(value: int) -> bytes:
    """Return a variable-length integer."""
    if value < 0x40:
        return value.to_bytes(1, "big")
    if value < 0x4000:
        return (value | 0x4000).to_bytes(2, "big")
    if value < 0x4000_0000:
        return (value | 0x8000_0000).to_bytes(4, "big")
    return (value | 0xC000_0000_0000_0000).to_bytes(8, "big")
