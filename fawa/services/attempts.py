"""What somebody may get wrong only so often: codes, keys, passwords."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager

import attrs
import trio

from fawa.services.ratelimit import Buckets, Rate


@attrs.define(eq=False)
class _Undecided:
    """The attempts of one, of which nobody knows yet whether they are wrong."""

    count: int = 0
    decided: trio.Event = attrs.field(factory=trio.Event)


class Attempts:
    """Counts what is wrong, by who tries; what is right costs nothing, however much of it comes at once.

    An attempt is counted before it is known to be wrong, or many at once would all slip through. So one that
    would be too much waits while others of the same are undecided: a class behind one address that comes back
    all at once is let in, a flood of guesses is not.
    """

    def __init__(self, rate: Rate, clock: Callable[[], float]) -> None:
        """Let each get as much wrong as `rate` says; `clock` counts seconds."""
        self._buckets = Buckets(rate)
        self._clock = clock
        #: No more than there are attempts under way.
        self._undecided: dict[Hashable, _Undecided] = {}

    @property
    def rate(self) -> Rate:
        """What is in force; may be replaced."""
        return self._buckets.rate

    @rate.setter
    def rate(self, rate: Rate) -> None:
        self._buckets.rate = rate

    @asynccontextmanager
    async def one(
        self, key: Hashable, refusal: Callable[[float], Exception], *wrong: type[Exception]
    ) -> AsyncIterator[None]:
        """Let `key` try what the block does: it was wrong if the block raises one of `wrong`.

        Raises:
            Exception: what `refusal` makes of the seconds to wait: too many were wrong.

        """
        while wait := self._buckets.take(key, self._clock()):
            others = self._undecided.get(key)
            if others is None:
                raise refusal(wait)
            await others.decided.wait()
        undecided = self._undecided.setdefault(key, _Undecided())
        undecided.count += 1
        was_wrong = False
        try:
            yield
        except wrong:
            was_wrong = True
            raise
        finally:
            if not was_wrong:
                self._buckets.give_back(key)
            undecided.count -= 1
            if not undecided.count:
                del self._undecided[key]
            undecided.decided.set()
            undecided.decided = trio.Event()
