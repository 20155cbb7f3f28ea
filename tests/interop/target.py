"""Where a client finds the daemon."""

from __future__ import annotations

import ssl
from pathlib import Path

import attrs


@attrs.frozen
class Target:
    """One of the daemon's two ports."""

    #: `127.0.0.1:PORT`.
    address: str
    #: What a TLS client trusts as root; `None` on the plain port.
    certificate: Path | None

    @property
    def url(self) -> str:
        return f"http{'s' if self.certificate else ''}://{self.address}"

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def ssl_context(self, *protocols: str) -> ssl.SSLContext:
        """Return a context that trusts the daemon and offers these ALPN protocols."""
        context = ssl.create_default_context(cafile=self.certificate)
        if protocols:
            context.set_alpn_protocols(protocols)
        return context
