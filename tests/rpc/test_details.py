from __future__ import annotations

import base64

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import status_pb2  # type: ignore[import-untyped]
from grpclib.const import Status

from fawa.proto.greet.v1.greet_pb2 import SayHelloRequest
from fawa.rpc.details import decode_status_details, encode_status_details, pack_details


def test_on_the_wire() -> None:
    wire = encode_status_details(Status.NOT_FOUND, "gone", [SayHelloRequest(name="me")])
    assert b"=" not in wire
    whole = status_pb2.Status.FromString(base64.b64decode(wire + b"=" * (-len(wire) % 4)))
    assert (whole.code, whole.message) == (5, "gone")
    assert [detail.type_url for detail in whole.details] == ["type.googleapis.com/greet.v1.SayHelloRequest"]
    assert decode_status_details(wire) == list(whole.details)


def test_details_that_are_packed_already_stay_as_they_are() -> None:
    packed = AnyMessage(type_url="type.googleapis.com/never.v1.Heard", value=b"\x08\x01")
    assert pack_details([packed]) == [packed]


def test_a_detail_must_be_a_message() -> None:
    with pytest.raises(ValueError, match="must be protobuf messages, not 'oops'"):
        pack_details(["oops"])  # type: ignore[list-item]


def test_a_message_with_a_lone_surrogate() -> None:
    wire = encode_status_details(Status.UNKNOWN, "\ud800", [SayHelloRequest()])
    assert len(decode_status_details(wire)) == 1


@pytest.mark.parametrize("wire", [b"!", b"\xff", b"/////w"])
def test_details_that_cannot_be_read_are_left_out(wire: bytes) -> None:
    assert decode_status_details(wire) == []
