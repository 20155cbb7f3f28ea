from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from hypothesis import given
from hypothesis import strategies as st

from fawa.proto.canva.v1.canva_pb2 import ClientDrawRequest, DrawEvent
from fawa.proto.file.v1.file_pb2 import FileInfo, ReceiveFileResponse, SendFileRequest
from fawa.proto.greet.v1.greet_pb2 import SayHelloRequest
from fawa.rpc.codec import JSON, PROTO, Codec
from fawa.rpc.envelope import Payload
from tests.rpc.conversation import refused

CODECS = pytest.mark.parametrize("codec", [PROTO, JSON], ids=["proto", "json"])


def test_proto_on_the_wire() -> None:
    assert PROTO.encode(SayHelloRequest(name="Ada")) == b"\n\x03Ada"
    assert PROTO.decode(b"\n\x03Ada", SayHelloRequest) == SayHelloRequest(name="Ada")
    assert PROTO.decode(b"", SayHelloRequest) == SayHelloRequest()


def test_json_on_the_wire() -> None:
    event = ClientDrawRequest(draw_event=DrawEvent(type="draw", prev_x=1, client_id="é"))
    wire = JSON.encode(event)
    assert wire == '{"drawEvent": {"type": "draw", "prevX": 1, "clientId": "é"}}'.encode()
    assert JSON.decode(wire, ClientDrawRequest) == event


def test_json_takes_both_styles_of_names_and_skips_what_it_does_not_know() -> None:
    wire = b' {"draw_event": {"prev_x": 1, "prevY": 2, "later": [{}]}, "more": null}\n'
    assert JSON.decode(wire, ClientDrawRequest) == ClientDrawRequest(draw_event=DrawEvent(prev_x=1, prev_y=2))


def test_json_of_64_bit_numbers_and_bytes() -> None:
    info = SendFileRequest(info=FileInfo(name="a", size=2**40))
    assert JSON.encode(info) == b'{"info": {"name": "a", "size": "1099511627776"}}'
    assert JSON.decode(b'{"info": {"name": "a", "size": 1099511627776}}', SendFileRequest) == info
    assert JSON.decode(b'{"chunkData": "-_8"}', SendFileRequest).chunk_data == b"\xfb\xff"


def test_json_of_a_well_known_type_need_not_be_an_object() -> None:
    assert JSON.decode(b'"1970-01-01T00:00:01Z"', Timestamp) == Timestamp(seconds=1)


@pytest.mark.parametrize(
    "payload",
    [
        b"\x0a",  # a field without its value
        b"\x0a\x05abc",  # shorter than it says
        b"\x0a\x02\xff\xff",  # not UTF-8
        b"\x0f",  # no such wire type
        b"\xff" * 11,  # a number without end
    ],
)
def test_garbage_proto(payload: bytes) -> None:
    with refused(Status.INVALID_ARGUMENT, "not a valid greet.v1.SayHelloRequest"):
        PROTO.decode(payload, SayHelloRequest)


@pytest.mark.parametrize(
    ("payload", "word"),
    [
        (b"", "object"),
        (b"null", "object"),
        (b"[]", "object"),
        (b'""', "object"),
        (b"1", "object"),
        (b"\xef\xbb\xbf{}", "object"),
        (b"\xff", "utf-8"),
        (b'{"name": "\xff"}', "utf-8"),
        (b"{", "JSON"),
        (b"{} {}", "JSON"),
        (b'{"name": 1}', "name"),
        (b'{"name": ["a"]}', "name"),
        (b'{"name": "\\ud800"}', "surrogate"),
        (b'{"name": "a", "name": "b"}', "duplicate"),
        (b'{"name":' + b"[" * 100_000, "recursion"),
        (b'{"name":' + b"1" * 5000 + b"}", "digits"),
    ],
)
def test_garbage_json(payload: bytes, word: str) -> None:
    with refused(Status.INVALID_ARGUMENT, "not a valid greet.v1.SayHelloRequest", word):
        JSON.decode(payload, SayHelloRequest)


@CODECS
@given(name=st.text())
def test_a_message_survives(codec: Codec, name: str) -> None:
    message = SayHelloRequest(name=name)
    assert codec.decode(codec.encode(message), SayHelloRequest) == message


