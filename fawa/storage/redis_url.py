"""Where Redis is: the URL of a server, of a Sentinel service or of a cluster, read. Pure."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

import attrs

#: By scheme: what kind of installation it is, and whether with TLS.
SCHEMES: Final = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}

_DEFAULT_PORTS: Final = {"server": 6379, "sentinel": 26379, "cluster": 6379}

_NODE: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?")


@attrs.frozen(kw_only=True)
class RedisAddress:
    """What a URL says."""

    #: `server`, `sentinel` or `cluster`.
    kind: str
    tls: bool
    #: Host and port of the server, of Sentinels, or of some of a cluster's nodes.
    nodes: tuple[tuple[str, int], ...]
    username: str | None
    password: str | None = attrs.field(repr=False)
    database: int
    #: What Sentinels call the primary; "" without Sentinel.
    service: str
    #: The URL without its password, for people to read.
    shown: str

    def __str__(self) -> str:
        return self.shown


def parse_redis_url(text: str) -> RedisAddress:
    """Read `redis://[user:password@]host[:port][/db]` or one of its relatives, or `host[:port]` alone.

    `redis+sentinel://host,host/service[/db]` asks Sentinels for the primary, `redis+cluster://host,host` is a
    cluster; `rediss` in place of `redis` is the same over TLS. User and password are percent-encoded.

    Raises:
        ValueError: it is none; the text says why and reads after the value.

    """
    scheme, separator, _ = text.partition("://")
    if not separator:
        text, scheme = f"redis://{text}", "redis"
    if scheme.lower() not in SCHEMES:
        raise ValueError(f"does not start with one of {', '.join(f'{name}://' for name in SCHEMES)}")
    kind, tls = SCHEMES[scheme.lower()]
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("has characters that a URL does not have")
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.query or parts.fragment:
        raise ValueError("has a query or a fragment (percent-encode ? and # in a password)")
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    nodes = tuple(_node(node, _DEFAULT_PORTS[kind]) for node in hosts.split(","))
    if kind == "server" and len(nodes) > 1:
        raise ValueError("names several hosts, which redis+sentinel:// and redis+cluster:// do")
    service, database = _path(kind, parts)
    before = "" if not credentials else f"{username}:***@" if password else f"{username}@"
    return RedisAddress(
        kind=kind,
        tls=tls,
        nodes=nodes,
        username=unquote(username) or None,
        password=unquote(password) or None,
        database=database,
        service=service,
        shown=f"{scheme.lower()}://{before}{hosts}{parts.path}",
    )


def _node(text: str, default_port: int) -> tuple[str, int]:
    match = _NODE.fullmatch(text)
    if match is None:
        raise ValueError("names no host" if not text else "has a host that is not host or host:port")
    port = int(match[3] or default_port)
    if not 0 < port < 65536:
        raise ValueError("has a port that is not 1 to 65535")
    return match[1] or match[2], port


def _path(kind: str, parts: SplitResult) -> tuple[str, int]:
    """Return the Sentinel service and the number of the database."""
    words = [unquote(word) for word in parts.path.strip("/").split("/") if word]
    service = ""
    if kind == "sentinel":
        if not words:
            raise ValueError("names no service after the Sentinels, as in redis+sentinel://host/mymaster")
        service = words.pop(0)
    if not words:
        return service, 0
    if kind == "cluster":
        raise ValueError("has a path, but clusters have no numbered databases")
    if len(words) > 1 or not re.fullmatch(r"[0-9]{1,5}", words[0]):
        raise ValueError("has a path that is not the number of a database")
    return service, int(words[0])
