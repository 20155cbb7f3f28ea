"""Metrics, alerts and the dashboard: what Prometheus' own tool says, and that they speak of what there is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.daemon import Daemon
from tests.helm.charts import CHART, ROOT, of_kind, render, the

RULES = CHART / "rules.yaml"
DASHBOARD = CHART / "dashboards" / "fawa.json"
GUIDE = ROOT / "helm" / "OPERATING.md"
ALERTS = Path(__file__).with_name("alerts.yaml")

#: Labels that Prometheus adds to what it reads from a pod.
TARGET = frozenset(("namespace", "pod"))


def promtool(*arguments: str | Path, text: str = "") -> str:
    """Return what promtool (Debian: prometheus) says; it must find no fault."""
    program = shutil.which("promtool")
    assert program is not None, "promtool is not there (Debian: apt-get install prometheus)"
    command = [program, *(str(argument) for argument in arguments)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def metrics(daemon: Daemon) -> str:
    """What a running daemon answers at /metrics after a call, a request and a board."""
    hello = urllib.request.Request(
        f"http://{daemon.plain}/greet.v1.GreetService/SayHello",
        data=b'{"name": "Ada"}',
        headers={"Content-Type": "application/json"},
    )
    for request in (hello, f"http://{daemon.plain}/", f"http://{daemon.plain}/create"):
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200
    admin = daemon.wait_for_event(lambda entry: entry.get("event") == "admin")["listen"]
    with urllib.request.urlopen(f"http://{admin}/metrics", timeout=30) as answer:
        return str(answer.read().decode())


@pytest.fixture(scope="module")
def known(metrics: str) -> dict[str, frozenset[str] | None]:
    """By the name of each series, its labels; `None` where there is no sample yet to tell."""
    found: dict[str, frozenset[str] | None] = {}
    for family in text_string_to_metric_families(metrics):
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
        found |= dict.fromkeys((family.name + suffix for suffix in suffixes), None)
        for sample in family.samples:
            found[sample.name] = frozenset(sample.labels)
    return found


def test_promtool_takes_the_metrics(metrics: str) -> None:
    assert promtool("check", "metrics", text=metrics) == ""


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Return every expression of alerts and dashboard, with where it stands."""
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m")


def selectors(expression: Any) -> Iterator[Any]:
    """Return every selector of series below a parsed expression."""
    match expression:
        case promql.VectorSelector():
            yield expression
        case promql.MatrixSelector():
            yield expression.vector_selector
        case promql.BinaryExpr():
            yield from selectors(expression.lhs)
            yield from selectors(expression.rhs)
        case promql.Call():
            for argument in expression.args:
                yield from selectors(argument)
        case promql.AggregateExpr() | promql.ParenExpr() | promql.UnaryExpr():
            yield from selectors(expression.expr)
        case promql.NumberLiteral() | promql.StringLiteral():
            pass
        case _:
            raise AssertionError(f"an expression of a kind that is not looked into: {expression}")


def grouped(expression: Any) -> Iterator[tuple[Any, set[str]]]:
    """Return every aggregation below a parsed expression, with the labels that it keeps."""
    match expression:
        case promql.AggregateExpr():
            labels = expression.modifier.labels if expression.modifier is not None else []
            yield expression, set(labels)
            yield from grouped(expression.expr)
        case promql.BinaryExpr():
            yield from grouped(expression.lhs)
            yield from grouped(expression.rhs)
        case promql.Call():
            for argument in expression.args:
                yield from grouped(argument)
        case promql.ParenExpr() | promql.UnaryExpr():
            yield from grouped(expression.expr)


def complaints(text: str, known: dict[str, frozenset[str] | None]) -> list[str]:
    """Return what in an expression no fawad has."""
    parsed = promql.parse(text)
    found = []
    for selector in selectors(parsed):
        if selector.name not in known:
            found.append(f"there is no {selector.name}")
            continue
        labels = known[selector.name]
        asked = {matcher.name for matcher in selector.matchers.matchers}
        if labels is not None and not asked <= labels | TARGET:
            found.append(f"{selector.name} has no {asked - labels - TARGET}")
    for aggregation, kept in grouped(parsed):
        for selector in selectors(aggregation.expr):
            labels = known.get(selector.name)
            if labels is not None and not kept <= labels | TARGET:
                found.append(f"{selector.name} has no {kept - labels - TARGET}")
    return found


