"""Spans of a real daemon, as a collector gets them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider

from fawa.client import connect, rpc
from fawa.client.dial import Trust
from fawa.client.link import fetch
from fawa.client.tracing import trace_fields
from fawa.proto.file.v1.file_grpc import FileServiceBase
from fawa.proto.file.v1.file_pb2 import FileInfo, GetDownloadURLRequest, SendFileRequest
from fawa.proto.greet.v1.greet_pb2 import SayHelloRequest
from tests.client.greet import SAY_HELLO
from tests.daemon import PATIENCE, Daemon, running

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
HELLO = "greet.v1.GreetService/SayHello"
"""The name of a span, and with a slash before it the path of its method."""


@attrs.define
class Collector:
    """Takes spans as OpenTelemetry's collector does, and gives them out by their trace."""

    address: str
    spans: list[Span] = attrs.field(factory=list)
    resources: list[dict[str, Any]] = attrs.field(factory=list)
    news: threading.Condition = attrs.field(factory=threading.Condition)

    def take(self, body: bytes) -> None:
        with self.news:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resources.append(values(resource.resource))
                for scope in resource.scope_spans:
                    self.spans += scope.spans
            self.news.notify_all()

    def of(self, trace_id: str, *names: str) -> dict[str, Span]:
        """Return the spans of a trace by name, once those of `names` have come."""

        def found() -> dict[str, Span]:
            return {span.name: span for span in self.spans if span.trace_id.hex() == trace_id}

        with self.news:
            assert self.news.wait_for(lambda: set(names) <= set(found()), PATIENCE), found()
            return found()


