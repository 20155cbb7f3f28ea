"""One client of a board, in wire v1 or v2 of `protocols/whiteboard.md`, over whatever brings its documents.

`canva_socket` and `canva_session` are what does: a `Client` each.
"""

from __future__ import annotations

import abc
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
from fawa.board.wire_v1 import decode_v1_untrusted
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
    encode_error,
    encode_hello,
    encode_pong,
)
from fawa.rooms.room import RESTARTING, SERVER_FAILED, Answer, CannotJoin, Claim, Room, Seat
from fawa.rooms.rooms import Draining, TooManyBoards, UnknownBoard
from fawa.services.ratelimit import Bucket, Rate
from fawa.storage.base import StorageError

#: The subprotocol that asks for wire v2; who asks for none speaks v1.
V2: Final = "fawa.v2"

#: Close codes.
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
RETRY_AFTER: Final = (500, 5000)


@attrs.frozen(kw_only=True)
class SocketSettings:
    """What can be set about a client."""

    #: Bytes of one message.
    max_message: int = 64 * 1024
    #: Events that are taken from a client.
    event_rate: Rate = attrs.field(factory=lambda: Rate(2000, 1000))


@attrs.frozen
class End(Exception):  # noqa: N818 - not an error
    """The connection is to be closed."""

    code: int
    reason: str


@attrs.define(eq=False)
class Client(abc.ABC):
    """A client as its room sees it, see `fawa.rooms.room.Connection`, and as it converses."""

    wire: Wire
    settings: SocketSettings
    #: What cancels the client's task.
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    #: How the room wants it closed.
    ending: End | None = attrs.field(default=None, init=False)
    _bucket: Bucket = attrs.field(init=False)
    #: When there were errors; the newest of them.
    _errors: deque[float] = attrs.field(factory=lambda: deque(maxlen=MOST_ERRORS), init=False)

    def __attrs_post_init__(self) -> None:
        self._bucket = Bucket(self.settings.event_rate)

    # For the room.

    @property
    @abc.abstractmethod
    def is_flushed(self) -> bool:
        """See `fawa.rooms.room.Connection`."""

    @abc.abstractmethod
    def push(self, batch: Batch) -> bool:
        """See `fawa.rooms.room.Connection`."""

    def close(self, code: int, reason: str) -> None:
        """See `fawa.rooms.room.Connection`."""
        self.ending = End(code, reason)
        self.scope.cancel()

    # For the client's task.

    @property
    @abc.abstractmethod
    def ping_interval(self) -> float:
        """Seconds between the server's pings."""

    @abc.abstractmethod
    async def receive(self) -> bytes | None:
        """Return the next document, `None` when the client has gone.

        Raises:
            End: it may not go on.

        """

    @abc.abstractmethod
    async def say(self, document: bytes) -> None:
        """Send a document; waits while the client takes nothing, so that answers do not gather."""

    async def complain(self, problem: Problem) -> None:
        """Tell the client that a document is not valid.

        Raises:
            End: that has happened too often.

        """
        await self.say(encode_error(problem))
        now = trio.current_time()
        self._errors.append(now)
        if len(self._errors) == MOST_ERRORS and now - self._errors[0] < ERROR_SPAN:
            raise End(_INVALID, f"{MOST_ERRORS} documents within a minute were not valid: {problem.message}")

    async def pace(self, events: int) -> None:
        """Read on later where a client sends more than it may: what it sends then waits with it."""
        wait = self._bucket.spend(events, trio.current_time())
        if wait or events >= _MANY:
            # Also without a wait: what one message may hold takes the board milliseconds.
            await trio.sleep(wait)


async def converse(client: Client, find: Callable[[], Awaitable[Room]]) -> End | None:
    """Converse until the client has gone, or is to be closed as returned."""
    end: End | None = None
    try:
        with client.scope:
            await (_speak_v2 if isinstance(client.wire, WireV2) else _speak_v1)(client, find)
    except End as said:
        end = said
    except CannotJoin as refused:
        end = End(refused.code, refused.reason)
    except UnknownBoard:
        end = End(_GONE, "the board is gone")
    except Draining as error:
        end = End(RESTARTING, str(error))
    except (TooManyBoards, StorageError):
        end = End(SERVER_FAILED, "the board cannot be brought back now")
    return client.ending or end


async def _speak_v1(client: Client, find: Callable[[], Awaitable[Room]]) -> None:
    with (await find()).join(client) as seat:
        while (document := await client.receive()) is not None:
            event = decode_v1_untrusted(document)
            if isinstance(event, Problem):
                raise End(_INVALID, event.message)
            # Nothing is told of a draw that was refused: v1 has no word for it.
            seat.draw(0, (event,))
            await client.pace(1)


async def _speak_v2(client: Client, find: Callable[[], Awaitable[Room]]) -> None:
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


async def _hello(client: Client) -> Hello | None:
    document = None
    with trio.move_on_after(HELLO_TIMEOUT) as waiting:
        document = await client.receive()
    if waiting.cancelled_caught:
        raise End(_NO_HELLO, f"no hello came within {HELLO_TIMEOUT:g} s")
    if document is None:
        return None
    match decode_v2_untrusted(document):
        case Hello() as hello:
            return hello
        case Problem() as problem:
            raise End(_NO_HELLO, f"the first document must be a hello: {problem.message}")
        case _:
            raise End(_NO_HELLO, "the first document must be a hello, and something else came")


def _welcome(client: Client, seat: Seat) -> bytes:
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
            ping=client.ping_interval,
        ),
        read_only=welcome.read_only,
    )


async def _take(client: Client, seat: Seat, document: bytes) -> int:
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


async def _answer(client: Client, answer: Answer) -> None:
    match answer:
        case Ack(_, op):
            await client.say(encode_ack(op))
        case Refuse(_, op, problem):
            # No fault of the client's document, so it does not count.
            await client.say(encode_error(problem, op))
        case _:
            assert_never(answer)
