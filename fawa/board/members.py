"""Which of their numbered events the board has taken from whom, so that none is taken twice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterable

import attrs


@attrs.define(eq=False)
class Member:
    """One client's numbers, 0 for none."""

    #: The last that is committed.
    committed: int = 0
    #: The last that was handed to the bus.
    proposed: int = 0


class Members:
    """The clients that number their events; beyond a bound, who has been away for longest is forgotten."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        #: Who was here last comes last.
        self._members: OrderedDict[str, Member] = OrderedDict()

    def __len__(self) -> int:
        return len(self._members)

    def committed(self, client_id: str) -> int:
        """Return the last number committed for a client, 0 if there is none."""
        member = self._members.get(client_id)
        return member.committed if member is not None else 0

    def find(self, client_id: str, present: Container[str]) -> Member:
        """Return the client's record, a new one if need be; nobody in `present` is forgotten for it."""
        member = self._members.get(client_id)
        if member is None:
            if len(self._members) >= self._limit:
                self._forget_one(present)
            member = self._members[client_id] = Member()
        return member

    def touch(self, client_id: str) -> None:
        """Note that a client is or was here just now."""
        if client_id in self._members:
            self._members.move_to_end(client_id)

    def forget_proposals(self) -> list[str]:
        """Count what is not committed as not taken, as the bus lost it; returns whose events those are."""
        losers = []
        for client_id, member in self._members.items():
            if member.proposed != member.committed:
                member.proposed = member.committed
                losers.append(client_id)
        return losers

    def items(self) -> Iterable[tuple[str, int]]:
        """Iterate over clients and the last number committed for each, longest away first."""
        return ((client_id, member.committed) for client_id, member in self._members.items())

    def _forget_one(self, present: Container[str]) -> None:
        for _ in range(len(self._members)):
            client_id = next(iter(self._members))
            if client_id not in present:
                del self._members[client_id]
                return
            self._members.move_to_end(client_id)
