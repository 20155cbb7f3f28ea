"""Resume tokens: whoever has one is that client on that board, and nobody else."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from fawa.rooms.tokens import is_token_untrusted, resume_token
from fawa.storage.signing import sign

SECRET = b"a secret of at least 32 bytes ..."


def test_a_token_is_good_for_its_client_on_its_board_alone() -> None:
    token = resume_token(SECRET, "ABC123", "CLIENT01")
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)
    assert token == resume_token(SECRET, "ABC123", "CLIENT01"), "it is good after a restart"
    assert is_token_untrusted(SECRET, "ABC123", "CLIENT01", token)
    assert not is_token_untrusted(SECRET, "ABC124", "CLIENT01", token)
    assert not is_token_untrusted(SECRET, "ABC123", "CLIENT02", token)
    assert not is_token_untrusted(SECRET + b"!", "ABC123", "CLIENT01", token)


def test_no_signature_of_a_link_is_a_token() -> None:
    assert not is_token_untrusted(SECRET, "ABC123", "CLIENT01", sign(SECRET, "CLIENT01", 0))


@given(client_id=st.text(), token=st.text() | st.just("\ud800"))
def test_any_text_is_judged(client_id: str, token: str) -> None:
    assert not is_token_untrusted(SECRET, "ABC123", client_id, token)
    assert not is_token_untrusted(SECRET, "ABC123", client_id + "\udfff", token)
