"""The conversation with a board (wire v2) from a client's side, across its connections. Pure.

    session.begin(now)                     there is a connection
    session.next_document(now)             what is to be sent now; look again at `wake_at`, and after anything
    session.take_untrusted(document, now)  what came; returns what is to be told
    session.end(...)                       the connection is over: come back at `retry_at`, or never (`over`)

What was drawn and not acknowledged waits here, for the next connection if need be: so it is taken once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import attrs
import msgspec

from fawa.board.events import DrawEvent
from fawa.client.board.documents import (
    Ack,
    Changed,
    Drain,
    Error,
    Event,
    Hello,
    InOrder,
    Limits,
    People,
    Person,
    Piece,
    ReadOnly,
    Rejected,
    Said,
    Snapshot,
    Stroke,
    decode_untrusted,
)

#: Seconds for the server's hello, and for any answer to a ping.
_GREETING: Final = 10.0
_PONG: Final = 8.0
#: Seconds between two positions of the cursor.
_CURSOR_INTERVAL: Final = 1 / 30
#: Pauses in seconds: they double, and half of each is left to chance, so that those who lost a server
#: together do not come back together.
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 15.0
_PAUSE_WHEN_FULL: Final = 20.0
#: A connection that held for so many seconds was a good one: the next pauses start small again.
_GOOD: Final = 10.0
#: Bytes of JSON of the largest snapshot that is put together.
_MOST_SNAPSHOT: Final = 64 * 1024 * 1024
#: Bytes of a draw beside its events.
_AROUND: Final = 64

#: Close codes.
FULL: Final = 4413
_NO_COMING_BACK: Final = {
    1002: "the server did not understand",
    1003: "the server did not understand",
    1007: "the server did not understand",
    1009: "a message was larger than the server takes",
    4400: "the server did not understand",
    4401: "the server did not understand",
    4404: "the board is gone",
    4409: "the same client has connected from elsewhere",
}

_encode: Final = msgspec.json.Encoder().encode
Told = InOrder | Changed


class Unusable(Exception):  # noqa: N818 - said as it is
    """Nothing good can come by this connection any more; another one may be better."""


@attrs.frozen
class Ending:
    """Why there will be no further connection: a close code or an HTTP status, and words."""

    code: int
    reason: str


@attrs.frozen
class _Sent:
    op: int
    event: DrawEvent
    #: Number of the draw that it went with.
    batch: int


class Session:
    """One client on one board.

    Args:
        name: shown to others.
        color: of the cursor.
        chance: returns a number from 0 up to 1.

    """

    def __init__(self, name: str, color: str, chance: Callable[[], float]) -> None:
        self.name = name
        self.color = color
        self.client_id = ""
        self.read_only = False
        self.people: dict[str, Person] = {}
        self.cursors: dict[str, tuple[int, int]] = {}
        #: The hello has been answered on this connection.
        self.live = False
        #: Set for good.
        self.over: Ending | None = None
        #: Why, once it is told what was to be told, this connection is of no more use; empty while it is.
        self.hang_up = ""
        #: When to connect again.
        self.retry_at = -math.inf
        #: Of the last event that was told, and its epoch.
        self.epoch = ""
        self.seq = 0
        self._chance = chance
        self._token = ""
        self._limits = Limits()
        #: Drawn and not acknowledged, oldest first: what this connection has not taken yet, and what it has.
        #: Whoever draws sees to it that they stay bounded: `pending`.
        self._unsent: deque[tuple[int, DrawEvent]] = deque()
        self._sent: deque[_Sent] = deque()
        self._next_op = 1
        self._resent_from = 0
        #: What there is of a snapshot that is coming in, with its epoch and its bytes.
        self._snapshot: list[Stroke] | None = None
        self._snapshot_epoch = ""
        self._snapshot_size = 0
        self._hello_due = False
        self._profile_due = False
        self._cursor: tuple[int, int] | None = None
        self._cursor_at = -math.inf
        #: When something was heard last, and whether a ping asks for something since.
        self._heard = -math.inf
        self._pinged = False
        self._pings = 0
        self._live_since = -math.inf
        self._failures = 0
        self._drain_pause = 0.0

    # What the client does.

    @property
    def pending(self) -> int:
        """How many events the board has not acknowledged."""
        return len(self._unsent) + len(self._sent)

    def draw(self, events: Iterable[DrawEvent]) -> None:
        """Put valid events on the board, now or once there is a connection."""
        for event in events:
            self._unsent.append((self._next_op, event))
            self._next_op += 1

    def move(self, x: int, y: int) -> None:
        """Show where the pointer is; the latest wins."""
        self._cursor = (x, y)

    def change(self, name: str, color: str) -> None:
        """Be called otherwise."""
        self.name, self.color = name, color
        self._profile_due = True

    def forget(self) -> None:
        """Ask for the whole board at the next hello, as what was told has been lost."""
        self.epoch, self.seq = "", 0

    # The connection.

    def begin(self, now: float) -> None:
        """There is a connection: greet."""
        self.live = False
        self.hang_up = ""
        self._hello_due = True
        self._profile_due = False
        self._heard = now
        self._pinged = False

    @property
    def deadline(self) -> float:
        """When a connection on which nothing comes is dead."""
        return self._heard + (self._limits.ping + _PONG if self.live else _GREETING)

    @property
    def wake_at(self) -> float:
        """When there may be something to send though nothing has happened."""
        if not self.live:
            return math.inf
        ping_at = math.inf if self._pinged else self._heard + self._limits.ping
        return min(ping_at, math.inf if self._cursor is None else self._cursor_at)

    def next_document(self, now: float) -> bytes | None:
        """Return the next document to send, `None` if there is none for now."""
        if self._hello_due:
            self._hello_due = False
            return _encode({"hello": self._hello()})
        if not self.live:
            return None
        if not self._pinged and now >= self._heard + self._limits.ping:
            self._pinged = True
            self._pings += 1
            return _encode({"ping": self._pings})
        if self._profile_due:
            self._profile_due = False
            return _encode({"profile": {"name": self.name, "color": self.color}})
        if self._cursor is not None and now >= self._cursor_at:
            (x, y), self._cursor = self._cursor, None
            self._cursor_at = now + _CURSOR_INTERVAL
            return _encode({"cursor": {"x": x, "y": y}})
        return None if self.read_only else self._next_draw()

    def _hello(self) -> dict[str, object]:
        hello: dict[str, object] = {"name": self.name, "color": self.color}
        if self.client_id:
            hello["resume"] = {
                "client_id": self.client_id,
                "token": self._token,
                "epoch": self.epoch,
                "seq": self.seq,
            }
        return hello

    def _next_draw(self) -> bytes | None:
        if not self._unsent:
            return None
        first = self._unsent[0][0]
        events: list[bytes] = []
        size = _AROUND
        while self._unsent and len(events) < self._limits.events:
            op, event = self._unsent[0]
            encoded = _encode(event)
            size += len(encoded) + 1
            # One that is larger than the limit goes by itself, for the server to say so.
            if op != first + len(events) or (events and size > self._limits.message):
                break
            events.append(encoded)
            self._unsent.popleft()
            self._sent.append(_Sent(op, event, first))
        return b'{"draw":{"op":%d,"events":[%b]}}' % (first, b",".join(events))

    def take_untrusted(self, data: bytes, now: float) -> list[Told]:
        """Take in what the server says; returns what is to be told.

        Raises:
            Unusable: the connection is of no more use.

        """
        try:
            said = decode_untrusted(data)
        except ValueError as error:
            raise Unusable(f"the server sent what is no document: {error}") from error
        self._heard, self._pinged = now, False
        if isinstance(said, Hello):
            return self._on_hello(said, now)
        if not self.live or said is None:
            return []
        if isinstance(said, Piece):
            return self._on_snapshot(said, len(data))
        return self._on_news(said)

    def _on_news(self, said: Said) -> list[Told]:
        match said:
            case Event():
                return self._on_event(said)
            case Ack(op):
                self._taken(op)
            case People():
                return self._on_people(said)
            case Error():
                return self._on_error(said)
            case ReadOnly(read_only):
                self.read_only = read_only
                self._resent_from = 0
                return [Changed.STATUS]
            case Drain(milliseconds):
                self._drain_pause = max(0, milliseconds) / 1000
            case tuple():
                others = {one.client_id: (one.x, one.y) for one in said if one.client_id != self.client_id}
                self.cursors |= others
                return [Changed.CURSORS] if others else []
        return []

    def end(self, code: int, reason: str, now: float, retry_after: float = 0.0) -> None:
        """The connection is over, or none could be had.

        Args:
            code: of its close, 1006 where there was none; or the status of an HTTP answer.
            reason: in words.
            now: the time.
            retry_after: seconds that the server asks for.

        """
        self.live = False
        self._snapshot = None
        self.cursors.clear()
        if code in _NO_COMING_BACK or (400 <= code < 500 and code != 429):
            self.over = Ending(code, reason or _NO_COMING_BACK.get(code, ""))
            return
        if now - self._live_since >= _GOOD:
            self._failures = 0
        self._live_since = math.inf
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._failures, 30))
        if code == FULL:
            pause = _PAUSE_WHEN_FULL
        pause = self._drain_pause or (retry_after or pause) * (0.5 + self._chance() / 2)
        self._failures += 1
        self._drain_pause = 0.0
        self.retry_at = now + pause

    # What the server says.

    def _on_hello(self, hello: Hello, now: float) -> list[Told]:
        if self.live:
            raise Unusable("the server has greeted twice")
        pending = [*((one.op, one.event) for one in self._sent), *self._unsent]
        self._sent.clear()
        self._resent_from = 0
        if hello.client_id == self.client_id:
            self._unsent = deque(one for one in pending if one[0] > hello.op)
            self._next_op = max(self._next_op, hello.op + 1)
        else:
            # Somebody new: what was pending is theirs now, counted from 1.
            self._unsent = deque(enumerate((event for _, event in pending), 1))
            self._next_op = len(pending) + 1
        self.client_id, self._token = hello.client_id, hello.token
        self._limits = hello.limits
        self.read_only = hello.read_only
        self._snapshot = None if hello.recovered else []
        self._snapshot_epoch, self._snapshot_size = hello.epoch, 0
        self.live = True
        self._live_since = now
        return [Changed.STATUS]

    def _on_snapshot(self, piece: Piece, size: int) -> list[Told]:
        if piece.first:
            self._snapshot_epoch = self._snapshot_epoch if self._snapshot is not None else self.epoch
            self._snapshot, self._snapshot_size = [], 0
        if self._snapshot is None:
            return []
        self._snapshot_size += size
        if self._snapshot_size > _MOST_SNAPSHOT:
            raise Unusable(f"the snapshot has more than {_MOST_SNAPSHOT} bytes")
        self._snapshot.extend(piece.strokes)
        if not piece.last:
            return []
        strokes, self._snapshot = tuple(self._snapshot), None
        self.epoch, self.seq = self._snapshot_epoch, piece.seq
        return [Snapshot(strokes)]

    def _on_event(self, event: Event) -> list[Told]:
        if event.seq <= self.seq and self._snapshot is None:
            return []
        if self._snapshot is not None or event.seq > self.seq + 1:
            # Coming back with what has been seen brings it.
            raise Unusable(f"event {event.seq} came, and {self.seq + 1} did not")
        self.seq = event.seq
        if event.client_id == self.client_id and event.op:
            self._taken(event.op)
        return [event]

    def _taken(self, op: int) -> None:
        while self._sent and self._sent[0].op <= op:
            self._sent.popleft()

    def _on_people(self, said: People) -> list[Told]:
        had_cursors = len(self.cursors)
        if said.all:
            self.people.clear()
            self.cursors.clear()
        for client_id in said.gone:  # before those who come: one may have gone and come back
            self.people.pop(client_id, None)
            self.cursors.pop(client_id, None)
        for person in said.here:
            self.people[person.client_id] = person
        return [Changed.PEOPLE, Changed.CURSORS] if had_cursors != len(self.cursors) else [Changed.PEOPLE]

    def _on_error(self, error: Error) -> list[Told]:
        op = error.op
        if error.code == "read_only" and op:
            # Nothing of it was taken: it waits here until the board takes events again.
            self.read_only = True
            self._take_back(op)
            return [Changed.STATUS]
        if error.code == "out_of_order" and op:
            first = self._sent[0].op if self._sent else op
            if first < op:
                # Once for each missing event: the same answer to what was on its way asks for nothing more.
                if self._resent_from != first:
                    self._resent_from = first
                    self._take_back(first)
                return []
            # A new connection begins at what the board has taken, and asks for nothing that is not here.
            raise Unusable("the board misses events that are not here any more")
        if not op:
            return [Rejected(0, error.code, error.message)]
        # The board will never take it; the rest goes by a new connection, for the same reason.
        lost = [one for one in self._sent if one.batch == op]
        self._sent = deque(one for one in self._sent if one.batch != op)
        self.hang_up = "the board has rejected a draw"
        return [Rejected(len(lost), error.code, error.message)]

    def _take_back(self, op: int) -> None:
        """Send what was sent from `op` on again."""
        back: list[tuple[int, DrawEvent]] = []
        while self._sent and self._sent[-1].op >= op:
            one = self._sent.pop()
            back.append((one.op, one.event))
        self._unsent.extendleft(back)
