"""The tree of trio's tasks as text: what runs in this process, and where each task waits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import trio

#: Tasks that are shown; each connection has one or more.
_MOST: Final = 2000


def task_tree() -> str:
    """Return all tasks, a line each, with the innermost code outside trio where it waits."""
    lines = []
    root = trio.lowlevel.current_root_task()
    for count, line in enumerate(_lines(root, 0) if root is not None else ()):
        if count == _MOST:
            lines.append(f"… more than {_MOST} tasks")
            break
        lines.append(line)
    return "\n".join(lines) + "\n"


def _lines(task: trio.lowlevel.Task, depth: int) -> Iterator[str]:
    indent = "  " * depth
    yield f"{indent}{task.name}{_place(task)}"
    for nursery in task.child_nurseries:
        deadline = nursery.cancel_scope.deadline - trio.current_time()
        ends = f", ends within {deadline:.1f} s" if deadline < 1e6 else ""
        yield f"{indent}  ─ nursery of {len(nursery.child_tasks)}{ends}"
        for child in sorted(nursery.child_tasks, key=lambda child: child.name):
            yield from _lines(child, depth + 2)


def _place(task: trio.lowlevel.Task) -> str:
    place = ""
    for frame, line in task.iter_await_frames():
        code = frame.f_code
        if not frame.f_globals.get("__name__", "").startswith("trio."):
            place = f"  at {code.co_qualname} ({code.co_filename.rpartition('site-packages/')[2]}:{line})"
    return place
