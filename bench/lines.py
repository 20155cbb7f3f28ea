"""QUIC clients in one process: aioquic's core over plain sockets, with as little HTTP/3 as it takes.

aioquic's own HTTP/3 would cost the load client more than QUIC does, so what it sends is written once and used
again, and what it receives is looked at by length: a header section here never refers to the dynamic table,
because the settings leave no room for one.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable
from types import TracebackType

import attrs
import pylsqpack
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import FrameType, Setting, StreamType, encode_frame, encode_settings
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import (
    ConnectionTerminated,
    HandshakeCompleted,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

#: Called with what has come on a stream, and whether that was its end.
Taker = Callable[[bytes, bool], None]

_WINDOW = 64 * 1024 * 1024
#: Datagrams read from a socket before what they bring is answered.
_BATCH = 64
_SETTINGS = encode_uint_var(StreamType.CONTROL) + encode_frame(
    FrameType.SETTINGS,
    encode_settings(
        {
            Setting.QPACK_MAX_TABLE_CAPACITY: 0,
            Setting.QPACK_BLOCKED_STREAMS: 0,
            Setting.ENABLE_CONNECT_PROTOCOL: 1,
            Setting.H3_DATAGRAM: 1,
            Setting.ENABLE_WEBTRANSPORT: 1,
        }
    ),
)


class LoadError(Exception):
    """The server did something else than it should: not slowness, a fault."""


def request(method: str, path: str, *fields: tuple[str, str]) -> bytes:
    """Return a HEADERS frame, the same on every connection and stream."""
    head = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path), *fields]
    encoded = [(name.encode(), value.encode()) for name, value in head]
    _, section = pylsqpack.Encoder().encode(0, encoded)
    return encode_frame(FrameType.HEADERS, section)


def body(data: bytes) -> bytes:
    """Return a DATA frame."""
    return encode_frame(FrameType.DATA, data)


@attrs.define
class Answer:
    """A response as it comes. `keep`: its body, too, and not only how long it is."""

    keep: bool = True
    status: bytes = b""
    body: bytearray = attrs.field(factory=bytearray)
    size: int = 0
    ended: bool = False
    _rest: bytes = b""
    #: Octets of the DATA frame that are still to come.
    _left: int = 0

    def take(self, data: bytes, ended: bool) -> None:
        """Take in what has come."""
        if self._rest:
            data = self._rest + data
        at = 0
        while at < len(data):
            if self._left:
                part = min(self._left, len(data) - at)
                if self.keep:
                    self.body += data[at : at + part]
                self.size += part
                self._left -= part
                at += part
                continue
            try:
                kind, begin = _uint_var(data, at)
                size, begin = _uint_var(data, begin)
            except IndexError:
                break
            if kind == FrameType.DATA:
                self._left, at = size, begin
                continue
            if begin + size > len(data):
                break
            if kind == FrameType.HEADERS:
                _, fields = pylsqpack.Decoder(0, 0).feed_header(0, data[begin : begin + size])
                self.status = self.status or dict(fields)[b":status"]
            at = begin + size
        self._rest = data[at:]
        self.ended = ended

    def expect(self, body: bytes | None = None, size: int | None = None) -> None:
        """Raise `LoadError` where it is not 200 with this body, or a body of this size."""
        wrong = self.status != b"200" or not self.ended or self._rest or self._left
        if wrong or (body is not None and self.body != body) or (size is not None and self.size != size):
            raise LoadError(
                f"the server answered {self.status!r} with {self.size} octets: {self.body[:200]!r}"
            )


def _uint_var(data: bytes, at: int) -> tuple[int, int]:
    """Return the variable-length integer (RFC 9000 section 16) at a position, and where it ends."""
    length = 1 << (data[at] >> 6)
    if at + length > len(data):
        raise IndexError
    return int.from_bytes(data[at : at + length], "big") & ~(3 << (8 * length - 2)), at + length


class Line:
    """One connection to a server."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        self.socket.connect(self._address)
        self.socket.setblocking(False)
        self.quic = QuicConnection(
            configuration=QuicConfiguration(
                alpn_protocols=["h3"],
                server_name="localhost",
                verify_mode=ssl.CERT_NONE,
                idle_timeout=60,
                max_data=_WINDOW,
                max_stream_data=_WINDOW,
                max_datagram_frame_size=65536,
            )
        )
        self.established = False
        #: When the connection wants to be looked at, on the performance counter.
        self.timer = 0.0
        #: Who takes what comes on a stream; for the others it is dropped.
        self.takers: dict[int, Taker] = {}
        now = time.perf_counter()
        self.quic.connect(self._address, now)
        self.flush(now)

    # Time and datagrams.

    def receive(self) -> None:
        """Take in what has come."""
        now = time.perf_counter()
        quic, read = self.quic, self.socket.recv
        try:
            for _ in range(_BATCH):
                quic.receive_datagram(read(65535), self._address, now)
        except BlockingIOError:
            pass
        except OSError as error:
            raise LoadError(f"a connection broke: {error}") from error
        self._take_events()
        self.flush(now)

    def tick(self, now: float) -> None:
        """Let time do its work."""
        self.quic.handle_timer(now)
        self._take_events()
        self.flush(now)

    def flush(self, now: float) -> None:
        """Send what there is."""
        send = self.socket.send
        try:
            for data, _ in self.quic.datagrams_to_send(now):
                send(data)
        except BlockingIOError:
            pass  # lost, which QUIC repairs
        timer = self.quic.get_timer()
        self.timer = float("inf") if timer is None else timer

    def _take_events(self) -> None:
        while (event := self.quic.next_event()) is not None:
            match event:
                case StreamDataReceived(stream_id=number):
                    if (taker := self.takers.get(number)) is not None:
                        if event.end_stream:
                            del self.takers[number]
                        taker(event.data, event.end_stream)
                case HandshakeCompleted():
                    self.established = True
                    control = self.quic.get_next_available_stream_id(is_unidirectional=True)
                    self.quic.send_stream_data(control, _SETTINGS)
                case StreamReset() | StopSendingReceived() | ConnectionTerminated():
                    raise LoadError(f"the server broke off: {event}")

    # Streams.

    def ask(self, data: bytes, taker: Taker, *, end: bool = True) -> int:
        """Open a stream both ways with its first octets; `flush` lets them go. Returns its number."""
        number = self.quic.get_next_available_stream_id()
        self.takers[number] = taker
        self.quic.send_stream_data(number, data, end_stream=end)
        return number

    def unsent(self, number: int) -> int:
        """Count the octets of a stream that the server has not acknowledged."""
        stream = self.quic._streams.get(number)
        return 0 if stream is None else len(stream.sender._buffer)

    def close(self) -> None:
        """Say goodbye."""
        self.quic.close()
        self.flush(time.perf_counter())
        self.socket.close()


