from __future__ import annotations

import gzip

import pytest
from grpclib.const import Status
from hypothesis import given
from hypothesis import strategies as st

from fawa.rpc.compression import accepts_gzip, compress, inflate_untrusted, is_gzip
from tests.rpc.conversation import refused


@given(st.binary(max_size=200))
def test_what_is_compressed_comes_back(payload: bytes) -> None:
    squeezed = compress(payload)
    assert gzip.decompress(squeezed) == payload
    assert inflate_untrusted(squeezed, len(payload), Status.INTERNAL) == payload


def test_compression_is_deterministic() -> None:
    assert compress(b"same") == compress(b"same")


def test_at_the_limit_and_one_beyond() -> None:
    squeezed = compress(b"x" * 1000)
    assert len(inflate_untrusted(squeezed, 1000, Status.INTERNAL)) == 1000
    with refused(Status.RESOURCE_EXHAUSTED, "limit of 999 bytes"):
        inflate_untrusted(squeezed, 999, Status.INTERNAL)


@pytest.mark.parametrize("fault", [Status.INTERNAL, Status.INVALID_ARGUMENT])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cut off"),
        (b"plain text", "not valid gzip"),
        (compress(b"x")[:-1], "cut off"),
        (compress(b"x" * 100)[:-9] + b"\xff" * 9, "not valid gzip"),
        (compress(b"x") + compress(b"y"), "after the end"),
        (compress(b"x") + b"\0", "1 bytes after the end"),
    ],
)
def test_bad_gzip(data: bytes, words: str, fault: Status) -> None:
    with refused(fault, words):
        inflate_untrusted(data, 1000, fault)


@pytest.mark.parametrize(
    ("encoding", "expected"), [(None, False), (b"", False), (b"identity", False), (b"gzip", True)]
)
def test_encoding(encoding: bytes | None, expected: bool) -> None:
    assert is_gzip(encoding) is expected


def test_unknown_encoding_names_the_ones_we_have() -> None:
    with pytest.raises(ValueError, match=r"'br' is not supported.*identity, gzip"):
        is_gzip(b"br")


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        (b"", False),
        (b"gzip", True),
        (b"identity, deflate, gzip", True),
        (b"identity,gzip", True),
        (b"br;q=1.0, gzip;q=0.8, *;q=0.1", True),
        (b"gzip ; q=0.001", True),
        (b"gzip;q=0", False),
        (b"gzip; q=0.000", False),
        (b"gzip;x=1", True),
        (b"xgzip", False),
        (b"*", False),
        (b"\xff", False),
    ],
)
def test_what_a_peer_accepts(accepted: bytes, expected: bool) -> None:
    assert accepts_gzip(accepted) is expected
