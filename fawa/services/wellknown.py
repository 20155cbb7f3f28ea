"""Where a page finds WebTransport: `GET /.well-known/fawa/webtransport`."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Final

import attrs
import msgspec

from fawa.net.exchange import Exchange
from fawa.net.router import Route

PATH: Final = "/.well-known/fawa/webtransport"


@attrs.frozen
class WebTransportOffer:
    """What a browser has to know to open a session."""

    #: Of UDP, as clients reach it.
    port: int
    #: Where boards are.
    path: str
    #: SHA-256 of each certificate that a browser is to take although nobody vouches for it: those of a
    #: development certificate and its successor. Empty for one that is checked as any other.
    hashes: tuple[bytes, ...]


@attrs.frozen
class WellKnown:
    """The route; `offer` is asked each time, as certificates change."""

    offer: Callable[[], WebTransportOffer | None]

    @property
    def routes(self) -> dict[str, Route]:
        """What is answered at which path."""
        return {PATH: Route(("GET", "HEAD"), self._answer)}

    async def _answer(self, exchange: Exchange) -> None:
        no_store = (b"cache-control", b"no-store")
        offer = self.offer()
        if offer is None:
            exchange.respond_text(
                404, "there is no WebTransport here (settings quic.enabled, services)", [no_store]
            )
            return
        hashes = [base64.b64encode(one).decode() for one in offer.hashes]
        document = {"port": offer.port, "path": offer.path, "hashes": hashes}
        headers = [(b"content-type", b"application/json"), no_store]
        exchange.respond(200, headers, msgspec.json.encode(document))
