"""Client and server dialects talk to each other: what one says, the other hears, in any pieces."""

from __future__ import annotations

import attrs
import pytest
from google.protobuf.message import Message
from grpclib.const import Status
from hypothesis import event, given, settings
from hypothesis import strategies as st

from fawa.proto.greet.v1.greet_pb2 import SayHelloRequest
from fawa.rpc.base import USER_AGENT
from fawa.rpc.details import pack_details
from fawa.rpc.dialect import CLIENTS, Limits, Method, client_dialect, negotiate
from fawa.rpc.stream import MetadataLike
from tests.rpc.conversation import (
    METHODS,
    UNARY,
    as_dict,
    details,
    failures,
    hear,
    hear_response,
    metadatas,
    payloads,
    sizes,
)


@attrs.frozen
class Talk:
    """What is said in one call."""

    requests: list[bytes]
    responses: list[bytes]
    metadata: MetadataLike
    initial: MetadataLike
    trailing: MetadataLike
    status: Status
    message: str
    details: list[Message]
    timeout: float | None
    client_compresses: bool
    server_compresses: bool
    compress_from: int
    cuts: list[int]


@st.composite
def talks(draw: st.DrawFn, method: Method) -> Talk:
    fails = draw(st.booleans())
    kind = method.kind
    responses = draw(st.lists(payloads, max_size=4))
    if not kind.server_streaming:
        responses = responses[:1] if fails else (responses or [b""])[:1]
    return Talk(
        requests=draw(st.lists(payloads, max_size=4)) if kind.client_streaming else [draw(payloads)],
        responses=responses,
        metadata=draw(metadatas),
        initial=draw(metadatas),
        trailing=draw(metadatas),
        status=draw(failures) if fails else Status.OK,
        message=draw(st.text(max_size=30)) if fails else "",
        details=draw(details) if fails else [],
        timeout=draw(st.none() | st.floats(0, 1e6)),
        client_compresses=draw(st.booleans()),
        server_compresses=draw(st.booleans()),
        compress_from=draw(st.sampled_from([0, 1, 100])),
        cuts=draw(sizes),
    )


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.kind.name)
@pytest.mark.parametrize("name", CLIENTS)
@settings(max_examples=40)
@given(data=st.data())
def test_a_call(name: str, method: Method, data: st.DataObject) -> None:
    talk = data.draw(talks(method))
    limits = Limits(compress_from=talk.compress_from)

    client = client_dialect(name, limits, compress=talk.client_compresses)
    http_method, target, headers = client.request(method, "h", talk.metadata, talk.timeout)
    assert target == method.path
    if not talk.server_compresses:
        headers = [field for field in headers if not field[0].endswith(b"accept-encoding")]
        headers.append((b"accept-encoding", b"identity"))
        headers.append((b"connect-accept-encoding", b"identity"))
        headers.append((b"grpc-accept-encoding", b"identity"))

    server = negotiate(http_method, headers, "", method, limits)
    assert server.refusal is None
    body = b"".join(client.message(request) for request in talk.requests)
    assert hear(server, body, talk.cuts) == talk.requests
    assert as_dict(server.metadata) == as_dict(talk.metadata) | {"user-agent": [USER_AGENT.decode()]}
    if talk.timeout is None:
        assert server.timeout is None
    else:
        assert server.timeout == pytest.approx(talk.timeout, rel=1e-3, abs=1e-3)

    head = server.head(talk.initial)
    # In one part or in two is the same.
    cut = data.draw(st.integers(0, 100))
    answer = b"".join(
        part
        for response in talk.responses
        for part in (
            server.message_around(response[:cut], response[cut:]) if cut else [server.message(response)]
        )
    )
    end = server.end(talk.status, talk.message, talk.details, talk.trailing)
    assert (head is None) == (end.head is not None)
    head = head or end.head
    assert head is not None

    client.response(head.status, head.headers)
    expected = talk.responses
    if end.head is not None and talk.status is not Status.OK:
        expected = []  # an HTTP response has one body: the message gives way to the error
    assert hear_response(client, answer + end.body, end.trailers, talk.cuts) == expected
    assert as_dict(client.metadata) == as_dict(talk.initial)
    assert as_dict(client.outcome.metadata) == as_dict(talk.trailing)
    assert client.outcome.status is talk.status
    if talk.message:
        assert client.outcome.message == talk.message
    assert client.outcome.details == pack_details(talk.details)
    event(f"compressed: {b'gzip' in dict(head.headers).values()}")


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.kind.name)
@pytest.mark.parametrize("name", CLIENTS)
@settings(max_examples=20)
@given(data=st.data())
def test_a_call_refused_before_anything_was_sent(name: str, method: Method, data: st.DataObject) -> None:
    status, message, packed = data.draw(st.tuples(failures, st.text(min_size=1, max_size=30), details))
    trailing = data.draw(metadatas)
    client = client_dialect(name)
    http_method, _, headers = client.request(method, "h")
    server = negotiate(http_method, headers, "", method, Limits())
    end = server.end(status, message, packed, trailing)
    assert end.head is not None
    client.response(end.head.status, end.head.headers)
    assert hear_response(client, end.body, end.trailers, data.draw(sizes)) == []
    assert (client.outcome.status, client.outcome.message) == (status, message)
    assert as_dict(client.outcome.metadata) == as_dict(trailing)
    assert client.outcome.details == pack_details(packed)


@pytest.mark.parametrize("name", CLIENTS)
def test_messages_through_the_codec(name: str) -> None:
    client = client_dialect(name)
    http_method, _, headers = client.request(UNARY, "h")
    server = negotiate(http_method, headers, "", UNARY, Limits())
    request = SayHelloRequest(name="Zoë")
    [payload] = hear(server, client.message(client.codec.encode(request)))
    assert server.codec.decode(payload, SayHelloRequest) == request


@pytest.mark.parametrize("name", CLIENTS)
def test_a_method_that_does_not_exist(name: str) -> None:
    client = client_dialect(name)
    http_method, _, headers = client.request(UNARY, "h")
    end = negotiate(http_method, headers, "", None, Limits()).end(Status.UNIMPLEMENTED, "no such method")
    assert end.head is not None
    client.response(end.head.status, end.head.headers)
    assert hear_response(client, end.body, end.trailers) == []
    assert (client.outcome.status, client.outcome.message) == (Status.UNIMPLEMENTED, "no such method")
