"""Byte ranges: the `Range` request header and multipart/byteranges bodies (RFC 9110, section 14). Pure."""

from __future__ import annotations

import re
from typing import Final

import attrs

#: More ranges than this in one request are no download: the header is then ignored, as section 14.2 allows,
#: and the whole is sent, which costs no more than a request without it.
MAX_RANGES: Final = 32

#: Characters of a `Range` header that can make sense.
_MAX_HEADER: Final = 2048

_SPEC: Final = re.compile(r"(?:([0-9]+)-([0-9]*)|-([0-9]+))")


@attrs.frozen(order=True)
class Span:
    """Bytes `start` to `start + count - 1`; `count` is at least 1."""

    start: int
    count: int

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.start + self.count

    def content_range(self, size: int) -> bytes:
        """Return the value of `Content-Range` for this part of `size` bytes."""
        return b"bytes %d-%d/%d" % (self.start, self.end - 1, size)


def parse_range_untrusted(value: str, size: int) -> tuple[Span, ...] | None:
    """Return the spans of a content of `size` bytes that a `Range` header asks for.

    Spans that overlap or touch become one; the others keep the order in which they were asked for
    (section 15.3.7.2). Nothing of the file is named twice, so no answer is longer than the file.

    Returns:
        `None` where the header is to be ignored: another unit, malformed, too many ranges, or no content to
        take a part of. `()` where no range can be satisfied: the answer is 416.

    """
    unit, equals, ranges = value.strip(" \t").partition("=")
    if not equals or unit.lower() != "bytes" or len(value) > _MAX_HEADER or size == 0:
        return None
    specs = [spec for part in ranges.split(",") if (spec := part.strip(" \t"))]
    if not 0 < len(specs) <= MAX_RANGES:
        return None
    spans = []
    for spec in specs:
        match = _SPEC.fullmatch(spec)
        if match is None:
            return None
        first, last, suffix = match.groups()
        if suffix is not None:
            start, end = max(0, size - int(suffix)), size
        else:
            start, end = int(first), int(last) + 1 if last else size
            if last and end <= start:
                return None
        if start < min(end, size):
            spans.append(Span(start, min(end, size) - start))
    return _coalesce(spans)


def _coalesce(spans: list[Span]) -> tuple[Span, ...]:
    merged: list[tuple[int, Span]] = []
    for place, span in sorted(enumerate(spans), key=lambda item: item[1]):
        if merged and span.start <= merged[-1][1].end:
            earlier, last = merged[-1]
            merged[-1] = min(earlier, place), Span(last.start, max(last.end, span.end) - last.start)
        else:
            merged.append((place, span))
    return tuple(span for _, span in sorted(merged))


@attrs.frozen
class Multipart:
    """A multipart/byteranges body: each part's head and then its bytes of the file, then the tail."""

    content_type: bytes
    parts: tuple[tuple[bytes, Span], ...]
    tail: bytes

    @property
    def length(self) -> int:
        """Bytes of the whole body."""
        return sum(len(head) + span.count for head, span in self.parts) + len(self.tail)


def multipart(spans: tuple[Span, ...], size: int, content_type: bytes, boundary: bytes) -> Multipart:
    """Lay out a body of several spans; the boundary must be random, so that no content holds it."""
    parts = []
    opening = b"--" + boundary
    for span in spans:
        head = b"%s\r\ncontent-type: %s\r\ncontent-range: %s\r\n\r\n" % (
            opening,
            content_type,
            span.content_range(size),
        )
        parts.append((head, span))
        opening = b"\r\n--" + boundary
    return Multipart(b"multipart/byteranges; boundary=" + boundary, tuple(parts), opening + b"--\r\n")
