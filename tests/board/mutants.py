"""Faults that the state machine must find, each as a patch of the board's code."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import attrs
import msgspec
import pytest

from fawa.board import board, history, members, presence, strokes, tape
from fawa.board.channel import Channel
from fawa.board.commands import Draw, Join
from fawa.board.effects import Close, Effect
from fawa.board.events import DrawEvent, Entry
from fawa.board.peers import PeerState
from fawa.board.strokes import Run
from fawa.board.wire_v2 import WireV2

Patch = Callable[[pytest.MonkeyPatch], None]

MUTANTS: list[Patch] = []


def mutant(patch: Patch) -> Patch:
    MUTANTS.append(patch)
    return patch


def replaced(patch: pytest.MonkeyPatch, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Put what `make` makes of a function in its place."""
    patch.setattr(owner, name, make(getattr(owner, name)))


@mutant
def short_history(patch: pytest.MonkeyPatch) -> None:
    replaced(
        patch,
        history.History,
        "__init__",
        lambda real: lambda self, limit, snapshot: real(self, limit - 2, snapshot),
    )


@mutant
def unbounded_log(patch: pytest.MonkeyPatch) -> None:
    replaced(
        patch,
        history.History,
        "__init__",
        lambda real: lambda self, limit, snapshot: real(self, limit + 3, snapshot),
    )


@mutant
def unbounded_snapshot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(strokes.Snapshot, "_bound", lambda self: None)


@mutant
def unbounded_tape(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tape.Tape, "cut", lambda self, most: None)


@mutant
def lost_echo(patch: pytest.MonkeyPatch) -> None:
    def made(real: Any) -> Any:
        def append(self: Channel, entry: Entry) -> None:
            if entry.op % 5 != 4:
                real(self, entry)

        return append

    replaced(patch, Channel, "append", made)


@mutant
def leaked_peer(patch: pytest.MonkeyPatch) -> None:
    def close(self: board.Board, peer: PeerState, reason: str, now: float) -> list[Effect]:
        return [Close(peer.client_id, peer.connection, 4408, reason)]

    patch.setattr(board.Board, "_close", close)


@mutant
def leaked_channel(patch: pytest.MonkeyPatch) -> None:
    def drop(self: board.Board, peer: PeerState) -> None:
        del self._peers[peer.client_id]

    patch.setattr(board.Board, "_drop", drop)


@mutant
def nobody_is_too_slow(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PeerState, "overdue_at", lambda self, stall, batch: math.inf)


@mutant
def wrong_epoch_accepted(patch: pytest.MonkeyPatch) -> None:
    def made(real: Any) -> Any:
        def join(self: board.Board, command: Join, now: float) -> Any:
            if command.resume is not None:
                command = attrs.evolve(command, resume=attrs.evolve(command.resume, epoch=self.epoch))
            return real(self, command, now)

        return join

    replaced(patch, board.Board, "_join", made)


@mutant
def resumed_one_too_early(patch: pytest.MonkeyPatch) -> None:
    replaced(patch, history.History, "since", lambda real: lambda self, seq: real(self, max(seq - 1, 0)))


@mutant
def taken_twice(patch: pytest.MonkeyPatch) -> None:
    def made(real: Any) -> Any:
        def draw(self: board.Board, peer: PeerState, command: Draw) -> Any:
            self._members.find(command.peer, ()).proposed = 0
            peer.next_op = 0
            return real(self, peer, command)

        return draw

    replaced(patch, board.Board, "_draw_numbered", made)


@mutant
def events_left_out(patch: pytest.MonkeyPatch) -> None:
    def made(real: Any) -> Any:
        def draw(self: board.Board, peer: PeerState, command: Draw) -> Any:
            peer.next_op = 0
            return real(self, peer, command)

        return draw

    replaced(patch, board.Board, "_draw_numbered", made)


@mutant
def members_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(members.Members, "items", lambda self: ())


@mutant
def lost_proposals_count_as_taken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(members.Members, "forget_proposals", lambda self: [])


@mutant
def snapshot_swallows_acknowledgements(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WireV2, "acknowledge", lambda self, op: [])


def fold_out_of_order(events: Iterable[DrawEvent]) -> list[Run]:
    runs: list[Run] = []
    for event in events:
        if not any(run.join(event) for run in reversed(runs)):
            runs.append(Run.of(event))
    return runs


