"""What is seen of a store: failures are counted by backend, and operations can be traced.

Operations end up with one `StoreWatch`, which knows whether the backend answered when it was last asked. What
stores answer by an error in their everyday work (`NotFound`, `Fenced` and the like) is no failure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any, Final, TypeVar

import attrs

from fawa.storage.base import (
    AlreadyExists,
    Damaged,
    Fenced,
    NotFound,
    OutOfReach,
    OutOfSpace,
    StorageError,
    WrongOffset,
)

#: What can be wrong with a backend.
KINDS: Final = ("unreachable", "out_of_space", "damaged", "other")

#: Stores say this by an error, and do their work.
_EXPECTED: Final = (AlreadyExists, Fenced, NotFound, WrongOffset)

Inner = TypeVar("Inner")
Outer = TypeVar("Outer")
Item = TypeVar("Item")

#: Begins a span of an operation, by the names of store, backend and operation.
Trace = Callable[[str, str, str], AbstractContextManager[None]]


@attrs.define(eq=False)
class StoreWatch:
    """What is seen of one store; also the context of an operation, with nothing kept from one to the next."""

    #: What it stores, such as `records`.
    store: str
    #: What it stands on, such as `redis`.
    backend: str
    #: Where operations are traced.
    trace: Trace | None = None
    failures: Counter[str] = attrs.field(factory=lambda: Counter(dict.fromkeys(KINDS, 0)), init=False)
    #: Whether the backend could be reached when it was last asked.
    is_up: bool = attrs.field(default=True, init=False)

    def __call__(self, operation: str) -> AbstractContextManager[None]:
        """Return the context of an operation."""
        if self.trace is None:
            return self
        return _Traced(self, self.trace(self.store, self.backend, operation))

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if error is None:
            self.is_up = True
        else:
            self.note(error)

    def note(self, error: BaseException) -> None:
        """Note how an operation has failed."""
        match error:
            case OutOfReach():
                self.is_up = False
                self.failures["unreachable"] += 1
            case OutOfSpace():
                self.failures["out_of_space"] += 1
            case Damaged():
                self.failures["damaged"] += 1
            case _ if isinstance(error, _EXPECTED):
                self.is_up = True
            case StorageError():
                self.failures["other"] += 1


@attrs.frozen(eq=False)
class _Traced(AbstractContextManager[None]):
    """An operation that is traced."""

    _watch: StoreWatch
    _span: AbstractContextManager[None]

    def __enter__(self) -> None:
        self._span.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._watch.__exit__(kind, error, at)
        expected = isinstance(error, _EXPECTED)
        self._span.__exit__(*((None, None, None) if expected else (kind, error, at)))


class Opening(AbstractAsyncContextManager[Outer]):
    """Opens something of a store: its own errors on the way in and out are seen, not those of the block."""

    def __init__(
        self,
        watch: StoreWatch,
        operation: str,
        inner: AbstractAsyncContextManager[Inner],
        wrap: Callable[[Inner, StoreWatch], Outer],
    ) -> None:
        self._watch = watch
        self._operation = operation
        self._inner: AbstractAsyncContextManager[Any] = inner
        self._wrap: Callable[[Any, StoreWatch], Outer] = wrap

    async def __aenter__(self) -> Outer:
        with self._watch(self._operation):
            return self._wrap(await self._inner.__aenter__(), self._watch)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> bool | None:
        try:
            return await self._inner.__aexit__(kind, error, at)  # noqa: ASYNC102 - its own to bound
        except StorageError as failure:
            if failure is not error:
                self._watch.note(failure)
            raise


async def seen(watch: StoreWatch, items: AsyncIterator[Item]) -> AsyncGenerator[Item, None]:
    """Iterate over what a store gives; not traced, as it lasts as long as its reader wants."""
    try:
        async for item in items:
            yield item
    except StorageError as error:
        watch.note(error)
        raise
    watch.is_up = True
