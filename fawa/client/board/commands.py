"""What `fawa board` does, once its command line is read."""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, Final

import msgspec
import trio

from fawa.board.events import DrawEvent
from fawa.client.board.board import Board, News
from fawa.client.board.documents import (
    Cursors,
    Event,
    Presence,
    Rejected,
    Snapshot,
    Status,
    Stroke,
    expanded,
    segments,
)
from fawa.client.board.join import create_board, join_board
from fawa.client.board.svg import to_svg
from fawa.client.commands import UsageError
from fawa.client.dial import Trust, parse_server
from fawa.client.part import TransferError
from fawa.client.text import one_line, tell, tell_json

#: Bytes read at once, and of the longest line.
_PIECE: Final = 64 * 1024
_MOST_LINE: Final = 4 * 1024 * 1024


async def board(options: argparse.Namespace) -> None:
    """Run one of the commands to its end.

    Raises:
        GRPCError: the server cannot be reached, or says no.
        TransferError: a file cannot be written, or a line not be drawn.
        UsageError: the options do not fit together.

    """
    try:
        origin = parse_server(options.server)
        if origin.scheme == "https" or options.ca is not None:
            _trust(options).context("http/1.1")
    except ValueError as error:
        raise UsageError(str(error)) from error
    await _COMMANDS[options.action](options)


def _trust(options: argparse.Namespace) -> Trust:
    return Trust(options.ca, options.insecure)


def _join(options: argparse.Namespace) -> AbstractAsyncContextManager[Board]:
    if len(options.name) > 40:
        raise UsageError(f"a name has at most 40 characters, not {len(options.name)}")
    return join_board(
        options.server,
        options.code,
        name=options.name,
        transport=options.transport,
        trust=_trust(options),
    )


async def _create(options: argparse.Namespace) -> None:
    code = await create_board(options.server, trust=_trust(options))
    if options.json:
        tell_json({"code": code})
    else:
        tell(one_line(code))


# watch


async def _watch(options: argparse.Namespace) -> None:
    """Print what happens until it is interrupted."""
    async with _join(options) as here:
        people: dict[str, str] = {}
        async for news in here:
            if options.json:
                tell_json(_document(news))
                continue
            for line in _lines(news, people):
                tell(one_line(line))
            if isinstance(news, Presence):
                people = {one.client_id: one.name or one.client_id for one in news.people.values()}


def _document(news: News) -> dict[str, object]:
    """Return news in the words of wire v2, as far as it has them."""
    plain: Callable[[object], Any] = msgspec.to_builtins
    match news:
        case Event():
            return {"event": plain(news)}
        case Snapshot(strokes):
            return {"snapshot": {"strokes": plain(strokes)}}
        case Presence(people):
            return {"presence": {"all": True, "here": plain(list(people.values()))}}
        case Cursors(at):
            return {"cursors": [{"client_id": one, "x": x, "y": y} for one, (x, y) in at.items()]}
        case Rejected(events, code, message):
            return {"rejected": {"events": events, "code": code, "message": message}}
        case Status(transport, why, read_only):
            return {"status": {"transport": transport, "why": why, "read_only": read_only}}


