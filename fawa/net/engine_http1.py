"""HTTP/1.1 without I/O, on zttp; see `engine`."""

from __future__ import annotations

import http
from collections.abc import Iterable
from typing import Final

import zttp

from fawa.net.engine import Event, Headers, HttpError, Role

_REASONS: Final = {status.value: status.phrase.encode() for status in http.HTTPStatus}
_FORBIDDEN: Final = frozenset(b"\r\n\0")
_HEAD_END: Final = b"\r\n\r\n"
_NEED_DATA: Final = zttp.NEED_DATA
_CLOSED: Final = zttp.CONNECTION_CLOSED


class H1Engine:
    """One HTTP/1.1 connection: one message each way at a time.

    A response of known length is framed here and only noted in zttp, because zttp counts the body bytes it
    is given and those that sendfile(2) sends never pass through it.
    """

    def __init__(self, role: Role) -> None:
        self._conn = zttp.Connection(role.value, zttp.HTTP1)
        self._out: list[bytes] = []
        #: Body bytes still owed of a response of known length; `None` where it is chunked.
        self._owed: int | None = None
        #: The response body ends with the connection (HTTP/1.0 clients and unknown length).
        self._until_close = False
        #: The response says `connection: close`.
        self._said_close = False
        #: Whether the head that was read last came alone: zttp does not give back what came behind it. False
        #: too where the end of another message came in one piece with it.
        self.head_is_last = False
        #: The last bytes received, in case the end of a head is cut up.
        self._tail = b""

    def receive(self, data: bytes) -> list[Event]:
        """Parse received bytes (`b""` = end of input) and return the events in them.

        Bytes of a following, pipelined message stay in the engine until `next_cycle`.

        Raises:
            HttpError: the message is malformed or too large; the connection cannot go on.

        """
        if data.endswith(_HEAD_END) or len(data) < len(_HEAD_END):
            seen = self._tail + data
            first = seen.find(_HEAD_END)
            self.head_is_last = first >= 0 and first + len(_HEAD_END) == len(seen)
            self._tail = seen[1 - len(_HEAD_END) :]
        else:
            self.head_is_last = False
            self._tail = data[1 - len(_HEAD_END) :]
        self._conn.receive_data(data)
        return self._events()

    def next_cycle(self) -> list[Event]:
        """Make ready for the next message and return the events of what has been pipelined.

        Raises:
            HttpError: as `receive`.

        """
        self._conn.start_next_cycle()
        self._owed = None
        return self._events()

    def _events(self) -> list[Event]:
        events: list[Event] = []
        next_event = self._conn.next_event
        try:
            while (event := next_event()) is not _NEED_DATA and event is not _CLOSED:
                events.append(event)  # type: ignore[arg-type]  # the sentinels end the loop
        except zttp.RemoteProtocolError as error:
            raise HttpError(str(error), 431 if "size limit" in str(error) else 400) from error
        return events

    def informational(self, status: int, headers: Headers | None = None) -> None:
        """Send an interim response such as 100 Continue."""
        self._conn.send_informational(status, headers or [])
        self._gather()

    def request(self, method: bytes, target: bytes, headers: Headers, *, body: bool) -> None:
        """Send a request head (client role); a body without `content-length` is sent chunked."""
        if body and not _has(headers, b"content-length"):
            headers = [*headers, (b"transfer-encoding", b"chunked")]
        self._conn.send_request(method, target, b"1.1", headers)

    def start(
        self,
        status: int,
        headers: Headers,
        *,
        version: str,
        bodyless: bool,
        to_head: bool = False,
        close: bool = False,
    ) -> None:
        """Send a response head.

        Args:
            status: from 200.
            headers: names in lower case.
            version: the request's HTTP version; "1.0" knows no chunks, so its body ends with the connection.
            bodyless: no body follows: HEAD, 204, 304, or the caller says so.
            to_head: the request was HEAD, so a length that is not told is not known (RFC 9110 section 8.6).
            close: tell the client that the connection ends with this response.

        Raises:
            ValueError: a header has a character that would break the head (RFC 9110 section 5.5).

        """
        length = next((value for name, value in headers if name == b"content-length"), None)
        self._until_close = length is None and not bodyless and version == "1.0"
        asked_to_close = self._conn.should_close()
        self._said_close = close
        if length is None and not bodyless and not self._until_close:
            # zttp says `connection: close` by itself where the client asked for it.
            closing = [(b"connection", b"close")] if close and not asked_to_close else []
            self._conn.send_response(status, [*headers, (b"transfer-encoding", b"chunked"), *closing])
            return
        if length is None and bodyless and not to_head and status not in (204, 304):
            headers = [*headers, (b"content-length", b"0")]
        if close or asked_to_close or self._until_close:
            headers = [*headers, (b"connection", b"close")]
        self._owed = 0 if bodyless or length is None else int(length)
        head = _head(status, headers)
        self._gather()
        self._conn.send_response(204)
        self._conn.end_message()
        self._conn.data_to_send()
        self._out.append(head)

    def push(self, data: bytes) -> None:
        """Send body bytes.

        Raises:
            ValueError: more than the declared length.

        """
        if self._owed is None:
            if data:
                self._conn.send_data(data)
        else:
            self.sent_aside(len(data))
            self._out.append(data)

    def sent_aside(self, count: int) -> None:
        """Note that `count` body bytes of known length went to the socket by another way (sendfile).

        Raises:
            ValueError: more than the declared length.

        """
        if self._owed is not None and not self._until_close:
            # A body that ends with the connection has no length to keep to.
            self._owed -= count
            if self._owed < 0:
                raise ValueError("the response body is longer than its content-length")

    def finish(self, trailers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """End the message; trailers go out on chunked bodies only.

        Raises:
            ValueError: less than the declared length was sent.

        """
        if self._owed is None:
            self._conn.end_message(list(trailers))
        elif self._owed:
            raise ValueError(f"the response body is {self._owed} bytes shorter than its content-length")

    def upgrade(self, headers: Headers) -> None:
        """Answer 101 (RFC 9110 section 15.2.2); what is pushed from now on is sent as it is.

        What comes from the client belongs to the other protocol and is not for `receive` any more.

        Raises:
            ValueError: as `start`.

        """
        head = _head(101, headers)
        self._gather()
        self._owed = 0
        self._until_close = True
        self._out.append(head)

    def fail(self, status: int, text: str) -> None:
        """Answer a request that could not be parsed; the connection closes after it."""
        body = text.encode() + b"\n"
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
        self._gather()
        self._out.append(_head(status, [*headers, (b"connection", b"close")]) + body)

    @property
    def counts_length(self) -> bool:
        """Whether the response is of known length, so that its body may go out by another way."""
        return self._owed is not None

    @property
    def has_output(self) -> bool:
        """Whether anything of a response of known length waits for `take`."""
        return bool(self._out)

    @property
    def must_close(self) -> bool:
        """Whether the connection ends with this message."""
        return self._until_close or self._said_close or self._conn.should_close()

    def _gather(self) -> None:
        """Put what zttp has encoded in its place before what is framed here."""
        self._out.append(self._conn.data_to_send())

    def take(self) -> bytes:
        """Return and clear the bytes to send."""
        data = self._conn.data_to_send()
        if self._out:
            data = b"".join(self._out) + data
            self._out.clear()
        return data


def _has(headers: Headers, name: bytes) -> bool:
    return any(key == name for key, _ in headers)


def _head(status: int, headers: Headers) -> bytes:
    """Encode a response head (RFC 9112 section 4)."""
    lines = [b"HTTP/1.1 %d %s" % (status, _REASONS.get(status, b""))]
    for name, value in headers:
        if _FORBIDDEN.intersection(name) or _FORBIDDEN.intersection(value):
            raise ValueError(f"header {name!r} has a line break or NUL in {value!r}")
        lines.append(name + b": " + value)
    return b"\r\n".join(lines) + b"\r\n\r\n"
