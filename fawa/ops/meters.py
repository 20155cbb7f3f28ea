"""What is counted for `/metrics`: calls as they end, and the lag of the event loop.

A call ends tens of thousands of times a second, so it is noted here in plain numbers; `exposition` makes
Prometheus' families of them when somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

import attrs
import trio

from fawa.net.exchange import Exchange

#: Upper bounds of a duration's buckets, in seconds.
BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
#: What stands for paths that nothing is served at: anybody can make those up.
OTHER: Final = "other"

#: Seconds between two looks at the event loop's lag.
_LOOK: Final = 0.25


@attrs.define
class Durations:
    """How often something took how long."""

    #: By bucket, the last one for what exceeds all bounds.
    counts: list[int] = attrs.field(factory=lambda: [0] * (len(BOUNDS) + 1))
    #: Of all together, in seconds.
    sum: float = 0.0

    def add(self, seconds: float) -> None:
        """Note one."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds


@attrs.define
class Traffic:
    """Bytes of bodies, as the application saw them."""

    received: int = 0
    sent: int = 0


@attrs.define(eq=False)
class Meters:
    """The counts.

    Args:
        is_route: whether a path, as `Exchange.shown_path` has it, is one of ours. Labels must not grow with
            what clients ask for.

    """

    is_route: Callable[[str], bool]
    #: RPC calls by method, dialect and status.
    calls: dict[tuple[str, str, str], Durations] = attrs.field(factory=dict, init=False)
    #: Other requests by route, HTTP method and HTTP status.
    requests: dict[tuple[str, str, int], Durations] = attrs.field(factory=dict, init=False)
    #: WebSocket and WebTransport sessions that have ended, by wire and close code.
    sessions: dict[tuple[str, str], int] = attrs.field(factory=dict, init=False)
    traffic: dict[str, Traffic] = attrs.field(factory=dict, init=False)
    lag: Durations = attrs.field(factory=Durations, init=False)

    def call_ended(self, exchange: Exchange, seconds: float) -> None:
        """Note an exchange that is over."""
        path = exchange.shown_path
        traffic = self.traffic.get(path)
        if traffic is None:
            if not self.is_route(path):
                path = OTHER
            traffic = self.traffic.setdefault(path, Traffic())
        traffic.received += exchange.bytes_in
        traffic.sent += exchange.bytes_out
        if exchange.upgraded:
            wire, _, code = exchange.label.partition(" ")
            if code not in _CLOSE_CODES:
                code = OTHER
            self.sessions[wire, code] = self.sessions.get((wire, code), 0) + 1
        elif exchange.code is not None:
            call = (path, exchange.label, exchange.code.name)
            durations = self.calls.get(call)
            if durations is None:
                durations = self.calls[call] = Durations()
            durations.add(seconds)
        else:
            method = exchange.method if exchange.method in _METHODS else OTHER
            self.requests.setdefault((path, method, exchange.status), Durations()).add(seconds)

    async def watch_lag(self) -> NoReturn:
        """Note, until cancelled, how much later than asked the event loop wakes a task."""
        while True:
            due = trio.current_time() + _LOOK
            await trio.sleep_until(due)
            self.lag.add(max(0.0, trio.current_time() - due))


#: The standards' and fawa's own; clients may close with thousands of others.
_CLOSE_CODES: Final = frozenset(("", "0", "broken", *map(str, [*range(1000, 1016), *range(4400, 4500)])))
_METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT"))


@attrs.frozen
class Figure:
    """A number, or some by their labels, that is asked for when somebody looks."""

    #: In Prometheus' manner, with the unit; a counter's without `_total`.
    name: str
    text: str
    read: Callable[[], Iterable[tuple[tuple[str, ...], float]]]
    #: Names of the labels, whose values `read` gives with each number.
    labels: tuple[str, ...] = ()
    #: It only goes up.
    counts: bool = False


def gauge(name: str, text: str, read: Callable[[], float]) -> Figure:
    """Return a figure without labels that may go up and down."""
    return Figure(name, text, lambda: [((), read())])


def counter(name: str, text: str, read: Callable[[], float]) -> Figure:
    """Return a figure without labels that only goes up."""
    return Figure(name, text, lambda: [((), read())], counts=True)
