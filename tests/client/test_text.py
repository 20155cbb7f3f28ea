"""What is said in a terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fawa.client.text import is_harmless, one_line


def test_lines_are_joined_and_controls_shown() -> None:
    assert one_line("first\n  second\r\nthird") == "first second third"
    assert one_line("two  spaces, ü 東京 👩\u200d🚀") == "two  spaces, ü 東京 👩\u200d🚀"
    assert one_line("\x1b[2Jgone\x07\x9b") == "\\x1b[2Jgone\\x07\\x9b"
    assert one_line("gpj\u202e.exe\u2028") == "gpj\\u202e.exe\\u2028"
    assert one_line("bad \udcff") == "bad \\udcff"


@given(st.text())
def test_nothing_moves_the_cursor(text: str) -> None:
    said = one_line(text)
    assert all(map(is_harmless, said))
    assert said.isprintable() or not any(
        ord(character) < 0xA0 for character in said if not character.isprintable()
    )
