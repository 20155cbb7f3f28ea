"""HTTP/2 frames (RFC 9113 section 4.1), as far as large content goes past the parser: DATA and its windows.

A general parser looks at every DATA frame, copies it twice and makes an event of it. Where megabytes flow
that is most of the work, and the frames of a stream in full flow are all alike; so there is a short cut:

- Outbound, `data_frames` puts frame headers between views of the content, uncopied.
- Inbound, a `Sieve` picks the plain DATA frames of *bulk* streams out of what goes to the parser, all that
  one read has of a stream as one event.

The parser then does not know that window was spent. The sieve keeps that account (`spent`), and settles it
with the WINDOW_UPDATE frames that come, before the parser sees what remains of them.
"""

from __future__ import annotations

import struct
from typing import Final

import attrs

__all__ = ["MAX_FRAME", "Bulk", "Credit", "Sieve", "data_frames", "window_update"]

#: The longest payload every peer takes (RFC 9113 section 4.2), and the longest that is taken here.
MAX_FRAME: Final = 16384
#: Frame types and flags (RFC 9113 section 6).
_DATA: Final = 0
_WINDOW_UPDATE: Final = 8
#: HEADERS, PUSH_PROMISE and CONTINUATION: the frames of header blocks.
_BLOCK: Final = frozenset({1, 5, 9})
_END_HEADERS: Final = 4
#: Octets of a frame's header, and of a WINDOW_UPDATE's payload.
_HEADER: Final = 9
_INCREMENT: Final = 4
#: Length as 8 and 16 bits, type, flags, stream.
_unpack_header: Final = struct.Struct(">BHBBI").unpack_from
#: Length and type as 32 bits.
_unpack_length: Final = struct.Struct(">I").unpack_from
_pack_header: Final = struct.Struct(">BHBBI").pack
_pack_update: Final = struct.Struct(">BHBBII").pack


@attrs.frozen
class Bulk:
    """Consecutive DATA of a bulk stream."""

    stream_id: int
    data: bytes


@attrs.frozen
class Credit:
    """A WINDOW_UPDATE that pays for window spent past the parser; `stream_id` 0 is the connection."""

    stream_id: int
    increment: int


def window_update(stream_id: int, increment: int) -> bytes:
    """Encode one WINDOW_UPDATE frame (RFC 9113 section 6.9)."""
    return _pack_update(0, 4, _WINDOW_UPDATE, 0, stream_id, increment)


def data_frames(stream_id: int, data: memoryview) -> list[bytes | memoryview]:
    """Return DATA frames (RFC 9113 section 6.1) that carry `data`: header, view, header, …."""
    header: bytes | memoryview = _pack_header(0, MAX_FRAME, _DATA, 0, stream_id)
    payloads = [data[start : start + MAX_FRAME] for start in range(0, len(data), MAX_FRAME)]
    frames = [header] * (2 * len(payloads))
    frames[1::2] = payloads
    if rest := len(data) % MAX_FRAME:
        frames[-2] = _pack_header(0, rest, _DATA, 0, stream_id)
    return frames


