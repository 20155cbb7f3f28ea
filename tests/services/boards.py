"""The whiteboard's services over real rooms, and clients that live in memory."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from fawa.net.exchange import Exchange
from fawa.rooms.rooms import Rooms, RoomsSettings
from fawa.services.admission import Admission, AdmissionSettings
from fawa.services.base import Offer
from fawa.services.canva import CanvaService, CanvaSettings
from fawa.services.canvax import CanvaxService
from tests.net.sockets_talk import TEXT, Client, Connect, close_of, hear, masked
from tests.rooms.memory import SECRET, MemoryBoards
from tests.services.memory import MemoryExchange

#: Events go out at once, so that a conversation needs no clock.
AT_ONCE = RoomsSettings(tick=0.0)


@attrs.define(eq=False)
class Site:
    """Rooms and the services on them."""

    rooms: Rooms
    store: MemoryBoards
    admission: Admission
    canva: CanvaService
    canvax: CanvaxService
    offers: dict[str, Offer] = attrs.field(factory=dict)

    async def handle(self, exchange: Exchange) -> None:
        """Answer as the router would."""
        route = self.offers["canva"].http[exchange.path]
        assert exchange.method in route.methods
        await route.handle(exchange)

    async def ask(self, target: str, method: str = "GET", **about: Any) -> MemoryExchange:
        """Make a request of plain HTTP."""
        exchange = MemoryExchange(target, method=method, **about)
        await self.handle(exchange)
        return exchange

    async def code(self) -> str:
        """Return the code of a new board."""
        return (await self.rooms.create()).code


@asynccontextmanager
async def site(
    rooms: RoomsSettings = AT_ONCE,
    admission: AdmissionSettings | None = None,
    canva: CanvaSettings | None = None,
    store: MemoryBoards | None = None,
) -> AsyncIterator[Site]:
    """Run the services; the time of day is trio's clock."""
    boards = Rooms(SECRET, rooms, clock=trio.current_time)
    entrance = Admission(boards, admission)
    here = Site(
        boards,
        store or MemoryBoards(),
        entrance,
        CanvaService(entrance, canva or CanvaSettings()),
        CanvaxService(entrance),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(boards.run, here.store)
        for service in (here.canva, here.canvax):
            here.offers[service.name] = await nursery.start(service.run)
        yield here
        nursery.cancel_scope.cancel()


@attrs.define(eq=False)
class Drawer:
    """Somebody at a WebSocket, whatever the HTTP version."""

    client: Client
    #: Documents that have come and were not asked for yet.
    _heard: list[dict[str, Any]] = attrs.field(factory=list)
    closed: tuple[int, str] | None = None

    async def say(self, *documents: Any) -> None:
        """Send documents; text goes as it stands."""
        for document in documents:
            text = document if isinstance(document, str) else json.dumps(document)
            await self.client.send(masked(TEXT, text.encode()))

    async def hear(self) -> list[dict[str, Any]]:
        """Return the documents that have come; pings and the like are left out, `closed` is noted.

        Until the clock has jumped a little: what a memory stream has taken is looked for now and then.
        """
        await trio.sleep(0.05)
        for opcode, payload in await hear(self.client):
            if opcode == TEXT:
                assert self.closed is None
                self._heard.append(json.loads(payload))
            elif opcode == 8:
                self.closed = close_of((opcode, payload))
        heard, self._heard = self._heard, []
        return heard

    async def ask(self, *documents: Any) -> list[dict[str, Any]]:
        await self.say(*documents)
        return await self.hear()

    async def hello(self, **about: Any) -> dict[str, Any]:
        """Say hello in wire v2, and return the answer; what comes with it is heard next."""
        first, *self._heard = await self.ask({"hello": about})
        hello: dict[str, Any] = first["hello"]
        return hello

    async def farewell(self) -> tuple[int, str]:
        """Return with which code and reason the server closes; what comes before is passed over."""
        await self.hear()
        assert self.closed is not None, "the connection is still open"
        return self.closed


@asynccontextmanager
async def drawer(
    here: Site, connect: Connect, code: str, *headers: str, v2: bool = False
) -> AsyncIterator[Drawer]:
    """Connect to a board."""
    more: Sequence[str] = ("sec-websocket-protocol: fawa.v2",) if v2 else ()
    async with connect(here.handle, f"/ws/canva?code={code}", *headers, *more) as client:
        assert client.status in (101, 200)
        yield Drawer(client)
