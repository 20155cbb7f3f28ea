"""The QUIC listener before and beside requests: addresses, versions, caps, garbage, certificates."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio
from aioquic.quic.packet import QuicProtocolVersion

from fawa.net import tls
from fawa.net.quic import QuicSettings
from fawa.net.udp import Address, Datagram
from tests.net.quic_talk import Weather, certificate, listening

CHANCE = random.Random(7)


@pytest.fixture(scope="module")
def cert(tmp_path_factory: pytest.TempPathFactory) -> tls.Certificate:
    return certificate(Path(tmp_path_factory.mktemp("tls")))


@pytest.fixture(scope="module")
def other_cert(tmp_path_factory: pytest.TempPathFactory) -> tls.Certificate:
    return certificate(Path(tmp_path_factory.mktemp("other")))


@pytest.mark.parametrize("retry", ["always", "never"])
async def test_a_client_may_have_to_prove_its_address(
    cert: tls.Certificate, retry: str, autojump_clock: trio.abc.Clock
) -> None:
    async with listening(cert, settings=QuicSettings(retry=retry)) as there:
        client = await there.connect()
        assert (await client.ask(body=b"hello")).body == b"hello"
        assert there.listener.counts.retried == (1 if retry == "always" else 0)


async def test_many_handshakes_under_way_make_retry_begin_and_then_new_ones_wait(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    settings = QuicSettings(max_handshakes=20, handshake_timeout=10)
    async with listening(cert, settings=settings) as there:
        # The server's answers do not arrive, so these handshakes stay half open.
        there.network.passes = lambda data, to: to == ("192.0.2.1", 443)
        for _ in range(50):
            there.client()
        await trio.sleep(1)
        assert there.listener.connections == 5
        assert there.listener.counts.retried >= 45
        there.network.passes = lambda data, to: True
        client = await there.connect()
        assert (await client.ask(body=b"hello")).body == b"hello"


async def test_half_open_handshakes_end_at_their_deadline_and_are_capped(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    settings = QuicSettings(retry="never", max_handshakes=20, handshake_timeout=10)
    async with listening(cert, settings=settings) as there:
        there.network.passes = lambda data, to: to == ("192.0.2.1", 443)
        for _ in range(50):
            there.client()
        await trio.sleep(5)
        assert there.listener.connections == 20
        assert there.listener.counts.refused >= 30
        there.network.passes = lambda data, to: False
        await trio.sleep(6)
        assert there.listener.connections == 0
        assert there.listener.counts.expired == 20
        assert there.listener.counts.completed == 0
        there.network.passes = lambda data, to: True
        assert (await (await there.connect()).ask()).status == 200
        assert there.listener.counts.completed == 1


async def test_no_more_connections_than_allowed(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    async with listening(cert, max_connections=2) as there:
        first, second = await there.connect(), await there.connect()
        third = there.client()
        await trio.sleep(2)
        assert not third.established
        first.close()
        await third.until(lambda: third.established)
        assert (await second.ask()).status == 200


def garbage(size: int) -> bytes:
    """Return something that looks like an Initial packet of version 1, but cannot be decrypted."""
    head = b"\xc3\0\0\0\1\x08" + CHANCE.randbytes(8) + b"\x08" + CHANCE.randbytes(8) + b"\0"
    rest = size - len(head) - 2
    return head + (0x4000 | rest).to_bytes(2, "big") + CHANCE.randbytes(rest)


async def test_garbage_leaves_nothing_behind(cert: tls.Certificate, autojump_clock: trio.abc.Clock) -> None:
    async with listening(cert) as there:
        client = await there.connect()
        await client.ask()
        for turn in range(300):
            size = CHANCE.choice([1200, 1250, 1400])
            data = garbage(size)
            batch: list[Datagram] = [(data, ("203.0.113.9", turn))]
            batch += [(data[: CHANCE.randrange(size)], ("203.0.113.9", turn)), (b"", ("203.0.113.9", 1))]
            batch.append((CHANCE.randbytes(CHANCE.randrange(1, 1500)), ("203.0.113.9", turn)))
            there.bring(batch)
            await trio.sleep(0.01)
            assert there.listener.connections == 1
            assert not there.listener._greeting
        assert there.listener.counts.strays > 300
        assert (await client.ask(body=b"hello")).body == b"hello"


async def test_what_is_damaged_on_the_way_is_dropped(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    async with listening(cert, weather=Weather(loss=0.02)) as there:
        client = await there.connect()
        heard: list[bytes] = []

        def listen_in(data: bytes, to: Address) -> bool:
            heard.append(data)
            return True

        there.network.passes = listen_in
        assert (await client.ask(body=b"x" * 20_000)).body == b"x" * 20_000
        for data in heard[:30]:
            place = CHANCE.randrange(9, len(data))
            damaged = data[:place] + bytes([data[place] ^ 1 << CHANCE.randrange(8)]) + data[place + 1 :]
            there.bring([(damaged, client.mailbox.address), (data[:place], client.mailbox.address)])
            await trio.sleep(0.01)
        assert (await client.ask(body=b"still")).body == b"still"


async def test_an_unknown_version_is_answered_with_ours(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    async with listening(cert) as there:
        data = b"\xc0\x1a\x2a\x3a\x4a\x08" + b"d" * 8 + b"\x08" + b"s" * 8
        stranger = there.send_stray(data + bytes(1200 - len(data)))
        [(answer, _)] = await stranger.receive()
        assert answer[1:5] == bytes(4)
        assert answer[5:23] == b"\x08" + b"s" * 8 + b"\x08" + b"d" * 8
        versions = {int.from_bytes(answer[at : at + 4], "big") for at in range(23, len(answer), 4)}
        assert QuicProtocolVersion.VERSION_1 in versions
        # A small one gets no answer, which could be larger than it.
        there.send_stray(data, ("203.0.113.10", 10))
        await trio.sleep(1)
        assert there.network.sent == 3


async def test_both_versions_are_spoken(cert: tls.Certificate, autojump_clock: trio.abc.Clock) -> None:
    async with listening(cert) as there:
        for version in (QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2):
            client = there.client(version=version)
            await client.until(lambda client=client: client.established)  # type: ignore[misc]
            assert (await client.ask()).status == 200


async def test_packets_of_a_lost_connection_are_answered_with_its_reset_token(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    async with listening(cert) as there:
        client = await there.connect()
        await client.ask()
        [link] = there.listener._links
        there.listener._forget(link)  # as if the daemon had started anew
        heard: list[bytes] = []

        def listen_in(data: bytes, to: Address) -> bool:
            heard.append(data)
            return True

        there.network.passes = listen_in
        client.open(end=True)
        await trio.sleep(2)
        token = there.listener._secrets.reset_token(client.quic._peer_cid.cid)
        assert client.quic._peer_cid.stateless_reset_token == token
        assert any(data.endswith(token) and not data[0] & 0x80 for data in heard)
        assert there.listener.counts.reset >= 1
        client.close()


async def test_a_new_certificate_is_for_new_connections(
    cert: tls.Certificate, other_cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    async with listening(cert) as there:
        old = await there.connect()
        there.certificates.replace(other_cert)
        # The client trusts the new one alone, so it can have been served nothing else.
        new = await there.connect()
        assert (await new.ask()).status == 200
        assert (await old.ask()).status == 200


async def test_a_silent_connection_ends(cert: tls.Certificate, autojump_clock: trio.abc.Clock) -> None:
    async with listening(cert, settings=QuicSettings(idle_timeout=30)) as there:
        await there.connect()
        await trio.sleep(29)
        assert there.listener.connections == 1
        await trio.sleep(3)
        assert there.listener.connections == 0


async def test_ten_clients_in_bad_weather(cert: tls.Certificate, autojump_clock: trio.abc.Clock) -> None:
    weather = Weather(loss=0.05, reorder=0.2, duplicate=0.1)
    async with listening(cert, weather=weather, seed=5) as there:
        clients = [await there.connect() for _ in range(10)]
        for client in clients:
            for turn in range(5):
                body = b"%d" % turn * 1000
                assert (await client.ask(body=body)).body == body