def values(of: Any) -> dict[str, Any]:
    """Return the attributes of something."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in of.attributes}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers["content-encoding"] == "gzip":
                import gzip

                body = gzip.decompress(body)
            taking.take(body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        taking = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield taking
        server.shutdown()
        thread.join(PATIENCE)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Daemon]:
    flags = ("--tracing-endpoint", collector.address, "--tracing-service", "greeters")
    # Sent soon, not after the five seconds that are usual.
    with running(
        tmp_path_factory.mktemp("traced"), *flags, environment={"OTEL_BSP_SCHEDULE_DELAY": "50"}
    ) as started:
        yield started


def curl(daemon: Daemon, path: str, *arguments: str) -> str:
    command = ["curl", "-sS", "--max-time", "20", *arguments, f"http://{daemon.plain}{path}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
def test_connect_over_http1_and_http2(daemon: Daemon, collector: Collector, version: str) -> None:
    trace_id = f"{len(version):032x}"
    fields = ["content-type: application/json", f"traceparent: 00-{trace_id}-{PARENT}-01", "tracestate: a=b"]
    curl(daemon, f"/{HELLO}", version, *(f"-H{field}" for field in fields), '-d{"name":"x"}')
    span = collector.of(trace_id, HELLO)[HELLO]
    assert span.parent_span_id.hex() == PARENT
    assert span.trace_state == "a=b"
    assert span.kind == Span.SPAN_KIND_SERVER
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert values(span) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "network.protocol.version": "1.1" if "1.1" in version else "2",
        "rpc.system": "connect_rpc",
        "rpc.service": "greet.v1.GreetService",
        "rpc.method": "SayHello",
        "fawa.dialect": "connect",
    }
    assert collector.resources[-1]["service.name"] == "greeters"


@pytest.mark.parametrize(
    ("dialect", "http", "system"),
    [
        ("grpc", "2", "grpc"),
        ("grpc-web", "1.1", "grpc"),
        ("connect", "2", "connect_rpc"),
        ("connect", "3", "connect_rpc"),
    ],
)
async def test_the_client_passes_on_the_span_that_is_active(
    daemon: Daemon, collector: Collector, dialect: Any, http: Any, system: str
) -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    server = f"https://{daemon.tls}" if http == "3" else f"http://{daemon.plain}"
    async with connect(server, dialect=dialect, http=http, insecure=http == "3") as channel:
        with tracer.start_as_current_span("ours") as ours:
            await channel.unary(SAY_HELLO, SayHelloRequest(name="x"))
    context = ours.get_span_context()
    span = collector.of(f"{context.trace_id:032x}", HELLO)[HELLO]
    assert span.parent_span_id.hex() == f"{context.span_id:016x}"
    found = values(span)
    assert found["rpc.system"] == system
    assert found.get("rpc.grpc.status_code", 0) == 0


def test_without_an_active_span_nothing_is_told() -> None:
    assert trace_fields() == []
    state = trace.TraceState([("a", "b")])
    context = trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(1), trace_state=state)
    with trace.use_span(trace.NonRecordingSpan(context)):
        assert trace_fields() == [("traceparent", f"00-{1:032x}-{2:016x}-01"), ("tracestate", "a=b")]


async def test_storage_belongs_to_its_call(daemon: Daemon, collector: Collector) -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    send, link = rpc(FileServiceBase.SendFile), rpc(FileServiceBase.GetDownloadURL)
    with tracer.start_as_current_span("ours") as ours:
        async with connect(f"http://{daemon.plain}") as channel:
            async with channel.client_stream(send) as call:
                await call.send(SendFileRequest(info=FileInfo(name="a.txt", size=3)))
                await call.send(SendFileRequest(chunk_data=b"abc"))
                answer = await call.reply()
            told = await channel.unary(link, GetDownloadURLRequest(randomkey=answer.randomkey))
        async with fetch(told.message.url, [], Trust()) as download:
            assert await download.receive() == b"abc"
    trace_id = f"{ours.get_span_context().trace_id:032x}"
    names = ("file.v1.FileService/SendFile", "content commit", "records add", "GET /files/…")
    found = collector.of(trace_id, *names)
    sent = found["file.v1.FileService/SendFile"]
    for name in ("content commit", "records add", "records publish"):
        assert found[name].parent_span_id == sent.span_id
        assert found[name].kind == Span.SPAN_KIND_CLIENT
    assert values(found["content commit"]) == {
        "fawa.store": "content",
        "db.system.name": "filesystem",
        "db.operation.name": "commit",
    }
    got = found["GET /files/…"]
    assert values(got)["http.route"] == "/files/…"
    # The key of a file is a secret, and its name may be.
    assert not any(answer.randomkey in str(span) or "a.txt" in str(span) for span in found.values())


@pytest.mark.parametrize(
    "given",
    [
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        "\xfc",
        "x" * 1000,
    ],
)
def test_a_malformed_parent_is_as_none(daemon: Daemon, collector: Collector, given: str) -> None:
    with collector.news:
        before = len(collector.spans)
    out = curl(daemon, f"/{HELLO}", "-Hcontent-type: application/json", f"-Htraceparent: {given}", "-d{}")
    assert "message" in out or "resp" in out
    with collector.news:
        assert collector.news.wait_for(lambda: len(collector.spans) > before, PATIENCE)
        assert collector.spans[before].parent_span_id == b""
        assert collector.spans[before].trace_id.hex() != TRACE


def test_what_the_client_does_not_keep_is_not_sent_and_faults_are_marked(
    daemon: Daemon, collector: Collector
) -> None:
    unkept, bad, unknown = (f"{number:032x}" for number in (77, 78, 79))
    json = "-Hcontent-type: application/json"
    curl(daemon, f"/{HELLO}", json, f"-Htraceparent: 00-{unkept}-{PARENT}-00", "-d{}")
    curl(daemon, f"/{HELLO}", json, f"-Htraceparent: 00-{bad}-{PARENT}-01", "-d{")
    curl(daemon, "/secret/path", f"-Htraceparent: 00-{unknown}-{PARENT}-01")
    span = collector.of(bad, HELLO)[HELLO]
    assert values(span)["rpc.connect_rpc.error_code"] == "invalid_argument"
    assert span.status.code == Status.STATUS_CODE_UNSET  # the caller's fault
    span = collector.of(unknown, "GET")["GET"]
    assert "secret" not in str(span)
    assert collector.of(unkept) == {}


def test_what_waits_is_sent_when_the_daemon_ends(tmp_path: Path, collector: Collector) -> None:
    flags = ("--tracing-endpoint", collector.address)
    trace_id = f"{99:032x}"
    with running(tmp_path, *flags, environment={"OTEL_BSP_SCHEDULE_DELAY": "600000"}) as daemon:
        fields = ["-Hcontent-type: application/json", f"-Htraceparent: 00-{trace_id}-{PARENT}-01"]
        curl(daemon, f"/{HELLO}", *fields, "-d{}")
        assert collector.of(trace_id) == {}
    assert set(collector.of(trace_id)) == {HELLO}


def test_a_collector_that_is_away_keeps_nobody_from_working_or_ending(tmp_path: Path) -> None:
    with running(tmp_path, "--tracing-endpoint", "http://127.0.0.1:9") as daemon:
        curl(daemon, f"/{HELLO}", "-Hcontent-type: application/json", "-d{}")


def test_off_loads_nothing_of_it() -> None:
    program = (
        "import sys, trio, pathlib, fawa.supervisor, fawa.wiring, fawa.client, fawa.config as config\n"
        "loaded = config.load([], {}, pathlib.Path('/'))\n"
        "services = trio.run(fawa.wiring.make_services, loaded.settings)\n"
        "fawa.supervisor.Supervisor(loaded, lambda: loaded, services)\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    command = [sys.executable, "-c", program]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd="/tmp")
    assert out.stdout == "[]\n"
