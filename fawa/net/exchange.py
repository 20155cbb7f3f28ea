"""`Exchange`: one HTTP request with a bounded body, and its response, whatever the HTTP version."""

from __future__ import annotations

import abc
import enum
import math
from collections.abc import Iterable
from typing import BinaryIO, Protocol, overload

import attrs
import trio

Headers = list[tuple[bytes, bytes]]


class Disconnected(Exception):  # noqa: N818 - said as it is
    """The peer reset the stream or closed the connection; there is nobody to answer."""


class BodyTimeout(Exception):  # noqa: N818
    """The peer sent nothing of the request body for `body_timeout` seconds."""


class BodyTooLarge(Exception):  # noqa: N818
    """The request body is longer than the limit that the reader gave."""


class Interrupted(Exception):  # noqa: N818
    """`Exchange.interrupt` was called, or the connection has begun to drain; nothing sent is lost."""


class RequestHead(Protocol):
    """What an engine tells of a request: its method and target as they stand on the wire."""

    @property
    def method(self) -> bytes:
        """The method."""

    @property
    def path(self) -> bytes:
        """The target up to `?`."""

    @property
    def query(self) -> bytes:
        """The target after `?`."""


@attrs.frozen
class Peer:
    """Who is at the other end of a connection, and how it got here."""

    #: "address:port".
    address: str
    #: "http" or "https".
    scheme: str


