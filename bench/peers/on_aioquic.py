"""aioquic's own asyncio server: greeting, echo, a sink, a source, and the whiteboard over WebTransport.

`python on_aioquic.py CERTIFICATE KEY`. HTTP/3 and WebTransport are aioquic's `H3Connection`. The whiteboard
gathers events for as long as fawad does before it sends them, as that makes fewer packets.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
from collections import deque
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import uvloop
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived, WebTransportStreamDataReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, ProtocolNegotiated, QuicEvent
from ready import tell_ready
from whiteboard import HISTORY, DrawEvent

#: Seconds for which events are gathered: fawad's `board.tick`.
TICK = 0.004
GREET = "/greet.v1.GreetService/SayHello"


class Said(msgspec.Struct, omit_defaults=True):
    """What a client says: hello, or events."""

    hello: Any = None
    draw: Drawing | None = None


class Event(DrawEvent):
    """An event as it is sent, with its numbers."""

    seq: int = 0
    op: int = 0


class Drawing(msgspec.Struct):
    """Events, the first with this number."""

    op: int
    events: list[Event]


_decoder = msgspec.json.Decoder(Said)
_encode = msgspec.json.Encoder().encode


class Board:
    """Who is on a board, its newest events, and what is still to be sent."""

    def __init__(self) -> None:
        self.clients: dict[tuple[Connection, int], str] = {}
        self._history: deque[Event] = deque(maxlen=HISTORY)
        self._seq = 0
        self._waiting: list[bytes] = []

    def take(self, client: tuple[Connection, int], line: bytes) -> None:
        """Take a client's line."""
        said = _decoder.decode(line)
        if said.draw is None:
            self.clients[client] = name = secrets.token_hex(4)
            hello = _encode({"hello": {"client_id": name, "seq": self._seq}})
            client[0].send(client[1], hello + b"\n")
            return
        if not self._waiting:
            asyncio.get_running_loop().call_later(TICK, self._flush)
        for op, event in enumerate(said.draw.events, said.draw.op):
            self._seq += 1
            event.client_id, event.seq, event.op = self.clients[client], self._seq, op
            self._history.append(event)
            self._waiting.append(_encode({"event": event}) + b"\n")

    def _flush(self) -> None:
        data = b"".join(self._waiting)
        self._waiting.clear()
        for connection, stream in self.clients:
            connection.send(stream, data)


boards: dict[str, Board] = {}


class Connection(QuicConnectionProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._h3: H3Connection | None = None
        self._paths: dict[int, str] = {}
        self._bodies: dict[int, bytearray] = {}
        self._sizes: dict[int, int] = {}
        self._lines: dict[int, bytes] = {}

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send octets on a stream of a session."""
        self._quic.send_stream_data(stream, data, end)
        self.transmit()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ProtocolNegotiated):
            self._h3 = H3Connection(self._quic, enable_webtransport=True)
        elif isinstance(event, ConnectionTerminated):
            for board in boards.values():
                for client in [client for client in board.clients if client[0] is self]:
                    del board.clients[client]
        if self._h3 is not None:
            for found in self._h3.handle_event(event):
                self._take(found)

    def _take(self, event: H3Event) -> None:
        if isinstance(event, WebTransportStreamDataReceived):
            path = self._paths[event.session_id]
            if path.startswith("/echo"):
                self._quic.send_stream_data(event.stream_id, event.data, event.stream_ended)
                return
            *lines, rest = (self._lines.get(event.stream_id, b"") + event.data).split(b"\n")
            self._lines[event.stream_id] = rest
            for line in lines:
                boards[path].take((self, event.stream_id), line)
        elif isinstance(event, HeadersReceived):
            fields = dict(event.headers)
            path = self._paths[event.stream_id] = fields[b":path"].decode()
            if fields[b":method"] == b"CONNECT":
                if not path.startswith("/echo"):
                    boards.setdefault(path, Board())
                self._answer(event.stream_id, None)
            elif path.startswith("/source"):
                # All at once: nothing says when there is room for more, and to wait would only cost it time.
                size = int(parse_qs(urlsplit(path).query)["bytes"][0])
                self._answer(event.stream_id, bytes(size))
            elif event.stream_ended:
                self._finish(event.stream_id)
        elif isinstance(event, DataReceived):
            number = event.stream_id
            if self._paths.get(number) == "/sink":
                self._sizes[number] = self._sizes.get(number, 0) + len(event.data)
            else:
                self._bodies.setdefault(number, bytearray()).extend(event.data)
            if event.stream_ended:
                self._finish(number)

    def _finish(self, number: int) -> None:
        """Answer a request that is complete."""
        path = self._paths.pop(number)
        if path == "/sink":
            self._answer(number, b"%d" % self._sizes.pop(number))
        elif path == GREET:
            name = msgspec.json.decode(self._bodies.pop(number))["name"]
            self._answer(number, _encode({"resp": f"Hello, {name}!"}), (b"content-type", b"application/json"))

    def _answer(self, number: int, body: bytes | None, *fields: tuple[bytes, bytes]) -> None:
        """Send a response; None: one whose body goes on, of a session."""
        assert self._h3 is not None
        head = [(b":status", b"200"), *fields]
        if body is None:
            head.append((b"sec-webtransport-http3-draft", b"draft02"))
            self._h3.send_headers(number, head)
        else:
            self._h3.send_headers(number, [*head, (b"content-length", b"%d" % len(body))])
            self._h3.send_data(number, body, end_stream=True)


async def main() -> None:
    configuration = QuicConfiguration(
        is_client=False, alpn_protocols=["h3"], idle_timeout=30, max_datagram_frame_size=65536
    )
    configuration.load_cert_chain(*sys.argv[1:])
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: QuicServer(configuration=configuration, create_protocol=Connection),
        local_addr=("127.0.0.1", 0),
    )
    tell_ready(quic=transport.get_extra_info("sockname")[1])
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


if __name__ == "__main__":
    uvloop.run(main())
