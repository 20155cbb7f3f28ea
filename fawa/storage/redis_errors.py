"""What went wrong with Redis, told to the operator; passwords are not.

A server may quote in its refusal what it was sent, the password too: so no text of it is passed on as it is,
and errors from here have no cause that a traceback could show.
"""

from __future__ import annotations

from typing import Final

from coredis import exceptions

from fawa.storage.base import OutOfReach, OutOfSpace, StorageError
from fawa.storage.redis_url import RedisAddress

#: The server is starting, is no primary (any more), or a cluster moves slots: the same call soon works.
_PASSING: Final = (
    exceptions.AskError,
    exceptions.BusyLoadingError,
    exceptions.ClusterDownError,
    exceptions.ReadOnlyError,
    exceptions.StalePrimaryError,
    exceptions.TryAgainError,
)
_PASSING_WORDS: Final = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK")

#: Errors in a chain that are told.
_MOST_CAUSES: Final = 4


def is_passing(error: BaseException) -> bool:
    """Tell whether the server answered that it cannot do it now: nothing was done."""
    return isinstance(error, _PASSING) or str(error).startswith(_PASSING_WORDS)


def is_answer(error: BaseException) -> bool:
    """Tell whether the connection is in order, and what was asked is not."""
    return isinstance(error, exceptions.ResponseError) and not is_passing(error)


def explain(address: RedisAddress, error: BaseException) -> StorageError:
    """Return what to raise: `OutOfReach` when waiting may help."""
    text = _causes(error)
    if address.password:
        text = text.replace(address.password, "***")
    if "OOM command not allowed" in text or "'maxmemory'" in text:
        return OutOfSpace(
            f"Redis at {address} has reached its memory limit ({text}). Raise maxmemory there, or free some."
        )
    if isinstance(error, exceptions.AuthenticationError | exceptions.AuthorizationError):
        return StorageError(
            f"Redis at {address} refused ({text}). Check user and password in redis.url, and that the user "
            "may run EVAL, EVALSHA and what scripts call on keys that begin with {fawa."
        )
    if isinstance(error, exceptions.ReadOnlyError) or text.startswith("READONLY"):
        return OutOfReach(
            f"Redis at {address} can be read but not written ({text}). Name the primary in redis.url, not a "
            "replica; or wait, if a failover is under way.",
            "Redis",
        )
    if isinstance(error, exceptions.UnknownCommandError):
        return StorageError(
            f"Redis at {address} lacks a command ({text}). fawa needs Redis 6.2 or later, Valkey "
            "or Dragonfly."
        )
    if "certificate" in text.lower():
        return StorageError(
            f"Redis at {address} has a certificate that is not trusted ({text}). Set redis.ca."
        )
    if isinstance(error, exceptions.ResponseError) and not is_passing(error):
        return StorageError(f"Redis at {address} refused: {text}")
    return OutOfReach(
        f"Redis at {address} cannot be reached ({text}). Check that it runs, the network, and redis.url.",
        "Redis",
    )


def innermost(error: BaseException) -> BaseException:
    """Return the first error inside of groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _causes(error: BaseException | None) -> str:
    """Write an error with what led to it: coredis tells the reason of a failed connection only as cause."""
    texts: list[str] = []
    while error is not None and len(texts) < _MOST_CAUSES:
        error = innermost(error)
        if (text := str(error) or type(error).__name__) not in texts:
            texts.append(text)
        error = error.__cause__
    return ": ".join(texts)