def test_alerts_and_dashboard_speak_of_metrics_and_labels_that_there_are(
    known: dict[str, frozenset[str] | None],
) -> None:
    assert {"fawa_ready", "fawa_rpc_duration_seconds_bucket", "fawa_boards", "process_open_fds"} <= set(known)
    faults = {where: found for where, text in expressions() if (found := complaints(text, known))}
    assert faults == {}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("rate(fawa_calls_total[5m])", "there is no fawa_calls_total"),
        ("sum by (pod) (fawa_ready) / fawa_tcp_connection", "there is no fawa_tcp_connection"),
        ('fawa_service_up{name="file"}', "fawa_service_up has no {'name'}"),
        ("sum by (service) (fawa_tcp_connections)", "fawa_tcp_connections has no {'service'}"),
    ],
)
def test_what_there_is_not_would_be_seen(
    text: str, complaint: str, known: dict[str, frozenset[str] | None]
) -> None:
    assert complaints(text, known) == [complaint]


def test_every_metric_of_fawa_has_its_place_in_the_dashboard(known: dict[str, frozenset[str] | None]) -> None:
    shown = {
        re.sub(r"_(bucket|count|sum)$", "", selector.name)
        for panel in panels()
        for target in panel["targets"]
        for selector in selectors(promql.parse(target["expr"].replace("$__rate_interval", "5m")))
    }
    ours = {re.sub(r"_(bucket|count|sum)$", "", name) for name in known if name.startswith("fawa_")}
    assert ours - shown == set()


def test_alerts_fire_when_they_should_and_not_otherwise(tmp_path: Path) -> None:
    promtool("check", "rules", RULES)
    tests = yaml.safe_load(ALERTS.read_text())
    tried = {
        case["alertname"]
        for test in tests["tests"]
        for case in test.get("alert_rule_test", [])
        if case["exp_alerts"]
    }
    assert tried == {rule["alert"] for rule in alerts()}
    file = tmp_path / "alerts.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], **tests}, allow_unicode=True))
    promtool("test", "rules", file)


def test_the_chart_brings_the_rules_and_the_dashboard_as_they_are() -> None:
    rendered = render("staging")
    rule = the("PrometheusRule", "fawa", rendered)
    assert rule["spec"] == yaml.safe_load(RULES.read_text())
    board = the("ConfigMap", "fawa-dashboard", rendered)
    assert json.loads(board["data"]["fawa.json"]) == json.loads(DASHBOARD.read_text())
    # What is read for them is where the ServiceMonitor says, by the token of the Secret.
    (monitor,) = of_kind("ServiceMonitor", rendered)
    (endpoint,) = monitor["spec"]["endpoints"]
    services = [
        one
        for one in of_kind("Service", rendered)
        if monitor["spec"]["selector"]["matchLabels"].items() <= one["metadata"]["labels"].items()
    ]
    assert [port["name"] for one in services for port in one["spec"]["ports"]] == [endpoint["port"]]
    credentials = endpoint["authorization"]["credentials"]
    assert credentials["key"] in the("Secret", credentials["name"], rendered)["data"]


def test_panels_lie_beside_each_other_and_say_their_unit() -> None:
    board = json.loads(DASHBOARD.read_text())
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in panels():
        assert panel["fieldConfig"]["defaults"]["unit"]
    for panel in panels():
        for target in panel["targets"]:
            assert 'namespace=~"$namespace", pod=~"$pod"' in target["expr"], panel["title"]


def test_the_operators_guide_says_what_each_alert_means() -> None:
    headings = re.findall(r"^### (Fawa\w+)$", GUIDE.read_text(), re.M)
    assert headings == [rule["alert"] for rule in alerts()]
