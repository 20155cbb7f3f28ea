"""Names drawn by chance."""

from __future__ import annotations

import re

import pytest

from fawa.rooms.ids import is_code, new_client_id, new_code, new_epoch


def test_they_have_the_form_that_the_contract_says() -> None:
    codes = {new_code() for _ in range(1000)}
    assert all(re.fullmatch("[A-Z0-9]{6}", code) and is_code(code) for code in codes)
    assert len(codes) > 990
    assert set("".join(codes)) == set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
    assert all(re.fullmatch("[A-Z0-9]{8}", new_client_id()) for _ in range(100))
    assert len({new_epoch() for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "text", ["", "ABC12", "ABC1234", "abc123", "ABC12!", "ABC12\n", "ÀBC123", "ABC12٣", "*"]
)
def test_what_cannot_be_a_code(text: str) -> None:
    assert not is_code(text)
