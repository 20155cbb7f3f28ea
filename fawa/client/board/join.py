"""`create_board` and `join_board`: from a server's address to a board."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import quote

import attrs
import msgspec
import trio

from fawa.client.board.board import Board, BoardOver, open_board
from fawa.client.board.line import Line, Refused
from fawa.client.board.reach import Reach, Transport
from fawa.client.board.websocket import websocket_line
from fawa.client.board.webtransport import webtransport_line
from fawa.client.dial import CONNECT_TIMEOUT, Dialer, Origin, Trust, parse_server
from fawa.client.dial_quic import H3Dialer, quic_trust
from fawa.client.errors import CannotReach
from fawa.client.exchange import Headers
from fawa.client.link import fetch
from fawa.client.webtransport import LIMITS, connected
from fawa.net.quic_client import QuicTrust

_OFFER: Final = "/.well-known/fawa/webtransport"
#: Bytes of an answer that are read.
_MOST: Final = 64 * 1024
_SYSTEM: Final = Trust()


class _Code(msgspec.Struct):
    code: str


class _Offer(msgspec.Struct):
    """Where the server speaks WebTransport."""

    port: int
    path: str
    #: The SHA-256 of each certificate to accept, whoever signed it.
    hashes: tuple[bytes, ...]


async def create_board(server: str, *, trust: Trust = _SYSTEM) -> str:
    """Create a board; returns its code.

    Args:
        server: such as `http://127.0.0.1:8080`.
        trust: which certificates of the server are accepted.

    Raises:
        BoardOver: the server makes none now.
        CannotReach: there is no connection to the server, or it has no boards.
        ValueError: an argument is not one of those, or the file of certificates cannot be used.

    """
    origin = parse_server(server)
    try:
        body = await _get(origin, "/create", trust)
        return msgspec.json.decode(body, type=_Code).code
    except Refused as refused:
        raise BoardOver(refused.status, refused.text) from None
    except msgspec.MsgspecError:
        raise CannotReach(f"{origin} does not seem to be fawad: it answers /create otherwise") from None


@asynccontextmanager
async def join_board(
    server: str,
    code: str,
    *,
    name: str = "",
    color: str = "",
    transport: Transport = "auto",
    trust: Trust = _SYSTEM,
    origin: str = "",
    connect_timeout: float = CONNECT_TIMEOUT,
) -> AsyncIterator[Board]:
    """Join a board, and stay on it until the block ends.

        async with join_board("http://127.0.0.1:8080", code, name="Ada") as board:
            await board.draw([(10, 10), (200, 120)], color="#e91e63")
            async for news in board:
                print(news)

    At the end of the block what was drawn is still sent, in ten seconds at most.

    Args:
        server: such as `http://127.0.0.1:8080`. Where it speaks WebTransport, it says itself.
        code: of the board.
        name: shown to others, at most 40 characters.
        color: of your cursor.
        transport: WebTransport is preferred by "auto", and WebSocket taken where that cannot be had;
            `Board.why` says why.
        trust: which certificates of the server are accepted.
        origin: of the web page for which this speaks, if it does; servers take those alone that they know.
        connect_timeout: seconds until an attempt to connect is given up.

    Raises:
        BoardOver: the server said no: there is no such board (`code` 404), it is full (4413), the origin is
            not allowed (403), or too many codes were wrong (429). In the block, there is no coming back; at
            its end, not all that was drawn was taken.
        CannotReach: there is no connection to the server, nor ever was.
        ValueError: an argument is not one of those, or the file of certificates cannot be used.

    """
    if transport not in ("auto", "webtransport", "websocket"):
        raise ValueError(f"transport {transport!r} is none of 'auto', 'webtransport', 'websocket'")
    if len(name) > 40 or len(color) > 64:
        raise ValueError("a name has at most 40 characters, and a color 64")
    headers: Headers = [(b"origin", origin.encode("ascii"))] if origin else []
    ways = await _Ways.to(parse_server(server), quote(code, safe=""), trust, headers, connect_timeout)
    async with open_board(Reach(ways.webtransport, ways.websocket, transport), name, color) as board:
        yield board


class _Ways:
    """How to connect to one board."""

    def __init__(
        self,
        origin: Origin,
        code: str,
        trust: Trust,
        quic: QuicTrust,
        dialer: Dialer,
        headers: Headers,
    ) -> None:
        self._origin = origin
        self._code = code
        self._trust = trust
        self._quic = quic
        self._dialer = dialer
        self._headers = headers

    @classmethod
    async def to(cls, origin: Origin, code: str, trust: Trust, headers: Headers, timeout: float) -> _Ways:
        """Return the ways to a board; reads the files of `trust`."""
        quic = await trio.to_thread.run_sync(quic_trust, trust)
        tls = None
        if origin.scheme == "https":
            tls = await trio.to_thread.run_sync(trust.context, "http/1.1")
        return cls(origin, code, trust, quic, Dialer(origin, tls, "http/1.1", timeout), headers)

    @asynccontextmanager
    async def websocket(self) -> AsyncIterator[Line]:
        """Open a WebSocket."""
        stream = await self._dialer()
        target = f"/ws/canva?code={self._code}"
        with self._patience() as patience:
            async with websocket_line(stream, self._origin.authority, target, self._headers) as line:
                patience.deadline = math.inf
                yield line
        self._see_answered(patience)

    @asynccontextmanager
    async def webtransport(self) -> AsyncIterator[Line]:
        """Ask where there is WebTransport, and open a session."""
        with self._patience() as patience:
            offer = await self._offer()
        self._see_answered(patience)
        dialer = H3Dialer(
            Origin("https", self._origin.host, offer.port),
            attrs.evolve(self._quic, pins=offer.hashes),
            LIMITS,
            self._dialer.timeout,
            instead="use WebSocket",
        )
        target = f"{offer.path}?code={self._code}"
        async with connected(dialer) as connection:
            with self._patience() as patience:
                async with webtransport_line(connection, target, self._headers) as line:
                    patience.deadline = math.inf
                    yield line
            self._see_answered(patience)

    def _patience(self) -> trio.CancelScope:
        return trio.CancelScope(deadline=trio.current_time() + self._dialer.timeout)

    def _see_answered(self, patience: trio.CancelScope) -> None:
        if patience.cancelled_caught:
            raise CannotReach(f"no answer from {self._origin} in {self._dialer.timeout:g} s")

    async def _offer(self) -> _Offer:
        try:
            body = await _get(self._origin, _OFFER, self._trust)
            return msgspec.json.decode(body, type=_Offer)
        except Refused as refused:
            raise CannotReach("the server offers none") from refused
        except msgspec.MsgspecError as error:
            raise CannotReach(f"the server's offer is none: {error}") from error


async def _get(origin: Origin, path: str, trust: Trust) -> bytes:
    """Return what is at a path.

    Raises:
        CannotReach: there is no connection.
        GRPCError: it broke.
        Refused: the server answered with another status than 200.

    """
    async with fetch(f"{origin}{path}", [], trust) as exchange:
        body = b""
        while len(body) < _MOST and (data := await exchange.receive()):
            body += data
        if exchange.status != 200:
            raise Refused.of(exchange.status, exchange.headers, body.decode(errors="replace"))
        return body
