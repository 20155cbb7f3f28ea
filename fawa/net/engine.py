"""HTTP/1.1 and HTTP/2 without I/O: the one module that touches zttp.

Both engines are fed bytes (`receive`), return events, and gather bytes to send (`take`). To replace zttp,
give another library's events these names and write these two classes; nothing else knows which one it is.

zttp gives flow-control window back as soon as bytes are parsed. `H2Engine` holds those WINDOW_UPDATE frames
back until the application has consumed what came (`release`), so a slow reader stops its own stream's peer
and no other stream (RFC 9113 section 5.2). It also widens the windows beyond zttp's 65,535 octets.
"""

from __future__ import annotations

import enum
import http
from collections.abc import Iterable
from typing import Final

import zttp
from zttp import (
    Data,
    EndOfMessage,
    GoAway,
    H2ErrorCode,
    Ping,
    Request,
    Response,
    RstStream,
    Settings,
    WindowUpdate,
)

__all__ = [
    "MAX_HEADER_BYTES",
    "MAX_REQUESTS",
    "PREFACE",
    "Data",
    "EndOfMessage",
    "Event",
    "GoAway",
    "H1Engine",
    "H2Engine",
    "H2ErrorCode",
    "Headers",
    "HttpError",
    "Ping",
    "Request",
    "Response",
    "Role",
    "RstStream",
    "Settings",
    "WindowUpdate",
    "header_list",
]

Headers = list[tuple[bytes, bytes]]
Event = Request | Response | Data | EndOfMessage | RstStream | GoAway | Ping | WindowUpdate | Settings

#: What an HTTP/2 client sends first (RFC 9113 section 3.4).
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#: zttp ends an HTTP/2 connection with ENHANCE_YOUR_CALM at its 4,097th request; move to a new one before.
MAX_REQUESTS: Final = 4096
#: The header list size zttp announces and enforces, in bytes.
MAX_HEADER_BYTES: Final = 65536

_INITIAL_WINDOW: Final = 65535
_FRAME_HEADER: Final = 9
_WINDOW_UPDATE: Final = 8
_SCHEME_HTTPS: Final = b"\x06\x05https"
_SCHEME_HTTP: Final = b"\x86"
_REASONS: Final = {status.value: status.phrase.encode() for status in http.HTTPStatus}
_FORBIDDEN: Final = frozenset(b"\r\n\0")
_HEAD_END: Final = b"\r\n\r\n"
_NEED_DATA: Final = zttp.NEED_DATA
_CLOSED: Final = zttp.CONNECTION_CLOSED


class Role(enum.Enum):
    """Which side of the connection an engine plays."""

    SERVER = zttp.SERVER
    CLIENT = zttp.CLIENT


class HttpError(Exception):
    """The peer's bytes are not valid HTTP; what has to be said to it is already among the bytes to send.

    `status` is what an HTTP/1.1 server answers: 400, or 431 for a head beyond the size limit.
    """

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


def header_list(head: Request | Response) -> Headers:
    """Return the header fields in order with names in lower case."""
    headers = head.headers
    return headers if isinstance(headers, list) else headers.to_list(lowercase_names=True)


def _window_update(stream_id: int, increment: int) -> bytes:
    """Encode one WINDOW_UPDATE frame (RFC 9113 section 6.9)."""
    return b"\0\0\4\x08\0" + stream_id.to_bytes(4, "big") + increment.to_bytes(4, "big")


def _say_http(head: bytes, method: bytes) -> bytes:
    """Return a request's frames with `:scheme http`: zttp knows only `https`.

    Servers may refuse a scheme that is not their connection's (RFC 9113 section 8.3.1). zttp writes it
    second, as a literal that enters no table; a reference to the static table (RFC 7541 appendix A) takes
    its place.
    """
    start = _FRAME_HEADER + 2 + len(method)
    end = start + len(_SCHEME_HTTPS)
    if head[start:end] != _SCHEME_HTTPS:
        raise RuntimeError("zttp encodes :scheme in another way than before")
    length = int.from_bytes(head[:3], "big") + len(_SCHEME_HTTP) - len(_SCHEME_HTTPS)
    return b"".join((length.to_bytes(3, "big"), head[3:start], _SCHEME_HTTP, head[end:]))


