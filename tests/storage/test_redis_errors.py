"""What is told of a Redis that fails."""

from __future__ import annotations

import pytest
from coredis import exceptions

from fawa.storage.base import OutOfReach, OutOfSpace, StorageError
from fawa.storage.redis_errors import explain, innermost, is_answer, is_passing
from fawa.storage.redis_url import parse_redis_url

ADDRESS = parse_redis_url("redis://ann:open%20sesame@db/1")


def caused(error: Exception, *causes: Exception) -> Exception:
    """Return the error with what led to it."""
    last: BaseException = error
    for cause in causes:
        last.__cause__ = cause
        last = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (
            caused(exceptions.ConnectionError("no connection to db"), OSError("[Errno 111] refused")),
            OutOfReach,
            "cannot be reached (no connection to db: [Errno 111] refused). Check that it runs",
        ),
        (TimeoutError("no answer within 3 seconds"), OutOfReach, "(no answer within 3 seconds)"),
        (exceptions.BusyLoadingError("Redis is loading"), OutOfReach, "(Redis is loading)"),
        (exceptions.ReadOnlyError("You can't write"), OutOfReach, "(You can't write)"),
        (exceptions.ResponseError("OOM command not allowed"), OutOfSpace, "Raise maxmemory there"),
        (
            exceptions.AuthenticationFailureError("WRONGPASS"),
            StorageError,
            "Check user and password in redis.url",
        ),
        (exceptions.AuthorizationError("NOPERM"), StorageError, "may run EVAL, EVALSHA"),
        (
            exceptions.UnknownCommandError("unknown command 'HELLO', with args: 'ann' 'open sesame'"),
            StorageError,
            "with args: 'ann' '***'). fawa needs Redis 6.2 or later",
        ),
        (
            caused(exceptions.ConnectionError("no"), OSError("CERTIFICATE_VERIFY_FAILED")),
            StorageError,
            "is not trusted (no: CERTIFICATE_VERIFY_FAILED). Set redis.ca",
        ),
        (exceptions.ResponseError("MISCONF disk"), StorageError, "refused: MISCONF disk"),
    ],
)
def test_what_is_told(error: Exception, kind: type[StorageError], told: str) -> None:
    failure = explain(ADDRESS, error)
    assert type(failure) is kind
    assert str(failure).startswith("Redis at redis://ann:***@db/1 ")
    assert told in str(failure)
    assert "sesame" not in str(failure)


def test_what_passes_by_itself_is_no_answer() -> None:
    for error in (exceptions.ReadOnlyError("no"), exceptions.ResponseError("MASTERDOWN Link is down")):
        assert is_passing(error)
        assert not is_answer(error)
    assert is_answer(exceptions.ResponseError("WRONGTYPE"))
    assert not is_answer(exceptions.ConnectionError("lost"))


def test_the_error_inside_of_groups() -> None:
    error = OSError("no")
    assert innermost(ExceptionGroup("a", [ExceptionGroup("b", [error]), ValueError()])) is error
