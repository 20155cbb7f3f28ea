"""How often somebody may do something: token buckets. Pure.

Each bucket is one number, the time at which it will be full again (the "theoretical arrival time" of the
generic cell rate algorithm): a bucket that nobody uses is full, so nothing need be known of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

import attrs

#: Buckets that are remembered by default; beyond that, the one used longest ago counts as full.
MOST_KEYS: Final = 10_000


@attrs.frozen
class Rate:
    """How much may be done."""

    #: At once, after a rest.
    burst: float
    #: In the long run.
    per_second: float


@attrs.define
class Bucket:
    """What one may do of which all is done in the end, later if it is too much."""

    rate: Rate
    _full_at: float = attrs.field(default=0.0, init=False)

    def spend(self, count: float, now: float) -> float:
        """Do something `count` times; returns the seconds to wait before more may be done."""
        self._full_at = max(self._full_at, now) + count / self.rate.per_second
        return max(0.0, self._full_at - now - self.rate.burst / self.rate.per_second)


@attrs.define
class Buckets:
    """What many may do, each by a key; what is too much is refused."""

    rate: Rate
    most_keys: int = MOST_KEYS
    #: The key used last comes last.
    _full_at: OrderedDict[Hashable, float] = attrs.field(factory=OrderedDict, init=False)

    def take(self, key: Hashable, now: float, count: float = 1) -> float:
        """Let `key` do something, so often at once; returns 0, or having refused, the seconds to wait."""
        full_at = max(self._full_at.get(key, now), now) + count / self.rate.per_second
        wait = full_at - now - self.rate.burst / self.rate.per_second
        # What is less than a nanosecond is rounding.
        if wait > 1e-9:
            return wait
        self._full_at[key] = full_at
        self._full_at.move_to_end(key)
        if len(self._full_at) > self.most_keys:
            self._full_at.popitem(last=False)
        return 0.0

    def give_back(self, key: Hashable, count: float = 1) -> None:
        """Let what `key` did last, `count` times, not count."""
        if key in self._full_at:
            self._full_at[key] -= count / self.rate.per_second

    def left(self, key: Hashable, now: float) -> float:
        """Return how often `key` may do something now."""
        return self.rate.burst - max(0.0, self._full_at.get(key, now) - now) * self.rate.per_second
