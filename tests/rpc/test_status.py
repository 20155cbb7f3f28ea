from __future__ import annotations

import pytest
from grpclib.const import Status
from hypothesis import given
from hypothesis import strategies as st

from fawa.rpc.status import (
    CONNECT_NAME,
    FROM_CONNECT_NAME,
    HTTP_STATUS,
    connect_from_http,
    decode_grpc_message,
    encode_grpc_message,
    grpc_from_http,
    parse_grpc_status,
)


def test_every_failure_has_a_connect_name_and_an_http_status() -> None:
    failures = set(Status) - {Status.OK}
    assert set(CONNECT_NAME) == set(HTTP_STATUS) == failures
    assert {FROM_CONNECT_NAME[name] for name in CONNECT_NAME.values()} == failures


@pytest.mark.parametrize(
    ("number", "name", "http"),
    # As the Connect protocol's table of error codes has them, by gRPC's numbers.
    [
        (1, "canceled", 499),
        (2, "unknown", 500),
        (3, "invalid_argument", 400),
        (4, "deadline_exceeded", 504),
        (5, "not_found", 404),
        (6, "already_exists", 409),
        (7, "permission_denied", 403),
        (8, "resource_exhausted", 429),
        (9, "failed_precondition", 400),
        (10, "aborted", 409),
        (11, "out_of_range", 400),
        (12, "unimplemented", 501),
        (13, "internal", 500),
        (14, "unavailable", 503),
        (15, "data_loss", 500),
        (16, "unauthenticated", 401),
    ],
)
def test_table(number: int, name: str, http: int) -> None:
    status = Status(number)
    assert CONNECT_NAME[status] == name
    assert HTTP_STATUS[status] == http
    assert parse_grpc_status(b"%d" % number) is status


@pytest.mark.parametrize(
    ("http", "connect", "grpc"),
    [
        (400, Status.INTERNAL, Status.INTERNAL),
        (401, Status.UNAUTHENTICATED, Status.UNAUTHENTICATED),
        (403, Status.PERMISSION_DENIED, Status.PERMISSION_DENIED),
        (404, Status.UNIMPLEMENTED, Status.UNIMPLEMENTED),
        (429, Status.UNAVAILABLE, Status.UNAVAILABLE),
        (431, Status.UNKNOWN, Status.INTERNAL),
        (502, Status.UNAVAILABLE, Status.UNAVAILABLE),
        (503, Status.UNAVAILABLE, Status.UNAVAILABLE),
        (504, Status.UNAVAILABLE, Status.UNAVAILABLE),
        (200, Status.UNKNOWN, Status.UNKNOWN),
        (418, Status.UNKNOWN, Status.UNKNOWN),
    ],
)
def test_what_a_client_infers_from_http(http: int, connect: Status, grpc: Status) -> None:
    assert connect_from_http(http) is connect
    assert grpc_from_http(http) is grpc


@pytest.mark.parametrize("value", [b"", b"17", b"00", b"-1", b"OK", b"\xff"])
def test_a_status_that_cannot_be_read_is_unknown(value: bytes) -> None:
    assert parse_grpc_status(value) is Status.UNKNOWN


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        ("", b""),
        ("not found", b"not found"),
        ("100%", b"100%25"),
        ("a\r\nb", b"a%0D%0Ab"),
        ("naïve ☕", b"na%C3%AFve %E2%98%95"),
        (" both ends  ", b"%20both ends%20%20"),
        ("  ", b"%20%20"),
        ("lone \ud800", b"lone ?"),
        ("~!#$&\x7f", b"~!#$&%7F"),
    ],
)
def test_message_on_the_wire(message: str, wire: bytes) -> None:
    assert encode_grpc_message(message) == wire


@given(st.text())
def test_message_survives_and_fits_in_a_header(message: str) -> None:
    wire = encode_grpc_message(message)
    assert all(0x20 <= byte <= 0x7E for byte in wire)
    assert wire == wire.strip()
    assert decode_grpc_message(wire) == message


@pytest.mark.parametrize(
    ("wire", "message"),
    [(b"100%", "100%"), (b"%zz%41", "%zzA"), (b"%ff", "�"), (b"caf\xc3\xa9", "café"), (b"\xff", "�")],
)
def test_a_broken_message_is_kept_as_far_as_it_goes(wire: bytes, message: str) -> None:
    assert decode_grpc_message(wire) == message
