"""Connect's own JSON: the error, and the end of a stream. Source: "Error and EndStreamResponse" there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from google.protobuf.message import Message
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from multidict import MultiDict

from fawa.rpc.details import pack_details
from fawa.rpc.metadata import add_field, decode_base64, encode_base64, encode_metadata
from fawa.rpc.status import CONNECT_NAME, FROM_CONNECT_NAME
from fawa.rpc.stream import MetadataLike

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any as AnyMessage

_TYPE_PREFIX = "type.googleapis.com/"


def encode_error(status: Status, message: str | None, details: Sequence[Message] | None) -> dict[str, Any]:
    """Return the JSON object of an error.

    Raises:
        ValueError: a detail is not a protobuf message.

    """
    error: dict[str, Any] = {"code": CONNECT_NAME[status]}
    if message:
        # JSON in UTF-8 holds no lone surrogates.
        error["message"] = message.encode("utf-8", "replace").decode("utf-8")
    if details:
        error["details"] = [
            _encode_detail(packed, detail)
            for packed, detail in zip(pack_details(details), details, strict=True)
        ]
    return error


def _encode_detail(packed: AnyMessage, detail: Message) -> dict[str, Any]:
    encoded: dict[str, Any] = {
        "type": packed.type_url.rpartition("/")[2],
        "value": encode_base64(packed.value).decode("ascii"),
    }
    debug = None if packed is detail else _debug(detail)
    if debug:
        encoded["debug"] = debug
    return encoded


def _debug(detail: Message) -> object:
    """Return the readable form of a detail, `None` if it has none: it is only for people to look at."""
    from google.protobuf import json_format  # noqa: PLC0415

    try:
        return json_format.MessageToDict(detail)
    except (json_format.Error, TypeError, ValueError):
        return None


def encode_end_stream(error: dict[str, Any] | None, trailing: MetadataLike | None) -> bytes:
    """Return the payload of the last envelope of a stream.

    Raises:
        ValueError: a key or value cannot be sent as metadata.

    """
    end: dict[str, Any] = {}
    if error is not None:
        end["error"] = error
    if trailing:
        metadata: dict[str, list[str]] = {}
        for name, value in encode_metadata(trailing):
            metadata.setdefault(name.decode("ascii"), []).append(value.decode("latin-1"))
        end["metadata"] = metadata
    return msgspec.json.encode(end)


def decode_error(error: object, otherwise: Status) -> tuple[Status, str | None, list[AnyMessage]]:
    """Return status, message and details of a JSON error.

    What cannot be read is left out; the status is then `otherwise`.
    """
    if not isinstance(error, dict):
        return otherwise, None, []
    code, message, details = error.get("code"), error.get("message"), error.get("details")
    return (
        FROM_CONNECT_NAME.get(code, otherwise) if isinstance(code, str) else otherwise,
        message if isinstance(message, str) else None,
        _decode_details(details) if isinstance(details, list) else [],
    )


def _decode_details(details: list[object]) -> list[AnyMessage]:
    from google.protobuf.any_pb2 import Any as AnyMessage  # noqa: PLC0415

    decoded = []
    for detail in details:
        match detail:
            case {"type": str(name), "value": str(value)}:
                try:
                    packed = AnyMessage(type_url=_TYPE_PREFIX + name, value=decode_base64(value))
                except ValueError:
                    continue
                decoded.append(packed)
    return decoded


def decode_json_untrusted(payload: bytes) -> object:
    """Return what JSON text holds.

    Raises:
        ValueError: it is not JSON in UTF-8, or nested too deeply.

    """
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def decode_end_stream(
    payload: bytes,
) -> tuple[Status, str | None, list[AnyMessage], MultiDict[str | bytes]]:
    """Return how the last envelope of a stream says that it ended: status, message, details, metadata.

    Raises:
        GRPCError: INTERNAL, it is not the JSON it should be.

    """
    metadata: MultiDict[str | bytes] = MultiDict()
    try:
        end = decode_json_untrusted(payload)
        if not isinstance(end, dict):
            raise ValueError("it is not an object")
        for key, value in _entries(end.get("metadata") or {}):
            add_field(metadata, key.lower(), value)
    except ValueError as error:
        raise GRPCError(Status.INTERNAL, f"the server sent a bad end of stream: {error}") from None
    if end.get("error") is None:
        return Status.OK, None, [], metadata
    return *decode_error(end["error"], Status.UNKNOWN), metadata


def _entries(metadata: object) -> Iterator[tuple[str, str]]:
    """Yield key and value of the metadata in an end of stream: lists of text by key."""
    if not isinstance(metadata, dict):
        raise ValueError("its metadata is not an object")
    for key, values in metadata.items():
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise ValueError(f"its metadata {key!r} is not a list of text")
        for value in values:
            yield key, value
