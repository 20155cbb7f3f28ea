"""Metadata of calls as HTTP header fields, both ways.

Source: "Custom-Metadata" in gRPC's `PROTOCOL-HTTP2.md`; the Connect protocol has the same rules.
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Final

from multidict import MultiDict

from fawa.rpc.stream import MetadataLike

_KEY: Final = re.compile(r"[0-9a-z_.-]+")
#: What an HTTP field value may hold (RFC 9110 §5.5). Wider than gRPC's printable ASCII by tab and the
#: bytes from 0x80, so that a handler can send back any metadata it was sent; no control characters.
_VALUE: Final = re.compile("[\t\x20-\x7e\x80-\xff]*")

#: Fields that HTTP or the dialects own: never metadata.
_RESERVED: Final = frozenset(
    (
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-grpc-web",
    )
)
#: Characters of a value up to which its field is kept for the next answer.
_SHORT: Final = 64
_RESERVED_PREFIXES: Final = ("grpc-", "connect-", ":")


def encode_base64(value: bytes) -> bytes:
    """Return `value` in base64 without padding, as all dialects send it."""
    return base64.b64encode(value).rstrip(b"=")


def decode_base64(value: str) -> bytes:
    """Return what base64 with or without padding holds.

    Raises:
        ValueError: it is not base64.

    """
    value = value.rstrip("=")
    return binascii.a2b_base64(value + "=" * (-len(value) % 4), strict_mode=True)


def decode_metadata(fields: Iterable[tuple[bytes, bytes]]) -> MultiDict[str | bytes]:
    """Return the metadata among header fields; values of keys that end in `-bin` are bytes.

    Other values are decoded as Latin-1, which loses nothing. A `-bin` field with several values joined by
    commas becomes several entries.

    Raises:
        ValueError: a `-bin` value is not base64; says which.

    """
    metadata: MultiDict[str | bytes] = MultiDict()
    for name, value in fields:
        add_field(metadata, name.decode("latin-1"), value.decode("latin-1"))
    return metadata


def add_field(metadata: MultiDict[str | bytes], key: str, value: str) -> None:
    """Add one header field to `metadata`, if it is metadata.

    Raises:
        ValueError: a `-bin` value is not base64; says which.

    """
    if key in _RESERVED or key.startswith(_RESERVED_PREFIXES):
        return
    if not key.endswith("-bin"):
        metadata.add(key, value)
        return
    for part in value.split(","):
        try:
            metadata.add(key, decode_base64(part.strip()))
        except ValueError as error:
            raise ValueError(f"metadata {key!r} is not valid base64: {error}") from None


def encode_metadata(metadata: MetadataLike) -> list[tuple[bytes, bytes]]:
    """Return metadata as header fields.

    Raises:
        ValueError: a key or value cannot be sent; says which and why.

    """
    # A dict is asked about first, because `Mapping` takes its time to answer.
    items = metadata.items() if isinstance(metadata, (dict, Mapping)) else metadata
    return [
        _encode_short_field(key, value) if len(value) <= _SHORT else _encode_field(key, value)
        for key, value in items
    ]


def _encode_field(key: str, value: str | bytes) -> tuple[bytes, bytes]:
    name = _encode_key(key)
    if name.endswith(b"-bin"):
        if not isinstance(value, bytes):
            raise ValueError(f"metadata {key!r} must be bytes, because its key ends in -bin, not {value!r}")
        return name, encode_base64(value)
    if not isinstance(value, str):
        raise ValueError(f"metadata {key!r} must be str, or its key must end in -bin; it is {value!r}")
    if not _VALUE.fullmatch(value) or value != value.strip(" \t"):
        raise ValueError(
            f"metadata {key!r} has a value that no header can carry: {value!r}; "
            "use printable ASCII without spaces at the ends, or a key that ends in -bin and bytes"
        )
    return name, value.encode("latin-1")


#: Handlers send the same few fields with every answer.
_encode_short_field: Final = functools.lru_cache(maxsize=256)(_encode_field)


@functools.lru_cache(maxsize=256)
def _encode_key(key: str) -> bytes:
    if not _KEY.fullmatch(key):
        raise ValueError(f"metadata key {key!r} is not made of the characters a-z 0-9 _ - .")
    if key in _RESERVED or key.startswith(_RESERVED_PREFIXES):
        raise ValueError(f"metadata key {key!r} is reserved for the protocol")
    return key.encode("ascii")
