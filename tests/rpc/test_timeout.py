from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fawa.rpc.timeout import (
    decode_connect_timeout,
    decode_grpc_timeout,
    encode_connect_timeout,
    encode_grpc_timeout,
)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600),
        (b"2M", 120),
        (b"10S", 10),
        (b"250m", 0.25),
        (b"5u", 5e-6),
        (b"7n", 7e-9),
        (b"0S", 0),
        (b"00000001S", 1),
        (b"99999999H", 99_999_999 * 3600),
    ],
)
def test_grpc_timeout(value: bytes, seconds: float) -> None:
    assert decode_grpc_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [b"", b"S", b"1", b"1s", b"123456789S", b"-1S", b"+1S", b"1.5S", b" 1S", b"1S ", b"\xb2S", b"1_0S"],
)
def test_grpc_timeout_that_is_none(value: bytes) -> None:
    with pytest.raises(ValueError, match="grpc-timeout"):
        decode_grpc_timeout(value)


@pytest.mark.parametrize(
    ("seconds", "value"),
    [
        (0, b"0n"),
        (-5, b"0n"),
        (1e-10, b"1n"),
        (0.05, b"50000000n"),
        (1, b"1000000u"),
        (100, b"100000m"),
        (1e6, b"1000000S"),
        (1e9, b"16666667M"),
        (1e10, b"2777778H"),
        (1e12, None),
        (math.inf, None),
    ],
)
def test_grpc_timeout_on_the_wire(seconds: float, value: bytes | None) -> None:
    assert encode_grpc_timeout(seconds) == value


@given(st.floats(1e-9, 1e11))
def test_grpc_timeout_is_never_shorter_than_it_was(seconds: float) -> None:
    value = encode_grpc_timeout(seconds)
    assert value is not None
    read = decode_grpc_timeout(value)
    assert read >= seconds * (1 - 1e-12)
    assert read <= seconds * 1.001 + 1e-9


@pytest.mark.parametrize(("value", "seconds"), [(b"0", 0), (b"1", 0.001), (b"9999999999", 9_999_999.999)])
def test_connect_timeout(value: bytes, seconds: float) -> None:
    assert decode_connect_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"10000000000", b"-1", b"1.5", b"1s", b" 1", b"\xb2"])
def test_connect_timeout_that_is_none(value: bytes) -> None:
    with pytest.raises(ValueError, match="connect-timeout-ms"):
        decode_connect_timeout(value)


@pytest.mark.parametrize(
    ("seconds", "value"),
    [(0, b"0"), (-1, b"0"), (0.0001, b"1"), (1.5, b"1500"), (1e7, None), (math.inf, None)],
)
def test_connect_timeout_on_the_wire(seconds: float, value: bytes | None) -> None:
    assert encode_connect_timeout(seconds) == value
