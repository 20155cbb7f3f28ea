"""A client for tests, by the `h2` package over a memory stream: requests in, whole responses out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import attrs
import h2.config
import h2.connection
import h2.events
import trio
import trio.testing

from fawa.net.connection import App, Limits
from fawa.net.exchange import Peer
from fawa.net.http2 import H2Connection


@attrs.define
class Response:
    """What came back on one stream."""

    headers: dict[str, str] = attrs.field(factory=dict)
    body: bytes = b""
    trailers: dict[str, str] = attrs.field(factory=dict)
    #: The error code of a reset.
    reset: int | None = None
    over: trio.Event = attrs.field(factory=trio.Event)

    @property
    def grpc_status(self) -> int:
        """The gRPC status, from the trailers or from a response that has nothing else."""
        return int((self.trailers or self.headers)["grpc-status"])

    @property
    def grpc_message(self) -> str:
        """The gRPC status message, still percent-encoded."""
        return (self.trailers or self.headers).get("grpc-message", "")


@attrs.define
class Client:
    """One HTTP/2 connection."""

    stream: trio.abc.Stream
    h2: h2.connection.H2Connection
    responses: dict[int, Response] = attrs.field(factory=dict)
    sending: trio.Lock = attrs.field(factory=trio.Lock)
    #: How often the server has written.
    writes: int = 0

    async def flush(self) -> None:
        """Send what is queued."""
        async with self.sending:
            if data := self.h2.data_to_send():
                await self.stream.send_all(data)

    async def open(self, path: str, headers: Mapping[str, str], method: str = "POST") -> int:
        """Start a request; returns its stream id."""
        stream_id: int = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "test")]
        self.responses[stream_id] = Response()
        self.h2.send_headers(stream_id, [*head, *headers.items()], end_stream=method == "GET")
        await self.flush()
        return stream_id

    async def send(self, stream_id: int, body: bytes, *, end: bool = False) -> None:
        """Send a piece of the request body."""
        self.h2.send_data(stream_id, body, end_stream=end)
        await self.flush()

    async def reset(self, stream_id: int) -> None:
        """Take the request back."""
        self.h2.reset_stream(stream_id, 8)
        await self.flush()

    async def call(self, path: str, headers: Mapping[str, str], body: bytes = b"") -> Response:
        """Send a whole request and wait for the whole response."""
        stream_id = await self.open(path, headers)
        await self.send(stream_id, body, end=True)
        return await self.result(stream_id)

    async def result(self, stream_id: int) -> Response:
        """Wait for the end of a response."""
        await self.responses[stream_id].over.wait()
        return self.responses[stream_id]

    async def read(self) -> None:
        """Take in what the server sends, until it closes."""
        while data := await self.stream.receive_some(65536):
            for event in self.h2.receive_data(data):
                self._take(event)
            await self.flush()

    def _take(self, event: object) -> None:
        match event:
            case h2.events.ResponseReceived():
                self.responses[event.stream_id].headers = _text(event.headers)
            case h2.events.DataReceived():
                self.responses[event.stream_id].body += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.TrailersReceived():
                self.responses[event.stream_id].trailers = _text(event.headers)
            case h2.events.StreamEnded():
                self.responses[event.stream_id].over.set()
            case h2.events.StreamReset():
                self.responses[event.stream_id].reset = event.error_code
                self.responses[event.stream_id].over.set()


def _text(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}


@asynccontextmanager
async def serving(app: App, limits: Limits | None = None) -> AsyncIterator[Client]:
    """Serve `app` to one HTTP/2 client."""
    ours, theirs = trio.testing.memory_stream_pair()
    config = h2.config.H2Configuration(client_side=True, header_encoding=None)
    client = Client(ours, h2.connection.H2Connection(config))
    client.h2.initiate_connection()

    deliver = theirs.send_stream.send_all_hook
    assert deliver is not None

    async def count() -> None:
        client.writes += 1
        await deliver()

    theirs.send_stream.send_all_hook = count
    connection = H2Connection(theirs, Peer("192.0.2.1:5000", "http"), limits or Limits())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run, app, b"")
        await client.flush()
        nursery.start_soon(client.read)
        yield client
        await ours.send_eof()
        nursery.cancel_scope.deadline = trio.current_time() + 10
