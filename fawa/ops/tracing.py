"""Spans for OpenTelemetry: of calls and requests, and of what they ask of storage.

The only module that knows its library, and imported only where `tracing.endpoint` is set. The context that
clients send is taken over (W3C Trace Context, https://www.w3.org/TR/trace-context/); a malformed one is as
none. Names and attributes follow https://opentelemetry.io/docs/specs/semconv/.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Final, cast

import trio
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from fawa import __version__
from fawa.net.exchange import Exchange
from fawa.net.router import Handle, Router

#: Spans that wait to be sent; those that come when it is full are dropped.
_QUEUE: Final = 4096
#: Seconds for one attempt to send.
_EXPORT_TIMEOUT: Final = 5.0

#: What the server answers for, by the conventions; all else is the caller's own.
_FAULTS: Final = frozenset(
    ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
)
_SERVER_ERROR: Final = 500


class Tracing:
    """Makes spans and sends them, from a thread of its own, which nothing waits for.

    Args:
        endpoint: of a collector that speaks OTLP over HTTP, such as http://collector:4318.
        service: the name under which the spans appear.
        ratio: how many traces are kept that begin here, 0 to 1; those that begin elsewhere are kept if they
            are kept there.

    """

    def __init__(self, endpoint: str, service: str, ratio: float) -> None:
        exporter = OTLPSpanExporter(f"{endpoint}/v1/traces", timeout=_EXPORT_TIMEOUT)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=Resource.create({"service.name": service, "service.version": __version__}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=_QUEUE))
        self._tracer = self._provider.get_tracer("fawa", __version__)
        self._propagator = TraceContextTextMapPropagator()

    async def serve(self, exchange: Exchange, handle: Handle, *, is_route: bool) -> None:
        """Answer an exchange by `handle`, in a span."""
        parent = self._propagator.extract(_carrier(exchange))
        with self._tracer.start_as_current_span(
            exchange.method,
            context=parent,
            kind=SpanKind.SERVER,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            failure = ""
            try:
                await handle(exchange)
            except BaseException as error:
                failure = type(error).__qualname__
                raise
            finally:
                if span.is_recording():
                    _describe(span, exchange, failure, is_route=is_route)

    def operation(self, store: str, backend: str, operation: str) -> AbstractContextManager[None]:
        """Return the span of an operation of storage, if it belongs to a call."""
        if not trace.get_current_span().is_recording():
            return nullcontext()
        span = self._tracer.start_as_current_span(
            f"{store} {operation}",
            kind=SpanKind.CLIENT,
            attributes={
                "fawa.store": store,
                "db.system.name": backend,
                "db.operation.name": operation,
            },
        )
        return cast("AbstractContextManager[None]", span)

    async def close(self, seconds: float) -> None:
        """Send what waits, for at most so many seconds."""
        with trio.move_on_after(seconds):
            await trio.to_thread.run_sync(self._provider.shutdown, abandon_on_cancel=True)


class TracedRouter(Router):
    """The routes of another router, whose answers are traced."""

    def __init__(self, router: Router, tracing: Tracing) -> None:
        super().__init__(router.not_found)
        self._router = router
        self._tracing = tracing

    def handler(self, exchange: Exchange) -> Handle:
        """Return what answers an exchange in a span."""
        handle = self._router.handler(exchange)
        is_route = self._router.serves(exchange.shown_path)

        async def traced(exchange: Exchange) -> None:
            await self._tracing.serve(exchange, handle, is_route=is_route)

        return traced


def _carrier(exchange: Exchange) -> dict[str, str]:
    """Return what the client says of its trace; of several states, which are one list, all."""
    parents = [value for name, value in exchange.headers if name == b"traceparent"]
    if len(parents) != 1:
        return {}  # two contexts are none
    states = [value for name, value in exchange.headers if name == b"tracestate"]
    return {
        "traceparent": parents[0].decode("latin-1"),
        "tracestate": b",".join(states).decode("latin-1"),
    }


def _describe(span: Span, exchange: Exchange, failure: str, *, is_route: bool) -> None:
    """Say in a span how an exchange went; its path is told only as far as it holds no secret."""
    attributes: dict[str, str | int] = {
        "http.request.method": exchange.method,
        "network.protocol.version": exchange.version,
    }
    if exchange.status:
        attributes["http.response.status_code"] = exchange.status
    name = exchange.method
    is_fault = exchange.status >= _SERVER_ERROR or (bool(failure) and failure not in _GONE)
    if is_route and exchange.code is not None:
        service, _, method = exchange.path[1:].partition("/")
        name = f"{service}/{method}"
        attributes["rpc.service"], attributes["rpc.method"] = service, method
        code = exchange.code
        attributes["fawa.dialect"] = exchange.label
        if exchange.label.startswith("connect"):
            attributes["rpc.system"] = "connect_rpc"
            if code.name != "OK":
                attributes["rpc.connect_rpc.error_code"] = code.name.lower()
        else:
            attributes["rpc.system"] = "grpc"
            attributes["rpc.grpc.status_code"] = int(code.value)
        is_fault = code.name in _FAULTS
        failure = code.name if is_fault else ""
    elif is_route:
        attributes["http.route"] = exchange.shown_path
        name = f"{exchange.method} {exchange.shown_path}"
    if is_fault:
        attributes["error.type"] = failure or str(exchange.status)
        span.set_status(StatusCode.ERROR)
    span.update_name(name)
    span.set_attributes(attributes)


#: Ends of calls that are nobody's fault: the client left, or the daemon stops.
_GONE: Final = frozenset(("Disconnected", "Cancelled"))
