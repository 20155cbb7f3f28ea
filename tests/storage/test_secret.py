"""The file that holds the secret for signing links."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
import trio

from fawa.storage.base import StorageError
from fawa.storage.secret import load_or_create_secret
from fawa.storage.signing import Verdict, sign, verify_untrusted
from tests.storage.disk import Disk, PowerCutError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "link-secret"


async def test_a_secret_is_made_once(path: Path) -> None:
    secret = await load_or_create_secret(path)
    assert len(secret) == 64
    assert await load_or_create_secret(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["link-secret"]
    assert verify_untrusted(secret, "a", 1, sign(secret, "a", 1), 0) is Verdict.VALID


async def test_two_secrets_differ(path: Path) -> None:
    assert await load_or_create_secret(path) != await load_or_create_secret(path.with_name("other"))


async def test_an_operators_own_secret_is_taken_without_the_space_around_it(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("  correct horse battery staple, thirty-two\n")
    assert await load_or_create_secret(path) == b"correct horse battery staple, thirty-two"


async def test_many_that_start_at_once_have_one_secret(path: Path) -> None:
    secrets: set[bytes] = set()

    async def load() -> None:
        secrets.add(await load_or_create_secret(path))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(load)
    assert secrets == {path.read_bytes().strip()}
    assert [file.name for file in path.parent.iterdir()] == ["link-secret"]


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * 31])
async def test_a_short_secret_is_refused_and_kept(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StorageError, match=rf"{path} has \d+ bytes and needs 32 or more"):
        await load_or_create_secret(path)
    assert path.read_bytes() == content


async def test_a_place_that_cannot_hold_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file/link-secret cannot be read or made: Not a directory"):
        await load_or_create_secret(tmp_path / "file" / "link-secret")


async def test_a_full_disk(path: Path) -> None:
    path.parent.mkdir()
    disk = Disk(path.parent, errors={"write": errno.ENOSPC})
    with disk.installed(), pytest.raises(StorageError, match="No space left on device"):
        await load_or_create_secret(path)
    assert list(path.parent.iterdir()) == []


async def test_after_a_crash_at_any_step_there_is_a_whole_secret(path: Path) -> None:
    path.parent.mkdir()
    crashes = 0
    while True:
        disk = Disk(path.parent, cut_power_at=crashes)
        with disk.installed():
            try:
                made = await load_or_create_secret(path)
            except PowerCutError:
                crashes += 1
            else:
                break
        if path.exists():
            assert len(path.read_bytes().strip()) == 64
    assert crashes >= 4
    assert made == path.read_bytes().strip()
    assert os.access(path, os.R_OK)
