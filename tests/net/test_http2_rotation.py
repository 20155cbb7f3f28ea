"""A connection is replaced after so many requests, and no call is lost on the way (RFC 9113 section 6.8)."""

from __future__ import annotations

from collections import Counter

import attrs
import trio
import trio.testing

from fawa.net.connection import Limits
from fawa.net.engine import MAX_REQUESTS, H2ErrorCode
from fawa.net.exchange import Exchange
from fawa.net.http2 import H2Connection
from tests.net.talk import PEER, H2Client, Stream, head, line, nothing_left, root

#: Requests on one connection in these tests; CALLS make some twenty connections of it.
ROTATE_AT = 500
CALLS = 12_000
WORKERS = 50


@attrs.define(eq=False)
class ClientConnection:
    """An `h2` client on a connection of its own to a server of its own."""

    conn: H2Connection
    stream: trio.abc.HalfCloseableStream
    client: H2Client = attrs.field(factory=H2Client)
    news: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)
    ended: bool = False
    _sending: trio.Lock = attrs.field(factory=trio.Lock)

    @property
    def accepts(self) -> bool:
        """Whether the server has not said that it takes no more calls."""
        return not self.client.goaways and not self.ended

    async def flush(self) -> None:
        async with self._sending:
            if data := self.client.to_send():
                await self.stream.send_all(data)

    async def read(self) -> None:
        async with self.stream:
            while data := await self.stream.receive_some(65536):
                self.client.receive(bytes(data))
                await self.flush()
                self.news.unpark_all()
        self.ended = True
        self.news.unpark_all()

    async def call(self, path: str) -> bytes | None:
        """Return the answer, or `None` where the server says that it has not touched the call."""
        number = self.client.open(head(path), end=True)
        await self.flush()
        stream = self.client[number]
        while not stream.is_over:
            if self.client.goaways and number > self.client.goaways[-1]:
                return None
            assert not self.ended, f"call {path} on stream {number} was lost; GOAWAY {self.client.goaways}"
            await self.news.park()
        if stream.reset == H2ErrorCode.REFUSED_STREAM:
            assert number > self.client.goaways[-1]
            return None
        assert stream.reset is None
        return bytes(stream.body)


async def test_twelve_thousand_calls_over_connections_that_are_replaced() -> None:
    begun: Counter[str] = Counter()

    async def serve(exchange: Exchange) -> None:
        begun[exchange.path] += 1
        if begun.total() % 7 == 0:  # some calls are still open when their connection is told to end
            for _ in range(5):
                await trio.lowlevel.checkpoint()
        exchange.respond(200, [], exchange.path.encode())

    connections: list[ClientConnection] = []
    paths = [f"/{number}" for number in range(CALLS)]
    answered: list[str] = []

    async with trio.open_nursery() as nursery:

        async def run(connection: ClientConnection, far: trio.abc.HalfCloseableStream) -> None:
            await connection.conn.run(root(serve), b"")
            await trio.aclose_forcefully(far)

        def connect() -> ClientConnection:
            near, far = trio.testing.memory_stream_pair()
            conn = H2Connection(far, PEER, Limits(max_requests=ROTATE_AT))
            connection = ClientConnection(conn, near)
            connections.append(connection)
            nursery.start_soon(run, connection, far)
            nursery.start_soon(connection.read)
            return connection

        async def work() -> None:
            while paths:
                path = paths.pop()
                while True:
                    connection = connections[-1] if connections[-1].accepts else connect()
                    body = await connection.call(path)
                    if body is not None:
                        break
                assert body == path.encode()
                answered.append(path)

        connect()
        async with trio.open_nursery() as workers:
            for _ in range(WORKERS):
                workers.start_soon(work)
        await connections[-1].stream.send_eof()

    assert len(answered) == CALLS
    # None was run twice either: a refused call may safely be made again.
    assert set(begun.values()) == {1}
    assert len(begun) == CALLS
    assert len(connections) >= CALLS // (ROTATE_AT + WORKERS)
    for connection in connections[:-1]:
        first, last = connection.client.goaways
        assert first == 2**31 - 1
        assert ROTATE_AT <= (last + 1) // 2 < ROTATE_AT + WORKERS
        assert connection.client.goaway_code == H2ErrorCode.NO_ERROR
        assert nothing_left(connection.conn) == []
    # Calls under way when the end was announced were still taken: that is what the two steps are for.
    assert any((connection.client.goaways[-1] + 1) // 2 > ROTATE_AT for connection in connections[:-1])


def test_rotation_comes_before_the_engines_limit() -> None:
    # What may be under way when the client hears of it has room.
    assert Limits().max_requests + 2 * 128 < MAX_REQUESTS


async def test_calls_beyond_the_announced_end_are_refused_untouched() -> None:
    begun: list[str] = []

    async def serve(exchange: Exchange) -> None:
        begun.append(exchange.path)
        if exchange.path == "/open":
            await trio.sleep_forever()
        exchange.respond(200, [])

    async with line(H2Connection, serve, limits=Limits(max_requests=3)) as talk:
        client = H2Client()
        streams = [client.open(head(path), end=True) for path in ("/open", "/a", "/b")]
        await client.turn(talk)
        assert client.goaways == [2**31 - 1, streams[2]]
        late = client.open(head("/late"), end=True)
        client.h2.send_headers(late + 2, head("/late"))
        client.h2.send_data(late + 2, bytes(1000))
        await talk.send(client.to_send())
        client.streams[late + 2] = Stream()
        client.receive(talk.take())
        assert [client[s].reset for s in (late, late + 2)] == [H2ErrorCode.REFUSED_STREAM] * 2
        assert begun == ["/open", "/a", "/b"]
        client.h2.reset_stream(streams[0])
        await client.turn(talk)
        assert talk.ended()
