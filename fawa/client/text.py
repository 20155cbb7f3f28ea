"""What the `fawa` command says, on standard output and standard error."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Mapping
from typing import Final

#: Controls, formats (which turn other text around), halves of characters, line and paragraph separators.
_HARMFUL: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
#: Formats that belong to how words and emoji are written.
_JOINERS: Final = frozenset("\u200c\u200d")


def tell(text: str) -> None:
    """Print a result."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def tell_json(result: Mapping[str, object]) -> None:
    """Print a result for a program: one line, ASCII."""
    tell(json.dumps(result))


def complain(text: str) -> None:
    """Say in one line what is wrong."""
    sys.stderr.write(f"fawa: {one_line(text)}\n")


def one_line(text: str) -> str:
    """Return `text` without line breaks, and with control characters made visible.

    What a server or a file name says must not move the cursor or speak for the program.
    """
    return "".join(
        character if is_harmless(character) else _visible(character)
        for character in re.sub(r"\s*[\r\n]\s*", " ", text)
    )


def is_harmless(character: str) -> bool:
    """Whether a character only shows itself: no control, no break, nothing that turns others around."""
    return character in _JOINERS or unicodedata.category(character) not in _HARMFUL


def _visible(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
