"""Error details: protobuf messages that an error carries, packed in `google.protobuf.Any`.

gRPC sends them as a `google.rpc.Status` in `grpc-status-details-bin`, Connect as JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError, Message

from fawa.rpc.metadata import decode_base64, encode_base64

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any as AnyMessage
    from grpclib.const import Status

# The modules of google.rpc are imported where they are used: most calls have no details.


def pack_details(details: Sequence[Message]) -> list[AnyMessage]:
    """Return each detail as an `Any`; one that is an `Any` already is taken as it is.

    Raises:
        ValueError: one is not a protobuf message.

    """
    from google.protobuf.any_pb2 import Any as AnyMessage  # noqa: PLC0415

    packed: list[AnyMessage] = []
    for detail in details:
        if isinstance(detail, AnyMessage):
            packed.append(detail)
        elif isinstance(detail, Message):
            packed.append(AnyMessage())
            packed[-1].Pack(detail)
        else:
            raise ValueError(f"error details must be protobuf messages, not {detail!r}")
    return packed


def encode_status_details(status: Status, message: str | None, details: Sequence[Message]) -> bytes:
    """Return the value of `grpc-status-details-bin`.

    Raises:
        ValueError: a detail is not a protobuf message.

    """
    from google.rpc import status_pb2  # type: ignore[import-untyped]  # noqa: PLC0415

    # A protobuf string holds no lone surrogates; `grpc-message` sends them as `?` too.
    text = (message or "").encode("utf-8", "replace").decode("utf-8")
    whole = status_pb2.Status(code=status.value, message=text, details=pack_details(details))
    return encode_base64(whole.SerializeToString())


def decode_status_details(value: bytes) -> list[AnyMessage]:
    """Return the details in a `grpc-status-details-bin`; none if they cannot be read: the status counts."""
    from google.rpc import status_pb2  # noqa: PLC0415

    try:
        return list(status_pb2.Status.FromString(decode_base64(value.decode("latin-1"))).details)
    except (ValueError, DecodeError):
        return []
