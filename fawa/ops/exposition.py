"""Makes of the meters what Prometheus reads; the only module that knows its library.

Names and labels follow https://prometheus.io/docs/practices/naming/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from fawa.ops.meters import BOUNDS, Durations, Figure, Meters


class Exposition(Collector):
    """All figures of one daemon.

    Args:
        meters: what is counted as it happens.
        figures: returns what is read when somebody asks; services that start again may have others.

    """

    def __init__(self, meters: Meters, figures: Callable[[], Iterable[Figure]]) -> None:
        self._meters = meters
        self._figures = figures
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._registry.register(self)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return everything as text, and its content type, which the `Accept` header chooses."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def describe(self) -> Iterable[Metric]:
        """Say nothing beforehand: what there is shows when it is asked for."""
        return []

    def collect(self) -> Iterator[Metric]:
        meters = self._meters
        yield _histogram(
            "fawa_rpc_duration_seconds",
            "From a call's first byte to the end of its answer.",
            ("method", "dialect", "code"),
            meters.calls.items(),
        )
        yield _histogram(
            "fawa_http_request_duration_seconds",
            "Of requests that are no RPC.",
            ("route", "method", "status"),
            (
                ((route, method, str(status)), taken)
                for (route, method, status), taken in meters.requests.items()
            ),
        )
        received = CounterMetricFamily("fawa_received_bytes", "Bytes of request bodies.", labels=("route",))
        sent = CounterMetricFamily("fawa_sent_bytes", "Bytes of response bodies.", labels=("route",))
        for route, traffic in meters.traffic.items():
            received.add_metric((route,), traffic.received)
            sent.add_metric((route,), traffic.sent)
        yield received
        yield sent
        ended = CounterMetricFamily(
            "fawa_sessions_ended", "WebSocket and WebTransport sessions.", labels=("wire", "close_code")
        )
        for session, count in meters.sessions.items():
            ended.add_metric(list(session), count)
        yield ended
        yield _histogram(
            "fawa_event_loop_lag_seconds",
            "How much later than asked a task is woken.",
            (),
            [((), meters.lag)],
        )
        # Several services may have figures of one name, which differ in their labels.
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for figure in self._figures():
            family = families.get(figure.name)
            if family is None:
                make = CounterMetricFamily if figure.counts else GaugeMetricFamily
                family = families[figure.name] = make(figure.name, figure.text, labels=figure.labels)
            for labels, value in figure.read():
                family.add_metric(labels, value)
        yield from families.values()


def _histogram(
    name: str, text: str, labels: tuple[str, ...], found: Iterable[tuple[Iterable[str], Durations]]
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    bounds = [*(f"{bound:g}" for bound in BOUNDS), "+Inf"]
    for values, durations in found:
        buckets = list(zip(bounds, accumulate(durations.counts), strict=True))
        family.add_metric(list(values), buckets, durations.sum)
    return family
