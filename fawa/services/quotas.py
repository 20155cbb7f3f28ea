"""How much may be stored: in all, by one address, and until the disk is nearly full.

Every upload, whatever its protocol, has a `Room` while its bytes come. It is made as large as the upload says
it will be before any byte is read, or grows with the bytes where the upload does not say:

- *In all*: the record store adds up files and what is held for those to come, for all daemons that share it.
- *By one address*: a token bucket of this daemon's. An upload that goes on is not counted twice.
- *The disk*, where content is on one: what must stay free of it, beside what other uploads have announced.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import attrs
import trio

from fawa.net.exchange import Exchange
from fawa.services.addresses import Proxies, sender
from fawa.services.ratelimit import Buckets, Rate
from fawa.storage.base import ContentStore, MetadataStore, OnDisk, StorageError
from fawa.storage.lifecycle import CLEANUP_TIMEOUT

_HOUR: Final = 3600

#: Bytes that an upload of unknown size holds ahead at most, and never more than it has: each time costs a
#: change in the record store.
_AHEAD: Final = 4 * 1024 * 1024
#: Bytes of all uploads together between two looks at the disk, each of which costs a thread's attention.
_LOOK: Final = 8 * 1024 * 1024


class OverQuota(Exception):  # noqa: N818 - said as it is
    """A limit stands in the way; the text says which and how much is left of it, and is for clients."""


class NeverFits(OverQuota):
    """It is more than may ever be."""


class NoRoom(OverQuota):
    """It is too much at the moment."""


class TooMuch(OverQuota):
    """It is too much from this address at the moment."""

    def __init__(self, text: str, wait: float) -> None:
        super().__init__(text)
        #: Seconds after which it would not be.
        self.wait = wait


@attrs.frozen(kw_only=True)
class QuotaSettings:
    """The limits, in bytes; 0 is none."""

    #: Of all files together, unfinished uploads included.
    total: int = 0
    #: That one address sends in an hour.
    per_address: int = 0
    #: That must stay free on the disk.
    min_free: int = 0
    proxies: Proxies = attrs.field(factory=Proxies)
    #: Seconds for which room is held without anything coming: longer than an upload may stand still.
    lease: float = 180.0


class Quotas:
    """Gives uploads room."""

    def __init__(
        self,
        content: ContentStore,
        metadata: MetadataStore,
        settings: Callable[[], QuotaSettings],
        clock: Callable[[], float],
        elapsed: Callable[[], float] = trio.current_time,
    ) -> None:
        """Ask `settings` each time; `clock` is the time in Unix seconds, `elapsed` counts seconds."""
        self.settings = settings
        self.metadata = metadata
        self.clock = clock
        #: Bytes of all files as of the last `look`.
        self.taken = 0
        self._elapsed = elapsed
        self._disk = content if isinstance(content, OnDisk) else None
        #: Bytes that have been announced and have not come.
        self._announced = 0
        #: Bytes that have come or were announced since the disk was found to have room.
        self._unseen = _LOOK
        self._sent = Buckets(Rate(1, 1))

    def address(self, exchange: Exchange) -> str:
        """Return whom a request's bytes are counted for."""
        return sender(self.settings().proxies, exchange.peer, exchange.headers)

    async def look(self) -> None:
        """Ask how many bytes there are.

        Raises:
            StorageError: the store failed.

        """
        self.taken = await self.metadata.room_taken(self.clock())

    @asynccontextmanager
    async def room(
        self, key: str, size: int | None, address: str | None, lasts: float | None = None
    ) -> AsyncIterator[Room]:
        """Make room for an upload that begins; given back if the block raises.

        Args:
            key: of the file.
            size: what it will have, if that is known.
            address: whom it is counted for, `None` for nobody.
            lasts: seconds for which room is held without anything coming, `None` for as long as an upload
                that comes in one piece may stand still.

        Raises:
            OverQuota: there is none.
            StorageError: a store failed.

        """
        room = Room(self, key, address, lasts or self.settings().lease)
        try:
            await room.announce(size)
            yield room
        except BaseException:
            # The error that brought us here is the one to tell; what cannot be given back runs out.
            with trio.move_on_after(CLEANUP_TIMEOUT, shield=True), suppress(StorageError):
                await room.give_back()
            raise
        finally:
            room.close()

    @asynccontextmanager
    async def going_on(
        self, key: str, size: int | None, offset: int, address: str | None, lasts: float
    ) -> AsyncIterator[Room]:
        """Give an upload the room that it has, for who goes on with it; what is held stays in the end.

        Raises:
            OverQuota: it has none any more.
            StorageError: a store failed.

        """
        room = Room(self, key, address, lasts, received=offset, charged=offset if size is None else size)
        try:
            await room.announce(size)
            yield room
        finally:
            room.close()

    async def keep(self, key: str, size: int, lasts: float) -> None:
        """Hold what an upload has for `lasts` seconds more, if it can be.

        Raises:
            StorageError: the store failed.

        """
        if (most := self.settings().total) and size <= most:
            now = self.clock()
            await self.metadata.hold_room(key, size, most, now, now + lasts)

    async def free(self, key: str) -> None:
        """Give back what is held for an upload that was removed.

        Raises:
            StorageError: the store failed.

        """
        await self.metadata.free_room(key)

    def charge(self, address: str | None, count: int, size: int) -> None:
        """Count bytes for an address; `size` has the whole upload, as far as is known.

        Raises:
            OverQuota: it has sent so many that these must wait.

        """
        limit = self.settings().per_address
        if not limit or address is None or count <= 0:
            return
        self._sent.rate = Rate(limit, limit / _HOUR)
        now = self._elapsed()
        if wait := self._sent.take(address, now, count):
            if size > limit:
                text = f"the file has at least {size} bytes, and one address may send {limit} in an hour"
                raise NeverFits(text)
            left = math.floor(self._sent.left(address, now))
            text = (
                f"{left} of the {limit} bytes that one address may send in an hour are left to yours, and "
                f"{count} are to come: try again in {math.ceil(wait)} s"
            )
            raise TooMuch(text, wait)

    def give_back(self, address: str | None, count: int) -> None:
        """Let bytes not count for an address after all."""
        if self.settings().per_address and address is not None and count > 0:
            self._sent.give_back(address, count)

    async def hold(self, key: str, size: int, ahead: int, lasts: float) -> int:
        """Hold `size` bytes of those that all files may have, `ahead` more if that can be; return how many.

        Raises:
            OverQuota: they are not left.
            StorageError: the store failed.

        """
        most = self.settings().total
        left = 0
        for count in (size + ahead, size) if ahead else (size,):
            now = self.clock()
            left = await self.metadata.hold_room(key, count, most, now, now + lasts)
            if left >= count:
                return count
        if size > most:
            raise NeverFits(
                f"the file has at least {size} bytes, and all files here together may have {most}"
            )
        raise NoRoom(
            f"the file has at least {size} bytes, and {left} are left for it of the {most} that all files "
            "here together may have: try again when others have expired"
        )

    async def announce(self, count: int) -> None:
        """See that the disk has room for bytes to come, and note that they will.

        Raises:
            NoRoom: it has not.
            StorageError: it cannot be asked.

        """
        await self._look_at_disk(count, is_announced=False)
        self._announced += count

    def retract(self, count: int) -> None:
        """Note that bytes have come, or will not."""
        self._announced -= count

    async def watch(self, count: int) -> None:
        """See now and then, with each `count` bytes that come, that the disk has room for them.

        Raises:
            NoRoom: it has not.
            StorageError: it cannot be asked.

        """
        await self._look_at_disk(count, is_announced=True)

    async def _look_at_disk(self, count: int, *, is_announced: bool) -> None:
        kept = self.settings().min_free
        if self._disk is None or not kept:
            return
        self._unseen += count
        if self._unseen < _LOOK:
            return
        left = await self._disk.free_space() - kept
        if not is_announced:
            left -= self._announced
        if left < (1 if is_announced else max(1, count)):
            raise NoRoom(
                f"{max(0, left)} bytes are left on the server's disk beside the {kept} that stay free, "
                f"and {count or 'some'} are to come: try again when other files have expired"
            )
        self._unseen = 0


