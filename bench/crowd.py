"""A crowd on one board: many WebSocket clients in one process that costs less than the servers it measures.

Everybody on a board of wire v1 is sent the same text messages in the same order, and a server does not mask,
so all clients of a board receive the very same bytes. The crowd keeps them once: who is ahead adds to them,
all others only compare, in C, what they receive with what is there. So order and completeness are checked of
each client in every run, at the price of a `memcmp`; afterwards the bytes are parsed once and compared with
the events that were sent.
"""

from __future__ import annotations

import base64
import os
import select
import socket
import time
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import attrs
import msgspec
from latency import percentile

#: How many of a crowd draw, in turn. The others, however many, watch.
ARTISTS = 10
#: Latencies are taken of this many clients, spread evenly over the order in which they came.
SAMPLED = 50
_KEY = base64.b64encode(os.urandom(16)).decode()
_TEXT = 0x81  # FIN, opcode 1


class CrowdError(Exception):
    """The server sent something else than it should: not slowness, a fault."""


@attrs.frozen
class Drawn:
    """What became of the events of one run."""

    clients: int
    #: Events sent, each once.
    events: int
    #: Events a second that were to be sent.
    rate: float
    #: Whether every client was sent every event, in one order, by the time the run was given up.
    complete: bool
    #: From the first stamp to the last receipt.
    seconds: float
    #: From an event's stamp to its receipt, in seconds, sorted: of the sampled clients, every event.
    latencies: Sequence[float] = attrs.field(repr=False)
    #: Share of its core that the crowd used, 0 to 1: near 1, it was the limit.
    busy: float

    @property
    def deliveries(self) -> int:
        """How many receipts there were."""
        return self.clients * self.events

    def percentile(self, percent: float) -> float:
        """Return the seconds that `percent` of the deliveries stayed within, infinite if any is missing."""
        return percentile(self.latencies, percent)


@attrs.define
class _Client:
    """One WebSocket connection, and how far it has come on the board's tape."""

    socket: socket.socket
    position: int = 0
    #: When something came, in ns, and the position then; `None` for clients not sampled.
    receipts: tuple[array[int], array[int]] | None = None


