"""Takes JSON documents out of a stream on which they stand one after the other. Pure."""

from __future__ import annotations

import re
from typing import Final

#: What says where a document ends: braces and brackets outside of strings.
_MARK: Final = re.compile(rb'[{}\[\]"\\]')


class Documents:
    """Splits what comes, in any pieces, into objects and arrays; white space between them is left out.

    It looks at each octet once. Whether a document is valid is for its decoder to say: of what is none,
    something comes out that no decoder takes.
    """

    def __init__(self, most: int) -> None:
        """Begin a stream whose documents have at most `most` bytes."""
        self._most = most
        self._buffer = bytearray()
        #: How far the buffer has been looked at.
        self._at = 0
        self._depth = 0
        self._quoted = False
        #: A document has more bytes than it may, and nothing is taken out any more.
        self.is_too_large = False

    def feed_untrusted(self, data: bytes) -> list[bytes]:
        """Take the next octets; returns the documents that end in them."""
        if self.is_too_large:
            return []
        found: list[bytes] = []
        buffer, begin = self._buffer, 0
        buffer += data
        while mark := _MARK.search(buffer, self._at):
            self._at = mark.end()
            match mark[0]:
                case b"\\":
                    self._at += 1  # whatever is escaped; it may not be there yet
                case b'"':
                    self._quoted = not self._quoted
                case _ if self._quoted:
                    pass
                case b"{" | b"[":
                    self._depth += 1
                case _:
                    self._depth -= 1
                    if self._depth <= 0:
                        self._depth = 0
                        document = bytes(buffer[begin : self._at]).strip()
                        begin = self._at
                        if len(document) > self._most:
                            self.is_too_large = True
                            return found
                        found.append(document)
        del buffer[:begin]
        self._at = max(self._at - begin, len(buffer))
        if not self._depth and not self._quoted and not buffer.strip():
            buffer.clear()
            self._at = 0
        self.is_too_large = len(buffer) > self._most
        return found

    @property
    def rest(self) -> bytes:
        """What has come of a document that is not whole."""
        return bytes(self._buffer).strip()
