"""The shorter way of common packets: what it leaves to aioquic, and datagrams as large as the path takes."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
import trio
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import Epoch

from fawa.net import tls
from fawa.net.exchange import Exchange
from fawa.net.quic import QuicListener
from fawa.net.quic_engine import QuicEngine
from fawa.net.udp import Address, DatagramSocket
from tests.net.quic_talk import SERVER, Client, There, Weather, certificate, listening

BIG = bytes(range(256)) * 1024
#: PING, padded; and a common frame that changes nothing.
PING = b"\x01\x00\x00\x00"
ACK_OF_NOTHING = b"\x02\x00\x00\x00\x00"


@pytest.fixture(scope="module")
def cert(tmp_path_factory: pytest.TempPathFactory) -> tls.Certificate:
    return certificate(Path(tmp_path_factory.mktemp("tls")))


async def big(exchange: Exchange) -> None:
    """Answer with much."""
    exchange.start(200, [])
    await exchange.send(BIG)
    exchange.finish()


async def ticking(exchange: Exchange) -> None:
    """Answer bit by bit."""
    exchange.start(200, [])
    for _ in range(20):
        await exchange.send(b"tick")
        await trio.sleep(0.2)
    exchange.finish()


def engine(there: There) -> QuicEngine:
    [link] = there.listener._links
    return link.engine


def sealed(client: Client, frames: bytes, *, first: int = 0x41) -> bytes:
    """Return a packet of the client's with these frames."""
    quic = client.quic
    keys = quic._cryptos[Epoch.ONE_RTT]
    number = quic._packet_number
    quic._packet_number += 1
    header = bytes((first | keys.key_phase << 2,)) + quic._peer_cid.cid + (number & 0xFFFF).to_bytes(2, "big")
    packet: bytes = keys.encrypt_packet(header, frames, number)
    return packet


# What is left to aioquic.


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        pytest.param(b"\x3f\x00\x00", QuicErrorCode.FRAME_ENCODING_ERROR, id="unknown frame"),
        pytest.param(b"\x40", QuicErrorCode.FRAME_ENCODING_ERROR, id="half a frame type"),
        pytest.param(b"\x0a\x00\x44", QuicErrorCode.FRAME_ENCODING_ERROR, id="half a length"),
        pytest.param(b"\x0a\x00\x05abc", QuicErrorCode.FRAME_ENCODING_ERROR, id="less than its length"),
        pytest.param(b"\x0a\x03\x01a", QuicErrorCode.STREAM_STATE_ERROR, id="a stream only we send on"),
        pytest.param(b"\x0a\x01\x01a", QuicErrorCode.STREAM_STATE_ERROR, id="a stream we have not opened"),
        pytest.param(b"\x0a\x7f\xfc\x01a", QuicErrorCode.STREAM_LIMIT_ERROR, id="too many streams"),
        pytest.param(
            b"\x0e\x00\x80\xff\xff\xff\x01a", QuicErrorCode.FLOW_CONTROL_ERROR, id="beyond the window"
        ),
        pytest.param(
            b"\x02\x05\x00\x00\x09", QuicErrorCode.FRAME_ENCODING_ERROR, id="negative packet number"
        ),
        pytest.param(b"\x02\x05\x00", QuicErrorCode.FRAME_ENCODING_ERROR, id="half an acknowledgement"),
        pytest.param(b"\x0d\x00\x01\x0f\x00\x02", QuicErrorCode.FINAL_SIZE_ERROR, id="two final sizes"),
    ],
)
async def test_what_a_packet_may_not_hold_ends_the_connection_with_its_code(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock, frames: bytes, code: int
) -> None:
    async with listening(cert) as there:
        client = await there.connect()
        number = client.open("/")
        assert number == 0
        client.send(number, b"so that the stream is known")
        await trio.sleep(1)
        client.mailbox.send([(sealed(client, ACK_OF_NOTHING + frames), SERVER)])
        over = await client.until_over()
        assert over.error_code == code


