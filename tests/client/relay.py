"""A relay between client and server that breaks connections at chosen places."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

_PIECE = 16 * 1024


@attrs.define(eq=False)
class Relay:
    """Passes bytes on, from client to server and back."""

    target: str
    url: str = ""
    #: For each connection that is to break, after how many bytes from the server. Others are left alone: a
    #: connection that carries less does not use a cut up.
    cuts: list[int] = attrs.field(factory=list)
    #: The same for bytes from the client. What was passed on before is dealt with by the server before the
    #: client notices that its connection is broken, so both know what has arrived.
    cuts_up: list[int] = attrs.field(factory=list)
    #: Connections, after which later ones wait for `go_on` before they get to the server.
    hold_after: float = math.inf
    #: Bytes from the server in all, after which no more is passed until `go_on`.
    hold_at: float = math.inf
    #: Bytes from the server in all.
    passed: int = 0
    #: Bytes from the client in all.
    passed_up: int = 0
    accepted: int = 0
    broken: int = 0
    _released: trio.Event = attrs.field(factory=trio.Event)

    def go_on(self) -> None:
        """Pass on what was held, and all that comes."""
        self.hold_at = self.hold_after = math.inf
        self._released.set()

    async def serve(self, client: trio.SocketStream) -> None:
        async with client:
            self.accepted += 1
            if self.accepted > self.hold_after:
                await self._released.wait()
            host, _, port = self.target.rpartition(":")
            async with await trio.open_tcp_stream(host, int(port)) as server, trio.open_nursery() as nursery:
                cut = trio.Event()
                nursery.start_soon(self._pass_up, client, server, cut)
                await self._pass_down(server, client, cut)
                nursery.cancel_scope.cancel()

    async def _pass_up(self, client: trio.SocketStream, server: trio.SocketStream, cut: trio.Event) -> None:
        passed = 0
        with contextlib.suppress(trio.BrokenResourceError):
            while data := await client.receive_some(_PIECE):
                if self.cuts_up and passed + len(data) > self.cuts_up[0]:
                    del self.cuts_up[0]
                    cut.set()
                    break
                await server.send_all(data)
                passed += len(data)
                self.passed_up += len(data)
            await server.send_eof()

    async def _pass_down(self, server: trio.SocketStream, client: trio.SocketStream, cut: trio.Event) -> None:
        passed = 0
        with contextlib.suppress(trio.BrokenResourceError):
            while data := await server.receive_some(_PIECE):
                if cut.is_set():
                    continue
                if self.cuts and passed + len(data) > self.cuts[0]:
                    del self.cuts[0]
                    self.broken += 1
                    return
                if self.passed >= self.hold_at:
                    await self._released.wait()
                await client.send_all(data)
                passed += len(data)
                self.passed += len(data)
        if cut.is_set():
            self.broken += 1


@asynccontextmanager
async def relaying(target: str, *cuts: int) -> AsyncIterator[Relay]:
    """Relay to `target`, an address with a port, until the block ends."""
    relay = Relay(target, cuts=list(cuts))
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    relay.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, relay.serve, listeners)
        yield relay
        nursery.cancel_scope.cancel()
