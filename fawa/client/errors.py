"""What can go wrong with a call. All are `grpclib.exceptions.GRPCError`, so one `except` catches them."""

from __future__ import annotations

from typing import Any, Final

from grpclib.const import Status
from grpclib.exceptions import GRPCError
from multidict import MultiDict

from fawa.net.engine import H2ErrorCode

#: What a reset stream means ("Errors" in gRPC's `PROTOCOL-HTTP2.md`); every other code is INTERNAL.
_FROM_RESET: Final[dict[int, Status]] = {
    H2ErrorCode.REFUSED_STREAM: Status.UNAVAILABLE,
    H2ErrorCode.CANCEL: Status.CANCELLED,
    H2ErrorCode.ENHANCE_YOUR_CALM: Status.RESOURCE_EXHAUSTED,
    H2ErrorCode.INADEQUATE_SECURITY: Status.PERMISSION_DENIED,
}
#: HTTP/3 has codes of its own (RFC 9114 section 8.1), here as numbers: aioquic is slow to import.
_H3_REQUEST_REJECTED: Final = 0x10B
_FROM_H3_RESET: Final[dict[int, Status]] = {
    0x107: Status.RESOURCE_EXHAUSTED,  # H3_EXCESSIVE_LOAD
    0x10C: Status.CANCELLED,  # H3_REQUEST_CANCELLED
}


class CallFailed(GRPCError):  # noqa: N818 - said as it is
    """The server ended the call with an error."""

    def __init__(
        self,
        status: Status,
        message: str | None,
        details: Any,
        metadata: MultiDict[str | bytes],
        trailing: MultiDict[str | bytes],
    ) -> None:
        super().__init__(status, message, details)
        #: Initial and trailing metadata; values of keys that end in `-bin` are bytes.
        self.metadata = metadata
        self.trailing = trailing


class CannotReach(GRPCError):  # noqa: N818
    """There is no connection to the server and none could be made; nothing was sent."""

    def __init__(self, message: str) -> None:
        super().__init__(Status.UNAVAILABLE, message)


class ConnectionLost(GRPCError):  # noqa: N818
    """The connection broke during the call; whether the server has acted nobody knows."""

    def __init__(self, message: str) -> None:
        super().__init__(Status.UNAVAILABLE, message)


class Refused(ConnectionLost):
    """The server did nothing with the request and said so (RFC 9113 section 8.7): send it again."""


def from_h3_reset(code: int, name: str) -> GRPCError:
    """Return the error of a call whose stream the server has reset with an HTTP/3 error code of that name."""
    if code == _H3_REQUEST_REJECTED:
        return Refused("the server refused the call, try again")
    return GRPCError(_FROM_H3_RESET.get(code, Status.INTERNAL), f"the server reset the call: {name}")


def from_reset(code: int) -> GRPCError:
    """Return the error of a call whose stream the server has reset with an HTTP/2 error code."""
    if code == H2ErrorCode.REFUSED_STREAM:
        return Refused("the server refused the call, try again")
    try:
        name = H2ErrorCode(code).name
    except ValueError:
        name = f"0x{code:x}"
    return GRPCError(_FROM_RESET.get(code, Status.INTERNAL), f"the server reset the call: {name}")
