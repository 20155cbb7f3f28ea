"""QUIC before there is a connection: certificates, versions, address validation and stateless resets.

Like the other `quic_` modules, save `quic`, it touches aioquic.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Final

import attrs
from aioquic._buffer import Buffer
from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE, QuicConfiguration
from aioquic.quic.packet import (
    QuicHeader,
    QuicPacketType,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.retry import QuicRetryTokenHandler
from aioquic.tls import load_pem_private_key, load_pem_x509_certificates

#: Where a datagram comes from or goes to, as sockets say it.
Address = tuple[str, int] | tuple[str, int, int, int]

#: Octets of the connection IDs that this side chooses.
CID_LENGTH: Final = 8
#: The shortest packet that is answered with a stateless reset, which has to be shorter than what it answers.
_LEAST_RESET: Final = 21 + 16 + 1


@attrs.frozen
class QuicLimits:
    """What one connection may take; sizes are octets."""

    #: Seconds without a packet after which a connection is over.
    idle_timeout: float = 30.0
    #: Requests open at once.
    max_streams: int = 128
    #: A request's header section, encoded and decoded.
    max_header: int = 65536
    #: What a peer may send ahead of the application on one stream, and on all together.
    stream_window: int = 1024 * 1024
    connection_window: int = 8 * 1024 * 1024
    #: Whether to offer WebTransport and datagrams.
    sessions: bool = False


class TlsFacts:
    """A certificate chain and its key (PEM), parsed once for all the handshakes that use it.

    Raises:
        ValueError: they cannot be parsed.

    """

    def __init__(self, chain: bytes, key: bytes, limits: QuicLimits) -> None:
        certificates = load_pem_x509_certificates(chain)
        self.limits = limits
        self.configuration = QuicConfiguration(
            is_client=False,
            alpn_protocols=["h3"],
            connection_id_length=CID_LENGTH,
            idle_timeout=limits.idle_timeout,
            max_data=limits.connection_window,
            max_stream_data=limits.stream_window,
            max_datagram_frame_size=65536 if limits.sessions else None,
        )
        self.configuration.certificate = certificates[0]
        self.configuration.certificate_chain = certificates[1:]
        self.configuration.private_key = load_pem_private_key(key)


@attrs.frozen
class Opening:
    """A packet of no connection that is known; `header` as aioquic parsed it."""

    header: QuicHeader
    size: int

    @property
    def is_initial(self) -> bool:
        """Whether it may open a connection: an Initial in a datagram of full size (RFC 9000 section 14.1)."""
        return self.header.packet_type == QuicPacketType.INITIAL and self.size >= SMALLEST_MAX_DATAGRAM_SIZE

    @property
    def cid(self) -> bytes:
        """The connection ID that the client chose for us."""
        return self.header.destination_cid

    @property
    def has_token(self) -> bool:
        """Whether it brings an address validation token."""
        return bool(self.header.token)

    def version_negotiation(self, facts: TlsFacts) -> bytes | None:
        """Return the answer to a version that we do not speak (RFC 9000 section 6), else `None`."""
        header, supported = self.header, facts.configuration.supported_versions
        if (
            header.packet_type == QuicPacketType.VERSION_NEGOTIATION
            or header.version is None
            or header.version in supported
            or self.size < SMALLEST_MAX_DATAGRAM_SIZE
        ):
            return None
        return encode_quic_version_negotiation(
            source_cid=header.destination_cid,
            destination_cid=header.source_cid,
            supported_versions=supported,
        )


def read_opening_untrusted(data: bytes) -> Opening | None:
    """Parse the head of a packet; `None` for what is no QUIC."""
    try:
        return Opening(pull_quic_header(Buffer(data=data), host_cid_length=CID_LENGTH), len(data))
    except ValueError:
        return None


class QuicSecrets:
    """Tokens by which clients prove their address and recognise a lost connection.

    `secret` should outlive the process: connections of an earlier one can then be reset.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._tokens = QuicRetryTokenHandler()

    def reset_token(self, cid: bytes) -> bytes:
        """Return the stateless reset token of a connection ID (RFC 9000 section 10.3.2), 16 octets."""
        return hmac.digest(self._secret, cid, hashlib.sha256)[:16]

    def stateless_reset(self, data: bytes) -> bytes | None:
        """Return a reset for a packet of a connection that is not known, where one may be sent."""
        if len(data) < _LEAST_RESET or data[0] & 0x80:
            return None
        noise = bytearray(os.urandom(min(len(data) - 1, 42) - 16))
        noise[0] = noise[0] & 0x3F | 0x40
        return bytes(noise) + self.reset_token(data[1 : 1 + CID_LENGTH])

    def retry(self, opening: Opening, address: Address, now: float) -> bytes:
        """Return a Retry packet (RFC 9000 section 8.1.2): the client is to come again with its token."""
        header = opening.header
        version = header.version
        if version is None:
            raise ValueError("only a packet with a version is answered with Retry")
        source_cid = os.urandom(CID_LENGTH)
        token = self._tokens.create_token(
            address=address,
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=source_cid,
            now=now,
        )
        return encode_quic_retry(
            version=version,
            source_cid=source_cid,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=token,
        )

    def original_cid(self, opening: Opening, address: Address, now: float) -> bytes:
        """Return the connection ID that the client chose at first, out of its token.

        Raises:
            ValueError: the token is not ours, not this client's, or older than 30 seconds.

        """
        header = opening.header
        token: bytes = header.token
        return self._tokens.validate_token(
            address=address, destination_cid=header.destination_cid, token=token, now=now
        )
