"""`connect`: a channel to one server, on which calls of all four kinds are made."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import trio
from google.protobuf.message import Message

from fawa.client.call import Call, Caller, Reply
from fawa.client.dial import CONNECT_TIMEOUT, Dialer, Trust, parse_server
from fawa.client.exchange import Pool
from fawa.client.http2 import H2Dialer, H2Limits
from fawa.client.method import Rpc
from fawa.client.pool import DialShared, H1Pool, Reconnecting, SharedPool, background
from fawa.rpc.dialect import CLIENTS, Kind, Limits, client_dialect
from fawa.rpc.stream import MetadataLike

if TYPE_CHECKING:
    from fawa.net.quic_packets import QuicLimits

Sent = TypeVar("Sent", bound=Message)
Received = TypeVar("Received", bound=Message)

Dialect = Literal["grpc", "grpc-web", "connect", "connect-json"]
HttpVersion = Literal["3", "2", "1.1"]


class Channel:
    """Calls to one server.

    Every call takes `metadata` (keys in lower case; bytes for keys that end in `-bin`) and `timeout`, the
    seconds it may take from now to its end; the server is told, and the call ends with DEADLINE_EXCEEDED.

    Calls raise `grpclib.exceptions.GRPCError`: `CallFailed` where the server said so, with the details still
    packed in `google.protobuf.Any`; `CannotReach` where there is no connection; `ConnectionLost`. They raise
    ValueError where metadata cannot be sent, or the method is of another kind.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def unary(
        self,
        rpc: Rpc[Sent, Received],
        request: Sent,
        *,
        metadata: MetadataLike | None = None,
        timeout: float | None = None,
    ) -> Reply[Received]:
        """Send one message, return the one that answers it."""
        call = self._call(rpc, Kind.UNARY, metadata, timeout)
        try:
            await call.start_with(request)
            message = await call.reply()
        finally:
            call.close()
        return Reply(message, call.metadata, call.trailing)

    @asynccontextmanager
    async def server_stream(
        self,
        rpc: Rpc[Sent, Received],
        request: Sent,
        *,
        metadata: MetadataLike | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[Call[Sent, Received]]:
        """Send one message; the call is iterated over for those that answer it.

        Leaving the block before the last one cancels the call, as with the other streams.
        """
        call = self._call(rpc, Kind.SERVER_STREAM, metadata, timeout)
        try:
            await call.start_with(request)
            yield call
        finally:
            call.close()

    @asynccontextmanager
    async def client_stream(
        self,
        rpc: Rpc[Sent, Received],
        *,
        metadata: MetadataLike | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[Call[Sent, Received]]:
        """Send messages with the call's `send`, then get the answer with its `reply`."""
        call = self._call(rpc, Kind.CLIENT_STREAM, metadata, timeout)
        try:
            await call.start()
            yield call
        finally:
            call.close()

    @asynccontextmanager
    async def bidi(
        self,
        rpc: Rpc[Sent, Received],
        *,
        metadata: MetadataLike | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[Call[Sent, Received]]:
        """Send and receive messages with the call's `send`, `done_sending` and `recv`."""
        call = self._call(rpc, Kind.BIDI, metadata, timeout)
        try:
            await call.start()
            yield call
        finally:
            call.close()

    def _call(
        self, rpc: Rpc[Sent, Received], kind: Kind, metadata: MetadataLike | None, timeout: float | None
    ) -> Call[Sent, Received]:
        if rpc.method.kind is not kind:
            asked, has = kind.name.lower(), rpc.method.kind.name.lower()
            raise ValueError(f"{rpc.method.path} is not {asked} but {has}")
        return Call(self._caller, rpc, metadata, timeout)


@asynccontextmanager
async def connect(
    server: str,
    *,
    dialect: Dialect = "grpc",
    http: HttpVersion = "2",
    ca: Path | None = None,
    insecure: bool = False,
    compress: bool = False,
    limits: Limits | None = None,
    h2_limits: H2Limits | None = None,
    h3_limits: QuicLimits | None = None,
    connect_timeout: float = CONNECT_TIMEOUT,
) -> AsyncIterator[Channel]:
    """Open a channel; its connections live until the block ends, made when calls need them.

    Args:
        server: such as `http://127.0.0.1:8080`. HTTP/2 needs no TLS: it is spoken by prior knowledge on
            http, and agreed by ALPN on https.
        dialect: how calls are put into HTTP.
        http: version of HTTP; "3" is for https, "1.1" for the Connect and gRPC-Web dialects.
        ca: file of root certificates (PEM) to trust instead of the system's.
        insecure: accept any certificate.
        compress: send messages compressed with gzip.
        limits: of each call: the largest message taken.
        h2_limits: of each HTTP/2 connection: windows, requests.
        h3_limits: of each HTTP/3 connection: windows, the idle timeout.
        connect_timeout: seconds until a connection is given up.

    Raises:
        ValueError: an argument is not one of those, or the file cannot be used.

    """
    if dialect not in CLIENTS:
        raise ValueError(f"dialect {dialect!r} is none of {', '.join(CLIENTS)}")
    if http not in ("3", "2", "1.1"):
        raise ValueError(f"HTTP version {http!r} is none of '3', '2', '1.1'")
    if http == "1.1" and dialect == "grpc":
        raise ValueError("gRPC needs HTTP/2; over HTTP/1.1 use the dialect grpc-web or connect")
    origin = parse_server(server)
    if http == "3" and origin.scheme != "https":
        raise ValueError(f"HTTP/3 is spoken over https alone, which {origin} is not")
    trust = Trust(ca, insecure)
    shared: DialShared | None = None
    if http == "3":
        from fawa.client.dial_quic import H3Dialer, quic_trust  # noqa: PLC0415 - aioquic is slow to import
        from fawa.net.quic_client import CLIENT_LIMITS  # noqa: PLC0415

        roots = await trio.to_thread.run_sync(quic_trust, trust)
        shared = H3Dialer(origin, roots, h3_limits or CLIENT_LIMITS, connect_timeout)
    else:
        protocol = "h2" if http == "2" else "http/1.1"
        tls = await trio.to_thread.run_sync(trust.context, protocol) if origin.scheme == "https" else None
        dial = Dialer(origin, tls, protocol, connect_timeout)
        if http == "2":
            shared = H2Dialer(dial, origin.authority, origin.scheme, h2_limits or H2Limits())
    async with background() as nursery:
        pool: Pool
        if shared is not None:
            pool = SharedPool(Reconnecting(shared), nursery)
        else:
            pool = H1Pool(Reconnecting(dial), nursery, origin.authority)
        new_dialect = functools.partial(client_dialect, dialect, limits or Limits(), compress=compress)
        try:
            yield Channel(Caller(pool, origin.authority, new_dialect))
        finally:
            pool.close()
