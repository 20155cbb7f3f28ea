"""The board: commands in, effects out, and batches of frames for whoever takes them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import assert_never

import attrs

from fawa.board.channel import Channel, Place
from fawa.board.commands import (
    Command,
    Committed,
    Cursor,
    Draw,
    Flushed,
    Join,
    Leave,
    Profile,
    ReadOnly,
    Tick,
)
from fawa.board.effects import Ack, Close, Effect, Expire, Flush, Gap, Publish, Refuse, WakeAt
from fawa.board.events import PING, Entry, Problem, Proposal, stamped
from fawa.board.history import History
from fawa.board.members import Members
from fawa.board.peers import PeerState
from fawa.board.presence import Person, Presence, Slots, Status
from fawa.board.saved import SavedBoard, SavedRun, pack, unpack
from fawa.board.tape import Batch, batches_of
from fawa.board.wire import Wire


@attrs.frozen
class BoardLimits:
    """Bounds of one board; sizes in bytes, times in seconds."""

    #: Newest events kept as they are.
    history: int = 1000
    #: What older strokes may take, about.
    snapshot: int = 1 << 20
    #: What may wait for one peer before it is replaced by a snapshot.
    backlog: int = 1 << 20
    #: What may wait for one peer before presence and cursors are left out.
    lane_backlog: int = attrs.Factory(lambda self: self.backlog // 4, takes_self=True)
    #: What is taken for a peer at once.
    batch: int = 256 << 10
    #: How long a peer may take to read so much.
    stall: float = 15.0
    #: Clients whose numbered events are known not to be taken twice.
    members: int = 4096
    #: Peers at once.
    peers: int = 2000
    #: How long a board without peers lives.
    idle: float = 600.0
    #: Shortest time between two replays of the board for clients that do not know undo.
    repaint: float = 1.0


@attrs.frozen
class Welcome:
    """What a client is told when it joins."""

    client_id: str
    epoch: str
    #: What follows at once brings it up to this event.
    seq: int
    #: The last of its events that the board has taken, 0 for none.
    op: int
    #: Whether exactly the events that it missed follow, rather than the whole board.
    recovered: bool
    read_only: bool


_FLUSH = Flush()


class Board:
    """One board. `apply` changes it, `take` gives out what is to be sent; nothing else happens."""

    def __init__(
        self, code: str, epoch: str, limits: BoardLimits, now: float, saved: bytes | None = None
    ) -> None:
        """Make a board without peers. The first `Tick` is due at `wake_at`.

        Args:
            code: of the board.
            epoch: a name that no earlier board of this code had.
            limits: its bounds.
            now: the time, in seconds on the clock that all commands use.
            saved: what `save` returned, to go on from.

        Raises:
            ValueError: `saved` cannot be read.

        """
        self.code = code
        self.epoch = epoch
        self.limits = limits
        #: Of the newest event, 0 if there is none.
        self.seq = 0
        #: When the next `Tick` is due; `math.inf` once the board has expired.
        self.wake_at = now + limits.idle
        #: Steps taken down the ladder for slow peers: `lane` (presence and cursors left out), `snapshot`
        #: (backlog replaced), `closed`.
        self.counts: Counter[str] = Counter()
        self._idle_since = now
        self._peers: dict[str, PeerState] = {}
        self._channels: dict[Wire, Channel] = {}
        self._history = History(limits.history, limits.snapshot)
        self._members = Members(limits.members)
        self._presence = Presence()
        self._cursors: Slots[tuple[int, int]] = Slots()
        if saved is not None:
            self._restore(unpack(saved))
        self._saved_seq = self.seq

    @property
    def backlog(self) -> int:
        """How many bytes wait for its peers to read them, what is under way counted too."""
        return sum(
            peer.channel.tape.after(peer.place.position) + (peer.sent.size if peer.sent is not None else 0)
            for peer in self._peers.values()
        )

    @property
    def peers(self) -> Mapping[str, PeerState]:
        """Who is here, by client id."""
        return self._peers

    @property
    def is_empty(self) -> bool:
        """Whether nobody is here."""
        return not self._peers

    @property
    def read_only(self) -> bool:
        """Whether the board takes no events now."""
        return self._presence.status.read_only

    @property
    def changed_since_save(self) -> bool:
        """Whether there are events that the last `save` did not have."""
        return self.seq != self._saved_seq

    def welcome(self, peer: str) -> Welcome:
        """Return what to tell a peer that has just joined; raises KeyError when it is not here."""
        state = self._peers[peer]
        return Welcome(
            state.client_id, self.epoch, state.joined_seq, state.op, state.recovered, self.read_only
        )

    def save(self) -> bytes:
        """Return history and members as bytes."""
        self._saved_seq = self.seq
        runs = tuple(map(SavedRun.of, self._history.snapshot.runs))
        log = tuple(self._history.log)
        return pack(SavedBoard(self.seq, runs, log, tuple(self._members.items())))

    def _restore(self, board: SavedBoard) -> None:
        self.seq = board.seq
        for run in board.runs:
            self._history.snapshot.put(run.run())
        for entry in board.log:
            self._history.add(entry)
        for client_id, op in board.members:
            member = self._members.find(client_id, ())
            member.committed = member.proposed = op

    # Commands

    def apply(self, command: Command, now: float) -> list[Effect]:
        """Do what a command asks; returns what the shell is to do about it, in this order."""
        match command:
            case Draw():
                return self._draw(command)
            case Committed():
                return self._commit(command.entries, now)
            case Flushed():
                return self.flushed(command.peer, command.connection, now)
            case Cursor():
                return self._move(command)
            case Join():
                return self._join(command, now)
            case Leave():
                return self._leave(command, now)
            case Profile():
                return self._change(command)
            case ReadOnly():
                return self._set_read_only(command)
            case Tick():
                return self._tick(now)
            case _:
                assert_never(command)

    def _join(self, join: Join, now: float) -> list[Effect]:
        effects: list[Effect] = []
        before = self._peers.get(join.peer)
        if before is not None:
            effects.append(Close(join.peer, before.connection, 4409, "resumed on another connection"))
            self._drop(before)
        elif len(self._peers) >= self.limits.peers:
            reason = f"the board has {self.limits.peers} clients, as many as it may"
            return [Close(join.peer, join.connection, 4413, reason)]
        channel = self._channels.get(join.wire)
        if channel is None:
            channel = Channel(join.wire, self.limits.backlog, self.limits.batch, self._slowest)
            self._channels[join.wire] = channel
        channel.users += 1
        missed = None
        if join.resume is not None and join.resume.epoch == self.epoch:
            missed = self._history.since(join.resume.seq)
        if join.resume is not None and missed is not None:
            reel = channel.reel(
                f"missed since {join.resume.seq}", lambda: [join.wire.event(entry) for entry in missed]
            )
        else:
            reel = channel.reel("welcome", partial(join.wire.welcome, self._history, self.seq))
        self._peers[join.peer] = PeerState(
            client_id=join.peer,
            connection=join.connection,
            channel=channel,
            recovered=missed is not None,
            op=self._members.committed(join.peer),
            joined_seq=self.seq,
            place=Place(channel.tape.end),
            painted=self.seq,
            reel=reel,
        )
        self._members.touch(join.peer)
        self._presence.here(join.peer, Person(join.name, join.color))
        self._lane_changed()
        effects.append(_FLUSH)
        return effects + self._wake(now + self.limits.stall)

    def _leave(self, leave: Leave, now: float) -> list[Effect]:
        peer = self._find(leave.peer, leave.connection)
        return [] if peer is None else self._remove(peer, now)

    def _draw(self, draw: Draw) -> list[Effect]:
        peer = self._peers.get(draw.peer)
        if peer is None:
            return []
        if draw.op:
            return self._draw_numbered(peer, draw)
        entries = tuple(Proposal(0, stamped(event, draw.peer)) for event in draw.events if event.type != PING)
        if not entries:
            return []
        return [self._read_only(draw)] if self.read_only else [Publish(entries)]

    def _draw_numbered(self, peer: PeerState, draw: Draw) -> list[Effect]:
        effects: list[Effect] = []
        op, events = draw.op, draw.events
        member = self._members.find(draw.peer, self._peers)
        again = member.proposed - op + 1
        if again > 0:
            # Those not committed yet will come as events, which acknowledges them.
            if member.committed >= op:
                effects.append(Ack(draw.peer, member.committed))
            op, events = op + again, events[again:]
            if not events:
                return effects
        if self.read_only:
            peer.next_op = peer.next_op or op
            effects.append(self._read_only(draw))
        elif peer.next_op and op > peer.next_op:
            # Taken now, it would look as if those between had been taken before.
            why = f"event {peer.next_op} has not been taken; send it and all after it anew"
            effects.append(Refuse(draw.peer, draw.op, Problem("out_of_order", why)))
        else:
            peer.next_op = op + len(events)
            member.proposed = peer.next_op - 1
            effects.append(
                Publish(
                    tuple(
                        Proposal(number, stamped(event, draw.peer)) for number, event in enumerate(events, op)
                    )
                )
            )
        return effects

    def _read_only(self, draw: Draw) -> Refuse:
        why = self._presence.status.reason or "the board takes no events now"
        return Refuse(draw.peer, draw.op, Problem("read_only", why))

    def _commit(self, entries: tuple[Entry, ...], now: float) -> list[Effect]:
        effects: list[Effect] = []
        seq = self.seq
        for entry in entries:
            if entry.seq <= self.seq:
                continue
            if entry.seq != self.seq + 1:
                effects.append(Gap(self.seq + 1, entry.seq))
                break
            self.seq = entry.seq
            if entry.op:
                member = self._members.find(entry.event.client_id, self._peers)
                member.committed = max(member.committed, entry.op)
                member.proposed = max(member.proposed, entry.op)
            took_back = self._history.add(entry)
            for channel in self._channels.values():
                if channel.wire.knows_undo or not entry.event.undoes:
                    channel.append(entry)
                elif took_back:
                    channel.undo(entry.seq, now, self.limits.repaint)
                    if channel.repaint_at > now:
                        effects += self._wake(channel.repaint_at)
        if self.seq != seq and self._peers:
            effects.append(_FLUSH)
        return effects

    def _move(self, cursor: Cursor) -> list[Effect]:
        if cursor.peer not in self._peers:
            return []
        self._cursors.set(cursor.peer, (cursor.x, cursor.y))
        return self._lane_changed()

    def _change(self, profile: Profile) -> list[Effect]:
        if profile.peer not in self._peers:
            return []
        self._presence.change(profile.peer, profile.name, profile.color)
        return self._lane_changed()

    def _set_read_only(self, command: ReadOnly) -> list[Effect]:
        status = Status(command.on, command.reason)
        if status == self._presence.status:
            return []
        self._presence.set_status(status)
        for client_id in self._members.forget_proposals():
            if client_id in self._peers:
                self._peers[client_id].next_op = self._members.committed(client_id) + 1
        return self._lane_changed()

    def _tick(self, now: float) -> list[Effect]:
        if now < self.wake_at:
            return []
        effects: list[Effect] = []
        for peer in list(self._peers.values()):
            if now >= self._overdue_at(peer):
                effects += self._close(peer, "nothing was read for too long", now)
        if self._peers:
            # A batch that is taken from now on is not overdue before this.
            due = now + self.limits.stall
            due = min([due, *map(self._overdue_at, self._peers.values())])
            due = min([due, *(one.repaint_at for one in self._channels.values() if one.repaint_at > now)])
            if self.has_news(now):
                effects.append(_FLUSH)
        else:
            due = self._idle_since + self.limits.idle
            if now >= due:
                self.wake_at = math.inf
                return [*effects, Expire()]
        self.wake_at = math.inf
        return effects + self._wake(due)

    # What is to be sent

    def take(self, peer: str, now: float) -> Batch | None:
        """Return what is next for a peer, at most `limits.batch` bytes unless one frame is longer.

        None when there is nothing, when what was taken before has not left (see `flushed`), and when the peer
        is not here.
        """
        state = self._peers.get(peer)
        if state is None or state.sent is not None:
            return None
        if state.painted >= state.channel.undone and not state.reel:
            kept = state.channel.batches.get(state.place)
            if kept is not None:
                state.sent, state.place = kept
                state.sent_at = now
                return state.sent
        state.sent = self._next(state, now)
        state.sent_at = now
        return state.sent

    def flushed(self, peer: str, connection: int, now: float) -> list[Effect]:
        """Do what the command `Flushed` asks; on the path of every batch, hence without an object for it."""
        state = self._peers.get(peer)
        if state is None or state.connection != connection or state.sent is None:
            return []
        state.sent = None
        if not state.reel:
            tape = state.channel.tape
            if state.place.position < tape.start and state.is_hopeless(now):
                return self._close(state, "not even snapshots could be kept up with", now)
            if state.place.position == tape.end:
                state.snapshots = 0
        return [_FLUSH] if self._has_news(state, now) else []

    def has_news(self, now: float) -> bool:
        """Whether there is something to take for anybody."""
        return any(self._has_news(peer, now) for peer in self._peers.values())

    def _has_news(self, peer: PeerState, now: float) -> bool:
        if peer.sent is not None:
            return False
        channel, place = peer.channel, peer.place
        return (
            place.position < channel.tape.end
            or bool(peer.reel)
            or self._must_repaint(peer, now)
            or (
                channel.wire.has_lane
                and (place.presence < self._presence.version or place.cursors < self._cursors.version)
            )
        )

    def _must_repaint(self, peer: PeerState, now: float) -> bool:
        return peer.painted < peer.channel.undone and now >= peer.channel.repaint_at

    def _next(self, peer: PeerState, now: float) -> Batch | None:
        channel = peer.channel
        if not peer.reel:
            behind = peer.place.position < channel.tape.start
            if behind:
                peer.fell_behind(now)
                self.counts["snapshot"] += 1
            if behind or self._must_repaint(peer, now):
                reel = channel.reel("repaint", partial(channel.wire.repaint, self._history, self.seq))
                if op := self._members.committed(peer.client_id):
                    # Its own events, which would have acknowledged themselves, may be among what is replaced.
                    reel += batches_of(channel.wire.acknowledge(op), self.limits.batch)
                peer.give(reel, peer.place._replace(position=channel.tape.end), self.seq)
        if peer.reel:
            return peer.take_batch()
        frames, position = channel.tape.read(peer.place.position, self.limits.batch)
        after = peer.place._replace(position=position)
        if channel.wire.has_lane:
            frames, after = self._with_lane(channel, frames, after)
        batch = Batch.of(frames) if frames else None
        if batch is not None:
            channel.keep(peer.place, batch, after)
        peer.place = after
        return batch

    def _with_lane(
        self, channel: Channel, frames: tuple[bytes, ...], place: Place
    ) -> tuple[tuple[bytes, ...], Place]:
        """Add what is new in the lane to frames after which a peer is at `place`."""
        newest = Place(place.position, self._presence.version, self._cursors.version)
        if place == newest:
            return frames, place
        if channel.tape.after(place.position) > self.limits.lane_backlog:
            self.counts["lane"] += 1
            return frames, place
        seen = place.cursors
        if place.presence < newest.presence:
            news = self._presence.since(place.presence)
            frames += tuple(channel.wire.presence(news))
            seen = 0 if news.all else seen
        if cursors := self._cursors.since(seen):
            frames += tuple(channel.wire.cursors(cursors))
        return frames, newest

    # Peers

    def _find(self, client_id: str, connection: int) -> PeerState | None:
        peer = self._peers.get(client_id)
        return peer if peer is not None and peer.connection == connection else None

    def _close(self, peer: PeerState, reason: str, now: float) -> list[Effect]:
        """Close the connection of a peer that is too slow."""
        self.counts["closed"] += 1
        return [Close(peer.client_id, peer.connection, 4408, reason), *self._remove(peer, now)]

    def _remove(self, peer: PeerState, now: float) -> list[Effect]:
        """Forget a peer that has gone."""
        self._drop(peer)
        self._members.touch(peer.client_id)
        self._presence.gone(peer.client_id)
        self._cursors.drop(peer.client_id)
        effects = self._lane_changed()
        if not self._peers:
            self._idle_since = now
            effects += self._wake(now + self.limits.idle)
        return effects

    def _drop(self, peer: PeerState) -> None:
        """Forget a connection of a peer."""
        del self._peers[peer.client_id]
        peer.channel.users -= 1
        if peer.channel.users == 0:
            del self._channels[peer.channel.wire]

    def _lane_changed(self) -> list[Effect]:
        lanes = [channel for channel in self._channels.values() if channel.wire.has_lane]
        for channel in lanes:
            channel.batches.clear()
        return [_FLUSH] if lanes else []

    def _slowest(self, wire: Wire) -> int:
        return min(peer.place.position for peer in self._peers.values() if peer.channel.wire is wire)

    def _overdue_at(self, peer: PeerState) -> float:
        return peer.overdue_at(self.limits.stall, self.limits.batch)

    def _wake(self, time: float) -> list[Effect]:
        """See to it that a `Tick` comes at this time or before."""
        if time >= self.wake_at:
            return []
        self.wake_at = time
        return [WakeAt(time)]
