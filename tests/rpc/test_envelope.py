from __future__ import annotations

import gzip
import tracemalloc

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from hypothesis import given
from hypothesis import strategies as st

from fawa.rpc.envelope import COMPRESSED, EnvelopeReader, pack
from tests.rpc.conversation import payloads, pieces, refused, sizes

END = 0x02


def reader(limit: int = 1000, *, gzip: bool = False, end_flag: int = 0) -> EnvelopeReader:
    return EnvelopeReader(limit, gzip=gzip, fault=Status.DATA_LOSS, end_flag=end_flag)


def read(into: EnvelopeReader, data: bytes, cuts: list[int]) -> list[bytes]:
    found = [payload for piece in pieces(data, cuts) for payload in into.feed(piece)]
    into.finish()
    return found


CUTS = pytest.mark.parametrize("cuts", [[], [1], [5], [4, 2]], ids=["whole", "bytewise", "fives", "four-two"])


@CUTS
def test_three_messages(cuts: list[int]) -> None:
    stream = b"\0\0\0\0\x02hi\0\0\0\0\0\0\0\0\0\x05there"
    assert read(reader(), stream, cuts) == [b"hi", b"", b"there"]


@CUTS
def test_compressed_and_plain_in_one_stream(cuts: list[int]) -> None:
    squeezed = gzip.compress(b"squeezed")
    stream = bytes([1, 0, 0, 0, len(squeezed)]) + squeezed + b"\0\0\0\0\x05plain" + b"\x01\0\0\0\0"
    assert read(reader(gzip=True), stream, cuts) == [b"squeezed", b"plain", b""]


@CUTS
def test_the_envelope_that_ends_the_stream(cuts: list[int]) -> None:
    into = reader(end_flag=END)
    assert read(into, b"\0\0\0\0\x02hi\x02\0\0\0\x02{}", cuts) == [b"hi"]
    assert into.end == b"{}"


@CUTS
def test_nothing_may_follow_the_end(cuts: list[int]) -> None:
    with refused(Status.DATA_LOSS, "after the end"):
        read(reader(end_flag=END), b"\x02\0\0\0\0\0\0\0\0\0", cuts)


def test_a_compressed_end() -> None:
    squeezed = gzip.compress(b"{}")
    into = reader(gzip=True, end_flag=END)
    assert into.feed(bytes([3, 0, 0, 0, len(squeezed)]) + squeezed) == []
    assert into.end == b"{}"


@given(st.lists(payloads, max_size=5), st.booleans(), sizes)
def test_any_messages_in_any_pieces(messages: list[bytes], squeeze: bool, cuts: list[int]) -> None:
    stream = b"".join(
        pack(gzip.compress(message), COMPRESSED) if squeeze else pack(message) for message in messages
    )
    assert read(reader(gzip=True), stream, cuts) == messages
    into = reader(gzip=True)
    found = [payload for piece in pieces(stream, cuts) for payload in into.feed_split(piece)]
    into.finish()
    assert [b"".join(payload) if isinstance(payload, list) else payload for payload in found] == messages
    assert all(isinstance(payload, list) for payload in found if not squeeze)


def test_what_is_large_is_not_copied_where_it_may_come_in_pieces() -> None:
    data = pack(bytes(100_000))
    into = reader(100_000)
    assert into.feed_split(data[:60_000]) == []
    [payload] = into.feed_split(data[60_000:])
    assert isinstance(payload, list)
    assert [type(piece) for piece in payload] == [memoryview, memoryview]


def test_a_piece_keeps_not_much_more_in_memory_than_itself() -> None:
    into = reader(1_000_000)
    found = into.feed_split(pack(bytes(5000)) + pack(bytes(200_000)) + pack(bytes(10)))
    assert [[type(piece) for piece in payload] for payload in found] == [[bytes], [memoryview], [bytes]]


@CUTS
def test_a_message_of_the_limit_is_taken(cuts: list[int]) -> None:
    assert read(reader(3), b"\0\0\0\0\x03abc", cuts) == [b"abc"]


@pytest.mark.parametrize("flags", [0, 1])
@pytest.mark.parametrize("length", [4, 2**31, 2**32 - 1])
def test_a_message_beyond_the_limit_is_refused_by_its_prefix(length: int, flags: int) -> None:
    into = reader(3, gzip=True)
    assert into.feed(bytes([flags])) == []
    with refused(Status.RESOURCE_EXHAUSTED, str(length), "limit of 3 bytes"):
        into.feed(length.to_bytes(4, "big"))


def test_one_whole_message_beyond_the_limit_is_refused() -> None:
    with refused(Status.RESOURCE_EXHAUSTED, "message of 4 bytes", "limit of 3 bytes"):
        reader(3).feed(b"\0\0\0\0\x04abcd")


def test_a_message_that_inflates_beyond_the_limit_is_refused() -> None:
    with refused(Status.RESOURCE_EXHAUSTED, "limit of 50 bytes when decompressed"):
        reader(50, gzip=True).feed(pack(gzip.compress(bytes(51)), COMPRESSED))


@pytest.mark.parametrize("flags", [0x02, 0x04, 0x80, 0xFF])
def test_unknown_flags(flags: int) -> None:
    with refused(Status.DATA_LOSS, f"unknown flags: 0x{flags:02x}"):
        reader().feed(bytes([flags, 0, 0, 0, 0]))


def test_compressed_without_agreement() -> None:
    with refused(Status.INTERNAL, "no compression was declared"):
        reader().feed(b"\x01\0\0\0\x01x")


def test_compressed_badly() -> None:
    with refused(Status.DATA_LOSS, "not valid gzip"):
        reader(gzip=True).feed(b"\x01\0\0\0\x04junk")


@pytest.mark.parametrize(
    ("stream", "words"), [(b"\0\0\0\0\x05ab", "3 bytes before the end"), (b"\0\0", "inside the prefix")]
)
def test_cut_off(stream: bytes, words: str) -> None:
    into = reader()
    assert into.feed(stream) == []
    with refused(Status.DATA_LOSS, words):
        into.finish()


def test_after_the_pieces_of_one_message_the_next_may_come_whole() -> None:
    into = reader()
    assert into.feed(b"\0\0\0\0") == []
    assert into.feed(b"\x02a") == []
    assert into.feed(b"b") == [b"ab"]
    assert into.feed(b"\0\0\0\0\x01c") == [b"c"]


def test_a_message_in_tiny_pieces_takes_no_more_memory_than_its_size() -> None:
    size = 100_000
    into = reader(size)
    into.feed(b"\0" + size.to_bytes(4, "big"))
    piece = b"xy"
    tracemalloc.start()
    try:
        for _ in range(size // 2 - 1):
            into.feed(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * size
    assert into.feed(piece) == [piece * (size // 2)]


@given(st.lists(st.binary(max_size=12), max_size=8), st.booleans(), st.sampled_from([0, 0x02, 0x80]))
def test_any_bytes_are_messages_or_an_error_of_the_call(data: list[bytes], squeeze: bool, end: int) -> None:
    into = reader(20, gzip=squeeze, end_flag=end)
    try:
        for piece in data:
            into.feed(piece)
        into.finish()
    except GRPCError as error:
        assert error.message  # noqa: PT017
