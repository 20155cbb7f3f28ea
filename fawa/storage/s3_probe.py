"""Whether a bucket takes, gives and forgets an object; for `fawad doctor`, which makes no bucket.

What is written is no file's key: nobody is ever sent it, and a daemon that uses the bucket is not disturbed.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Final

import trio

from fawa.storage.base import StorageError
from fawa.storage.s3_client import S3Settings, connect

#: Tries of each request: who waits for a doctor wants to know what is so now.
_TRIES: Final = 2
_CONTENT: Final = b"+"
#: Seconds to remove it again.
_TIDYING: Final = 10.0


async def probe_bucket(settings: S3Settings, clock: Callable[[], float] = time.time) -> float:
    """Use the bucket in each way that a daemon does.

    Args:
        settings: where it is.
        clock: Unix seconds by this machine.

    Returns:
        How many seconds the service's clock is ahead of this machine's; 0 when it does not tell the time.

    Raises:
        StorageError: it cannot be used so.
        trio.TooSlowError: nor did it say why in time.

    """
    key = f".doctor-{secrets.token_hex(8)}"
    async with connect(settings) as client:
        # A listing first: unlike a HEAD, it is refused with a reason.
        query = {"list-type": "2", "max-keys": "1", "prefix": settings.prefix}
        answer = await client.request("list files", "GET", query=query, tries=_TRIES)
        ahead = _ahead(answer.headers.get("date", ""), clock())
        await client.request("write files", "PUT", key, body=_CONTENT, tries=_TRIES)
        try:
            read = await client.request("read files", "GET", key, tries=_TRIES)
        finally:
            with trio.fail_after(_TIDYING, shield=True):
                await client.request("delete files", "DELETE", key, tries=_TRIES)
        if read.body != _CONTENT:
            told = f"it gave {read.body[:64]!r} for what was written as {_CONTENT!r}"
            raise StorageError(client.explain("read files", told, "See the service's log"))
    return ahead


def _ahead(date: str, now: float) -> float:
    try:
        return parsedate_to_datetime(date).timestamp() - now
    except ValueError:
        return 0.0
