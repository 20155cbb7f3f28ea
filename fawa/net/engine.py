"""HTTP/2 without I/O. This module and `engine_http1` are the only ones that touch zttp.

Both engines are fed bytes (`receive`), return events, and gather bytes to send (`take`). To replace zttp,
give another library's events these names and write these two classes; nothing else knows which one it is.

zttp gives flow-control window back as soon as bytes are parsed. `H2Engine` holds those WINDOW_UPDATE frames
back until the application has consumed what came (`release`), so a slow reader stops its own stream's peer
and no other stream (RFC 9113 section 5.2). It also widens the windows beyond zttp's 65,535 octets. Large
content goes past zttp both ways: see `fawa.net.frames`.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Final

import attrs
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

from fawa.net.frames import Bulk, Credit, Sieve, data_frames, window_update

__all__ = [
    "MAX_HEADER_BYTES",
    "MAX_REQUESTS",
    "PREFACE",
    "Bulk",
    "Credit",
    "Data",
    "EndOfMessage",
    "Event",
    "GoAway",
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
Event = (
    Request
    | Response
    | Data
    | Bulk
    | EndOfMessage
    | RstStream
    | GoAway
    | Ping
    | WindowUpdate
    | Credit
    | Settings
)

#: What an HTTP/2 client sends first (RFC 9113 section 3.4).
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#: zttp ends an HTTP/2 connection with ENHANCE_YOUR_CALM at its 4,097th request; move to a new one before.
MAX_REQUESTS: Final = 4096
#: The header list size zttp announces and enforces, in bytes.
MAX_HEADER_BYTES: Final = 65536

_INITIAL_WINDOW: Final = 65535
_FRAME_HEADER: Final = 9
_WINDOW_UPDATE: Final = 8
#: Bytes of data up to which zttp frames them faster than is done here.
_SMALL: Final = 4096
_SCHEME_HTTPS: Final = b"\x06\x05https"
_SCHEME_HTTP: Final = b"\x86"
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


@attrs.define(eq=False)
class _Waiting:
    """What a stream has to send and has not framed: zttp never gets what it would have to hold back."""

    handle: zttp.Stream
    pieces: deque[memoryview] = attrs.field(factory=deque, init=False)
    #: Bytes in `pieces`.
    size: int = attrs.field(default=0, init=False)
    #: Set once the message ends behind them.
    trailers: Headers | None = attrs.field(default=None, init=False)


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
        self._sieve = Sieve(len(PREFACE) if role is Role.SERVER else 0)
        #: What waits for `take`, by stream, in the order of their turns.
        self.waiting: dict[int, _Waiting] = {}
        self._out: list[bytes | memoryview] = []
        self._conn.initiate_connection()
        self._out.append(self._conn.data_to_send())
        if connection_window > _INITIAL_WINDOW:
            self._out.append(window_update(0, connection_window - _INITIAL_WINDOW))

    def receive(self, data: bytes) -> list[Event]:
        """Parse received bytes (`b""` = end of input) and return the events in them.

        Raises:
            HttpError: the connection cannot go on; send what `take` returns, then close.

        """
        conn = self._conn
        if gathered := conn.data_to_send():
            self._out.append(gathered)
        events: list[Event] = []
        sieve = self._sieve
        try:
            if not sieve.has_work or not data:
                self._parse(sieve.skip(data), events)
            else:
                for part in sieve.sift(data):
                    if isinstance(part, bytes):
                        self._parse(part, events)
                    else:
                        events.append(part)
                        if isinstance(part, Bulk):
                            self._hold(part.stream_id, len(part.data))
        except zttp.RemoteProtocolError as error:
            raise HttpError(str(error)) from error
        finally:
            if answer := conn.data_to_send():
                self._out.append(self._hold_windows(answer))
        return events

    def _parse(self, data: bytes, events: list[Event]) -> None:
        self._conn.receive_data(data)
        next_event = self._conn.next_event
        while (event := next_event()) is not _NEED_DATA and event is not _CLOSED:
            events.append(event)  # type: ignore[arg-type]  # the sentinels end the loop
            if self.waiting and isinstance(event, RstStream):
                self.waiting.pop(event.stream_id, None)

    def _hold(self, stream_id: int, size: int) -> None:
        """Note window that a bulk stream has used up."""
        for key in (0, stream_id):
            self._held[key] = self._held.get(key, 0) + size

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
        self._out.append(window_update(stream_id, increment))
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
        sieve = self._sieve
        if self._widened or sieve.bulk or sieve.spent:
            self._widened.discard(stream_id)
            sieve.bulk.discard(stream_id)
            if stream_id not in self.waiting:
                sieve.spent.pop(stream_id, None)

    def expect_bulk(self, stream_id: int) -> None:
        """Take the stream's DATA past zttp from now on, as `Bulk`.

        For a body that goes on and has no `content-length`, because zttp counts what has one.
        """
        self._sieve.bulk.add(stream_id)

    def take(self) -> bytes:
        """Return and clear the bytes to send."""
        gathered = self._conn.data_to_send()
        if not self._out and not self.waiting:
            return gathered
        self._out.append(gathered)
        for waiting in list(self.waiting.values()):
            self._frame(waiting)
        data = b"".join(self._out)
        self._out.clear()
        return data

    def _frame(self, waiting: _Waiting) -> None:
        """Frame what the peer's windows let pass, and the end of the message once it is all that is left."""
        handle, pieces, spent = waiting.handle, waiting.pieces, self._sieve.spent
        stream_id = handle.stream_id
        size = room = self._room(handle)
        while pieces and room > 0:
            piece = pieces.popleft()
            if len(piece) > room:
                pieces.appendleft(piece[room:])
                piece = piece[:room]
            self._out += data_frames(stream_id, piece)
            room -= len(piece)
        size -= room
        if not size and pieces:
            return
        waiting.size -= size
        spent[0] = spent.get(0, 0) + size
        spent[stream_id] = spent.get(stream_id, 0) + size
        del self.waiting[stream_id]
        if pieces:
            self.waiting[stream_id] = waiting  # behind the others, whose turn it is now
        elif waiting.trailers is not None:
            try:
                handle.end_message(waiting.trailers)
            except zttp.LocalProtocolError:
                # Whoever gave these trailers is gone, and the writer must not end for them.
                handle.reset(H2ErrorCode.INTERNAL_ERROR)
            self._out.append(self._conn.data_to_send())

    def _room(self, handle: zttp.Stream) -> int:
        """Return how much the peer's windows let pass on a stream now."""
        on_all, on_stream = self._conn.send_window, handle.send_window or 0
        if spent := self._sieve.spent:
            on_all -= spent.get(0, 0)
            on_stream -= spent.get(handle.stream_id, 0)
        return on_all if on_all < on_stream else on_stream

    def stream(self, stream_id: int) -> zttp.Stream:
        """Return the handle on which a stream's head is sent; the rest is sent by the methods below."""
        return self._conn.stream(stream_id)

    def send_data(self, stream: zttp.Stream, data: bytes) -> None:
        """Send body bytes as the peer's windows have room for them.

        Small data that has room goes to zttp. Other data waits for `take`, which puts frame headers between
        views of it.
        """
        size = len(data)
        if size <= _SMALL and not self.waiting and not self._sieve.spent:
            # All went through zttp, so it knows the windows: what a unary call sends spares itself the rest.
            on_stream = stream.send_window
            if on_stream is not None and size <= on_stream and size <= self._conn.send_window:
                stream.send_data(data)
                return
        waiting = self.waiting.get(stream.stream_id)
        if waiting is None:
            if (size <= _SMALL and size <= self._room(stream)) or stream.send_window is None:
                stream.send_data(data)
                return
            if not size:
                return
            waiting = self.waiting[stream.stream_id] = _Waiting(stream)
        waiting.pieces.append(memoryview(data))
        waiting.size += size

    def end_message(self, stream: zttp.Stream, trailers: Headers) -> None:
        """End a stream's message behind all its data."""
        if self.waiting and (waiting := self.waiting.get(stream.stream_id)) is not None:
            waiting.trailers = trailers
            # At once, so that what the windows let pass is pending no more, and its call over.
            self._out.append(self._conn.data_to_send())
            self._frame(waiting)
        else:
            stream.end_message(trailers)

    def reset(self, stream: zttp.Stream, code: int) -> None:
        """End a stream at once; what waits is dropped."""
        self.waiting.pop(stream.stream_id, None)
        stream.reset(code)

    def pending(self, stream_id: int) -> int:
        """Return how many bytes of a stream wait for `take` or for the peer's windows."""
        return self.waiting[stream_id].size if stream_id in self.waiting else 0

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