def _lines(news: News, people: dict[str, str]) -> list[str]:
    """Return news in words; `people` are those who were here before, by client ID."""
    match news:
        case Event():
            return [_event(news, people.get(news.client_id, news.client_id))]
        case Snapshot(strokes):
            segments = sum(len(stroke.points) // 2 - 1 for stroke in strokes)
            return [f"the board: {segments} segments in {len(strokes)} strokes"]
        case Presence():
            now = {one.client_id: one.name or one.client_id for one in news.people.values()}
            gone = [f"{name} has gone" for client_id, name in people.items() if client_id not in now]
            return gone + [
                f"{name} is here" for client_id, name in now.items() if people.get(client_id) != name
            ]
        case Cursors():
            return []  # too many for a reader
        case Rejected(events, _, message):
            return [f"{events} events were not taken: {message}"]
        case Status(transport, why, read_only):
            how = f"connected over {transport}" if transport else "not connected"
            return [
                how + (f": {why}" if why else "") + (" (the board takes no events now)" if read_only else "")
            ]


def _event(event: Event, who: str) -> str:
    match event.type:
        case "draw":
            place = f"({event.prev_x}, {event.prev_y}) to ({event.curr_x}, {event.curr_y})"
            return f"{event.seq} {who} draws from {place} in {event.color or 'no color'}, {event.size} wide"
        case "clear":
            return f"{event.seq} {who} clears the board"
        case "undo":
            return f"{event.seq} {who} takes a stroke back"
        case other:
            return f"{event.seq} {who}: {other}"


# draw


class _Strokes(msgspec.Struct):
    strokes: tuple[Stroke, ...]


class _Line(msgspec.Struct):
    """A line to draw through points, or what `watch --json` prints of what somebody drew elsewhere."""

    points: tuple[tuple[int, int], ...] | None = None
    color: str = "#000000"
    size: int = 3
    event: Event | None = None
    snapshot: _Strokes | None = None
    presence: object = None
    cursors: object = None
    status: object = None
    rejected: object = None


async def _draw(options: argparse.Namespace) -> None:
    """Draw what standard input says, to its end."""
    drawn = number = 0
    async with _join(options) as here:
        strokes: dict[tuple[str, int], int] = {}
        async with aclosing(_read_lines()) as lines:
            async for line in lines:
                number += 1
                try:
                    events = _events_untrusted(line, strokes)
                    await here.put(*events)
                except (ValueError, msgspec.MsgspecError) as error:
                    raise TransferError(
                        f"line {number} of standard input cannot be drawn: {error}"
                    ) from error
                drawn += len(events)
        await here.settle()
    if options.json:
        tell_json({"code": options.code, "events": drawn})
    else:
        tell(f"{drawn} event{'' if drawn == 1 else 's'}")


def _events_untrusted(line: bytes, strokes: dict[tuple[str, int], int]) -> list[DrawEvent]:
    """Return what a line says is to be drawn; `strokes` has our number of each stroke of somebody's.

    Raises:
        MsgspecError: it is no such line.
        ValueError: it says nothing of that kind.

    """

    def ours(client_id: str, stroke: int) -> int:
        return strokes.setdefault((client_id, stroke), len(strokes) + 1) if stroke or not client_id else 0

    if not line.strip():
        return []
    said = msgspec.json.decode(line, type=_Line)
    if said.points is not None:
        # Each a stroke of its own, of nobody.
        return segments(said.points, said.color, said.size, ours("", len(strokes) + 1))
    if (event := said.event) is not None:
        place = (event.prev_x, event.prev_y, event.curr_x, event.curr_y)
        stroke = ours(event.client_id, event.stroke)
        return [DrawEvent(event.type, event.color, event.size, *place, time=event.time, stroke=stroke)]
    if said.snapshot is not None:
        return [
            event for one in said.snapshot.strokes for event in expanded(one, ours(one.client_id, one.stroke))
        ]
    if said.presence is said.cursors is said.status is said.rejected is None:
        raise ValueError('it has none of "points", "event" and "snapshot"')
    return []


async def _read_lines() -> AsyncGenerator[bytes, None]:
    """Iterate over the lines of standard input.

    Raises:
        TransferError: one is too long.

    """
    rest = b""
    # os.read and no file object: the lock of one would be held at the interpreter's end.
    while data := await trio.to_thread.run_sync(os.read, 0, _PIECE, abandon_on_cancel=True):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > _MOST_LINE:
            raise TransferError(f"standard input has a line of more than {_MOST_LINE} bytes")
    yield rest


# export


async def _export(options: argparse.Namespace) -> None:
    """Write the board as it is now."""
    strokes: tuple[Stroke, ...] = ()
    async with _join(options) as here:
        async for news in here:
            if isinstance(news, Snapshot):
                strokes = news.strokes
                break
    picture = to_svg(strokes)
    if options.output is None:
        tell(picture.rstrip())
        return
    try:
        await trio.Path(options.output).write_text(picture, "utf-8")
    except OSError as error:
        raise TransferError(f"cannot write {options.output}: {error.strerror}") from error
    if options.json:
        tell_json({"code": options.code, "path": str(options.output), "strokes": len(strokes)})
    else:
        tell(one_line(str(options.output)))


_COMMANDS: Final[dict[str, Callable[[argparse.Namespace], Awaitable[None]]]] = {
    "create": _create,
    "watch": _watch,
    "draw": _draw,
    "export": _export,
}
