"""Folders packed for sending, and restored without a way out."""

from __future__ import annotations

import io
import os
import random
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fawa.client.folder import PackedFolder, restore
from fawa.client.part import TransferError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sent") / "photos"
    (made / "2026" / "Sömmer").mkdir(parents=True)
    (made / "none").mkdir()
    (made / "2026" / "a.bin").write_bytes(random.Random(1).randbytes(70_001))
    (made / "2026" / "Sömmer" / ("long " * 40)).write_bytes(b"x" * 512)
    (made / "empty").touch()
    (made / "run.sh").write_text("echo\n")
    (made / "run.sh").chmod(0o755)
    os.utime(made / "run.sh", (1_000_000_000.25, 1_000_000_000.25))
    (made / "2026" / "up").symlink_to("../run.sh")
    (made / "here").symlink_to("2026/Sömmer")
    return made


def packed(folder: Path) -> bytes:
    with PackedFolder(folder) as archive:
        return archive.read()


def tree(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_dir():
            found[name] = path.stat().st_mode & 0o777, "folder"
        else:
            found[name] = path.stat().st_mode & 0o777, path.stat().st_mtime, path.read_bytes()
    return found


def test_there_and_back(folder: Path, tmp_path: Path) -> None:
    data = packed(folder)
    with PackedFolder(folder) as archive:
        assert archive.size == len(data)
    (tmp_path / "x.tar").write_bytes(data)
    restore(tmp_path / "x.tar", tmp_path / "photos", force=False)
    assert tree(tmp_path / "photos") == tree(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "x.tar"]


def test_tar_itself_reads_it(folder: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "-x", "-C", tmp_path], input=packed(folder), check=True)
    assert tree(tmp_path) == tree(folder)


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.tar").write_bytes(packed(tmp_path / "empty"))
    restore(tmp_path / "x.tar", tmp_path / "y", force=False)
    assert list((tmp_path / "y").iterdir()) == []


@settings(max_examples=40)
@given(data=st.data())
def test_read_from_anywhere(data: st.DataObject, folder: Path) -> None:
    whole = packed(folder)
    with PackedFolder(folder) as archive:
        for _ in range(5):
            offset = data.draw(st.integers(0, len(whole)))
            count = data.draw(st.integers(0, 3000) | st.integers(0, len(whole)))
            assert archive.seek(offset) == offset
            assert archive.read(count) == whole[offset : offset + count]
            assert archive.tell() == min(offset + count, len(whole))


def test_what_cannot_be_sent(tmp_path: Path) -> None:
    made = tmp_path / "folder"
    made.mkdir()
    for target in ("/etc/passwd", "../outside", "a/../..", "a/../b"):
        (made / "link").symlink_to(target)
        with pytest.raises(TransferError, match="link is a link out of the folder"):
            PackedFolder(made)
        (made / "link").unlink()
    os.mkfifo(made / "pipe")
    with pytest.raises(TransferError, match="pipe is neither file, folder nor link"):
        PackedFolder(made)
    (made / "pipe").unlink()
    (made / os.fsdecode(b"bad\xff")).touch()
    with pytest.raises(TransferError, match="not valid UTF-8"):
        PackedFolder(made)


def test_a_file_that_changes_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    with PackedFolder(tmp_path) as archive:
        (tmp_path / "a").write_bytes(b"01234")
        with pytest.raises(TransferError, match="a has become shorter"):
            archive.read()
    with PackedFolder(tmp_path) as archive:
        (tmp_path / "a").unlink()
        (tmp_path / "a").symlink_to("/etc/passwd")
        with pytest.raises(OSError, match="symbolic"):
            archive.read()


def archive_of(*entries: tuple[str, bytes, str]) -> bytes:
    """Make an archive of (name, type, where a link leads or the content)."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, kind, text in entries:
            entry = tarfile.TarInfo(name)
            entry.type = kind
            if kind == tarfile.REGTYPE:
                entry.size = len(text)
                archive.addfile(entry, io.BytesIO(text.encode()))
            else:
                entry.linkname = text
                archive.addfile(entry)
    return made.getvalue()


FILE, LINK, HARD, FIFO, DEVICE = (
    tarfile.REGTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.FIFOTYPE,
    tarfile.CHRTYPE,
)


@pytest.mark.parametrize(
    "entries",
    [
        [("../evil", FILE, "x")],
        [("a/../../evil", FILE, "x")],
        [("/tmp/evil", FILE, "x")],
        [("evil", LINK, "/etc")],
        [("evil", LINK, "..")],
        [("a/evil", LINK, "../..")],
        [("evil", LINK, "")],
        [("a", LINK, "."), ("a/evil", LINK, "..")],
        [("s/d/l", LINK, ".."), ("evil", LINK, "s/d/l/../..")],
        [("a", LINK, "b"), ("a/evil", FILE, "x")],
        [("evil", HARD, "/etc/passwd")],
        [("evil", FIFO, "")],
        [("evil", DEVICE, "")],
        [("twice", FILE, "x"), ("twice", FILE, "y")],
        [("a", FILE, "x"), ("a/evil", FILE, "y")],
    ],
)
def test_no_way_out(tmp_path: Path, entries: list[tuple[str, bytes, str]]) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "x.tar").write_bytes(archive_of(*entries))
    with pytest.raises(TransferError):
        restore(inner / "x.tar", inner / "y", force=False)
    assert [path.name for path in tmp_path.rglob("*")] == ["inner", "x.tar"]


def test_a_file_is_never_written_through_a_link(tmp_path: Path) -> None:
    # The link comes first in the archive and last on disk, so the file is in a folder of its own.
    (tmp_path / "x.tar").write_bytes(archive_of(("b/c", FILE, "x"), ("a", LINK, "b/c")))
    restore(tmp_path / "x.tar", tmp_path / "y", force=False)
    assert (tmp_path / "y" / "a").read_text() == "x"


@pytest.mark.parametrize("end", [0, 100, 600, 70_000])
def test_half_an_archive_restores_nothing(folder: Path, tmp_path: Path, end: int) -> None:
    (tmp_path / "x.tar").write_bytes(packed(folder)[:end])
    with pytest.raises(TransferError, match="no whole archive"):
        restore(tmp_path / "x.tar", tmp_path / "y", force=False)
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


@settings(max_examples=60)
@given(data=st.data())
def test_a_damaged_archive_stays_inside(
    data: st.DataObject, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outer = tmp_path_factory.mktemp("damaged")
    inner = outer / "inner"
    inner.mkdir()
    content = bytearray(packed(folder)[:8192])
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (inner / "x.tar").write_bytes(content)
    try:
        restore(inner / "x.tar", inner / "y", force=False)
    except TransferError:
        assert [path.name for path in inner.iterdir()] == ["x.tar"]
    assert [path.name for path in outer.iterdir()] == ["inner"]


def test_in_place_of_what_is_there(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(packed(folder))
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "old").touch()
    with pytest.raises(TransferError, match="already there"):
        restore(tmp_path / "x.tar", tmp_path / "y", force=False)
    assert [path.name for path in (tmp_path / "y").iterdir()] == ["old"]
    restore(tmp_path / "x.tar", tmp_path / "y", force=True)
    assert tree(tmp_path / "y") == tree(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.tar", "y"]
