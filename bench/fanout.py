"""Deliveries a second on one board: fawad beside `websockets` on uvloop and trio-websocket, one core each.

Some of a board's clients draw, and everybody is sent every event. The rate of events rises until the server
no longer keeps up: until somebody still lacks an event half a second after the last, or a hundredth of the
deliveries takes more than 50 ms. What it kept up with last is what it sustains. Each round does this with
every server, one after another, so that a machine whose speed drifts drifts for all.
"""

from __future__ import annotations

import http.client
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import attrs
from crowd import Crowd, CrowdError, Drawn
from report import Report, arguments, say
from servers import EVERY_CORE, ONE_CORE, Server, fawad, peer, serving, stay_on_load_core

FAWAD, WEBSOCKETS, TRIO = "fawad", "websockets on uvloop", "trio-websocket"
#: Seconds that 99 % of the deliveries must stay within.
WITHIN = 0.050
#: Events a second on a board where about ten people draw.
STEADY = 100
STEADILY = f"{STEADY} events/s"
AT_LEAST = {WEBSOCKETS: 2.0, TRIO: 8.0}
#: CPU time of a delivery to 1,000 clients over that of one to 100.
COST_AT_MOST = 1.2
IDLE_KIB = 40
PER_CPU = ", in a CPU second"
IDLE = "memory of an idle client"


@attrs.frozen
class Plan:
    """How much is measured."""

    rounds: int
    seconds: float
    #: Each rate of a climb over the one before.
    rise: float
    #: Clients on the board.
    crowds: Sequence[int]
    #: Clients for the idle memory.
    idle: int


@attrs.frozen
class Kept:
    """Events that a server kept up with."""

    drawn: Drawn
    #: CPU seconds that the server used.
    cpu: float


def main() -> int:
    parser = arguments("Deliveries a second on one board, of fawad, websockets and trio-websocket.")
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds, each measuring every server (default %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=1.5, help="length of one measurement (default %(default)s)"
    )
    parser.add_argument(
        "--crowds",
        type=int,
        nargs="+",
        default=[10, 100, 1000],
        help="clients on the board (default 10 100 1000)",
    )
    parser.add_argument(
        "--idle",
        type=int,
        default=1000,
        help="clients for the idle memory, 0: not measured (default %(default)s)",
    )
    options = parser.parse_args()
    plan = Plan(options.rounds, options.seconds, 1.1, options.crowds, options.idle)
    if options.quick:
        plan = Plan(rounds=1, seconds=0.1, rise=4, crowds=[2, 20], idle=20)
    stay_on_load_core()
    return measure(plan).tell(options)


def commands(folder: Path) -> dict[str, list[str]]:
    """Return what starts each server."""
    # One client draws for many people here, and one address makes all boards.
    raised = ("--board-max-event-rate=1000000", "--board-creates=1000000")
    return {
        FAWAD: fawad(folder, "--services=canva", *raised),
        WEBSOCKETS: peer("on_websockets.py"),
        TRIO: peer("on_trio_websocket.py"),
    }


def measure(plan: Plan) -> Report:
    report = Report("bench/fanout.py: one board, fawad beside Python's WebSocket servers", attrs.asdict(plan))
    if len(EVERY_CORE) == 1:
        report.note(ONE_CORE)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fawa-bench-")))
        servers = [
            stack.enter_context(serving(name, command)) for name, command in commands(folder / "data").items()
        ]
        starts: dict[tuple[str, int], float] = {}
        for server in servers:
            for clients in plan.crowds:
                say(f"{server.name}, {clients} clients: looking for its limit")
                check(server, clients)
                starts[server.name, clients] = find_limit(report, server, clients, plan.seconds / 2)
        for number in range(1, plan.rounds + 1):
            for clients in plan.crowds:
                for server in servers:
                    say(f"round {number} of {plan.rounds}: {server.name}, {clients} clients")
                    start = starts[server.name, clients]
                    kept = climb(report, server, clients, start, plan)
                    starts[server.name, clients] = kept.drawn.rate / plan.rise**2
                    tell_sustained(report, server, kept)
                    steady(report, server, clients, plan.seconds)
    for number in range(1, plan.rounds + 1 if plan.idle else 0):
        for name in (FAWAD, WEBSOCKETS, TRIO):
            say(f"round {number} of {plan.rounds}: {name}, {plan.idle} idle clients")
            report.record(IDLE, "KiB", name, idle_memory(name, plan.idle))
    compare(report, plan)
    return report


def compare(report: Report, plan: Plan) -> None:
    """Hold the figures against the targets."""
    for clients in plan.crowds:
        for name, bound in AT_LEAST.items():
            what = f"{clients} clients, sustained"
            report.compare(what, FAWAD, name, bound if clients == 100 else None)
    for clients in plan.crowds:
        for name in AT_LEAST:
            report.compare(f"{clients} clients, sustained{PER_CPU}", FAWAD, name)
    if {100, 1000} <= set(plan.crowds):
        for rate in ("sustained", STEADILY):
            few, many = (report.figures[f"{count} clients, {rate}{PER_CPU}", FAWAD] for count in (100, 1000))
            what = f"CPU time of a delivery, 1000 clients over 100, {rate}"
            for one, other in zip(few.rounds, many.rounds, strict=True):
                report.record(what, "times", FAWAD, one / other)
            report.bound(what, FAWAD, COST_AT_MOST)
    if plan.idle >= 1000:
        report.bound(IDLE, FAWAD, IDLE_KIB)


