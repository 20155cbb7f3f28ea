"""Two servers at one end of a connection: one takes the shorter way, the other aioquic's own."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch

from fawa.net import quic_receive, quic_send, tls
from fawa.net.quic_core import QuicCore
from fawa.net.quic_packets import QuicLimits, QuicSecrets, TlsFacts
from fawa.net.quic_server import ServerCore
from fawa.net.udp import Address

SERVER: Address = ("192.0.2.1", 443)
CLIENT: Address = ("198.51.100.1", 1024)


class Plain(ServerCore):
    """All goes aioquic's way."""

    receive_datagram = QuicCore.receive_datagram
    datagrams_to_send = QuicCore.datagrams_to_send
    get_timer = QuicCore.get_timer
    handle_timer = QuicCore.handle_timer


class Short(ServerCore):
    """Counts what goes the shorter way."""

    received = 0
    sent = 0

    def _received(self, *arguments: Any) -> None:
        self.received += 1
        super()._received(*arguments)

    def _write_short(self, *arguments: Any) -> list[tuple[bytes, Address]]:
        self.sent += 1
        return super()._write_short(*arguments)


class Dice:
    """Chance for aioquic, the same for both twins."""

    def __init__(self) -> None:
        self._each: dict[int, random.Random] = {}
        self._current = random.Random(0)

    def urandom(self, size: int) -> bytes:
        return self._current.randbytes(size)

    def anew(self) -> Dice:
        """Begin again."""
        self._each.clear()
        return self

    @contextmanager
    def of(self, number: int) -> Iterator[None]:
        outside = self._current
        self._current = self._each.setdefault(number, random.Random(7))
        yield
        self._current = outside


def make_comparable(patch: pytest.MonkeyPatch) -> Dice:
    """Take away what the shorter way does otherwise by intent, and what aioquic leaves to chance.

    By intent: a lone packet is acknowledged later, larger datagrams are tried, and parts of packets wait
    for room in the window for all of it.
    """
    dice = Dice()
    patch.setattr("aioquic.quic.connection.os", SimpleNamespace(urandom=dice.urandom))
    patch.setattr(QuicStream, "__hash__", lambda stream: stream.stream_id or 0)  # the order of its sets
    patch.setattr(quic_receive, "_FEW_ACK_DELAY", 0.001)
    patch.setattr(quic_send, "_MTU_TRIES", 0)
    patch.setattr(quic_send, "_waiting", lambda stream: 0)
    return dice


def handshake(certificate: tls.Certificate) -> tuple[QuicConnection, ServerCore]:
    """Return a client and a server whose handshake is confirmed, at the second 1."""
    configuration = QuicConfiguration(
        alpn_protocols=["h3"], server_name="localhost", cadata=certificate.chain, idle_timeout=300
    )
    client = QuicConnection(configuration=configuration)
    facts = TlsFacts(
        certificate.chain, certificate.key, QuicLimits(stream_window=65536, connection_window=262144)
    )
    server = ServerCore(
        facts, QuicSecrets(b"0123456789abcdef"), original_cid=client.original_destination_connection_id
    )
    client.connect(SERVER, 0.0)
    for turn in range(20):
        now = turn / 20
        for data, _ in client.datagrams_to_send(now):
            server.receive_datagram(data, CLIENT, now)
        for data, _ in server.datagrams_to_send(now):
            client.receive_datagram(data, SERVER, now)
    assert server._handshake_confirmed
    for end in (client, server):
        while end.next_event() is not None:
            pass
        # Both stop packets at the end of the window, but not at the same octet.
        end._loss._cc.congestion_window = 10**6
    return client, server


def twin(core: Any, kind: type[Any]) -> Any:
    """Return a connection in the same state; keys, which keep none, are shared."""
    memo: dict[int, object] = {}
    shared = [core.tls, core._configuration, core._logger, *core._crypto_buffers.values()]
    for pair in [*core._cryptos.values(), *core._cryptos_initial.values()]:
        for context in (pair.recv, pair.send):
            shared += [context.aead, context.hp]
    if isinstance(core, ServerCore):
        shared.append(core._secrets)
    for thing in shared:
        memo[id(thing)] = thing
    copied = copy.deepcopy(core, memo)
    copied.__class__ = kind
    return copied


def seal(client: QuicConnection, frames: bytes, *, bits: int = 0) -> bytes:
    """Return a packet of the client's with these frames, and with these bits in its first octet."""
    keys, number = client._cryptos[Epoch.ONE_RTT], client._packet_number
    client._packet_number += 1
    # Few octets need a long packet number, or the header's protection would have nothing to go by.
    size = 2 if len(frames) > 1 else 4
    header = b"%c%b%b" % (
        0x40 | bits | keys.key_phase << 2 | size - 1,
        client._peer_cid.cid,
        number.to_bytes(4, "big")[-size:],
    )
    packet: bytes = keys.encrypt_packet(header, frames, number)
    return packet


