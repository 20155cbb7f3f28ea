"""From a server's address to an HTTP/3 connection: UDP, QUIC, and errors that say what to do."""

from __future__ import annotations

import os
import socket
from typing import Any

import attrs
import trio

from fawa.client.dial import CONNECT_TIMEOUT, Origin, Trust, not_trusted
from fawa.client.errors import CannotReach
from fawa.client.http3 import H3Client, NotGreeted
from fawa.net.quic_client import CLIENT_LIMITS, QuicClientEngine, QuicTrust
from fawa.net.quic_packets import QuicLimits
from fawa.net.udp import Address, DatagramSocket, open_udp


def quic_trust(trust: Trust) -> QuicTrust:
    """Return which certificates are accepted, as QUIC takes it. Reads files.

    Raises:
        ValueError: the file of certificates cannot be used.

    """
    trust.context("h3")
    return QuicTrust(*trust.locations(), verify=not trust.insecure)


@attrs.frozen
class H3Dialer:
    """Makes HTTP/3 connections to one server."""

    origin: Origin
    trust: QuicTrust
    limits: QuicLimits = CLIENT_LIMITS
    #: Seconds.
    timeout: float = CONNECT_TIMEOUT
    #: What to do where UDP is blocked.
    instead: str = "leave out --http3"

    async def __call__(self) -> H3Client:
        """Return a new connection.

        Raises:
            CannotReach: there is none to be had; the text says why.

        """
        deadline = trio.current_time() + self.timeout
        with trio.move_on_at(deadline):
            try:
                addresses = await self._addresses()
            except socket.gaierror as error:
                raise CannotReach(f"cannot reach {self.origin}: there is no host of that name") from error
            for tried, address in enumerate(addresses):
                # One that is silent leaves its share of the time to the others.
                share = (deadline - trio.current_time()) / (len(addresses) - tried)
                with trio.move_on_after(share):
                    try:
                        return await self.open(open_udp(address), address)
                    except OSError as error:
                        if address is addresses[-1]:
                            raise CannotReach(f"cannot reach {self.origin}: {_reason(error)}") from error
        raise CannotReach(
            f"cannot reach {self.origin}: no answer over UDP in {self.timeout:g} s; "
            f"a firewall may block it; {self.instead}"
        )

    async def _addresses(self) -> list[Address]:
        found: Any = await trio.socket.getaddrinfo(self.origin.host, self.origin.port, type=socket.SOCK_DGRAM)
        return [address for *_, address in found]

    async def open(self, sock: DatagramSocket, address: Address) -> H3Client:
        """Return a new connection to the server at `address`; the socket is closed with it.

        Raises:
            CannotReach: the server does not want it, or is not trusted.
            OSError: nobody listens there.

        """
        engine = QuicClientEngine(self.origin.host, self.trust, self.limits)
        client = H3Client(engine, sock, self.origin.authority)
        try:
            await client.greet(address)
        except NotGreeted as error:
            client.leave()
            why = not_trusted(error.why) if error.is_distrust else error.why
            raise CannotReach(f"cannot reach {self.origin}: {why}") from error
        except BaseException:
            client.leave()
            raise
        return client


def _reason(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused; is fawad running, with quic.enabled?"
    return os.strerror(error.errno).lower() if error.errno else str(error)
