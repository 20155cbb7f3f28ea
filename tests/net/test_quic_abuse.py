"""What peers do to a QUIC listener to exhaust it; others are served all the while."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from aioquic.h3.connection import ErrorCode
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from fawa.net import tls
from fawa.net.connection import Limits
from fawa.net.exchange import Exchange
from fawa.net.quic import QuicSettings
from tests.net.quic_talk import SERVER, certificate, listening


@pytest.fixture(scope="module")
def cert(tmp_path_factory: pytest.TempPathFactory) -> tls.Certificate:
    return certificate(Path(tmp_path_factory.mktemp("tls")))


@pytest.mark.parametrize("sent", [b"\x01", b"\x01\x40", b"\x01\x20abc", b"\x21\0"])
async def test_a_head_that_does_not_come_ends_its_stream(
    cert: tls.Certificate, sent: bytes, autojump_clock: trio.abc.Clock
) -> None:
    async with listening(cert, limits=Limits(header_timeout=7)) as there:
        client = await there.connect()
        number = client.quic.get_next_available_stream_id()
        before = trio.current_time()
        client.send_raw(number, sent)
        await client.until(lambda: client[number].reset is not None)
        assert client[number].reset == ErrorCode.H3_REQUEST_CANCELLED
        assert 7 <= trio.current_time() - before < 8
        assert (await client.ask()).status == 200


async def test_a_head_that_trickles_gains_no_time(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    async with listening(cert, limits=Limits(header_timeout=7)) as there:
        client = await there.connect()
        number = client.quic.get_next_available_stream_id()
        for octet in b"\x01\x20\0\0\xd1\xd7":
            client.send_raw(number, bytes([octet]))
            await trio.sleep(1)
        await trio.sleep(1.5)
        assert client[number].reset == ErrorCode.H3_REQUEST_CANCELLED


async def test_rapid_reset_ends_the_connection_and_no_other(
    cert: tls.Certificate, autojump_clock: trio.abc.Clock
) -> None:
    """CVE-2023-44487: requests that are given up at once must not go on for ever."""

    async def handler(exchange: Exchange) -> None:
        if exchange.path == "/wait":
            await trio.sleep_forever()
        exchange.respond(200, [])

    async with listening(cert, handler) as there:
        client, other = await there.connect(), await there.connect()
        for turn in range(2000):
            if client.terminated is not None:
                break
            number = client.open("/wait")
            client.quic.reset_stream(number, ErrorCode.H3_REQUEST_CANCELLED)
            client.flush()
            if turn % 50 == 49:
                await trio.sleep(0.1)
        assert (await client.until_over()).error_code == ErrorCode.H3_EXCESSIVE_LOAD
        assert (await other.ask()).status == 200


@pytest.mark.parametrize("retry", ["never", "auto"])
async def test_five_thousand_handshakes_from_spoofed_addresses(
    cert: tls.Certificate, retry: str, autojump_clock: trio.abc.Clock
) -> None:
    settings = QuicSettings(retry=retry, max_handshakes=100, handshake_timeout=10)
    configuration = QuicConfiguration(alpn_protocols=["h3"], server_name="localhost")
    async with listening(cert, settings=settings, max_connections=1000) as there:
        for number in range(5000):
            spoofed = QuicConnection(configuration=configuration)
            spoofed.connect(SERVER, trio.current_time())
            source = (f"203.0.113.{number % 256}", 1024 + number)
            there.bring([(data, source) for data, _ in spoofed.datagrams_to_send(trio.current_time())])
            if number % 100 == 99:
                await trio.sleep(0.001)
                assert there.listener.connections <= 100
                assert len(there.listener._routes) <= 100 * 10
        counts = there.listener.counts
        assert counts.refused + counts.retried >= 4900
        await trio.sleep(11)
        assert there.listener.connections == 0
        assert (await (await there.connect()).ask()).status == 200
