"""Download links: `GET /files/<key>/<name>?expires=<Unix seconds>&signature=<signature>`.

Whoever has the link may download the file until the link or the file expires. The answers to a bad link:
403 where we did not sign it, 410 where we did and its time is over, 404 where the file is gone. Keys are told
from guesses only after the signature, so nothing can be learned without a link.

The name in the path is for people and for `curl -O`, and is neither signed nor looked at: what a browser
saves under is the name in the record. So a proxy that decodes `%2F` breaks no link, and who alters the name
gains nothing.
"""

from __future__ import annotations

import math
import re
import secrets
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Final
from urllib.parse import parse_qs, quote

import attrs

from fawa.net.exchange import Exchange, Headers
from fawa.net.router import Route
from fawa.ops.logging import get_logger
from fawa.services.conditions import Conditions, Outcome, format_date
from fawa.services.downloads import AllTaken, Downloads
from fawa.services.fields import field
from fawa.services.figures import Flow, Transfers
from fawa.services.names import content_disposition
from fawa.services.ranges import Span, multipart, parse_range_untrusted
from fawa.storage.base import (
    Content,
    Damaged,
    FileRecord,
    NotFound,
    OutOfReach,
    StorageError,
    is_key,
)
from fawa.storage.signing import Verdict, sign, verify_untrusted

PREFIX: Final = "/files/"

_EXPIRES: Final = re.compile(r"[0-9]{1,15}")
#: Host and port as a URL has them (RFC 3986, section 3.2.2), without user names.
_AUTHORITY: Final = re.compile(r"(?:[A-Za-z0-9._~%!$&'()*+,;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")

#: Seconds after which a client may try again when storage fails.
_RETRY_AFTER: Final = 5
#: Bytes sent by the system alone until they are counted: small enough to see a transfer go on.
_COUNTED: Final = 64 * 1024 * 1024

#: The file is not a page of ours: it must not be run or shown as one.
_SAFE: Final = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; sandbox"),
]
#: Nor kept by shared caches; and what may be had a few times only, by no cache at all.
_PRIVATE: Final = [(b"cache-control", b"private")]
_DO_NOT_KEEP: Final = [(b"cache-control", b"no-store")]

_log = get_logger("fawa.services.links")


@attrs.frozen
class Link:
    """What a link says; nothing in it is verified yet."""

    key: str
    #: Unix seconds.
    expires: int
    signature: str


def link_expiry(record: FileRecord, now: float, ttl: float) -> int:
    """Return when a link expires that is made now, in Unix seconds: after `ttl` seconds, or with the file."""
    return math.ceil(min(now + ttl, record.expires))


def link_base(public_url: str, exchange: Exchange) -> str:
    """Return what links begin with: `public_url`, or where "" the address under which the client called.

    What the client says about itself comes back to itself alone.

    Raises:
        ValueError: it named no host that a link could have.

    """
    if public_url:
        return public_url.rstrip("/")
    if not _AUTHORITY.fullmatch(exchange.authority):
        raise ValueError(
            f"no link can be made for the host {exchange.authority!r}: set public_url on the server"
        )
    return f"{exchange.scheme}://{exchange.authority}"


def make_link(base: str, secret: bytes, key: str, name: str, expires: int) -> str:
    """Return the link to a file under the address `base`, which may have a path and ends without a slash."""
    signature = sign(secret, key, expires)
    return f"{base}{PREFIX}{key}/{quote(name, safe='')}?expires={expires}&signature={signature}"


def parse_link_untrusted(path: str, query: str) -> Link | None:
    """Return the link in a request target, `None` when it cannot be one of ours.

    Parameters that others add, as mail programs do, are passed over; ours given twice are not.
    """
    key = path.removeprefix(PREFIX).partition("/")[0]
    try:
        parameters = parse_qs(query, max_num_fields=32)
    except ValueError:
        return None
    match parameters.get("expires"), parameters.get("signature"):
        case [expires], [signature] if is_key(key) and _EXPIRES.fullmatch(expires):
            return Link(key, int(expires), signature)
    return None


