"""URLs of Redis: what they say, what is refused and why."""

from __future__ import annotations

import pytest

from fawa.config.kinds import RedisUrl
from fawa.storage.redis_url import parse_redis_url


@pytest.mark.parametrize(
    ("text", "kind", "tls", "nodes", "database", "service"),
    [
        ("db", "server", False, (("db", 6379),), 0, ""),
        ("db:1", "server", False, (("db", 1),), 0, ""),
        ("redis://[::1]:7/3", "server", False, (("::1", 7),), 3, ""),
        ("REDISS://db/", "server", True, (("db", 6379),), 0, ""),
        ("redis+sentinel://a,b:1/main/2", "sentinel", False, (("a", 26379), ("b", 1)), 2, "main"),
        ("rediss+cluster://a,b:1", "cluster", True, (("a", 6379), ("b", 1)), 0, ""),
    ],
)
def test_what_a_url_says(
    text: str, kind: str, tls: bool, nodes: tuple[tuple[str, int], ...], database: int, service: str
) -> None:
    address = parse_redis_url(text)
    assert (address.kind, address.tls, address.nodes) == (kind, tls, nodes)
    assert (address.database, address.service) == (database, service)
    assert (address.username, address.password) == (None, None)
    assert RedisUrl().parse(RedisUrl().show(address)) == address


def test_a_password_is_read_and_not_shown() -> None:
    address = parse_redis_url("redis://ann:s%40%3Acret@db/1")
    assert (address.username, address.password) == ("ann", "s@:cret")
    assert str(address) == RedisUrl().show(address) == "redis://ann:***@db/1"
    assert "cret" not in repr(address)
    assert parse_redis_url("redis://:x@db").username is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "names no host"),
        ("redis://", "names no host"),
        ("http://db", "does not start with one of redis://"),
        ("redis://d b", "has characters that a URL does not have"),
        ("redis://[db", "is not a URL"),
        ("redis://db:x", "has a host that is not host or host:port"),
        ("redis://db:0", "has a port"),
        ("redis://db:65536", "has a port"),
        ("redis://a,b", "names several hosts"),
        ("redis://db/x", "has a path that is not the number of a database"),
        ("redis://db/1/2", "has a path that is not the number of a database"),
        ("redis://db?a=b", "has a query or a fragment"),
        ("redis+sentinel://db", "names no service"),
        ("redis+cluster://db/1", "has a path, but clusters"),
    ],
)
def test_what_is_none(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_redis_url(text)
