"""The one table of status codes: gRPC's, Connect's names, HTTP's numbers; and `grpc-message`.

Sources: gRPC `statuscodes.md`, `http-grpc-status-mapping.md` and `PROTOCOL-HTTP2.md`; the "Error Codes"
section of the Connect protocol.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote

from grpclib.const import Status

#: Status, its name in Connect, and the HTTP status of a Connect unary response that ends with it.
_TABLE: Final = (
    (Status.CANCELLED, "canceled", 499),
    (Status.UNKNOWN, "unknown", 500),
    (Status.INVALID_ARGUMENT, "invalid_argument", 400),
    (Status.DEADLINE_EXCEEDED, "deadline_exceeded", 504),
    (Status.NOT_FOUND, "not_found", 404),
    (Status.ALREADY_EXISTS, "already_exists", 409),
    (Status.PERMISSION_DENIED, "permission_denied", 403),
    (Status.RESOURCE_EXHAUSTED, "resource_exhausted", 429),
    (Status.FAILED_PRECONDITION, "failed_precondition", 400),
    (Status.ABORTED, "aborted", 409),
    (Status.OUT_OF_RANGE, "out_of_range", 400),
    (Status.UNIMPLEMENTED, "unimplemented", 501),
    (Status.INTERNAL, "internal", 500),
    (Status.UNAVAILABLE, "unavailable", 503),
    (Status.DATA_LOSS, "data_loss", 500),
    (Status.UNAUTHENTICATED, "unauthenticated", 401),
)

CONNECT_NAME: Final = {status: name for status, name, _ in _TABLE}
FROM_CONNECT_NAME: Final = {name: status for status, name, _ in _TABLE}
HTTP_STATUS: Final = {status: http for status, _, http in _TABLE}

#: What a client takes an HTTP status for when the response carries no RPC status of its own.
_FROM_HTTP: Final = {
    400: Status.INTERNAL,
    401: Status.UNAUTHENTICATED,
    403: Status.PERMISSION_DENIED,
    404: Status.UNIMPLEMENTED,
    429: Status.UNAVAILABLE,
    502: Status.UNAVAILABLE,
    503: Status.UNAVAILABLE,
    504: Status.UNAVAILABLE,
}

_BY_NUMBER: Final = {b"%d" % status.value: status for status in Status}

#: `grpc-message` may hold space and printable ASCII except `%` as they are.
_PLAIN: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def connect_from_http(http: int) -> Status:
    """Return the status a Connect client infers from an HTTP status."""
    return _FROM_HTTP.get(http, Status.UNKNOWN)


def grpc_from_http(http: int) -> Status:
    """Return the status a gRPC client infers from an HTTP status; gRPC alone maps 431."""
    return Status.INTERNAL if http == 431 else connect_from_http(http)


def parse_grpc_status(value: bytes) -> Status:
    """Return the status that a `grpc-status` field names; one that cannot be read is UNKNOWN."""
    return _BY_NUMBER.get(value, Status.UNKNOWN)


def encode_grpc_message(message: str) -> bytes:
    """Return `message` percent-encoded for `grpc-message`.

    Spaces at either end are encoded too, because HTTP strips them. Lone surrogates become `?`.
    """
    inner = message.strip(" ")
    left = len(message) - len(message.lstrip(" "))
    right = len(message) - left - len(inner)
    encoded = quote(inner, safe=_PLAIN, errors="replace")
    return f"{'%20' * left}{encoded}{'%20' * right}".encode("ascii")


def decode_grpc_message(value: bytes) -> str:
    """Return the text of a `grpc-message`; broken escapes and bytes are kept or replaced, never refused."""
    return unquote(value.decode("utf-8", "replace"), errors="replace")
