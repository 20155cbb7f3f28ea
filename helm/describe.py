"""Writes what follows from the charts' schemas: their values.yaml, and the table of values in README.md.

    python helm/describe.py CHART OUTPUT      (run by scripts/chart)

The schema is where a value is declared, described, bounded and given its default; nothing is kept twice.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_WIDTH = 110
_MADE = "Made from values.schema.json by scripts/chart: change it there."


def values(schema: dict[str, Any], depth: int = 0) -> Iterator[str]:
    """Write the defaults as YAML, each below its description."""
    indent = "  " * depth
    for name, entry in schema["properties"].items():
        if depth == 0:
            yield ""
        for line in textwrap.wrap(entry["description"], _WIDTH - len(indent) - 2, break_on_hyphens=False):
            yield f"{indent}# {line}"
        if "default" in entry:
            yield f"{indent}{name}: {json.dumps(entry['default'])}"
        else:
            yield f"{indent}{name}:"
            yield from values(entry, depth + 1)


def rows(schema: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Write one line of the table for each value; a group's description stands above its values."""
    for name, entry in schema["properties"].items():
        key, text = f"{prefix}{name}", entry["description"].replace("|", "\\|")
        if "default" in entry:
            yield f"| `{key}` | {_kind(entry)} | {_default(entry['default'])} | {text} |"
        else:
            yield f"| **`{key}`** | | | {text} |"
            yield from rows(entry, f"{key}.")


def _kind(entry: dict[str, Any]) -> str:
    if "enum" in entry:
        return " or ".join(f"`{choice}`" for choice in entry["enum"])
    if "minimum" in entry:
        return f"{entry['minimum']} to {entry['maximum']}"
    return {"string": "text", "boolean": "true or false", "array": "list", "object": "map"}[entry["type"]]


def _default(value: Any) -> str:
    return f"`{json.dumps(value)}`" if value != "" else "empty"


def readme(template: str, schema: dict[str, Any]) -> str:
    """Return README.md with the table anew, between its two markers."""
    begin, end = "<!-- values -->", "<!-- end of values -->"
    head, rest = template.split(begin)
    table = ["| value | allowed | default | what it does |", "|---|---|---|---|", *rows(schema)]
    return "\n".join([head + begin, f"<!-- {_MADE} -->", "", *table, "", end]) + rest.split(end)[1]


def main(chart: Path, output: Path) -> None:
    """Describe a chart and its dependencies; write the same files below `output`."""
    for folder in (chart, *sorted((chart / "charts").iterdir())):
        schema = json.loads((folder / "values.schema.json").read_text())
        target = output / folder.relative_to(chart)
        target.mkdir(parents=True, exist_ok=True)
        (target / "values.yaml").write_text(
            "\n".join([f"# {schema['title']}. {_MADE}", *values(schema)]) + "\n"
        )
        if (folder / "README.md").exists():
            (target / "README.md").write_text(readme((folder / "README.md").read_text(), schema))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
