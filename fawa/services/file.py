"""The file service: its stores opened, kept tidy, and served over RPC, plain HTTP and links."""

from __future__ import annotations

import mimetypes
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import attrs
import trio

from fawa.ops.meters import gauge
from fawa.services.base import Offer, checks
from fawa.services.downloads import Downloads
from fawa.services.figures import Swept, Transfers, storage_figures
from fawa.services.file_rpc import FileRpc
from fawa.services.file_settings import FileSettings
from fawa.services.http_uploads import HttpUploads
from fawa.services.intake import Intake
from fawa.services.links import Links
from fawa.services.quotas import Quotas
from fawa.services.sharing import Sharing
from fawa.services.sweeping import Sweeping
from fawa.services.uploads import Uploads
from fawa.storage.base import (
    ContentStore,
    Dependency,
    MetadataStore,
    ResumableStore,
    UploadStore,
)
from fawa.storage.leases import Leases, embedded_leases
from fawa.storage.watching import StoreWatch


@attrs.define(eq=False, kw_only=True)
class FileService:
    """The service: stores opened and repaired, expiry, RPC and links."""

    name: str = "file"
    #: Open the stores; each run opens and closes them anew.
    open_content: Callable[[], AbstractAsyncContextManager[ContentStore]]
    open_metadata: Callable[[], AbstractAsyncContextManager[MetadataStore]]
    #: The same for uploads that may be interrupted, if content can be resumed.
    open_uploads: Callable[[], AbstractAsyncContextManager[UploadStore]] | None = None
    open_leases: Callable[[], AbstractAsyncContextManager[Leases]] = embedded_leases
    #: Signs links; at least `fawa.storage.signing.MIN_SECRET` bytes.
    secret: bytes = attrs.field(repr=False)
    #: May be replaced while running; `sweep_interval` counts from the next sweep on.
    settings: FileSettings = attrs.field(factory=FileSettings)
    #: The time in Unix seconds.
    clock: Callable[[], float] = time.time
    #: What is seen of the stores.
    watches: tuple[StoreWatch, ...] = ()
    #: Counted over all runs.
    transfers: Transfers = attrs.field(factory=Transfers, init=False)
    swept: Swept = attrs.field(factory=Swept, init=False)

    def _offer(
        self,
        content: ContentStore,
        metadata: MetadataStore,
        quotas: Quotas,
        uploads: Uploads | None = None,
        **more: Any,
    ) -> Offer:
        sharing = Sharing(lambda: attrs.evolve(self.settings.sharing, ttl=self.settings.ttl))
        clock, secret, transfers = self.clock, self.secret, self.transfers
        rpc = FileRpc(
            content, metadata, secret, lambda: self.settings, clock, sharing, quotas, uploads, transfers
        )
        links = Links(Downloads(content, metadata, clock), secret, clock, transfers)
        intake = Intake(
            content, metadata, secret, lambda: self.settings.intake, clock, quotas, sharing, transfers
        )
        stored = gauge(
            "fawa_file_bytes",
            "Bytes of all files as of the last sweep, with those held for unfinished uploads",
            lambda: quotas.taken,
        )
        return Offer(
            rpc=(rpc,),
            http={**links.routes, **HttpUploads(intake, uploads).routes},
            figures=(stored, *transfers.figures, *self.swept.figures, *storage_figures(self.watches)),
            **more,
        )

    def outline(self) -> Offer:
        """Return what it will serve once the stores are open; until then nothing asks for them."""
        not_yet: Any = None
        return self._offer(not_yet, not_yet, self._quotas(not_yet, not_yet))

    async def run(self, task_status: trio.TaskStatus[Offer]) -> None:
        """Serve until cancelled.

        Raises:
            OutOfReach: a store is away.
            StorageError: a store cannot be opened or repaired, or content and records do not go together.

        """
        # Reads the system's list of media types, once.
        await trio.to_thread.run_sync(mimetypes.init)
        async with (
            self.open_content() as content,
            self.open_metadata() as metadata,
            self.open_leases() as leases,
            AsyncExitStack() as stack,
        ):
            quotas = self._quotas(content, metadata)
            stores: tuple[Dependency, ...] = (metadata,)
            uploads: Uploads | None = None
            if self.open_uploads is not None and isinstance(content, ResumableStore):
                records = await stack.enter_async_context(self.open_uploads())
                uploads = Uploads(
                    content, metadata, records, lambda: self.settings.uploads, self.clock, quotas
                )
                stores = metadata, records
            sweeping = Sweeping(
                content,
                metadata,
                uploads,
                leases,
                self.clock,
                lambda: self.settings.sweep_interval,
                quotas,
                self.swept,
            )
            await sweeping.start()
            all_checks = {**content.checks, **checks(*stores)}
            offer = self._offer(content, metadata, quotas, uploads, checks=all_checks)
            task_status.started(offer)
            await sweeping.run()

    def _quotas(self, content: ContentStore, metadata: MetadataStore) -> Quotas:
        return Quotas(content, metadata, lambda: self.settings.quotas, self.clock)
