"""Positions on a tape, against a list of all frames that ever were."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fawa.board.tape import Batch, Tape, batches_of

frames = st.lists(st.binary(max_size=9))


@given(frames, st.lists(st.tuples(st.sampled_from(["trim", "cut", "append"]), st.integers(0, 40))))
def test_a_tape_against_a_list(written: list[bytes], acts: list[tuple[str, int]]) -> None:
    tape = Tape()
    for frame in written:
        tape.append(frame)
    for act, number in acts:
        if act == "trim":
            position = min(number, tape.end)
            start = tape.start
            tape.trim(position)
            assert tape.start == max(start, position)
        elif act == "cut":
            tape.cut(number)
            assert tape.size <= number
        else:
            written = [*written, bytes(number)]
            tape.append(written[-1])
        assert tape.end == len(written)
        assert tape.size == sum(map(len, written[tape.start :]))
    for position in range(tape.start, tape.end + 1):
        assert tape.after(position) == sum(map(len, written[position:]))
        for most in (0, 5, 1000):
            read, after = tape.read(position, most)
            assert list(read) == written[position:after]
            assert sum(map(len, read)) <= most or len(read) == 1
            assert after > position or position == tape.end
            # No frame was left out that has room.
            assert after == tape.end or sum(map(len, written[position : after + 1])) > most


@given(frames, st.integers(1, 20))
def test_batches_have_all_frames(written: list[bytes], most: int) -> None:
    batches = batches_of(written, most)
    assert [frame for batch in batches for frame in batch.frames] == written
    assert all(batch.size <= most or len(batch.frames) == 1 for batch in batches)


def test_a_batch_is_joined_once() -> None:
    batch = Batch.of((b"ab", b"c"))
    assert batch.size == 3
    assert batch.data == b"abc"
    assert batch.data is batch.data
    alone = Batch.of((b"alone",))
    assert alone.data is alone.frames[0]
