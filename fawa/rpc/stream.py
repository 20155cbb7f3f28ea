"""The face of one call that handlers are written against.

It is the stream interface of grpclib's server, so a handler written for grpclib runs here unchanged; our
own call object (`fawa.calls.call.Call`) has the same methods without asyncio.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from grpclib.const import Status

if TYPE_CHECKING:
    from multidict import MultiDict

Received_co = TypeVar("Received_co", covariant=True)
Sent_contra = TypeVar("Sent_contra", contravariant=True)

MetadataLike = Mapping[str, str | bytes] | Collection[tuple[str, str | bytes]]


class Stream(Protocol[Received_co, Sent_contra]):
    """One call: messages in, messages out, metadata both ways.

    A handler ends by returning (status OK) or by raising `grpclib.exceptions.GRPCError`. It is cancelled
    when the deadline passes or the client goes away.
    """

    @property
    def metadata(self) -> MultiDict[str | bytes] | None:
        """Request metadata; values of keys that end in `-bin` are bytes. Never `None` inside a handler."""

    async def recv_message(self) -> Received_co | None:
        """Return the next message, or `None` after the client's last one."""

    async def send_message(self, message: Sent_contra) -> None:
        """Send one message; waits while the client is slower than the handler."""

    async def send_initial_metadata(self, *, metadata: MetadataLike | None = None) -> None:
        """Send response metadata now; without this call it goes out with the first message."""

    async def send_trailing_metadata(
        self,
        *,
        status: Status = Status.OK,
        status_message: str | None = None,
        status_details: Any = None,
        metadata: MetadataLike | None = None,
    ) -> None:
        """End the call with a status and metadata; without this call it ends when the handler does."""

    def __aiter__(self) -> AsyncIterator[Received_co]:
        """Iterate over the messages until the client's last one."""
