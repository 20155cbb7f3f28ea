"""tus-js-client under Node, on a line that breaks again and again."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import urllib.request
from pathlib import Path

import pytest
import trio

from tests.client.relay import relaying
from tests.daemon import PATIENCE, Daemon, running
from tests.interop.programs import program

FOLDER = Path(__file__).parent / "node"
MIB = 1024 * 1024
SIZE = 200 * MIB
BREAKS = 20


@pytest.fixture(scope="session")
def tus_js() -> None:
    """The npm package; scripts/test has installed it, a run of pytest alone may have to."""
    if not (FOLDER / "node_modules" / "tus-js-client").is_dir():
        command = (program("npm"), "ci", "--no-audit", "--no-fund", "--loglevel=error")
        subprocess.run(command, cwd=FOLDER, check=True, timeout=300)


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big.bin"
    chance = random.Random(6)
    with path.open("wb") as file:
        for _ in range(SIZE // MIB):
            file.write(chance.randbytes(MIB))
    return path


def digest_of(link: str) -> str:
    with urllib.request.urlopen(link, timeout=PATIENCE) as response:
        return hashlib.file_digest(response, "sha256").hexdigest()


async def test_200_mib_through_20_disconnects(tus_js: None, big: Path, tmp_path: Path) -> None:
    with running(tmp_path / "fawad") as daemon:
        async with relaying(daemon.plain) as relay:
            chance = random.Random(7)
            relay.cuts_up = [chance.randrange(MIB, 9 * MIB) for _ in range(BREAKS)]
            command = [program("node"), str(FOLDER / "tus.mjs"), f"{relay.url}/uploads", str(big)]
            with trio.fail_after(4 * PATIENCE):
                ended = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
            assert ended.returncode == 0, ended.stderr.decode()
            told = json.loads(ended.stdout)
            assert relay.broken == BREAKS
            # Each time it asked how far it had come, and went on from there: little was sent twice.
            assert told["broken"] == BREAKS
            assert told["requests"] == {"POST": 1, "PATCH": 1 + BREAKS, "HEAD": BREAKS}
            assert relay.passed_up < SIZE + BREAKS * 2 * MIB
            assert told["url"].startswith(f"{relay.url}/uploads/")
            link = await trio.to_thread.run_sync(digest_of, told["link"])
        with big.open("rb") as file:
            assert link == hashlib.file_digest(file, "sha256").hexdigest()
        assert leftovers(daemon) == []
    big.unlink()


def leftovers(daemon: Daemon) -> list[Path]:
    folders = [daemon.data_dir / "files" / name for name in ("uploads", "resumable")]
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]
