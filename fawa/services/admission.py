"""Who comes to which board: codes, and how often an address may try them or make new ones.

Whoever has a board's code may draw on it, so codes must not be found by trying: an address that was wrong too
often has to wait, also with a code that is right.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import attrs
import trio

from fawa.ops.logging import get_logger
from fawa.rooms.ids import is_code
from fawa.rooms.room import Room
from fawa.rooms.rooms import Draining, Rooms, TooManyBoards, UnknownBoard
from fawa.services.addresses import Proxies, holder
from fawa.services.attempts import Attempts
from fawa.services.ratelimit import Buckets, Rate
from fawa.storage.base import StorageError

_log = get_logger("fawa.services.admission")


class Why(enum.Enum):
    """Why somebody is not let in."""

    #: What was given cannot be a code.
    MALFORMED = "malformed"
    #: There is no such board.
    UNKNOWN = "unknown"
    #: This address has done that too often.
    TOO_OFTEN = "too often"
    #: There are as many boards as there may be.
    FULL = "full"
    #: The server is about to restart, or a part of it is away.
    AWAY = "away"


@attrs.frozen
class Refused(Exception):  # noqa: N818 - said as it is
    """Somebody is not let in."""

    why: Why
    #: For that person.
    text: str
    #: Whole seconds after which to try again, 0 if that does not help.
    retry_after: int = 0


@attrs.frozen(kw_only=True)
class AdmissionSettings:
    """What can be set about who comes to boards."""

    #: Wrong codes of one address.
    wrong_codes: Rate = attrs.field(factory=lambda: Rate(20, 10 / 60))
    #: Boards made by one address.
    creates: Rate = attrs.field(factory=lambda: Rate(100, 1))
    proxies: Proxies = attrs.field(factory=Proxies)


class Admission:
    """Finds and makes boards for clients, of all services together."""

    def __init__(
        self,
        rooms: Rooms,
        settings: AdmissionSettings | None = None,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        """Let clients in to `rooms`; `clock` counts seconds."""
        self.rooms = rooms
        self._clock = clock
        self._settings = settings or AdmissionSettings()
        self._wrong_codes = Attempts(self._settings.wrong_codes, clock)
        self._creates = Buckets(self._settings.creates)

    @property
    def settings(self) -> AdmissionSettings:
        """What is in force; may be replaced while running."""
        return self._settings

    @settings.setter
    def settings(self, settings: AdmissionSettings) -> None:
        self._settings = settings
        self._wrong_codes.rate = settings.wrong_codes
        self._creates.rate = settings.creates

    async def find(self, code: str, peer: str, forwarded: Sequence[str]) -> Room:
        """Return the board with a code, in whatever case it is written.

        Args:
            code: as the client gave it.
            peer: address and port of the other end of the connection.
            forwarded: the values of the request's `X-Forwarded-For` headers.

        Raises:
            Refused: there is none, or this address may not try now.

        """
        code = code.upper()
        if not is_code(code):
            text = "the code of a board has six characters, A-Z and 0-9: it was altered or cut off"
            raise Refused(Why.MALFORMED, text)
        key = self._key(peer, forwarded)
        with _refusing():
            async with self._wrong_codes.one(key, _too_many_wrong, UnknownBoard):
                return await self.rooms.find(code)

    async def create(self, peer: str, forwarded: Sequence[str]) -> Room:
        """Make a board; the arguments are those of `find`.

        Raises:
            Refused: this address has made too many, or there are too many.

        """
        if wait := self._creates.take(self._key(peer, forwarded), self._clock()):
            raise _too_often("too many boards were made from your address", wait)
        with _refusing():
            return await self.rooms.create()

    async def shared(self) -> Room:
        """Return the board of those who name none.

        Raises:
            Refused: not now.

        """
        with _refusing():
            return await self.rooms.shared()

    def _key(self, peer: str, forwarded: Sequence[str]) -> str:
        return holder(self._settings.proxies.client(peer, forwarded))


def _too_many_wrong(wait: float) -> Refused:
    return _too_often("there were too many wrong codes from your address", wait)


def _too_often(text: str, wait: float) -> Refused:
    seconds = math.ceil(wait)
    return Refused(Why.TOO_OFTEN, f"{text}: try again in {seconds} s", seconds)


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn what rooms say into refusals; what only operators should know goes to the log."""
    try:
        yield
    except UnknownBoard:
        text = "there is no board with this code: it is wrong, or the board is gone"
        raise Refused(Why.UNKNOWN, text) from None
    except TooManyBoards as error:
        raise Refused(Why.FULL, str(error), 60) from None
    except Draining as error:
        raise Refused(Why.AWAY, str(error), 5) from None
    except StorageError as error:
        _log.error("a board could not be looked for", error=str(error))
        raise Refused(Why.AWAY, "boards cannot be looked for at the moment, try again later", 5) from error
