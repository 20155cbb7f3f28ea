"""A crowd on one board over WebTransport, in wire v2: one stream for each, a document in each line.

Everybody is sent the same events in the same order, so the crowd keeps them once: who is ahead adds a line,
all others compare theirs with it. Afterwards they are compared with what was sent.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence
from typing import Any

import attrs
import msgspec
from latency import percentile
from lines import Line, Lines, LoadError, open_session, stream_head

#: How many of a crowd draw, in turn. The others watch.
ARTISTS = 10
#: Latencies are taken of every so many-th client.
_SAMPLE = 10
_EVENT = b'{"event":'
_HELLO = b'{"hello":{}}\n'


@attrs.frozen
class Drawn:
    """What became of the events of one run, all of which have come to everybody."""

    clients: int
    events: int
    #: From the first event sent to the last receipt.
    seconds: float
    #: From an event's stamp to its receipt, in seconds, sorted: of sampled clients.
    latencies: Sequence[float] = attrs.field(repr=False)
    #: Share of its core that the crowd used, 0 to 1.
    busy: float

    @property
    def deliveries(self) -> int:
        """How many receipts there were."""
        return self.clients * self.events

    def percentile(self, percent: float) -> float:
        """Return the seconds that `percent` of the deliveries stayed within."""
        return percentile(self.latencies, percent)


class _Client:
    """One client."""

    def __init__(self, board: Board, line: Line, *, sampled: bool) -> None:
        self.line = line
        self.number = 0
        self.op = 0
        self.welcomed = False
        #: How many events have come; of which drawn by it.
        self.events = 0
        #: When lines came, where it is sampled.
        self.receipts: array[float] | None = array("d") if sampled else None
        self._board = board
        self._rest = b""

    def enter(self, session: int) -> None:
        """Open the stream and say hello."""
        self.number = self.line.ask(stream_head(session) + _HELLO, self.take, end=False)

    def take(self, data: bytes, ended: bool) -> None:
        """Read lines."""
        if ended:
            raise LoadError("the server ended a client's stream")
        *found, self._rest = (self._rest + data).split(b"\n")
        tape = self._board.tape
        for document in found:
            if document.startswith(_EVENT):
                if self.events == len(tape):
                    tape.append(document)
                elif tape[self.events] != document:
                    raise LoadError("one client was sent something else than the others")
                self.events += 1
                if self.receipts is not None:
                    self.receipts.append(time.perf_counter())
            elif document.startswith(b'{"hello":'):
                self.welcomed = True
            elif document.startswith(b'{"error":'):
                raise LoadError(f"the server answered {document!r}")

    def draw(self, event: dict[str, Any], now: float) -> None:
        """Send one event."""
        self.op += 1
        document = msgspec.json.encode({"draw": {"op": self.op, "events": [event]}}) + b"\n"
        self.line.quic.send_stream_data(self.number, document)
        self.line.flush(now)


class Board:
    """Clients on one new board; a context manager, which closes them."""

    def __init__(self, address: str, path: str, count: int) -> None:
        """Connect `count` clients, one after another.

        Raises:
            LoadError: one was refused.

        """
        #: The lines with events that the board has sent.
        self.tape: list[bytes] = []
        self._lines = Lines(address)
        self._clients: list[_Client] = []
        try:
            for line in self._lines.connect(count):
                session = open_session(
                    self._lines,
                    line,
                    path,
                    ("origin", "https://localhost"),
                    ("wt-available-protocols", '"fawa.v2"'),
                )
                client = _Client(self, line, sampled=len(self._clients) % _SAMPLE == 0)
                client.enter(session)
                self._clients.append(client)
                line.flush(time.perf_counter())
                self._lines.until(lambda client=client: client.welcomed)  # type: ignore[misc]
        except BaseException:
            self._lines.__exit__(None, None, None)
            raise

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.__exit__(None, None, None)

    def settle(self, seconds: float = 0.3) -> None:
        """Let what comes after the hellos come."""
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            self._lines.turn(0.05)

    def draw(self, count: int, *, rate: float | None = None, ahead: int = 1) -> Drawn:
        """Draw `count` events and wait until everybody has them all.

        Args:
            count: how many.
            rate: events a second, evenly. `None`: as fast as they come back.
            ahead: without a rate, events of each artist that may be under way.

        Raises:
            LoadError: what came is not what was sent, or not the same for everybody.

        """
        artists = self._clients[:ARTISTS]
        events = [_event(number) for number in range(count)]
        stamps: list[float] = []
        self.tape.clear()
        for client in self._clients:
            client.events = 0
            if client.receipts is not None:
                client.receipts = array("d")
        cpu = time.process_time()
        started = now = time.perf_counter()
        give_up = now + 30 + (count / rate if rate else 0)
        while True:
            now = time.perf_counter()
            due = int((now - started) * rate) + 1 if rate else len(self.tape) + ahead * len(artists)
            while len(stamps) < min(count, due):
                number = len(stamps)
                stamps.append(now)
                artists[number % len(artists)].draw(events[number], now)
            if len(self.tape) == count and all(client.events == count for client in self._clients):
                break
            if now > give_up:
                least = min(client.events for client in self._clients)
                raise LoadError(
                    f"of {count} events {least} have come to everybody within {now - started:.0f} s"
                )
            pause = started + len(stamps) / rate - now if rate and len(stamps) < count else 0.1
            self._lines.turn(max(0.0, pause))
        seconds = time.perf_counter() - started
        order = self._check(events, len(artists))
        latencies = [
            received - stamps[number]
            for client in self._clients
            if client.receipts is not None
            for received, number in zip(client.receipts, order, strict=True)
        ]
        return Drawn(
            clients=len(self._clients),
            events=count,
            seconds=seconds,
            latencies=sorted(latencies),
            busy=(time.process_time() - cpu) / seconds,
        )

    def _check(self, events: Sequence[dict[str, Any]], artists: int) -> list[int]:
        """Compare the events that came with those that were sent; return their numbers in that order."""
        order: list[int] = []
        following = list(range(artists))
        for document in self.tape:
            event = msgspec.json.decode(document)["event"]
            number = event["curr_x"] - 1
            artist = number % artists
            if number != following[artist] or any(
                event[name] != value for name, value in events[number].items()
            ):
                raise LoadError(f"this came where event {following[artist]} was due: {document!r}")
            following[artist] += artists
            order.append(number)
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
