"""When a service that crashed is started again, and when it is given up. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

import attrs

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 30.0


class GivenUp(Exception):  # noqa: N818 - said as it is
    """A service crashed too often; the text says how often."""


def pause(crashes: int, chance: float) -> float:
    """Return the seconds to wait after crash number `crashes` (from 1) of a window.

    Doubles each time, up to 30 s; `chance` (0 to 1) takes up to half of it away, so that services that
    crashed together do not come back together.
    """
    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(crashes - 1, 30))
    return longest * (1 - chance / 2)


@attrs.define
class CrashCount:
    """Crashes of one service within a sliding window of `window` seconds."""

    most: int
    window: float
    _times: deque[float] = attrs.field(factory=deque, init=False)

    def add(self, now: float) -> int:
        """Count a crash; return how many there were in the window that ends `now`.

        Raises:
            GivenUp: more than `most`.

        """
        self._times.append(now)
        while self._times[0] <= now - self.window:
            self._times.popleft()
        if len(self._times) > self.most:
            raise GivenUp(
                f"crashed {len(self._times)} times within {self.window:g} s; "
                f"at most {self.most} are allowed (restart.max_crashes)"
            )
        return len(self._times)
