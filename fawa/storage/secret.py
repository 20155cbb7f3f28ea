"""The file that holds the secret for signing links."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

import trio

from fawa.storage.base import StorageError
from fawa.storage.publishing import make_folders, publish_file
from fawa.storage.signing import MIN_SECRET


async def load_or_create_secret(path: Path) -> bytes:
    """Return the secret kept in the file, made at random with mode 0600 when there is none.

    The file holds text; white space around it does not count. Processes that start at once all return
    the same secret.

    Raises:
        StorageError: it cannot be read or made, or is shorter than 32 bytes.

    """
    try:
        secret = await trio.to_thread.run_sync(_load_or_create, path)
    except OSError as error:
        raise StorageError(
            f"the link secret {path} cannot be read or made: {error.strerror}. "
            "Check its folder and the rights to it."
        ) from error
    if len(secret) < MIN_SECRET:
        raise StorageError(
            f"the link secret {path} has {len(secret)} bytes and needs {MIN_SECRET} or more. "
            "Delete it, and a new one is made (links given out before then stop working)."
        )
    return secret


def _load_or_create(path: Path) -> bytes:
    with suppress(FileNotFoundError):
        return path.read_bytes().strip()
    make_folders(path.parent)
    # Written whole under another name, then linked: nobody reads half a secret, and the first one stays.
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(fd, secrets.token_hex(MIN_SECRET).encode() + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)
        with suppress(FileExistsError):
            publish_file(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path.read_bytes().strip()
