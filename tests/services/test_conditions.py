"""Conditional requests in the order of RFC 9110, section 13.2.2, and HTTP dates."""

from __future__ import annotations

import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fawa.services.conditions import Conditions, Outcome, format_date, parse_date_untrusted

TAG = "abc123"
SAME = f'"{TAG}"'
OTHER = '"xyz"'
MODIFIED = 1763900000
BEFORE, AT, AFTER = (format_date(MODIFIED + seconds) for seconds in (-1, 0, 1))

SEND, UNCHANGED, FAILED = Outcome.SEND, Outcome.NOT_MODIFIED, Outcome.PRECONDITION_FAILED


@pytest.mark.parametrize(
    ("conditions", "outcome"),
    [
        ({}, SEND),
        # If-None-Match compares weakly.
        ({"if_none_match": SAME}, UNCHANGED),
        ({"if_none_match": f"W/{SAME}"}, UNCHANGED),
        ({"if_none_match": f"{OTHER}, {SAME}"}, UNCHANGED),
        ({"if_none_match": f' , {OTHER} ,\t, W/{SAME} , "third"'}, UNCHANGED),
        ({"if_none_match": "*"}, UNCHANGED),
        ({"if_none_match": OTHER}, SEND),
        ({"if_none_match": ""}, SEND),
        ({"if_none_match": TAG}, SEND),
        ({"if_none_match": f'"{TAG}'}, SEND),
        ({"if_none_match": f'"x{SAME}'}, SEND),
        ({"if_none_match": f'"a,{TAG}"'}, SEND),
        # It makes If-Modified-Since void.
        ({"if_none_match": OTHER, "if_modified_since": AFTER}, SEND),
        ({"if_modified_since": BEFORE}, SEND),
        ({"if_modified_since": AT}, UNCHANGED),
        ({"if_modified_since": AFTER}, UNCHANGED),
        ({"if_modified_since": "yesterday"}, SEND),
        # If-Match compares strongly.
        ({"if_match": SAME}, SEND),
        ({"if_match": f"{OTHER}, {SAME}"}, SEND),
        ({"if_match": "*"}, SEND),
        ({"if_match": f"W/{SAME}"}, FAILED),
        ({"if_match": OTHER}, FAILED),
        ({"if_match": "nonsense"}, FAILED),
        # It makes If-Unmodified-Since void.
        ({"if_match": SAME, "if_unmodified_since": BEFORE}, SEND),
        ({"if_unmodified_since": BEFORE}, FAILED),
        ({"if_unmodified_since": AT}, SEND),
        ({"if_unmodified_since": AFTER}, SEND),
        ({"if_unmodified_since": "tomorrow"}, SEND),
        # What would fail comes before what would save the transfer.
        ({"if_match": OTHER, "if_none_match": SAME}, FAILED),
        ({"if_match": SAME, "if_none_match": SAME}, UNCHANGED),
        ({"if_unmodified_since": AT, "if_modified_since": AT}, UNCHANGED),
    ],
)
def test_what_conditions_come_to(conditions: dict[str, str], outcome: Outcome) -> None:
    assert Conditions(**conditions).evaluate(TAG, MODIFIED) is outcome


@pytest.mark.parametrize(
    ("value", "applies"),
    [
        (None, True),
        (SAME, True),
        (f" {SAME}\t", True),
        (f"W/{SAME}", False),
        (OTHER, False),
        (f"{SAME}, {OTHER}", False),
        (TAG, False),
        ("*", False),
        ("", False),
        (AT, True),
        (BEFORE, False),
        (AFTER, False),
    ],
)
def test_whether_a_range_applies(value: str | None, applies: bool) -> None:
    assert Conditions(if_range=value).range_applies(TAG, MODIFIED) is applies


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        # The example of RFC 9110, section 5.6.7, in its three forms.
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        ("Sun Nov  6 08:49:37 1994", 784111777),
        ("Sun Nov 16 08:49:37 1994", 784975777),
        (" Sun, 06 Nov 1994 08:49:37 GMT\t", 784111777),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Wed, 31 Dec 1969 23:59:59 GMT", -1),
        ("Thu, 29 Feb 2024 12:00:00 GMT", 1709208000),
        ("Sat, 31 Dec 2016 23:59:60 GMT", 1483228800),
        ("Friday, 31-Dec-68 00:00:00 GMT", 3124137600),
        ("Wednesday, 31-Dec-69 00:00:00 GMT", -86400),
    ],
)
def test_dates(text: str, seconds: int) -> None:
    assert parse_date_untrusted(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "1994-11-06T08:49:37Z",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 06 Nov 1994 08:49:37 +0000",
        "sun, 06 nov 1994 08:49:37 gmt",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 31 Nov 1994 08:49:37 GMT",
        "Thu, 29 Feb 2023 12:00:00 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:49:37 GMT",
        "Sun, 06 Nov 1994 08:60:37 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 06 Nov \u0661\u0669\u0669\u0664 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun Nov    08:49:37 1994",
    ],
)
def test_what_is_no_date(text: str) -> None:
    assert parse_date_untrusted(text) is None


@given(st.integers(0, 253402300799))
def test_a_date_is_read_as_it_was_written(seconds: int) -> None:
    text = format_date(seconds)
    assert parse_date_untrusted(text) == seconds
    assert email.utils.parsedate_to_datetime(text).timestamp() == seconds


values = st.none() | st.text(alphabet='W/"*abc123xyz, \t') | st.sampled_from([SAME, OTHER, BEFORE, AT, AFTER])


@given(values, values, values, values, values)
def test_no_conditions_fail(
    match: str | None, none: str | None, since: str | None, unmodified: str | None, range_: str | None
) -> None:
    conditions = Conditions(
        if_match=match,
        if_none_match=none,
        if_modified_since=since,
        if_unmodified_since=unmodified,
        if_range=range_,
    )
    assert conditions.evaluate(TAG, MODIFIED) in Outcome
    assert conditions.range_applies(TAG, MODIFIED) in {True, False}
