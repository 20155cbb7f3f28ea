"""`Range`, against a model that asks of each single byte whether it is wanted."""

from __future__ import annotations

import email
import email.policy
import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fawa.services.ranges import MAX_RANGES, Span, multipart, parse_range_untrusted

SIZE = 10


@pytest.mark.parametrize(
    ("value", "spans"),
    [
        ("bytes=0-4", [(0, 5)]),
        ("bytes=0-0", [(0, 1)]),
        ("bytes=9-9", [(9, 1)]),
        ("bytes=0-", [(0, 10)]),
        ("bytes=4-", [(4, 6)]),
        ("bytes=-3", [(7, 3)]),
        ("bytes=-10", [(0, 10)]),
        ("bytes=-99", [(0, 10)]),
        ("bytes=3-99", [(3, 7)]),
        ("bytes=0-99999999999999999999999999", [(0, 10)]),
        ("bytes=" + "0" * 50 + "3-4", [(3, 2)]),
        ("BYTES=0-4", [(0, 5)]),
        ("  bytes=0-4 \t", [(0, 5)]),
        ("bytes= 0-4 ", [(0, 5)]),
        ("bytes=0-1,4-5", [(0, 2), (4, 2)]),
        ("bytes=0-1 , \t4-5", [(0, 2), (4, 2)]),
        ("bytes=,0-1,,4-5,", [(0, 2), (4, 2)]),
        ("bytes=4-5,0-1", [(4, 2), (0, 2)]),
        ("bytes=0-4,2-6", [(0, 7)]),
        ("bytes=0-4,5-6", [(0, 7)]),
        ("bytes=8-8,0-4,2-6", [(8, 1), (0, 7)]),
        ("bytes=5-6,8-8,4-5", [(4, 3), (8, 1)]),
        ("bytes=0-,0-,0-", [(0, 10)]),
        ("bytes=0-1,99-", [(0, 2)]),
        ("bytes=0-1,-0", [(0, 2)]),
        ("bytes=" + ",".join(f"{n}-{n}" for n in range(MAX_RANGES)), [(0, 10)]),
    ],
)
def test_ranges_that_are_heeded(value: str, spans: list[tuple[int, int]]) -> None:
    assert parse_range_untrusted(value, SIZE) == tuple(Span(*span) for span in spans)


@pytest.mark.parametrize("value", ["bytes=10-", "bytes=99-100", "bytes=-0", "bytes=10-,-0,11-12"])
def test_ranges_that_cannot_be_satisfied(value: str) -> None:
    assert parse_range_untrusted(value, SIZE) == ()


@pytest.mark.parametrize(
    "value",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=a-b",
        "bytes=0-4;5-6",
        "bytes=5-4",
        "bytes=0-1,5-4",
        "bytes=+1-2",
        "bytes=1 -2",
        "bytes=--2",
        "bytes=1--2",
        "bytes=0x1-2",
        "bytes=\u0661-\u0662",
        "bytes=0-4, bytes=5-6",
        "bytes =0-4",
        "lines=0-4",
        "0-4",
        "bytes=0.5-4",
        "bytes=" + "1" * 5000 + "-",
        "bytes=" + ",".join(["0-0"] * (MAX_RANGES + 1)),
        "bytes=" + ", " * 2000 + "0-1",
    ],
)
def test_ranges_that_are_ignored(value: str) -> None:
    assert parse_range_untrusted(value, SIZE) is None


@pytest.mark.parametrize("value", ["bytes=0-", "bytes=-5", "bytes=0-0"])
def test_of_an_empty_file_no_part_can_be_told(value: str) -> None:
    assert parse_range_untrusted(value, 0) is None


@st.composite
def specs(draw: st.DrawFn) -> tuple[str, set[int]]:
    """A range of a small file, and the bytes it names among the first 40."""
    first, last = sorted(draw(st.tuples(st.integers(0, 30), st.integers(0, 30))))
    match draw(st.integers(0, 2)):
        case 0:
            return f"{first}-{last}", set(range(first, last + 1))
        case 1:
            return f"{first}-", set(range(first, 40))
        case _:
            return f"-{first}", set(range(-first, 0))


@given(st.lists(specs(), min_size=1, max_size=8), st.integers(1, 25), st.sampled_from([",", ", ", " ,\t"]))
def test_against_single_bytes(wanted: list[tuple[str, set[int]]], size: int, comma: str) -> None:
    spans = parse_range_untrusted("bytes=" + comma.join(text for text, _ in wanted), size)
    assert spans is not None
    # Each spec's bytes of this file; a suffix counts from its end.
    sets = [{n + size if n < 0 else n for n in named} & set(range(size)) for _, named in wanted]
    assert {n for span in spans for n in range(span.start, span.end)} == set().union(*sets)
    # Nothing twice, nothing empty, nothing that could be one.
    ordered = sorted(spans)
    assert all(span.count >= 1 for span in spans)
    assert all(one.end < other.start for one, other in itertools.pairwise(ordered))
    # In the order of the first spec that asks for any of it.
    places = [
        min(place for place, named in enumerate(sets) if named & set(range(span.start, span.end)))
        for span in spans
    ]
    assert places == sorted(places)


@given(st.text(alphabet="bytes=0123456789-, \t", max_size=40), st.integers(0, 30))
def test_any_text_is_spans_or_ignored(text: str, size: int) -> None:
    for value in (text, "bytes=" + text):
        spans = parse_range_untrusted(value, size)
        for span in spans or ():
            assert 0 <= span.start < span.end <= size
        assert sum(span.count for span in spans or ()) <= size


@given(st.text(), st.integers(0, 30))
def test_no_text_fails(text: str, size: int) -> None:
    assert isinstance(parse_range_untrusted(text, size), tuple | None)


def test_content_range() -> None:
    assert Span(2, 3).content_range(10) == b"bytes 2-4/10"


@given(st.binary(min_size=1, max_size=200), st.data())
def test_a_multipart_body_is_read_by_a_mime_parser(content: bytes, data: st.DataObject) -> None:
    boundary = b"0123456789abcdef0123456789abcdef"
    assume(boundary not in content)
    value = ",".join(text for text, _ in data.draw(st.lists(specs(), min_size=1, max_size=6)))
    spans = parse_range_untrusted(f"bytes={value}", len(content))
    assume(spans)
    assert spans is not None
    body = multipart(spans, len(content), b"image/png", boundary)
    pieces = [head + content[span.start : span.end] for head, span in body.parts]
    whole = b"".join(pieces) + body.tail
    assert len(whole) == body.length
    # The last line feed before a boundary belongs to the boundary, so the parser needs all of them as CRLF.
    head = b"content-type: " + body.content_type + b"\r\n\r\n"
    message = email.message_from_bytes(
        (head + whole).replace(b"image/png", b"application/octet-stream"), policy=email.policy.HTTP
    )
    assert message.get_content_type() == "multipart/byteranges"
    parts = list(message.iter_parts())
    assert [part["content-range"] for part in parts] == [
        span.content_range(len(content)).decode() for span in spans
    ]
    for span, piece in zip(spans, pieces, strict=True):
        assert piece.endswith(b"\r\n\r\n" + content[span.start : span.end])
