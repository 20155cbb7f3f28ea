"""The face of a wire format: how what happens on a board becomes frames."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from typing import Final

from fawa.board.events import CLEAR, DrawEvent, Entry
from fawa.board.history import History
from fawa.board.presence import News

#: What makes a frame of a document or message.
Frame = Callable[[bytes], bytes]

#: Sender of the clear that begins a repaint.
NOBODY: Final = "00000000"


class Wire(abc.ABC):
    """One format in one framing. All peers with the same object share its frames."""

    #: Whether its clients take strokes back themselves; others are sent the board anew.
    knows_undo: bool
    #: Whether its clients are shown presence and cursors.
    has_lane: bool

    def __init__(self, frame: Frame) -> None:
        """Make a wire.

        Args:
            frame: makes a frame of a document, for instance `line`; `bytes` where there is no framing.

        """
        self.frame = frame

    @abc.abstractmethod
    def event(self, entry: Entry) -> bytes:
        """Return the frame that tells of an event."""

    @abc.abstractmethod
    def welcome(self, history: History, seq: int) -> list[bytes]:
        """Return the frames that bring who joins up to `seq`."""

    @abc.abstractmethod
    def repaint(self, history: History, seq: int) -> list[bytes]:
        """Return the frames that replace all that was drawn before, and bring it up to `seq`."""

    def acknowledge(self, op: int) -> list[bytes]:
        """Return the frames that tell a client that its events up to `op` are in what it was just sent."""
        return []

    def presence(self, news: News) -> list[bytes]:
        """Return the frames that tell what has changed in the presence."""
        raise NotImplementedError(f"{type(self).__name__} has no presence")

    def cursors(self, cursors: list[tuple[str, tuple[int, int]]]) -> list[bytes]:
        """Return the frames that tell of cursors: the client and the position of each."""
        raise NotImplementedError(f"{type(self).__name__} has no cursors")


def line(document: bytes) -> bytes:
    """Return a document as a line, for byte streams."""
    return document + b"\n"


def newest(frames: Iterable[bytes], most: int) -> list[bytes]:
    """Return what comes newest first as oldest first, as many as fit into `most` bytes with 1 between."""
    kept: list[bytes] = []
    size = 0
    for frame in frames:
        size += len(frame) + 1
        if size > most:
            break
        kept.append(frame)
    kept.reverse()
    return kept


def wiped() -> DrawEvent:
    """Return the clear that begins a repaint."""
    return DrawEvent(CLEAR, client_id=NOBODY)
