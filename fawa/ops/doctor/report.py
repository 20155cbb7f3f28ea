"""What was found, for people and for programs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Final

from fawa.ops.doctor.findings import Examined

_WIDTH: Final = 100


def is_healthy(examined: Sequence[Examined]) -> bool:
    """Tell whether nothing was found."""
    return not any(one.findings for one in examined)


def as_text(examined: Sequence[Examined]) -> str:
    """Write it in lines to read."""
    width = max(len(one.name) for one in examined)
    lines: list[str] = []
    for one in examined:
        if one.findings:
            lines.append(f"{one.name:<{width}}  FAULT")
            for finding in one.findings:
                lines += [_wrapped(finding.problem, "  "), _wrapped(finding.advice, "  → ")]
        else:
            lines.append(f"{one.name:<{width}}  {f'not looked at: {one.skipped}' if one.skipped else 'ok'}")
    count = sum(len(one.findings) for one in examined)
    lines.append(f"\n{count or 'No'} fault{'s' * (count != 1)} found.")
    return "\n".join(lines)


def _wrapped(sentence: str, indent: str) -> str:
    sentence = sentence if sentence.endswith(("?", "!", ".")) else f"{sentence}."
    rest = " " * len(indent)
    return textwrap.fill(
        sentence,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def as_json(examined: Sequence[Examined]) -> str:
    """Write one JSON object: `healthy`, and by each check's `name` its `state` and `findings`."""
    checks = [
        {
            "name": one.name,
            "state": "fault" if one.findings else "skipped" if one.skipped else "ok",
            "skipped": one.skipped or None,
            "findings": [{"problem": finding.problem, "advice": finding.advice} for finding in one.findings],
        }
        for one in examined
    ]
    return json.dumps({"healthy": is_healthy(examined), "checks": checks}, indent=2)
