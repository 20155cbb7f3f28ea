"""Where a request comes from, when proxies stand between, and whom that address stands for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

import attrs

#: Proxies in a row that are looked behind.
_MOST_HOPS: Final = 32

Address = IPv4Address | IPv6Address


@attrs.frozen
class Proxies:
    """The proxies whose word is taken for whom they pass on."""

    networks: tuple[IPv4Network | IPv6Network, ...] = ()

    @classmethod
    def of(cls, networks: Sequence[str]) -> Proxies:
        """Make them of networks in CIDR notation; raises ValueError."""
        return cls(tuple(map(ip_network, networks)))

    def client(self, peer: str, forwarded: Sequence[str]) -> str:
        """Return the address of who made a request.

        Args:
            peer: address and port at the other end of the connection.
            forwarded: the values of its `X-Forwarded-For` headers, in order. Each proxy appends whom it got
                the request from, so the right-most address that no trusted proxy has is the client's; what
                stands to the left of it the client may have made up.

        """
        address = _parse(peer.rpartition(":")[0])
        if address is None or not self._trust(address):
            return peer if address is None else str(address)
        hops = [hop for value in forwarded for hop in value.split(",")]
        for hop in reversed(hops[-_MOST_HOPS:]):
            before = _parse(hop)
            if before is None:
                break
            address = before
            if not self._trust(address):
                break
        return str(address)

    def _trust(self, address: Address) -> bool:
        return any(address in network for network in self.networks)


def _parse(text: str) -> Address | None:
    """Return an address as headers have it: in brackets or not, with a port or not."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def sender(proxies: Proxies, peer: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return what is known of who sends a request, as `holder` has it.

    Args:
        proxies: whose word is taken.
        peer: address and port at the other end of the connection.
        headers: of the request.

    """
    forwarded = [value.decode("latin-1") for name, value in headers if name.lower() == b"x-forwarded-for"]
    return holder(proxies.client(peer, forwarded))


def holder(address: str) -> str:
    """Return what one holder of an address is known by: an IPv6 network of 64 bits is given out as one."""
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((int(parsed) >> 64 << 64, 64)))
    return address