def new_board(server: Server) -> str:
    """Return the path of a board that nobody has been on."""
    code = secrets.token_hex(3).upper()
    if server.name == FAWAD:
        connection = http.client.HTTPConnection(server.address, timeout=10)
        connection.request("POST", "/create")
        answer = connection.getresponse()
        if answer.status != 200:
            raise SystemExit(f"fawad answered /create with {answer.status}: {answer.read()!r}")
        code = json.loads(answer.read())["code"]
        connection.close()
    return f"/ws/canva?code={code}"


def check(server: Server, clients: int) -> None:
    """Draw a little before any load: a fast wrong answer is worth nothing."""
    with Crowd(server.address, new_board(server), clients) as crowd:
        if not crowd.draw(20, 0.5, patience=10).complete:
            raise SystemExit(f"{server.name} did not deliver 10 events to {clients} clients within 10 s")


def draw(
    report: Report, server: Server, clients: int, rate: float, seconds: float, pause: float = 0.001
) -> Kept | None:
    """Let a new crowd draw on a new board; return what it took, `None` when the server did not keep up."""
    try:
        with Crowd(server.address, new_board(server), clients) as crowd:
            rest(server)
            before = server.cpu_seconds()
            drawn = crowd.draw(rate, seconds, pause=pause)
            cpu = server.cpu_seconds() - before
    except CrowdError as error:
        # What a server does to those too slow, and not what it does anyway: it has passed check().
        report.note(f"{server.name} with {clients} clients at {rate:,.0f} events/s: {error}")
        return None
    finally:
        rest(server)
    kept_up = drawn.complete and drawn.percentile(99) < WITHIN
    return Kept(drawn, cpu) if kept_up else None


def rest(server: Server) -> None:
    """Wait until the server has dealt with clients that have come, or gone and left work behind."""
    for _ in range(200):
        before = server.cpu_seconds()
        time.sleep(0.05)
        if server.cpu_seconds() - before < 0.005:
            return
    raise SystemExit(f"{server.name} is busy although nobody draws")


def find_limit(report: Report, server: Server, clients: int, seconds: float) -> float:
    """Double the rate until it is too much; return the last that was not."""
    rate = max(8.0, 4000 / clients)
    while draw(report, server, clients, rate * 2, seconds):
        rate *= 2
    return rate


def climb(report: Report, server: Server, clients: int, rate: float, plan: Plan) -> Kept:
    """Raise the rate from one that the server should keep up with; return the last that it did, tried twice.

    Where it does not even keep up with the first, lower it.
    """
    best = None
    while rate > 1:
        kept = draw(report, server, clients, rate, plan.seconds)
        kept = kept or draw(report, server, clients, rate, plan.seconds)
        if kept:
            best, rate = kept, rate * plan.rise
        elif best:
            return best
        else:
            rate /= plan.rise**2
    raise SystemExit(f"{server.name} keeps up with no rate at {clients} clients")


def tell_sustained(report: Report, server: Server, kept: Kept) -> None:
    """Record what a server sustains."""
    drawn = kept.drawn
    what = f"{drawn.clients} clients, sustained"
    report.record(what, "deliveries/s", server.name, drawn.deliveries / drawn.seconds)
    tell(report, server, what, kept)
    if drawn.busy > 0.9 and kept.cpu < 0.9 * drawn.seconds:
        report.note(f"the load client was the limit for {server.name} at {drawn.clients} clients")


def tell(report: Report, server: Server, what: str, kept: Kept) -> None:
    """Record what deliveries cost and how long they took."""
    report.record(f"{what}{PER_CPU}", "deliveries", server.name, kept.drawn.deliveries / kept.cpu)
    for percent in (50, 99):
        value = kept.drawn.percentile(percent) * 1000
        report.record(f"{what}: p{percent}", "ms", server.name, value)


def steady(report: Report, server: Server, clients: int, seconds: float) -> None:
    """Measure at a rate that has nothing to do with the server's limit."""
    kept = draw(report, server, clients, STEADY, seconds, pause=0)
    if kept:
        tell(report, server, f"{clients} clients, {STEADILY}", kept)
    else:
        report.note(f"{server.name} does not keep up with {STEADILY} at {clients} clients")


def idle_memory(name: str, clients: int) -> float:
    """Return by how many KiB a new server grows for each of these clients, who are sent a single event."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fawa-bench-"))
        server = stack.enter_context(serving(name, commands(Path(folder))[name]))
        before = server.memory("VmRSS")
        crowd = stack.enter_context(Crowd(server.address, new_board(server), clients))
        if not crowd.draw(1, 1, patience=10).complete:
            raise SystemExit(f"{name} did not deliver one event to {clients} idle clients")
        rest(server)
        return (server.memory("VmRSS") - before) / clients / 1024


if __name__ == "__main__":
    sys.exit(main())