class Lines:
    """Connections to one server, looked after together; a context manager, which closes them."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._address = host, int(port)
        self._poll = select.epoll()
        self._lines: dict[int, Line] = {}

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for line in list(self._lines.values()):
            self.drop(line)
        self._poll.close()

    def open(self) -> Line:
        """Return a connection whose handshake has begun."""
        line = Line(*self._address)
        self._lines[line.socket.fileno()] = line
        self._poll.register(line.socket, select.EPOLLIN)
        return line

    def connect(self, count: int) -> list[Line]:
        """Return connections whose handshakes are complete, made one after another."""
        lines: list[Line] = []
        for _ in range(count):
            line = self.open()
            lines.append(line)
            self.until(lambda line=line: line.established)  # type: ignore[misc]
        return lines

    def drop(self, line: Line) -> None:
        """Close a connection."""
        del self._lines[line.socket.fileno()]
        self._poll.unregister(line.socket)
        line.close()

    def turn(self, patience: float = 1.0) -> None:
        """Wait for something to come, `patience` seconds at most, and take it in."""
        now = time.perf_counter()
        due = min((line.timer for line in self._lines.values()), default=now)
        for number, _ in self._poll.poll(max(0.0, min(patience, due - now)), len(self._lines) or 1):
            self._lines[number].receive()
        now = time.perf_counter()
        for line in self._lines.values():
            if line.timer <= now:
                line.tick(now)

    def until(self, happened: Callable[[], object], patience: float = 20.0) -> None:
        """Look after the connections until something holds.

        Raises:
            LoadError: it does not within `patience` seconds.

        """
        give_up = time.perf_counter() + patience
        while not happened():
            if time.perf_counter() > give_up:
                raise LoadError(f"the server did not answer within {patience:g} s")
            self.turn()


def open_session(lines: Lines, line: Line, path: str, *fields: tuple[str, str]) -> int:
    """Open a WebTransport session; return its number.

    Raises:
        LoadError: it was refused.

    """
    answer = Answer()
    head = request("CONNECT", path, (":protocol", "webtransport"), *fields)
    number = line.ask(head, answer.take, end=False)
    line.flush(time.perf_counter())
    lines.until(lambda: answer.status)
    if answer.status != b"200":
        raise LoadError(f"the server answered a session on {path} with {answer.status!r}: {answer.body!r}")
    return number


def stream_head(session: int) -> bytes:
    """Return what a stream both ways of a session begins with."""
    return encode_uint_var(FrameType.WEBTRANSPORT_STREAM) + encode_uint_var(session)
