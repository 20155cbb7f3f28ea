"""The services that data is kept in, where it is not in the data folder alone."""

from __future__ import annotations

import trio

from fawa.ops.doctor.findings import Case, Finding, NotLookedAt
from fawa.storage.base import StorageError

#: By service: what to do.
_ADVICE = {
    "S3": "Until then no files are taken or given: fawad keeps their content there",
    "Redis": "Have redis.url name one that takes what it is told; until then no files are taken or given",
}


async def redis(case: Case) -> list[Finding]:
    """Write to Redis, as the daemon does."""
    return await _try(case, "Redis", "redis.url")


async def s3(case: Case) -> list[Finding]:
    """Use the bucket, as the daemon does."""
    return await _try(case, "S3", "s3.endpoint")


async def _try(case: Case, name: str, setting: str) -> list[Finding]:
    if name not in case.probes:
        raise NotLookedAt(f"{setting} is not set")
    try:
        # Each of several steps has its own time.
        with trio.fail_after(4 * case.timeout):
            ahead = await case.probes[name]()
    except StorageError as error:
        text = str(error)
        return [Finding(text[0].upper() + text[1:], _ADVICE[name])]
    except trio.TooSlowError:
        problem = f"{name} does not do in {4 * case.timeout:g} s what takes it milliseconds"
        return [Finding(problem, "See its log, and the network between here and there")]
    if ahead is not None:
        case.clocks[name] = ahead
    return []
