"""What brings documents to a board and back, whichever transport it is."""

from __future__ import annotations

import abc
from typing import Final, Literal

import attrs

#: Application protocol of WebTransport and subprotocol of WebSocket that is wire v2.
V2: Final = "fawa.v2"
#: Close code of a connection that ended without one.
LOST: Final = 1006
#: Bytes of the largest document that is taken from a server; its own are of at most about 100 KB.
MOST_DOCUMENT: Final = 4 * 1024 * 1024
#: Seconds for saying goodbye.
GOODBYE: Final = 2.0

Name = Literal["webtransport", "websocket"]


class Closed(Exception):  # noqa: N818 - said as it is
    """The connection is over; `code` is that of its close, or `LOST`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code
        self.reason = reason


@attrs.frozen
class Refused(Exception):  # noqa: N818
    """The server answered the opening with an HTTP status that says no."""

    status: int
    text: str
    #: Seconds after which to come back; 0 where the server does not say.
    retry_after: float = 0.0

    @classmethod
    def of(cls, status: int, headers: list[tuple[bytes, bytes]], body: str) -> Refused:
        """Return what an answer says."""
        after = dict(headers).get(b"retry-after", b"")
        text = body.strip() or f"the server answered with HTTP status {status}"
        return cls(status, text, float(after) if after.isdigit() and len(after) < 7 else 0.0)


class Line(abc.ABC):
    """A connection to a board. One task sends, another receives."""

    #: Which transport it is.
    transport: Name

    @abc.abstractmethod
    async def send(self, document: bytes) -> None:
        """Send a document; waits while the server takes nothing.

        Raises:
            Closed: nothing can be sent any more. Why, `receive` knows better.

        """

    @abc.abstractmethod
    async def receive(self) -> bytes:
        """Return the next document.

        Raises:
            Closed: there will be none.

        """

    @abc.abstractmethod
    async def close(self) -> None:
        """Say goodbye, for `GOODBYE` seconds at most; nobody sends or receives any more."""
