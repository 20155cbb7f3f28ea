"""Which dialect a request speaks; and the names that the shell needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import attrs
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.rpc.base import ContentType
from fawa.rpc.codec import JSON, PROTO
from fawa.rpc.connect import (
    ConnectGetServer,
    ConnectStreamServer,
    ConnectUnaryServer,
    parse_query,
    stream_content_type,
    unary_content_type,
)
from fawa.rpc.connect_client import ConnectClient
from fawa.rpc.face import (
    ClientDialect,
    End,
    Head,
    Headers,
    HttpError,
    Kind,
    Limits,
    Method,
    Outcome,
    ServerDialect,
)
from fawa.rpc.grpc import GrpcClient, GrpcServer, content_type
from fawa.rpc.grpcweb import GrpcWebClient, GrpcWebServer, GrpcWebTextServer

__all__ = [
    "CLIENTS",
    "ClientDialect",
    "End",
    "Head",
    "Headers",
    "HttpError",
    "Kind",
    "Limits",
    "Method",
    "Outcome",
    "ServerDialect",
    "client_dialect",
    "is_rpc_content_type",
    "negotiate",
]


@attrs.frozen
class _Row:
    """What a content type stands for."""

    server: Callable[[ContentType, dict[bytes, bytes], Headers, Method | None, Limits], ServerDialect]
    content: ContentType
    #: Whether it is for unary methods only (`True`), for streams only (`False`), or for all (`None`).
    unary: bool | None = None


_GRPC: Final = (
    _Row(GrpcServer, content_type(b"application/grpc", PROTO)),
    _Row(GrpcServer, content_type(b"application/grpc+proto", PROTO)),
    _Row(GrpcServer, content_type(b"application/grpc+json", JSON)),
    _Row(GrpcWebServer, content_type(b"application/grpc-web", PROTO)),
    _Row(GrpcWebServer, content_type(b"application/grpc-web+proto", PROTO)),
    _Row(GrpcWebServer, content_type(b"application/grpc-web+json", JSON)),
    _Row(GrpcWebTextServer, content_type(b"application/grpc-web-text", PROTO)),
    _Row(GrpcWebTextServer, content_type(b"application/grpc-web-text+proto", PROTO)),
)
_UNARY: Final = (
    _Row(ConnectUnaryServer, unary_content_type(b"application/proto", PROTO), unary=True),
    _Row(ConnectUnaryServer, unary_content_type(b"application/json", JSON), unary=True),
)
_STREAM: Final = (
    _Row(ConnectStreamServer, stream_content_type(b"application/connect+proto", PROTO), unary=False),
    _Row(ConnectStreamServer, stream_content_type(b"application/connect+json", JSON), unary=False),
)
_ROWS: Final = {row.content.value: row for row in (*_GRPC, *_UNARY, *_STREAM)}
#: gRPC in a codec that we do not know.
_UNKNOWN_CODEC: Final = _Row(GrpcServer, content_type(b"application/grpc", PROTO))
_BY_ENCODING: Final = {row.content.codec.name.encode(): row.content for row in _UNARY}

_ACCEPT_POST: Final = {
    unary: b", ".join(row.content.value for row in (*_GRPC, *rows))
    for unary, rows in ((True, _UNARY), (False, _STREAM))
}


def _find(value: bytes) -> _Row | None:
    """Return the row of a content type that may have parameters, capitals, or an unknown gRPC codec."""
    base = value.partition(b";")[0].strip().lower()
    row = _ROWS.get(base)
    return _UNKNOWN_CODEC if row is None and base.startswith(b"application/grpc+") else row


def is_rpc_content_type(value: bytes | None) -> bool:
    """Tell whether a request with this content type is for an RPC dialect."""
    return value is not None and _find(value) is not None


def negotiate(
    http_method: str,
    headers: Headers,
    query: str,
    method: Method | None,
    limits: Limits,
    fields: dict[bytes, bytes] | None = None,
) -> ServerDialect:
    """Return the dialect that a request speaks.

    Args:
        http_method: "POST", or "GET" for Connect methods without side effects.
        headers: of the request, names in lower case.
        query: what follows `?` in the target, still percent-encoded.
        method: what is called; `None` when there is no such method, so that the error can be said in the
            dialect's own words (`end(Status.UNIMPLEMENTED, …)`).
        limits: of this call.
        fields: `headers` by name, where the caller has that already.

    Raises:
        HttpError: the request is no RPC: 404 (not POST, and no such method), 405 (with `allow`), 415 (with
            `accept-post`).

    """
    if fields is None:
        fields = dict(reversed(headers))
    if http_method != "POST":
        return _negotiate_get(http_method, fields, headers, query, method, limits)
    value = fields.get(b"content-type", b"")
    row = _ROWS.get(value) or _find(value)
    if row is None:
        raise _wrong_content_type(value, method)
    if row.unary is not None and method is not None and row.unary != (method.kind is Kind.UNARY):
        raise _wrong_content_type(value, method)
    dialect = row.server(row.content, fields, headers, method, limits)
    if row is _UNKNOWN_CODEC:
        dialect.refusal = GRPCError(
            Status.UNIMPLEMENTED,
            f"content type {value.decode('latin-1')!r} is not supported; use +proto or +json",
        )
    return dialect


def _wrong_content_type(value: bytes, method: Method | None) -> HttpError:
    accepted = _ACCEPT_POST[method is None or method.kind is Kind.UNARY]
    name = "this method" if method is None else method.path
    return HttpError(
        415,
        [(b"accept-post", accepted)],
        f"{name} does not take content type {value.decode('latin-1')!r}, but: {accepted.decode()}",
    )


def _negotiate_get(
    http_method: str,
    fields: dict[bytes, bytes],
    headers: Headers,
    query: str,
    method: Method | None,
    limits: Limits,
) -> ServerDialect:
    if method is None:
        raise HttpError(404, [], "there is no such RPC method")
    takes_get = method.no_side_effects and method.kind is Kind.UNARY
    if http_method != "GET" or not takes_get:
        allow = "GET, POST" if takes_get else "POST"
        raise HttpError(405, [(b"allow", allow.encode())], f"{method.path} takes {allow}, not {http_method}")
    parameters = parse_query(query)
    encoding = parameters.get("encoding", b"json")
    content = _BY_ENCODING.get(encoding)
    if content is None:
        said = encoding.decode("utf-8", "replace")
        raise HttpError(415, [], f"parameter 'encoding' is json or proto, not {said!r}")
    return ConnectGetServer(content, fields, headers, method, limits, parameters)


#: The dialects a client can speak, by name.
CLIENTS: Final[Mapping[str, Callable[[Limits, bool], ClientDialect]]] = {
    "grpc": lambda limits, compress: GrpcClient(PROTO, limits, compress=compress),
    "grpc-web": lambda limits, compress: GrpcWebClient(PROTO, limits, compress=compress),
    "connect": lambda limits, compress: ConnectClient(PROTO, limits, compress=compress),
    "connect-json": lambda limits, compress: ConnectClient(JSON, limits, compress=compress),
}


def client_dialect(name: str, limits: Limits | None = None, *, compress: bool = False) -> ClientDialect:
    """Return the client's side of one call in the dialect `name`, a key of `CLIENTS`.

    Args:
        name: of the dialect.
        limits: of this call.
        compress: send messages compressed with gzip; off unless one knows that the server takes it.

    Raises:
        KeyError: there is no such dialect.

    """
    return CLIENTS[name](limits or Limits(), compress)
