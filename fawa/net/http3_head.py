"""The head of an HTTP/3 request, its pseudo-headers taken apart (RFC 9114 section 4.3.1)."""

from __future__ import annotations

import re
from typing import Final

import attrs

from fawa.net.exchange import Headers

_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET: Final = re.compile(rb"[\x21-\x7e\x80-\xff]+")


@attrs.frozen
class Head:
    """A request's head, its pseudo-headers taken apart."""

    method: bytes
    path: bytes
    query: bytes
    #: `:protocol` of an extended CONNECT (RFC 9220), or "".
    protocol: str
    #: The other fields in order, with `host` in front where `:authority` says it.
    fields: Headers


def read_head_untrusted(headers: Headers) -> Head:
    """Take a header section apart that has the pseudo-headers of a request, each once and in front.

    Raises:
        ValueError: it is malformed (RFC 9114 section 4.3.1); the text says how.

    """
    pseudo = {name: value for name, value in headers if name[:1] == b":"}
    fields = [field for field in headers if field[0][:1] != b":"]
    method, protocol = pseudo[b":method"], pseudo.get(b":protocol")
    if not _TOKEN.fullmatch(method):
        raise ValueError(f"the method {method!r} is no token")
    if protocol is not None and method != b"CONNECT":
        raise ValueError(":protocol is for CONNECT alone")
    target = pseudo.get(b":path", b"")
    if method != b"CONNECT" or protocol is not None:
        if b":scheme" not in pseudo:
            raise ValueError("there is no :scheme")
        if not _TARGET.fullmatch(target):
            raise ValueError(f"the path {target!r} is empty or has a character that no path has")
    authority = pseudo.get(b":authority", b"")
    if authority and not any(name == b"host" for name, _ in fields):
        fields.insert(0, (b"host", authority))
    path, _, query = target.partition(b"?")
    return Head(method, path, query, (protocol or b"").decode("latin-1").lower(), fields)
