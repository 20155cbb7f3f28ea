"""The shorter way of packets beside aioquic's own: the same packets leave twins in the same state."""

from __future__ import annotations

import hashlib
import inspect
import random
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from aioquic._crypto import AEAD, HeaderProtection
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoContext, CryptoPair
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicSentPacket
from aioquic.quic.recovery import QuicPacketPacer, QuicPacketRecovery, QuicPacketSpace
from aioquic.quic.stream import QuicStreamReceiver, QuicStreamSender
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fawa.net import tls
from fawa.net.quic_packets import QuicLimits
from fawa.net.quic_server import ServerCore
from fawa.net.udp import Address
from tests.net.quic_talk import certificate
from tests.net.quic_twins import (
    CLIENT,
    SERVER,
    Dice,
    Pair,
    Plain,
    Short,
    handshake,
    make_comparable,
    seal,
    twin,
)


@pytest.fixture(scope="module")
def cert(tmp_path_factory: pytest.TempPathFactory) -> tls.Certificate:
    return certificate(Path(tmp_path_factory.mktemp("tls")))


@pytest.fixture(scope="module")
def dice() -> Iterator[Dice]:
    with pytest.MonkeyPatch.context() as patch:
        yield make_comparable(patch)


@pytest.fixture(scope="module")
def ends(cert: tls.Certificate, dice: Dice) -> tuple[QuicConnection, ServerCore]:
    return handshake(cert)


def pair(ends: tuple[QuicConnection, ServerCore], dice: Dice) -> Pair:
    client, server = ends
    return Pair(twin(client, QuicConnection), twin(server, Short), twin(server, Plain), dice.anew())


# One conversation, both ways.


@pytest.mark.parametrize("seed", range(30))
def test_twins_agree_on_every_packet(ends: tuple[QuicConnection, ServerCore], dice: Dice, seed: int) -> None:
    """Data both ways with loss, reordering, duplicates, resets, new keys and addresses of the client's."""
    chance = random.Random(seed)
    here = pair(ends, dice)
    client, source = here.client, CLIENT
    flying: list[tuple[bytes, bool, Address]] = []
    written: dict[int, bytearray] = {}
    asked: dict[int, bytearray] = {}
    answered: dict[int, bytearray] = {}
    #: Streams on which the server writes no more: it has ended them, or stopped them.
    over: set[int] = set()
    stopped: set[int] = set()
    loss = chance.choice([0.0, 0.02, 0.2])

    def carry(data: bytes, to_server: bool) -> None:
        if chance.random() >= loss:
            flying.append((data, to_server, source))
            if chance.random() < 0.05:
                flying.append((data, to_server, source))

    def exchange() -> None:
        nonlocal flying
        for data, _ in client.datagrams_to_send(here.now):
            carry(data, True)
        for data in here.from_server():
            carry(data, False)
        if chance.random() < 0.2:
            chance.shuffle(flying)
        arriving = chance.randint(0, len(flying))
        for data, to_server, address in flying[:arriving]:
            if to_server:
                here.to_server(data, address)
            else:
                client.receive_datagram(data, SERVER, here.now)
        flying = flying[arriving:]
        listen()

    def listen() -> None:
        for core in here.each():
            while (event := core.next_event()) is not None:
                number: int = getattr(event, "stream_id", -1)
                if core is here.plain and (data := getattr(event, "data", None)) is not None:
                    asked.setdefault(number, bytearray()).extend(data)
                if getattr(event, "end_stream", False) and number not in stopped:
                    over.add(number)
                    core.send_stream_data(number, b"that was all", end_stream=True)
        while (event := client.next_event()) is not None:
            if (data := getattr(event, "data", None)) is not None:
                answered.setdefault(event.stream_id, bytearray()).extend(data)  # type: ignore[attr-defined]

    open_streams: list[int] = []
    for _ in range(120):
        what = chance.random()
        if what < 0.35 or not open_streams:
            number = client.get_next_available_stream_id()
            if (len(open_streams) < 4 and chance.random() < 0.5) or not open_streams:
                open_streams.append(number)
            else:
                number = chance.choice(open_streams)
            data = chance.randbytes(chance.choice([1, 30, 900, 5000]))
            written.setdefault(number, bytearray()).extend(data)
            client.send_stream_data(number, data, end_stream=(ended := chance.random() < 0.1))
            if ended:
                open_streams.remove(number)
        elif what < 0.6:
            number = chance.choice(open_streams)
            data = chance.randbytes(chance.choice([1, 30, 900, 5000]))
            if number in here.plain._streams and number not in over | stopped:
                for core in here.each():
                    core.send_stream_data(number, data)
        elif what < 0.63:
            client.send_ping(1)
        elif what < 0.65:
            for core in here.each():
                core.send_ping(2)
        elif what < 0.67:
            number = chance.choice(open_streams)
            if number in here.plain._streams and number not in over | stopped:
                stopped.add(number)
                open_streams.remove(number)
                for core in here.each():
                    core.reset_stream(number, 5)
                    core.stop_stream(number, 6)
        elif what < 0.69:
            client.request_key_update()
        elif what < 0.70:
            for core in here.each():
                core.request_key_update()
        elif what < 0.72:
            source = ("198.51.100.1", chance.randrange(1024, 1030))
        here.tick(chance.choice([0.0015, 0.004, 0.03]))
        exchange()
    loss = 0.0
    for _ in range(200):
        here.tick(0.03)
        exchange()
    assert here.plain._close_event is None
    assert here.short.received
    assert here.short.sent
    for number, text in written.items():
        if number not in stopped:
            assert asked[number] == text
            if number not in open_streams:
                assert answered[number].endswith(b"that was all")


