"""WebSocket (RFC 6455), server side, over an upgraded exchange of HTTP/1.1 or HTTP/2 (RFC 8441).

    socket = accept(exchange, allows=...)
    if socket is not None:
        while (message := await socket.receive()) is not None:
            await socket.send(message)
        await socket.close()

The task that receives answers pings, sends its own, and sees the closing handshake through, so a peer needs
no other task. Any task may `push` frames and `flush`: a server's frame is not masked, so one that
`text_frame` has made serves every peer. Compression is not offered.
"""

from __future__ import annotations

import binascii
import contextlib
from collections.abc import Callable, Sequence
from typing import Final, cast

import attrs
import trio
from wsproto.frame_protocol import CloseReason, Frame, FrameDecoder, FrameProtocol, Opcode, ParseFailed
from wsproto.utilities import generate_accept_token

from fawa.net.cors import may_connect
from fawa.net.exchange import BodyTimeout, Disconnected, Exchange, Headers, Interrupted

__all__ = [
    "METHODS",
    "CloseReason",
    "WebSocket",
    "WebSocketLimits",
    "accept",
    "admit",
    "binary_frame",
    "text_frame",
]

#: What a route that answers with a WebSocket takes: HTTP/1.1 asks by GET, HTTP/2 by CONNECT.
METHODS: Final = ("GET", "CONNECT")

_VERSION: Final = b"13"
#: Frames taken out of what has been received before other tasks have their turn.
_BURST: Final = 64
#: Pongs queued towards a peer that does not take them; further ones are left out.
_MOST_PONGS: Final = 64
#: Makes control frames, for which it needs no state.
_CONTROL: Final = FrameProtocol(client=False, extensions=[])
_PING: Final = bytes(_CONTROL.ping())


@attrs.frozen
class WebSocketLimits:
    """What one WebSocket may take. Times are seconds, sizes bytes."""

    #: A message's payload, all its fragments together.
    max_message: int = 64 * 1024
    #: Of silence after which the peer is asked whether it is there.
    ping_interval: float = 25.0
    #: Of silence after that, after which it is not.
    pong_timeout: float = 8.0
    #: From our close frame to the peer's.
    close_timeout: float = 3.0


_LIMITS: Final = WebSocketLimits()


def text_frame(payload: bytes) -> bytes:
    """Return a whole text message of UTF-8 bytes as a server sends it."""
    return _frame(Opcode.TEXT, payload)


def binary_frame(payload: bytes) -> bytes:
    """Return a whole binary message as a server sends it."""
    return _frame(Opcode.BINARY, payload)


def _frame(opcode: int, payload: bytes) -> bytes:
    """Encode an unfragmented frame without a mask (RFC 6455 section 5.2)."""
    size = len(payload)
    first = 0x80 | opcode
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


# The opening handshake


def admit(exchange: Exchange, allows: Callable[[str], bool]) -> bool:
    """Look at an opening handshake (RFC 6455 section 4.2); returns whether `accept` will take it.

    If not, it has been answered with what is wrong. For routes that look at something else of the request
    between this and `accept`.

    Args:
        exchange: not answered yet.
        allows: whether a page of this origin, such as `https://app.example`, may connect. A page from the
            host that it connects to always may, and what is not a browser names no origin.

    """
    if exchange.protocol != "websocket":
        _refuse_other(exchange)
        return False
    if (version := exchange.header(b"sec-websocket-version", b"")) != _VERSION:
        text = f"WebSocket version {version.decode('latin-1')!r} is not known, only 13 is"
        status = 400 if exchange.version == "2" else 426
        _refuse(exchange, status, text, [(b"sec-websocket-version", _VERSION)])
        return False
    if exchange.version != "2" and not _is_key(exchange.header(b"sec-websocket-key", b"")):
        _refuse(exchange, 400, "sec-websocket-key has to be 16 bytes in base64")
        return False
    return may_connect(exchange, allows)


