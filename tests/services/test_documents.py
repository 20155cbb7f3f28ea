"""JSON documents on a stream, in any pieces."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fawa.services.documents import Documents
from tests.net.talk import examples

VALUES = st.recursive(
    st.none() | st.integers() | st.text(alphabet='ab"\\{}[] \n\u00e9'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
OBJECTS = st.dictionaries(st.text(max_size=3), VALUES, max_size=3)


def split(pieces: list[bytes], most: int = 1 << 20) -> tuple[list[Any], Documents]:
    documents = Documents(most)
    return [json.loads(one) for piece in pieces for one in documents.feed_untrusted(piece)], documents


@given(st.lists(OBJECTS), st.sampled_from([b"", b" ", b"\n"]), st.data())
@settings(max_examples=examples(100))
def test_documents_come_out_as_they_went_in(objects: list[Any], between: bytes, data: st.DataObject) -> None:
    text = between.join(json.dumps(one, ensure_ascii=False).encode() for one in objects)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    for way in ([text], pieces, [text[at : at + 1] for at in range(len(text))]):
        found, documents = split(way)
        assert found == objects
        assert documents.rest == b""
        assert not documents.is_too_large


@given(st.binary(max_size=200), st.integers(1, 50))
@settings(max_examples=examples(100))
def test_anything_at_all_is_bounded(data: bytes, most: int) -> None:
    whole, bytewise = Documents(most), Documents(most)
    found = whole.feed_untrusted(data)
    assert all(len(one) <= most for one in found)
    single = [one for at in range(len(data)) for one in bytewise.feed_untrusted(data[at : at + 1])]
    assert single == found[: len(single)]
    assert len(bytewise.rest) <= most + 1


def test_what_is_too_large_ends_it() -> None:
    found, documents = split([b'{"a": 1}', b'{"a": "' + b"x" * 20 + b'"}{}'], most=10)
    assert found == [{"a": 1}]
    assert documents.is_too_large
    assert documents.feed_untrusted(b"{}") == []
    assert not split([b" " * 1000], most=10)[1].is_too_large
    assert split([b'{"a', b"b" * 10], most=10)[1].is_too_large


def test_what_is_not_whole_or_no_document_is_left() -> None:
    assert split([b'{} {"a": [1, "}'])[1].rest == b'{"a": [1, "}'
    assert split([b"{}12"])[1].rest == b"12"
    assert Documents(100).feed_untrusted(b"]}{}") == [b"]", b"}", b"{}"]
