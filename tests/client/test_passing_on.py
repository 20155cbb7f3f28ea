"""Folders and sealed files, from one `fawa` to another through a real `fawad`."""

from __future__ import annotations

import random
import secrets
from pathlib import Path

import pytest

from fawa.client.part import TransferError
from fawa.client.receiving import Reference, page_link
from fawa.client.sealed import SealedFile, open_sealed
from fawa.client.sealing import CHUNK, Opener, Seal, SealError
from tests.client.relay import relaying
from tests.client.running import fawa
from tests.client.test_folder import packed, tree
from tests.daemon import Daemon

CONTENT = random.Random(9).randbytes(3_000_000)
SECRET = bytes(range(32))


@pytest.fixture
def server(daemon: Daemon) -> str:
    return f"--server=http://{daemon.plain}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "sent" / "photos"
    (made / "2026").mkdir(parents=True)
    (made / "2026" / "a.bin").write_bytes(CONTENT)
    (made / "b.txt").write_text("b")
    (made / "c").symlink_to("b.txt")
    return made


async def test_a_folder(server: str, folder: Path, tmp_path: Path) -> None:
    (sent,) = (await fawa("send", folder, server, "--json")).succeeded().results
    assert sent["name"] == "photos.dir.tar"
    here = tmp_path / "here"
    here.mkdir()
    done = (await fawa("receive", str(sent["key"]), server, cwd=here)).succeeded()
    assert done.out == "photos\n"
    assert tree(here / "photos") == tree(folder)
    done = (await fawa("receive", str(sent["key"]), server, "-o", "other", cwd=here)).succeeded()
    assert tree(here / "other") == tree(folder)
    await fawa("receive", str(sent["key"]), server, "--as-is", cwd=here)
    assert (here / "photos.dir.tar").read_bytes() == packed(folder)
    assert sorted(path.name for path in here.iterdir()) == ["other", "photos", "photos.dir.tar"]


async def test_a_folder_does_not_replace_another(server: str, folder: Path, tmp_path: Path) -> None:
    (sent,) = (await fawa("send", folder, server, "--json")).succeeded().results
    (tmp_path / "photos").mkdir()
    done = await fawa("receive", str(sent["key"]), server, cwd=tmp_path)
    assert done.code == 1
    assert "photos is already there" in done.err
    assert "The archive is kept as photos.dir.tar" in done.err
    done = await fawa("receive", str(sent["key"]), server, "--force", cwd=tmp_path)
    assert tree(tmp_path / "photos") == tree(folder)


async def test_the_folder_one_is_in(server: str, folder: Path, tmp_path: Path) -> None:
    (sent,) = (await fawa("send", ".", server, "--json", cwd=folder)).succeeded().results
    assert sent["name"] == "photos.dir.tar"


async def test_a_sealed_file(daemon: Daemon, server: str, tmp_path: Path) -> None:
    (tmp_path / "Geheim ä.txt").write_bytes(CONTENT)
    done = (await fawa("send", "Geheim ä.txt", server, "--encrypt", "--json", cwd=tmp_path)).succeeded()
    (sent,) = done.results
    link = str(sent["link"])
    assert link.startswith(f"http://{daemon.plain}/#/files/{sent['key']}/")
    here = tmp_path / "here"
    here.mkdir()
    # The link tells the server too.
    done = (await fawa("receive", link, "--json", cwd=here)).succeeded()
    assert done.results[0]["size"] == len(CONTENT)
    assert (here / "Geheim ä.txt").read_bytes() == CONTENT
    assert [path.name for path in here.iterdir()] == ["Geheim ä.txt"]
    key, secret = link.split("/")[-2:]
    (await fawa("receive", f"{key}/{secret}", server, "-o", here / "x")).succeeded()
    assert (here / "x").read_bytes() == CONTENT
    # Without the secret it is only bytes.
    (await fawa("receive", key, server, cwd=here)).succeeded()
    sealed = (here / "sealed.fawa").read_bytes()
    assert len(sealed) == Seal(SECRET, bytes(16), "Geheim ä.txt").size(len(CONTENT))
    done = await fawa("receive", f"{key}/{secret[:-2]}AA", server, cwd=here)
    assert done.code == 1
    assert "has another secret" in done.err
    assert "It is kept as" in done.err


async def test_the_server_sees_neither_name_nor_content(tmp_path: Path, server: str, daemon: Daemon) -> None:
    (tmp_path / "Geheim.txt").write_bytes(b"Geheim" * 10_000)
    (await fawa("send", tmp_path / "Geheim.txt", server, "--encrypt")).succeeded()
    everything = b"".join(path.read_bytes() for path in daemon.data_dir.rglob("*") if path.is_file())
    assert b"sealed.fawa" in everything
    assert b"Geheim" not in everything


async def test_a_sealed_folder(server: str, folder: Path, tmp_path: Path) -> None:
    (sent,) = (await fawa("send", folder, server, "--encrypt", "--json")).succeeded().results
    assert sent["name"] == "photos.dir.tar"
    here = tmp_path / "here"
    here.mkdir()
    for output in ("photos", "other"):
        (await fawa("receive", str(sent["link"]), "-o", here / output)).succeeded()
        assert tree(here / output) == tree(folder)
    assert sorted(path.name for path in here.iterdir()) == ["other", "photos"]


