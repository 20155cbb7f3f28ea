"""What a check is, what it is given, and what it says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import attrs

from fawa.client.dial import Origin, Trust
from fawa.config import Address, Settings

#: Seconds for each connection and each answer.
TIMEOUT: Final = 5.0


@attrs.frozen
class Finding:
    """One thing that is wrong."""

    #: What, with the value it has: a sentence, but for its full stop.
    problem: str
    #: What to do; likewise.
    advice: str


class NotLookedAt(Exception):  # noqa: N818 - said as it is
    """There is nothing to check here, or no way to; the text says why."""


@attrs.define
class Case:
    """The set-up under examination; later checks use what earlier ones saw."""

    settings: Settings
    #: Roots (PEM) to trust beside what the settings say, `None` for the system's.
    ca: Path | None
    #: This machine's time in Unix seconds.
    clock: Callable[[], float]
    #: Seconds for each connection and each answer.
    timeout: float = TIMEOUT
    #: Try whether the services that data is kept in can be used, by their names; each raises `StorageError`,
    #: or returns how many seconds the service's clock is ahead, if it tells the time.
    probes: Mapping[str, Callable[[], Awaitable[float | None]]] = attrs.field(factory=dict)
    #: Whether the daemon answers where it listens.
    answers: bool = attrs.field(default=False, init=False)
    #: How many files the running daemon may open, if it said so.
    descriptors: int | None = attrs.field(default=None, init=False)
    #: Other clocks by whose they are: seconds that they are ahead of this machine's.
    clocks: dict[str, float] = attrs.field(factory=dict, init=False)

    @property
    def development_certificate(self) -> Path | None:
        """The certificate that the daemon made for itself, where it has no other."""
        if self.settings.listen_tls is None or self.settings.tls.cert is not None:
            return None
        return self.settings.data_dir / "tls" / "dev-cert.pem"

    def need_daemon(self) -> None:
        """See that the daemon can be asked.

        Raises:
            NotLookedAt: it does not answer.

        """
        if not self.answers:
            raise NotLookedAt("the daemon does not answer")

    def own(self) -> Origin:
        """Return where the daemon listens, as this machine reaches it: the plain listener, if there is one.

        Raises:
            NotLookedAt: that cannot be known.

        """
        plain, secure = self.settings.listen, self.settings.listen_tls
        found = [("http", plain), ("https", secure)]
        for scheme, address in found:
            if address is not None and address.port:
                return Origin(scheme, reached(address), address.port)
        raise NotLookedAt("the system chose the port (0), so where fawad listens is not known")

    def own_tls(self) -> Origin:
        """Return where the daemon listens for TLS and QUIC, as this machine reaches it.

        Raises:
            NotLookedAt: nowhere, or that cannot be known.

        """
        secure = self.settings.listen_tls
        if secure is None:
            raise NotLookedAt("listen_tls is off")
        if not secure.port:
            raise NotLookedAt("the system chose the port of listen_tls (0), so it is not known")
        return Origin("https", reached(secure), secure.port)

    def trust(self, origin: Origin) -> Trust:
        """Return which certificates are accepted of a server."""
        own = self.settings.listen_tls
        development = self.development_certificate
        if self.ca is None and development is not None and own is not None:
            is_own = origin.host in (reached(own), "localhost") and origin.port == own.port
            if is_own:
                return Trust(development)
        return Trust(self.ca)


#: Returns what is wrong, nothing where all is fine; raises `NotLookedAt`.
Check = Callable[[Case], Awaitable[list[Finding]]]


def reached(address: Address) -> str:
    """Return the host by which this machine reaches a listener of its own."""
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)


@attrs.frozen
class Examined:
    """How one check went."""

    name: str
    findings: tuple[Finding, ...] = ()
    #: Why there was nothing to look at, "" where there was.
    skipped: str = ""
