"""The engine of interrupted uploads: two who finish at once, and lines that break at the worst moment."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from fawa.services.sharing import Shared
from fawa.services.uploads import UploadLimits, Uploads
from fawa.storage.base import Fenced, NotFound, State, Terms, UploadRecord
from fawa.storage.filesystem import FilesystemStore
from fawa.storage.lifecycle import find, open_file, repair
from fawa.storage.uploads import upload_store
from tests.services.conftest import Files
from tests.services.talk import DATA
from tests.storage.contract import read_content

DAY = 86_400
Hook = Callable[[], Awaitable[object]]


@attrs.define(eq=False)
class Meanwhile:
    """A writer's side of the store, where something happens just before or after the commit."""

    upload: Any
    before: Hook | None = None
    after: Hook | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.upload, name)

    async def commit(self) -> None:
        if self.before is not None:
            await self.before()
        await self.upload.commit()
        if self.after is not None:
            await self.after()


@attrs.define(eq=False)
class Engine:
    files: Files
    uploads: Uploads

    async def stored(self) -> UploadRecord:
        """An upload whose bytes are all there."""
        record = await self.uploads.start("a.txt", len(DATA), Shared(None, Terms(), ""))
        async with self.uploads.resume(record.id, 0) as writer:
            await writer.write(DATA)
        return record

    async def finish(self, upload_id: str, before: Hook | None = None, after: Hook | None = None) -> None:
        async with self.uploads.resume(upload_id, len(DATA)) as writer:
            writer._upload = Meanwhile(writer._upload, before, after)
            await writer.finish()

    async def serve(self, key: str) -> bytes:
        record = await find(self.files.metadata, key, self.files.now)
        async with open_file(self.files.content, record) as content:
            return await read_content(content)


@pytest.fixture
async def engine(files: Files, tmp_path: Path) -> AsyncIterator[Engine]:
    assert isinstance(files.content, FilesystemStore)

    def limits() -> UploadLimits:
        return UploadLimits(upload_ttl=DAY, ttl=1500, max_file_size=0)

    async with upload_store(tmp_path / "uploads.sqlite3") as records:
        yield Engine(files, Uploads(files.content, files.metadata, records, limits, lambda: files.now))


async def test_of_two_finishers_the_newer_wins(engine: Engine) -> None:
    record = await engine.stored()

    async def overtake() -> None:
        await engine.finish(record.id)

    with pytest.raises(Fenced):
        await engine.finish(record.id, before=overtake)
    assert await engine.serve(record.key) == DATA
    assert await engine.files.records() == [record.key]


async def test_an_overtaken_finisher_leaves_nothing_in_the_way(engine: Engine) -> None:
    record = await engine.stored()

    async def overtake() -> None:
        assert (await engine.uploads.progress(record.id)).offset == len(DATA)

    with pytest.raises(Fenced):
        await engine.finish(record.id, before=overtake)
    with pytest.raises(NotFound):
        await engine.serve(record.key)
    engine.files.now += 1000
    await engine.finish(record.id)
    assert await engine.serve(record.key) == DATA
    # It is kept from when it was whole.
    assert (await engine.files.metadata.get(record.key)).expires == engine.files.now + 1500


async def test_finishing_what_is_being_finished(engine: Engine) -> None:
    record = await engine.stored()

    async def ask() -> None:
        # Committed, but not recorded as ready: there is nothing to go on with, and the file can be told.
        with pytest.raises(Fenced):
            await engine.finish(record.id)
        assert (await engine.files.metadata.get(record.key)).state is State.UPLOADING
        assert (await engine.uploads.progress(record.id)).file is not None

    await engine.finish(record.id, after=ask)
    assert await engine.serve(record.key) == DATA


async def test_a_line_that_breaks_while_the_file_reaches_the_disk(engine: Engine) -> None:
    record = await engine.stored()
    with trio.CancelScope() as scope:

        async def hang_up() -> None:
            scope.cancel()

        await engine.finish(record.id, after=hang_up)
    assert scope.cancelled_caught
    with pytest.raises(NotFound):
        await engine.serve(record.key)
    file = (await engine.uploads.progress(record.id)).file
    assert file is not None
    assert (file.key, file.state, file.sha256) == (record.key, State.READY, hashlib.sha256(DATA).digest())
    assert await engine.serve(record.key) == DATA


async def test_a_fenced_finisher_takes_nothing_from_the_one_after_it(engine: Engine) -> None:
    """As when a new process starts while the old one waits for its disk."""
    record = await engine.stored()

    async def another_process() -> None:
        repaired = await repair(engine.files.content, engine.files.metadata, engine.files.now)
        assert repaired.empty == 1
        await engine.finish(record.id)

    with pytest.raises(Fenced):
        await engine.finish(record.id, before=another_process)
    assert await engine.serve(record.key) == DATA


async def test_a_record_that_is_tidied_away_meanwhile(engine: Engine) -> None:
    record = await engine.stored()

    async def repair_away() -> None:
        repaired = await repair(engine.files.content, engine.files.metadata, engine.files.now)
        assert repaired.empty == 1

    await engine.finish(record.id, before=repair_away)
    assert await engine.serve(record.key) == DATA