async def test_frames_before_one_that_is_not_common_are_acted_on_once(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    async with listening(cert) as there:
        client = await there.connect()
        number = client.open("/")
        client.send(number, b"")
        await trio.sleep(1)
        stream = engine(there).quic._streams[number]
        at = stream.receiver.highest_offset
        body = b"\x00\x05hello"  # a DATA frame of HTTP/3
        # STREAM, PING, STREAM with the end.
        frames = b"".join(
            (
                b"\x0e%c%c%c%b" % (number, at, len(body), body),
                b"\x01",
                b"\x0d%c%c" % (number, at + len(body)),
            )
        )
        client.mailbox.send([(sealed(client, frames), SERVER)])
        await client.until(lambda: client[number].ended)
        assert client[number].body == b"hello"
        assert client[number].trailers == {b"size": b"5"}


async def test_reserved_bits_end_the_connection(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    async with listening(cert) as there:
        client = await there.connect()
        await client.ask()
        client.mailbox.send([(sealed(client, b"\x01\x00\x00\x00", first=0x51), SERVER)])
        assert (await client.until_over()).error_code == QuicErrorCode.PROTOCOL_VIOLATION


async def test_keys_may_change_at_any_moment(cert: tls.Certificate, autojump_clock: trio.abc.Clock) -> None:
    async with listening(cert) as there:
        client = await there.connect()
        for _ in range(3):
            assert (await client.ask(body=BIG[:5000])).body == BIG[:5000]
            client.quic.request_key_update()
        engine(there).quic.request_key_update()
        for _ in range(3):
            assert (await client.ask(body=BIG[:5000])).body == BIG[:5000]


async def test_damaged_packets_change_nothing(cert: tls.Certificate, autojump_clock: trio.abc.Clock) -> None:
    chance = random.Random(3)
    async with listening(cert) as there:
        client = await there.connect()
        await client.ask()

        def damage(data: bytes, to: Address) -> bool:
            if to == SERVER and data[0] & 0x80 == 0:
                broken = bytearray(data)
                broken[chance.randrange(1 + 8, len(data))] ^= 1 << chance.randrange(8)
                there.network._inboxes[SERVER].send_nowait((bytes(broken), client.mailbox.address))
                there.network._inboxes[SERVER].send_nowait((data[: chance.randrange(1, len(data))], to))
            return True

        there.network.passes = damage
        for _ in range(10):
            assert (await client.ask(body=BIG[:3000])).body == BIG[:3000]
        there.network.passes = lambda data, to: True


async def test_streams_share_a_connection(cert: tls.Certificate, autojump_clock: trio.abc.Clock) -> None:
    """None of several large answers has to wait for another's end."""
    async with listening(cert, big) as there:
        client = await there.connect()
        numbers = [client.open("/", end=True) for _ in range(4)]
        await client.until(lambda: any(client[number].ended for number in numbers))
        assert all(len(client[number].body) > len(BIG) // 2 for number in numbers)
        await client.until(lambda: all(client[number].ended for number in numbers))
        assert all(client[number].body == BIG for number in numbers)


async def test_an_answer_takes_the_acknowledgement_along(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    async with listening(cert) as there:
        client = await there.connect()
        await client.ask()
        await trio.sleep(1)
        sent: list[int] = []
        there.network.passes = lambda data, to: to == SERVER or not sent.append(len(data))  # type: ignore[func-returns-value]
        for _ in range(10):
            await client.ask(body=b"hello")
        assert len(sent) <= 12


async def test_few_packets_are_acknowledged_later_than_many(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    async with listening(cert) as there:
        client = await there.connect()
        await trio.sleep(1)
        answers: list[float] = []
        start = 0.0
        there.network.passes = lambda data, to: (
            to == SERVER or not answers.append(trio.current_time() - start)  # type: ignore[func-returns-value]
        )
        for count, latest in ((1, 0.006), (7, 0.006), (8, 0.002)):
            await trio.sleep(1)
            answers.clear()
            start = trio.current_time()
            there.bring([(sealed(client, PING), client.mailbox.address) for _ in range(count)])
            await trio.sleep(0.1)
            assert len(answers) == 1, f"{count} packets have one acknowledgement"
            assert latest - 0.002 < answers[0] <= latest


async def test_nobody_is_woken_for_what_has_come(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[float] = []
    fire = QuicListener._fire

    def note(listener: QuicListener, now: float) -> None:
        woken.append(now)
        fire(listener, now)

    monkeypatch.setattr(QuicListener, "_fire", note)
    async with listening(cert, ticking) as there:
        client = await there.connect()
        number = client.open("/", end=True)
        await trio.sleep(1.1)
        woken.clear()
        await client.until(lambda: client[number].body == b"tick" * 20)
        assert not woken
        await trio.sleep(100)
        assert not there.listener.connections, "but for its idle timeout"


@pytest.mark.parametrize(("clients", "looks"), [(20, 3), (4, 4)])
async def test_acknowledgements_of_several_gather(
    cert: tls.Certificate,
    autojump_clock: trio.abc.Clock,
    monkeypatch: pytest.MonkeyPatch,
    clients: int,
    looks: int,
) -> None:
    taken: list[float] = []
    take = QuicListener._take_untrusted

    def note(listener: QuicListener, data: bytes, address: Address, sock: DatagramSocket, now: float) -> None:
        taken.append(now)
        take(listener, data, address, sock, now)

    go = trio.Event()

    async def at_once(exchange: Exchange) -> None:
        await go.wait()
        exchange.respond_text(200, "now")

    monkeypatch.setattr(QuicListener, "_take_untrusted", note)
    async with listening(cert, at_once) as there:
        crowd = [await there.connect() for _ in range(clients)]
        numbers = [client.open("/", end=True) for client in crowd]
        await trio.sleep(1)
        there.network.passes = lambda data, to: to != SERVER  # they are silent but for what is brought
        go.set()
        await trio.sleep(0.02)
        taken.clear()
        for client in crowd:
            there.bring([(sealed(client, ACK_OF_NOTHING), client.mailbox.address)])
            await trio.sleep(0.0002)
        await trio.sleep(0.002)
        assert len(taken) == clients
        assert len(set(taken)) == looks, "one for each where there are few; else for those of 2 ms"
        there.network.passes = lambda data, to: True
        for client, number in zip(crowd, numbers, strict=True):
            await client.until(lambda client=client, number=number: client[number].ended)  # type: ignore[misc]
        await trio.sleep(1)
        assert not there.listener._waiting, "all has come"


# The size of datagrams.


async def test_datagrams_grow_to_what_the_path_takes(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    sizes: Counter[int] = Counter()

    def note(data: bytes, to: Address) -> bool:
        sizes[len(data)] += to != SERVER
        return True

    async with listening(cert, big) as there:
        there.network.passes = note
        answer = await (await there.connect()).ask()
        assert answer.body == BIG
        assert max(sizes) == 1452
        assert sizes[1452] > sizes[1200]


async def test_datagrams_stay_small_where_the_path_takes_no_others(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    tried = 0

    def narrow(data: bytes, to: Address) -> bool:
        nonlocal tried
        tried += len(data) > 1300
        return len(data) <= 1300

    async with listening(cert, big) as there:
        there.network.passes = narrow
        client = await there.connect()
        answer = await client.ask()
        assert answer.body == BIG
        assert tried == 3
        # What was only tried is no sign of congestion (RFC 9000 section 14.4).
        assert vars(engine(there).quic._loss._cc)["_congestion_recovery_start_time"] == 0


@pytest.mark.parametrize("chatty", [False, True], ids=["silent", "chatty"])
async def test_a_path_that_becomes_narrow_is_noticed(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock, chatty: bool
) -> None:
    async with listening(cert, big) as there:
        client = await there.connect()
        assert (await client.ask()).body == BIG
        assert engine(there).quic._max_datagram_size == 1452
        there.network.passes = lambda data, to: len(data) <= 1300
        with trio.CancelScope() as talk:
            async with trio.open_nursery() as nursery:
                if chatty:
                    nursery.start_soon(_chat, client, there)
                answer = await client.ask()
                talk.cancel()
        assert answer.body == BIG
        assert engine(there).quic._max_datagram_size == 1200


async def _chat(client: Client, there: There) -> None:
    """Have small packets arrive all the time, so that silence does not say it."""
    while True:
        engine(there).ping(7)
        client.quic.send_ping(9)
        client.flush()
        await trio.sleep(0.005)


async def test_a_lossy_network_with_large_datagrams(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    weather = Weather(loss=0.05, reorder=0.05, duplicate=0.02)
    async with listening(cert, big, weather=weather, seed=11) as there:
        client = await there.connect()
        for _ in range(5):
            assert (await client.ask()).body == BIG
