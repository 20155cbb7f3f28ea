"""The packets that most are, as they go out: the counterpart of `quic_receive`."""

from __future__ import annotations

from typing import Any, Final

from aioquic.quic.connection import (
    END_STATES,
    QuicConnectionId,
    QuicConnectionState,
    stream_is_client_initiated,
)
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicSentPacket
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch

from fawa.net.quic_packets import Address
from fawa.net.quic_receive import ShortReceiver

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


class ShortSender(ShortReceiver):
    """aioquic's connection, server side, with a shorter way for common packets."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._cids_to_tell = True

    def _has_limits_to_tell(self) -> bool:
        """Whether flow control or stream limits may have to be raised."""
        raise NotImplementedError

    # What is to be looked at before the shorter way is taken.

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> QuicStream:
        self.moved.add(stream_id)
        return super()._get_or_create_stream(frame_type, stream_id)

    def _on_max_stream_data_delivery(self, delivery: QuicDeliveryState, stream: QuicStream) -> None:
        self.moved.add(stream.stream_id)
        super()._on_max_stream_data_delivery(delivery, stream)

    def _on_new_connection_id_delivery(
        self, delivery: QuicDeliveryState, connection_id: QuicConnectionId
    ) -> None:
        self._cids_to_tell = True
        super()._on_new_connection_id_delivery(delivery, connection_id)

    def _replenish_connection_ids(self) -> None:
        self._cids_to_tell = True
        super()._replenish_connection_ids()

    def _has_cids_to_tell(self) -> bool:
        if self._cids_to_tell:
            self._cids_to_tell = not all(cid.was_sent for cid in self._host_cids)
        return self._cids_to_tell

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
        if not self._handshake_confirmed or self._state in END_STATES or len(self._network_paths) > 1:
            return super().get_timer()
        if not self._network_paths[0].is_validated:
            return super().get_timer()
        space, at, self._loss_at = self._short_space, self._close_at, None
        if space.ack_at is not None and space.ack_at < at:
            at = space.ack_at
        if space.ack_eliciting_in_flight or space.loss_time is not None:
            loss = self._loss
            if space.loss_time is not None:
                self._loss_at = space.loss_time
            else:
                wait = loss.get_probe_timeout() * (1 << loss._pto_count)
                self._loss_at = loss._time_of_last_sent_ack_eliciting_packet + wait
            at = min(at, self._loss_at)
        if self._pacing_at is not None and self._pacing_at < at:
            at = self._pacing_at
        return at

    # Writing.

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        """Return the datagrams to send and where to."""
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
        self._streams_queue.remove(stream)
        del self._streams[stream.stream_id]
        if stream_is_client_initiated(stream.stream_id) != self._is_client:
            self._stream_limit(stream.stream_id).value += 1

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
        return self._has_cids_to_tell() or self._has_limits_to_tell()

    def _write_short(
        self, ready: list[QuicStream], space: QuicPacketSpace, now: float
    ) -> list[tuple[bytes, Address]]:
        """Write packets with an acknowledgement, if one waits, and what these streams have."""
        loss, pacer, path = self._loss, self._loss._pacer, self._network_paths[0]
        crypto = self._short_keys.send
        aead, hide = crypto.aead, crypto.hp._mask
        encrypt, iv = aead._aead.encrypt, aead._iv
        cid = self._peer_cid.cid
        first = _FIRST | self._spin_bit << 5 | crypto.key_phase << 2
        start = bytes((first,)) + cid
        overhead = len(start) + _PACKET_NUMBER + _TAG
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
            packet = QuicSentPacket(
                Epoch.ONE_RTT, False, False, False, self._packet_number, QuicPacketType.ONE_RTT, now
            )
            room = self._max_datagram_size - overhead
            if space.ack_at is not None:
                ack = self._short_ack(packet, space, now)
                frames.append(ack)
                room -= len(ack)
            allowed = loss.congestion_window - loss.bytes_in_flight - overhead
            if ready:
                # Parts of packets are not worth the window: there will be more of it.
                if allowed < room and loss.bytes_in_flight:
                    ready = [stream for stream in ready if _waiting(stream) <= allowed]
                ready = self._write_streams(ready, served, packet, frames, min(room, allowed))
            if not frames:
                break
            payload = frames[0] if len(frames) == 1 else b"".join(frames)
            number = self._packet_number
            short = number & 0xFFFF
            sealed = encrypt(
                (iv ^ number).to_bytes(12, "big"), payload, start + short.to_bytes(_PACKET_NUMBER, "big")
            )
            mask = hide(sealed[_SAMPLE : _SAMPLE + _SAMPLE_SIZE])
            head = (first ^ mask[0] & 0x1F).to_bytes(1, "big") + cid
            data = head + (short ^ (mask[1] << 8 | mask[2])).to_bytes(_PACKET_NUMBER, "big") + sealed
            found.append((data, path.addr))
            path.bytes_sent += len(data)
            packet.sent_bytes = len(data)
            loss.on_packet_sent(packet=packet, space=space)
            pacer.update_after_send(now)
            self._packet_number = number + 1
            if packet.is_ack_eliciting and not self._ack_eliciting_sent_since_receipt:
                self._close_at = now + self._idle_timeout()
                self._ack_eliciting_sent_since_receipt = True
        if several:
            # Those that were served come last the next time.
            were = set(served)
            self._streams_queue = [stream for stream in self._streams_queue if stream not in were]
            self._streams_queue += dict.fromkeys(served)
        return found

    def _short_ack(self, packet: QuicSentPacket, space: QuicPacketSpace, now: float) -> bytes:
        """Return an ACK frame of all that was received, which is one range (RFC 9000 section 19.3)."""
        [received] = space.ack_queue
        delay = int((now - space.largest_received_time) * 1_000_000) >> self._local_ack_delay_exponent
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
        """Add STREAM frames to a packet; returns the streams that have more, those that were served last."""
        more: list[QuicStream] = []
        for position, stream in enumerate(ready):
            sender = stream.sender
            stream_id = _uint(stream.stream_id)
            offset = sender.next_offset
            begin = stream_id + _uint(offset) if offset else stream_id
            left = room - len(begin) - 3
            if left <= 0:
                return ready[position:] + more
            before = sender.highest_offset
            frame = sender.get_frame(
                left,
                min(
                    before + self._remote_max_data - self._remote_max_data_used, stream.max_stream_data_remote
                ),
            )
            if frame is None:
                continue  # flow control; what raises it comes in a packet
            size = len(frame.data)
            kind = _STREAM | _LEN | (_OFF if offset else 0) | frame.fin
            frames.append(b"%c%b%b" % (kind, begin, (size | 0x4000).to_bytes(2, "big")))
            frames.append(frame.data)
            room = left - size
            packet.delivery_handlers.append((sender.on_data_delivery, (offset, offset + size, frame.fin)))
            packet.in_flight = packet.is_ack_eliciting = True
            self._remote_max_data_used += sender.highest_offset - before
            served.append(stream)
            if len(sender._pending) or sender._pending_eof:
                more.append(stream)
            else:
                sender.buffer_is_empty = True
        return more


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
