"""What the sieve takes out of a peer's frames, and what it leaves to the parser."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fawa.net.engine import PREFACE
from fawa.net.frames import MAX_FRAME, Bulk, Credit, Sieve, data_frames, window_update
from tests.net.talk import (
    CONTINUATION,
    DATA,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    examples,
    frame,
    frames,
    pieces,
)

END_STREAM, END_HEADERS, PADDED = 1, 4, 8
PRIORITY, PUSH_PROMISE = 2, 5

CUT = pytest.mark.parametrize("sizes", [[], [1], [3, 11, 2, 7, 1]], ids=["whole", "bytewise", "in pieces"])


def sieve(*bulk: int, **spent: int) -> Sieve:
    """Return a sieve behind the preface; `spent` by stream: `s0=5` is the connection's."""
    made = Sieve(0)
    made.bulk.update(bulk)
    made.spent.update({int(name[1:]): size for name, size in spent.items()})
    return made


def sift(made: Sieve, data: bytes, sizes: Sequence[int] = ()) -> list[bytes | Bulk | Credit]:
    """Return what a sieve gives for `data` in pieces, with neighbours of one kind put together."""
    parts: list[bytes | Bulk | Credit] = []
    for piece in pieces(data, sizes):
        for part in made.sift(piece) if made.has_work else [made.skip(piece)]:
            last = parts[-1] if parts else None
            if isinstance(part, bytes) and isinstance(last, bytes):
                parts[-1] = last + part
            elif isinstance(part, Bulk) and isinstance(last, Bulk) and part.stream_id == last.stream_id:
                parts[-1] = Bulk(last.stream_id, last.data + part.data)
            elif part:
                parts.append(part)
    return parts


def update(stream_id: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))


@CUT
def test_plain_data_of_bulk_streams_is_taken_out(sizes: Sequence[int]) -> None:
    ping, other = frame(PING, 0, 0, bytes(8)), frame(DATA, 0, 3, b"other")
    data = b"".join(
        [
            ping,
            frame(DATA, 0, 1, b"ab"),
            frame(DATA, 0, 1, b"c" * MAX_FRAME),
            other,
            frame(DATA, 0, 5, b"z"),
            ping,
        ]
    )
    assert sift(sieve(1, 5), data, sizes) == [
        ping,
        Bulk(1, b"ab" + b"c" * MAX_FRAME),
        other,
        Bulk(5, b"z"),
        ping,
    ]


@CUT
@pytest.mark.parametrize(
    "last",
    [
        frame(DATA, END_STREAM, 1, b"end"),
        frame(DATA, PADDED, 1, b"\1x\0"),
        frame(DATA, 0, 1),
        frame(DATA, 0, 1, bytes(MAX_FRAME + 1)),
        frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x82"),
        frame(RST_STREAM, 0, 1, bytes(4)),
        frame(PRIORITY, 0, 1, bytes(5)),
        frame(99, 0, 1, b"?"),
    ],
    ids=["end", "padded", "empty", "too long", "trailers", "reset", "priority", "unknown"],
)
def test_any_other_frame_of_the_stream_ends_that(last: bytes, sizes: Sequence[int]) -> None:
    data = frame(DATA, 0, 1, b"abc")
    made = sieve(1, 3)
    assert sift(made, data + last + data, sizes) == [Bulk(1, b"abc"), last + data]
    assert made.bulk == {3}


@CUT
@pytest.mark.parametrize("kind", [HEADERS, PUSH_PROMISE])
def test_nothing_is_taken_out_of_a_header_block(kind: int, sizes: Sequence[int]) -> None:
    """Whatever stands between its frames is an error, so the parser must see it (RFC 9113 section 4.3)."""
    begun, went_on = frame(kind, 0, 3, b"\x82"), frame(CONTINUATION, 0, 3, b"\x84")
    over, data = frame(CONTINUATION, END_HEADERS, 3, b"\x86"), frame(DATA, 0, 1, b"abc")
    assert sift(sieve(1), begun + data, sizes) == [begun + data]
    assert sift(sieve(1, s0=9), begun + went_on + update(0, 5), sizes) == [begun + went_on + update(0, 5)]
    assert sift(sieve(1), begun + went_on + over + data, sizes) == [begun + went_on + over, Bulk(1, b"abc")]


@CUT
def test_a_block_that_began_before_there_was_work(sizes: Sequence[int]) -> None:
    made, begun, data = Sieve(0), frame(HEADERS, 0, 3, b"\x82"), frame(DATA, 0, 1, b"abc")
    assert sift(made, begun, sizes) == [begun]
    made.bulk.add(1)
    assert sift(made, data, sizes) == [data]


