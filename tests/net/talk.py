"""Both ends of a connection in one process: ours, and a client's made of `h11`, `h2` or plain bytes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import attrs
import h2.config
import h2.connection
import h2.events
import h2.settings
import h11
import trio
import trio.testing
from hypothesis import strategies as st

from fawa.net.connection import App, Limits
from fawa.net.cors import Cors
from fawa.net.exchange import Exchange, Headers, Peer
from fawa.net.http1 import H1Connection
from fawa.net.http2 import H2Connection
from fawa.net.router import Router
from fawa.net.tcp import Root

PEER = Peer("192.0.2.1:4711", "http")
#: Limits without the time they take to be reached where a test is not about them.
LIMITS = Limits()

#: What every answer says of a clock that stands still.
DATE = (b"date", b"Thu, 01 Jan 1970 00:00:00 GMT")

Event = h2.events.Event
Handler = Callable[[Exchange], Awaitable[None]]


def root(handler: Handler) -> Root:
    """Return the application as the front door runs it, with one handler for every path."""
    return Root(Router(not_found=handler), Cors(allows=lambda origin: False), access=None, clock=lambda: 0)


def examples(everyday: int) -> int:
    """Return how many examples Hypothesis shall try: `FAWA_EXAMPLES=20` makes it twenty times as many."""
    return everyday * int(os.environ.get("FAWA_EXAMPLES", "1"))


async def settle() -> None:
    """Wait until nothing more happens by itself."""
    await trio.testing.wait_all_tasks_blocked()


def pieces(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """Cut `data` into pieces of `sizes`, the last size again and again; no sizes: one piece."""
    if not sizes:
        return [data]
    cut, start, turn = [], 0, 0
    while start < len(data):
        size = sizes[min(turn, len(sizes) - 1)]
        cut.append(data[start : start + size])
        start += size
        turn += 1
    return cut


#: How bytes arrive: whole, byte by byte, or in random pieces.
CHUNKINGS: st.SearchStrategy[list[int]] = st.one_of(
    st.just([]), st.just([1]), st.lists(st.integers(1, 40), min_size=1, max_size=12)
)


# The server's end


@attrs.define
class Line:
    """A connection under test, and the client's end of it."""

    conn: H1Connection | H2Connection
    stream: trio.abc.HalfCloseableStream
    received: bytearray = attrs.field(factory=bytearray)
    _ended: bool = False
    #: Whether the client reads; `reading` is waited for while it does not.
    _may_read: trio.Event = attrs.field(factory=trio.Event)

    @property
    def h2(self) -> H2Connection:
        assert isinstance(self.conn, H2Connection)
        return self.conn

    async def send(self, data: bytes, sizes: Sequence[int] = ()) -> None:
        """Send bytes in pieces; each arrives by itself. What the server no longer reads is lost."""
        for piece in pieces(data, sizes):
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self.stream.send_all(piece)
            await settle()

    async def say(self, data: bytes, sizes: Sequence[int] = ()) -> bytes:
        """Send bytes and return what comes back before all is quiet."""
        self.received.clear()
        await self.send(data, sizes)
        return self.take()

    def take(self) -> bytes:
        """Return and forget what has been received."""
        data = bytes(self.received)
        self.received.clear()
        return data

    def ended(self) -> bool:
        """Whether the server has ended the connection."""
        return self._ended

    def lost(self) -> bool:
        """Whether the server has given the client up."""
        return self.conn.lost

    def start_reading(self) -> None:
        self._may_read.set()

    async def half_close(self) -> None:
        await self.stream.send_eof()
        await settle()

    async def close(self) -> None:
        await self.stream.aclose()
        await settle()

    async def _read(self) -> None:
        await self._may_read.wait()
        try:
            while data := await self.stream.receive_some(65536):
                self.received += data
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            pass
        self._ended = True
        await trio.aclose_forcefully(self.stream)


Pair = tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]


def memory_pair() -> Pair:
    """Return two ends with unlimited buffers."""
    return trio.testing.memory_stream_pair()


def lockstep_pair() -> Pair:
    """Return two ends without buffers: sending waits until the other end has read."""
    return trio.testing.lockstep_stream_pair()


