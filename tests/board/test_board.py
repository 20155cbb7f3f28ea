"""The board, told as conversations: a command, and what comes of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import msgspec
import pytest

from fawa.board.board import Board, BoardLimits, Welcome
from fawa.board.commands import (
    Committed,
    Cursor,
    Draw,
    Flushed,
    Join,
    Leave,
    Profile,
    ReadOnly,
    Resume,
    Tick,
)
from fawa.board.effects import Ack, Close, Effect, Expire, Flush, Gap, Publish, Refuse, WakeAt
from fawa.board.events import DrawEvent, Entry, Problem, Proposal
from fawa.board.wire import Wire
from fawa.board.wire_proto import WireProto
from fawa.board.wire_v1 import WireV1
from fawa.board.wire_v2 import WireV2

V1, V2, PROTO = WireV1(bytes), WireV2(bytes), WireProto(bytes)
ADA, BO, CY = "ADAADA00", "BOBOBO00", "CYCYCY00"


def board(limits: BoardLimits | None = None, saved: bytes | None = None) -> Board:
    return Board("ABC123", "k3v9", limits or BoardLimits(), 0.0, saved)


def join(board: Board, peer: str, wire: Wire, now: float = 0.0, resume: Resume | None = None) -> list[Effect]:
    return board.apply(Join(peer, len(peer), wire, resume=resume), now)


def stroke(x: int, number: int = 0) -> DrawEvent:
    return DrawEvent("draw", "#fff", 2, x, 0, x + 1, 0, stroke=number)


def commit(board: Board, *events: DrawEvent, op: int = 0, now: float = 0.0) -> list[Effect]:
    entries = [Entry(board.seq + n, op and op + n - 1, event) for n, event in enumerate(events, 1)]
    return board.apply(Committed(tuple(entries)), now)


def frames(board: Board, peer: str, now: float = 0.0) -> list[bytes]:
    """Let a peer take and read everything."""
    told: list[bytes] = []
    while (batch := board.take(peer, now)) is not None:
        told += batch.frames
        board.flushed(peer, board.peers[peer].connection, now)
    return told


def test_a_draw_goes_to_the_bus_and_comes_back_to_everybody() -> None:
    one = board()
    assert join(one, ADA, V1) == [Flush(), WakeAt(15.0)]
    join(one, BO, V1)
    told = one.apply(Draw(ADA, 0, (stroke(1),)), 0.0)
    stamped = msgspec.structs.replace(stroke(1), client_id=ADA)
    assert told == [Publish((Proposal(0, stamped),))]
    assert one.take(ADA, 0.0) is None
    assert one.apply(Committed((Entry(1, 0, stamped),)), 0.0) == [Flush()]
    batch = one.take(ADA, 0.0)
    assert batch is not None
    assert one.take(BO, 0.0) is batch, "peers in step share a batch"
    assert batch.frames == (V1.event(Entry(1, 0, stamped)),)


def test_who_is_not_here_changes_nothing() -> None:
    one = board()
    join(one, ADA, V2)
    frames(one, ADA)
    for command in (
        Draw(BO, 1, (stroke(1),)),
        Cursor(BO, 1, 2),
        Profile(BO, "Bo", "red"),
        Leave(BO, 1),
        Flushed(BO, 1),
        Flushed(ADA, len(ADA)),
        Draw(ADA, 0, (DrawEvent("ping"),)),
        ReadOnly(False),
        Tick(),
    ):
        assert one.apply(command, 0.0) == []
    assert one.take(BO, 0.0) is None
    with pytest.raises(KeyError):
        one.welcome(BO)


def test_a_full_board_takes_only_those_who_are_here() -> None:
    one = board(BoardLimits(peers=1))
    one.apply(Join(ADA, 1, V1), 0.0)
    assert one.apply(Join(BO, 2, V1), 0.0) == [
        Close(BO, 2, 4413, "the board has 1 clients, as many as it may")
    ]
    told = one.apply(Join(ADA, 3, V2), 0.0)
    assert told == [Close(ADA, 1, 4409, "resumed on another connection"), Flush()]
    assert one.apply(Leave(ADA, 1), 0.0) == []
    assert one.peers[ADA].connection == 3


def test_grpc_clients_are_sent_an_empty_history_and_v1_clients_are_not() -> None:
    one = board()
    join(one, ADA, V1)
    join(one, BO, PROTO)
    assert frames(one, ADA) == []
    assert frames(one, BO) == [PROTO.welcome(one._history, 0)[0]]


def test_a_welcome_says_where_one_is() -> None:
    one = board()
    commit(one, stroke(1), stroke(2))
    join(one, ADA, V2)
    assert one.welcome(ADA) == Welcome(ADA, "k3v9", 2, 0, False, False)
    one.apply(ReadOnly(True, "no bus"), 0.0)
    join(one, BO, V2, resume=Resume("k3v9", 1))
    assert one.welcome(BO) == Welcome(BO, "k3v9", 2, 0, True, True)


def test_who_has_seen_all_is_sent_no_more() -> None:
    one = board()
    commit(one, stroke(1))
    join(one, ADA, V2, resume=Resume("k3v9", 1))
    assert one.peers[ADA].recovered
    assert [frame[:11] for frame in frames(one, ADA)] == [b'{"presence"']


def test_numbered_events_are_taken_once_and_in_order() -> None:
    one = board()
    join(one, ADA, V2)
    a, b, c = (msgspec.structs.replace(stroke(x), client_id=ADA) for x in (1, 2, 3))
    assert one.apply(Draw(ADA, 1, (a, b)), 0.0) == [Publish((Proposal(1, a), Proposal(2, b)))]
    # The bus has not said yet what became of them: they come as events, which is acknowledgement enough.
    assert one.apply(Draw(ADA, 1, (a, b)), 0.0) == []
    assert one.apply(Draw(ADA, 2, (b, c)), 0.0) == [Publish((Proposal(3, c),))]
    one.apply(Committed((Entry(1, 1, a), Entry(2, 2, b))), 0.0)
    assert one.apply(Draw(ADA, 1, (a,)), 0.0) == [Ack(ADA, 2)]
    problem = Problem("out_of_order", "event 4 has not been taken; send it and all after it anew")
    assert one.apply(Draw(ADA, 5, (a,)), 0.0) == [Refuse(ADA, 5, problem)]


def test_a_board_without_a_bus_is_read_only() -> None:
    one = board()
    join(one, ADA, V2)
    join(one, BO, V1)
    assert one.apply(Draw(ADA, 1, (stroke(1),)), 0.0) != []
    assert one.apply(ReadOnly(True), 0.0) == [Flush()]
    assert one.read_only
    problem = Problem("read_only", "the board takes no events now")
    assert one.apply(Draw(BO, 0, (stroke(1),)), 0.0) == [Refuse(BO, 0, problem)]
    assert one.apply(Draw(BO, 0, (DrawEvent("ping"),)), 0.0) == []
    assert one.apply(Draw(ADA, 2, (stroke(2),)), 0.0) == [Refuse(ADA, 2, problem)]
    one.apply(ReadOnly(False), 0.0)
    # The first is lost, so it goes first.
    assert isinstance(one.apply(Draw(ADA, 2, (stroke(2),)), 0.0)[0], Refuse)
    assert isinstance(one.apply(Draw(ADA, 1, (stroke(1), stroke(2))), 0.0)[0], Publish)
    # Who has gone is no matter.
    one.apply(Leave(ADA, len(ADA)), 0.0)
    assert one.apply(ReadOnly(True), 0.0) == []


def test_a_gap_is_told_and_nothing_behind_it_applied() -> None:
    one = board()
    told = one.apply(Committed((Entry(1, 0, stroke(1)), Entry(3, 0, stroke(3)), Entry(4, 0, stroke(4)))), 0.0)
    assert told == [Gap(2, 3)]
    assert one.seq == 1
    assert one.apply(Committed((Entry(1, 0, stroke(1)),)), 0.0) == []


def test_undo_is_replayed_at_most_once_a_second_for_those_who_do_not_know_it() -> None:
    one = board()
    join(one, ADA, V1)
    join(one, BO, V1)
    for number in (1, 2, 3, 4):
        commit(one, DrawEvent("draw", client_id=CY, stroke=number, curr_x=number))
    frames(one, ADA)

    def undo(number: int, now: float) -> list[Effect]:
        return commit(one, DrawEvent("undo", client_id=CY, stroke=number), now=now)

    assert undo(1, 5.0) == [Flush()]
    assert [b'"clear"' in frame for frame in frames(one, ADA, 5.0)] == [True, False, False, False]
    assert undo(9, 5.0) == [Flush()], "nobody sees that"
    assert frames(one, ADA, 5.0) == []
    assert undo(2, 5.5) == [WakeAt(6.0), Flush()]
    assert undo(3, 5.7) == [Flush()], "that is the same replay"
    assert frames(one, ADA, 5.9) == []
    assert Flush() in one.apply(Tick(), 6.0)
    assert len(frames(one, ADA, 6.0)) == 2
    # Later ones see what is left at once.
    assert undo(4, 6.1) == [WakeAt(7.0), Flush()]
    one.apply(Join(CY, 1, V1), 6.2)
    assert frames(one, CY, 6.2) == []


def test_what_everybody_has_taken_leaves_the_tape() -> None:
    one = board(BoardLimits(backlog=1 << 20))
    join(one, ADA, V1)
    join(one, BO, V1)
    tape = one._channels[V1].tape
    for x in range(2000):
        commit(one, stroke(x))
        frames(one, ADA)
        frames(one, BO)
    assert tape.size < 80_000
    for x in range(2000):
        commit(one, stroke(x))
        frames(one, ADA)
    assert tape.size > 200_000, "somebody has not taken that"
    assert one.take(BO, 0.0) is not None


def test_few_of_the_frames_for_latecomers_are_kept() -> None:
    one = board()
    commit(one, *(stroke(x) for x in range(20)))
    for seq in range(20):
        one.apply(Join(f"PEER{seq:04}", seq, V2, resume=Resume("k3v9", seq)), 0.0)
    assert len(one._channels[V2]._reels) == 8
    assert [len(one.peers[f"PEER{seq:04}"].reel[0].frames) for seq in range(20)] == list(range(20, 0, -1))


def test_batches_are_bounded_and_the_lane_waits_for_its_turn() -> None:
    one = board(BoardLimits(backlog=10_000, lane_backlog=500, batch=1000))
    join(one, ADA, V2)
    frames(one, ADA)
    join(one, BO, V2)
    one.apply(Cursor(BO, 1, 2), 0.0)
    commit(one, *(stroke(x) for x in range(20)))
    first = one.take(ADA, 0.0)
    assert first is not None
    assert first.size <= 1000
    assert all(frame.startswith(b'{"event"') for frame in first.frames)
    assert one.counts == {"lane": 1}
    assert one.flushed(ADA, len(ADA), 0.0) == [Flush()]
    rest = frames(one, ADA)
    assert [frame[:10] for frame in rest[-2:]] == [b'{"presence', b'{"cursors"']


def test_a_peer_that_falls_behind_again_and_again_is_closed() -> None:
    one = board(BoardLimits(history=5, backlog=2000, batch=500))
    join(one, ADA, V1)
    join(one, BO, V1)
    commit(one, stroke(0))
    one.take(ADA, 0.0)

    def draw_much() -> None:
        for x in range(40):
            commit(one, stroke(x))
            frames(one, BO)

    for round_ in (1, 2):
        draw_much()
        assert one.flushed(ADA, len(ADA), 0.0) == [Flush()]
        assert one.take(ADA, 0.0) is not None
        assert one.counts == {"snapshot": round_}
        while one.peers[ADA].reel:
            one.flushed(ADA, len(ADA), 0.0)
            one.take(ADA, 0.0)
    draw_much()
    told = one.flushed(ADA, len(ADA), 59.0)
    assert told == [Close(ADA, len(ADA), 4408, "not even snapshots could be kept up with")]
    assert one.counts["closed"] == 1


def test_a_minute_later_a_snapshot_is_the_first_again() -> None:
    one = board(BoardLimits(backlog=2000))
    join(one, ADA, V1)
    peer = one.peers[ADA]
    peer.fell_behind(0.0)
    peer.fell_behind(30.0)
    assert peer.is_hopeless(60.0)
    assert not peer.is_hopeless(60.5)
    peer.fell_behind(61.0)
    assert (peer.snapshots, peer.first_snapshot) == (1, 61.0)


def test_a_peer_that_reads_nothing_is_closed() -> None:
    one = board()
    join(one, ADA, V1)
    join(one, BO, V2)
    commit(one, stroke(1))
    one.take(ADA, 10.0)
    assert one.apply(Tick(), 15.0) == [Flush(), WakeAt(25.0)]
    told = one.apply(Tick(), 25.0)
    assert told[0] == Close(ADA, len(ADA), 4408, "nothing was read for too long")
    assert one.counts["closed"] == 1
    assert list(one.peers) == [BO]


def test_a_large_batch_may_take_longer() -> None:
    one = board(BoardLimits(batch=100))
    commit(one, *(stroke(x) for x in range(10)))
    join(one, ADA, PROTO)
    batch = one.take(ADA, 0.0)
    assert batch is not None
    assert batch.size > 200
    due = 15.0 * batch.size / 100
    assert one.apply(Tick(), 15.0) == [WakeAt(30.0)]
    assert one.apply(Tick(), 30.0) == [WakeAt(due)]
    assert isinstance(one.apply(Tick(), due)[0], Close)


def test_a_board_without_peers_expires_and_one_with_peers_does_not() -> None:
    one = board()
    assert one.wake_at == 600.0
    assert one.apply(Tick(), 599.9) == []
    join(one, ADA, V1, 599.9)
    assert one.apply(Tick(), 614.9) == [WakeAt(629.9)]
    assert one.apply(Leave(ADA, len(ADA)), 620.0) == []
    assert one.is_empty
    assert one.apply(Tick(), 629.9) == [WakeAt(1220.0)]
    assert one.apply(Tick(), 1220.0) == [Expire()]
    assert one.wake_at == math.inf
    # Somebody comes at the last moment.
    assert WakeAt(1236.0) in join(one, ADA, V1, 1221.0)


def test_a_saved_board_comes_back_in_another_epoch() -> None:
    one = board(BoardLimits(history=3))
    ada = [msgspec.structs.replace(stroke(x, 1), client_id=ADA) for x in range(8)]
    commit(one, *ada, op=1)
    before, saved, after = one.changed_since_save, one.save(), one.changed_since_save
    assert (before, after) == (True, False)
    again = Board("ABC123", "n3xt", BoardLimits(history=2), 0.0, saved)
    assert not again.changed_since_save
    assert again.seq == 8
    assert len(again._history.log) == 2
    join(again, ADA, V2, resume=Resume("k3v9", 8))
    assert again.welcome(ADA) == Welcome(ADA, "n3xt", 8, 8, False, False)
    assert again.apply(Draw(ADA, 8, (stroke(7),)), 0.0) == [Ack(ADA, 8)]
    # What was drawn before can be taken back.
    commit(again, DrawEvent("undo", client_id=ADA, stroke=1))
    assert again._history.runs() == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        pytest.param(lambda saved: b"", ".", id="empty"),
        pytest.param(lambda saved: saved[:-3], ".", id="cut short"),
        pytest.param(lambda saved: b"\x93" + saved[1:], ".", id="another shape"),
        pytest.param(
            lambda saved: saved[:-1] + b"\x02", "format 2, and this is format 1", id="another format"
        ),
        pytest.param(lambda saved: saved.replace(b"\x95\x08", b"\x95\x09", 1), "up to its event 9", id="gap"),
        pytest.param(
            lambda saved: saved.replace(b"\xc4\x18", b"\xc4\x17", 1).replace(bytes(3), bytes(2), 1),
            "23 bytes of points",
            id="half a point",
        ),
    ],
)
def test_what_is_no_saved_board_is_refused(change: Callable[[bytes], bytes], why: str) -> None:
    one = board(BoardLimits(history=1))
    commit(one, *(stroke(x) for x in range(2)), stroke(5))
    for _ in range(5):
        commit(one, stroke(9))
    saved = one.save()
    changed = change(saved)
    assert changed != saved
    with pytest.raises(ValueError, match=why):
        board(saved=changed)


def test_a_board_does_not_guess_what_a_command_means() -> None:
    with pytest.raises(AssertionError):
        board().apply("clear", 0.0)  # type: ignore[arg-type]


def test_limits_follow_from_others() -> None:
    assert BoardLimits(backlog=4000).lane_backlog == 1000
    assert attrs.evolve(BoardLimits(), lane_backlog=7).lane_backlog == 7
