"""UDP: whether QUIC gets through by the public name, and a WebTransport session opens."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import msgspec
import trio
from grpclib.exceptions import GRPCError

from fawa.client.dial import Origin, Trust, parse_server
from fawa.client.dial_quic import H3Dialer, quic_trust
from fawa.client.errors import CannotReach
from fawa.client.http3 import H3Client
from fawa.client.webtransport import kept
from fawa.net.quic_packets import QuicLimits
from fawa.net.udp import Address, open_udp
from fawa.ops.doctor.daemon import get
from fawa.ops.doctor.findings import Case, Finding, NotLookedAt

#: The server opens no requests; sessions are offered.
_LIMITS: Final = QuicLimits(max_streams=0, sessions=True)
_FIREWALL: Final = (
    "Let UDP through to fawad at that port: in the firewall, and in whatever spreads load, which needs a "
    "rule for UDP beside that for TCP. If clients reach it at another port, set quic.public_port"
)


class _Offer(msgspec.Struct):
    """What `/.well-known/fawa/webtransport` answers."""

    port: int
    path: str
    hashes: list[str]


class _Board(msgspec.Struct):
    code: str


Answer = TypeVar("Answer", _Offer, _Board)


class Closed(Exception):  # noqa: N818 - said as it is
    """No QUIC connection; has the finding."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.problem)
        self.finding = finding


async def webtransport(case: Case) -> list[Finding]:
    """Open a session on a new board, which goes by itself."""
    settings = case.settings
    if settings.listen_tls is None or not settings.quic.enabled:
        raise NotLookedAt("listen_tls or quic.enabled is off")
    if "canva" not in settings.services:
        raise NotLookedAt("canva is not among the services")
    case.need_daemon()
    base = settings.public_url or str(case.own_tls())
    page = parse_server(base.removesuffix(_path(base)))
    trust = case.trust(page)
    try:
        offer = await _ask(f"{base}/.well-known/fawa/webtransport", _Offer, case, trust)
        board = await _ask(f"{base}/create", _Board, case, trust)
    except GRPCError as error:
        advice = "See that public_url leads to this fawad, and its log"
        return [Finding(f"The page cannot learn where WebTransport is: {error.message}", advice)]
    there = Origin("https", page.host, offer.port)
    # Browsers pin such a certificate by its hash, and look at nothing else of it.
    accepted = Trust(insecure=True) if offer.hashes else trust
    try:
        async with connected(there, accepted, case.timeout) as client:
            status = await _open(client, there, f"{offer.path}?code={board.code}", case.timeout)
    except Closed as closed:
        return [closed.finding]
    except GRPCError as error:
        problem = f"The WebTransport session at {there} broke off: {error.message}"
        return [Finding(problem, "See fawad's log")]
    if status == 200:
        return []
    problem = f"A WebTransport session at {there} is answered with HTTP status {status}"
    return [Finding(problem, "See that nothing but this fawad answers there over UDP, and its log")]


def _path(url: str) -> str:
    """Return the path of a URL that has no query."""
    _, _, rest = url.partition("://")
    return rest[rest.index("/") :] if "/" in rest else ""


async def _ask(url: str, answer: type[Answer], case: Case, trust: Trust) -> Answer:
    """Return what the JSON at a URL says.

    Raises:
        GRPCError: there is no such answer.

    """
    headers, body = await get(url, trust, case.timeout)
    if headers[b":status"] != b"200":
        raise CannotReach(f"{url} answers with HTTP status {headers[b':status'].decode()}")
    try:
        return msgspec.json.decode(body, type=answer)
    except msgspec.DecodeError:
        raise CannotReach(f"{url} answers with something else than fawad does") from None


@asynccontextmanager
async def connected(there: Origin, trust: Trust, timeout: float) -> AsyncIterator[H3Client]:
    """Connect to the first address of a host that answers.

    Raises:
        Closed: none does.

    """
    dial = H3Dialer(there, await trio.to_thread.run_sync(quic_trust, trust), _LIMITS, timeout)
    where = f"UDP port {there.port} of {there.host}"
    finding = Finding(f"{where} is closed: no answer in {timeout:g} s", _FIREWALL)
    client: H3Client | None = None
    for address in await _addresses(there):
        with trio.move_on_after(timeout):
            try:
                client = await dial.open(open_udp(address), address)
            except CannotReach as error:
                finding = Finding(
                    f"QUIC at {where} fails: {str(error.message).removeprefix(f'cannot reach {there}: ')}",
                    "See that fawad itself answers there, with the certificate of public_url's host",
                )
            except ConnectionRefusedError:
                finding = Finding(f"{where} is closed: nothing listens there", _FIREWALL)
            except OSError as error:
                finding = Finding(f"{where} cannot be reached: {error.strerror}", _FIREWALL)
        if client is not None:
            break
    if client is None:
        raise Closed(finding)
    async with kept(client):
        yield client


async def _addresses(there: Origin) -> list[Address]:
    try:
        found = await trio.socket.getaddrinfo(there.host, there.port, type=socket.SOCK_DGRAM)
    except socket.gaierror:
        problem = f"There is no host of the name {there.host}, which public_url has"
        raise Closed(Finding(problem, "Set public_url right, or have the name resolved")) from None
    return [address for *_, address in found]  # type: ignore[misc]


async def _open(client: H3Client, there: Origin, target: str, timeout: float) -> int:
    """Return the status with which a session is answered; it is closed at once.

    Raises:
        GRPCError: there is no answer.

    """
    with trio.move_on_after(timeout):
        if not await client.acquire():
            raise CannotReach("the server takes no request")
        exchange = client.open(
            "CONNECT",
            target,
            [(b":protocol", b"webtransport"), (b"host", there.authority.encode("ascii"))],
        )
        try:
            await exchange.wait_head()
            return exchange.status
        finally:
            exchange.close()
    raise CannotReach(f"no answer in {timeout:g} s")