@attrs.frozen
class Links:
    """The HTTP side of links."""

    downloads: Downloads
    secret: bytes = attrs.field(repr=False)
    #: The time in Unix seconds.
    clock: Callable[[], float]
    transfers: Transfers = attrs.field(factory=Transfers)

    @property
    def routes(self) -> dict[str, Route]:
        """What to serve."""
        return {PREFIX: Route(("GET", "HEAD"), self.serve)}

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request.

        Raises:
            Disconnected: the client is gone.

        """
        link = parse_link_untrusted(exchange.path, exchange.query)
        if link is None:
            text = "this is no whole download link: copy all of it, or ask for a new one"
            exchange.respond_text(403, text, _DO_NOT_KEEP)
            return
        now = self.clock()
        match verify_untrusted(self.secret, link.key, link.expires, link.signature, now):
            case Verdict.FORGED:
                text = "this link is not signed by this server: it was altered or cut off, ask for a new one"
                exchange.respond_text(403, text, _DO_NOT_KEEP)
            case Verdict.EXPIRED:
                text = f"this link expired on {format_date(link.expires)}, ask for a new one"
                exchange.respond_text(410, text, _DO_NOT_KEEP)
            case Verdict.VALID:
                async with self._answering_failure(exchange, link.key):
                    record = await self.downloads.find(link.key)
                    async with self.downloads.open(record) as download:
                        download.completed = await _send(
                            exchange, record, download.content, self.transfers.link
                        )

    @asynccontextmanager
    async def _answering_failure(self, exchange: Exchange, key: str) -> AsyncIterator[None]:
        try:
            yield
        except NotFound:
            exchange.respond_text(404, "this file is gone: it has expired or was deleted", _DO_NOT_KEEP)
        except AllTaken as error:
            retry = (b"retry-after", b"%d" % _RETRY_AFTER)
            exchange.respond_text(429, str(error), [retry, *_DO_NOT_KEEP])
        except (StorageError, EOFError) as error:
            away = isinstance(error, OutOfReach)
            (_log.debug if away else _log.error)("a file could not be sent", key=key, error=str(error))
            if exchange.status:
                exchange.label = "storage failed"
                exchange.abort()
            elif isinstance(error, Damaged):
                text = "the file is damaged on the server: it must be sent again"
                exchange.respond_text(500, text, _DO_NOT_KEEP)
            else:
                retry = (b"retry-after", b"%d" % _RETRY_AFTER)
                text = "the file cannot be read at the moment, try again later"
                if isinstance(error, OutOfReach):
                    text = error.told
                exchange.respond_text(503, text, [retry, *_DO_NOT_KEEP])


async def _send(exchange: Exchange, record: FileRecord, content: Content, flow: Flow) -> bool:
    """Answer with the file or what was asked of it; tell whether the file's last byte was sent.

    That is what counts as a download: of a download in pieces, one after the other or side by side, exactly
    one piece has it.
    """
    size, tag, modified = record.size, record.sha256.hex(), int(record.created)
    content_type = record.content_type.encode("ascii")
    validators: Headers = [
        (b"etag", b'"%s"' % tag.encode()),
        (b"last-modified", format_date(modified).encode()),
        *_SAFE,
        *(_DO_NOT_KEEP if record.terms.max_downloads else _PRIVATE),
    ]
    conditions = Conditions(
        if_match=field(exchange, b"if-match"),
        if_none_match=field(exchange, b"if-none-match"),
        if_modified_since=field(exchange, b"if-modified-since"),
        if_unmodified_since=field(exchange, b"if-unmodified-since"),
        if_range=field(exchange, b"if-range"),
    )
    match conditions.evaluate(tag, modified):
        case Outcome.NOT_MODIFIED:
            exchange.start(304, validators, end=True)
            return False
        case Outcome.PRECONDITION_FAILED:
            exchange.respond_text(412, "the file is not the one that your request goes on from", validators)
            return False
        case Outcome.SEND:
            pass
    headers: Headers = [
        *validators,
        (b"accept-ranges", b"bytes"),
        (b"content-disposition", content_disposition(record.name).encode("ascii")),
        # Of the whole file, whatever part is sent (RFC 9530), for those who put parts together.
        (b"repr-digest", b"sha-256=:%s:" % b64encode(record.sha256)),
    ]
    status = 200
    parts: tuple[tuple[bytes, Span], ...] = ((b"", Span(0, size)),) if size else ()
    tail = b""
    length = size
    spans = _asked_spans(exchange, conditions, tag, modified, size)
    if spans and record.terms.max_downloads and (len(spans) > 1 or spans[0].end < size):
        spans = None  # what may be had a few times only is given out to its end
    match spans:
        case None:
            pass
        case ():
            text = f"the file has {size} bytes, and none of the ranges asked for lies within"
            exchange.respond_text(416, text, [(b"content-range", b"bytes */%d" % size), *validators])
            return False
        case (span,):
            status, parts, length = 206, ((b"", span),), span.count
            headers.append((b"content-range", span.content_range(size)))
        case _:
            body = multipart(spans, size, content_type, secrets.token_hex(16).encode())
            status, parts, tail, length = 206, body.parts, body.tail, body.length
            content_type = body.content_type
    headers += (b"content-type", content_type), (b"content-length", b"%d" % length)
    if exchange.method == "HEAD":
        exchange.start(status, headers, end=True)
        return False
    async with flow:
        exchange.start(status, headers, end=not length)
        if not length:
            return True
        for head, span in parts:
            if head:
                exchange.push(head)
            await _send_span(exchange, content, span, flow)
        if tail:
            exchange.push(tail)
        exchange.finish()
        await exchange.drain()
    return any(span.end == size for _, span in parts)


def _asked_spans(
    exchange: Exchange, conditions: Conditions, tag: str, modified: int, size: int
) -> tuple[Span, ...] | None:
    value = field(exchange, b"range")
    # Ranges are a matter of GET alone (RFC 9110, section 14.2).
    if value is None or exchange.method != "GET" or not conditions.range_applies(tag, modified):
        return None
    return parse_range_untrusted(value, size)


async def _send_span(exchange: Exchange, content: Content, span: Span, flow: Flow) -> None:
    if content.file is not None:
        for start in range(span.start, span.end, _COUNTED):
            sent = exchange.bytes_out
            try:
                await exchange.send_file(content.file, start, min(_COUNTED, span.end - start))
            finally:
                flow.bytes += exchange.bytes_out - sent
    else:
        async with aclosing(content.read(span.start, span.count)) as pieces:
            async for piece in pieces:
                await exchange.send(piece)
                flow.bytes += len(piece)
