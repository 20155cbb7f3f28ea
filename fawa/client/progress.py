"""How the `fawa` command shows that a transfer gets on: a bar on a terminal, a few lines elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from fawa.client.text import complain, one_line


class Meter(Protocol):
    """A `fawa.client.retrying.Progress` that is shown while its block runs."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def begin(self, name: str, total: int) -> None:
        """Begin a transfer of `total` bytes, or begin it again."""

    def at(self, done: int) -> None:
        """So many bytes are done."""

    def note(self, text: str) -> None:
        """Say in one line what goes on."""


def meter() -> Meter:
    """Return what suits standard error."""
    return _Bar() if sys.stderr.isatty() else _Plain()


class _Plain:
    """Only what went wrong and is mended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def begin(self, name: str, total: int) -> None:
        pass

    def at(self, done: int) -> None:
        pass

    def note(self, text: str) -> None:
        complain(text)


class _Bar:
    """A bar with bytes, speed and the time that remains."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, name: str, total: int) -> None:
        # A transfer that is resumed counts from where it was, so that the speed is of this attempt.
        if name in self._tasks:
            self._progress.reset(self._tasks[name], total=total)
        else:
            self._tasks[name] = self._progress.add_task(one_line(name), total=total)
        self._task = self._tasks[name]

    def at(self, done: int) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=done)

    def note(self, text: str) -> None:
        self._progress.console.print(f"fawa: {one_line(text)}", markup=False, highlight=False, soft_wrap=True)
