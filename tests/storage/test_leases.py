"""Leases of a daemon that has its stores for itself."""

from __future__ import annotations

from fawa.storage.leases import Lease, embedded_leases


async def test_every_lease_is_granted() -> None:
    async with embedded_leases() as leases:
        first = await leases.acquire("a", 1.0)
        assert first == Lease("a", 1)
        assert await leases.acquire("a", 1.0) == first
        assert await leases.acquire("b", 1.0) == Lease("b", 1)
        assert await leases.renew(first, 1.0)
        await leases.release(first)
        assert not await leases.renew(first, 1.0)
        second = await leases.acquire("a", 1.0)
        assert second == Lease("a", 2)
        await leases.release(first)
        assert await leases.renew(second, 1.0)
