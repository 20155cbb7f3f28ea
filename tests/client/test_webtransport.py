"""WebTransport sessions of our client at our server, over a network in memory that may be rough."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from fawa.client import CannotReach
from fawa.client.http3 import H3Client
from fawa.client.pool import background
from fawa.client.webtransport import LIMITS, SessionRefused, open_session
from fawa.net.capsules import MAX_CODE
from fawa.net.exchange import Disconnected, Exchange
from fawa.net.quic_client import QuicTrust
from fawa.net.quic_packets import QuicLimits
from fawa.net.session_streams import StreamReset
from fawa.net.tls import Certificate
from fawa.net.webtransport import Session
from tests.client.quic_server import ROUGH, Quic
from tests.net.quic_talk import There, Weather, certificate, listening
from tests.net.webtransport_talk import Hall, hall, until_over

SIZE = 300_000


@pytest.fixture(scope="module")
def cert(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def dialled(
    there: There, cert: Certificate, limits: QuicLimits = LIMITS, trust: QuicTrust | None = None
) -> AsyncIterator[H3Client]:
    """Connect over the network in memory."""
    server = Quic(there, cert)
    connection = await server.dial(server.dialer(trust=trust, limits=limits))
    async with background() as nursery:
        nursery.start_soon(connection.run)
        try:
            with trio.fail_after(5000):
                yield connection
        finally:
            connection.end()


@asynccontextmanager
async def met(here: Hall, cert: Certificate) -> AsyncIterator[tuple[Session, Session]]:
    """Open a session; both ends of it, the client's first."""
    async with dialled(here.there, cert) as connection, open_session(connection, "/session") as session:
        yield session, here.sessions[-1]


async def ask(session: Session, data: bytes) -> bytes:
    """Return what is sent back on a stream of its own."""
    heard = b""
    with session.open_bidi() as stream:

        async def say() -> None:
            await stream.send(data)
            stream.finish()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(say)
            while piece := await stream.receive():
                heard += piece
    return heard


@pytest.mark.parametrize("weather", [Weather(), ROUGH])
async def test_there_and_back(cert: Certificate, weather: Weather, autojump_clock: MockClock) -> None:
    async with hall(cert, weather=weather) as here, met(here, cert) as (session, _):
        content = random.Random(1).randbytes(SIZE)
        answers: dict[int, bytes] = {}

        async def one(number: int) -> None:
            answers[number] = await ask(session, content[number:])

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(one, number)
        assert answers == {number: content[number:] for number in range(5)}
        with session.open_uni() as stream:
            stream.push(b"one way")
            stream.finish()
        back = await session.accept_stream()
        assert back is not None
        assert not back.is_bidirectional
        assert await back.receive() == b"one way"


async def test_datagrams(cert: Certificate, autojump_clock: MockClock) -> None:
    async def turn_around(session: Session) -> None:
        while (data := await session.receive_datagram()) is not None:
            assert session.send_datagram(data[::-1])

    async with hall(cert, turn_around) as here, met(here, cert) as (session, _):
        assert session.send_datagram(b"abc")
        assert await session.receive_datagram() == b"cba"
        assert not session.send_datagram(bytes(2000))


async def test_the_protocol_agreed_on(cert: Certificate, autojump_clock: MockClock) -> None:
    async with hall(cert, until_over, protocols=("b", "a")) as here, dialled(here.there, cert) as connection:
        async with open_session(connection, "/session", protocols=("a", "b", "c")) as session:
            assert session.protocol == here.sessions[-1].protocol == "b"
        async with open_session(connection, "/session", protocols=("c",)) as session:
            assert session.protocol is None


async def test_the_server_closes(cert: Certificate, autojump_clock: MockClock) -> None:
    async def bid_farewell(session: Session) -> None:
        stream = session.open_bidi()
        await stream.send(b"last words")
        await session.close(MAX_CODE, "it is late")

    async with hall(cert, bid_farewell) as here, met(here, cert) as (session, _):
        stream = await session.accept_stream()
        assert stream is not None
        assert await stream.receive() == b"last words"
        await session.wait_over()
        assert (session.close_code, session.close_reason) == (MAX_CODE, "it is late")
        with pytest.raises(Disconnected):
            await stream.receive()
        with pytest.raises(Disconnected):
            session.open_bidi()
        assert await session.accept_stream() is None


