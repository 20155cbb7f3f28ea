"""Capsules (RFC 9297) and error codes of WebTransport (draft-ietf-webtrans-http3), without I/O."""

from __future__ import annotations

from typing import Final

import attrs

#: Capsule types (draft-ietf-webtrans-http3 section 9.6). All others are skipped.
_CLOSE: Final = 0x2843
_DRAIN: Final = 0x78AE
#: Octets of the longest reason in UTF-8 (section 6).
MAX_REASON: Final = 1024
#: Where the application's error codes lie among those of HTTP/3 (section 4.4).
_FIRST_CODE: Final = 0x52E4A40FA8DB
_LAST_CODE: Final = 0x52E5AC983162
#: The largest code that an application may give a stream or a session.
MAX_CODE: Final = 2**32 - 1


@attrs.frozen
class Close:
    """The session is over: CLOSE_WEBTRANSPORT_SESSION."""

    code: int
    reason: str


@attrs.frozen
class Drain:
    """The session should come to an end soon: DRAIN_WEBTRANSPORT_SESSION."""


Capsule = Close | Drain


def encode_capsule(capsule: Capsule) -> bytes:
    """Return a capsule as it is sent; of a reason as many whole characters as may be.

    Raises:
        ValueError: the code is not 0 to 2**32 - 1.

    """
    match capsule:
        case Close(code, reason):
            if not 0 <= code <= MAX_CODE:
                raise ValueError(f"a session is closed with a code from 0 to {MAX_CODE}, not {code}")
            text = reason.encode()[:MAX_REASON].decode(errors="ignore").encode()
            value = code.to_bytes(4, "big") + text
            return _varint(_CLOSE) + _varint(len(value)) + value
        case Drain():
            return _varint(_DRAIN) + _varint(0)


class CapsuleReader:
    """Takes the capsules out of a CONNECT stream; keeps at most one, of little more than `MAX_REASON` octets.

    What it does not know, such as the capsules by which Chromium keeps servers tolerant, is skipped as it
    comes, however long.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        #: Octets still to come of a capsule that is skipped.
        self._skip = 0

    @property
    def is_between(self) -> bool:
        """Whether the stream may end here: no capsule is cut off."""
        return not self._buffer and not self._skip

    def feed_untrusted(self, data: bytes) -> list[Capsule]:
        """Return the capsules that are whole by now.

        Raises:
            ValueError: one that is known is malformed; nothing can be read after it.

        """
        found: list[Capsule] = []
        buffer = self._buffer
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        buffer += data
        at = 0
        while (kind := _read_varint(buffer, at)) is not None:
            if (length := _read_varint(buffer, kind[1])) is None:
                break
            (number, _), (size, start) = kind, length
            if number not in (_CLOSE, _DRAIN):
                at = min(start + size, len(buffer))
                self._skip = start + size - at
                continue
            if size > 4 + MAX_REASON:
                raise ValueError(f"a capsule of type {number:#x} has {size} octets, which is too many")
            if len(buffer) < start + size:
                break
            at = start + size
            found.append(_read(number, bytes(buffer[start:at])))
        del buffer[:at]
        return found


def _read(kind: int, value: bytes) -> Capsule:
    if kind == _DRAIN:
        if value:
            raise ValueError("a capsule that drains the session is empty, and one was not")
        return Drain()
    if len(value) < 4:
        raise ValueError(f"a capsule that closes the session has a code of 4 octets, not {len(value)}")
    try:
        return Close(int.from_bytes(value[:4], "big"), value[4:].decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"the reason of a close is not UTF-8: {error}") from error


def _varint(value: int) -> bytes:
    """Encode an integer below 2**30 (RFC 9000 section 16)."""
    if value < 1 << 6:
        return bytes([value])
    if value < 1 << 14:
        return (value | 1 << 14).to_bytes(2, "big")
    return (value | 2 << 30).to_bytes(4, "big")


def _read_varint(buffer: bytearray, at: int) -> tuple[int, int] | None:
    """Return the integer at a place and the place behind it, `None` where it is not whole."""
    if at >= len(buffer):
        return None
    size = 1 << (buffer[at] >> 6)
    if at + size > len(buffer):
        return None
    value = int.from_bytes(buffer[at : at + size], "big") & (1 << (8 * size - 2)) - 1
    return value, at + size


# Error codes of streams (section 4.4)


def to_http_code(code: int) -> int:
    """Return the code of RESET_STREAM and STOP_SENDING for an application's.

    Raises:
        ValueError: it is not 0 to 2**32 - 1.

    """
    if not 0 <= code <= MAX_CODE:
        raise ValueError(f"a stream is reset with a code from 0 to {MAX_CODE}, not {code}")
    return _FIRST_CODE + code + code // 0x1E


def from_http_code(code: int) -> int | None:
    """Return the application's code, `None` where it is none but the peer's HTTP/3 layer's."""
    if not _FIRST_CODE <= code <= _LAST_CODE or (code - 0x21) % 0x1F == 0:
        return None
    shifted = code - _FIRST_CODE
    return shifted - shifted // 0x1F