@CUT
@pytest.mark.parametrize("stream_id", [0, 7])
def test_window_updates_pay_for_what_was_spent(stream_id: int, sizes: Sequence[int]) -> None:
    made = sieve()
    made.spent[stream_id] = 100
    ping = frame(PING, 0, 0, bytes(8))
    data = ping + update(stream_id, 30) + update(9, 5) + update(stream_id, 100) + update(stream_id, 8)
    assert sift(made, data, sizes) == [
        ping,
        Credit(stream_id, 30),
        update(9, 5) + update(stream_id, 30) + update(stream_id, 8),
    ]
    assert made.spent == {}


def test_a_window_update_that_pays_exactly() -> None:
    made = sieve(s0=100)
    assert made.sift(update(0, 100)) == [Credit(0, 100)]
    assert made.spent == {}
    assert made.sift(update(0, 100)) == [update(0, 100)]


@pytest.mark.parametrize(
    "wrong",
    [update(7, 0), frame(WINDOW_UPDATE, 0, 7, bytes(3)), frame(WINDOW_UPDATE, 0, 7, bytes(5))],
    ids=["nothing", "short", "long"],
)
def test_wrong_window_updates_are_the_parsers_to_refuse(wrong: bytes) -> None:
    made = sieve(s7=100)
    assert sift(made, wrong) == [wrong]
    assert made.spent == {7: 100}


def test_reserved_bits_of_an_increment_mean_nothing() -> None:
    made = sieve(s0=100)
    assert made.sift(update(0, 0x80000000 | 40)) == [Credit(0, 40)]
    assert made.spent == {0: 60}


@CUT
def test_the_preface_is_no_frame(sizes: Sequence[int]) -> None:
    made = Sieve(len(PREFACE))
    data = PREFACE + frame(SETTINGS, 0, 0)
    assert sift(made, data, sizes) == [data]
    made.bulk.add(1)
    assert sift(made, frame(DATA, 0, 1, b"abc"), sizes) == [Bulk(1, b"abc")]


FRAMES = st.lists(
    st.one_of(
        st.tuples(st.just(DATA), st.sampled_from([0, 0, 0, END_STREAM, PADDED]), st.integers(0, 4)),
        st.tuples(st.just(WINDOW_UPDATE), st.just(0), st.integers(0, 4)),
        st.tuples(
            st.sampled_from([HEADERS, CONTINUATION]), st.sampled_from([0, END_HEADERS]), st.integers(0, 4)
        ),
        st.tuples(st.sampled_from([PING, GOAWAY, SETTINGS, RST_STREAM, 77]), st.just(0), st.integers(0, 4)),
    ).flatmap(lambda head: st.tuples(st.just(head), st.binary(max_size=40) | st.just(bytes(3000)))),
    max_size=12,
)


@settings(max_examples=examples(300))
@given(
    sent=FRAMES,
    bulk=st.sets(st.integers(1, 4)),
    spent=st.dictionaries(st.integers(0, 4), st.integers(1, 2**31)),
    sizes=st.lists(st.integers(1, 60), max_size=5),
)
def test_pieces_make_no_difference_and_nothing_is_lost(
    sent: list[tuple[tuple[int, int, int], bytes]], bulk: set[int], spent: dict[int, int], sizes: list[int]
) -> None:
    data = b"".join(frame(*head, payload) for head, payload in sent)
    whole, cut = sieve(), sieve()
    for made in (whole, cut):
        made.bulk.update(bulk)
        made.spent.update(spent)
    parts = sift(whole, data)
    assert sift(cut, data, sizes) == parts
    assert (cut.bulk, cut.spent) == (whole.bulk, whole.spent)
    # Put back, what was taken out makes the same frames, but for where DATA was cut and who was paid.
    seen: list[tuple[int, bytes]] = []
    for part in parts:
        match part:
            case Bulk():
                seen.append((part.stream_id, part.data))
            case bytes():
                seen += [(stream, payload) for kind, _, stream, payload in frames(part) if kind == DATA]
    for stream_id in range(5):
        said = b"".join(p for (kind, _, stream, p) in frames(data) if kind == DATA and stream == stream_id)
        assert b"".join(payload for stream, payload in seen if stream == stream_id) == said


def test_data_frames_are_full_but_for_the_last() -> None:
    content = bytes(range(256)) * 130  # 33,280
    sent = list(frames(b"".join(data_frames(5, memoryview(content)))))
    assert [(kind, flags, stream, len(payload)) for kind, flags, stream, payload in sent] == [
        (DATA, 0, 5, MAX_FRAME),
        (DATA, 0, 5, MAX_FRAME),
        (DATA, 0, 5, 512),
    ]
    assert b"".join(payload for _, _, _, payload in sent) == content
    assert list(data_frames(5, memoryview(b""))) == []


def test_content_is_not_copied_on_its_way_into_frames() -> None:
    content = memoryview(bytes(20_000))
    assert [part.obj for part in data_frames(1, content) if isinstance(part, memoryview)] == [content.obj] * 2


def test_window_update_on_the_wire() -> None:
    assert window_update(3, 2**31 - 1) == update(3, 2**31 - 1)
