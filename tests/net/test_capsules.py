"""Capsules and error codes of WebTransport: whole, octet by octet and in random pieces; and garbage."""

from __future__ import annotations

import contextlib

import pytest
from aioquic.buffer import encode_uint_var
from hypothesis import given, settings
from hypothesis import strategies as st

from fawa.net.capsules import (
    MAX_CODE,
    MAX_REASON,
    Capsule,
    CapsuleReader,
    Close,
    Drain,
    encode_capsule,
    from_http_code,
    to_http_code,
)
from tests.net.talk import examples, pieces

CLOSE, DRAIN = 0x2843, 0x78AE


def raw(kind: int, value: bytes, size: int | None = None) -> bytes:
    return encode_uint_var(kind) + encode_uint_var(len(value) if size is None else size) + value


#: What Chromium begins with, a datagram as a capsule, and a type and length of the largest size.
UNKNOWN = [raw(0x2AF83E2F7A5D, b"grease"), raw(0, b"datagram"), raw(2**62 - 1, b"x" * 4000), raw(0x17, b"")]


def read(data: bytes, sizes: list[int]) -> list[Capsule]:
    reader = CapsuleReader()
    found: list[Capsule] = []
    for piece in pieces(data, sizes):
        found += reader.feed_untrusted(piece)
        assert len(reader._buffer) <= 4 + MAX_REASON + 16
    assert reader.is_between
    return found


@settings(max_examples=examples(100), deadline=None)
@given(
    st.lists(
        st.one_of(
            st.builds(Close, st.integers(0, MAX_CODE), st.text(max_size=200)),
            st.just(Drain()),
            st.sampled_from(UNKNOWN),
        ),
        max_size=8,
    ),
    st.lists(st.integers(1, 3000), max_size=20),
)
def test_capsules_in_random_pieces(said: list[Capsule | bytes], sizes: list[int]) -> None:
    data = b"".join(one if isinstance(one, bytes) else encode_capsule(one) for one in said)
    assert read(data, sizes) == [one for one in said if not isinstance(one, bytes)]


def test_capsules_whole_and_octet_by_octet() -> None:
    said: list[Capsule] = [Close(0, ""), Drain(), Close(MAX_CODE, "ä" * 100)]
    data = b"".join([*UNKNOWN[:2], *map(encode_capsule, said)])
    assert read(data, []) == read(data, [1]) == said


def test_a_capsule_on_the_wire() -> None:
    assert encode_capsule(Close(7, "bye")) == bytes.fromhex("6843 07 00000007") + b"bye"
    assert encode_capsule(Drain()) == bytes.fromhex("800078ae 00")


def test_a_long_reason_is_cut_between_characters() -> None:
    [capsule] = CapsuleReader().feed_untrusted(encode_capsule(Close(1, "x" + "ä" * 600)))
    assert capsule == Close(1, "x" + "ä" * 511)


@pytest.mark.parametrize("code", [-1, 2**32])
def test_codes_that_there_are_not(code: int) -> None:
    with pytest.raises(ValueError, match="from 0 to 4294967295"):
        encode_capsule(Close(code, ""))
    with pytest.raises(ValueError, match="from 0 to 4294967295"):
        to_http_code(code)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (raw(CLOSE, b"abc"), "a code of 4 octets, not 3"),
        (raw(CLOSE, b"\0\0\0\0\xff"), "not UTF-8"),
        (raw(CLOSE, b"", 4 + MAX_REASON + 1), "too many"),
        (raw(CLOSE, b"", 2**62 - 1), "too many"),
        (raw(DRAIN, b"x"), "is empty"),
    ],
)
def test_malformed_capsules(data: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        CapsuleReader().feed_untrusted(data)


@settings(max_examples=examples(200), deadline=None)
@given(st.binary(max_size=400))
def test_garbage_is_read_or_refused(data: bytes) -> None:
    reader = CapsuleReader()
    with contextlib.suppress(ValueError):
        reader.feed_untrusted(data)
    assert len(reader._buffer) <= len(data)


@pytest.mark.parametrize("data", [b"\x68", raw(CLOSE, b"\0"[:1], 6), raw(0x17, b"abc", 5)])
def test_a_capsule_that_is_cut_off(data: bytes) -> None:
    reader = CapsuleReader()
    assert reader.feed_untrusted(data) == []
    assert not reader.is_between


def test_error_codes_of_the_draft() -> None:
    # First and last, and the two around the first code that is left out (reserved as 0x1f * N + 0x21).
    pairs = {0: 0x52E4A40FA8DB, 29: 0x52E4A40FA8F8, 30: 0x52E4A40FA8FA, MAX_CODE: 0x52E5AC983162}
    for code, wire in pairs.items():
        assert to_http_code(code) == wire
        assert from_http_code(wire) == code
    assert from_http_code(0x52E4A40FA8F9) is None
    assert from_http_code(0x52E4A40FA8DA) is None
    assert from_http_code(0x52E5AC983163) is None
    assert from_http_code(0x100) is None


@given(st.integers(0, MAX_CODE))
def test_error_codes_there_and_back(code: int) -> None:
    wire = to_http_code(code)
    assert (wire - 0x21) % 0x1F
    assert from_http_code(wire) == code
