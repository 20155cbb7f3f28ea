"""Names drawn by chance: codes of boards, ids of clients, epochs."""

from __future__ import annotations

import re
import secrets
import string
from typing import Final

_ALPHABET: Final = string.ascii_uppercase + string.digits
_CODE: Final = re.compile(r"[A-Z0-9]{6}")


def _draw(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def new_code() -> str:
    """Return a code for a board: whoever has it may draw there, so it cannot be guessed."""
    return _draw(6)


def is_code(text: str) -> bool:
    """Tell whether `text` may be the code of a board: six of A-Z and 0-9."""
    return _CODE.fullmatch(text) is not None


def new_client_id() -> str:
    """Return an id for a client."""
    return _draw(8)


def new_epoch() -> str:
    """Return a name for a stretch of a board's life in which its events are numbered without gaps."""
    return secrets.token_hex(6)
