"""Servers for the client to meet: the real front door in this process, and one that says what a test says."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import attrs
import trio
import trio.testing
from grpclib._typing import IServable

from fawa.calls import serve
from fawa.client.call import Caller
from fawa.client.channel import Channel
from fawa.client.errors import CannotReach
from fawa.client.http2 import H2Limits
from fawa.client.pool import H1Pool, H2Pool, Reconnecting, background
from fawa.net.connection import Limits
from fawa.net.cors import Cors
from fawa.net.engine import (
    Data,
    EndOfMessage,
    Event,
    GoAway,
    H2Engine,
    Ping,
    Request,
    Role,
    RstStream,
    Settings,
    WindowUpdate,
)
from fawa.net.router import Route, Router
from fawa.net.tcp import Endpoint, FrontDoor, Root, bind
from fawa.rpc.dialect import Limits as CallLimits
from fawa.rpc.dialect import client_dialect

AUTHORITY = "server.test"


@attrs.define
class Server:
    """A front door on a loopback socket."""

    door: FrontDoor
    endpoint: Endpoint

    @property
    def url(self) -> str:
        scheme = "http" if self.endpoint.tls is None else "https"
        return f"{scheme}://{self.endpoint.address}"


@asynccontextmanager
async def serving(
    *implementations: IServable,
    routes: Mapping[str, Route] | None = None,
    limits: Limits | None = None,
    tls: ssl.SSLContext | None = None,
    port: int = 0,
) -> AsyncIterator[Server]:
    """Serve RPC implementations and plain routes until the block ends; then every connection breaks."""
    router = Router(serve.not_found)
    for implementation in implementations:
        router.add(serve.routes(implementation, CallLimits()))
    router.add(routes or {})
    root = Root(router, Cors(lambda _origin: False), None)
    door = FrontDoor(root, limits or Limits(), handshake_timeout=10.0, max_connections=1000)
    endpoints = await bind("127.0.0.1", port, tls)
    async with background() as nursery:
        await nursery.start(door.run, endpoints)
        yield Server(door, endpoints[0])
        nursery.cancel_scope.cancel()


# A server whose words are written by the test, over memory streams: no socket, no clock.


class Script:
    """The server's side of one HTTP/2 connection, spoken by hand."""

    def __init__(self, stream: trio.testing.MemoryReceiveStream) -> None: ...
