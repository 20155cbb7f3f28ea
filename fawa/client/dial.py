"""From a server's address to a connected byte stream: TCP, TLS, and errors that say what to do."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

import attrs
import trio

from fawa.client.errors import CannotReach

#: Seconds until a connection with its handshake is given up.
CONNECT_TIMEOUT: Final = 10.0
#: Seconds without traffic before the kernel probes the server, between probes, and probes before it gives up;
#: milliseconds in which the server must acknowledge what was sent. Not every system has each of them.
_DEAD_SERVER: Final = (
    ("TCP_KEEPIDLE", 60),
    ("TCP_KEEPINTVL", 10),
    ("TCP_KEEPCNT", 6),
    ("TCP_USER_TIMEOUT", 120_000),
)

_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._~-]+)?\]")


@attrs.frozen
class Origin:
    """Where a server listens."""

    #: "http" or "https".
    scheme: str
    #: Name or address, IPv6 without brackets.
    host: str
    port: int

    @property
    def authority(self) -> str:
        """Host and port as a `Host` header has them: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


def parse_server(url: str) -> Origin:
    """Return the origin that the URL of a server names.

    Raises:
        ValueError: it is no such URL; the text says what is wrong.

    """
    origin, parts = _split(url)
    if parts.path.strip("/") or parts.query:
        raise ValueError(f"server {url!r} must end after host and port: its paths are the methods' names")
    return origin


def parse_link(url: str) -> tuple[Origin, str]:
    """Return the origin and the request target of a link.

    Raises:
        ValueError: it is no http or https URL; the text says what is wrong.

    """
    origin, parts = _split(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not re.fullmatch("[!-~]+", target):
        raise ValueError(f"link {url!r} has characters that no URL may have")
    return origin, target


def _split(url: str) -> tuple[Origin, SplitResult]:
    parts = urlsplit(url)
    if parts.scheme not in _PORTS:
        raise ValueError(f"{url!r} must begin with http:// or https://")
    host = parts.netloc.rpartition(":")[0] if re.search(r":[0-9]*$", parts.netloc) else parts.netloc
    if not _HOST.fullmatch(host):
        raise ValueError(f"{url!r} names no host that can be connected to")
    port = parts.port  # ValueError, when it is none
    return Origin(parts.scheme, host.strip("[]"), _PORTS[parts.scheme] if port is None else port), parts


@attrs.frozen
class Trust:
    """Which certificates of servers are accepted."""

    #: File of root certificates (PEM) to trust instead of the system's.
    ca: Path | None = None
    #: Accept any certificate, for a server that made its own.
    insecure: bool = False

    def context(self, protocol: str) -> ssl.SSLContext:
        """Return a context that speaks one protocol, by its ALPN name. Reads files.

        Raises:
            ValueError: the file of certificates cannot be used.

        """
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except ssl.SSLError:
            raise ValueError(f"{self.ca} has no PEM certificate in it") from None
        except OSError as error:
            raise ValueError(f"{self.ca} cannot be read: {error.strerror}") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols([protocol])
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def locations(self) -> tuple[str | None, str | None]:
        """Return the file and the folder of root certificates, for libraries that take no context."""
        if self.ca is not None:
            return str(self.ca), None
        paths = ssl.get_default_verify_paths()
        return paths.cafile, paths.capath or paths.openssl_capath


@attrs.frozen
class Dialer:
    """Makes connections to one server."""

    origin: Origin
    #: For https.
    tls: ssl.SSLContext | None
    #: ALPN name that the server must choose: "h2" or "http/1.1".
    protocol: str
    #: Seconds.
    timeout: float = CONNECT_TIMEOUT

    async def __call__(self) -> trio.abc.Stream:
        """Return a new connection.

        Raises:
            CannotReach: there is none to be had; the text says why.

        """
        with trio.move_on_after(self.timeout):
            try:
                return await self._connect()
            except (OSError, trio.BrokenResourceError) as error:
                raise CannotReach(f"cannot reach {self.origin}: {_reason(error)}") from error
        raise CannotReach(f"cannot reach {self.origin}: no answer in {self.timeout:g} s")

    async def _connect(self) -> trio.abc.Stream:
        tcp = await trio.open_tcp_stream(self.origin.host, self.origin.port)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _DEAD_SERVER:
            if (option := getattr(socket, name, None)) is not None:
                tcp.setsockopt(socket.IPPROTO_TCP, option, value)
        if self.tls is None:
            return tcp
        secure = trio.SSLStream(tcp, self.tls, server_hostname=self.origin.host, https_compatible=True)
        try:
            await secure.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(tcp)
            raise
        chosen = secure.selected_alpn_protocol()
        # A server without ALPN speaks HTTP/1.1.
        if (chosen or "http/1.1") != self.protocol:
            await trio.aclose_forcefully(tcp)
            raise CannotReach(f"cannot reach {self.origin}: it does not speak {self.protocol} over TLS")
        return secure


def not_trusted(why: str) -> str:
    """Say that a server's certificate was not accepted, and what to do."""
    return (
        f"its certificate is not trusted ({why.rstrip('.')}); "
        "name the file of its certificate authority (ca), or accept any (insecure)"
    )


def _reason(error: BaseException) -> str:
    """Say what is behind an error of trio's or the operating system's in a few words."""
    for inner in _chain(error):
        if isinstance(inner, ssl.SSLCertVerificationError):
            return not_trusted(inner.verify_message)
        if isinstance(inner, ssl.SSLError):
            if inner.reason == "WRONG_VERSION_NUMBER":
                return "it does not speak TLS; use http://"
            return (inner.reason or str(inner)).replace("_", " ").lower()
        if isinstance(inner, socket.gaierror):
            return "there is no host of that name"
        if isinstance(inner, ConnectionRefusedError):
            return "connection refused; is fawad running?"
        if isinstance(inner, OSError) and inner.errno:
            return os.strerror(inner.errno).lower()
    return "it closed the connection"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Iterate over an error and its causes, innermost reasons of groups included."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _chain(inner)
    else:
        yield error
    if error.__cause__ is not None:
        yield from _chain(error.__cause__)
