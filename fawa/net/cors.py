"""Cross-origin requests (Fetch standard, CORS protocol), as Connect and gRPC-Web in browsers make them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from fawa.net.exchange import Exchange

_METHODS: Final = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
#: Response headers that browsers show to scripts: what the RPC dialects, links and uploads answer with.
_EXPOSED: Final = b", ".join(
    [
        b"grpc-status",
        b"grpc-message",
        b"grpc-status-details-bin",
        b"grpc-encoding",
        b"connect-content-encoding",
        b"content-encoding",
        b"content-disposition",
        b"content-range",
        b"accept-ranges",
        b"etag",
        b"greet-version",
        b"repr-digest",
        b"retry-after",
        b"location",
        b"accept-patch",
        b"fawa-key",
        b"fawa-link",
        b"fawa-expires",
        b"fawa-token",
        b"upload-offset",
        b"upload-length",
        b"upload-complete",
        b"upload-limit",
        b"upload-metadata",
        b"upload-defer-length",
        b"upload-expires",
        b"tus-resumable",
        b"tus-version",
        b"tus-extension",
        b"tus-max-size",
        b"tus-checksum-algorithm",
    ]
)
#: Seconds a browser may keep the answer to a preflight (two hours is Chromium's most).
_MAX_AGE: Final = b"7200"


def may_connect(exchange: Exchange, allows: Callable[[str], bool]) -> bool:
    """Whether a handshake (WebSocket, WebTransport) comes from where it may; answers it with 403 if not.

    A page from the host that it connects to always may, and what is not a browser names no origin.

    Args:
        exchange: not answered yet.
        allows: whether a page of this origin may connect.

    """
    header = exchange.header(b"origin")
    if header is None:
        return True
    origin = header.decode("latin-1")
    # By host alone: a proxy that ends TLS changes the scheme.
    if origin.partition("://")[2] == exchange.authority or allows(origin):
        return True
    exchange.respond_text(403, f"pages of {origin} may not connect (the setting cors.origins)")
    return False


@attrs.frozen
class Cors:
    """Which origins may call, and the headers that tell browsers so.

    No credentials are allowed for: fawa keeps no session in cookies.
    """

    #: Whether a page of this serialized origin, such as `https://app.example`, may call.
    allows: Callable[[str], bool]

    def admit(self, exchange: Exchange) -> bool:
        """Mark the response of a cross-origin request; returns False where a preflight was answered.

        A request from an origin that is not allowed is served without the headers, so that the browser
        keeps the answer from the script; what is not a browser is not concerned.
        """
        origin = exchange.header(b"origin")
        if origin is None or exchange.protocol:
            return True  # WebSocket asks by itself whether an origin may connect
        # No origin has a tab, and no HTTP/2 engine need send one.
        origin = origin.replace(b"\t", b" ")
        exchange.extra_headers.append((b"vary", b"origin"))
        if self.allows(origin.decode("latin-1")):
            exchange.extra_headers.append((b"access-control-allow-origin", origin))
        exchange.extra_headers.append((b"access-control-expose-headers", _EXPOSED))
        if exchange.method != "OPTIONS" or exchange.header(b"access-control-request-method") is None:
            return True
        headers = [(b"access-control-allow-methods", _METHODS), (b"access-control-max-age", _MAX_AGE)]
        if asked := exchange.header(b"access-control-request-headers"):
            # Every header may be sent: metadata is the caller's to name, and nothing is trusted for its name.
            headers.append((b"access-control-allow-headers", asked.replace(b"\t", b" ")))
        exchange.start(204, headers, end=True)
        return False