@CODECS
@given(payload=st.binary(max_size=60))
def test_bytes_are_a_message_or_a_bad_argument(codec: Codec, payload: bytes) -> None:
    try:
        codec.decode(payload, ClientDrawRequest)
    except GRPCError as error:
        assert error.status is Status.INVALID_ARGUMENT  # noqa: PT017


def test_json_support_is_not_loaded_before_it_is_used() -> None:
    code = "import sys, fawa.rpc.dialect; print('google.protobuf.json_format' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


CONTENTS = (
    st.binary(max_size=300) | st.integers(0, 3).map(lambda more: bytes(127 + more)) | st.just(bytes(70_000))
)


@CODECS
@given(name=st.text(max_size=20), content=CONTENTS)
def test_a_message_around_its_content_is_the_message(codec: Codec, name: str, content: bytes) -> None:
    head, tail = codec.encode_around(ReceiveFileResponse(filename=name), "chunk_data", content)
    whole = ReceiveFileResponse(filename=name, chunk_data=content)
    assert head + tail == codec.encode(whole)
    assert codec.decode(head + tail, ReceiveFileResponse) == whole
    message, got = codec.decode_around(head + tail, ReceiveFileResponse, "chunk_data")
    assert b"".join(got) == content
    assert message.filename == name


def test_content_is_not_copied_into_its_message_nor_out_of_it() -> None:
    content = bytes(100_000)
    assert PROTO.encode_around(ReceiveFileResponse(), "chunk_data", content)[1] is content
    payload = PROTO.encode(SendFileRequest(chunk_data=content))
    message, got = PROTO.decode_around(payload, SendFileRequest, "chunk_data")
    [piece] = got
    assert isinstance(piece, memoryview)
    assert piece.obj is payload
    assert message == SendFileRequest()
    halves: list[bytes | memoryview] = [payload[:50_000], payload[50_000:]]
    message, got = PROTO.decode_around(halves, SendFileRequest, "chunk_data")
    assert [piece.obj if isinstance(piece, memoryview) else piece for piece in got] == halves
    assert message == SendFileRequest()


CHUNKS = st.binary(min_size=1, max_size=300).map(
    lambda content: PROTO.encode(SendFileRequest(chunk_data=content))
)


@given(
    payload=CHUNKS | st.binary(max_size=40) | st.binary(max_size=40).map(lambda rest: b"\x12" + rest),
    cuts=st.lists(st.integers(0, 300), max_size=4),
)
def test_taking_content_out_agrees_with_protobuf(payload: bytes, cuts: list[int]) -> None:
    ends = sorted({min(cut, len(payload)) for cut in cuts} | {len(payload)})
    parts = [payload[start:end] for start, end in pairwise([0, *ends])]
    ways: list[Payload] = [payload, [part for part in parts if part]]
    for given_ in ways:
        try:
            expected = PROTO.decode(payload, SendFileRequest)
        except GRPCError as error:
            with refused(error.status):
                PROTO.decode_around(given_, SendFileRequest, "chunk_data")
            continue
        message, pieces = PROTO.decode_around(given_, SendFileRequest, "chunk_data")
        assert all(pieces)
        assert b"".join(pieces) == expected.chunk_data
        message.MergeFrom(SendFileRequest(chunk_data=b"".join(pieces)) if pieces else SendFileRequest())
        assert message == expected


@pytest.mark.parametrize(
    ("payload", "content"),
    [
        (b"\x12\x03abc", b"abc"),
        (b"\x12\x83\x00abc", b"abc"),  # a length that could be shorter
        (b"\x12\x03abc\x12\x02de", b"de"),  # twice: the last one counts
        (b"\x12\x03abc\x18\x01", b"abc"),  # with a field that is not known
        (b"\x12\x00", b""),
        (b"\x0a\x00", b""),
        (b"", b""),
    ],
)
def test_content_among_other_things(payload: bytes, content: bytes) -> None:
    assert b"".join(PROTO.decode_around(payload, SendFileRequest, "chunk_data")[1]) == content