@attrs.define(eq=False)
class Room:
    """What one upload takes while its bytes come."""

    _quotas: Quotas
    _key: str
    _address: str | None
    #: Seconds for which it is held from each time on.
    _lasts: float
    #: Bytes that have come.
    _received: int = attrs.field(default=0, kw_only=True)
    #: Of these and those to come, bytes that were counted for the address.
    _charged: int = attrs.field(default=0, kw_only=True)
    #: Bytes that are held in the record store, and until when.
    _held: int = attrs.field(default=0, init=False)
    _until: float = attrs.field(default=0.0, init=False)
    #: Of what is to come, bytes that the disk was asked for.
    _announced: int = attrs.field(default=0, init=False)

    async def announce(self, size: int | None) -> None:
        """Make room for all of it, which is as much as is known of it where `size` is `None`.

        Raises:
            OverQuota: there is none.
            StorageError: a store failed.

        """
        known = self._received if size is None else size
        before = self._charged
        self._charge(known)
        try:
            coming = known - self._received
            if coming or size is None:
                await self._quotas.announce(coming - self._announced)
                self._announced = coming
            await self._hold(known, 0)
        except BaseException:
            # It is refused, so it will not come.
            self._quotas.give_back(self._address, self._charged - before)
            self._charged = before
            raise

    async def grow(self, end: int) -> None:
        """Make room for the bytes up to `end`, before they are stored.

        Raises:
            OverQuota: there is none.
            StorageError: a store failed.

        """
        self._charge(end)
        await self._hold(end, min(end, _AHEAD))
        count = end - self._received
        await self._quotas.watch(count)
        self._received = end
        came = min(count, self._announced)
        self._announced -= came
        self._quotas.retract(came)

    def _charge(self, size: int) -> None:
        self._quotas.charge(self._address, size - self._charged, size)
        self._charged = max(self._charged, size)

    async def _hold(self, size: int, ahead: int) -> None:
        quotas = self._quotas
        if not quotas.settings().total:
            return
        now = quotas.clock()
        if size > self._held:
            self._held = await quotas.hold(self._key, size, ahead, self._lasts)
        elif self._held and self._until - now < self._lasts * 3 / 4:
            await quotas.hold(self._key, self._held, 0, self._lasts)
        else:
            return
        self._until = now + self._lasts

    async def give_back(self) -> None:
        """Give back what is held, and let the bytes that did not come not count for the address.

        Raises:
            StorageError: the store failed.

        """
        self._quotas.give_back(self._address, self._charged - self._received)
        self._charged = self._received
        # Also what was asked for, and the answer did not come.
        if self._quotas.settings().total:
            await self._quotas.free(self._key)

    def close(self) -> None:
        """Expect no more bytes."""
        self._quotas.retract(self._announced)
        self._announced = 0