class Sieve:
    """Stands between what an HTTP/2 peer sends and the parser."""

    def __init__(self, preface: int) -> None:
        """Make a sieve for a connection whose first `preface` octets are no frames."""
        #: Streams whose plain DATA is taken out. Any other frame of such a stream but WINDOW_UPDATE may end
        #: its body, and ends this.
        self.bulk: set[int] = set()
        #: Window that was spent past the parser, by stream; 0 is the connection.
        self.spent: dict[int, int] = {}
        #: Octets still to come of the frame in progress, and the bulk stream whose they are; 0: the parser's.
        self._missing = preface
        self._missing_of = 0
        #: The beginning of a frame of which too little is there to tell whose it is.
        self._head = b""
        #: A header block has begun and not ended. Nothing may come between its frames; the parser sees to it.
        self._in_block = False

    @property
    def has_work(self) -> bool:
        """Whether there is anything to take out (else `skip` is enough)."""
        return bool(self.bulk or self.spent or self._missing_of)

    def skip(self, data: bytes) -> bytes:
        """Return all of `data` that is for the parser, and keep count of where frames begin."""
        if self._head:
            data, self._head = self._head + data, b""
        position, size, last = self._missing, len(data), -1
        last_whole = size - _HEADER
        while position <= last_whole:
            last = position
            position += _HEADER + (_unpack_length(data, position)[0] >> 8)
        if last >= 0:
            self._in_block = data[last + 3] in _BLOCK and not data[last + 4] & _END_HEADERS
        self._missing = position - size
        if self._missing < 0:
            self._missing = 0
            data, self._head = data[:position], data[position:]
        return data

    def sift(self, data: bytes) -> list[bytes | Bulk | Credit]:
        """Return what `data` has, in its order: bytes are for the parser."""
        if self._head:
            data, self._head = self._head + data, b""
        parts: list[bytes | Bulk | Credit] = []
        # Up to `start` all is in `parts`, from there to `position` all is the parser's.
        start, position, size = 0, self._missing, len(data)
        if self._missing_of:
            start = position = self._take(data, 0, self._missing_of, parts)
        while position + _HEADER <= size:
            high, length, kind, flags, stream_id = _unpack_header(data, position)
            length |= high << 16
            if self._in_block or kind in _BLOCK:
                self._in_block = not (kind in _BLOCK and flags & _END_HEADERS)
                self.bulk.discard(stream_id)
            elif kind == _WINDOW_UPDATE:
                if stream_id in self.spent and length == _INCREMENT:
                    if position + _HEADER + _INCREMENT > size:
                        break
                    parts.append(data[start:position])
                    position += _HEADER + _INCREMENT
                    start = position
                    parts.append(self._settle(stream_id, data[start - _INCREMENT : start]))
                    continue
            elif stream_id in self.bulk:
                if kind == _DATA and not flags and 0 < length <= MAX_FRAME:
                    parts.append(data[start:position])
                    self._missing = length
                    start = position = self._take(data, position + _HEADER, stream_id, parts)
                    continue
                self.bulk.discard(stream_id)
            position += _HEADER + length
        if position < size:
            self._head, data = data[position:], data[:position]
        if not self._missing_of:
            self._missing = max(0, position - size)
        if not start:
            return [data]
        parts.append(data[start:])
        return [part for part in parts if part]

    def _take(self, data: bytes, position: int, stream_id: int, parts: list[bytes | Bulk | Credit]) -> int:
        """Take the rest of a stream's frame from `position` on, and the plain DATA of that stream behind it.

        Returns where that ends, which is the end of `data` where a frame goes on in what is to come.
        """
        view, size = memoryview(data), len(data)
        payloads = []
        end = position + self._missing
        full = _pack_header(0, MAX_FRAME, _DATA, 0, stream_id)
        while True:
            payloads.append(view[position:end])
            position = end
            if data.startswith(full, position):  # as nearly all do
                position += _HEADER
                end = position + MAX_FRAME
                continue
            if position + _HEADER > size:
                break
            high, length, kind, flags, next_id = _unpack_header(data, position)
            if next_id != stream_id or kind or flags or high or not 0 < length <= MAX_FRAME:
                break
            position += _HEADER
            end = position + length
        self._missing = max(0, position - size)
        self._missing_of = stream_id if self._missing else 0
        if payload := b"".join(payloads):
            parts.append(Bulk(stream_id, payload))
        return min(position, size)

    def _settle(self, stream_id: int, payload: bytes) -> bytes | Credit:
        """Pay with a WINDOW_UPDATE for what was spent; the parser gets what is more than that."""
        increment = int.from_bytes(payload, "big") & 0x7FFFFFFF
        unpaid = self.spent[stream_id] - increment
        if unpaid > 0 and increment:
            self.spent[stream_id] = unpaid
            return Credit(stream_id, increment)
        if not increment:
            return window_update(stream_id, 0)  # an error, and the parser's to tell
        del self.spent[stream_id]
        return window_update(stream_id, -unpaid) if unpaid else Credit(stream_id, increment)