async def test_the_client_closes(cert: Certificate, autojump_clock: MockClock) -> None:
    async with hall(cert, until_over) as here, met(here, cert) as (session, theirs):
        session.open_bidi().push(b"what was said before arrives")
        began = trio.current_time()
        await session.close(1000, "done")
        assert trio.current_time() - began < 2  # the server has agreed
        assert (theirs.close_code, theirs.close_reason) == (1000, "done")


async def test_a_block_that_is_left_ends_its_session_alone(
    cert: Certificate, autojump_clock: MockClock
) -> None:
    async with hall(cert) as here, dialled(here.there, cert) as connection:
        for _ in range(20):
            async with open_session(connection, "/session") as session:
                assert await ask(session, b"x") == b"x"
        await trio.sleep(1)
        assert len(here.left) == 20
        assert (connection.sessions, connection.session_of, connection._exchanges) == ({}, {}, {})
        assert connection.engine.quic.held == {}


async def test_streams_that_are_broken_off(cert: Certificate, autojump_clock: MockClock) -> None:
    async def break_off(session: Session) -> None:
        while (stream := await session.accept_stream()) is not None:
            stream.reset(7)
            stream.stop(8)

    async with hall(cert, break_off) as here, met(here, cert) as (session, _):
        stream = session.open_bidi()
        stream.push(b"x")
        stream.flush()
        with pytest.raises(StreamReset) as reset:
            await stream.receive()
        assert reset.value.code == 7
        await trio.sleep(1)
        with pytest.raises(StreamReset) as stopped:
            stream.push(b"x")
        assert stopped.value.code == 8


async def test_refusals(cert: Certificate, autojump_clock: MockClock) -> None:
    async def refuse(exchange: Exchange) -> None:
        exchange.respond_text(404, "there is nothing here", [(b"retry-after", b"5")])

    async with listening(cert, app=refuse) as there, dialled(there, cert) as connection:
        with pytest.raises(SessionRefused) as refused:
            async with open_session(connection, "/session"):
                pass
        assert (refused.value.status, refused.value.text) == (404, "there is nothing here\n")
        assert (b"retry-after", b"5") in refused.value.headers
        assert connection.sessions == {}


async def test_a_connection_that_does_not_offer_sessions(
    cert: Certificate, autojump_clock: MockClock
) -> None:
    async with hall(cert) as here, dialled(here.there, cert) as connection:
        await connection.wait_room(lambda: connection.engine.takes_sessions is not None)
        settings = connection.engine.h3.received_settings
        assert settings is not None
        settings.clear()  # as if the server had not said so
        with pytest.raises(CannotReach, match="does not speak WebTransport"):
            async with open_session(connection, "/session"):
                pass


async def test_a_connection_that_breaks(cert: Certificate, autojump_clock: MockClock) -> None:
    async with hall(cert, until_over) as here, dialled(here.there, cert) as connection:
        async with open_session(connection, "/session") as session:
            stream = session.open_bidi()
            here.there.network.passes = lambda _data, _to: False
            with pytest.raises(Disconnected):
                await stream.receive()
            assert session.close_code is None
            assert not session.is_open
        with pytest.raises(CannotReach, match="no further request"):
            async with open_session(connection, "/session"):
                pass
        here.there.network.passes = lambda _data, _to: True


async def test_pins(cert: Certificate, autojump_clock: MockClock, tmp_path: Path) -> None:
    other = certificate(tmp_path)
    async with hall(cert) as here:
        for pins in ((cert.sha256,), (other.sha256, cert.sha256)):
            async with (
                dialled(here.there, cert, trust=QuicTrust(None, None, pins=pins)) as connection,
                open_session(connection, "/session") as session,
            ):
                assert await ask(session, b"x") == b"x"
        with pytest.raises(CannotReach, match=r"not trusted \(it is not the one that the server announced"):
            async with dialled(here.there, cert, trust=QuicTrust(None, None, pins=(other.sha256,))):
                pass