def accept(
    exchange: Exchange,
    *,
    allows: Callable[[str], bool],
    subprotocols: Sequence[str] = (),
    limits: WebSocketLimits = _LIMITS,
) -> WebSocket | None:
    """Answer an opening handshake; returns `None` where the answer was a refusal.

    Args:
        exchange: not answered yet.
        allows: see `admit`.
        subprotocols: those spoken here, by preference; none is chosen when the client offers none of them.
        limits: what the peer may take.

    Raises:
        Disconnected: as `Exchange.upgrade`.

    """
    if not admit(exchange, allows):
        return None
    headers: Headers = []
    if exchange.version != "2":
        key = exchange.header(b"sec-websocket-key", b"")
        headers.append((b"sec-websocket-accept", generate_accept_token(key)))
    chosen = _choose(exchange, subprotocols)
    if chosen is not None:
        headers.append((b"sec-websocket-protocol", chosen.encode("ascii")))
    exchange.upgrade(headers)
    return WebSocket(exchange, chosen, limits)


def _refuse_other(exchange: Exchange) -> None:
    """Answer a request that asks for no WebSocket: say how to ask for one."""
    if exchange.version == "2":
        text = f"{exchange.path} is a WebSocket: connect by extended CONNECT (RFC 8441)"
        _refuse(exchange, 400, text)
    else:
        text = f"{exchange.path} is a WebSocket: connect with upgrade: websocket"
        _refuse(exchange, 426, text, [(b"sec-websocket-version", _VERSION)])


def _refuse(exchange: Exchange, status: int, text: str, headers: Headers | None = None) -> None:
    if status == 426:
        headers = [*(headers or []), (b"upgrade", b"websocket"), (b"connection", b"upgrade")]
    exchange.respond_text(status, text, headers)


def _is_key(key: bytes) -> bool:
    try:
        return len(binascii.a2b_base64(key, strict_mode=True)) == 16
    except binascii.Error:
        return False


def _choose(exchange: Exchange, subprotocols: Sequence[str]) -> str | None:
    """Return the first of `subprotocols` that the client offers."""
    offers = b",".join(value for name, value in exchange.headers if name == b"sec-websocket-protocol")
    offered = {offer.strip() for offer in offers.decode("latin-1").split(",")}
    return next((name for name in subprotocols if name in offered), None)


# The connection