async def test_a_sealed_folder_over_a_bad_line(daemon: Daemon, folder: Path, tmp_path: Path) -> None:
    async with relaying(daemon.plain) as relay:
        relay.cuts_up = [1_500_000, 500_000]
        (sent,) = (await fawa("send", folder, f"--server={relay.url}", "--encrypt", "--json")).results
        assert relay.broken == 2
    link = page_link(
        f"http://{daemon.plain}", str(sent["key"]), Reference.read(str(sent["link"])).secret or b""
    )
    (await fawa("receive", link, "-o", tmp_path / "photos")).succeeded()
    assert tree(tmp_path / "photos") == tree(folder)


def test_references() -> None:
    key, secret = "abcdefgh23456789", secrets.token_bytes(32)
    link = page_link("https://host/under/", key, secret)
    assert link.startswith("https://host/under/#/files/abcdefgh23456789/")
    assert Reference.read(f" {link}\n") == Reference(key, secret, "https://host/under")
    assert Reference.read(link.split("files/")[1]) == Reference(key, secret)
    assert Reference.read(key) == Reference(key)
    assert Reference.read("http://[::1]:8080/#/files/k") == Reference("k", None, "http://[::1]:8080")
    assert "secret=" not in repr(Reference(key, secret))
    for bad, reason in (
        ("https://host/f/abc/a.txt?expires=1", "none of the page's"),
        (f"{key}/", "43 characters"),
        (f"{link[:-1]}", "43 characters"),
        (f"{key}/{'x' * 44}", "43 characters"),
    ):
        with pytest.raises(TransferError, match=reason):
            Reference.read(bad)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 7, 5 * CHUNK, 1_000_001])
def test_a_sealed_file_is_read_from_anywhere(tmp_path: Path, size: int) -> None:
    (tmp_path / "x").write_bytes(CONTENT[:size])
    chance = random.Random(size)
    with (tmp_path / "x").open("rb") as file:
        sealed = SealedFile(file, size, Seal(SECRET, bytes(16), "x.txt"))
        whole = sealed.read()
        assert len(whole) == sealed.size
        for _ in range(50):
            offset = chance.randrange(len(whole) + 1)
            count = chance.choice([0, 1, 31, 70_000, 10_000_000])
            sealed.seek(offset)
            assert sealed.read(count) == whole[offset : offset + count]
    opener = Opener(SECRET)
    assert opener.feed(whole) + opener.finish() == CONTENT[:size]


def test_what_has_changed_is_not_sealed_again(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    with (tmp_path / "x").open("r+b", buffering=0) as file:
        sealed = SealedFile(file, len(CONTENT), Seal(SECRET, bytes(16), "x.txt"))
        before = sealed.read(200_000)
        file.seek(100_000)
        file.write(b"other")
        sealed.seek(0)
        assert sealed.read(60_000) == before[:60_000]
        with pytest.raises(TransferError, match="has changed while it was sent"):
            sealed.read(100_000)
        file.truncate(50_000)
        sealed.seek(0)
        with pytest.raises(TransferError, match="has become shorter"):
            sealed.read(100)


def test_what_does_not_open_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"not sealed")
    with pytest.raises(SealError):
        open_sealed(tmp_path / "x", SECRET)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


async def test_once_with_a_password(server: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "password").write_text("swordfish\n")
    option = f"--password-file={tmp_path / 'password'}"
    done = await fawa("send", tmp_path / "a.txt", server, "--once", "--ttl=2m", option, "--json")
    key = str(done.succeeded().results[0]["key"])
    done = await fawa("receive", key, server, cwd=tmp_path)
    assert done.code == 1
    assert "needs a password" in done.err
    (await fawa("receive", key, server, option, "-o", tmp_path / "b.txt")).succeeded()
    assert (tmp_path / "b.txt").read_text() == "hello"
    done = await fawa("receive", key, server, option, "-o", tmp_path / "c.txt")
    assert "no file under this key" in done.err


async def test_its_sender_deletes_it(server: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    (sent,) = (await fawa("send", tmp_path / "a.txt", server, "--json")).succeeded().results
    key, token = str(sent["key"]), str(sent["owner_token"])
    done = await fawa("delete", key, "wrong", server)
    assert (done.code, done.out) == (1, "")
    assert "PERMISSION_DENIED" in done.err
    assert (await fawa("delete", key, token, server)).succeeded().out == f"{key} is deleted\n"
    assert "no file under this key" in (await fawa("link", key, server)).err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--ttl=5"], "no time such as"),
        (["--ttl=0m"], "no time such as"),
        (["--ttl=99d"], "kept for 1 to 86400 seconds here, not for 8553600"),
        (["--max-downloads=0"], "no whole number above 0"),
        (["--once", "--max-downloads=2"], "not allowed with"),
        (["--password-file=/nowhere"], "cannot read the password"),
        (["--password-file=/dev/null"], "there is no password"),
    ],
)
async def test_terms_that_cannot_be(server: str, tmp_path: Path, arguments: list[str], told: str) -> None:
    (tmp_path / "a.txt").write_text("hello")
    done = await fawa("send", tmp_path / "a.txt", server, *arguments)
    assert done.code != 0
    assert told in done.err
