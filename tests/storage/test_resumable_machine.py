"""Interrupted uploads against a plain model, and faults that this comparison must find."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from fawa.services.uploads import Uploads, Writer
from fawa.storage import resumable, uploads
from fawa.storage.resumable import FilesystemResumableUpload, ResumablePart
from tests.storage.uploads_machine import BATCH, UploadsMachine, reached

Patch = Callable[[pytest.MonkeyPatch], None]


def one_life(step: int, deadly: str) -> None:
    """An upload from beginning to end, with a death that chance may not find."""
    machine = UploadsMachine()
    try:
        machine.begin(sizes=[4])
        machine.write(chance=0, count=4, dies_at=None)
        machine.sync(chance=0, dies_at=step if deadly == "sync" else None)
        machine.roll_back(chance=0, dies_at=step if deadly == "roll back" else None)
        machine.check()
        machine.write(chance=0, count=4, dies_at=None)
        machine.finish(chance=0, fill_up=True, damaged=False, dies_at=step if deadly == "finish" else None)
        machine.check()
        machine.ask(chance=0, dies_at=None)
        machine.finish(chance=0, fill_up=True, damaged=False, dies_at=None)
        machine.check()
        machine.wait(really=True, seconds=110)
        machine.sweep(really=True, seconds=70, dies_at=step if deadly == "sweep" else None)
        machine.check()
    finally:
        machine.teardown()


def one_write() -> None:
    """As `one_life`, with a death in a write that does not wait for more."""
    machine = UploadsMachine()
    try:
        machine.begin(sizes=[BATCH])
        machine.write(chance=0, count=BATCH, dies_at=0)
        machine.check()
    finally:
        machine.teardown()


def run(max_examples: int) -> None:
    """Let the machine run, the same way each time; not shrunk, as that takes minutes."""
    one_write()
    for step in range(16):
        one_life(step, "sync")
        one_life(step, "roll back")
        one_life(step, "finish")
        one_life(step, "sweep")
    run_state_machine_as_test(
        UploadsMachine,
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],
            report_multiple_bugs=False,
        ),
    )


def test_uploads_against_a_model() -> None:
    reached.clear()
    run(200)
    rules = {"start", "resume", "ask", "cancel", "write", "sync", "roll back", "finish", "sweep"}
    outcomes = {"ask: an offset", "ask: a file", "fenced", "gone", "incomplete", "leave", "mismatch"}
    more = {"resume of a file", "restart", "too long", "wrong offset"}
    deaths = {f"{rule} dies" for rule in rules}
    assert reached.keys() == (rules - {"ask"}) | deaths | outcomes | more


# Faults


def unfenced(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks whether the upload is still theirs."""

    @contextmanager
    def owned(self: ResumablePart) -> Iterator[None]:
        yield

    patch.setattr(ResumablePart, "_owned", owned)


def one_epoch_for_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(uploads, "_CLAIM", uploads._CLAIM.replace("epoch + 1", "max(epoch, 1)"))


def expired_and_claimed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(uploads, "_CLAIM", uploads._CLAIM.replace("expires > ?", "? IS NOT NULL"))


def told_too_early(patch: pytest.MonkeyPatch) -> None:
    """What waits in memory is said to be stored."""

    async def sync(self: FilesystemResumableUpload) -> int:
        return self.offset

    patch.setattr(FilesystemResumableUpload, "sync", sync)


def dropped_at_the_end(patch: pytest.MonkeyPatch) -> None:
    real = FilesystemResumableUpload.close

    async def close(self: FilesystemResumableUpload) -> Any:
        self._gathered.clear()
        return await real(self)

    patch.setattr(FilesystemResumableUpload, "close", close)


def hash_of_what_was_taken_back(patch: pytest.MonkeyPatch) -> None:
    real = ResumablePart.rollback

    def rollback(self: ResumablePart) -> None:
        kept = self.hashed
        real(self)
        kept.size = self.size
        self.hashed = kept

    patch.setattr(ResumablePart, "rollback", rollback)


def record_removed_alone(patch: pytest.MonkeyPatch) -> None:
    async def remove(self: Uploads, record: Any) -> None:
        await self.records.delete(record.id)

    patch.setattr(Uploads, "remove", remove)


def no_time_for_the_slow(patch: pytest.MonkeyPatch) -> None:
    async def stay(self: Writer) -> None:
        pass

    patch.setattr(Writer, "_stay", stay)


def written_after_it_was_published(patch: pytest.MonkeyPatch) -> None:
    """What a crash left linked twice is gone on with."""

    def open_locked(folder: Path) -> tuple[int, int]:
        path = next(folder.iterdir(), folder / "0")
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX)
        return fd, int(path.name)

    patch.setattr(resumable, "_open_locked", open_locked)


@pytest.mark.parametrize(
    "fault",
    [
        unfenced,
        one_epoch_for_all,
        expired_and_claimed,
        told_too_early,
        dropped_at_the_end,
        hash_of_what_was_taken_back,
        record_removed_alone,
        no_time_for_the_slow,
        written_after_it_was_published,
    ],
    ids=lambda fault: fault.__name__,
)
def test_a_fault_is_found(fault: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        run(200)
