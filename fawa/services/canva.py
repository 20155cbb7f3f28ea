"""Boards for browsers: `/create`, `/join`, `/health`, the WebSocket `/ws/canva`, and `/webtransport/canva`.

`protocols/whiteboard.md` says what crosses the wire.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn
from urllib.parse import parse_qs

import attrs
import msgspec
import trio

from fawa import __version__
from fawa.net import websocket, webtransport
from fawa.net.exchange import Exchange, Headers
from fawa.net.router import Route
from fawa.rooms.room import Room
from fawa.services.admission import Admission, Refused, Why
from fawa.services.base import Offer
from fawa.services.canva_client import V2, SocketSettings
from fawa.services.canva_session import serve_session
from fawa.services.canva_socket import limits_of, serve_socket

#: Boards change under their codes, and codes are not for others to see.
_DO_NOT_KEEP: Final = (b"cache-control", b"no-store")

_STATUS: Final = {
    Why.MALFORMED: 404,
    Why.UNKNOWN: 404,
    Why.TOO_OFTEN: 429,
    Why.FULL: 503,
    Why.AWAY: 503,
}


@attrs.frozen(kw_only=True)
class CanvaSettings:
    """What can be set about boards for browsers."""

    #: Whether a page of an origin, such as `https://app.example`, may draw. Pages from here always may.
    allows: Callable[[str], bool] = lambda origin: False
    socket: SocketSettings = attrs.field(factory=SocketSettings)


@attrs.define(eq=False)
class CanvaService:
    """The service."""

    admission: Admission
    #: May be replaced while running.
    settings: CanvaSettings = attrs.field(factory=CanvaSettings)
    name: str = "canva"

    async def run(self, task_status: trio.TaskStatus[Offer]) -> NoReturn:
        """Serve until cancelled."""
        task_status.started(
            Offer(
                http={
                    "/create": Route(("POST", "GET"), self._create),
                    "/join": Route(("GET", "HEAD"), self._join),
                    "/ws/canva": Route(websocket.METHODS, self._connect),
                    "/webtransport/canva": Route(webtransport.METHODS, self._open_session),
                    "/health": Route(("GET", "HEAD"), self._health),
                }
            )
        )
        await trio.sleep_forever()
        raise AssertionError("slept for ever and woke up")

    async def _create(self, exchange: Exchange) -> None:
        try:
            room = await self.admission.create(exchange.peer, _forwarded(exchange))
        except Refused as refused:
            _refuse(exchange, refused)
        else:
            _answer(exchange, {"code": room.code})

    async def _join(self, exchange: Exchange) -> None:
        if (room := await self._find(exchange)) is not None:
            _answer(exchange, {"code": room.code})

    async def _connect(self, exchange: Exchange) -> None:
        settings = self.settings
        if not websocket.admit(exchange, settings.allows) or (room := await self._find(exchange)) is None:
            return
        socket = websocket.accept(
            exchange, allows=settings.allows, subprotocols=(V2,), limits=limits_of(settings.socket)
        )
        if socket is not None:
            code = room.code
            # A board that nobody is on may expire while a client is about to say hello.
            await serve_socket(socket, lambda: self.admission.rooms.find(code), settings.socket)

    async def _open_session(self, exchange: Exchange) -> None:
        settings = self.settings
        if not webtransport.admit(exchange, settings.allows) or (room := await self._find(exchange)) is None:
            return
        session = webtransport.accept(exchange, allows=settings.allows, protocols=(V2,))
        if session is not None:
            code = room.code
            await serve_session(session, lambda: self.admission.rooms.find(code), settings.socket)

    async def _health(self, exchange: Exchange) -> None:
        _answer(exchange, {"status": "ok", "version": __version__})

    async def _find(self, exchange: Exchange) -> Room | None:
        """Return the board that a request names; answers the request where that fails."""
        code = _code(exchange.query)
        if code is None:
            text = f"which board? give its code once: {exchange.path}?code=ABC123"
            exchange.respond_text(400, text, [_DO_NOT_KEEP])
            return None
        try:
            return await self.admission.find(code, exchange.peer, _forwarded(exchange))
        except Refused as refused:
            _refuse(exchange, refused)
            return None


def _code(query: str) -> str | None:
    """Return the code in a query, `None` if there is none, or more than one."""
    try:
        given = parse_qs(query, max_num_fields=32).get("code", [])
    except ValueError:
        return None
    return given[0] if len(given) == 1 else None


def _forwarded(exchange: Exchange) -> list[str]:
    return [value.decode("latin-1") for name, value in exchange.headers if name == b"x-forwarded-for"]


def _answer(exchange: Exchange, document: dict[str, Any]) -> None:
    headers = [(b"content-type", b"application/json"), _DO_NOT_KEEP]
    exchange.respond(200, headers, msgspec.json.encode(document))


def _refuse(exchange: Exchange, refused: Refused) -> None:
    headers: Headers = [_DO_NOT_KEEP]
    if refused.retry_after:
        headers.append((b"retry-after", b"%d" % refused.retry_after))
    exchange.respond_text(_STATUS[refused.why], refused.text, headers)
