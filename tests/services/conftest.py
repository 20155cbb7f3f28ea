"""The file service over real stores, and a clock that tests turn."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from fawa.services.downloads import Downloads
from fawa.services.file_rpc import FileRpc
from fawa.services.file_settings import FileSettings
from fawa.services.links import Links
from fawa.services.names import guess_type
from fawa.services.quotas import Quotas
from fawa.services.sharing import Sharing
from fawa.storage.base import ContentStore, FileRecord, MetadataStore
from fawa.storage.filesystem import content_store
from fawa.storage.lifecycle import publish
from fawa.storage.sqlite import metadata_store

SECRET = b"a secret of at least 32 bytes ..."


@attrs.define
class Files:
    """The stores and what serves them."""

    folder: Path
    content: ContentStore
    metadata: MetadataStore
    settings: FileSettings = attrs.field(factory=FileSettings)
    #: Unix seconds.
    now: float = 1763900000.25
    sharing: Sharing = attrs.field(init=False)
    quotas: Quotas = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.sharing = Sharing(lambda: self.settings.sharing, lambda: self.now)
        self.quotas = Quotas(
            self.content, self.metadata, lambda: self.settings.quotas, lambda: self.now, lambda: self.now
        )

    @property
    def rpc(self) -> FileRpc:
        return FileRpc(
            self.content,
            self.metadata,
            SECRET,
            lambda: self.settings,
            lambda: self.now,
            self.sharing,
            self.quotas,
        )

    @property
    def links(self) -> Links:
        return Links(Downloads(self.content, self.metadata, lambda: self.now), SECRET, lambda: self.now)

    async def store(self, data: bytes, name: str = "a.txt", **changes: Any) -> FileRecord:
        values: dict[str, Any] = {
            "key": "aebagbafaydqqcik",
            "name": name,
            "size": len(data),
            "content_type": guess_type(name),
            "sha256": hashlib.sha256(data).digest(),
            "created": self.now,
            "expires": self.now + self.settings.ttl,
        }
        record = FileRecord(**(values | changes))
        async with self.content.create(record.key) as upload:
            await upload.write(data)
            await publish(self.content, self.metadata, upload, record)
        return record

    def stored(self) -> list[str]:
        """What is below the folder of content, uploads under way included."""
        paths = (self.folder / "files").rglob("*")
        return sorted(str(path.relative_to(self.folder / "files")) for path in paths if path.is_file())

    async def records(self) -> list[str]:
        return [key async for key in self.metadata.keys()]  # noqa: SIM118 - a store is no dict


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[Files]:
    async with (
        content_store(tmp_path / "files") as content,
        metadata_store(tmp_path / "files.sqlite3") as metadata,
    ):
        yield Files(tmp_path, content, metadata)
