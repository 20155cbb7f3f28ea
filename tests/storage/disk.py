"""A disk that fails or loses power at a chosen step, under the real file system calls."""

from __future__ import annotations

import fcntl
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest


class PowerCutError(BaseException):
    """The process is no more; what was to be cleaned up stays as it is."""


@attrs.define(eq=False)
class Disk:
    """Watches and breaks what this process changes below `folder`.

    Each change is a step, and `cut_power_at` names the step at which the process dies: nothing it asks for
    from then on happens, and its open files are closed, as the kernel does. A write that dies is half done.
    """

    folder: Path
    #: The step that never comes to pass, counted from 0.
    cut_power_at: int | None = None
    #: Errors by the name of the call, raised from then on.
    errors: dict[str, int] = attrs.field(factory=dict)
    #: The names of the calls made, in order.
    calls: list[str] = attrs.field(factory=list, init=False)
    dead: bool = attrs.field(default=False, init=False)
    _fds: set[int] = attrs.field(factory=set, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    @contextmanager
    def installed(self) -> Iterator[Disk]:
        loop = threading.get_ident()
        names = (
            *("open", "close", "write", "writev", "fsync", "ftruncate"),
            *("link", "unlink", "mkdir", "rmdir", "rename"),
        )

        def watch(name: str) -> Callable[..., Any]:
            real = getattr(os, name)

            def call(*args: Any, **kwargs: Any) -> Any:
                if not self._is_ours(args):
                    return real(*args, **kwargs)
                assert threading.get_ident() != loop, f"os.{name} blocks the event loop"
                self._act(name, lambda: real(args[0], _half(args[1])) if "write" in name else None)
                result = real(*args, **kwargs)
                if name == "open":
                    self._fds.add(result)
                elif name == "close":
                    self._fds.discard(args[0])
                return result

            return call

        lock = fcntl.flock

        def flock(fd: int, operation: int) -> None:
            # Files of the dead stay open until the end of the block, and would keep their locks.
            if self.dead:
                raise PowerCutError
            lock(fd, operation)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fcntl, "flock", flock)
            for name in names:
                patch.setattr(os, name, watch(name))
            try:
                yield self
            finally:
                left, self._fds = self._fds, set()
        for fd in left:
            os.close(fd)
        assert self.dead or not left, "files were left open"

    def step(self) -> None:
        """A change that is not a call on this disk, such as in a database."""
        self._act("step", lambda: None)

    def _act(self, name: str, die: Callable[[], object]) -> None:
        with self._lock:
            if self.dead:
                raise PowerCutError
            if name != "close":
                if len(self.calls) == self.cut_power_at:
                    die()
                    self.dead = True
                    raise PowerCutError
                self.calls.append(name)
            if error := self.errors.get(name):
                raise OSError(error, os.strerror(error))

    def _is_ours(self, args: tuple[Any, ...]) -> bool:
        subject = args[0]
        return subject in self._fds if isinstance(subject, int) else self.folder in Path(subject).parents


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """What `ulimit -f` does; Python ignores the signal, so writes fail with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _half(data: Any) -> Any:
    whole = data if isinstance(data, list) else [data]
    joined = b"".join(bytes(piece) for piece in whole)
    half = joined[: len(joined) // 2]
    return [half] if isinstance(data, list) else half
