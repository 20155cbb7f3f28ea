"""Conditional requests and HTTP dates (RFC 9110, sections 13, 8.8 and 5.6.7). Pure.

The content under a key never changes, so both validators are strong: the entity tag, and also
`Last-Modified` (section 8.8.2.2: the server knows that the content did not change twice in a second).
"""

from __future__ import annotations

import calendar
import enum
import re
from collections.abc import Iterator
from email.utils import formatdate
from typing import Final

import attrs

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH: Final = "(?P<month>" + "|".join(_MONTHS) + ")"
_CLOCK: Final = "(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"

#: The form in use, and the two obsolete ones that recipients must still take.
_DATES: Final = (
    re.compile(
        rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_CLOCK} GMT"
    ),
    re.compile(
        "(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, "
        rf"(?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_CLOCK} GMT"
    ),
    re.compile(
        rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) {_MONTH} (?P<day>[0-9 ][0-9]) {_CLOCK} (?P<year>[0-9]{{4}})"
    ),
)

_TAGS: Final = re.compile(r'[ \t,]*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*(?=,|$)')


class Outcome(enum.Enum):
    """What the conditions of a request come to."""

    SEND = 200
    NOT_MODIFIED = 304
    PRECONDITION_FAILED = 412


@attrs.frozen(kw_only=True)
class Conditions:
    """The condition headers of a request, `None` where missing."""

    if_match: str | None = None
    if_none_match: str | None = None
    if_modified_since: str | None = None
    if_unmodified_since: str | None = None
    if_range: str | None = None

    def evaluate(self, tag: str, modified: int) -> Outcome:
        """Judge a GET or HEAD in the order of section 13.2.2.

        Args:
            tag: the strong entity tag without its quotes.
            modified: `Last-Modified` in Unix seconds.

        """
        if self.if_match is not None:
            if not _matches(self.if_match, tag, weak=False):
                return Outcome.PRECONDITION_FAILED
        elif self.if_unmodified_since is not None:
            date = parse_date_untrusted(self.if_unmodified_since)
            if date is not None and modified > date:
                return Outcome.PRECONDITION_FAILED
        if self.if_none_match is not None:
            if _matches(self.if_none_match, tag, weak=True):
                return Outcome.NOT_MODIFIED
        elif self.if_modified_since is not None:
            date = parse_date_untrusted(self.if_modified_since)
            if date is not None and modified <= date:
                return Outcome.NOT_MODIFIED
        return Outcome.SEND

    def range_applies(self, tag: str, modified: int) -> bool:
        """Tell whether `Range` may be heeded: the client's part is of this very content (section 13.1.5)."""
        if self.if_range is None:
            return True
        value = self.if_range.strip(" \t")
        return value == f'"{tag}"' or parse_date_untrusted(value) == modified


def _matches(value: str, tag: str, *, weak: bool) -> bool:
    """Tell whether a list of entity tags, or `*`, names `tag`; a malformed list names nothing."""
    if value.strip(" \t") == "*":
        return True
    return any(found == tag and (weak or not is_weak) for is_weak, found in _entity_tags(value))


def _entity_tags(value: str) -> Iterator[tuple[bool, str]]:
    place = 0
    while match := _TAGS.match(value, place):
        yield match[1] is not None, match[2]
        place = match.end()


def format_date(seconds: int) -> str:
    """Return the IMF-fixdate of a Unix time."""
    return formatdate(seconds, usegmt=True)


def parse_date_untrusted(value: str) -> int | None:
    """Return the Unix time of an HTTP date in any of the three forms, `None` when it is none of them."""
    value = value.strip(" \t")
    for form in _DATES:
        if match := form.fullmatch(value):
            break
    else:
        return None
    year, month = int(match["year"]), _MONTHS.index(match["month"]) + 1
    day, hour, minute, second = (int(match[part]) for part in ("day", "hour", "minute", "second"))
    if len(match["year"]) == 2:
        # As POSIX reads two digits; nothing is older here than this program.
        year += 1900 if year >= 69 else 2000
    if year < 1 or not 1 <= day <= calendar.monthrange(year, month)[1]:
        return None
    if hour > 23 or minute > 59 or second > 60:
        return None
    return calendar.timegm((year, month, day, hour, minute, second))
