"""One client of a board over its WebSocket, in wire v1 or v2 of `protocols/whiteboard.md`."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, assert_never

import attrs
import trio

from fawa.board.commands import Resume
from fawa.board.effects import Ack, Refuse
from fawa.board.events import Problem
from fawa.board.tape import Batch
from fawa.board.wire import Wire
from fawa.board.wire_v1 import WireV1, decode_v1_untrusted
from fawa.board.wire_v2 import (
    CursorAt,
    Draw,
    Hello,
    Limits,
    Ping,
    Profile,
    WireV2,
    decode_v2_untrusted,
    encode_ack,
    encode_drain,
    encode_error,
    encode_hello,
    encode_pong,
)
from fawa.net.websocket import WebSocket, WebSocketLimits, text_frame
from fawa.rooms.room import RESTARTING, SERVER_FAILED, Answer, CannotJoin, Claim, Room, Seat
from fawa.rooms.rooms import Draining, TooManyBoards, UnknownBoard
from fawa.services.ratelimit import Bucket, Rate
from fawa.storage.base import StorageError

#: The subprotocol that asks for wire v2; who asks for none speaks v1.
V2: Final = "fawa.v2"

#: Close codes.
_NOT_TEXT: Final = 1003
_LOST: Final = 1006
_INVALID: Final = 4400
_NO_HELLO: Final = 4401
_GONE: Final = 4404

#: Seconds in which a v2 client says hello.
HELLO_TIMEOUT: Final = 10.0
#: A client with so many errors within so many seconds is closed.
MOST_ERRORS: Final = 20
ERROR_SPAN: Final = 60.0
#: After a message with so many events it is the others' turn.
_MANY: Final = 16
#: A client is asked to come back after so many milliseconds, each after another time between these.
_RETRY_AFTER: Final = (500, 5000)

_WIRE_V1: Final = WireV1(text_frame)
_WIRE_V2: Final = WireV2(text_frame)


@attrs.frozen(kw_only=True)
class SocketSettings:
    """What can be set about a client."""

    #: Bytes of one message.
    max_message: int = 64 * 1024
    #: Events that are taken from a client.
    event_rate: Rate = attrs.field(factory=lambda: Rate(2000, 1000))

    @property
    def limits(self) -> WebSocketLimits:
        """The limits of its WebSocket."""
        return WebSocketLimits(max_message=self.max_message)


@attrs.frozen
class _End(Exception):  # noqa: N818 - not an error
    """The connection is to be closed."""

    code: int
    reason: str


@attrs.define(eq=False)
class _Client:
    """A WebSocket as its room sees it, see `fawa.rooms.room.Connection`."""

    socket: WebSocket
    wire: Wire
    settings: SocketSettings
    #: What cancels the client's task.
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    #: How the room wants it closed.
    ending: _End | None = attrs.field(default=None, init=False)
    _bucket: Bucket = attrs.field(init=False)
    #: When there were errors; the newest of them.
    _errors: deque[float] = attrs.field(factory=lambda: deque(maxlen=MOST_ERRORS), init=False)

    def __attrs_post_init__(self) -> None:
        self._bucket = Bucket(self.settings.event_rate)

    # For the room.

    @property
    def is_flushed(self) -> bool:
        return self.socket.is_flushed

    def push(self, batch: Batch) -> bool:
        return self.socket.send_now(batch.data)

    def close(self, code: int, reason: str) -> None:
        self.ending = _End(code, reason)
        self.scope.cancel()

    # For the client's task.

    async def receive(self) -> bytes | None:
        """Return the next message, `None` when the client has gone.

        Raises:
            _End: it may not go on.

        """
        message = await self.socket.receive()
        if isinstance(message, str):
            return message.encode()
        if message is not None:
            raise _End(_NOT_TEXT, "messages are text, and a binary one came")
        if self.socket.draining and self.socket.is_open:
            raise _End(RESTARTING, "the server restarts")
        return None

    async def say(self, document: bytes) -> None:
        """Send a document; waits while the client takes nothing, so that answers do not gather."""
        self.socket.push(text_frame(document))
        await self.socket.drain()

    async def complain(self, problem: Problem) -> None:
        """Tell the client that a document is not valid.

        Raises:
            _End: that has happened too often.

        """
        await self.say(encode_error(problem))
        now = trio.current_time()
        self._errors.append(now)
        if len(self._errors) == MOST_ERRORS and now - self._errors[0] < ERROR_SPAN:
            raise _End(_INVALID, f"{MOST_ERRORS} documents within a minute were not valid: {problem.message}")

    async def pace(self, events: int) -> None:
        """Read on later where a client sends more than it may: what it sends then waits with it."""
        wait = self._bucket.spend(events, trio.current_time())
        if wait or events >= _MANY:
            # Also without a wait: what one message may hold takes the board milliseconds.
            await trio.sleep(wait)


async def serve_socket(
    socket: WebSocket, find: Callable[[], Awaitable[Room]], settings: SocketSettings
) -> None:
    """Serve a client from the opening handshake to the closing one.

    Args:
        socket: of the client; its subprotocol says which wire it speaks.
        find: returns the board.
        settings: what the client may take.

    Raises:
        Disconnected: the client is gone.

    """
    speaks_v2 = socket.subprotocol == V2
    client = _Client(socket, _WIRE_V2 if speaks_v2 else _WIRE_V1, settings)
    end: _End | None = None
    try:
        end = await _converse(client, find)
        if end is not None:
            if end.code == RESTARTING and speaks_v2:
                # Jitter, not a secret.
                socket.push(text_frame(encode_drain(random.randint(*_RETRY_AFTER))))  # noqa: S311
            await socket.close(end.code, end.reason)
    finally:
        code = socket.close_code or _LOST if end is None else end.code
        socket.exchange.label = f"websocket-{'v2' if speaks_v2 else 'v1'} {code}"


async def _converse(client: _Client, find: Callable[[], Awaitable[Room]]) -> _End | None:
    """Converse until the client has gone, or is to be closed as returned."""
    end: _End | None = None
    try:
        with client.scope:
            await (_speak_v2 if client.wire is _WIRE_V2 else _speak_v1)(client, find)
    except _End as said:
        end = said
    except CannotJoin as refused:
        end = _End(refused.code, refused.reason)
    except UnknownBoard:
        end = _End(_GONE, "the board is gone")
    except Draining as error:
        end = _End(RESTARTING, str(error))
    except (TooManyBoards, StorageError):
        end = _End(SERVER_FAILED, "the board cannot be brought back now")
    return client.ending or end


async def _speak_v1(client: _Client, find: Callable[[], Awaitable[Room]]) -> None:
    with (await find()).join(client) as seat:
        while (document := await client.receive()) is not None:
            event = decode_v1_untrusted(document)
            if isinstance(event, Problem):
                raise _End(_INVALID, event.message)
            # Nothing is told of a draw that was refused: v1 has no word for it.
            seat.draw(0, (event,))
            await client.pace(1)


async def _speak_v2(client: _Client, find: Callable[[], Awaitable[Room]]) -> None:
    hello = await _hello(client)
    if hello is None:
        return
    claim = None
    if (resume := hello.resume) is not None:
        claim = Claim(resume.client_id, resume.token, Resume(resume.epoch, resume.seq))
    with (await find()).join(client, hello.name, hello.color, claim) as seat:
        await client.say(_welcome(client, seat))
        while (document := await client.receive()) is not None:
            await client.pace(await _take(client, seat, document))


async def _hello(client: _Client) -> Hello | None:
    document = None
    with trio.move_on_after(HELLO_TIMEOUT) as waiting:
        document = await client.receive()
    if waiting.cancelled_caught:
        raise _End(_NO_HELLO, f"no hello came within {HELLO_TIMEOUT:g} s")
    if document is None:
        return None
    match decode_v2_untrusted(document):
        case Hello() as hello:
            return hello
        case Problem() as problem:
            raise _End(_NO_HELLO, f"the first document must be a hello: {problem.message}")
        case _:
            raise _End(_NO_HELLO, "the first document must be a hello, and something else came")


def _welcome(client: _Client, seat: Seat) -> bytes:
    welcome, settings = seat.welcome, client.settings
    return encode_hello(
        client_id=welcome.client_id,
        token=seat.token,
        code=seat.room.code,
        epoch=welcome.epoch,
        seq=welcome.seq,
        op=welcome.op,
        recovered=welcome.recovered,
        limits=Limits(
            message=settings.max_message,
            rate=int(settings.event_rate.per_second),
            ping=settings.limits.ping_interval,
        ),
        read_only=welcome.read_only,
    )


async def _take(client: _Client, seat: Seat, document: bytes) -> int:
    """Act on a document; returns for how many events it counts."""
    match decode_v2_untrusted(document):
        case Draw(op, events):
            for answer in seat.draw(op, events):
                await _answer(client, answer)
            return len(events)
        case CursorAt(x, y):
            seat.move(x, y)
        case Profile(name, color):
            seat.change(name, color)
        case Ping(number):
            await client.say(encode_pong(number))
        case Hello():
            await client.complain(Problem("unexpected_hello", "hello is said once, and was said before"))
        case Problem() as problem:
            await client.complain(problem)
        case message:
            assert_never(message)
    return 1


async def _answer(client: _Client, answer: Answer) -> None:
    match answer:
        case Ack(_, op):
            await client.say(encode_ack(op))
        case Refuse(_, op, problem):
            # No fault of the client's document, so it does not count.
            await client.say(encode_error(problem, op))
        case _:
            assert_never(answer)
