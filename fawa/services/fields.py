"""Header fields of requests, taken apart."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Collection
from typing import Final
from urllib.parse import unquote_to_bytes

from fawa.net.exchange import Exchange

#: What may follow an Item (RFC 9651, section 3.1.2); no list of several items matches.
_PARAMETERS: Final = r"(?:[ ]*;[ ]*[a-z*][a-z0-9_.*-]*(?:=[^,;]+)?)*"
_INTEGER: Final = re.compile(rf"([0-9]{{1,15}}){_PARAMETERS}")
_BOOLEAN: Final = re.compile(rf"\?([01]){_PARAMETERS}")
_COUNT: Final = re.compile(r"[0-9]{1,15}")
_MAX_COUNT: Final = 2**31 - 1
_ENCODED: Final = re.compile(r"(?:[ -$&-~]|%[0-9A-Fa-f]{2})+")
_DIGEST: Final = re.compile(rf"[ \t]*([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/=]*):{_PARAMETERS}[ \t]*")


def field(exchange: Exchange, name: bytes) -> str | None:
    """Return a request header, its lines joined as one list (RFC 9110, section 5.2), `None` when missing."""
    values = [value for key, value in exchange.headers if key == name]
    return b", ".join(values).decode("latin-1") if values else None


def content_length(exchange: Exchange) -> int | None:
    """Return the length that the request says its body has, `None` when it does not say."""
    value = exchange.header(b"content-length")
    return None if value is None else int(value)  # the engines have refused what is no number


def media_type(value: str | None) -> str:
    """Return the type in a `Content-Type`, in lower case and without parameters, "" when missing."""
    return "" if value is None else value.partition(";")[0].strip(" \t").lower()


def accepts(accept: str, types: Collection[str]) -> bool:
    """Tell whether an `Accept` (RFC 9110, section 12.5.1) names one of `types`, with a weight not zero."""
    for entry in accept.lower().split(","):
        named, *parameters = (part.strip() for part in entry.split(";"))
        if named in types:
            weights = [value.strip("0.") for value in parameters if value.startswith("q=")]
            return weights != ["q="]
    return False


def integer_untrusted(value: str | None) -> int | None:
    """Return a non-negative Integer (RFC 9651, section 3.3.1), `None` for whatever else."""
    match = None if value is None else _INTEGER.fullmatch(value.strip(" "))
    return None if match is None else int(match[1])


def boolean_untrusted(value: str | None) -> bool | None:
    """Return a Boolean (RFC 9651, section 3.3.6), `None` for whatever else."""
    match = None if value is None else _BOOLEAN.fullmatch(value.strip(" "))
    return None if match is None else match[1] == "1"


def digests_untrusted(value: str | None) -> dict[str, bytes]:
    """Return the digests in a `Repr-Digest` or `Content-Digest` (RFC 9530) by algorithm.

    Raises:
        ValueError: it is malformed.

    """
    found = {}
    for entry in [] if value is None else value.split(","):
        match = _DIGEST.fullmatch(entry)
        if match is None:
            raise ValueError(f"{entry.strip()[:80]!r} is no digest, such as sha-256=:BASE64:")
        found[match[1]] = base64_untrusted(match[2])
    return found


def count_untrusted(value: str | None, of: str) -> int:
    """Return a number from 1 to 2^31 - 1 (an `int32` of protobuf), 0 where there is none.

    Args:
        value: the field's.
        of: what is counted, for people.

    Raises:
        ValueError: it is malformed, or another number.

    """
    if value is None:
        return 0
    count = int(value) if _COUNT.fullmatch(value) else 0
    if not 1 <= count <= _MAX_COUNT:
        raise ValueError(f"it must be a whole number of {of} from 1 to {_MAX_COUNT}, not {value[:80]!r}")
    return count


def encoded_text_untrusted(value: str | None) -> str:
    """Return text that is percent-encoded UTF-8 (RFC 3986, section 2.1), "" where there is none.

    Raises:
        ValueError: it is empty or malformed; what it is stays untold, as it may be a secret.

    """
    if value is None:
        return ""
    if not value:
        raise ValueError("it is empty: leave it out where there is to be none")
    try:
        if not _ENCODED.fullmatch(value):
            raise ValueError("it has other characters")
        return unquote_to_bytes(value).decode()
    except ValueError:
        text = "it must be printable ASCII, with % and all other characters as percent-encoded UTF-8"
        raise ValueError(f"{text}: %25 for %, %C3%BC for ü") from None


def base64_untrusted(text: str) -> bytes:
    """Return what Base64 (RFC 4648, section 4) stands for.

    Raises:
        ValueError: it is malformed.

    """
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{text[:80]!r} is no Base64") from None
