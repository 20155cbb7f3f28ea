"""What a bench measured: figures by round, ratios between servers of one run, and how they are told."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import attrs
from rich.console import Console
from rich.table import Table

_console = Console(width=120, highlight=False)
_progress = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Tell on stderr what is going on."""
    _progress.print(text, markup=False)


def arguments(about: str) -> argparse.ArgumentParser:
    """Return a parser with the options all benches have, and make SIGTERM end children as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _leave)
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--quick", action="store_true", help="a few seconds, to see that it runs; not a measurement"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    return parser


def _leave(*_: object) -> NoReturn:
    raise SystemExit(143)


@attrs.frozen
class Figure:
    """One thing measured of one server, once a round."""

    what: str
    server: str
    unit: str
    rounds: list[float] = attrs.field(factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


@attrs.frozen
class Target:
    """A bound on a figure, or on the ratio of a server's figure to a peer's in the same round."""

    what: str
    server: str
    value: float
    bound: float | None
    at_most: bool = False
    peer: str | None = None

    @property
    def met(self) -> bool | None:
        """Whether the bound is kept; `None` when there is none."""
        if self.bound is None:
            return None
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    @property
    def text(self) -> str:
        """The bound and whether it is kept, "" when there is none."""
        if self.bound is None:
            return ""
        return f"{'≤' if self.at_most else '≥'} {self.bound:g}: {'met' if self.met else 'MISSED'}"


@attrs.define
class Report:
    """Everything one bench measured."""

    title: str
    settings: dict[str, Any]
    figures: dict[tuple[str, str], Figure] = attrs.field(factory=dict)
    targets: list[Target] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)

    def record(self, what: str, unit: str, server: str, value: float) -> None:
        """Add one round's figure."""
        self.figures.setdefault((what, server), Figure(what, server, unit)).rounds.append(value)

    def compare(self, what: str, server: str, peer: str, bound: float | None = None) -> None:
        """Compare two servers: the median of the rounds' ratios, each taken within its round."""
        pairs = zip(self.figures[what, server].rounds, self.figures[what, peer].rounds, strict=True)
        ratio = statistics.median(mine / theirs for mine, theirs in pairs)
        self.targets.append(Target(what, server, ratio, bound, peer=peer))

    def bound(self, what: str, server: str, at_most: float) -> None:
        """Hold a server's median against an upper bound in the figure's own unit."""
        median = self.figures[what, server].median
        self.targets.append(Target(what, server, median, at_most, at_most=True))

    def note(self, text: str) -> None:
        """Add a remark, once."""
        if text not in self.notes:
            self.notes.append(text)

    def tell(self, options: argparse.Namespace) -> int:
        """Print everything; return the exit code."""
        if options.quick:
            self.note("--quick shows that the bench runs; its figures are no measurement")
        missed = [target for target in self.targets if target.met is False]
        if options.json:
            json.dump(self._as_json(), sys.stdout, indent=2, ensure_ascii=False)
            print()
        else:
            self._print()
        return 1 if options.check and missed else 0

    def _as_json(self) -> dict[str, Any]:
        return {
            "bench": self.title,
            "machine": machine(),
            "settings": self.settings,
            "figures": [
                {**attrs.asdict(figure), "median": figure.median} for figure in self.figures.values()
            ],
            "comparisons": [{**attrs.asdict(target), "met": target.met} for target in self.targets],
            "notes": self.notes,
        }

    def _print(self) -> None:
        facts = machine()
        _console.print(f"[bold]{self.title}[/bold]")
        _console.print(", ".join(f"{key} {value}" for key, value in facts.items()), markup=False)
        _console.print(", ".join(f"{key} {value}" for key, value in self.settings.items()), markup=False)
        table = Table("figure", "server", "unit", box=None, pad_edge=False)
        for column in ("median", "lowest", "highest"):
            table.add_column(column, justify="right")
        previous = ""
        for figure in sorted(self.figures.values(), key=lambda figure: _order(self.figures, figure.what)):
            what = "" if figure.what == previous else figure.what
            numbers = (figure.median, min(figure.rounds), max(figure.rounds))
            table.add_row(what, figure.server, figure.unit, *map(_number, numbers))
            previous = figure.what
        _console.print(table)
        table = Table("compared", "", "is", "target", box=None, pad_edge=False)
        for target in self.targets:
            of = f"{target.server} / {target.peer}" if target.peer else target.server
            value = f"{target.value:.2f}" if target.peer else _number(target.value)
            table.add_row(target.what, of, value, target.text)
        if self.targets:
            _console.print()
            _console.print(table)
        for note in self.notes:
            _console.print(f"Note: {note}", markup=False)


def _order(figures: dict[tuple[str, str], Figure], what: str) -> int:
    """Return the place of a figure's name in the order of first mention."""
    return list(dict.fromkeys(name for name, _ in figures)).index(what)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def machine() -> dict[str, str]:
    """Return what the figures depend on beside the code."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    facts = {"CPU": model, "cores": str(os.cpu_count()), "Linux": platform.release()}
    facts["Python"] = platform.python_version()
    packages = ["fawa", "trio", "zttp", "grpclib", "protobuf", "uvloop", "grpcio"]
    packages += ["websockets", "trio-websocket", "aioquic"]
    return facts | {package: version(package) for package in packages}
