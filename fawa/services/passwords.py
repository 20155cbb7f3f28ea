"""Passwords of files: what is kept of them, and whether one is right. Pure, and slow on purpose."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

#: Bytes of salt, which goes before the hash.
SALT: Final = 16
#: Bytes of the longest password.
MAX: Final = 1024
#: Cost of one try: 16 MiB of memory (RFC 7914, section 2).
_N, _R, _P = 2**14, 8, 1


def protect(password: str, salt: bytes) -> bytes:
    """Return what is kept of a password: the salt, and scrypt of both (RFC 7914)."""
    return salt + hashlib.scrypt(password.encode(), salt=salt, n=_N, r=_R, p=_P, dklen=32)


def is_right(kept: bytes, password: str) -> bool:
    """Tell whether a password is the one that was protected."""
    return hmac.compare_digest(kept, protect(password, kept[:SALT]))