class Exchange(abc.ABC):
    """One request and its response.

    The connection that made it cancels the application when the peer goes away. Response methods other than
    `send`, `drain` and `send_file` only queue bytes; what has gathered leaves in one write.
    """

    __slots__ = (
        "_peer",
        "body_timeout",
        "bytes_in",
        "bytes_out",
        "code",
        "draining",
        "extra_headers",
        "fields",
        "headers",
        "label",
        "method",
        "path",
        "query",
        "scope",
        "shown_path",
        "status",
        "upgraded",
        "version",
    )

    def __init__(self, head: RequestHead, headers: Headers, version: str, peer: Peer) -> None:
        self.method = head.method.decode("ascii")
        #: The target up to `?`, still percent-encoded.
        self.path = head.path.decode("latin-1")
        #: What logs show of the path; a route whose path holds a secret leaves that out.
        self.shown_path = self.path
        #: The target after `?`, still percent-encoded, without the `?`.
        self.query = head.query.decode("latin-1")
        #: Request headers in order, names in lower case, pseudo-headers taken out.
        self.headers = headers
        #: The same by name; of several with one name the first.
        self.fields = dict(reversed(headers))
        #: "1.0", "1.1", "2" or "3".
        self.version = version
        self._peer = peer
        #: Cancels the call; set once the call waits for something.
        self.scope: trio.CancelScope | None = None
        #: Seconds `receive` waits for the next byte.
        self.body_timeout = math.inf
        #: Response headers added to whatever the application sends (CORS).
        self.extra_headers: Headers = []
        #: Speaks another protocol than HTTP by now: see `upgrade`.
        self.upgraded = False
        #: The daemon shuts down: what has no end of its own should come to one. It is cancelled in the end.
        self.draining = False
        #: Status of the response once started, else 0.
        self.status = 0
        #: Body bytes received and sent so far, as the application saw them.
        self.bytes_in = 0
        self.bytes_out = 0
        #: For the access log: the RPC dialect (or why the answer broke off) and status.
        self.label = ""
        self.code: enum.Enum | None = None

    @property
    def peer(self) -> str:
        """The client, as "address:port"."""
        return self._peer.address

    @property
    def scheme(self) -> str:
        """How the connection was made, "http" or "https" (not what the client claims)."""
        return self._peer.scheme

    @property
    def authority(self) -> str:
        """Host and port as the client addressed them (`Host` or `:authority`), or ""."""
        return self.header(b"host", b"").decode("latin-1")

    @overload
    def header(self, name: bytes) -> bytes | None: ...
    @overload
    def header(self, name: bytes, default: bytes) -> bytes: ...
    def header(self, name: bytes, default: bytes | None = None) -> bytes | None:
        """Return the first value of the request header `name` (lower case), or `default`."""
        return self.fields.get(name, default)

    def cancel(self) -> None:
        """Cancel the application: the peer is gone."""
        if self.scope is not None:
            self.scope.cancel()

    def take(self) -> bytes:
        """Return what `receive` would return without waiting, `b""` where it would wait or has no more."""
        return b""

    @abc.abstractmethod
    async def receive(self) -> bytes:
        """Return the next piece of the request body, `b""` after its end.

        What was returned is acknowledged to the peer's flow control, so a reader that stops calling this
        stops the peer.

        Raises:
            BodyTimeout: nothing came for `body_timeout` seconds.
            Disconnected: the peer is gone before the end of the body.
            Interrupted: see `interrupt`; on an upgraded exchange alone also when the connection drains.

        """

    @property
    @abc.abstractmethod
    def body_over(self) -> bool:
        """Whether `receive` has returned the whole request body."""

    @abc.abstractmethod
    def inform(self, status: int, headers: Headers) -> None:
        """Send an interim response (1xx, RFC 9110 section 15.2) ahead of the response.

        HTTP/1.0 has none: nothing is sent there. 100 Continue is sent by itself, when it is waited for.
        """

    @abc.abstractmethod
    def start(self, status: int, headers: Headers, *, end: bool = False) -> None:
        """Start the response; `end` says that neither body nor trailers follow.

        Names are lower case. On HTTP/1.1 a response without `content-length` is sent chunked.
        """

    @abc.abstractmethod
    def push(self, data: bytes) -> None:
        """Queue body bytes without waiting. For the few bytes of a whole answer; streams use `send`."""

    @abc.abstractmethod
    async def drain(self) -> None:
        """Wait until little enough is queued towards the peer for more to be sent.

        Raises:
            Disconnected: the peer is gone, or took nothing for the connection's write timeout.

        """

    # Another protocol over this exchange: WebSocket.

    @property
    @abc.abstractmethod
    def protocol(self) -> str:
        """What the client asks to speak from here on, in lower case, or "".

        By `Upgrade` in a GET on HTTP/1.1 (RFC 9110 section 7.8), or by `:protocol` in an
        extended CONNECT on HTTP/2 (RFC 8441).
        """

    @abc.abstractmethod
    def upgrade(self, headers: Headers) -> None:
        """Turn to `protocol`: 101 on HTTP/1.1, 200 on HTTP/2, with these headers.

        From here on bytes go both ways as they are. `receive` returns what comes, as it comes, `b""` after
        the client's last, and has no timeout until `body_timeout` is set again. `push` only queues; `flush`,
        `drain` or `send` let it go. `finish` ends this side; after `abort` nothing more is sent. HTTP/1.1
        connections end with this exchange.

        Raises:
            Disconnected: as `push`; or a client of HTTP/1.1 sent a body, or anything ahead of this answer,
                and was refused.
            ValueError: nothing was asked for, or a header has a character that would break the head.

        """

    @abc.abstractmethod
    def flush(self) -> None:
        """Hand what is queued on the connection to the socket, without waiting.

        Any task may call it. What the socket does not take now the connection's writer sends later: look at
        `is_flushed` before more is queued, or wait for `drain`.
        """

    def send_now(self, data: bytes) -> bool:
        """Push and flush, without waiting; returns `is_flushed`.

        Raises:
            Disconnected: as `push`.

        """
        self.push(data)
        self.flush()
        return self.is_flushed

    @property
    @abc.abstractmethod
    def is_flushed(self) -> bool:
        """Whether all that was queued has been handed to the socket; False too when the peer is gone."""

    @abc.abstractmethod
    async def wait_flushed(self) -> None:
        """Wait until `is_flushed`.

        Raises:
            Disconnected: the peer is gone, or took nothing for the connection's write timeout.

        """

    @abc.abstractmethod
    def interrupt(self) -> None:
        """Let `receive` raise `Interrupted` once, now or when it would wait for the next time."""

    def start_drain(self) -> None:
        """Take note of `draining`, and interrupt what has no end of its own."""
        self.draining = True
        if self.upgraded:
            self.interrupt()

    async def send(self, data: bytes) -> None:
        """Queue body bytes and wait while the peer is slower than the sender.

        Raises:
            Disconnected: the peer is gone, or took nothing for the connection's write timeout.

        """
        self.push(data)
        await self.drain()

    @abc.abstractmethod
    async def send_file(self, file: BinaryIO, offset: int, count: int) -> None:
        """Send `count` bytes of `file` from `offset`; by sendfile(2) where the socket is plain HTTP/1.1.

        Raises:
            Disconnected: as `send`.
            EOFError: the file ends before `offset + count`.

        """

    @abc.abstractmethod
    def finish(self, trailers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """End the response. Trailers are sent on HTTP/2 and HTTP/3, and on HTTP/1.1 when it is chunked."""

    @abc.abstractmethod
    def abort(self) -> None:
        """Break the response off, so that the peer cannot take what it got for the whole."""

    async def read_all(self, limit: int) -> bytes:
        """Return the whole request body.

        Raises:
            BodyTooLarge: it is longer than `limit` bytes; the rest is left unread.

        """
        pieces: list[bytes] = []
        total = 0
        while piece := await self.receive():
            total += len(piece)
            if total > limit:
                raise BodyTooLarge(f"request body is longer than {limit} bytes")
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """Answer at once with a whole body; the answer to HEAD leaves the body out but tells its length."""
        headers = [*headers, (b"content-length", b"%d" % len(body))]
        if self.method == "HEAD" or not body:
            self.start(status, headers, end=True)
        else:
            self.start(status, headers)
            self.push(body)
            self.finish()

    def respond_text(self, status: int, text: str, headers: Headers | None = None) -> None:
        """Answer with one line of plain text: what was wrong and what to do."""
        content = [(b"content-type", b"text/plain; charset=utf-8"), *(headers or [])]
        self.respond(status, content, text.encode() + b"\n")
