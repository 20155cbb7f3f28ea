"""What a decoder's error means to who sent the document."""

from __future__ import annotations

from typing import Final

import msgspec

from fawa.board.events import Problem

#: Characters of a message; a decoder's own names the field it did not know, which may be long.
_LONGEST: Final = 200


def problem_of(error: Exception) -> Problem:
    """Return what is wrong with a document that could not be decoded."""
    if isinstance(error, msgspec.ValidationError):
        return Problem("bad_field", shortened(str(error)))
    if isinstance(error, RecursionError):
        return Problem("bad_json", "the document is nested too deeply")
    return Problem("bad_json", shortened(str(error)))


def shortened(message: str) -> str:
    """Return a message without what is beyond a reasonable length."""
    return message if len(message) <= _LONGEST else message[: _LONGEST - 1] + "…"
