"""QUIC: handshakes, messages, bulk and boards, of fawa beside aioquic's asyncio server, one core each.

Both speak QUIC by aioquic's core, in Python, and so does the load client, which may be the limit: so the
figure that counts is what a server does in a CPU second, and those per second stand beside. Each round
measures every server once, one after another, so that a machine whose speed drifts drifts for all.
"""

from __future__ import annotations

import http.client
import json
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import attrs
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from boards import Board, Drawn
from lines import Answer, Line, Lines, LoadError, body, open_session, request, stream_head
from report import Report, arguments, say
from servers import EVERY_CORE, ONE_CORE, Server, fawad, peer, serving, stay_on_load_core

from fawa.net import tls

FAWAD, FAWA_NET, AIOQUIC = "fawad", "fawa.net", "aioquic"
TARGET = 1.5
PER_CPU = ", in a CPU second"
HANDSHAKES = "handshakes"
HALF_OPEN = "memory while handshakes are half open"
UNARY = "unary Connect with JSON over HTTP/3"
ECHO = "echo of 64 bytes, a WebTransport stream each"
DOWNLOAD, UPLOAD = "download over HTTP/3", "upload over HTTP/3"
MEGABYTE = 1_000_000
#: Octets that wait to be acknowledged while an upload is under way.
_AHEAD = 4 * 1024 * 1024

GREET = request("POST", "/greet.v1.GreetService/SayHello", ("content-type", "application/json")) + body(
    b'{"name":"bench"}'
)
GREETED = {"resp": "Hello, bench!"}
MESSAGE = bytes(range(64))


@attrs.frozen
class Plan:
    """How much is measured."""

    rounds: int
    handshakes: int
    #: Handshakes that are begun and left so.
    half_open: int
    #: Connections, and calls or messages at a time on each.
    connections: int
    streams: int
    messages: int
    megabytes: int
    #: Clients on the board.
    crowds: Sequence[int]
    #: Deliveries for each measurement on a board, and events a second when it is steady.
    deliveries: int
    steadily: float


def main() -> int:
    parser = arguments("Handshakes, messages, megabytes and deliveries of fawa and aioquic over QUIC.")
    parser.add_argument(
        "--rounds", type=int, default=5, help="rounds, each measuring every server (default %(default)s)"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="times as much in each measurement (default %(default)s)"
    )
    options = parser.parse_args()
    scale = options.scale
    plan = Plan(
        rounds=options.rounds,
        handshakes=int(200 * scale),
        half_open=int(5000 * scale),
        connections=4,
        streams=4,
        messages=int(4000 * scale),
        megabytes=int(32 * scale) or 1,
        crowds=[10, 100],
        deliveries=int(20_000 * scale),
        steadily=50,
    )
    if options.quick:
        plan = Plan(1, 4, 20, 2, 2, 40, 1, [2, 10], 100, 100)
    stay_on_load_core()
    return measure(plan).tell(options)


def measure(plan: Plan) -> Report:
    report = Report("bench/quic.py: QUIC, fawa beside aioquic's asyncio server", attrs.asdict(plan))
    if len(EVERY_CORE) == 1:
        report.note(ONE_CORE)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fawa-bench-")))
        chain, key = certificate(folder)
        daemon = fawad(
            folder / "data",
            "--services=greet,canva",
            "--listen-tls=127.0.0.1:0",
            f"--tls-cert={chain}",
            f"--tls-key={key}",
            "--board-max-event-rate=1000000",
            "--board-creates=1000000",
        )
        whole = stack.enter_context(serving(FAWAD, daemon))
        bare = stack.enter_context(serving(FAWA_NET, peer("on_fawa_net.py", str(chain), str(key))))
        other = stack.enter_context(serving(AIOQUIC, peer("on_aioquic.py", str(chain), str(key))))
        for number in range(1, plan.rounds + 1):
            for what, servers, run in works(plan):
                for server in (whole, bare, other):
                    if server.name in servers:
                        say(f"round {number} of {plan.rounds}: {what}, {server.name}")
                        rest(server)
                        run(report, server)
        for server in (whole, other):
            say(f"{HALF_OPEN}, {server.name}")
            half_open(report, server, plan)  # last: aioquic's server keeps them for half a minute
    compare(report, plan)
    return report


Run = Callable[[Report, Server], None]


def works(plan: Plan) -> list[tuple[str, Sequence[str], Run]]:
    """Return what is measured, of whom, and how."""
    daemon, bare = (FAWAD, AIOQUIC), (FAWA_NET, AIOQUIC)
    return [
        (HANDSHAKES, daemon, lambda report, server: handshakes(report, server, plan)),
        (UNARY, daemon, lambda report, server: unary(report, server, plan)),
        (ECHO, bare, lambda report, server: echo(report, server, plan)),
        (DOWNLOAD, bare, lambda report, server: download(report, server, plan)),
        (UPLOAD, bare, lambda report, server: upload(report, server, plan)),
        ("boards", daemon, lambda report, server: draw(report, server, plan)),
    ]