class Crowd:
    """Clients on one new board; a context manager, which closes them."""

    def __init__(self, address: str, path: str, count: int) -> None:
        """Connect `count` clients, one after another.

        Raises:
            CrowdError: a handshake was refused.

        """
        host, _, port = address.rpartition(":")
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {_KEY}\r\n\r\n"
        ).encode()
        self._poll = select.epoll()
        self._clients: dict[int, _Client] = {}
        self._tape = _Tape()
        try:
            for _ in range(count):
                self._connect(host, int(port))
        except BaseException:
            self.close()
            raise
        self._everybody = list(self._clients.values())

    def _connect(self, host: str, port: int) -> None:
        connection = socket.create_connection((host, port), timeout=10)
        self._clients[connection.fileno()] = _Client(connection)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(self._request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            data = connection.recv(4096)
            if not data:
                raise CrowdError(f"the server closed the connection after {answer!r}")
            answer += data
        head, _, rest = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 ") or rest:
            raise CrowdError(f"the server answered the WebSocket handshake with {answer!r}")
        connection.setblocking(False)
        self._poll.register(connection, select.EPOLLIN)

    def __enter__(self) -> Crowd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop all connections."""
        for client in self._clients.values():
            client.socket.close()
        self._poll.close()

    def draw(self, rate: float, seconds: float, *, pause: float = 0.001, patience: float = 0.5) -> Drawn:
        """Send events at this rate, evenly, for so long; return what became of them.

        The crowd looks for what has come every `pause` seconds, which is then in its latencies; 0: at once.
        Where it wakes for every frame, it may be the limit before the server is, and waking it costs the
        server more than the write. It gives up when something is missing `patience` seconds after the end.

        Raises:
            CrowdError: what came is not what was sent, or not the same for everybody.

        """
        count = max(1, round(rate * seconds))
        artists = self._everybody[:ARTISTS]
        events = [_event(number) for number in range(count)]
        frames = [_frame({"draw_event": event}) for event in events]
        stamps = array("q")
        pace = 1e9 / rate
        self._tape.begin()
        for client in self._everybody[:: max(1, len(self._everybody) // SAMPLED)]:
            client.receipts = (array("q"), array("q"))
        cpu = time.process_time()
        started = now = time.perf_counter_ns()
        give_up = started + int(count * pace + patience * 1e9)
        while now < give_up:
            due = min(count, int((now - started) / pace) + 1)
            while len(stamps) < due:
                number = len(stamps)
                stamps.append(time.perf_counter_ns())
                if not _send(artists[number % len(artists)].socket, frames[number]):
                    give_up = 0  # the server reads no more: it is far behind
                    break
            if pause:
                time.sleep(pause)
                self._receive(0, len(self._everybody))
            else:
                self._receive(0.001, 64)
            now = time.perf_counter_ns()
            if self._tape.count == count and self._all_arrived():
                break
        busy = (time.process_time() - cpu) * 1e9 / (now - started)
        complete = self._tape.count == count and self._all_arrived()
        order = self._tape.check(events, len(artists)) if complete else []
        return Drawn(
            clients=len(self._everybody),
            events=len(stamps),
            rate=rate,
            complete=complete,
            seconds=(now - started) / 1e9,
            latencies=sorted(self._latencies(stamps, order)),
            busy=busy,
        )

    def _all_arrived(self) -> bool:
        end = len(self._tape.data)
        return all(client.position == end for client in self._everybody)

    def _receive(self, patience: float, most: int) -> None:
        """Read what has come to so many clients at most."""
        clients, take = self._clients, self._tape.take
        for number, _ in self._poll.poll(patience, most):
            client = clients[number]
            client.position = take(client.socket, client.position)
            if client.receipts is not None:
                times, positions = client.receipts
                times.append(time.perf_counter_ns())
                positions.append(client.position)

    def _latencies(self, stamps: Sequence[int], order: Sequence[int]) -> list[float]:
        """Return seconds from stamp to receipt; `order` has the events' numbers as they came."""
        found: list[float] = []
        for client in self._everybody:
            first = 0
            for received, position in zip(*client.receipts or ((), ()), strict=True):
                last = bisect_right(self._tape.ends, position)
                found += [(received - stamps[number]) / 1e9 for number in order[first:last]]
                first = last
        return found


class _Tape:
    """The bytes that a board sends to everybody, kept once."""

    def __init__(self) -> None:
        self.data = bytearray()
        #: Position of the end of each message of this run.
        self.ends: list[int] = []
        self._begin = 0
        self._parsed = 0
        self._buffer = bytearray(1 << 18)
        self._view = memoryview(self._buffer)

    @property
    def count(self) -> int:
        """How many messages of this run have come to whoever is ahead."""
        return len(self.ends)

    def begin(self) -> None:
        """Begin a run: what came before is forgotten, positions go on."""
        self.ends = []
        self._begin = self._parsed

    def take(self, source: socket.socket, position: int) -> int:
        """Read from a client that is at `position`; return where it is then.

        Raises:
            CrowdError: it was sent something else than the others.

        """
        try:
            size = source.recv_into(self._buffer)
        except ConnectionError as error:
            raise CrowdError(f"a connection broke: {error}") from error
        if size == 0:
            raise CrowdError("the server closed a connection")
        known = min(size, len(self.data) - position)
        if not self.data.startswith(self._view[:known], position):
            raise CrowdError("one client was sent something else than the others")
        if known < size:
            self.data += self._view[known:size]
            self._parse()
        return position + size

    def _parse(self) -> None:
        """Find the ends of messages (RFC 6455, section 5.2)."""
        data, at = self.data, self._parsed
        while at + 4 <= len(data):
            if data[at] != _TEXT:
                raise CrowdError(f"a frame that is no whole text message begins with 0x{data[at]:02x}")
            size = data[at + 1]
            if size < 126:
                end = at + 2 + size
            elif size == 126:
                end = at + 4 + (data[at + 2] << 8 | data[at + 3])
            else:
                raise CrowdError(f"a frame is masked, or too long for one event: 0x{size:02x}")
            if end > len(data):
                break
            self.ends.append(end)
            self._parsed = at = end

    def check(self, events: Sequence[dict[str, Any]], artists: int) -> list[int]:
        """Compare this run's messages with the events sent; return the events' numbers as they came.

        Raises:
            CrowdError: an event was lost, altered, sent twice, or came before an earlier one of its sender,
                or the server did not stamp each sender's own client_id.

        """
        order: list[int] = []
        names: dict[int, str] = {}
        following = list(range(artists))
        begin = self._begin
        for end in self.ends:
            message = bytes(self.data[begin + (2 if self.data[begin + 1] < 126 else 4) : end])
            begin = end
            event = msgspec.json.decode(message)["draw_event"]
            name = event.pop("client_id")
            number = event["curr_x"] - 1
            artist = number % artists
            if number != following[artist] or event != events[number]:
                raise CrowdError(f"this came where event {following[artist]} was due: {message!r}")
            following[artist] += artists
            if names.setdefault(artist, name) != name or len(name) != 8:
                raise CrowdError(f"{name!r} was stamped on an event of {names[artist]!r}")
            order.append(number)
        if len(order) != len(events) or len(set(names.values())) != len(names):
            raise CrowdError(f"{len(events)} events became {len(order)}, of {sorted(names.values())}")
        return order


def _event(number: int) -> dict[str, Any]:
    """Return a segment as the page draws it, with its number, from 0, in `curr_x`."""
    return {
        "type": "draw",
        "color": "#1a73e8",
        "size": 4,
        "prev_x": 640 + number % 97,
        "prev_y": 360 + number % 89,
        "curr_x": number + 1,
        "curr_y": 361 + number % 89,
        "time": time.time_ns() // 1_000_000,
    }


def _frame(document: object) -> bytes:
    """Return a client's text frame (RFC 6455, section 5.2), masked with zeros, which leave it as it is."""
    payload = msgspec.json.encode(document)
    size = len(payload)
    head = bytes((_TEXT, 0x80 | size)) if size < 126 else bytes((_TEXT, 0x80 | 126, size >> 8, size & 255))
    return head + bytes(4) + payload


def _send(connection: socket.socket, frame: bytes) -> bool:
    """Send a frame whole; return whether there was still room for it on its way to the server.

    Raises:
        CrowdError: the connection is gone.

    """
    try:
        return connection.send(frame) == len(frame)
    except BlockingIOError:
        return False
    except ConnectionError as error:
        raise CrowdError(f"a connection broke: {error}") from error
