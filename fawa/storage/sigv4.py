"""AWS Signature Version 4 for S3, the pure part: how a request or a link shows that it knows the secret key.

Source: "Signature Calculations for the Authorization Header" and "Authenticating Requests: Using Query
Parameters" in the Amazon S3 API reference. Times are texts such as `20261124T150000Z`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import attrs

_ALGORITHM: Final = "AWS4-HMAC-SHA256"

#: In the place of a body's hash: the body is not signed.
UNSIGNED: Final = "UNSIGNED-PAYLOAD"

#: The longest a link can be valid, in seconds.
MAX_LINK_TTL: Final = 7 * 24 * 3600


@attrs.frozen
class Credentials:
    """Who signs."""

    access_key: str
    secret_key: str = attrs.field(repr=False)
    region: str


def encode_query(parameters: Mapping[str, str]) -> str:
    """Return the query as it is both sent and signed: sorted, all but unreserved characters encoded."""
    pairs = sorted(
        (quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in parameters.items()
    )
    return "&".join(f"{name}={value}" for name, value in pairs)


def sign_request(
    credentials: Credentials,
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    payload: str,
    time: str,
) -> dict[str, str]:
    """Return `headers` with what signs the request.

    Args:
        credentials: who signs.
        method: such as `PUT`.
        path: as it is sent, encoded.
        query: as `encode_query` returns it.
        headers: names in lower case, among them `host`; all of them are signed.
        payload: the SHA-256 of the body in hexadecimal digits, or `UNSIGNED`.
        time: when it is signed.

    """
    signed = {**headers, "x-amz-content-sha256": payload, "x-amz-date": time}
    names = ";".join(sorted(signed))
    signature = _sign(credentials, method, path, query, signed, payload, time)
    signed["authorization"] = (
        f"{_ALGORITHM} Credential={credentials.access_key}/{_scope(credentials, time)}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return signed


def sign_link(
    credentials: Credentials, host: str, path: str, parameters: Mapping[str, str], time: str, seconds: int
) -> str:
    """Return the query that makes a GET of `path` at `host` valid for `seconds` from `time`.

    Raises:
        ValueError: `seconds` is not 1 to `MAX_LINK_TTL`.

    """
    if not 1 <= seconds <= MAX_LINK_TTL:
        raise ValueError(f"a link is valid for 1 to {MAX_LINK_TTL} seconds, not {seconds}")
    query = encode_query(
        {
            **parameters,
            "X-Amz-Algorithm": _ALGORITHM,
            "X-Amz-Credential": f"{credentials.access_key}/{_scope(credentials, time)}",
            "X-Amz-Date": time,
            "X-Amz-Expires": str(seconds),
            "X-Amz-SignedHeaders": "host",
        }
    )
    signature = _sign(credentials, "GET", path, query, {"host": host}, UNSIGNED, time)
    return f"{query}&X-Amz-Signature={signature}"


def _scope(credentials: Credentials, time: str) -> str:
    return f"{time[:8]}/{credentials.region}/s3/aws4_request"


def _sign(
    credentials: Credentials,
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    payload: str,
    time: str,
) -> str:
    names = sorted(headers)
    lines = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in names)
    request = f"{method}\n{path}\n{query}\n{lines}\n{';'.join(names)}\n{payload}"
    hashed = hashlib.sha256(request.encode()).hexdigest()
    text = f"{_ALGORITHM}\n{time}\n{_scope(credentials, time)}\n{hashed}"
    key = f"AWS4{credentials.secret_key}".encode()
    for part in (time[:8], credentials.region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()
