"""The certificate: its dates, its key, its names, and whether clients can follow its chain."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from typing import Final

import trio

from fawa.client.dial import parse_server
from fawa.net.tls import Certificate, TlsError, load_certificate
from fawa.ops.doctor.findings import Case, Finding, NotLookedAt

#: Seconds before its end from which on a certificate should have been renewed: certbot and cert-manager do
#: so a month before.
EARLY: Final = 7 * 86_400.0


async def certificate(case: Case) -> list[Finding]:
    """Look at the certificate that is set."""
    settings = case.settings
    if settings.listen_tls is None:
        raise NotLookedAt("listen_tls is off")
    cert, key = settings.tls.cert, settings.tls.key
    if cert is None or key is None:
        raise NotLookedAt("fawad makes its own and renews it (tls.cert is not set)")
    try:
        loaded = await trio.to_thread.run_sync(load_certificate, cert, key)
    except TlsError as error:
        return [Finding(_capital(str(error)), "Set tls.cert and tls.key to a certificate and its key")]
    return await trio.to_thread.run_sync(lambda: list(_look(case, loaded)))


def _look(case: Case, loaded: Certificate) -> Iterator[Finding]:
    now, renew = case.clock(), "Put a new one in its place, and send fawad SIGHUP"
    if warning := loaded.warning(now):
        yield Finding(
            _capital(warning), f"{renew}; or, if it is this machine's clock that is wrong, set it right"
        )
        return
    if loaded.not_after - now < EARLY:
        until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(loaded.not_after))
        yield Finding(f"The certificate {loaded.path} is about to expire, on {until}", renew)
    name = _public_name(case, loaded)
    if name is None:
        return
    try:
        _handshake(
            loaded.context, case.trust(parse_server(f"https://{_bracketed(name)}")).context("h2"), name
        )
    except ssl.SSLCertVerificationError as error:
        yield Finding(
            f"Clients refuse the certificate {loaded.path} for {name}: {error.verify_message.rstrip('.')}",
            "The file is to have the certificate first, then each one between it and a root that clients "
            "have, and the certificate is to name the host of public_url. If the root is your own, name its "
            "file to the doctor with --ca",
        )


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _public_name(case: Case, loaded: Certificate) -> str | None:
    """Return the name by which clients know this certificate, if it can be known."""
    public = case.settings.public_url
    if public.startswith("https://"):
        origin, _, _ = public.removeprefix("https://").partition("/")
        return parse_server(f"https://{origin}").host
    return next((name for name in loaded.names if not name.startswith("*")), None)


def _bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name else name


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """Have a client look at the server's certificate, in memory.

    Raises:
        ssl.SSLCertVerificationError: it does not accept it.

    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)