@mutant
def fold_joins_what_is_not_adjacent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(history, "fold", fold_out_of_order)


@mutant
def snapshot_joins_what_is_not_adjacent(patch: pytest.MonkeyPatch) -> None:
    def made(real: Any) -> Any:
        def add(self: strokes.Snapshot, event: DrawEvent) -> None:
            for run in self.runs:
                if run.join(event):
                    self.size += strokes.POINT
                    return
            real(self, event)

        return add

    replaced(patch, strokes.Snapshot, "add", made)


@mutant
def others_strokes_are_undone(patch: pytest.MonkeyPatch) -> None:
    def is_seen(self: history.History, entry: Entry) -> bool:
        event = entry.event
        undone = [seq for (_, stroke), seq in self._undone.items() if stroke == event.stroke]
        return not event.undoes and max(undone, default=0) < entry.seq

    patch.setattr(history.History, "_is_seen", is_seen)


@mutant
def undone_strokes_stay_in_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(strokes.Snapshot, "remove", lambda self, stroke: True)


@mutant
def forgotten_strokes_stay_on_screens(patch: pytest.MonkeyPatch) -> None:
    def made(real: Any) -> Any:
        def add(self: history.History, entry: Entry) -> Any:
            self.snapshot.is_whole = True
            return real(self, entry)

        return add

    replaced(patch, history.History, "add", made)


@mutant
def undo_is_not_replayed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Channel, "undo", lambda self, seq, now, pause: None)


@mutant
def duplicate_commit_accepted(patch: pytest.MonkeyPatch) -> None:
    def made(real: Any) -> Any:
        def commit(self: board.Board, entries: tuple[Entry, ...], now: float) -> Any:
            again = [msgspec.structs.replace(one, seq=seq) for seq, one in enumerate(entries, self.seq + 1)]
            return real(self, tuple(again), now)

        return commit

    replaced(patch, board.Board, "_commit", made)


@mutant
def gap_accepted(patch: pytest.MonkeyPatch) -> None:
    def made(real: Any) -> Any:
        def commit(self: board.Board, entries: tuple[Entry, ...], now: float) -> Any:
            if entries and entries[0].seq > self.seq:
                self.seq = entries[0].seq - 1
            return real(self, entries, now)

        return commit

    replaced(patch, board.Board, "_commit", made)


@mutant
def any_connection_flushes(patch: pytest.MonkeyPatch) -> None:
    def made(real: Any) -> Any:
        def flushed(self: board.Board, peer: str, connection: int, now: float) -> Any:
            return real(self, peer, self.peers[peer].connection, now)

        return flushed

    replaced(patch, board.Board, "flushed", made)


@mutant
def nobody_is_told_to_flush(patch: pytest.MonkeyPatch) -> None:
    def made(real: Any) -> Any:
        def flushed(self: board.Board, peer: str, connection: int, now: float) -> Any:
            return [effect for effect in real(self, peer, connection, now) if isinstance(effect, Close)]

        return flushed

    replaced(patch, board.Board, "flushed", made)


@mutant
def no_wake_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(board.Board, "_wake", lambda self, time: [])


@mutant
def expires_with_peers(patch: pytest.MonkeyPatch) -> None:
    def made(real: Any) -> Any:
        def tick(self: board.Board, now: float) -> Any:
            peers, self._peers = self._peers, {}
            try:
                return real(self, now)
            finally:
                self._peers = peers

        return tick

    replaced(patch, board.Board, "_tick", made)


@mutant
def never_expires(patch: pytest.MonkeyPatch) -> None:
    def made(real: Any) -> Any:
        def tick(self: board.Board, now: float) -> Any:
            if not self._peers:
                self._idle_since = now
            return real(self, now)

        return tick

    replaced(patch, board.Board, "_tick", made)


@mutant
def departures_are_not_told(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(presence.Presence, "gone", lambda self, key: self._people.drop(key))


@mutant
def cursors_are_not_told(patch: pytest.MonkeyPatch) -> None:
    def made(real: Any) -> Any:
        return lambda self, seen: real(self, seen + 1)

    replaced(patch, presence.Slots, "since", made)


@mutant
def batches_go_stale(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Channel, "_forget", lambda self: None)
