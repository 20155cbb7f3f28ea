"""Signatures of links."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fawa.storage.signing import Verdict, sign, verify_untrusted

SECRET = bytes(range(32))
KEY = "aebagbafaydqqcik"

keys = st.from_regex(r"[A-Za-z0-9_-]{1,128}", fullmatch=True)
times = st.integers(0, 2**48)


def test_a_signature_is_the_hmac_of_version_expiry_and_key() -> None:
    message = b"fawa-link-v1\n1763900000\n" + KEY.encode()
    expected = base64.urlsafe_b64encode(hmac.new(SECRET, message, hashlib.sha256).digest())
    assert sign(SECRET, KEY, 1763900000) == expected.decode().rstrip("=")


@given(keys, times, st.integers(-100, 100))
def test_a_link_is_valid_until_it_expires(key: str, expires: int, lead: int) -> None:
    signature = sign(SECRET, key, expires)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", signature)
    verdict = verify_untrusted(SECRET, key, expires, signature, expires - lead)
    assert verdict is (Verdict.VALID if lead > 0 else Verdict.EXPIRED)


@given(keys, keys, times, times)
def test_a_signature_holds_for_its_own_key_and_expiry_only(
    key: str, other_key: str, expires: int, other_expires: int
) -> None:
    signature = sign(SECRET, key, expires)
    same = (key, expires) == (other_key, other_expires)
    assert (verify_untrusted(SECRET, other_key, other_expires, signature, 0) is not Verdict.FORGED) == same


@pytest.mark.parametrize("cut", range(43))
def test_a_truncated_signature_is_forged(cut: int) -> None:
    signature = sign(SECRET, KEY, 1000)
    assert verify_untrusted(SECRET, KEY, 1000, signature[:cut], 0) is Verdict.FORGED


@given(st.text())
def test_any_other_text_is_forged(signature: str) -> None:
    assert verify_untrusted(SECRET, KEY, 1000, signature, 0) is Verdict.FORGED


@given(st.integers(0, 42), st.characters(codec="ascii"))
def test_a_signature_with_one_character_changed_is_forged(place: int, character: str) -> None:
    signature = sign(SECRET, KEY, 1000)
    changed = signature[:place] + character + signature[place + 1 :]
    verdict = verify_untrusted(SECRET, KEY, 1000, changed, 0)
    assert (verdict is Verdict.VALID) == (changed == signature)


def test_padding_is_not_part_of_it() -> None:
    assert verify_untrusted(SECRET, KEY, 1000, sign(SECRET, KEY, 1000) + "=", 0) is Verdict.FORGED


def test_a_link_of_another_secret_is_forged_even_when_expired() -> None:
    signature = sign(SECRET[::-1], KEY, 1000)
    assert verify_untrusted(SECRET, KEY, 1000, signature, 0) is Verdict.FORGED
    assert verify_untrusted(SECRET, KEY, 1000, signature, 2000) is Verdict.FORGED


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 32 bytes, this one 31"):
        sign(SECRET[:31], KEY, 1000)
    with pytest.raises(ValueError, match="at least 32 bytes"):
        verify_untrusted(b"", KEY, 1000, "", 0)