def told(core: Any) -> list[str]:
    """Return the events that wait."""
    return [f"{type(event).__name__} {vars(event)}" for event in core._events]


def state(core: Any) -> dict[str, Any]:
    """Return all that a packet may change."""
    space, loss = core._spaces[Epoch.ONE_RTT], core._loss
    keys = core._cryptos[Epoch.ONE_RTT]
    limits = (core._local_max_data, core._local_max_streams_bidi, core._local_max_streams_uni)
    return {
        "state": (core._state, core._close_pending, core._close_at, core._ack_eliciting_sent_since_receipt),
        "close": core._close_event and vars(core._close_event),
        "events": told(core),
        "received": (
            space.expected_packet_number,
            space.largest_received_packet,
            space.largest_received_time,
            list(space.ack_queue),
            space.ack_at,
            sorted(space.received_packets._received),
        ),
        "sent": [
            (number, packet.in_flight, packet.is_ack_eliciting, packet.sent_bytes, packet.sent_time)
            for number, packet in space.sent_packets.items()
        ],
        "flight": (space.ack_eliciting_in_flight, space.largest_acked_packet, space.loss_time),
        "loss": {name: value for name, value in vars(loss).items() if isinstance(value, int | float | bool)},
        "congestion": {name: value for name, value in vars(loss._cc).items() if name != "_rtt_monitor"},
        "rtt": vars(loss._cc._rtt_monitor),
        "pacer": vars(loss._pacer),
        "streams": {number: _stream(stream) for number, stream in core._streams.items()},
        "queue": sorted(stream.stream_id for stream in core._streams_queue),
        "limits": [(limit.used, limit.value, limit.sent) for limit in limits],
        "remote": (core._remote_max_data, core._remote_max_data_used, core._remote_max_streams_bidi),
        "keys": (keys.recv.key_phase, keys.recv.secret, keys.send.secret, keys._update_key_requested),
        "paths": [
            (path.addr, path.is_validated, path.bytes_sent, list(path.remote_challenges))
            for path in core._network_paths
        ],
        "ids": (
            core.host_cid,
            core._peer_cid.cid,
            core._packet_number,
            core._spin_bit,
            core._spin_highest_pn,
        ),
        "pending": (core._ping_pending, core._probe_pending, list(core._datagrams_pending)),
    }


def _stream(stream: QuicStream) -> tuple[Any, ...]:
    sender, receiver = stream.sender, stream.receiver
    return (
        (receiver.highest_offset, receiver._buffer_start, receiver.is_finished, receiver._final_size),
        (bytes(receiver._buffer), list(receiver._ranges), receiver.stop_pending),
        (sender.highest_offset, sender._buffer_start, sender.is_finished, sender.reset_pending),
        (list(sender._pending), sender._pending_eof, list(sender._acked), sender._acked_fin),
        (stream.max_stream_data_local, stream.max_stream_data_local_sent, stream.max_stream_data_remote),
    )


@attrs.define
class Pair:
    """A connection with a client at one end and twins at the other, which have to agree at every step."""

    client: QuicConnection
    short: Short
    plain: Plain
    dice: Dice
    now: float = 1.0

    def agree(self) -> None:
        for core in (self.short, self.plain):
            # aioquic looks at its pacer, and has it wait, also where it has nothing to send.
            core._loss._pacer.update_bucket(self.now)
        assert self.short._pacing_at in (None, self.plain._pacing_at)
        ours, theirs = state(self.short), state(self.plain)
        for name, value in theirs.items():
            assert ours[name] == value, name

    def each(self) -> Iterator[ServerCore]:
        for number, core in enumerate((self.short, self.plain)):
            with self.dice.of(number):
                yield core

    def to_server(self, data: bytes, source: Address) -> None:
        for core in self.each():
            core.receive_datagram(data, source, self.now)
        self.agree()

    def from_server(self) -> list[bytes]:
        """Return what the server sends; the same whichever way it is written."""
        sent: list[list[tuple[bytes, Address]]] = []
        for core in self.each():
            core._streams_queue.sort(key=lambda stream: stream.stream_id or 0)
            sent.append(core.datagrams_to_send(self.now))
        assert sent[0] == sent[1]
        self.agree()
        return [data for data, _ in sent[1]]

    def tick(self, seconds: float) -> None:
        """Let time pass, and the timers fire that are due."""
        self.now += seconds
        timers = [core.get_timer() for core in self.each()]
        assert timers[0] == timers[1] or timers[1] == self.plain._pacing_at
        assert self.short._loss_at == self.plain._loss_at
        for core, timer in zip(self.each(), timers, strict=True):
            if timer is not None and timer < self.now:
                core.handle_timer(self.now)
        timer = self.client.get_timer()
        if timer is not None and timer < self.now:
            self.client.handle_timer(self.now)
        self.agree()

    def events(self) -> list[str]:
        """Take what the servers tell."""
        found = told(self.plain)
        for core in self.each():
            core._events.clear()
        return found
