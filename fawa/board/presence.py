"""The lane where the latest wins: who is here, where their cursors are, whether the board takes events.

Nothing queues in it. Everything has a version; who is shown it remembers the newest version seen, and is next
shown what is newer, however often it changed in between.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, TypeVar

import attrs

T = TypeVar("T")

#: Departures remembered. Who has seen less than these cover is shown everybody.
MOST_GONE: Final = 512


class Slots(Generic[T]):
    """One value for each key, and the version at which it was set."""

    def __init__(self) -> None:
        #: Counts up with each change.
        self.version = 0
        #: Oldest change first.
        self._slots: dict[str, tuple[int, T]] = {}

    def set(self, key: str, value: T) -> None:
        """Set the value for a key."""
        self.version += 1
        self._slots.pop(key, None)
        self._slots[key] = (self.version, value)

    def __getitem__(self, key: str) -> T:
        return self._slots[key][1]

    def drop(self, key: str) -> None:
        """Forget a key, if it is there. The version does not change."""
        self._slots.pop(key, None)

    def since(self, seen: int) -> list[tuple[str, T]]:
        """Return what is newer than the version `seen`, oldest change first."""
        newer: list[tuple[str, T]] = []
        for key, (version, value) in reversed(self._slots.items()):
            if version <= seen:
                break
            newer.append((key, value))
        newer.reverse()
        return newer


@attrs.frozen
class Person:
    """How somebody is shown to the others."""

    name: str = ""
    color: str = ""


@attrs.frozen
class Status:
    """Whether the board takes events."""

    read_only: bool = False
    #: For a person.
    reason: str = ""


@attrs.frozen
class News:
    """What has changed in the presence since a version; first who has gone, as some may have come back."""

    #: `here` is everybody; who was shown before is to be forgotten, with their cursors.
    all: bool
    here: list[tuple[str, Person]]
    gone: list[str]
    status: Status | None


class Presence:
    """Who is here, and the status of the board."""

    def __init__(self) -> None:
        self._people: Slots[Person] = Slots()
        #: Who left, and at which version; oldest first.
        self._gone: deque[tuple[int, str]] = deque(maxlen=MOST_GONE)
        #: Departures up to this version are forgotten.
        self._forgotten = 0
        self.status = Status()
        self._status_version = 0

    @property
    def version(self) -> int:
        """Counts up with each change."""
        return self._people.version

    def here(self, key: str, person: Person) -> None:
        """Somebody has come, or looks different."""
        self._people.set(key, person)

    def change(self, key: str, name: str | None, color: str | None) -> None:
        """Somebody who is here has another name or colour; None: as before."""
        before = self._people[key]
        self._people.set(
            key,
            Person(before.name if name is None else name, before.color if color is None else color),
        )

    def gone(self, key: str) -> None:
        """Somebody has left."""
        self._people.drop(key)
        self._people.version += 1
        if len(self._gone) == MOST_GONE:
            self._forgotten = self._gone[0][0]
        self._gone.append((self._people.version, key))

    def set_status(self, status: Status) -> None:
        """The board stops or resumes taking events."""
        self.status = status
        self._people.version += 1
        self._status_version = self._people.version

    def since(self, seen: int) -> News:
        """Return what is newer than the version `seen`; 0 for who has seen nothing."""
        status = self.status if self._status_version > seen else None
        if seen == 0 or seen < self._forgotten:
            return News(True, self._people.since(0), [], status)
        gone: dict[str, None] = {}
        for version, key in reversed(self._gone):
            if version <= seen:
                break
            gone[key] = None
        return News(False, self._people.since(seen), list(gone)[::-1], status)
