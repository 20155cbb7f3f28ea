"""What the file service does in the background: stores repaired at the start, what has expired removed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final, NoReturn

import attrs
import trio

from fawa.ops.logging import get_logger
from fawa.services.figures import Swept
from fawa.services.quotas import Quotas
from fawa.services.uploads import Uploads
from fawa.storage.base import ContentStore, MetadataStore, NotFound, OutOfReach, StorageError
from fawa.storage.leases import Lease, Leases
from fawa.storage.lifecycle import expire, repair

#: The lease under which is swept, and for how many intervals it is taken: as long a daemon that died keeps
#: the others from sweeping.
_LEASE: Final = "file-sweep"
_LEASE_INTERVALS: Final = 3

#: Seconds to let the lease go at the end.
_RELEASE_TIMEOUT: Final = 1.0

_log = get_logger("fawa.services.file")


@attrs.define(eq=False)
class Sweeping:
    """Keeps the stores tidy."""

    content: ContentStore
    metadata: MetadataStore
    #: If uploads can be interrupted.
    uploads: Uploads | None
    leases: Leases
    #: The time in Unix seconds.
    clock: Callable[[], float]
    #: Seconds from one sweep to the next; asked each time, so that settings can change under it.
    interval: Callable[[], float]
    quotas: Quotas
    swept: Swept = attrs.field(factory=Swept)
    _is_repaired: bool = attrs.field(default=False, init=False)

    async def start(self) -> None:
        """Repair the stores, once it is sure that they go together; later if one goes away: it comes back.

        Until then calls are told, and so is whoever asks for readiness.

        Raises:
            OutOfReach: one was away from the beginning.
            StorageError: they do not go together, or cannot be repaired.

        """
        await self.content.claim(await self.metadata.identity(), self._is_recorded)
        try:
            await self._repair()
            await self.quotas.look()
        except OutOfReach as error:
            _log.error("files are served without having been repaired", error=str(error))

    async def _is_recorded(self, key: str) -> bool:
        if self.uploads is not None and await self.uploads.records.has_key(key):
            return True
        try:
            await self.metadata.get(key)
        except NotFound:
            return False
        return True

    async def run(self) -> NoReturn:
        """Sweep from time to time; of daemons that share the stores, one does.

        It keeps the lease from sweep to sweep. Should two sweep after all, the files go all the same.
        """
        lease: Lease | None = None
        try:
            while True:
                interval = self.interval()
                await trio.sleep(interval)
                try:
                    if not self._is_repaired:
                        await self._repair()
                    lease = await self.leases.acquire(_LEASE, _LEASE_INTERVALS * interval)
                except StorageError as error:
                    self.swept.failed += 1
                    _log.error("expired files remain and are tried again", error=str(error))
                else:
                    if lease is not None:
                        await self._sweep()
                    with suppress(StorageError):  # the next look is soon
                        await self.quotas.look()
        finally:
            if lease is not None:
                with trio.move_on_after(_RELEASE_TIMEOUT, shield=True), suppress(StorageError):
                    await self.leases.release(lease)

    async def _repair(self) -> None:
        if self.uploads is not None and (removed := await self.uploads.repair()):
            _log.warning("content of unknown uploads was removed", count=removed)
            self.swept.removed["stray"] += removed
        repaired = await repair(self.content, self.metadata, self.clock())
        self.swept.removed["file"] += repaired.expired
        self.swept.removed["stray"] += repaired.uncommitted + repaired.unrecorded + repaired.empty
        if repaired.total:
            _log.warning("file storage was left untidy and is tidy now", **attrs.asdict(repaired))
        if repaired.elsewhere:
            _log.warning(
                "files are not served whose content is not here, and forgotten once they expire",
                count=repaired.elsewhere,
                advice="If content was kept in another place before (data_dir, s3.endpoint, s3.bucket, "
                "s3.prefix), it is still there: set that again to serve it, or remove it by hand",
            )
        self._is_repaired = True

    async def _sweep(self) -> None:
        swept, failed = self.swept, False
        try:
            if removed := await expire(self.content, self.metadata, self.clock()):
                swept.removed["file"] += removed
                _log.debug("expired files were removed", count=removed)
        except StorageError as error:
            failed = True
            _log.error("expired files remain and are tried again", error=str(error))
        try:
            if self.uploads is not None and (removed := await self.uploads.sweep()):
                swept.removed["upload"] += removed
                _log.debug("expired uploads were removed", count=removed)
        except StorageError as error:
            failed = True
            _log.error("expired uploads remain and are tried again", error=str(error))
        swept.failed += failed
        swept.done += not failed
