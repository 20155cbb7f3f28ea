"""Latencies of one run."""

from __future__ import annotations

import math
from collections.abc import Sequence


def percentile(latencies: Sequence[float], percent: float) -> float:
    """Return what `percent` of the latencies, which are sorted, stayed within; infinite if there are none."""
    if not latencies:
        return math.inf
    return latencies[min(len(latencies) - 1, int(len(latencies) * percent / 100))]
