"""What the tests of the dialects share: methods to call, bytes in pieces, and strategies for what is said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from hypothesis import strategies as st
from multidict import MultiDict

from fawa.proto.greet.v1.greet_pb2 import SayHelloRequest, SayHelloResponse
from fawa.rpc.dialect import ClientDialect, Headers, Kind, Limits, Method, ServerDialect, negotiate
from fawa.rpc.stream import MetadataLike

METHODS = {
    kind: Method(f"/test.v1.Test/{kind.name}", kind, SayHelloRequest, SayHelloResponse) for kind in Kind
}
UNARY = METHODS[Kind.UNARY]
CLIENT_STREAM = METHODS[Kind.CLIENT_STREAM]
SERVER_STREAM = METHODS[Kind.SERVER_STREAM]
BIDI = METHODS[Kind.BIDI]
#: Connect allows GET for this one.
QUERY = Method("/test.v1.Test/QUERY", Kind.UNARY, SayHelloRequest, SayHelloResponse, no_side_effects=True)


def post(
    method: Method | None, content_type: bytes, *headers: tuple[bytes, bytes], limits: Limits | None = None
) -> ServerDialect:
    """Return the server's side of a call that is made with POST."""
    return negotiate("POST", [(b"content-type", content_type), *headers], "", method, limits or Limits())


def pieces(data: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """Yield `data` in pieces of these sizes, again and again; no sizes: whole."""
    cycle = list(sizes) or [len(data)]
    position = turn = 0
    while position < len(data):
        end = position + cycle[turn % len(cycle)]
        yield data[position:end]
        position, turn = end, turn + 1


def hear(dialect: ServerDialect, body: bytes, sizes: Iterable[int] = ()) -> list[bytes]:
    """Feed a whole request body in pieces; return the payloads that came out."""
    heard = [payload for piece in pieces(body, sizes) for payload in dialect.feed(piece)]
    return heard + dialect.feed_end()


def hear_response(
    dialect: ClientDialect, body: bytes, trailers: Headers, sizes: Iterable[int] = ()
) -> list[bytes]:
    """Feed a whole response body in pieces, and its end; return the payloads that came out."""
    heard = [payload for piece in pieces(body, sizes) for payload in dialect.feed(piece)]
    return heard + dialect.feed_end(trailers)


def refused(status: Status, *words: str) -> Any:
    """Expect a `GRPCError` with this status, whose message holds these words."""

    def fits(error: GRPCError) -> bool:
        return error.status is status and all(word in (error.message or "") for word in words)

    return pytest.raises(GRPCError, check=fits)


def as_dict(metadata: MultiDict[str | bytes] | MetadataLike) -> dict[str, list[str | bytes]]:
    """Return metadata as lists of values by key: order counts only among values of one key."""
    entries = MultiDict(metadata)
    return {key: entries.getall(key) for key in entries}


#: Sizes of pieces: mostly few and small, so that a piece ends in every part of an envelope.
sizes = st.lists(st.integers(1, 12), max_size=6)

#: Of letters that spell no reserved name.
_keys = st.text("abcgnrt019_.-", min_size=1, max_size=8)
_printable = [chr(code) for code in (*range(0x20, 0x7F), *range(0x80, 0x100))]
_text_values = st.text(_printable, max_size=20).map(lambda value: value.strip(" "))
_entries: st.SearchStrategy[tuple[str, str | bytes]] = st.one_of(
    st.tuples(_keys, _text_values),
    st.tuples(_keys.map(lambda key: key + "-bin"), st.binary(max_size=20)),
)
metadatas = st.lists(_entries, max_size=4)

payloads = st.one_of(st.binary(max_size=40), st.binary(min_size=1, max_size=8).map(lambda unit: unit * 60))
failures = st.sampled_from([status for status in Status if status is not Status.OK])
details: st.SearchStrategy[list[Message]] = st.lists(
    st.one_of(
        st.builds(SayHelloRequest, name=st.text(max_size=20)),
        st.builds(
            AnyMessage,
            type_url=st.just("type.googleapis.com/never.v1.Heard"),
            value=st.binary(max_size=20),
        ),
    ),
    max_size=3,
)
