"""How long a call may take, as `grpc-timeout` and `connect-timeout-ms` say it. Seconds on our side."""

from __future__ import annotations

import math
from typing import Final

#: Unit letters of gRPC's `PROTOCOL-HTTP2.md`, finest first, with seconds per unit.
_UNITS: Final = {b"n": 1e-9, b"u": 1e-6, b"m": 1e-3, b"S": 1.0, b"M": 60.0, b"H": 3600.0}

_MOST_GRPC: Final = 99_999_999
_MOST_CONNECT: Final = 9_999_999_999


def decode_grpc_timeout(value: bytes) -> float:
    """Return the seconds a `grpc-timeout` gives: 1 to 8 digits and a unit out of `HMSmun`.

    Raises:
        ValueError: it is anything else.

    """
    digits = value[:-1]
    unit = _UNITS.get(value[-1:])
    if unit is None or not digits.isdigit() or len(digits) > 8:
        text = value.decode("latin-1")
        raise ValueError(f"grpc-timeout {text!r} is not 1 to 8 digits and one of H, M, S, m, u, n")
    return int(digits) * unit


def encode_grpc_timeout(seconds: float) -> bytes | None:
    """Return the `grpc-timeout` for `seconds`, in the finest unit that can say it, rounded up.

    Returns `None` for longer than the field can say (over 11,000 years), which is no limit.
    """
    seconds = max(seconds, 0.0)
    for letter, unit in _UNITS.items():
        # One short of the most, so that rounding up cannot need a ninth digit.
        if seconds / unit < _MOST_GRPC:
            return b"%d%b" % (math.ceil(seconds / unit), letter)
    return None


def decode_connect_timeout(value: bytes) -> float:
    """Return the seconds a `connect-timeout-ms` gives: 1 to 10 digits.

    Raises:
        ValueError: it is anything else.

    """
    if not value.isdigit() or len(value) > 10:
        text = value.decode("latin-1")
        raise ValueError(f"connect-timeout-ms {text!r} is not a whole number of at most 10 digits")
    return int(value) / 1000


def encode_connect_timeout(seconds: float) -> bytes | None:
    """Return the `connect-timeout-ms` for `seconds`, rounded up; `None` for longer than it can say."""
    milliseconds = max(seconds, 0.0) * 1000
    return b"%d" % math.ceil(milliseconds) if milliseconds < _MOST_CONNECT else None
