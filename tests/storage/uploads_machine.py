"""Interrupted uploads against a plain model: writers that overtake each other, expiry, death at any step.

A process of the machine lives from one restart to the next on a thread of its own, so that writers stay open
from rule to rule. Every writer writes bytes of its own, so that bytes of two never look alike.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import attrs
import pytest
import trio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fawa.services.sharing import Shared
from fawa.services.uploads import Incomplete, Mismatch, TooLong, UploadLimits, Uploads, Writer
from fawa.storage import threads
from fawa.storage.base import Fenced, FileRecord, NotFound, StorageError, Terms, UploadRecord, WrongOffset
from fawa.storage.filesystem import FilesystemStore, content_store
from fawa.storage.lifecycle import expire, find, open_file, repair
from fawa.storage.sqlite import metadata_store
from fawa.storage.uploads import upload_store
from tests.storage.contract import list_keys, read_content
from tests.storage.disk import Disk, PowerCutError
from tests.storage.wrapped import WrappedMetadata, WrappedUploads

#: Seconds an upload and a file are kept.
UPLOAD_TTL = 100.0
TTL = 150.0
#: Bytes that a thread writes at once, few so that some are written and some are not.
BATCH = 8

USUAL = Shared(None, Terms(), "")
#: Uploads at once, and writers of which all but one a piece are overtaken.
MOST_UPLOADS = 3
MOST_WRITERS = 6

#: Where an operation dies, if it has that many steps.
steps = st.sampled_from([*([None] * 30), *range(12)])
#: Of what would otherwise come so often that nothing gets far.
seldom = st.sampled_from([False, False, False, True])

#: Of uploads; `None` while nobody has said.
sizes = st.none() | st.integers(0, 40)

#: What the runs have met, to see that they met everything.
reached: Counter[str] = Counter()

_Result = TypeVar("_Result")


class Loop:
    """A Trio loop on a thread, to which functions are given one by one."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,))
        self._thread.start()
        self._ready.wait()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._over = trio.Event()
        self._ready.set()
        await self._over.wait()

    def run(self, function: Callable[[], Awaitable[_Result]]) -> _Result:
        return trio.from_thread.run(function, trio_token=self._token)

    def end(self) -> None:
        trio.from_thread.run_sync(self._over.set, trio_token=self._token)
        self._thread.join()


@attrs.define(eq=False)
class Process:
    """A daemon's stores from start to death."""

    folder: Path
    clock: Callable[[], float]
    disk: Disk = attrs.field(init=False)
    uploads: Uploads = attrs.field(init=False)
    _stack: AsyncExitStack = attrs.field(factory=AsyncExitStack, init=False)

    async def start(self) -> None:
        self.disk = Disk(self.folder / "files")
        content = await self._stack.enter_async_context(content_store(self.folder / "files"))
        self._stack.enter_context(self.disk.installed())
        metadata = await self._stack.enter_async_context(metadata_store(self.folder / "files.sqlite3"))
        records = await self._stack.enter_async_context(upload_store(self.folder / "uploads.sqlite3"))
        self.uploads = Uploads(
            content,
            WrappedMetadata(metadata, self.disk.step),
            WrappedUploads(records, self.disk.step),
            lambda: UploadLimits(upload_ttl=UPLOAD_TTL, ttl=TTL, max_file_size=0),
            self.clock,
        )

    async def repair(self) -> None:
        """What `FileService.run` does before it serves."""
        await self.uploads.repair()
        await repair(self.uploads.content, self.uploads.metadata, self.clock())

    async def sweep(self) -> None:
        """What `FileService.run` does now and then."""
        await expire(self.uploads.content, self.uploads.metadata, self.clock())
        await self.uploads.sweep()

    async def end(self) -> None:
        await self._stack.aclose()


@attrs.define(eq=False)
class Expected:
    """What the model knows of one upload."""

    record: UploadRecord
    #: Bytes that are there, and bytes after them that may be there as far as they go.
    certain: bytes = b""
    maybe: bytes = b""
    #: It expires at one of these, or in between.
    expires: tuple[float, float] = (0.0, 0.0)
    #: It may be a file, and must be one; from when to when that may expire.
    may_be_file: bool = False
    is_file: bool = False
    file_expires: tuple[float, float] = (0.0, 0.0)
    #: Somebody may have removed it, and has.
    may_be_gone: bool = False
    is_gone: bool = False

    def settle(self, stored: int) -> None:
        """So many bytes are there, as is known now."""
        whole = self.certain + self.maybe
        assert len(self.certain) <= stored <= len(whole), "bytes are lost, or came from nowhere"
        self.certain, self.maybe = whole[:stored], b""


