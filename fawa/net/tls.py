"""TLS for the listener: contexts, certificates that change while it runs, and the development certificate."""

from __future__ import annotations

import fcntl
import functools
import os
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import attrs
import trio

from fawa.ops.logging import get_logger

#: By preference; the order in which ALPN chooses.
ALPN_PROTOCOLS = ("h2", "http/1.1")

# TLS 1.2 only with forward secrecy and AEAD: what RFC 9113 section 9.2.2 leaves allowed. TLS 1.3 has its own.
_TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

DAY = 86_400.0
#: How long a development certificate is valid. Browsers take a pinned one for WebTransport only if that is
#: no more than two weeks.
DEVELOPMENT_LIFE = 13 * DAY
#: It is replaced when no more than this remains.
DEVELOPMENT_RENEWAL = 2 * DAY
#: It is valid from this long before its making, for clocks that are behind.
_CLOCK_SKEW = 3600.0
#: The longest sleep between two looks at the wall clock, which may jump (a laptop that slept).
_LONGEST_SLEEP = 3600.0
#: Until the next try after a renewal that failed.
_RETRY = 600.0


class TlsError(Exception):
    """A certificate or key cannot be used; the text names the file, what is wrong and what to do."""


@attrs.frozen
class Certificate:
    """A certificate with its key, loaded and checked."""

    context: ssl.SSLContext
    path: Path
    #: Its subject alternative names.
    names: tuple[str, ...]
    #: Unix seconds between which it is valid.
    not_before: float
    not_after: float
    #: SHA-256 of the certificate's DER form, 32 bytes: what a browser pins.
    sha256: bytes
    #: The chain and the key as PEM, for QUIC, whose library takes no context.
    chain: bytes = attrs.field(repr=False)
    key: bytes = attrs.field(repr=False)
    #: SHA-256 of each certificate that browsers should pin while this one is in use: of a development
    #: certificate its own and its successor's. None for one that browsers are to check as any other.
    pins: tuple[bytes, ...] = ()

    def warning(self, now: float) -> str | None:
        """Say what clients will hold against it at `now` (Unix seconds), if anything."""
        if now < self.not_before:
            return f"the certificate {self.path} is not valid before {_date(self.not_before)}"
        if now >= self.not_after:
            return f"the certificate {self.path} expired on {_date(self.not_after)}; clients will refuse it"
        return None


def _date(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(when))


# Contexts


def server_context(cert: Path, key: Path) -> ssl.SSLContext:
    """Make a context that serves with this certificate chain (PEM) and key (PEM, not encrypted).

    Raises:
        TlsError: a file is missing, cannot be read, does not hold what it should, or they do not belong
            together.

    """
    chain, secret = _read_pem(cert, "certificate"), _read_pem(key, "key")
    if b"-----BEGIN CERTIFICATE-----" not in chain:
        raise TlsError(f"the certificate {cert} has no PEM certificate in it")
    if b"ENCRYPTED" in secret:
        raise TlsError(f"the key {key} is encrypted; decrypt it with: openssl pkey -in {key} -out NEW")
    if b"PRIVATE KEY-----" not in secret:
        raise TlsError(f"the key {key} has no PEM private key in it")
    context = _bare_context()
    try:
        # Were the key encrypted after all, OpenSSL would ask for its password on the terminal.
        context.load_cert_chain(cert, key, password="")
    except OSError as error:  # ssl.SSLError is one
        reason = getattr(error, "reason", None) or "damaged PEM"
        if reason == "KEY_VALUES_MISMATCH":
            raise TlsError(f"the key {key} does not belong to the certificate {cert}") from error
        what = reason.replace("_", " ")
        raise TlsError(f"the certificate {cert} and the key {key} cannot be loaded: {what}") from error
    return context


def _bare_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_TLS12_CIPHERS)
    context.set_alpn_protocols(ALPN_PROTOCOLS)
    return context


