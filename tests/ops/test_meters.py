"""What is counted as calls end: by bounded labels, whatever clients make up."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import pytest
from grpclib.const import Status
from prometheus_client.parser import text_string_to_metric_families

from fawa.ops.exposition import Exposition
from fawa.ops.meters import Figure, Meters
from tests.services.memory import MemoryExchange

HELLO = "/greet.v1.GreetService/SayHello"
ODD = random.Random(7)


def odd_text() -> str:
    return "".join(chr(ODD.choice((*range(33, 127), *range(0xA1, 0xFF)))) for _ in range(ODD.randint(1, 40)))


@pytest.fixture
def meters() -> Meters:
    return Meters(lambda path: path in {HELLO, "/files/…", "/canva"})


def rendered(meters: Meters, figures: Iterable[Figure] = ()) -> list[tuple[str, dict[str, str], float]]:
    text, _ = Exposition(meters, lambda: figures).render("")
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.name.startswith("fawa_")
    ]


def made_up(count: int) -> Iterator[tuple[MemoryExchange, float]]:
    """Iterate over exchanges of all kinds with odd paths, methods and codes."""
    for number in range(count):
        path = ODD.choice((HELLO, "/files/" + odd_text(), "/" + odd_text(), "/canva"))
        exchange = MemoryExchange(path, method=ODD.choice(("GET", "POST", odd_text().encode().hex())))
        exchange.bytes_in, exchange.bytes_out = number, number
        match number % 3:
            case 0:
                exchange.label, exchange.code = "connect", ODD.choice(list(Status))
            case 1:
                exchange.upgraded = True
                wire = ODD.choice(("websocket-v1", "websocket-v2", "webtransport-v2"))
                exchange.label = f"{wire} {ODD.choice((ODD.randrange(1 << 32), 3000 + number % 2000, 1001))}"
            case 2:
                exchange.status = ODD.choice((200, 404, 500))
        yield exchange, ODD.expovariate(100)


def test_ten_thousand_odd_names_and_codes_make_few_series(meters: Meters) -> None:
    for exchange, seconds in made_up(1000):
        meters.call_ended(exchange, seconds)
    before = {(name, *sorted(labels.items())) for name, labels, _ in rendered(meters)}
    for exchange, seconds in made_up(10_000):
        meters.call_ended(exchange, seconds)
    found = rendered(meters)
    after = {(name, *sorted(labels.items())) for name, labels, _ in found}
    routes = {labels["route"] for _, labels, _ in found if "route" in labels}
    assert routes <= {HELLO, "/files/…", "/canva", "other"}
    assert {labels["method"] for name, labels, _ in found if name.startswith("fawa_http")} <= {
        *("GET", "POST", "other")
    }
    codes = {labels["close_code"] for _, labels, _ in found if "close_code" in labels}
    assert codes <= {"1001", "other", *(str(code) for code in range(4400, 4500))}
    # The first thousand has met nearly all there is.
    assert len(after) < 1.3 * len(before) < 3000
    # And nothing is lost by it.
    total = sum(
        value for name, _, value in found if name.endswith(("_duration_seconds_count", "ended_total"))
    )
    assert total == 11_000


def test_services_may_have_figures_of_one_name(meters: Meters) -> None:
    def up(store: str) -> Figure:
        return Figure("fawa_storage_up", "Up.", lambda: [((store,), 1)], ("store",))

    found = rendered(meters, (up("records"), up("boards")))
    assert [labels for name, labels, _ in found if name == "fawa_storage_up"] == [
        {"store": "records"},
        {"store": "boards"},
    ]
