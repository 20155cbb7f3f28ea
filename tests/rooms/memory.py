"""Clients and a store that live in memory, and rooms at work for them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
import trio.testing

from fawa.board.commands import Resume
from fawa.board.events import DrawEvent
from fawa.board.tape import Batch
from fawa.board.wire import Wire
from fawa.board.wire_v1 import WireV1
from fawa.board.wire_v2 import WireV2
from fawa.rooms.room import Claim, Room, Seat
from fawa.rooms.rooms import Rooms, RoomsSettings
from fawa.storage.base import NotFound, StorageError

SECRET = b"a secret of at least 32 bytes ..."
V1 = WireV1(bytes)
V2 = WireV2(bytes)


def draw(x: int, **fields: Any) -> DrawEvent:
    """Return a segment that can be told from others by `x`."""
    return DrawEvent("draw", curr_x=x, **fields)


@attrs.define(eq=False)
class Client:
    """A connection that takes what is pushed at once, unless it is stuck."""

    wire: Wire = V1
    #: The socket takes nothing.
    stuck: bool = False
    #: What was written at once, each.
    writes: list[Batch] = attrs.field(factory=list)
    closed: tuple[int, str] | None = None
    #: Something that was pushed has not left.
    waits: bool = False
    #: How often it was asked whether that has left.
    asked: int = 0

    def push(self, batch: Batch) -> bool:
        assert self.closed is None, "pushed to after the end"
        assert not self.waits, "pushed to before the last batch has left"
        self.writes.append(batch)
        self.waits = self.stuck
        return not self.stuck

    @property
    def is_flushed(self) -> bool:
        self.asked += 1
        self.waits &= self.stuck
        return not self.waits

    def close(self, code: int, reason: str) -> None:
        assert self.closed is None, "closed twice"
        self.closed = (code, reason)

    @property
    def documents(self) -> list[dict[str, Any]]:
        """Everything that was written, in order."""
        return [json.loads(frame) for batch in self.writes for frame in batch.frames]

    @property
    def drawn(self) -> list[int]:
        """The events that were written, history included, by their `x`."""
        found = []
        for document in self.documents:
            match document:
                case {"draw_event": event} | {"event": event}:
                    found.append(event["curr_x"])
                case {"initial_history": {"events": events}}:
                    found += [event["curr_x"] for event in events]
        return found

    @property
    def last_drawn(self) -> int | None:
        """The newest event that was written, by its `x`."""
        for batch in reversed(self.writes):
            for frame in reversed(batch.frames):
                if frame.startswith(b'{"event"'):
                    return int(json.loads(frame)["event"]["curr_x"])
        return None

    def kinds(self) -> list[str]:
        """What the documents are."""
        return [next(iter(document)) for document in self.documents]


@attrs.define(eq=False)
class MemoryBoards:
    """See `fawa.storage.base.BoardStore`."""

    copies: dict[str, tuple[bytes, float]] = attrs.field(factory=dict)
    #: Every call fails.
    broken: bool = False
    #: Calls wait until this is set.
    gate: trio.Event | None = None
    puts: int = 0
    sweeps: list[tuple[float, int]] = attrs.field(factory=list)
    backend: str = "memory"

    async def check(self) -> None:
        await self._reach()

    async def _reach(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.gate is not None:
            await self.gate.wait()
        if self.broken:
            raise StorageError("the store is on fire")

    async def put(self, code: str, saved: bytes, expires: float) -> None:
        await self._reach()
        self.puts += 1
        self.copies[code] = (saved, expires)

    async def get(self, code: str, now: float) -> bytes:
        await self._reach()
        saved, expires = self.copies.get(code, (b"", now))
        if expires <= now:
            raise NotFound(code)
        return saved

    async def delete(self, code: str) -> None:
        await self._reach()
        self.copies.pop(code, None)

    async def sweep(self, now: float, most: int) -> int:
        await self._reach()
        self.sweeps.append((now, most))
        return 0


def settings(**changes: Any) -> RoomsSettings:
    return RoomsSettings(**changes)


@asynccontextmanager
async def running(
    store: MemoryBoards | None = None, chosen: RoomsSettings | None = None
) -> AsyncIterator[Rooms]:
    """Run rooms; their time of day is trio's clock."""
    rooms = Rooms(SECRET, chosen or RoomsSettings(), clock=trio.current_time)
    async with trio.open_nursery() as nursery:
        await nursery.start(rooms.run, store or MemoryBoards())
        yield rooms
        nursery.cancel_scope.cancel()


async def settle(seconds: float = 0.1) -> None:
    """Let the clock go on until what is to be sent has been."""
    await trio.sleep(seconds)


def claim(seat: Seat, seq: int, **changes: str) -> Claim:
    """Return what the client of a seat says when it returns."""
    known = {"client_id": seat.client_id, "token": seat.token, "epoch": seat.welcome.epoch} | changes
    return Claim(known["client_id"], known["token"], Resume(known["epoch"], seq))


def join(room: Room, client: Client, **about: Any) -> Seat:
    return room.join(client, **about)