@attrs.define(eq=False)
class Open:
    """A writer that is open."""

    number: int
    upload: Expected
    writer: Writer
    context: AbstractAsyncContextManager[Writer]
    #: What was there when it began.
    start: bytes
    overtaken: bool = False
    failed: bool = False


class UploadsMachine(RuleBasedStateMachine):
    """Rules are what clients, operators and power stations do."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(threads, "BATCH", BATCH)
        self.patch.setattr(threads, "BATCH_LEAST", BATCH)
        # Processes die here, the machine does not: a disk in memory does, where there is one.
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="fawa-", dir=memory if memory.is_dir() else None))
        self.now = 1000.0
        self.numbers = itertools.count(1)
        self.uploads: list[Expected] = []
        self.writers: list[Open] = []
        self.loop = Loop()
        self.process = self.begin_process()

    # Processes

    def begin_process(self) -> Process:
        process = Process(self.folder, lambda: self.now)
        self.loop.run(process.start)
        return process

    def attempt(self, operation: Callable[[], Awaitable[_Result]], dies_at: int | None) -> _Result | None:
        """Run what may die; `None` when it did, and the process is dead then."""
        disk = self.process.disk
        disk.cut_power_at = None if dies_at is None else len(disk.calls) + dies_at
        try:
            return self.loop.run(operation)
        except PowerCutError:
            return None
        finally:
            disk.cut_power_at = None

    def bury(self, what: str) -> None:
        """End what is left of a process that died, and start another."""
        reached[f"{what} dies"] += 1
        self.end_process()
        self.process = self.begin_process()
        self.loop.run(self.process.repair)

    def end_process(self) -> None:
        for opened in self.writers:
            with suppress(PowerCutError):
                self.loop.run(functools.partial(opened.context.__aexit__, None, None, None))
            if not self.process.disk.dead:
                self.left(opened)
        self.writers.clear()
        self.loop.run(self.process.end)

    def left(self, opened: Open) -> None:
        """A writer has ended in good order: what it had is stored."""
        if not (opened.overtaken or opened.failed or opened.upload.is_gone):
            upload = opened.upload
            upload.settle(len(upload.certain) + len(upload.maybe))

    @rule(really=seldom)
    def restart(self, really: bool) -> None:
        if not really:
            return
        reached["restart"] += 1
        self.end_process()
        self.process = self.begin_process()
        self.loop.run(self.process.repair)

    # Uploads

    def some(self, chance: int) -> Expected:
        return self.uploads[chance % len(self.uploads)]

    def overtake(self, upload: Expected) -> None:
        for opened in self.writers:
            if opened.upload is upload:
                opened.overtaken = True

    def touched(self, upload: Expected, *, surely: bool) -> None:
        """Somebody has claimed it, or may have."""
        until = self.now + UPLOAD_TTL
        low, high = upload.expires
        upload.expires = (max(low, until) if surely else low, max(high, until))

    def expect_gone(self, upload: Expected) -> None:
        """The engine knows no such upload: there must be a reason."""
        expired = upload.expires[0] <= self.now
        file_expired = upload.may_be_file and upload.file_expires[0] <= self.now
        assert upload.is_gone or upload.may_be_gone or expired or file_expired, "an upload is lost"
        reached["gone"] += 1

    def expect_alive(self, upload: Expected) -> None:
        assert not upload.is_gone, "a removed upload is back"
        assert upload.expires[1] > self.now, "an expired upload is back"

    @initialize(sizes=st.lists(sizes, min_size=1, max_size=2))
    def begin(self, sizes: list[int | None]) -> None:
        for size in sizes:
            self.start(size, None)

    @precondition(lambda self: len(self.uploads) < MOST_UPLOADS)
    @rule(size=sizes, dies_at=steps)
    def start(self, size: int | None, dies_at: int | None) -> None:
        record = self.attempt(lambda: self.process.uploads.start("a.txt", size, USUAL), dies_at)
        if record is None:
            self.bury("start")
            return
        reached["start"] += 1
        self.uploads.append(Expected(record, expires=(self.now + UPLOAD_TTL,) * 2))

    def stored(self, upload: Expected) -> int:
        paths = list((self.folder / "files" / "resumable" / upload.record.key).glob("*"))
        return paths[0].stat().st_size if paths else 0

    @precondition(lambda self: self.uploads and len(self.writers) < MOST_WRITERS)
    @rule(chance=st.integers(0, 9), off_by=st.sampled_from([0, 0, 0, 0, -1, 1]), dies_at=steps)
    def resume(self, chance: int, off_by: int, dies_at: int | None) -> None:
        upload = self.some(chance)
        stored = self.stored(upload)
        context = self.process.uploads.resume(upload.record.id, stored + off_by)
        told = None
        writer = None
        try:
            writer = self.attempt(context.__aenter__, dies_at)
        except NotFound:
            self.expect_gone(upload)
            return
        except Fenced:
            # Nothing is left to write to; whether it is a file is asked of `progress`.
            assert upload.may_be_file or upload.may_be_gone, "a new writer was refused"
            self.touched(upload, surely=True)
            reached["resume of a file"] += 1
            return
        except WrongOffset as error:
            assert off_by, "the right offset was refused"
            told = error.offset
            self.touched(upload, surely=True)
            reached["wrong offset"] += 1
        except StorageError as error:
            raise AssertionError("a new writer was refused") from error
        if told is not None:
            assert told == stored
            return
        if writer is None:
            self.touched(upload, surely=False)
            self.bury("resume")
            return
        assert not off_by, "a wrong offset was taken"
        assert not upload.is_file, "a file is written to"
        reached["resume"] += 1
        self.expect_alive(upload)
        self.touched(upload, surely=True)
        self.overtake(upload)
        upload.may_be_file = upload.may_be_gone = False
        upload.settle(stored)
        assert writer.offset == stored
        self.writers.append(Open(next(self.numbers), upload, writer, context, upload.certain))

    @precondition(lambda self: self.uploads)
    @rule(chance=st.integers(0, 9), dies_at=steps)
    def ask(self, chance: int, dies_at: int | None) -> None:
        upload = self.some(chance)
        try:
            progress = self.attempt(lambda: self.process.uploads.progress(upload.record.id), dies_at)
        except NotFound:
            self.touched(upload, surely=False)
            self.expect_gone(upload)
            return
        except StorageError as error:
            raise AssertionError("nobody can be told how far it is") from error
        if progress is None:
            self.touched(upload, surely=False)
            self.bury("ask")
            return
        self.expect_alive(upload)
        self.touched(upload, surely=True)
        if progress.file is not None:
            reached["ask: a file"] += 1
            assert upload.may_be_file, "an upload is a file that nobody finished"
            self.became_file(upload, progress.file)
        else:
            reached["ask: an offset"] += 1
            assert not upload.is_file, "a file is an upload again"
            self.overtake(upload)
            upload.may_be_file = upload.may_be_gone = False
            upload.settle(progress.offset)

    @precondition(lambda self: self.uploads)
    @rule(really=seldom, chance=st.integers(0, 9), dies_at=steps)
    def cancel(self, really: bool, chance: int, dies_at: int | None) -> None:
        if not really:
            return
        upload = self.some(chance)

        async def cancel() -> bool:
            await self.process.uploads.cancel(upload.record.id)
            return True

        try:
            done = self.attempt(cancel, dies_at)
        except NotFound:
            self.expect_gone(upload)
            return
        self.touched(upload, surely=False)
        upload.may_be_gone = True
        if done is None:
            self.bury("cancel")
            return
        reached["cancel"] += 1
        self.overtake(upload)
        upload.is_gone = True

    # Writers

    @contextmanager
    def at(self, opened: Open) -> Iterator[None]:
        """Use a writer: one that was overtaken must be told, and has no effect."""
        try:
            yield
        except Fenced:
            assert opened.overtaken, "a writer was fenced off by nobody"
            reached["fenced"] += 1
            opened.failed = True
        except StorageError:
            assert opened.failed, "a writer failed for no reason"

    def writer(self, chance: int) -> Open | None:
        """One that is open; where none is, one is opened if that can be."""
        if not self.writers:
            self.resume(chance, 0, None)
        return self.writers[chance % len(self.writers)] if self.writers else None

    @precondition(lambda self: self.uploads)
    @rule(chance=st.integers(0, 9), count=st.integers(1, 20), dies_at=steps)
    def write(self, chance: int, count: int, dies_at: int | None) -> None:
        opened = self.writer(chance)
        if opened is None:
            return
        upload, size = opened.upload, opened.writer.record.size
        data = bytes([opened.number % 256]) * count
        too_long = size is not None and opened.writer.offset + count > size

        async def write() -> bool:
            await opened.writer.write(data)
            return True

        if not (opened.overtaken or opened.failed or too_long):
            upload.maybe += data
        with self.at(opened):
            try:
                done = self.attempt(write, dies_at)
            except TooLong:
                assert too_long
                reached["too long"] += 1
                return
            if done is None:
                self.touched(upload, surely=False)
                self.bury("write")
                return
            assert not too_long
            reached["write"] += 1
            self.stayed(opened)

    def stayed(self, opened: Open) -> None:
        """Whoever makes progress has time to make more."""
        told = opened.writer.record.expires
        assert told - self.now >= UPLOAD_TTL * 3 / 4, "an upload expires under its writer"
        low, high = opened.upload.expires
        if not opened.upload.is_gone:
            # Even when it has expired, as long as nobody has swept it.
            opened.upload.expires = max(low, told), max(high, told)

    @precondition(lambda self: self.uploads)
    @rule(chance=st.integers(0, 9), dies_at=steps)
    def sync(self, chance: int, dies_at: int | None) -> None:
        opened = self.writer(chance)
        if opened is None:
            return
        with self.at(opened):
            stored = self.attempt(opened.writer.sync, dies_at)
            if stored is None:
                self.bury("sync")
                return
            assert not opened.overtaken, "a writer that was overtaken is told that all is well"
            reached["sync"] += 1
            assert stored == opened.writer.offset
            opened.upload.certain += opened.upload.maybe
            opened.upload.maybe = b""
            assert stored == len(opened.upload.certain)

    @precondition(lambda self: self.uploads)
    @rule(chance=st.integers(0, 9), dies_at=steps)
    def roll_back(self, chance: int, dies_at: int | None) -> None:
        opened = self.writer(chance)
        if opened is None:
            return
        upload = opened.upload

        async def roll_back() -> bool:
            await opened.writer.rollback()
            return True

        with self.at(opened):
            done = self.attempt(roll_back, dies_at)
            if done is None:
                if not opened.overtaken:
                    # Either all of it is taken back, or nothing.
                    whole = upload.certain + upload.maybe
                    upload.certain, upload.maybe = opened.start, whole[len(opened.start) :]
                self.bury("roll back")
                return
            assert not opened.overtaken, "a writer that was overtaken takes something back"
            reached["roll back"] += 1
            upload.certain, upload.maybe = opened.start, b""

    @precondition(lambda self: self.uploads)
    @rule(chance=st.integers(0, 9))
    def leave(self, chance: int) -> None:
        opened = self.writer(chance)
        if opened is None:
            return
        self.writers.remove(opened)
        self.loop.run(functools.partial(opened.context.__aexit__, None, None, None))
        reached["leave"] += 1
        self.left(opened)

    @precondition(lambda self: self.uploads)
    @rule(
        chance=st.integers(0, 9),
        fill_up=st.booleans(),
        damaged=st.sampled_from([False, False, True]),
        dies_at=steps,
    )
    def finish(self, chance: int, fill_up: bool, damaged: bool, dies_at: int | None) -> None:
        opened = self.writer(chance)
        if opened is None:
            return
        size = opened.writer.record.size
        if fill_up and size is not None and size > opened.writer.offset:
            self.write(chance, size - opened.writer.offset, None)
        upload = opened.upload
        whole = upload.certain + upload.maybe
        sha256: bytes | None = hashlib.sha256(whole + b"!" * damaged).digest()
        if opened.overtaken:
            # It knows of its own bytes alone.
            sha256 = None if not damaged else sha256

        async def finish() -> FileRecord:
            return await opened.writer.finish(sha256)

        with self.at(opened):
            try:
                file = self.attempt(finish, dies_at)
            except Incomplete:
                assert size is not None
                assert size > opened.writer.offset
                reached["incomplete"] += 1
                return
            except Mismatch:
                assert damaged, "what was written is not what is there"
                reached["mismatch"] += 1
                upload.is_gone = upload.may_be_gone = True
                self.overtake(upload)
                return
            if file is None:
                if not opened.overtaken:
                    upload.may_be_gone |= damaged
                    upload.may_be_file |= not damaged
                    upload.file_expires = (self.now + TTL,) * 2
                self.bury("finish")
                return
            assert not opened.overtaken, "a writer that was overtaken finishes"
            assert not damaged, "damage is not noticed"
            reached["finish"] += 1
            upload.certain, upload.maybe = whole, b""
            upload.may_be_file = True
            upload.file_expires = (self.now + TTL,) * 2
            self.became_file(upload, file)
            opened.overtaken = opened.failed = True

    def became_file(self, upload: Expected, file: FileRecord) -> None:
        upload.is_file = True
        upload.certain, upload.maybe = upload.certain + upload.maybe, b""
        assert (file.key, file.name, file.size) == (upload.record.key, "a.txt", len(upload.certain))
        assert file.sha256 == hashlib.sha256(upload.certain).digest()
        assert file.expires == upload.file_expires[0]

    # Time

    @rule(really=seldom, seconds=st.sampled_from([1, 5, 20, 40, 70]), dies_at=steps)
    def sweep(self, really: bool, seconds: int, dies_at: int | None) -> None:
        if not really:
            return
        self.now += seconds

        async def sweep() -> bool:
            await self.process.sweep()
            return True

        done = self.attempt(sweep, dies_at)
        for upload in self.uploads:
            if upload.expires[0] <= self.now:
                upload.may_be_gone = True
                self.overtake(upload)
        if done is None:
            self.bury("sweep")
            return
        reached["sweep"] += 1
        for upload in list(self.uploads):
            if upload.expires[1] <= self.now and upload.file_expires[1] <= self.now:
                self.uploads.remove(upload)
                assert not self.on_disk(upload), "something stays of an upload that has expired"

    @rule(really=seldom, seconds=st.sampled_from([30, 60, 110]))
    def wait(self, really: bool, seconds: int) -> None:
        """Nobody sweeps for a while."""
        if really:
            self.now += seconds

    # What always holds

    def on_disk(self, upload: Expected) -> list[Path]:
        key = upload.record.key
        return [path for path in (self.folder / "files").rglob("*") if key in str(path)]

    @invariant()
    def bytes_are_those_of_the_model(self) -> None:
        for upload in self.uploads:
            key = upload.record.key
            whole = upload.certain + upload.maybe
            paths = list((self.folder / "files" / "resumable" / key).glob("*"))
            assert len(paths) <= 1
            for path in paths:
                data = path.read_bytes()
                assert upload.is_gone or whole.startswith(data), "bytes of another writer"
                assert upload.is_gone or len(data) >= len(upload.certain), "bytes are lost"
            if not (paths or upload.may_be_gone or upload.may_be_file):
                assert upload.expires[0] <= self.now, "an upload is lost"

    @invariant()
    def whole_files_alone_are_served(self) -> None:
        async def serve(key: str) -> bytes | None:
            uploads = self.process.uploads
            try:
                record = await find(uploads.metadata, key, self.now)
                async with open_file(uploads.content, record) as content:
                    return await read_content(content)
            except NotFound:
                return None

        for upload in self.uploads:
            served = self.loop.run(functools.partial(serve, upload.record.key))
            if served is None:
                assert not upload.is_file or upload.file_expires[0] <= self.now, "a file is lost"
            else:
                assert upload.may_be_file, "a file is served that nobody finished"
                assert upload.file_expires[1] > self.now, "an expired file is served"
                assert served == upload.certain + upload.maybe

    @invariant()
    def nothing_is_without_a_record(self) -> None:
        async def stray() -> set[str]:
            uploads = self.process.uploads
            content = uploads.content
            assert isinstance(content, FilesystemStore)
            unfinished = [key async for key in content.unfinished()]
            without = {key for key in unfinished if not await uploads.records.has_key(key)}
            return without | (set(await list_keys(content)) - set(await list_keys(uploads.metadata)))

        assert self.loop.run(stray) == set(), "content without a record"

    def check(self) -> None:
        self.bytes_are_those_of_the_model()
        self.whole_files_alone_are_served()
        self.nothing_is_without_a_record()

    def teardown(self) -> None:
        try:
            self.restart(True)
            self.now += 1000
            self.loop.run(self.process.sweep)
            left = [path for path in (self.folder / "files").rglob("*") if path.is_file()]
            assert left == [], "something stays for ever"
            assert self.loop.run(lambda: self.process.uploads.records.expired(self.now, 9)) == []
        finally:
            with suppress(PowerCutError):
                self.loop.run(self.process.end)
            self.loop.end()
            self.patch.undo()
            shutil.rmtree(self.folder)