@asynccontextmanager
async def line(
    version: type[H1Connection | H2Connection],
    handler: Handler,
    *,
    limits: Limits = LIMITS,
    app: App | None = None,
    pair: Pair | None = None,
    reads: bool = True,
    first: bytes = b"",
) -> AsyncIterator[Line]:
    """Serve one connection; at the end no task, exchange or window may be left of it."""
    near, far = pair or memory_pair()
    conn = version(far, PEER, limits)
    talk = Line(conn, near)
    if reads:
        talk.start_reading()

    async def serve() -> None:
        await conn.run(app or root(handler), first)
        await trio.aclose_forcefully(far)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        nursery.start_soon(talk._read)
        await settle()
        yield talk
        talk.start_reading()
        await near.aclose()
    assert nothing_left(conn) == []


def nothing_left(conn: H1Connection | H2Connection) -> list[str]:
    """Tell what an ended connection has left behind that it should not."""
    left = []
    if conn._calls.child_tasks:
        left.append(f"tasks {conn._calls.child_tasks}")
    if conn.ready:
        left.append(f"calls that nobody began: {conn.ready}")
    if isinstance(conn, H2Connection):
        if conn.exchanges:
            left.append(f"exchanges {conn.exchanges}")
    elif conn._exchange is not None and not conn._exchange.broken:
        left.append(f"exchange {conn._exchange}")
    return left


def at_rest(conn: H1Connection | H2Connection) -> list[str]:
    """Tell what is not as it must be while all tasks of an open connection wait."""
    wrong = []
    if conn.corked:
        wrong.append("the leader waits and has not uncorked the writer")
    if conn.ready:
        wrong.append("a request waits and nobody answers it")
    if conn.is_flushed and (left := conn._taker.take()):
        wrong.append(f"queued and not sent: {left!r}")
    return wrong


# HTTP/1.1 clients


@attrs.frozen
class Answer:
    """A response as a client of another make understood it."""

    status: int
    headers: Headers
    body: bytes = b""
    trailers: Headers = attrs.field(factory=list)
    #: Interim responses that came before.
    interim: tuple[int, ...] = ()

    def header(self, name: bytes) -> bytes | None:
        return dict(self.headers).get(name)


def h11_answer(data: bytes, method: str, *, ended: bool = False) -> tuple[Answer, bytes]:
    """Parse the response to a request of `method`; returns it and the bytes behind it.

    `ended`: the connection ended after `data`.
    """
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("host", "h")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    if ended:
        client.receive_data(b"")
    body, interim = b"", []
    while True:
        event = client.next_event()
        match event:
            case h11.InformationalResponse():
                interim.append(event.status_code)
            case h11.Response():
                head = event
            case h11.Data():
                body += event.data
            case h11.EndOfMessage():
                trailers = [(bytes(name), bytes(value)) for name, value in event.headers]
                break
            case _:
                raise AssertionError(f"{event!r} in the answer to {method}: {data!r}")
    headers = [(bytes(name), bytes(value)) for name, value in head.headers]
    return Answer(head.status_code, headers, body, trailers, tuple(interim)), client.trailing_data[0]


def h11_answers(data: bytes, methods: Sequence[str], *, ended: bool = False) -> list[Answer]:
    """Parse the responses to requests of `methods`, all of `data`; `ended`: the connection ended after it."""
    answers = []
    for method in methods:
        answer, data = h11_answer(data, method, ended=ended)
        answers.append(answer)
    assert not data, f"bytes behind the last answer: {data!r}"
    return answers


def request(
    path: str = "/", method: str = "GET", *headers: str, body: bytes = b"", version: str = "1.1"
) -> bytes:
    """Encode a request; a body has its length."""
    lines = [f"{method} {path} HTTP/{version}", "host: h", *headers]
    if body:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


# HTTP/2 clients


@attrs.define
class Stream:
    """What a client has received on one stream."""

    status: int = 0
    headers: Headers = attrs.field(factory=list)
    body: bytearray = attrs.field(factory=bytearray)
    trailers: Headers = attrs.field(factory=list)
    ended: bool = False
    reset: int | None = None

    @property
    def is_over(self) -> bool:
        return self.ended or self.reset is not None


POST: Headers = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"h"), (b":path", b"/")]


def head(path: str = "/", method: str = "POST", *more: tuple[bytes, bytes]) -> Headers:
    """Return a request's header list."""
    return [
        *((b":method", method.encode()), (b":scheme", b"http"), (b":authority", b"h")),
        *((b":path", path.encode()), *more),
    ]