# What a packet may hold.

_NUMBERS = st.one_of(
    st.integers(0, 12), st.integers(0, 70), st.sampled_from([2**14, 65535, 65536, 2**30, 2**62 - 1])
)


def uint(value: int) -> bytes:
    for size, mark in ((1, 0), (2, 1), (4, 2)):
        if value < 1 << (8 * size - 2):
            return (value | mark << (8 * size - 2)).to_bytes(size, "big")
    return (value | 3 << 62).to_bytes(8, "big")


_STREAM = st.builds(
    lambda kind, number, offset, data, wrong: (
        b"%c%b%b%b%b"
        % (
            kind,
            uint(number),
            uint(offset) if kind & 4 else b"",
            uint(max(0, len(data) + wrong)) if kind & 2 else b"",
            data,
        )
    ),
    st.integers(0x08, 0x0F),
    st.sampled_from([0, 0, 0, 4, 8, 1, 2, 3, 512, 4000]),
    _NUMBERS,
    st.binary(max_size=40),
    st.sampled_from([0, 0, 0, 0, 1, -1]),
)
_ACK = st.builds(
    lambda numbers, kind: bytes((kind,)) + b"".join(map(uint, numbers)),
    st.lists(_NUMBERS, min_size=3, max_size=8),
    st.sampled_from([2, 2, 3]),
)
_FRAME = st.one_of(
    _STREAM,
    _ACK,
    st.sampled_from([b"\x01", b"\x00", b"\x1e", b"\x1a12345678"]),
    st.builds(
        lambda kind, numbers: bytes((kind,)) + b"".join(map(uint, numbers)),
        st.integers(0x04, 0x19),
        st.lists(_NUMBERS, max_size=3),
    ),
    st.builds(lambda kind, rest: bytes((kind,)) + rest, st.integers(0, 0x31), st.binary(max_size=20)),
    st.binary(max_size=20),
)


