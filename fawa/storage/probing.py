"""Whether stores do what is asked of them: each is written to, read and tidied up.

What is written has keys that no client can have, and expires soon should the tidying up fail. Opens stores of
its own, so that a daemon that uses them need not run, and is not disturbed if it does.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from fawa.storage.base import BoardStore, FileRecord, MetadataStore, State
from fawa.storage.leases import Leases

#: Seconds until what a probe has written expires.
LIFE: Final = 60.0

#: Boards have codes in upper case.
_BOARD: Final = "doctor"


async def probe_records(
    open_store: Callable[[], AbstractAsyncContextManager[MetadataStore]], now: float
) -> None:
    """Add a record, read it and delete it.

    Raises:
        StorageError: that cannot be done.

    """
    key = f"doctor-{secrets.token_hex(8)}"
    record = FileRecord(
        key=key,
        name="fawad-doctor",
        size=0,
        content_type="text/plain",
        sha256=bytes(32),
        created=now,
        expires=now + LIFE,
        state=State.UPLOADING,
    )
    async with open_store() as records:
        await records.add(record)
        await records.get(key)
        await records.delete(key)


async def probe_boards(open_store: Callable[[], AbstractAsyncContextManager[BoardStore]], now: float) -> None:
    """Keep a copy of a board, read it and delete it; raises as `probe_records`."""
    async with open_store() as boards:
        await boards.put(_BOARD, b"", now + LIFE)
        await boards.get(_BOARD, now)
        await boards.delete(_BOARD)


async def probe_leases(open_store: Callable[[], AbstractAsyncContextManager[Leases]]) -> None:
    """Take a lease and let go of it; raises as `probe_records`."""
    async with open_store() as leases:
        lease = await leases.acquire("doctor", LIFE)
        if lease is not None:  # another doctor has it
            await leases.release(lease)
