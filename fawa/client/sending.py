"""What `fawa send` sends: files, folders, pipes, as they are or sealed."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

import trio

from fawa.client.folder import SUFFIX as FOLDER_SUFFIX
from fawa.client.folder import PackedFolder
from fawa.client.part import TransferError
from fawa.client.sealed import SEALED_NAME, SealedFile
from fawa.client.sealing import SALT_BYTES, SECRET_BYTES, Seal, SealError
from fawa.client.upload import Source

#: Bytes copied at once from what has no size.
_SPOOL_PIECE: Final = 1024 * 1024


def check_source(file: str, name: str | None) -> None:
    """See that a file can be sent, before anything is."""
    if file == "-":
        return
    path = Path(file)
    try:
        if path.is_dir():
            next(path.iterdir(), None)
        elif path.is_file():
            path.open("rb").close()
        else:
            path.stat()
    except OSError as error:
        raise TransferError(f"cannot read {file}: {error.strerror}") from error
    try:
        (name or path.resolve().name).encode()
    except UnicodeEncodeError:
        raise TransferError(f"the name of {file!r} is not valid UTF-8: give another with --name") from None


async def open_source(file: str, name: str | None) -> Source:
    """Open what is to be sent: a file, a folder (packed), or a pipe, which is copied first to have a size.

    Raises:
        TransferError: it cannot be read.

    """
    path = Path(file)
    try:
        if file == "-" or not (path.is_file() or path.is_dir()):
            copy, size = await _spool(file)
            return Source(copy, name or path.name, size)
        if path.is_dir():
            packed = await trio.to_thread.run_sync(PackedFolder, path)
            return Source(packed, (name or path.resolve().name or "folder") + FOLDER_SUFFIX, packed.size)
        source = await trio.to_thread.run_sync(path.open, "rb")
        return Source(source, name or path.name, os.fstat(source.fileno()).st_size)
    except OSError as error:
        raise TransferError(f"cannot read {file}: {error.strerror}") from error


def seal_source(source: Source) -> tuple[Source, bytes]:
    """Return a source sealed, and the new secret that opens it.

    Raises:
        TransferError: its name is too long.

    """
    secret = secrets.token_bytes(SECRET_BYTES)
    try:
        seal = Seal(secret, secrets.token_bytes(SALT_BYTES), source.name)
    except SealError as error:
        raise TransferError(str(error)) from error
    sealed = SealedFile(source.file, source.size, seal)
    return Source(sealed, SEALED_NAME, sealed.size), secret


async def _spool(file: str) -> tuple[BinaryIO, int]:
    """Copy what comes out of a pipe to a temporary file."""
    copy: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - returned open
    try:
        descriptor = 0 if file == "-" else await _in_thread(os.open, file, os.O_RDONLY)
        # os.read and no file object: the lock of one would be held at the interpreter's end.
        while data := await _in_thread(os.read, descriptor, _SPOOL_PIECE):
            await trio.to_thread.run_sync(copy.write, data)
        if descriptor:
            os.close(descriptor)
        size = copy.tell()
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy, size


async def _in_thread(function: Callable[..., Any], *arguments: object) -> Any:
    """Call what may block for ever, such as reading a terminal; Ctrl-C leaves it behind."""
    return await trio.to_thread.run_sync(function, *arguments, abandon_on_cancel=True)
