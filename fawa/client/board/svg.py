"""A board as an SVG document (SVG 1.1). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from fawa.client.board.documents import Stroke

#: Pixels around what is drawn.
_MARGIN: Final = 8
#: Colours that are put into the document; others say what they like, and are drawn in black.
_COLOR: Final = re.compile(r"#[0-9A-Fa-f]{3,8}|[A-Za-z]{1,32}|(?:rgb|hsl)a?\([0-9., %/]{1,48}\)")


def to_svg(strokes: Iterable[Stroke]) -> str:
    """Return the drawing, cut to what is drawn, on white paper."""
    seen = [one for one in strokes if one.type == "draw" and len(one.points) >= 4]
    left, top, right, bottom = _bounds(seen)
    width, height = right - left, bottom - top
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="{left} {top} {width} {height}">',
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="#ffffff"/>',
        '<g fill="none" stroke-linecap="round" stroke-linejoin="round">',
        *map(_polyline, seen),
        "</g>",
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _polyline(stroke: Stroke) -> str:
    color = stroke.color if _COLOR.fullmatch(stroke.color) else "#000000"
    numbers = iter(stroke.points)
    points = " ".join(f"{x},{y}" for x, y in zip(numbers, numbers, strict=False))
    return f'<polyline stroke="{color}" stroke-width="{max(1, stroke.size)}" points="{points}"/>'


def _bounds(strokes: list[Stroke]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of what is drawn with its margin."""
    if not strokes:
        return 0, 0, 2 * _MARGIN, 2 * _MARGIN
    out = [max(1, stroke.size) // 2 + _MARGIN for stroke in strokes]
    boxes = [
        (stroke.points[::2], stroke.points[1::2], more) for stroke, more in zip(strokes, out, strict=True)
    ]
    return (
        min(min(xs) - more for xs, _, more in boxes),
        min(min(ys) - more for _, ys, more in boxes),
        max(max(xs) + more for xs, _, more in boxes),
        max(max(ys) + more for _, ys, more in boxes),
    )
