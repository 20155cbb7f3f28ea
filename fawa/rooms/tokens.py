"""Tokens by which a client that returns shows that it is the one it says it is. Pure.

A token is HMAC-SHA-256 (RFC 2104) over a version label, the board's code and the client's id, in URL-safe
base64 without padding: 43 characters. Nothing is stored for it, so it is good as long as the secret stays.
"""

from __future__ import annotations

import base64
import hmac
from typing import Final

#: Changes when what is signed changes. The secret also signs download links, under a label of their own.
_VERSION: Final = b"fawa-resume-v1"


def resume_token(secret: bytes, code: str, client_id: str) -> str:
    """Return the token of a client on a board."""
    message = b"%s\n%s\n%s" % (_VERSION, code.encode(), client_id.encode())
    return base64.urlsafe_b64encode(hmac.digest(secret, message, "sha256")).rstrip(b"=").decode()


def is_token_untrusted(secret: bytes, code: str, client_id: str, token: str) -> bool:
    """Judge a token; takes the same time wherever it differs."""
    try:
        expected = resume_token(secret, code, client_id)
        return hmac.compare_digest(expected.encode(), token.encode())
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write
        return False
