"""Leases: of several daemons that share stores, one does a piece of work at a time.

Held work must stay harmless when two do it: a daemon that stands still can outlive its lease without
noticing. Where that is not enough, the store refuses fences older than the newest it has seen.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import attrs


@attrs.frozen
class Lease:
    """A lease that was granted."""

    name: str
    #: Grows each time the lease goes to somebody, so that what a former holder still sends can be told apart.
    fence: int


class Leases(Protocol):
    """What one holder can ask for; every opening is a holder of its own."""

    async def acquire(self, name: str, ttl: float) -> Lease | None:
        """Return the lease for the next `ttl` seconds, or `None` while another holder has it.

        A holder that has it already has it for longer, with the same fence.

        Raises:
            StorageError: nobody knows who has it.

        """

    async def renew(self, lease: Lease, ttl: float) -> bool:
        """Keep a lease for another `ttl` seconds; `False` when it was lost.

        Raises:
            StorageError: nobody knows who has it.

        """

    async def release(self, lease: Lease) -> None:
        """Let others have it at once; does nothing when it was lost.

        Raises:
            StorageError: it could not be told; others have it once its time is up.

        """


@attrs.define(eq=False)
class EmbeddedLeases:
    """For embedded stores, which belong to one daemon: every lease is granted."""

    _fences: dict[str, int] = attrs.field(factory=dict, init=False)
    _held: set[str] = attrs.field(factory=set, init=False)

    async def acquire(self, name: str, ttl: float) -> Lease | None:
        """Return the lease."""
        if name not in self._held:
            self._held.add(name)
            self._fences[name] = self._fences.get(name, 0) + 1
        return Lease(name, self._fences[name])

    async def renew(self, lease: Lease, ttl: float) -> bool:
        """Tell whether it was not released."""
        return lease.name in self._held and self._fences[lease.name] == lease.fence

    async def release(self, lease: Lease) -> None:
        """Forget who has it."""
        if self._fences.get(lease.name) == lease.fence:
            self._held.discard(lease.name)


@asynccontextmanager
async def embedded_leases() -> AsyncIterator[EmbeddedLeases]:
    """Open leases of this process alone."""
    yield EmbeddedLeases()
