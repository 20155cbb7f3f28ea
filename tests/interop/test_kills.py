"""`kill -9` of fawad, of Redis and of the S3 server while files come and go by every way there is.

Afterwards every file that was acknowledged is whole, what is served besides is whole too, whatever was
interrupted and can go on has gone on to its end, and once all has expired nothing is left anywhere.

    pytest tests/interop/test_kills.py --kills 100 [--seed N]

kills each process a hundred times, with Ceph's gateway beside rclone.
"""

from __future__ import annotations

import math
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import PATIENCE
from tests.interop.expect import sha256
from tests.interop.rig import Rig, rig
from tests.interop.transfers import FIRST, RESUMABLE, SIZES, WAYS, Book, Client

#: From this many kills on, Ceph takes part, which alone needs half a minute to start.
LONG = 100

#: Content and records, and how many kills of each process are for each.
PAIRS = [("folder", "sqlite"), ("folder", "redis"), ("rclone", "sqlite"), ("rclone", "redis")]
SHARES = {"fawad": 4, "redis": 2, "s3": 2}

#: Pieces of files that move before a kill, seconds until it comes then, and those that the process is away.
MOST_PIECES = 60
PAUSES = (0, 0.001, 0.003, 0.01, 0.03)
ABSENCES = (0, 0, 0.05, 0.3)

EMPTY = sha256(b"")

#: One that goes to S3 in parts.
LARGE = 9 * 1024 * 1024


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    pairs = [*PAIRS, *[("ceph", "redis")] * (metafunc.config.getoption("--kills") >= LONG)]
    metafunc.parametrize(("content", "records"), pairs, ids=[" and ".join(pair) for pair in pairs])


def test_nothing_is_lost_and_nothing_left(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    seed: int,
    file: Any,
    file_grpc: Any,
    content: str,
    records: str,
) -> None:
    chance = random.Random(f"{seed} {content} {records}")
    kills: int = request.config.getoption("--kills")
    sizes = SIZES if content == "folder" else (*SIZES, LARGE)
    book = Book()
    with rig(tmp_path, content, records) as processes:
        clients = [
            Client(processes, book, file, file_grpc, random.Random(chance.getrandbits(32)), sizes)
            for _ in WAYS
        ]
        while len(book.acknowledged) < FIRST:
            clients[0].send(SIZES[-1])
        victims = [victim for victim in processes.victims for _ in range(math.ceil(kills / SHARES[victim]))]
        chance.shuffle(victims)
        work_and_kill(processes, dict(zip(WAYS, clients, strict=True)), victims, chance)

        unheard = check_served(processes, book, clients[0])
        assert unheard <= len(victims) * len(WAYS), f"seed {seed}"
        clients[0].abandon()
        for client in clients:
            client.close()
        processes.expire_all()
        processes.sweep_parts()
        check_empty(processes)
    assert not processes.faults, f"seed {seed}"
    told = (
        f"{len(victims)} kills, {len(book.acknowledged)} files, broken {book.broken}, resumed {book.resumed}"
    )
    print(f"\n{content} and {records}, seed {seed}: {told}")  # noqa: T201 - what a long run is read for
    if kills >= LONG:
        assert book.broken.keys() >= set(WAYS), told
        assert book.resumed.keys() >= set(WAYS) - {"send", "put"}, told


def work_and_kill(
    processes: Rig, clients: dict[str, Client], victims: list[str], chance: random.Random
) -> None:
    """Let every client go its way until all victims are killed and back, and no transfer is half done."""
    over = threading.Event()

    def work(way: str, client: Client) -> None:
        while not over.is_set():
            getattr(client, way)()

    with ThreadPoolExecutor(len(clients)) as pool:
        tasks = [pool.submit(work, *each) for each in clients.items()]
        try:
            for victim in victims:
                moved = processes.fuse.wait(chance.randrange(1, MOST_PIECES), PATIENCE)
                if any(task.done() for task in tasks):
                    break  # with an error, which is told below
                assert moved, f"nothing moves; {victim} is next"
                time.sleep(chance.choice(PAUSES))
                processes.kill(victim)
                time.sleep(chance.choice(ABSENCES))
                processes.start(victim)
        finally:
            over.set()
        for task in tasks:
            task.result()


def check_served(processes: Rig, book: Book, client: Client) -> int:
    """Check that all that was acknowledged is served, and that what is served is whole.

    Returns:
        how many files nobody was told of: something was killed between storing and answering. Where an
        upload goes on, its client is told in the end.

    """
    served = set(processes.served())
    assert served >= book.acknowledged.keys(), "an acknowledged file is lost"
    for key in served:
        way, digest = client.check(key)
        assert digest == book.acknowledged.get(key, digest), "an acknowledged file is another"
        assert digest in book.sent, "something that nobody sent is served"
        # By tus an empty file is whole once it is begun, and whoever does not hear of it begins another.
        interrupted = way in RESUMABLE and (way, digest) != ("tus", EMPTY)
        assert key in book.acknowledged or not interrupted, f"a file by {way} is there twice"
    return len(served) - len(book.acknowledged)


def check_empty(processes: Rig) -> None:
    """Check that the sweep, which has begun, leaves nothing."""
    began = time.monotonic()
    while left := processes.left():
        assert time.monotonic() < began + PATIENCE, f"{len(left)} left by the sweep: {left[:10]}"
        time.sleep(0.1)
