"""The client's side of WebTransport sessions, made of aioquic's HTTP/3."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import attrs
import trio
from aioquic.h3.connection import FrameType

from fawa.net import tls
from fawa.net.capsules import Capsule, CapsuleReader
from fawa.net.connection import Limits
from fawa.net.exchange import Disconnected, Exchange
from fawa.net.webtransport import Session, Stream, accept
from tests.net.quic_talk import Answer, Client, There, Weather, listening


@attrs.define
class Page:
    """One session of a client."""

    client: Client
    id: int

    @property
    def answer(self) -> Answer:
        """What has come on the CONNECT stream."""
        return self.client[self.id]

    @property
    def capsules(self) -> list[Capsule]:
        return CapsuleReader().feed_untrusted(bytes(self.answer.body))

    def open(self, data: bytes = b"", *, uni: bool = False, end: bool = False) -> int:
        """Open a stream, with its first octets."""
        assert self.client.h3 is not None
        number = self.client.h3.create_webtransport_stream(self.id, is_unidirectional=uni)
        if not uni:
            # aioquic takes what comes back on it for HTTP/3.
            with self.client.h3._get_or_create_stream(number) as stream:
                stream.frame_type, stream.session_id = FrameType.WEBTRANSPORT_STREAM, self.id
        self.client.send_raw(number, data, end=end)
        return number

    async def ask(self, data: bytes) -> bytes:
        """Return the answer to a stream that is ended at once."""
        number = self.open(data, end=True)
        await self.client.until(lambda: self.client[number].ended)
        return bytes(self.client.answers.pop(number).body)

    def reset(self, number: int, code: int) -> None:
        self.client.quic.reset_stream(number, code)
        self.client.flush()

    def stop(self, number: int, code: int) -> None:
        self.client.quic.stop_stream(number, code)
        self.client.flush()

    def datagram(self, data: bytes) -> None:
        assert self.client.h3 is not None
        self.client.h3.send_datagram(self.id, data)
        self.client.flush()

    def say(self, data: bytes, *, end: bool = False) -> None:
        """Send octets on the CONNECT stream."""
        self.client.send(self.id, data, end=end)

    def pushed(self) -> list[int]:
        """Return the streams that the server has opened one way, but for those of HTTP/3."""
        return sorted(number for number in self.client.answers if number % 4 == 3)


def ask_for(client: Client, headers: Sequence[tuple[bytes, bytes]] = (), path: str = "/session") -> Page:
    """Ask for a session."""
    return Page(client, client.open(path, "CONNECT", [(b":protocol", b"webtransport"), *headers]))


async def enter(client: Client, headers: Sequence[tuple[bytes, bytes]] = ()) -> Page:
    """Return a session that was accepted."""
    page = ask_for(client, headers)
    await client.until(lambda: page.answer.head)
    assert page.answer.status == 200
    return page


@attrs.define
class Hall:
    """A listener whose every request is a session, and a client of it."""

    there: There
    client: Client
    #: The server's ends, in the order in which they were accepted.
    sessions: list[Session]
    #: Those whose handler has returned.
    left: list[Session]

    async def enter(self) -> tuple[Page, Session]:
        """Return both ends of a new session."""
        page = await enter(self.client)
        return page, self.sessions[-1]

    def leftovers(self) -> dict[str, int]:
        """Count what is kept for streams, wherever it is kept."""
        [link] = self.there.listener._links
        engine, h3 = link.engine, link.h3
        return {
            "quic": len(engine.quic._streams),
            "queue": len(engine.quic._streams_queue),
            "h3": len(engine.h3._stream),
            "held": len(engine.quic.held),
            "deaf": len(engine._deaf),
            "session_of": len(h3.session_of),
            "streams": sum(len(session._streams) for session in h3.sessions.values()),
            "waiting": sum(len(session._waiting) for session in h3.sessions.values()),
        }


Handler = Callable[[Session], Awaitable[None]]


async def until_over(session: Session) -> None:
    """Take nothing, and wait for the end."""
    await session._streams.wait_over()


async def echo(session: Session) -> None:
    """Send every stream back: both ways on itself, one way on a new one."""
    async with trio.open_nursery() as nursery:
        while (stream := await session.accept_stream()) is not None:
            nursery.start_soon(_echo, session, stream)


async def _echo(session: Session, stream: Stream) -> None:
    back = stream if stream.is_bidirectional else session.open_uni()
    with contextlib.suppress(Disconnected), stream, back:
        while data := await stream.receive():
            await back.send(data)
        back.finish()


@asynccontextmanager
async def hall(
    cert: tls.Certificate,
    handler: Handler = echo,
    *,
    protocols: Sequence[str] = (),
    weather: Weather | None = None,
    seed: int = 1,
    limits: Limits | None = None,
    stingy: bool = False,
    window: int = 1024 * 1024,
) -> AsyncIterator[Hall]:
    """Serve sessions on a network in memory, with one client."""
    sessions: list[Session] = []
    left: list[Session] = []

    async def app(exchange: Exchange) -> None:
        session = accept(exchange, allows=lambda origin: origin == "https://app.example", protocols=protocols)
        if session is not None:
            sessions.append(session)
            try:
                await handler(session)
            finally:
                left.append(session)

    async with listening(cert, app, weather=weather, seed=seed, limits=limits) as there:
        client = await there.connect(sessions=True, stingy=stingy, window=window)
        yield Hall(there, client, sessions, left)
