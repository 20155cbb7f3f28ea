"""Header fields taken apart."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fawa.services import fields
from fawa.services.names import disposition_name_untrusted


@pytest.mark.parametrize(
    ("value", "integer", "boolean"),
    [
        (None, None, None),
        ("", None, None),
        ("0", 0, None),
        (" 007 ", 7, None),
        ("999999999999999", 999_999_999_999_999, None),
        ("1000000000000000", None, None),
        ("-1", None, None),
        ("+1", None, None),
        ("1.0", None, None),
        ("1_0", None, None),
        ("\N{ARABIC-INDIC DIGIT ONE}", None, None),
        ("5;a;b=1; c=?0", 5, None),
        ("5, 6", None, None),
        ("?1", None, True),
        ("?0;x=y", None, False),
        ("?1, ?1", None, None),
        ("?2", None, None),
        ("true", None, None),
    ],
)
def test_structured_fields(value: str | None, integer: int | None, boolean: bool | None) -> None:
    assert fields.integer_untrusted(value) == integer
    assert fields.boolean_untrusted(value) is boolean


@given(st.text(max_size=40))
def test_nothing_else_is_raised_by_fields(text: str) -> None:
    for parse in (
        fields.digests_untrusted,
        fields.base64_untrusted,
        fields.encoded_text_untrusted,
        disposition_name_untrusted,
    ):
        with suppress(ValueError):
            parse(text)
    with suppress(ValueError):
        assert 1 <= fields.count_untrusted(text, "bytes") < 2**31


@given(st.text(min_size=1))
def test_any_text_can_be_told_in_ascii(text: str) -> None:
    assert fields.encoded_text_untrusted(quote(text, safe=" /,;")) == text


def test_what_is_not_told() -> None:
    assert fields.count_untrusted(None, "bytes") == 0
    assert fields.encoded_text_untrusted(None) == ""


def test_digests() -> None:
    assert fields.digests_untrusted(None) == {}
    assert fields.digests_untrusted("sha-256=:AAE=:;q=1, md5=:YQ==:") == {"sha-256": b"\0\1", "md5": b"a"}
    for malformed in ("", "sha-256", "sha-256=AAE=", "sha-256=:AAE:", "sha-256=:AAE=:,", "SHA-256=:AAE=:"):
        with pytest.raises(ValueError, match="is no "):
            fields.digests_untrusted(malformed)


@pytest.mark.parametrize(
    ("accept", "does"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", True),
        ("text/html, Application/JSON ; q=0.1", True),
        ("application/json;q=0", False),
        ("application/json;q=0.000", False),
        ("application/jsonp", False),
    ],
)
def test_accept(accept: str, *, does: bool) -> None:
    assert fields.accepts(accept, ("application/json",)) is does
