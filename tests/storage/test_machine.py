"""The two stores against a dict: uploads, expiries, repairs and losses in any order, dying at any step."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from fawa.storage import sqlite
from fawa.storage.base import AlreadyExists, ContentStore, FileRecord, MetadataStore, NotFound, State
from fawa.storage.database import Schema, open_connection
from fawa.storage.filesystem import content_store
from fawa.storage.lifecycle import expire, find, open_file, publish, repair
from fawa.storage.sqlite import SqliteStore
from tests.storage.contract import list_keys, make_record, read_content, store_content
from tests.storage.disk import Disk, PowerCutError
from tests.storage.wrapped import WrappedMetadata

#: Two of them share a folder.
keys = st.sampled_from(["aa1", "aa2", "bb1"])

#: Where an operation dies, if it has that many steps.
steps = st.none() | st.integers(0, 16)

#: What the runs have met, to see that they met everything.
reached: Counter[str] = Counter()

Operation = Callable[[ContentStore, MetadataStore], Awaitable[object]]


@attrs.frozen
class Expected:
    """What the model knows of a file."""

    data: bytes
    expires: float
    #: Whether success was told. What was not may be there whole, or not at all.
    acknowledged: bool


class StoresMachine(RuleBasedStateMachine):
    """The folder is opened anew for every rule, the database for every restart."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="fawa-"))
        self.now = 1000.0
        self.uploads = 0
        self.files: dict[str, Expected] = {}
        self.boot()

    def boot(self) -> None:
        self.database = open_connection(
            self.folder / "files.sqlite3", Schema(sqlite.APPLICATION_ID, sqlite.MIGRATIONS)
        )

    def shut(self) -> None:
        self.database.close()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[ContentStore, MetadataStore]]:
        async with content_store(self.folder / "files") as content:
            yield content, SqliteStore(self.folder, self.database, trio.CapacityLimiter(1))

    def perform(self, operation: Operation, dies_at: int | None) -> bool:
        """Run an operation; returns whether it came to its end."""

        async def main() -> bool:
            disk = Disk(self.folder, cut_power_at=dies_at)
            async with self.opened() as (content, metadata):
                with disk.installed():
                    try:
                        await operation(content, WrappedMetadata(metadata, disk.step))
                    except PowerCutError:
                        return False
            return True

        return trio.run(main)

    @initialize()
    def start(self) -> None:
        self.perform(repair_at(self.now), None)

    @rule(key=keys, size=st.sampled_from([0, 1, 5000]), ttl=st.integers(1, 100), dies_at=steps)
    def upload(self, key: str, size: int, ttl: int, dies_at: int | None) -> None:
        self.uploads += 1
        data = (f"{self.uploads} {key} ".encode() * size)[:size]
        record = make_record(
            key,
            size=size,
            sha256=hashlib.sha256(data).digest(),
            created=self.now,
            expires=self.now + ttl,
        )
        refused = False

        async def store(content: ContentStore, metadata: MetadataStore) -> None:
            nonlocal refused
            async with content.create(key) as upload:
                await upload.write(data)
                try:
                    await publish(content, metadata, upload, record)
                except AlreadyExists:
                    refused = True

        done = self.perform(store, dies_at)
        if refused:
            # The key is in use, by a file or by what is left of one.
            reached["upload refused"] += 1
            assert key in self.files
        elif done:
            reached["upload"] += 1
            self.files[key] = Expected(data, record.expires, acknowledged=True)
        else:
            reached["upload dies"] += 1
            if key not in self.files:
                self.files[key] = Expected(data, record.expires, acknowledged=False)

    @rule(seconds=st.integers(0, 100), dies_at=st.none() | st.integers(0, 3))
    def sweep(self, seconds: int, dies_at: int | None) -> None:
        self.now += seconds
        done = self.perform(lambda content, metadata: expire(content, metadata, self.now), dies_at)
        reached["sweep" if done else "sweep dies"] += 1
        if done:
            self.forget_expired()

    @rule(dies_at=st.none() | st.integers(0, 3))
    def restart(self, dies_at: int | None) -> None:
        self.shut()
        self.boot()
        if not self.perform(repair_at(self.now), dies_at):
            reached["repair dies"] += 1
            return
        reached["repair"] += 1
        self.forget_expired()
        stored, recorded, unfinished = trio.run(self.list_all)
        lost = recorded - stored
        assert stored <= recorded
        assert all(not self.files[key].acknowledged for key in lost)
        assert unfinished == set()
        assert list((self.folder / "files" / "uploads").iterdir()) == []
        acknowledged = {key for key, file in self.files.items() if file.acknowledged}
        assert acknowledged <= stored <= self.files.keys()
        for key in self.files.keys() - recorded:
            del self.files[key]
        for key in stored - acknowledged:
            reached["upload finished by repair"] += 1
            self.files[key] = attrs.evolve(self.files[key], acknowledged=True)

    @rule(key=keys)
    def content_is_lost(self, key: str) -> None:
        """Somebody deletes a file by hand."""
        path = self.folder / "files" / "content" / key[:2] / key
        if path.exists():
            reached["content lost"] += 1
            path.unlink()
            # Its record remains and keeps the key until its expiry.
            self.files[key] = attrs.evolve(self.files[key], acknowledged=False)

    @rule()
    def content_appears(self) -> None:
        """Somebody restores content, and not the database."""
        key = "aastray"
        if not (self.folder / "files" / "content" / key[:2] / key).exists():
            reached["stray content"] += 1
            self.perform(lambda content, metadata: store_content(content, key, b"stray"), None)

    def forget_expired(self) -> None:
        self.files = {key: file for key, file in self.files.items() if file.expires > self.now}

    async def list_all(self) -> tuple[set[str], set[str], set[str]]:
        async with self.opened() as (content, metadata):
            unfinished = {key async for key in metadata.keys(State.UPLOADING)}
            return set(await list_keys(content)), set(await list_keys(metadata)), unfinished

    @invariant()
    def whole_or_nothing_is_served(self) -> None:
        async def serve(
            content: ContentStore, metadata: MetadataStore, key: str
        ) -> tuple[FileRecord, bytes] | None:
            try:
                record = await find(metadata, key, self.now)
                async with open_file(content, record) as opened:
                    return record, await read_content(opened)
            except NotFound:
                return None

        async def main() -> None:
            async with self.opened() as (content, metadata):
                for key in {*self.files, *await list_keys(content), *await list_keys(metadata)}:
                    served = await serve(content, metadata, key)
                    file = self.files.get(key)
                    if served is not None:
                        assert file is not None, f"{key} was never uploaded, or has expired"
                        assert served[1] == file.data
                        assert file.expires > self.now
                    elif file is not None:
                        assert not file.acknowledged or file.expires <= self.now, f"{key} is missing"

        trio.run(main)

    def teardown(self) -> None:
        self.now += 1000
        self.restart(None)
        assert self.files == {}
        self.shut()
        shutil.rmtree(self.folder)


def repair_at(now: float) -> Operation:
    return lambda content, metadata: repair(content, metadata, now)


def test_the_stores_against_a_dict() -> None:
    run_machine(StoresMachine, 40)


def run_machine(machine_class: type[StoresMachine], examples: int) -> None:
    reached.clear()
    # A death between commit and answer, and one of the repair after it, which chance does not find in every
    # version of the house.
    machine = machine_class()
    machine.start()
    machine.upload(key="aa1", size=1, ttl=50, dies_at=11)
    machine.restart(0)
    machine.restart(None)
    machine.teardown()
    # The same runs each time: what they reach is asserted below. Not shrunk, as that takes minutes here.
    run_state_machine_as_test(
        machine_class,
        settings=settings(
            max_examples=examples,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],
        ),
    )
    assert reached.keys() == {
        "upload",
        "upload dies",
        "upload refused",
        "upload finished by repair",
        "sweep",
        "sweep dies",
        "repair",
        "repair dies",
        "content lost",
        "stray content",
    }