@settings(deadline=None, max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    packets=st.lists(
        st.tuples(st.lists(_FRAME, max_size=4).map(b"".join), st.sampled_from([0] * 8 + [0x08, 0x20])),
        min_size=1,
        max_size=5,
    )
)
@example([(b"\x0f\x00\x28\x01a", 0), (b"\x0e\x00\x29\x01a", 0)])  # beyond the stream's end
@example([(b"\x0e\x00\x3c\x01a", 0)])  # beyond its window
@example(  # beyond the connection's window
    [
        (b"\x0a\x04\x01a\x0a\x08\x01a", 0),
        (b"".join(b"\x0e%c%c\x28%b" % (number, at, bytes(40)) for number, at in ((0, 5), (4, 1), (8, 1))), 0),
    ]
)
@example([(b"\x1a12345678", 0)])
def test_twins_agree_on_anything_that_was_encrypted(
    ends: tuple[QuicConnection, ServerCore], dice: Dice, packets: list[tuple[bytes, int]]
) -> None:
    """Also on the error that ends the connection: its code, its frame and its reason."""
    here = pair(ends, dice)
    for core in here.each():
        # Little, so that it is overdrawn at times.
        core._windows = QuicLimits(stream_window=60, connection_window=90)
        core._local_max_stream_data_bidi_remote = 60
        core._local_max_data.value = core._local_max_data.sent = core._local_max_data.used + 90
    # Something is under way that can be acknowledged.
    here.client.send_stream_data(0, b"first")
    for data, _ in here.client.datagrams_to_send(here.now):
        here.to_server(data, CLIENT)
    for core in here.each():
        core.send_stream_data(0, bytes(4000))
    here.tick(0.002)
    here.from_server()
    for frames, bits in packets:
        here.to_server(seal(here.client, frames, bits=bits), CLIENT)
        here.tick(0.002)  # an acknowledgement that is not due goes with an answer, which aioquic's does not
        here.from_server()


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_twins_agree_on_damaged_packets(
    ends: tuple[QuicConnection, ServerCore], dice: Dice, data: st.DataObject
) -> None:
    here = pair(ends, dice)
    packet = seal(here.client, b"\x0a\x00\x05hello")
    broken = bytearray(packet)
    for _ in range(data.draw(st.integers(1, 3))):
        broken[data.draw(st.integers(0, len(broken) - 1))] ^= data.draw(st.integers(1, 255))
    broken = broken[: data.draw(st.integers(1, len(broken)))]
    here.to_server(bytes(broken), CLIENT)
    here.to_server(packet, CLIENT)
    here.to_server(packet, CLIENT)
    assert sum("hello" in event for event in here.events()) <= 1


# What the shorter way stands on.

#: Sources of aioquic that the shorter way replaces or reaches into, by the digest of each.
REPLACED = {
    "AEAD": "f9a6d18394533a45",
    "HeaderProtection": "3c96518aef24acee",
    "CryptoContext": "2e18271cdbb7f31b",
    "CryptoPair": "b15d4150ed1808c1",
    "QuicSentPacket": "cf8cb41c7ff005d9",
    "QuicPacketBuilder": "f857fd05613df2a8",
    "QuicPacketPacer": "d845e32503fbe1f3",
    "QuicPacketRecovery": "dac13f4da9d25ceb",
    "QuicPacketSpace": "c7cc186fce73f0b8",
    "QuicStreamReceiver": "78596a9b1406685c",
    "QuicStreamSender": "f14fb859f32d053a",
    "QuicConnection.receive_datagram": "3c7f29826050cbfe",
    "QuicConnection.datagrams_to_send": "f4eb22c8add260fe",
    "QuicConnection.get_timer": "07184a05f894e968",
    "QuicConnection.handle_timer": "8ebd76a179bf5e25",
    "QuicConnection._payload_received": "612b67759a96c701",
    "QuicConnection._handle_ack_frame": "a9cf2707aa0f99a5",
    "QuicConnection._handle_stream_frame": "8c79348a854e307d",
    "QuicConnection._write_application": "c37bf64378f72b2f",
    "QuicConnection._write_ack_frame": "dc0bde63adda7ae4",
    "QuicConnection._write_stream_frame": "9bc0be962394a322",
    "QuicConnection._flush_builder": "ac4bd66d7c3892df",
    "QuicConnection._get_or_create_stream": "aee09c84cd0da114",
    "QuicConnection._on_ack_delivery": "14648d79ecc50a3d",
}


def test_aioquic_is_the_one_that_the_shorter_way_was_written_beside() -> None:
    """After an upgrade, compare what is named here with `quic_receive` and `quic_send`, then note it anew."""
    assert version("aioquic") == "1.7.2"
    changed = [name for name, known in REPLACED.items() if digest(name) != known]
    assert not changed, f"aioquic has changed {changed}: compare with fawa.net.quic_receive and quic_send"


def digest(name: str) -> str:
    """Return the digest of the source of a class or a method."""
    found = SOURCES[name.partition(".")[0]]
    for part in name.split(".")[1:]:
        found = getattr(found, part)
    return hashlib.sha256(inspect.getsource(found).encode()).hexdigest()[:16]


SOURCES = {
    kind.__name__: kind
    for kind in (
        AEAD,
        HeaderProtection,
        CryptoContext,
        CryptoPair,
        QuicConnection,
        QuicPacketBuilder,
        QuicSentPacket,
        QuicPacketPacer,
        QuicPacketRecovery,
        QuicPacketSpace,
        QuicStreamReceiver,
        QuicStreamSender,
    )
}
