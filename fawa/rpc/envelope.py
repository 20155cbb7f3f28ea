"""The envelope that all streaming dialects share: 1 byte of flags, 4 bytes of length, the payload.

Sources: "Length-Prefixed-Message" in gRPC's `PROTOCOL-HTTP2.md`, "Enveloped-Message" in the Connect protocol.
"""

from __future__ import annotations

import struct
from typing import Final

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.rpc.compression import inflate_untrusted

#: Flag of a payload that is compressed.
COMPRESSED: Final = 0x01

_PREFIX: Final = 5
#: A payload, or the pieces of one: views of what was fed, small ones copied.
Payload = bytes | list[bytes | memoryview]

#: Bytes from which a piece of a payload is kept as it is.
_LARGE: Final = 4096
#: A piece that is kept as a view keeps all that came with it in memory, at most so many times its own size.
_MOST_KEPT: Final = 16
_pack_prefix: Final = struct.Struct(">BI").pack
_unpack_prefix: Final = struct.Struct(">BI").unpack_from


def pack(payload: bytes, flags: int = 0) -> bytes:
    """Return `payload` in an envelope."""
    return _pack_prefix(flags, len(payload)) + payload


def unpack_whole(data: bytes, limit: int) -> bytes | None:
    """Return the payload if `data` is just one whole envelope, not compressed and within `limit`."""
    if len(data) >= _PREFIX:
        flags, length = _unpack_prefix(data)
        if flags == 0 and length == len(data) - _PREFIX and length <= limit:
            return data[_PREFIX:]
    return None


def pack_around(head: bytes, content: bytes) -> tuple[bytes, bytes]:
    """Return a payload that is given in two parts in an envelope, the second part uncopied."""
    return _pack_prefix(0, len(head) + len(content)) + head, content


class EnvelopeReader:
    """Takes bytes in any pieces, gives payloads.

    Holds at most `limit` bytes of an unfinished payload: the declared length is checked as soon as the
    prefix is there, before anything is kept.
    """

    __slots__ = (
        "_end_flag",
        "_fault",
        "_flags",
        "_gzip",
        "_idle",
        "_limit",
        "_missing",
        "_pieces",
        "_prefix",
        "_small",
        "end",
    )

    def __init__(self, limit: int, *, gzip: bool, fault: Status, end_flag: int = 0) -> None:
        """Make a reader at the start of a stream.

        Args:
            limit: the largest payload taken, in bytes, before and after decompression.
            gzip: payloads may be compressed, with gzip.
            fault: status of the error for a stream that is malformed.
            end_flag: flag of the envelope that ends the stream, 0 where there is none.

        """
        self._limit = limit
        self._gzip = gzip
        self._fault = fault
        self._end_flag = end_flag
        #: Payload of the envelope that ended the stream, once it is there.
        self.end: bytes | None = None
        #: Between two envelopes, with more allowed to come.
        self._idle = True
        self._prefix = b""
        self._flags = 0
        #: What has come of a payload: large pieces as they are, to be joined once, and behind them the small
        #: ones in one buffer, because a list of 1-byte pieces would hold many times the limit.
        self._pieces: list[bytes | memoryview] = []
        self._small = bytearray()
        #: Bytes still to come of the payload whose prefix has been read; -1 while in a prefix.
        self._missing = -1

    def feed_split(self, data: bytes) -> list[Payload]:
        """As `feed`, but payloads that are not compressed are in pieces: what is large is not copied."""
        return self._feed_untrusted(data, split=True)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the payloads that `data` completes.

        Raises:
            GRPCError: RESOURCE_EXHAUSTED, a message is larger than the limit; INTERNAL, one is compressed
                although no compression was agreed; `fault`, anything else that is malformed.

        """
        if self._idle and len(data) >= _PREFIX:
            # The common case: one whole plain envelope in one piece.
            flags, length = _unpack_prefix(data)
            if flags == 0 and length == len(data) - _PREFIX and length <= self._limit:
                return [data[_PREFIX:]]
        return self._feed_untrusted(data, split=False)  # type: ignore[return-value]  # none is in pieces

    def _feed_untrusted(self, data: bytes, *, split: bool) -> list[Payload]:
        payloads: list[Payload] = []
        least = max(_LARGE, len(data) // _MOST_KEPT)
        self._idle = False
        # Large pieces are kept as views until they are joined.
        view, size = memoryview(data), len(data)
        position = 0
        while position < size:
            if self.end is not None:
                raise GRPCError(self._fault, "there is data after the end of the stream")
            if split and self._missing < 0 and not self._prefix and position + _PREFIX < size:
                # The common case: a plain payload, whole and large.
                flags, length = _unpack_prefix(data, position)
                end = position + _PREFIX + length
                if flags == 0 and least <= length <= self._limit and end <= size:
                    payloads.append([view[position + _PREFIX : end]])
                    position = end
                    continue
            if self._missing < 0:
                piece = data[position : position + _PREFIX - len(self._prefix)]
                position += len(piece)
                self._prefix += piece
                if len(self._prefix) < _PREFIX:
                    break
                self._open(self._prefix)
                self._prefix = b""
            part = view[position : position + self._missing]
            position += len(part)
            self._missing -= len(part)
            self._keep(part, least)
            if not self._missing:
                self._missing = -1
                payloads += self._close(split=split)
        self._idle = self._missing < 0 and not self._prefix and self.end is None
        return payloads

    def _keep(self, piece: memoryview, least: int) -> None:
        """Keep a piece of a payload, as a view if it has at least `least` bytes."""
        if len(piece) < _LARGE:
            self._small += piece
            return
        self._end_small()
        self._pieces.append(piece if len(piece) >= least else bytes(piece))

    def _end_small(self) -> None:
        if self._small:
            self._pieces.append(bytes(self._small))
            self._small.clear()

    def _open(self, prefix: bytes) -> None:
        flags = prefix[0]
        if flags & ~(COMPRESSED | self._end_flag):
            raise GRPCError(self._fault, f"envelope has unknown flags: 0x{flags:02x}")
        if flags & COMPRESSED and not self._gzip:
            raise GRPCError(Status.INTERNAL, "message is compressed, but no compression was declared")
        length = int.from_bytes(prefix[1:], "big")
        if length > self._limit:
            raise GRPCError(
                Status.RESOURCE_EXHAUSTED,
                f"message of {length} bytes is larger than the limit of {self._limit} bytes",
            )
        self._flags = flags
        self._missing = length

    def _close(self, *, split: bool) -> list[Payload]:
        """Return the payload that is whole now, unless it ends the stream."""
        self._end_small()
        pieces, self._pieces = self._pieces, []
        if split and not self._flags:
            return [pieces]
        payload = b"".join(pieces)
        if self._flags & COMPRESSED and payload:
            payload = inflate_untrusted(payload, self._limit, self._fault)
        if self._flags & self._end_flag:
            self.end = payload
            return []
        return [payload]

    def finish(self) -> None:
        """Take the end of the body.

        Raises:
            GRPCError: `fault`, it comes inside an envelope.

        """
        if self._missing >= 0:
            raise GRPCError(self._fault, f"body ends {self._missing} bytes before the end of a message")
        if self._prefix:
            raise GRPCError(self._fault, "body ends inside the prefix of a message")
