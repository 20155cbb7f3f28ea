"""Signed links, the pure part: whoever has the link may download that file until the link expires.

The signature is HMAC-SHA-256 (RFC 2104) over a version label, the expiry and the key, in URL-safe base64
without padding: 43 characters.
"""

from __future__ import annotations

import base64
import enum
import hmac
from typing import Final

#: The shortest secret, in bytes: as long as the hash (RFC 2104, section 3).
MIN_SECRET: Final = 32

#: Changes when what is signed changes, so that no signature of one scheme is one of the other.
_VERSION: Final = b"fawa-link-v1"


class Verdict(enum.Enum):
    """What a signature is worth."""

    VALID = "valid"
    #: We signed it, and its time is over.
    EXPIRED = "expired"
    #: We did not sign this: altered, cut off, made up, or signed with another secret.
    FORGED = "forged"


def sign(secret: bytes, key: str, expires: int) -> str:
    """Return the signature of a link to `key` that expires at `expires` (Unix seconds).

    Raises:
        ValueError: the secret is shorter than `MIN_SECRET` bytes.

    """
    if len(secret) < MIN_SECRET:
        raise ValueError(f"a signing secret has at least {MIN_SECRET} bytes, this one {len(secret)}")
    # The key comes last, so no key can pass for an expiry and a key.
    message = b"%s\n%d\n%s" % (_VERSION, expires, key.encode())
    return base64.urlsafe_b64encode(hmac.digest(secret, message, "sha256")).rstrip(b"=").decode()


def verify_untrusted(secret: bytes, key: str, expires: int, signature: str, now: float) -> Verdict:
    """Judge a link; takes the same time wherever the signature differs.

    Raises:
        ValueError: the secret is shorter than `MIN_SECRET` bytes.

    """
    expected = sign(secret, key, expires)
    if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "surrogatepass")):
        return Verdict.FORGED
    return Verdict.VALID if now < expires else Verdict.EXPIRED