def compare(report: Report, plan: Plan) -> None:
    """Hold the figures against the targets."""
    figures: list[tuple[str, str, float | None]] = [
        (HANDSHAKES, FAWAD, None),
        (UNARY, FAWAD, None),
        (ECHO, FAWA_NET, None),
    ]
    figures += [(DOWNLOAD, FAWA_NET, TARGET), (UPLOAD, FAWA_NET, TARGET)]
    for clients in plan.crowds:
        figures += [(what, FAWAD, TARGET) for what in (as_fast(clients), at_rate(clients, plan))]
    report.compare(HALF_OPEN, FAWAD, AIOQUIC)
    for what, server, bound in figures:
        report.compare(what + PER_CPU, server, AIOQUIC, bound)
    for what, server, _ in figures:
        if (what, server) in report.figures:
            report.compare(what, server, AIOQUIC)


def as_fast(clients: int) -> str:
    return f"{clients} on a board, as fast as it goes"


def at_rate(clients: int, plan: Plan) -> str:
    return f"{clients} on a board, {plan.steadily:g} events/s"


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for all servers: P-256, as fawad makes its own."""
    made = tls.development_certificate(folder, time.time(), "")
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(made.chain)
    key.write_bytes(made.key)
    return chain, key


def rest(server: Server) -> None:
    """Wait until a server has dealt with what clients that have gone left behind."""
    for _ in range(200):
        before = server.cpu_seconds()
        time.sleep(0.05)
        if server.cpu_seconds() - before < 0.005:
            return
    raise SystemExit(f"{server.name} is busy although nobody is there")


@attrs.define
class Meter:
    """What passed on the clocks of a server and of this process."""

    server: Server
    cpu: float = 0.0
    seconds: float = 0.0
    busy: float = 0.0

    def __enter__(self) -> Meter:
        self.cpu, self.seconds, self.busy = (
            self.server.cpu_seconds(),
            time.perf_counter(),
            time.process_time(),
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu = self.server.cpu_seconds() - self.cpu
        self.seconds = time.perf_counter() - self.seconds
        self.busy = (time.process_time() - self.busy) / self.seconds

    def tell(self, report: Report, what: str, unit: str, count: float) -> None:
        """Record how many there were in a second, and in a CPU second of the server."""
        report.record(what + PER_CPU, unit, self.server.name, count / self.cpu)
        report.record(what, f"{unit}/s", self.server.name, count / self.seconds)
        if self.busy > 0.9 and self.cpu < 0.9 * self.seconds:
            report.note(f"{what}: the load client was the limit for {self.server.name}")


def handshakes(report: Report, server: Server, plan: Plan) -> None:
    """Connect and say goodbye, with four handshakes at a time."""
    with Lines(server.quic) as lines:
        begun = done = 0
        under_way: list[Line] = []
        with Meter(server) as meter:
            while done < plan.handshakes:
                while len(under_way) < 4 and begun < plan.handshakes:
                    under_way.append(lines.open())
                    begun += 1
                lines.turn()
                for line in [line for line in under_way if line.established]:
                    under_way.remove(line)
                    lines.drop(line)
                    done += 1
            settle(server, meter)
    meter.tell(report, HANDSHAKES, "handshakes", plan.handshakes)


def half_open(report: Report, server: Server, plan: Plan) -> None:
    """Begin handshakes, from one address, and never answer: as an attacker would."""
    host, _, port = server.quic.rpartition(":")
    configuration = QuicConfiguration(alpn_protocols=["h3"], server_name="localhost")
    # proc(5): the peak is set back to what is resident now.
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")
    before = server.memory("VmRSS")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for number in range(plan.half_open):
            client = QuicConnection(configuration=configuration)
            client.connect((host, int(port)), 0.0)
            for data, to in client.datagrams_to_send(0.0):
                sock.sendto(data, to)
            if number % 10 == 9:
                rest(server)  # what a full socket drops costs a server nothing
    report.record(HALF_OPEN, "MB", server.name, (server.memory("VmHWM") - before) / MEGABYTE)


def settle(server: Server, meter: Meter) -> None:
    """Let a server finish what it was asked for, without counting the time."""
    waited = time.perf_counter()
    rest(server)
    meter.seconds += time.perf_counter() - waited


def exchanges(
    lines: Lines, opened: Sequence[Line], plan: Plan, ask: Callable[[Line, Callable[[], None]], None]
) -> None:
    """Ask again on each connection whenever an answer has come, until all are there."""
    begun = done = 0

    def begin(line: Line) -> None:
        nonlocal begun
        if begun < plan.messages:
            begun += 1
            ask(line, lambda: over(line))

    def over(line: Line) -> None:
        nonlocal done
        done += 1
        begin(line)

    for line in opened:
        for _ in range(plan.streams):
            begin(line)
        line.flush(time.perf_counter())
    lines.until(lambda: done == plan.messages, patience=120)


def unary(report: Report, server: Server, plan: Plan) -> None:
    """Greet by Connect, a request stream each."""

    def ask(line: Line, over: Callable[[], None]) -> None:
        answer = Answer()

        def take(data: bytes, ended: bool) -> None:
            answer.take(data, ended)
            if ended:
                answer.expect()
                if json.loads(answer.body) != GREETED:
                    raise LoadError(f"{server.name} greeted with {answer.body!r}")
                over()

        line.ask(GREET, take)

    with Lines(server.quic) as lines:
        opened = lines.connect(plan.connections)
        with Meter(server) as meter:
            exchanges(lines, opened, plan, ask)
    meter.tell(report, UNARY, "calls", plan.messages)


def echo(report: Report, server: Server, plan: Plan) -> None:
    """Send a small message on a stream of its own and have it back."""
    with Lines(server.quic) as lines:
        opened = lines.connect(plan.connections)
        heads = {line: stream_head(open_session(lines, line, "/echo")) for line in opened}

        def ask(line: Line, over: Callable[[], None]) -> None:
            got = bytearray()

            def take(data: bytes, ended: bool) -> None:
                got.extend(data)
                if ended:
                    if got != MESSAGE:
                        raise LoadError(f"{server.name} echoed {bytes(got)!r}")
                    over()

            line.ask(heads[line] + MESSAGE, take)

        with Meter(server) as meter:
            exchanges(lines, opened, plan, ask)
    meter.tell(report, ECHO, "messages", plan.messages)


def download(report: Report, server: Server, plan: Plan) -> None:
    """Receive one large body."""
    size = plan.megabytes * MEGABYTE
    with Lines(server.quic) as lines:
        [line] = lines.connect(1)
        answer = Answer(keep=False)
        with Meter(server) as meter:
            line.ask(request("GET", f"/source?bytes={size}"), answer.take)
            line.flush(time.perf_counter())
            lines.until(lambda: answer.ended, patience=120)
    answer.expect(size=size)
    meter.tell(report, DOWNLOAD, "MB", plan.megabytes)


def upload(report: Report, server: Server, plan: Plan) -> None:
    """Send one large body."""
    size = plan.megabytes * MEGABYTE
    piece = body(bytes(MEGABYTE))
    with Lines(server.quic) as lines:
        [line] = lines.connect(1)
        answer = Answer()
        with Meter(server) as meter:
            number = line.ask(request("POST", "/sink"), answer.take, end=False)
            for left in reversed(range(plan.megabytes)):
                line.quic.send_stream_data(number, piece, end_stream=not left)
                line.flush(time.perf_counter())
                lines.until(lambda: line.unsent(number) < _AHEAD, patience=60)
            lines.until(lambda: answer.ended, patience=60)
    answer.expect(b"%d" % size)
    meter.tell(report, UPLOAD, "MB", plan.megabytes)


def new_board(server: Server) -> str:
    """Return the path of a board that nobody has been on."""
    code = secrets.token_hex(3).upper()
    if server.name == FAWAD:
        connection = http.client.HTTPConnection(server.address, timeout=10)
        connection.request("POST", "/create")
        code = json.loads(connection.getresponse().read())["code"]
        connection.close()
    return f"/webtransport/canva?code={code}"


def draw(report: Report, server: Server, plan: Plan) -> None:
    """Draw on boards, as fast as events come back and at a steady rate."""
    for clients in plan.crowds:
        count = max(20, plan.deliveries // clients)
        with Board(server.quic, new_board(server), clients) as board:
            board.settle()
            with Meter(server) as meter:
                board.draw(count, ahead=4)
            meter.tell(report, as_fast(clients), "deliveries", clients * count)
            rest(server)
            with Meter(server) as meter:
                drawn = board.draw(count, rate=plan.steadily)
            tell_steady(report, meter, at_rate(clients, plan), drawn)
        rest(server)


def tell_steady(report: Report, meter: Meter, what: str, drawn: Drawn) -> None:
    """Record what deliveries at a rate that is given cost, and how long they took."""
    report.record(what + PER_CPU, "deliveries", meter.server.name, drawn.deliveries / meter.cpu)
    for percent in (50, 99):
        report.record(f"{what}: p{percent}", "ms", meter.server.name, drawn.percentile(percent) * 1000)


if __name__ == "__main__":
    sys.exit(main())