@attrs.define
class H2Client:
    """An `h2` client without I/O: gathers what comes, and gives window back if it shall."""

    #: Give window back for data received.
    consumes: bool = True
    #: The stream window it grants from the start.
    window: int = 65535
    h2: h2.connection.H2Connection = attrs.field(init=False)
    streams: dict[int, Stream] = attrs.field(factory=dict, init=False)
    events: list[Event] = attrs.field(factory=list, init=False)
    #: Last stream ids of the GOAWAYs received, and the error code of the last.
    goaways: list[int] = attrs.field(factory=list, init=False)
    goaway_code: int | None = attrs.field(default=None, init=False)
    _input: bytearray = attrs.field(factory=bytearray, init=False)

    def __attrs_post_init__(self) -> None:
        config = h2.config.H2Configuration(client_side=True, header_encoding=None)
        # To send what a client may not.
        config.validate_outbound_headers = config.normalize_outbound_headers = False
        self.h2 = h2.connection.H2Connection(config)
        settings = h2.settings.SettingCodes
        self.h2.local_settings = h2.settings.Settings(
            client=True, initial_values={settings.INITIAL_WINDOW_SIZE: self.window, settings.ENABLE_PUSH: 0}
        )
        self.h2.initiate_connection()
        # Windows of the connection are a matter of their own.
        self.h2.increment_flow_control_window(2**30)

    def open(self, headers: Headers = POST, *, end: bool = False) -> int:
        """Queue a request head; returns the stream's id."""
        stream_id = self.h2.get_next_available_stream_id()
        self.streams[stream_id] = Stream()
        self.h2.send_headers(stream_id, headers, end_stream=end)
        return stream_id

    def to_send(self) -> bytes:
        return self.h2.data_to_send()

    def receive(self, data: bytes) -> None:
        """Understand bytes from the server; raises what `h2` raises for what is not allowed."""
        self._input += data
        for kind, flags, stream_id, payload in frames(self._input, whole=False):
            size = 9 + len(payload)
            if kind == GOAWAY:
                # `h2` takes it for the end of everything; open streams go on (RFC 9113 section 6.8).
                self.goaways.append(int.from_bytes(payload[:4], "big"))
                self.goaway_code = int.from_bytes(payload[4:8], "big")
            else:
                for event in self.h2.receive_data(frame(kind, flags, stream_id, payload)):
                    self._note(event)
            del self._input[:size]

    def _note(self, event: Event) -> None:
        self.events.append(event)
        match event:
            case h2.events.ResponseReceived():
                stream = self.streams[event.stream_id]
                assert not stream.status, f"two responses on stream {event.stream_id}"
                headers = [(bytes(name), bytes(value)) for name, value in event.headers]
                stream.status, stream.headers = int(dict(headers)[b":status"]), headers[1:]
            case h2.events.DataReceived():
                self.streams[event.stream_id].body += event.data
                if self.consumes:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.TrailersReceived():
                self.streams[event.stream_id].trailers = [(bytes(n), bytes(v)) for n, v in event.headers]
            case h2.events.StreamEnded():
                assert not self.streams[event.stream_id].ended
                self.streams[event.stream_id].ended = True
            case h2.events.StreamReset() if event.remote_reset:
                self.streams[event.stream_id].reset = int(event.error_code)

    async def turn(self, talk: Line, sizes: Sequence[int] = ()) -> None:
        """Send what is queued and take in what comes back, until both are quiet."""
        while True:
            await talk.send(self.to_send(), sizes)
            if not talk.received:
                return
            self.receive(talk.take())

    def __getitem__(self, stream_id: int) -> Stream:
        return self.streams[stream_id]


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """Encode a frame header and payload; `length` can lie (RFC 9113 section 4.1)."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


def frames(data: bytes | bytearray, *, whole: bool = True) -> Iterator[tuple[int, int, int, bytes]]:
    """Iterate over (type, flags, stream id, payload); `whole`: nothing may be left behind the last frame."""
    data = bytes(data)
    start = 0
    while start + 9 <= len(data):
        end = start + 9 + int.from_bytes(data[start : start + 3], "big")
        if end > len(data):
            break
        stream_id = int.from_bytes(data[start + 5 : start + 9], "big")
        yield data[start + 3], data[start + 4], stream_id, data[start + 9 : end]
        start = end
    assert start == len(data) or not whole, "an unfinished frame"


# Frame types (RFC 9113 section 6).
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
