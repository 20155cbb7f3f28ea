"""Calls a second: fawad beside grpclib on uvloop and grpcio.aio, the same handlers, one core each.

Each round measures every server once, one after another, so that a machine whose speed drifts drifts for all;
ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import attrs
import grpc  # type: ignore[import-untyped]
from load import GRPC_HEADERS, JSON_HEADERS, PER_CONNECTION, Load, frame, h2load
from report import Report, arguments, say
from servers import EVERY_CORE, ONE_CORE, Server, fawad, peer, serving, stay_on_load_core

from fawa.proto.greet.v1.greet_pb2 import (
    GreetBidiStreamRequest,
    GreetBidiStreamResponse,
    SayHelloRequest,
    SayHelloResponse,
)

NAME, ANSWER = "bench", "Hello, bench!"
HELLO = "/greet.v1.GreetService/SayHello"
BIDI = "/greet.v1.GreetService/GreetBidiStream"
FAWAD, GRPCLIB, GRPCIO = "fawad", "grpclib on uvloop", "grpcio.aio"
TARGET = 6.0
UNARY = "unary over gRPC"


@attrs.frozen
class Plan:
    """How much is measured."""

    rounds: int
    seconds: float
    connections: int
    streams: int
    stream_messages: int


@attrs.frozen
class Bodies:
    """Files with prepared request bodies."""

    unary: Path
    json: Path
    stream: Path

    @classmethod
    def write(cls, folder: Path, plan: Plan) -> Bodies:
        bodies = cls(folder / "unary", folder / "json", folder / "stream")
        bodies.unary.write_bytes(frame(SayHelloRequest(name=NAME)))
        bodies.json.write_bytes(json.dumps({"name": NAME}).encode())
        bodies.stream.write_bytes(frame(GreetBidiStreamRequest(name=NAME)) * plan.stream_messages)
        return bodies


def main() -> int:
    parser = arguments("Calls a second of fawad, grpclib on uvloop and grpcio.aio.")
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds, each measuring every server (default %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=4, help="rough length of one measurement (default %(default)s)"
    )
    parser.add_argument("-c", "--connections", type=int, default=50, help="default %(default)s")
    parser.add_argument(
        "-m", "--streams", type=int, default=4, help="calls at a time on a connection (default %(default)s)"
    )
    options = parser.parse_args()
    plan = Plan(options.rounds, options.seconds, options.connections, options.streams, 20_000)
    if options.quick:
        plan = attrs.evolve(plan, rounds=1, seconds=0.3, stream_messages=1000)
    stay_on_load_core()
    return measure(plan, options).tell(options)


def measure(plan: Plan, options: argparse.Namespace) -> Report:
    report = Report("bench/rpc.py: fawad beside Python's gRPC servers", attrs.asdict(plan))
    if len(EVERY_CORE) == 1:
        report.note(ONE_CORE)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fawa-bench-")))
        bodies = Bodies.write(folder, plan)
        commands = {
            FAWAD: fawad(folder / "data"),
            GRPCLIB: peer("on_grpclib.py"),
            GRPCIO: peer("on_grpcio.py"),
        }
        servers = [stack.enter_context(serving(name, command)) for name, command in commands.items()]
        for server in servers:
            say(f"{server.name}: checking its answers")
            check_answers(server)
        requests = {server.name: calibrate(server, bodies, plan) for server in servers}
        for number in range(1, plan.rounds + 1):
            for server in servers:
                say(f"round {number} of {plan.rounds}: {server.name}")
                measure_unary(report, server, bodies, plan, requests[server.name])
                measure_stream(report, server, bodies, plan)
            measure_connect(report, servers[0], bodies, plan, requests[FAWAD])
    for peer_name in (GRPCLIB, GRPCIO):
        report.compare(UNARY, FAWAD, peer_name, TARGET)
    for what in ("calls per CPU second", "one stream", "one stream, grpcio client"):
        for peer_name in (GRPCLIB, GRPCIO):
            report.compare(what, FAWAD, peer_name)
    return report


def check_answers(server: Server) -> None:
    """Ask with grpcio before any load: a fast wrong answer is worth nothing."""
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary(
            HELLO,
            request_serializer=SayHelloRequest.SerializeToString,
            response_deserializer=SayHelloResponse.FromString,
        )
        response, details = call.with_call(SayHelloRequest(name=NAME), timeout=10)
        if response.resp != ANSWER:
            raise SystemExit(f"{server.name} answered {response.resp!r} instead of {ANSWER!r}")
        if ("greet-version", "v1") not in [(key, value) for key, value in details.initial_metadata()]:
            raise SystemExit(f"{server.name} did not send the header greet-version: v1")


def unary(server: Server, bodies: Bodies, plan: Plan, requests: int) -> Load:
    return h2load(
        f"http://{server.address}{HELLO}",
        body=bodies.unary,
        headers=GRPC_HEADERS,
        requests=requests,
        connections=plan.connections,
        streams=plan.streams,
        response_bytes=len(frame(SayHelloResponse(resp=ANSWER))),
    )


def calibrate(server: Server, bodies: Bodies, plan: Plan) -> int:
    """Warm a server up; return how many requests take about `plan.seconds`, within what connections bear."""
    probe = unary(server, bodies, plan, plan.connections * plan.streams * 10)
    return min(max(int(probe.rate * plan.seconds), plan.connections), plan.connections * PER_CONNECTION)


def measure_unary(report: Report, server: Server, bodies: Bodies, plan: Plan, requests: int) -> None:
    before = server.cpu_seconds()
    load = unary(server, bodies, plan, requests)
    cpu = server.cpu_seconds() - before
    report.record(UNARY, "calls/s", server.name, load.rate)
    report.record("calls per CPU second", "calls/s", server.name, requests / cpu)
    report.record("latency, half of the calls within", "ms", server.name, load.percentile(50) * 1000)
    report.record("latency, 99 % of the calls within", "ms", server.name, load.percentile(99) * 1000)
    report.record("server's core used", "%", server.name, 100 * cpu / load.seconds)
    report.record("load client's core used", "%", server.name, 100 * load.client_busy)
    if load.client_busy > 0.9:
        report.note(f"the load client was the limit for {server.name}: it can do more than is shown")
    if cpu < 0.9 * load.seconds:
        report.note(f"{server.name} did not get its whole core in every round: see calls per CPU second")


def measure_stream(report: Report, server: Server, bodies: Bodies, plan: Plan) -> None:
    """One bidirectional stream: a long one replayed by h2load, and one of a grpcio client."""
    count = plan.stream_messages
    load = h2load(
        f"http://{server.address}{BIDI}",
        body=bodies.stream,
        headers=GRPC_HEADERS,
        response_bytes=count * len(frame(GreetBidiStreamResponse(echo=ANSWER))),
    )
    report.record("one stream", "messages/s", server.name, count / load.seconds)
    report.record("one stream, grpcio client", "messages/s", server.name, grpcio_stream(server, count // 4))


def grpcio_stream(server: Server, count: int) -> float:
    """Return messages a second, each answered, of one stream of grpcio's synchronous client."""

    def requests() -> Iterator[GreetBidiStreamRequest]:
        for _ in range(count):
            yield GreetBidiStreamRequest(name=NAME)

    with grpc.insecure_channel(server.address) as channel:
        grpc.channel_ready_future(channel).result(timeout=10)
        call = channel.stream_stream(
            BIDI,
            request_serializer=GreetBidiStreamRequest.SerializeToString,
            response_deserializer=GreetBidiStreamResponse.FromString,
        )
        started = time.perf_counter()
        answers = sum(response.echo == ANSWER for response in call(requests(), timeout=120))
        seconds = time.perf_counter() - started
    if answers != count:
        raise SystemExit(f"{server.name} answered {answers} of {count} messages rightly")
    return count / seconds


def measure_connect(report: Report, server: Server, bodies: Bodies, plan: Plan, requests: int) -> None:
    """fawad's other way to say the same: Connect with JSON over HTTP/1.1."""
    connection = http.client.HTTPConnection(server.address, timeout=10)
    connection.request("POST", HELLO, bodies.json.read_bytes(), {"content-type": "application/json"})
    answer = connection.getresponse().read()
    connection.close()
    if json.loads(answer) != {"resp": ANSWER}:
        raise SystemExit(f"{server.name} answered {answer!r} to Connect JSON")
    load = h2load(
        f"http://{server.address}{HELLO}",
        body=bodies.json,
        headers=JSON_HEADERS,
        requests=requests,
        connections=plan.connections,
        http1=True,
        response_bytes=len(answer),
    )
    report.record("unary, Connect JSON, HTTP/1.1", "calls/s", server.name, load.rate)
    report.record("Connect JSON, 99 % of the calls within", "ms", server.name, load.percentile(99) * 1000)


if __name__ == "__main__":
    sys.exit(main())
