"""Downloads by link: plain HTTP, from any offset, of a content that is known not to have changed."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from fawa.client.dial import Dialer, Trust, parse_link
from fawa.client.exchange import ClientExchange, Headers
from fawa.client.http1 import H1Client
from fawa.client.pool import background
from fawa.client.tracing import trace_fields
from fawa.rpc.base import USER_AGENT

#: Of one part (RFC 9110 section 14.4).
_CONTENT_RANGE: Final = re.compile(rb"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})")
#: A strong validator (RFC 9110 section 8.8.3): the bytes are the same, not only their meaning.
_STRONG_TAG: Final = re.compile(rb'"[\x21\x23-\x7e\x80-\xff]*"')
#: RFC 9530 section 2.
_SHA256: Final = re.compile(rb"(?:^|[, ])sha-256=:([A-Za-z0-9+/=]+):")


@attrs.frozen
class Facts:
    """What a server says about a content."""

    #: The strong entity tag, quotes included.
    tag: str
    #: Bytes of the whole.
    size: int
    #: SHA-256 of the whole, if the server says it.
    sha256: bytes | None


@attrs.frozen
class Slice:
    """The part of a content that a response carries, from `start` to the end."""

    start: int
    facts: Facts


def read_slice_untrusted(status: int, headers: Headers) -> Slice | None:
    """Return what a response to a request for bytes carries, `None` where that cannot be built on."""
    fields = dict(headers)
    tag = fields.get(b"etag", b"")
    if status == 206:
        match = _CONTENT_RANGE.fullmatch(fields.get(b"content-range", b""))
        numbers = None if match is None else (int(match[1]), int(match[2]))
    elif status == 200 and re.fullmatch(rb"[0-9]{1,18}", fields.get(b"content-length", b"")):
        numbers = 0, int(fields[b"content-length"])
    else:
        numbers = None
    if numbers is None or not _STRONG_TAG.fullmatch(tag) or b"content-encoding" in fields:
        return None
    start, size = numbers
    digest = _SHA256.search(fields.get(b"repr-digest", b""))
    sha256 = None if digest is None else _decode_sha256(digest[1])
    return Slice(start, Facts(tag.decode("latin-1"), size, sha256))


def _decode_sha256(value: bytes) -> bytes | None:
    try:
        sha256 = base64.b64decode(value, validate=True)
    except binascii.Error:
        return None
    return sha256 if len(sha256) == 32 else None


def range_headers(start: int, tag: str | None = None, last: int | None = None) -> Headers:
    """Return the headers that ask for bytes from `start` to `last`, if the content still has the tag."""
    headers = [(b"range", b"bytes=%d-%s" % (start, b"" if last is None else b"%d" % last))]
    if tag is not None:
        headers.append((b"if-range", tag.encode("latin-1")))
    return headers


@asynccontextmanager
async def fetch(url: str, headers: Headers, trust: Trust) -> AsyncIterator[ClientExchange]:
    """Send a GET on a connection of its own; the head of the response is there when the block begins.

    Raises:
        CannotReach: there is no connection to the link's host.
        ConnectionLost: it broke before the head came; `receive` raises it later.
        ValueError: `url` is no link, or the file of certificates cannot be used.

    """
    origin, target = parse_link(url)
    tls = None
    if origin.scheme == "https":
        tls = await trio.to_thread.run_sync(trust.context, "http/1.1")
    stream = await Dialer(origin, tls, "http/1.1")()
    own = [(b"host", origin.authority.encode("ascii")), (b"user-agent", USER_AGENT)]
    trace = [(name.encode(), value.encode()) for name, value in trace_fields()]
    async with background() as nursery:
        connection = H1Client(stream, origin.authority)
        nursery.start_soon(connection.run)
        try:
            exchange = connection.open("GET", target, [*own, *trace, *headers], b"")
            await exchange.wait_head()
            yield exchange
        finally:
            connection.end()
