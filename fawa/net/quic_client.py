"""QUIC and HTTP/3 without I/O, client side: what `quic_engine` has for both, and what only clients do."""

from __future__ import annotations

import hmac
import ssl
from typing import Final

import attrs
from aioquic._buffer import Buffer, BufferReadError
from aioquic.h3.connection import FrameError, FrameType, H3Stream, IdError, Setting
from aioquic.h3.events import H3Event, Headers
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import AlertDescription
from cryptography.hazmat.primitives import hashes

from fawa.net.quic_core import H3Core, QuicCore
from fawa.net.quic_engine import ConnectionTerminated, ErrorCode, Event, HandshakeCompleted, QuicEngine
from fawa.net.quic_packets import CID_LENGTH, Address, QuicLimits

__all__ = ["CLIENT_LIMITS", "GoAwayReceived", "QuicClientEngine", "QuicTrust", "error_name"]

#: What a client may be sent; servers open no requests.
CLIENT_LIMITS: Final = QuicLimits(max_streams=0)

#: From here on error codes of QUIC are alerts of TLS (RFC 9001 section 4.8).
_ALERTS: Final = range(QuicErrorCode.CRYPTO_ERROR, QuicErrorCode.CRYPTO_ERROR + 256)
#: Alerts by which this side says that it does not trust the server.
_DISTRUST: Final = frozenset(
    {
        AlertDescription.bad_certificate,
        AlertDescription.unsupported_certificate,
        AlertDescription.certificate_revoked,
        AlertDescription.certificate_expired,
        AlertDescription.certificate_unknown,
        AlertDescription.unknown_ca,
    }
)
#: Octets of the longest variable-length integer.
_LONGEST_NUMBER: Final = 8
#: Octets of a stateless reset token.
_RESET_TOKEN: Final = 16


@attrs.frozen
class QuicTrust:
    """Which certificates of servers are accepted: those under the roots in a file or a folder."""

    #: PEM, and a folder as `openssl rehash` makes it; `None` for both with `verify` off.
    cafile: str | None
    capath: str | None
    #: Whether certificates are looked at.
    verify: bool = True
    #: Instead, where there are any: the SHA-256 of each certificate that is accepted, whoever signed it.
    pins: tuple[bytes, ...] = ()


class GoAwayReceived(H3Event):
    """The server does nothing with requests from `stream_id` on (RFC 9114 section 5.2)."""

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id


class _ClientCore(QuicCore):
    """The client's side.

    The window of all streams together is given back as octets arrive, because a stream that nobody reads must
    not stop the others; what is buffered is bounded by streams.
    """

    def _unread(self) -> int:
        return 0


class _ClientH3(H3Core):
    """HTTP/3 without pushes, which tells of GOAWAY."""

    def __init__(self, engine: QuicClientEngine, limits: QuicLimits) -> None:
        self._goaways = engine.goaways
        self._last_goaway: int | None = None
        self._control = _GoAways()
        super().__init__(engine, limits)

    def _init_connection(self) -> None:
        self._max_push_id = None
        super()._init_connection()

    def _receive_stream_data_uni(self, stream: H3Stream, data: bytes, stream_ended: bool) -> list[H3Event]:
        events = super()._receive_stream_data_uni(stream, data, stream_ended)
        if stream.stream_id == self._peer_control_stream_id:
            for stream_id in self._control.feed_untrusted(data):
                if stream_id % 4 or (self._last_goaway is not None and stream_id > self._last_goaway):
                    raise IdError("GOAWAY names no request, or a later one than before")
                self._last_goaway = stream_id
                self._goaways.append(GoAwayReceived(stream_id))
        return events


class _GoAways:
    """Reads the GOAWAY frames of a control stream, whose payload aioquic skips."""

    def __init__(self) -> None:
        #: Less than a frame header, or a GOAWAY that is not whole.
        self._buffer = b""
        #: Octets of a frame's payload that is of no interest.
        self._skip = 0
        self._has_type = False

    def feed_untrusted(self, data: bytes) -> list[int]:
        """Return the streams that GOAWAY frames name; aioquic has checked the order of frames before.

        Raises:
            FrameError: a GOAWAY is malformed.

        """
        found: list[int] = []
        self._buffer += data
        while self._buffer:
            skipped = min(self._skip, len(self._buffer))
            self._skip -= skipped
            self._buffer = self._buffer[skipped:]
            buffer = Buffer(data=self._buffer)
            try:
                if not self._has_type:
                    buffer.pull_uint_var()  # that of the stream
                    self._has_type = True
                else:
                    frame_type, size = buffer.pull_uint_var(), buffer.pull_uint_var()
                    if frame_type == FrameType.GOAWAY:
                        found.append(_number(buffer.pull_bytes(size) if size <= _LONGEST_NUMBER else b""))
                    else:
                        self._skip = size
            except BufferReadError:
                break  # the rest is still to come
            self._buffer = self._buffer[buffer.tell() :]
        return found


