"""WebTransport sessions as a client opens them; what they are is `fawa.net.webtransport`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import attrs

from fawa.client.dial_quic import H3Dialer
from fawa.client.errors import CannotReach
from fawa.client.exchange import ClientExchange, Headers
from fawa.client.http3 import H3Client
from fawa.client.pool import background
from fawa.net.quic_client import CLIENT_LIMITS
from fawa.net.session_streams import SessionLimits, SessionStreams
from fawa.net.webtransport import Session

__all__ = ["LIMITS", "SessionRefused", "connected", "kept", "open_session"]

#: What a server of sessions may be sent ahead.
LIMITS: Final = attrs.evolve(CLIENT_LIMITS, sessions=True)
#: Streams that a server may open. Those that nobody accepts are rejected, the oldest datagrams go.
_FEW: Final = SessionLimits(streams=16, waiting=16, early_streams=16)
#: Octets of a refusal's text that are read.
_MOST_TEXT: Final = 4096


@attrs.frozen
class SessionRefused(Exception):  # noqa: N818 - said as it is
    """The server answered with another status than 200."""

    status: int
    headers: Headers
    text: str


@asynccontextmanager
async def connected(dialer: H3Dialer) -> AsyncIterator[H3Client]:
    """Keep a connection open for sessions; `dialer` has limits that allow them.

    Raises:
        CannotReach: there is none to be had.

    """
    async with kept(await dialer()) as connection:
        yield connection


@asynccontextmanager
async def kept(connection: H3Client) -> AsyncIterator[H3Client]:
    """Run a connection that has just been made, until the block ends."""
    async with background() as nursery:
        nursery.start_soon(connection.run)
        try:
            yield connection
        finally:
            connection.end()


@asynccontextmanager
async def open_session(
    connection: H3Client,
    target: str,
    headers: Sequence[tuple[bytes, bytes]] = (),
    protocols: Sequence[str] = (),
) -> AsyncIterator[Session]:
    """Open a session, which is broken off at the end of the block where it was not closed.

    Args:
        connection: of which the limits allow sessions.
        target: path and query.
        headers: to send with the request.
        protocols: application protocols to offer, by preference; printable ASCII without quotes.

    Raises:
        CannotReach: the server does not speak WebTransport, or takes no further request; nothing was asked.
        GRPCError: the connection broke, or the request was broken off.
        SessionRefused: the server said no.

    """
    engine = connection.engine
    await connection.wait_room(lambda: engine.takes_sessions is not None)
    if engine.takes_sessions is None:
        raise CannotReach(f"the connection to {connection.address} is gone")
    if not engine.takes_sessions:
        raise CannotReach(f"{connection.address} does not speak WebTransport")
    if not await connection.acquire():
        raise CannotReach(f"{connection.address} takes no further request on this connection")
    request: Headers = [
        (b":protocol", b"webtransport"),
        (b"host", connection.address.encode("ascii")),
        (b"sec-webtransport-http3-draft02", b"1"),
        *headers,
    ]
    if protocols:
        request.append((b"wt-available-protocols", b", ".join(map(_quoted, protocols))))
    exchange = connection.open("CONNECT", target, request)
    try:
        streams = connection.sessions[exchange.id] = SessionStreams(connection, exchange.id, _FEW)
        await exchange.wait_head()
        if exchange.status != 200:
            raise SessionRefused(exchange.status, exchange.headers, await _text(exchange))
        answer = dict(exchange.headers).get(b"wt-protocol", b"").partition(b";")[0].strip()
        chosen = next((one for one in protocols if _quoted(one) == answer), None)
        yield Session(exchange, streams, chosen)
    finally:
        exchange.close()


def _quoted(protocol: str) -> bytes:
    return b'"%s"' % protocol.encode("ascii")


async def _text(exchange: ClientExchange) -> str:
    """Return the body of a refusal, as much of it as is of use."""
    body = b""
    while len(body) < _MOST_TEXT and (data := await exchange.receive()):
        body += data
    return body[:_MOST_TEXT].decode(errors="replace")
