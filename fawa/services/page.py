"""The page that people use in a browser, the same address as text for curl, and links as QR codes.

`fawa/web/` is served as it is, from memory: a few small files, read once. Everything the page needs comes
from here, so it works without the internet, and its policy lets nothing else in.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

import attrs
import segno
import trio

from fawa import __version__
from fawa.net.exchange import Exchange, Headers
from fawa.net.router import Route
from fawa.services.conditions import Conditions, Outcome
from fawa.services.fields import accepts

#: Characters of the longest link that is drawn as a QR code; what is longer no camera reads well.
MAX_QR_TEXT: Final = 512

_WEB: Final = Path(__file__).parents[1] / "web"
_TYPES: Final = {
    ".css": b"text/css; charset=utf-8",
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
    ".webmanifest": b"application/manifest+json",
}

#: No script or style but our files; no inline ones, no other host (but our own for WebTransport, see `Page`),
#: no frame, no form, no markup from strings.
_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    b"require-trusted-types-for 'script'; trusted-types 'none'"
)
#: A host that a policy can name; an IPv6 address it cannot.
_HOST: Final = re.compile(r"([A-Za-z0-9.-]+)(?::[0-9]+)?")
#: `no-cache` is to ask each time, which costs a 304; after an update nobody mixes old modules with new ones.
_SAFE: Final = [
    (b"cache-control", b"no-cache"),
    (b"content-security-policy", _POLICY),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]

_METHODS: Final = ("GET", "HEAD")
_HTML: Final = ("text/html", "application/xhtml+xml")

_TEXT: Final = """\
fawa {version} is running. The page is at {base}/ in a browser.

Greet it:        curl --json '{{"name":"World"}}' {base}/greet.v1.GreetService/SayHello
Send a file:     curl --upload-file report.pdf {base}/
Receive it:      fawa receive --server {base} KEY
See all methods: grpcurl -plaintext {authority} list
"""


@attrs.frozen
class Asset:
    """One file of the page."""

    content: bytes = attrs.field(repr=False)
    content_type: bytes
    #: The strong entity tag without its quotes.
    tag: str

    @classmethod
    def load(cls, path: Path) -> Asset:
        """Read a file.

        Raises:
            OSError: it cannot be read.
            KeyError: it is of no type that the page has.

        """
        content = path.read_bytes()
        return cls(content, _TYPES[path.suffix], hashlib.sha256(content).hexdigest()[:32])

    async def serve(self, exchange: Exchange) -> None:
        """Answer with the file, or that the client has it already."""
        self.answer(exchange, [])

    def answer(self, exchange: Exchange, more: Headers) -> None:
        """Answer with the file and `more` headers."""
        # Of two with one name the latter.
        headers = [*dict([*_SAFE, *more]).items(), (b"etag", b'"%b"' % self.tag.encode())]
        if exchange.scheme == "https":
            # Over plain HTTP browsers pass it over, and those on a LAN complain about it.
            headers.append((b"cross-origin-opener-policy", b"same-origin"))
        given = exchange.header(b"if-none-match")
        conditions = Conditions(if_none_match=None if given is None else given.decode("latin-1"))
        if conditions.evaluate(self.tag, modified=0) is Outcome.NOT_MODIFIED:
            exchange.start(304, headers, end=True)
        else:
            exchange.respond(200, [(b"content-type", self.content_type), *headers], self.content)


@attrs.frozen
class Page:
    """The page's routes."""

    index: Asset
    #: By path, such as `/web/main.js`.
    assets: dict[str, Asset]
    #: The port of WebTransport, if there is one.
    webtransport_port: Callable[[], int | None]

    @classmethod
    def load(cls, webtransport_port: Callable[[], int | None] = lambda: None, folder: Path = _WEB) -> Page:
        """Read the page's files.

        Raises:
            OSError: one cannot be read.
            KeyError: there is one of no type that the page has.

        """
        assets = {
            f"/web/{path.relative_to(folder).as_posix()}": Asset.load(path)
            for path in sorted(folder.rglob("*.*"))
            # package.json tells Node, in the tests, that these are modules; browsers do not ask for it.
            if path.is_file() and path.name != "package.json"
        }
        return cls(assets.pop("/web/index.html"), assets, webtransport_port)

    @property
    def routes(self) -> dict[str, Route]:
        """What is answered at which path."""
        files = {path: Route(_METHODS, asset.serve) for path, asset in self.assets.items()}
        return {"/": Route(_METHODS, self.front), "/qr.svg": Route(_METHODS, draw_qr), **files}

    async def front(self, exchange: Exchange) -> None:
        """Answer `/`: the page for a browser, a few lines to copy for everybody else."""
        accepted = ", ".join(value.decode("latin-1") for name, value in exchange.headers if name == b"accept")
        if accepts(accepted, _HTML):
            policy = _policy(exchange.authority or "", self.webtransport_port())
            self.index.answer(exchange, [(b"vary", b"accept"), (b"content-security-policy", policy)])
            return
        authority = exchange.authority or "127.0.0.1:8080"
        text = _TEXT.format(version=__version__, base=f"{exchange.scheme}://{authority}", authority=authority)
        exchange.respond_text(200, text.rstrip("\n"), [(b"vary", b"accept")])


def _policy(authority: str, port: int | None) -> bytes:
    """Return the policy of a page asked for at this host, which may also connect to this port of it."""
    host = _HOST.fullmatch(authority)
    if port is None or host is None:
        return _POLICY
    # By a name of this machine the page connects to its IPv4 address, see `transport.js`.
    name = "127.0.0.1" if host[1].lower() == "localhost" else host[1]
    return _POLICY.replace(b"connect-src 'self'", b"connect-src 'self' https://%b:%d" % (name.encode(), port))


async def draw_qr(exchange: Exchange) -> None:
    """Answer `GET /qr.svg?text=LINK` with the link as a QR code; only links, so that nobody is led astray."""
    try:
        link = _link_untrusted(exchange.query)
    except ValueError as error:
        exchange.respond_text(400, str(error))
        return
    image = await trio.to_thread.run_sync(qr_svg, link)
    # The link may be a secret.
    headers = [(b"content-type", _TYPES[".svg"]), *_SAFE, (b"cache-control", b"no-store")]
    exchange.respond(200, list(dict(headers).items()), image)


def _link_untrusted(query: str) -> str:
    """Return the link in a query.

    Raises:
        ValueError: there is none that would be drawn; the text says why.

    """
    try:
        values = parse_qs(query, keep_blank_values=True, max_num_fields=8, errors="strict").get("text", [])
    except ValueError:
        values = []
    if len(values) != 1:
        raise ValueError("ask as /qr.svg?text=LINK, with the link percent-encoded as UTF-8")
    link = values[0]
    if len(link) > MAX_QR_TEXT:
        raise ValueError(f"the link has {len(link)} characters; up to {MAX_QR_TEXT} are drawn")
    try:
        parts = urlsplit(link)
        is_link = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        is_link = False
    if not is_link or not link.isprintable() or " " in link:
        raise ValueError("only links are drawn: text must begin with http:// or https:// and name a host")
    return link


def qr_svg(link: str) -> bytes:
    """Return a QR code (ISO/IEC 18004, error correction M) with its quiet zone, as SVG that fills its box."""
    image = io.BytesIO()
    code = segno.make_qr(link, error="m", boost_error=False)
    code.save(
        image, kind="svg", border=4, light="#fff", xmldecl=False, omitsize=True, svgclass=None, lineclass=None
    )
    return image.getvalue()
