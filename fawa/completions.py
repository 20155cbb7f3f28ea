"""What a shell needs to complete the commands' words: made from their parsers."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Final

#: Shells that there are completions for.
SHELLS: Final = ("bash", "zsh", "tcsh")

#: What stands for a path in `--help`.
_PATHS: Final = frozenset({"FILE", "PATH"})
#: And for one of a few words.
_WORDS: Final = re.compile(r"[a-z]+(\|[a-z]+)+")


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script that completes a command's words, and what may follow its options.

    That is what `--help` has for it: paths, and the words of `debug|info|warning`.
    """
    import shtab  # noqa: PLC0415 - of use to few who run the commands

    _tell_values(parser, shtab.FILE)
    return str(shtab.complete(parser, shell=shell))


def _tell_values(parser: argparse.ArgumentParser, path: object) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _tell_values(inner, path)
        elif action.metavar in _PATHS or action.type is Path:
            action.complete = path  # type: ignore[attr-defined]  # where shtab looks for it
        elif isinstance(action.metavar, str) and _WORDS.fullmatch(action.metavar):
            action.choices = action.metavar.split("|")
