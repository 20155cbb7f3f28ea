"""A board as bytes, for the time in which nobody is on it."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from fawa.board.events import Color, Count, Entry, Int32, Int64, TypeName
from fawa.board.strokes import POINT, Run

_VERSION: Final = 1


class SavedRun(msgspec.Struct, frozen=True, array_like=True):
    """A run of the snapshot."""

    type: TypeName
    color: Color
    size: Int32
    client_id: str
    time: Int64
    stroke: Count
    points: Annotated[bytes, msgspec.Meta(min_length=2 * POINT)]

    @classmethod
    def of(cls, run: Run) -> SavedRun:
        """Return what to save of a run."""
        return cls(run.type, run.color, run.size, run.client_id, run.time, run.stroke, bytes(run.points))

    def run(self) -> Run:
        """Return the run; raises ValueError when half a point was saved."""
        if len(self.points) % POINT:
            raise ValueError(f"a run has {len(self.points)} bytes of points, which is no multiple of {POINT}")
        return Run.restored(
            self.type, self.color, self.size, self.client_id, self.time, self.stroke, self.points
        )


class SavedBoard(msgspec.Struct, frozen=True, array_like=True):
    """A board without those who are on it."""

    seq: Count
    runs: tuple[SavedRun, ...]
    log: tuple[Entry, ...]
    #: Clients that number their events, with the last number taken from each; longest away first.
    members: tuple[tuple[str, Count], ...]
    #: Of this format.
    version: int = _VERSION


_decoder: Final = msgspec.msgpack.Decoder(SavedBoard)


def pack(board: SavedBoard) -> bytes:
    """Return a board as bytes."""
    return msgspec.msgpack.encode(board)


def unpack(data: bytes) -> SavedBoard:
    """Return the board that was saved; raises ValueError when that cannot be read."""
    board = _decoder.decode(data)
    if board.version != _VERSION:
        raise ValueError(f"the board was saved in format {board.version}, and this is format {_VERSION}")
    first = board.seq - len(board.log) + 1
    if [entry.seq for entry in board.log] != list(range(first, board.seq + 1)):
        raise ValueError(f"the log of the saved board does not lead up to its event {board.seq}")
    return board
