"""The file that a download grows in."""

from __future__ import annotations

import hashlib
import resource
from pathlib import Path

import pytest

from fawa.client.part import Part, TransferError, safe_name


def hash_all(part: Part) -> bytes:
    while part.hash_some():
        pass
    return part.sha256


def test_it_grows_and_gets_its_name(tmp_path: Path) -> None:
    part = Part(tmp_path / "name", "key")
    part.restart('"tag"')
    part.write(b"one ")
    part.write(b"two")
    assert (part.size, hash_all(part)) == (7, hashlib.sha256(b"one two").digest())
    part.publish(force=False)
    part.close()
    assert [path.name for path in tmp_path.iterdir()] == ["name"]
    assert (tmp_path / "name").read_bytes() == b"one two"


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    part = Part(tmp_path / "name", "key")
    part.restart('"tag"')
    part.write(b"one ")
    part.close()
    part = Part(tmp_path / "name", "key")
    assert (part.tag, part.size, part.is_resumable) == ('"tag"', 4, True)
    part.write(b"two")
    assert (part.size, hash_all(part)) == (7, hashlib.sha256(b"one two").digest())
    part.publish(force=False)
    part.close()
    assert (tmp_path / "name").read_bytes() == b"one two"


def test_it_can_begin_again(tmp_path: Path) -> None:
    part = Part(tmp_path / "name", "key")
    part.restart('"tag"')
    part.write(b"something longer")
    part.restart('"other"')
    part.write(b"short")
    assert hash_all(part) == hashlib.sha256(b"short").digest()
    part.close()
    assert (tmp_path / "name.part").read_bytes() == b"short"
    again = Part(tmp_path / "name", "key")
    assert again.tag == '"other"'
    again.close()


@pytest.mark.parametrize("tag", [None, '"tag"'])
def test_what_can_never_be_resumed_is_removed(tmp_path: Path, tag: str | None) -> None:
    part = Part(tmp_path / "name", "key")
    part.restart(tag)
    if tag is None:
        part.write(b"something")
    part.close()
    assert list(tmp_path.iterdir()) == []


def test_two_never_write_one_part(tmp_path: Path) -> None:
    part = Part(tmp_path / "name", "key")
    with pytest.raises(TransferError, match=r"another process is writing .*name\.part"):
        Part(tmp_path / "name", "key")
    part.write(b"x")
    part.publish(force=False)
    part.close()
    # And whoever comes next finds nothing of it.
    other = Part(tmp_path / "name", "other")
    assert other.size == 0
    other.close()


def test_a_name_that_is_taken_is_not_replaced(tmp_path: Path) -> None:
    part = Part(tmp_path / "name", "key")
    part.restart('"tag"')
    part.write(b"theirs")
    (tmp_path / "name").write_bytes(b"mine")
    with pytest.raises(TransferError, match="is already there"):
        part.publish(force=False)
    assert (tmp_path / "name").read_bytes() == b"mine"
    part.publish(force=True)
    part.close()
    assert (tmp_path / "name").read_bytes() == b"theirs"


def test_a_link_that_somebody_put_in_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "name.part").symlink_to(tmp_path / "precious")
    with pytest.raises(TransferError, match="cannot write"):
        Part(tmp_path / "name", "key")
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    part = Part(tmp_path / "name", "key")
    part.restart('"tag"')
    part.write(b"some")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(TransferError, match=r"cannot write .*name\.part: File too large"):
            part.write(bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    part.close()


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127])
def test_names_as_long_as_can_be(tmp_path: Path, name: str) -> None:
    part = Part(tmp_path / name, "key")
    part.write(b"x")
    assert len(part.path.name.encode()) <= 250
    part.publish(force=False)
    part.close()
    assert (tmp_path / name).read_bytes() == b"x"


def test_names_that_can_be_saved() -> None:
    assert safe_name("report.pdf") == "report.pdf"
    assert safe_name(".hidden") == ".hidden"
    assert safe_name("👩\u200d🚀.png") == "👩\u200d🚀.png"
    assert safe_name("x" * 300) == "x" * 255
