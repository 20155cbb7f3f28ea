"""Whether the end of a client's messages means that it wants no more answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from grpclib.const import Cardinality, Handler

from fawa.calls.call import Call
from fawa.net.exchange import Exchange
from fawa.proto.canva.v1.canva_pb2 import ClientDrawRequest, ClientDrawResponse
from fawa.rpc.dialect import Limits, Method, negotiate
from tests.services.memory import MemoryExchange

METHOD = Method.from_handler(
    "/canva.v1.CanvaService/Collaborate",
    Handler(lambda stream: None, Cardinality.STREAM_STREAM, ClientDrawRequest, ClientDrawResponse),
)
#: An empty message in an envelope, whatever the dialect and codec.
EMPTY = {"proto": b"\0\0\0\0\0", "json": b"\0\0\0\0\2{}"}


class Sent(MemoryExchange):
    """A request whose body comes in pieces."""

    def __init__(self, content_type: str, version: str, pieces: list[bytes]) -> None:
        super().__init__("/", method="POST", headers=[("content-type", content_type)])
        self.version = version
        self._pieces: Iterator[bytes] = iter(pieces)
        self._left = len(pieces)

    async def receive(self) -> bytes:
        self._left -= 1
        return next(self._pieces, b"")

    @property
    def body_over(self) -> bool:
        return self._left <= 0


async def is_half_duplex(exchange: Exchange, messages: int) -> bool:
    dialect = negotiate(exchange.method, exchange.headers, "", METHOD, Limits())
    call: Call[ClientDrawRequest, ClientDrawResponse] = Call(exchange, dialect, METHOD)
    assert [message async for message in call] == [ClientDrawRequest()] * messages
    return call.is_half_duplex


@pytest.mark.parametrize("messages", [0, 1, 2, 5])
@pytest.mark.parametrize(
    ("content_type", "version", "expected"),
    [
        ("application/grpc", "2", lambda messages: False),
        ("application/grpc+json", "2", lambda messages: False),
        ("application/grpc", "1.1", lambda messages: False),
        ("application/grpc-web", "1.1", lambda messages: True),
        ("application/grpc-web+json", "2", lambda messages: True),
        ("application/connect+proto", "1.1", lambda messages: True),
        ("application/connect+json", "1.1", lambda messages: True),
        ("application/connect+proto", "2", lambda messages: messages <= 1),
        ("application/connect+json", "2", lambda messages: messages <= 1),
    ],
)
async def test_who_may_only_read_once_it_has_said_all(
    content_type: str, version: str, expected: object, messages: int
) -> None:
    assert callable(expected)
    body = [EMPTY["json" if content_type.endswith("json") else "proto"]] * messages
    assert await is_half_duplex(Sent(content_type, version, body), messages) is expected(messages)