def _read_pem(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise TlsError(f"the {what} {path} does not exist") from None
    except OSError as error:
        raise TlsError(f"the {what} {path} cannot be read: {error.strerror}") from None


def load_certificate(cert: Path, key: Path) -> Certificate:
    """Load and check a certificate and its key. Reads files: call it in a thread.

    Raises:
        TlsError: as `server_context`.

    """
    from cryptography import x509  # noqa: PLC0415  (slow to import)
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

    pem, secret = _read_pem(cert, "certificate"), _read_pem(key, "key")
    context = server_context(cert, key)
    if pem != _read_pem(cert, "certificate") or secret != _read_pem(key, "key"):
        raise TlsError(f"the certificate {cert} or its key changed while it was loaded; load it again")
    try:
        leaf = x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise TlsError(f"the certificate {cert} cannot be read: {error}") from error
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        names = x509.SubjectAlternativeName([])
    return Certificate(
        context,
        cert,
        tuple(str(name.value) for name in names),
        leaf.not_valid_before_utc.timestamp(),
        leaf.not_valid_after_utc.timestamp(),
        leaf.fingerprint(SHA256()),
        pem,
        secret,
    )


class CertificateSource:
    """The certificate in use, and the context to listen with.

    `context` stays the same object for the listener's life; it hands every new handshake to the context of
    the newest certificate, the way servers choose one by name. Loading another certificate into a context
    in use would not do: one of another key type is added beside the old one, which then may still be
    chosen, and one that fails to load leaves the context without any. Connections that are open keep what
    they have.
    """

    def __init__(self, certificate: Certificate) -> None:
        #: What serves new connections.
        self.current = certificate
        #: What to listen with.
        self.context = _bare_context()
        self.context.sni_callback = self._choose

    def _choose(self, handshake: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Called in each handshake, also for clients that name no server."""
        handshake.context = self.current.context

    def replace(self, certificate: Certificate) -> None:
        """Serve new connections with another certificate."""
        self.current = certificate

    async def reload(self, cert: Path, key: Path) -> Certificate:
        """Load the files, also the same ones again, for new connections.

        Raises:
            TlsError: they cannot be used; the certificate stays as it was.

        """
        self.replace(await trio.to_thread.run_sync(load_certificate, cert, key))
        return self.current


# The development certificate


def development_certificate(folder: Path, now: float, hostname: str) -> Certificate:
    """Return the development certificate kept in `folder`, made anew when it is used up or unusable.

    ECDSA P-256, for localhost, 127.0.0.1, ::1 and `hostname`; `dev-cert.pem` and `dev-key.pem`, for the owner
    alone. Beside it stands its successor, `dev-next-cert.pem` and `dev-next-key.pem`, which takes its place
    in time: who knows the hashes of both, its `pins`, connects also after that. Processes that share the
    folder take turns. `now` is in Unix seconds. Works on files and computes: call it in a thread.

    Raises:
        TlsError: the folder cannot be used.

    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            current = _keep_current(folder, now, hostname)
            successor = _keep_successor(folder, current, hostname)
            return attrs.evolve(current, pins=(current.sha256, successor.sha256))
    except OSError as error:
        raise TlsError(
            f"the development certificate cannot be kept in {folder}: {error.strerror}; "
            "set data_dir to a folder of your own, or tls.cert and tls.key"
        ) from error


def _keep_current(folder: Path, now: float, hostname: str) -> Certificate:
    """Return the certificate to use: the one in use, else its successor, else a new one."""
    cert, key = _development_files(folder)
    if (kept := _usable(cert, key, now, hostname)) is not None:
        return kept
    next_cert, next_key = _development_files(folder, "next-")
    if _usable(next_cert, next_key, now, hostname) is not None:
        # The key first: a crash in between leaves pairs that do not match, and so are made anew.
        next_key.replace(key)
        next_cert.replace(cert)
        return load_certificate(cert, key)
    return _create_development(cert, key, now, hostname)


def _keep_successor(folder: Path, current: Certificate, hostname: str) -> Certificate:
    """Return what comes after the certificate in use: valid from when that is to be replaced."""
    cert, key = _development_files(folder, "next-")
    turn = current.not_after - DEVELOPMENT_RENEWAL
    kept = _usable(cert, key, turn, hostname)
    if kept is not None and kept.not_after > current.not_after:
        return kept
    return _create_development(cert, key, turn, hostname)


def _development_files(folder: Path, which: str = "") -> tuple[Path, Path]:
    return folder / f"dev-{which}cert.pem", folder / f"dev-{which}key.pem"


def _create_development(cert: Path, key: Path, now: float, hostname: str) -> Certificate:
    chain, secret = _make_development(now, hostname)
    _write_private(key, secret)
    _write_private(cert, chain)
    return load_certificate(cert, key)


def _usable(cert: Path, key: Path, now: float, hostname: str) -> Certificate | None:
    """Return a development certificate if it can be used at `now`, and for a while."""
    try:
        kept = load_certificate(cert, key)
    except TlsError:
        return None
    fresh = kept.not_before <= now and renewal_delay(kept.not_after, now) > 0
    return kept if fresh and kept.names == _names(hostname) else None


def _names(hostname: str) -> tuple[str, ...]:
    """Return the names in a development certificate."""
    names = ("localhost", "127.0.0.1", "::1")
    return (*names, hostname) if hostname and hostname.isascii() and hostname not in names else names


def _make_development(now: float, hostname: str) -> tuple[bytes, bytes]:
    """Return a new certificate and its key, both PEM."""
    from datetime import UTC, datetime  # noqa: PLC0415
    from ipaddress import ip_address  # noqa: PLC0415

    from cryptography import x509  # noqa: PLC0415  (slow to import)
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: PLC0415

    def name(text: str) -> x509.GeneralName:
        try:
            return x509.IPAddress(ip_address(text))
        except ValueError:
            return x509.DNSName(text)

    secret = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fawa development")])
    start = now - _CLOCK_SKEW
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(start, UTC))
        .not_valid_after(datetime.fromtimestamp(start + DEVELOPMENT_LIFE, UTC))
        .add_extension(x509.SubjectAlternativeName([name(text) for text in _names(hostname)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(secret, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        secret.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


def _write_private(path: Path, data: bytes) -> None:
    """Replace a file atomically; only its owner may read it."""
    partial = path.with_name(f"{path.name}.new")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123  (a descriptor)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    partial.replace(path)


def renewal_delay(not_after: float, now: float) -> float:
    """Return the seconds from `now` until a development certificate is to be replaced; 0 when it is time."""
    return max(0.0, not_after - DEVELOPMENT_RENEWAL - now)


async def rotate(
    source: CertificateSource,
    folder: Path,
    *,
    hostname: str | None = None,
    wall_clock: Callable[[], float] = time.time,
) -> NoReturn:
    """Keep a source's development certificate fresh; runs until cancelled.

    A renewal that fails is logged and tried again; the old certificate stays in use until then. A
    certificate from elsewhere than `folder`, which a reload may have brought, is left alone. `wall_clock`
    gives Unix seconds.
    """
    log = get_logger("fawa.net.tls")
    name = socket.gethostname() if hostname is None else hostname
    while True:
        ours = source.current.path.parent == folder
        delay = renewal_delay(source.current.not_after, wall_clock()) if ours else _LONGEST_SLEEP
        if delay:
            await trio.sleep(min(delay, _LONGEST_SLEEP))
            continue
        make = functools.partial(development_certificate, folder, wall_clock(), name)
        try:
            source.replace(await trio.to_thread.run_sync(make))
        except TlsError as error:
            log.error("development certificate not renewed", reason=str(error), retry_seconds=_RETRY)
            await trio.sleep(_RETRY)
        else:
            log.info("development certificate renewed", until=_date(source.current.not_after))
