"""Files that are sealed while they are sent, and opened where they have arrived. Blocking: use a thread."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from fawa.client.part import TransferError
from fawa.client.sealing import CHUNK, HEADER, TAG, Opener, Seal, SealError
from fawa.client.seekable import Seekable
from fawa.client.upload import Readable

#: The name of every sealed file at the server.
SEALED_NAME: Final = "sealed.fawa"

_SEALED: Final = CHUNK + TAG
#: Bytes opened at once.
_PIECE: Final = 1024 * 1024


class SealedFile(Seekable):
    """A file as what it is sealed to; reads from any offset, as a file does.

    What is read twice is sealed twice, and must be the same: the tag of every chunk is kept, 16 bytes for
    each 64 KiB, and a chunk that has changed is not given out.
    """

    def __init__(self, file: Readable, size: int, seal: Seal) -> None:
        """Seal the first `size` bytes of a file that can be read from anywhere."""
        super().__init__()
        self._file = file
        self._content = size
        self._seal = seal
        self._chunks = seal.chunks(size)
        self._tags: dict[int, bytes] = {}
        #: Bytes that it becomes.
        self.size = seal.size(size)

    def read(self, count: int = -1) -> bytes:
        """Return the next bytes, `count` unless the sealed file ends before.

        Raises:
            OSError: the file cannot be read.
            TransferError: it has become shorter, or has changed since it was read before.

        """
        end = self.size if count < 0 else min(self.size, self._at + count)
        read = bytearray(self._seal.header[self._at : end])
        while self._at + len(read) < end:
            number, skip = divmod(self._at + len(read) - HEADER, _SEALED)
            read += self._chunk(number)[skip : skip + end - self._at - len(read)]
        self._at += len(read)
        return bytes(read)

    def _chunk(self, number: int) -> bytes:
        preface = self._seal.preface
        start = max(0, number * CHUNK - len(preface))
        stop = min(self._content, (number + 1) * CHUNK - len(preface))
        self._file.seek(start)
        plain = (preface if number == 0 else b"") + self._read_file(stop - start)
        chunk = self._seal.chunk(number, plain, last=number == self._chunks - 1)
        if self._tags.setdefault(number, chunk[-TAG:]) != chunk[-TAG:]:
            raise TransferError("the file has changed while it was sent: send it again")
        return chunk

    def _read_file(self, count: int) -> bytes:
        data = self._file.read(count)
        while len(data) < count:
            more = self._file.read(count - len(data))
            if not more:
                raise TransferError("the file has become shorter while it was sent: send it again")
            data += more
        return data


def open_sealed(path: Path, secret: bytes) -> tuple[str, Path]:
    """Open a sealed file into a new one beside it; return the name it was sent under, and where it is.

    Raises:
        SealError: it is no sealed file, was altered, or the secret is another file's; nothing is left behind.
        TransferError: it cannot be read or written.

    """
    opener = Opener(secret)
    opened = path.with_name(f"{path.name}.opened")
    try:
        with path.open("rb") as source:
            # Not through a link that somebody else may have put there.
            opened.unlink(missing_ok=True)
            with opened.open("xb") as copy:
                try:
                    while data := source.read(_PIECE):
                        copy.write(opener.feed(data))
                    copy.write(opener.finish())
                    copy.flush()
                    os.fsync(copy.fileno())
                except BaseException:
                    with contextlib.suppress(OSError):
                        opened.unlink()
                    raise
    except OSError as error:
        raise TransferError(f"cannot open {path} into {opened}: {error.strerror}") from error
    if opener.name is None:
        raise SealError("the sealed file has no name")
    return opener.name, opened