def _number(payload: bytes) -> int:
    buffer = Buffer(data=payload)
    try:
        number = buffer.pull_uint_var()
    except BufferReadError:
        raise FrameError("GOAWAY has no number") from None
    if not buffer.eof():
        raise FrameError("GOAWAY is longer than its number")
    return number


class QuicClientEngine(QuicEngine):
    """One connection, client side; `connect` begins it.

    Args:
        host: name or address of the server, which its certificate has to be for.
        trust: which certificates are accepted.
        limits: what the server may send ahead.

    """

    def __init__(self, host: str, trust: QuicTrust, limits: QuicLimits = CLIENT_LIMITS) -> None:
        configuration = QuicConfiguration(
            alpn_protocols=["h3"],
            connection_id_length=CID_LENGTH,
            idle_timeout=limits.idle_timeout,
            max_data=limits.connection_window,
            max_stream_data=limits.stream_window,
            max_datagram_frame_size=65536 if limits.sessions else None,
            # An address may name its interface, of which no certificate knows.
            server_name=host.partition("%")[0],
            cafile=trust.cafile,
            capath=trust.capath,
            verify_mode=ssl.CERT_REQUIRED if trust.verify and not trust.pins else ssl.CERT_NONE,
        )
        super().__init__(_ClientCore(configuration, limits), limits)
        #: GOAWAY frames that came, until `events` tells of them.
        self.goaways: list[GoAwayReceived] = []
        self._gone: ConnectionTerminated | None = None
        self._pins = trust.pins

    def _new_h3(self) -> H3Core:
        return _ClientH3(self, self.limits)

    def connect(self, address: Address, now: float) -> None:
        """Begin the handshake with the server at `address`."""
        self.quic.connect(address, now)

    def receive(self, data: bytes, address: Address, now: float) -> None:
        """Take in a datagram; `events` then tells what it brought."""
        if self._is_reset(data):
            self._gone = ConnectionTerminated(
                QuicErrorCode.NO_ERROR, None, "the server does not know it any more"
            )
        else:
            super().receive(data, address, now)

    def _is_reset(self, data: bytes) -> bool:
        """Whether it is a stateless reset (RFC 9000 section 10.3.1), which aioquic does not look for."""
        if (
            not data
            or data[0] & 0x80
            or data[1 : 1 + CID_LENGTH] in (cid.cid for cid in self.quic._host_cids)
        ):
            return False
        return any(
            hmac.compare_digest(data[-_RESET_TOKEN:], cid.stateless_reset_token)
            for cid in (self.quic._peer_cid, *self.quic._peer_cid_available)
            if cid.stateless_reset_token
        )

    def events(self) -> list[Event]:
        """Return what has happened since the last call."""
        found = super().events()
        if self._pins and any(isinstance(event, HandshakeCompleted) for event in found):
            self._check_pin()
        found += self.goaways
        self.goaways.clear()
        return found

    def _check_pin(self) -> None:
        """Close the connection, before anything is sent on it, where nobody knows the certificate."""
        certificate = self.quic.tls._peer_certificate
        if certificate is None or certificate.fingerprint(hashes.SHA256()) not in self._pins:
            code = QuicErrorCode.CRYPTO_ERROR + AlertDescription.bad_certificate
            self.close(code, "it is not the one that the server announced")

    @property
    def takes_sessions(self) -> bool | None:
        """Whether the server takes WebTransport sessions; `None` until it has said."""
        settings = None if self._h3 is None else self._h3.received_settings
        return None if settings is None else settings.get(Setting.ENABLE_WEBTRANSPORT) == 1

    @property
    def over(self) -> ConnectionTerminated | None:
        """How the connection came to its end, as soon as it has; what follows is silence."""
        return self._gone or self.quic._close_event

    @property
    def refusal(self) -> tuple[str, bool]:
        """Why there is no connection, in words of either side, and whether it is the server's certificate."""
        over = self.over
        if over is None:
            return "", False
        if over.error_code in _ALERTS:
            alert = over.error_code - QuicErrorCode.CRYPTO_ERROR
            if alert in _DISTRUST:
                return over.reason_phrase or _words(AlertDescription(alert).name), True
            if alert == AlertDescription.no_application_protocol:
                return "it does not speak HTTP/3", False
            name = AlertDescription(alert).name if alert in list(AlertDescription) else str(alert)
            return f"the TLS handshake failed: {over.reason_phrase or _words(name)}", False
        return over.reason_phrase or f"it closed the connection with {error_name(over.error_code)}", False

    @property
    def streams_left(self) -> int:
        """How many more requests the server lets be sent."""
        return self.quic._remote_max_streams_bidi - self.quic._local_next_stream_id_bidi // 4

    def open(self, headers: Headers) -> int:
        """Send a request head; returns its stream."""
        stream_id = self.quic.get_next_available_stream_id()
        self.send_headers(stream_id, headers)
        return stream_id


def error_name(code: int) -> str:
    """Return the name of an error code of HTTP/3 (RFC 9114 section 8.1), or the code."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"0x{code:x}"


def _words(name: str) -> str:
    return name.replace("_", " ")
