"""Files sealed for those who have the secret, so that the server stores what it cannot read. Pure.

`protocols/sealed.md` has the format, which the page (`fawa/web/files/sealing.js`) speaks too, and
`protocols/sealed.json` the vectors that both are tested with.
"""

from __future__ import annotations

import base64
import re
import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

#: Bytes of a secret, and of the salt that makes every sealing of it different.
SECRET_BYTES: Final = 32
SALT_BYTES: Final = 16
#: What sealed content begins with; the salt follows.
MAGIC: Final = b"fawa sealed v1\r\n"
HEADER: Final = len(MAGIC) + SALT_BYTES
#: Bytes that are sealed together; the last chunk may have fewer, but at least one.
CHUNK: Final = 64 * 1024
#: Bytes by which a chunk grows.
TAG: Final = 16
_SEALED: Final = CHUNK + TAG
#: Bytes of the longest name, of what is sealed before the content.
MAX_NAME: Final = 1024
_NAME: Final = struct.Struct(">H")
_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{43}")


class SealError(Exception):
    """What was to be opened is no sealed file, was cut off or altered, or the secret is another file's."""


def write_secret(secret: bytes) -> str:
    """Return a secret as links have it: base64url without padding (RFC 4648, section 5)."""
    return base64.urlsafe_b64encode(secret).rstrip(b"=").decode()


def read_secret(text: str) -> bytes:
    """Read a secret from a link.

    Raises:
        SealError: it is none.

    """
    if not _SECRET.fullmatch(text):
        raise SealError(
            f"the secret of a sealed file has 43 characters of A-Z, a-z, 0-9, - and _, and this one has "
            f"{len(text)}: copy the link whole"
        )
    return base64.urlsafe_b64decode(text + "=")


class Seal:
    """Seals one file, chunk by chunk, in any order.

    A chunk must never be sealed with other content than before: who could see both would learn of either,
    and could forge more (NIST SP 800-38D, section 8).
    """

    def __init__(self, secret: bytes, salt: bytes, name: str) -> None:
        """Begin with a secret and a salt, both random and never used before for another file.

        Raises:
            SealError: the name has more than `MAX_NAME` bytes.

        """
        encoded = name.encode()
        if len(encoded) > MAX_NAME:
            raise SealError(f"the name has {len(encoded)} bytes; a sealed file takes up to {MAX_NAME}")
        self._cipher = _cipher(secret, salt)
        #: Goes first, as it is.
        self.header: bytes = MAGIC + salt
        #: What is sealed before the content, as if it were its beginning.
        self.preface: bytes = _NAME.pack(len(encoded)) + encoded

    def size(self, content: int) -> int:
        """Return the bytes that `content` bytes become, header and all."""
        plain = len(self.preface) + content
        return HEADER + plain + self.chunks(content) * TAG

    def chunks(self, content: int) -> int:
        """Return how many chunks `content` bytes become."""
        return -(-(len(self.preface) + content) // CHUNK)

    def chunk(self, number: int, plain: bytes, *, last: bool) -> bytes:
        """Seal chunk `number` (from 0)."""
        return self._cipher.encrypt(_nonce(number, last=last), plain, None)


class Opener:
    """Opens a sealed file as it comes in."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._cipher: AESGCM | None = None
        self._gathered = bytearray()
        self._number = 0
        #: The file's, once the first chunk has been opened.
        self.name: str | None = None

    def feed(self, data: bytes | memoryview) -> bytes:
        """Take bytes; return what they open, which may be nothing yet.

        What is returned is what was sealed, but maybe not all of it: only `finish` tells.

        Raises:
            SealError: see the class.

        """
        self._gathered += data
        cipher = self._cipher or self._read_header()
        if cipher is None:
            return b""
        opened = bytearray()
        # A chunk that nothing follows may be the last.
        while len(self._gathered) > _SEALED:
            opened += self._open(cipher, bytes(self._gathered[:_SEALED]), last=False)
            del self._gathered[:_SEALED]
        return bytes(opened)

    def finish(self) -> bytes:
        """Say that no more comes; return what the rest opens.

        Raises:
            SealError: see the class.

        """
        if self._cipher is None:
            raise SealError(_NONE)
        rest, self._gathered = bytes(self._gathered), bytearray()
        return self._open(self._cipher, rest, last=True)

    def _read_header(self) -> AESGCM | None:
        begun = min(len(self._gathered), len(MAGIC))
        if self._gathered[:begun] != MAGIC[:begun]:
            raise SealError(_NONE)
        if len(self._gathered) < HEADER:
            return None
        self._cipher = _cipher(self._secret, bytes(self._gathered[len(MAGIC) : HEADER]))
        del self._gathered[:HEADER]
        return self._cipher

    def _open(self, cipher: AESGCM, chunk: bytes, *, last: bool) -> bytes:
        try:
            plain = cipher.decrypt(_nonce(self._number, last=last), chunk, None)
        except (InvalidTag, ValueError):
            where = "has another secret, or" if self._number == 0 else "was cut off or altered:"
            at = HEADER + self._number * _SEALED
            raise SealError(
                f"the sealed file {where} its bytes from {at} on are not what was sealed"
            ) from None
        self._number += 1
        if self.name is not None:
            return plain
        return self._read_name(plain)

    def _read_name(self, plain: bytes) -> bytes:
        # Sealed by somebody who has the secret, so damage is no explanation.
        if len(plain) < _NAME.size or len(plain) < (end := _NAME.size + _NAME.unpack_from(plain)[0]):
            raise SealError("the sealed file has no name: whoever sealed it does not follow the format")
        try:
            self.name = plain[_NAME.size : end].decode()
        except UnicodeDecodeError:
            raise SealError("the sealed file's name is not UTF-8") from None
        return plain[end:]


_NONE: Final = "this is no file sealed by fawa: without a secret it may be received as it is"


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11) + bytes([last])


def _cipher(secret: bytes, salt: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), SECRET_BYTES, salt, MAGIC).derive(secret))