@attrs.define(eq=False)
class WebSocket:
    """The server's end of a WebSocket; one task receives."""

    _exchange: Exchange
    #: The subprotocol agreed on.
    subprotocol: str | None
    _limits: WebSocketLimits
    #: Why it ended, once it has: the peer's close code (1005: it gave none), or ours where the peer broke a
    #: rule; 1006 where it ended without a closing handshake.
    close_code: int | None = attrs.field(default=None, init=False)
    close_reason: str = attrs.field(default="", init=False)
    _decoder: FrameDecoder = attrs.field(factory=lambda: FrameDecoder(client=False), init=False)
    #: Of the message that is under way.
    _opcode: Opcode | None = attrs.field(default=None, init=False)
    #: Its payload so far; at most `max_message` bytes.
    _payload: bytearray = attrs.field(factory=bytearray, init=False)
    _frames: int = attrs.field(default=0, init=False)
    #: Payload of the newest ping that waits for its answer: one answers those before it (section 5.5.3).
    _ping: bytes | None = attrs.field(default=None, init=False)
    _pongs: int = attrs.field(default=0, init=False)
    _asked: bool = attrs.field(default=False, init=False)
    _told_drain: bool = attrs.field(default=False, init=False)
    _sent_close: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._exchange.label = "websocket"
        self._exchange.body_timeout = self._limits.ping_interval

    @property
    def exchange(self) -> Exchange:
        """The request it was opened with."""
        return self._exchange

    @property
    def draining(self) -> bool:
        """Whether the daemon shuts down: say so to the peer, and close with 1012."""
        return self._exchange.draining

    @property
    def is_open(self) -> bool:
        """Whether frames that are pushed can still reach the peer."""
        return self.close_code is None and not self._sent_close

    # Receiving: by the one task.

    async def receive(self) -> str | bytes | None:
        """Return the next message, text as `str`; `None` when it is over, or once when the daemon drains.

        It is over when `close_code` is set. A peer that breaks a rule has been told by then: 1002 for a
        protocol error, 1007 for text that is not UTF-8, 1009 for a message above the limit. Nothing is lost
        when a deadline of the caller's cancels it.
        """
        while self.close_code is None:
            if self._sent_close:
                await self._await_close()
                return None
            if self.draining and not self._told_drain:
                self._told_drain = True
                return None
            if self._frames >= _BURST:
                self._frames = 0
                await trio.lowlevel.checkpoint()
            try:
                frame = self._next_frame()
                message = None if frame is None else self._take(frame)
            except ParseFailed as error:
                self._fail(error.code, str(error))
                return None
            if message is not None:
                self._answer_ping()
                return message
            if frame is None:
                self._answer_ping()
                await self._read()
        return None

    def _next_frame(self) -> Frame | None:
        """Return the next frame, or the next piece of a data frame; `None` when more has to come first.

        Raises:
            ParseFailed: it breaks a rule, or declares more than a message may have.

        """
        decoder = self._decoder
        begins = decoder.header is None and decoder.parse_header()
        head = decoder.header
        if begins and head is not None:
            self._frames += 1
            declared = 0 if head.opcode.iscontrol() else head.payload_len
            if len(self._payload) + declared > self._limits.max_message:
                text = f"a message has at most {self._limits.max_message} bytes"
                raise ParseFailed(text, CloseReason.MESSAGE_TOO_BIG)
        return decoder.process_buffer()  # which tries a head that was not whole once more, in vain

    def _take(self, frame: Frame) -> str | bytes | None:
        """Act on a frame; returns the message that it completes.

        Raises:
            ParseFailed: it must not come here, or the message is not UTF-8.

        """
        payload = _bytes_of(frame)
        opcode = frame.opcode
        if opcode.iscontrol():
            if opcode is Opcode.PING:
                self._ping = payload
            elif opcode is Opcode.CLOSE:
                self._take_close(payload)
            return None
        if opcode is Opcode.CONTINUATION:
            if self._opcode is None:
                raise ParseFailed("a continuation frame continues nothing")
        elif self._opcode is not None:
            raise ParseFailed("a message begins before the last has ended")
        else:
            self._opcode = opcode
        if not (frame.frame_finished and frame.message_finished):
            self._payload += payload
            return None
        if self._payload:
            self._payload += payload
            payload, self._payload = bytes(self._payload), bytearray()
        is_text = self._opcode is Opcode.TEXT
        self._opcode = None
        return _decoded(payload) if is_text else payload

    def _take_close(self, payload: bytes) -> None:
        """Answer the peer's close frame, or see that it has answered ours."""
        code, reason = _close_of(payload)
        if not self._sent_close:
            # The answer tells the same code (section 5.5.1).
            self._say(bytes(_CONTROL.close(None if code == CloseReason.NO_STATUS_RCVD else code)))
        self._end(code, reason)

    async def _read(self) -> None:
        """Wait for bytes from the peer; ask for a sign of life when it is silent, then give it up."""
        exchange = self._exchange
        try:
            data = await exchange.receive()
        except BodyTimeout:
            if self._asked:
                self._cut(f"the peer was silent for {self._limits.pong_timeout:g} s after a ping")
            else:
                self._asked = True
                exchange.body_timeout = self._limits.pong_timeout
                self._say(_PING)
        except Interrupted:
            pass
        except Disconnected as error:
            self._cut(str(error))
        else:
            if self._asked:
                self._asked = False
                exchange.body_timeout = self._limits.ping_interval
            if data:
                self._decoder.receive_bytes(data)
            else:
                self._end(CloseReason.ABNORMAL_CLOSURE, "the peer ended without a close frame")

    def _answer_ping(self) -> None:
        """Answer the newest ping, unless the peer takes no answers."""
        if self._ping is None:
            return
        if self._exchange.is_flushed:
            self._pongs = 0
        if self._pongs < _MOST_PONGS:
            self._pongs += 1
            self._say(bytes(_CONTROL.pong(self._ping)))
        self._ping = None

    # Sending: by any task.

    def push(self, frame: bytes) -> None:
        """Queue whole frames, such as `text_frame` makes; once it is over they are dropped."""
        if self.is_open:
            with contextlib.suppress(Disconnected):  # which the task that receives is about to learn
                self._exchange.push(frame)

    def flush(self) -> None:
        """Hand what is queued to the socket, without waiting: see `Exchange.flush`."""
        self._exchange.flush()

    def send_now(self, frame: bytes) -> bool:
        """Push whole frames and flush; returns `is_flushed`."""
        if self.is_open:
            try:
                return self._exchange.send_now(frame)
            except Disconnected:
                pass  # which the task that receives is about to learn
        return self.is_flushed

    @property
    def is_flushed(self) -> bool:
        """Whether the socket has taken all that was pushed; False too when the peer is gone."""
        return self._exchange.is_flushed

    async def wait_flushed(self) -> None:
        """Wait until the socket has taken all that was pushed.

        Raises:
            Disconnected: the peer is gone, or took nothing for the connection's write timeout.

        """
        await self._exchange.wait_flushed()

    async def drain(self) -> None:
        """Flush, and wait until little enough is queued for more.

        Raises:
            Disconnected: as `wait_flushed`.

        """
        await self._exchange.drain()

    async def send(self, message: str | bytes) -> None:
        """Send a message, and wait while the peer is slower than the sender.

        Raises:
            Disconnected: as `wait_flushed`.

        """
        self.push(text_frame(message.encode()) if isinstance(message, str) else binary_frame(message))
        await self.drain()

    def _say(self, frame: bytes) -> None:
        self.push(frame)
        self.flush()

    # Closing.

    def start_close(self, code: int = CloseReason.NORMAL_CLOSURE, reason: str = "") -> None:
        """Send a close frame. For other tasks: `receive` sees the handshake through, and returns `None`.

        What is pushed afterwards is dropped. Of `reason`, 123 bytes of UTF-8 are sent at most.
        """
        if self.is_open:
            self._say(bytes(_CONTROL.close(code, reason)))
            self._sent_close = True
            self._exchange.interrupt()

    async def close(self, code: int = CloseReason.NORMAL_CLOSURE, reason: str = "") -> None:
        """Send a close frame and wait for the peer's, for `close_timeout` at most; nothing once it is over.

        For the task that receives.
        """
        self.start_close(code, reason)
        if self.close_code is None:
            await self._await_close()

    async def _await_close(self) -> None:
        """Read on to the peer's close frame; messages that cross ours are thrown away (section 1.4)."""
        with trio.move_on_after(self._limits.close_timeout):
            while self.close_code is None:
                try:
                    frame = self._decoder.process_buffer()
                    if frame is not None and frame.opcode is Opcode.CLOSE:
                        self._take_close(_bytes_of(frame))
                except ParseFailed as error:
                    self._end(error.code, str(error))
                else:
                    if frame is None:
                        await self._read()
                    else:
                        await trio.lowlevel.checkpoint()
        if self.close_code is None:
            self._cut(f"the peer did not answer the close frame for {self._limits.close_timeout:g} s")

    def _fail(self, code: int, reason: str) -> None:
        """Tell the peer which rule it broke, and end (section 7.1.7)."""
        self._say(bytes(_CONTROL.close(code, reason)))
        self._end(code, reason)

    def _cut(self, reason: str) -> None:
        """End without a word."""
        self._exchange.abort()
        self._note(CloseReason.ABNORMAL_CLOSURE, reason)

    def _end(self, code: int, reason: str) -> None:
        """End our side after the last frame; the connection lets the peer read it."""
        with contextlib.suppress(Disconnected):  # it is over either way
            self._exchange.finish()
            self._exchange.flush()
        self._note(code, reason)

    def _note(self, code: int, reason: str) -> None:
        self.close_code, self.close_reason = int(code), reason
        self._payload = bytearray()
        self._exchange.label = f"websocket {self.close_code}"


def _bytes_of(frame: Frame) -> bytes:
    # The type allows for what wsproto's other classes make of it.
    return cast("bytes", frame.payload)


def _decoded(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise ParseFailed(f"text is not UTF-8: {error}", CloseReason.INVALID_FRAME_PAYLOAD_DATA) from error


def _close_of(payload: bytes) -> tuple[int, str]:
    """Return the code and reason in a close frame (section 7.4).

    Raises:
        ParseFailed: no peer may say so.

    """
    if not payload:
        return CloseReason.NO_STATUS_RCVD, ""
    code = int.from_bytes(payload[:2], "big")
    if len(payload) < 2 or not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise ParseFailed(f"{payload[:2]!r} is no close code")
    return code, _decoded(payload[2:])