class H2Engine:
    """One HTTP/2 connection.

    Sending on a stream that the peer has reset is an error of the caller's: see `RstStream`.
    """

    def __init__(self, role: Role, *, stream_window: int, connection_window: int) -> None:
        self._conn = zttp.Connection(role.value, zttp.HTTP2)
        self._widen_by = max(0, stream_window - _INITIAL_WINDOW)
        #: Window that was earned by parsing and waits for `release`; key 0 is the connection.
        self._held: dict[int, int] = {}
        self._widened: set[int] = set()
        self._out: list[bytes] = []
        self._conn.initiate_connection()
        self._out.append(self._conn.data_to_send())
        if connection_window > _INITIAL_WINDOW:
            self._out.append(_window_update(0, connection_window - _INITIAL_WINDOW))

    def receive(self, data: bytes) -> list[Event]:
        """Parse received bytes (`b""` = end of input) and return the events in them.

        Raises:
            HttpError: the connection cannot go on; send what `take` returns, then close.

        """
        conn = self._conn
        if gathered := conn.data_to_send():
            self._out.append(gathered)
        events: list[Event] = []
        next_event = conn.next_event
        try:
            conn.receive_data(data)
            while (event := next_event()) is not _NEED_DATA and event is not _CLOSED:
                events.append(event)  # type: ignore[arg-type]  # the sentinels end the loop
        except zttp.RemoteProtocolError as error:
            raise HttpError(str(error)) from error
        finally:
            if answer := conn.data_to_send():
                self._out.append(self._hold_windows(answer))
        return events

    def _hold_windows(self, frames: bytes) -> bytes:
        """Take the WINDOW_UPDATE frames out of `frames` and note their credit."""
        kept: list[bytes] = []
        start = position = 0
        while position < len(frames):
            end = position + _FRAME_HEADER + int.from_bytes(frames[position : position + 3], "big")
            if frames[position + 3] == _WINDOW_UPDATE:
                stream_id = int.from_bytes(frames[position + 5 : position + 9], "big")
                increment = int.from_bytes(frames[position + 9 : end], "big")
                self._held[stream_id] = self._held.get(stream_id, 0) + increment
                kept.append(frames[start:position])
                start = end
            position = end
        kept.append(frames[start:])
        return b"".join(kept)

    def release(self, stream_id: int, keep: int = 0) -> bool:
        """Give the peer the window it has earned on a stream or on the connection (0), but for `keep` octets.

        Called when the application has consumed; returns whether there was anything to give.
        """
        increment = self._held.get(stream_id, 0) - keep
        if increment <= 0:
            return False
        if keep:
            self._held[stream_id] = keep
        else:
            del self._held[stream_id]
        if stream_id and self._widen_by and stream_id not in self._widened:
            # Only streams that carry more than a few messages get here, so short calls cost no frame.
            self._widened.add(stream_id)
            increment += self._widen_by
        self._out.append(_window_update(stream_id, increment))
        return True

    @property
    def holds_windows(self) -> bool:
        """Whether any window waits for `release`."""
        return bool(self._held)

    @property
    def held_streams(self) -> list[int]:
        """The streams, without the connection, on which window waits for `release`."""
        return [stream_id for stream_id in self._held if stream_id]

    def forget(self, stream_id: int) -> None:
        """Drop what is held for a stream that has ended."""
        self._held.pop(stream_id, None)
        self._widened.discard(stream_id)

    def take(self) -> bytes:
        """Return and clear the bytes to send."""
        gathered = self._conn.data_to_send()
        if not self._out:
            return gathered
        self._out.append(gathered)
        data = b"".join(self._out)
        self._out.clear()
        return data

    def stream(self, stream_id: int) -> zttp.Stream:
        """Return the handle on which a stream's head, data and trailers are sent."""
        return self._conn.stream(stream_id)

    def request(
        self, method: bytes, target: bytes, headers: Headers, *, scheme: bytes = b"https"
    ) -> zttp.Stream:
        """Open a stream with a request head (client role); `scheme` is `http` or `https`."""
        self._out.append(self._conn.data_to_send())
        stream = self._conn.send_request(method, target, b"2", headers)
        head = self._conn.data_to_send()
        self._out.append(head if scheme == b"https" else _say_http(head, method))
        return stream

    def ping(self, payload: bytes) -> None:
        """Send a PING of 8 octets; its answer is a `Ping` event with `ack` set."""
        self._out.append(self._conn.data_to_send())
        self._out.append(b"\0\0\x08\x06\0\0\0\0\0" + payload)

    def goaway(self, last_stream_id: int, code: int = H2ErrorCode.NO_ERROR) -> None:
        """Announce the end of the connection (RFC 9113 section 6.8)."""
        self._conn.close(code, last_stream_id)


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

    def informational(self, status: int) -> None:
        """Send an interim response such as 100 Continue."""
        self._conn.send_informational(status)
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
