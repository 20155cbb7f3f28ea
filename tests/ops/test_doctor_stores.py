"""`fawad doctor` at services that data is kept in, which are healthy or have a fault each."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import running
from tests.ops.doctoring import fawad_doctor, flags_of, free_port, look, problems
from tests.redis_server import redis_server
from tests.s3_server import ACCESS_KEY, SECRET_KEY, S3Server, new_bucket, rclone

# As in tests/storage/test_redis.py.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:.*MemoryObject(Send|Receive)Stream:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def collect() -> Iterator[None]:
    yield
    gc.collect()


def with_redis(folder: Path, url: str) -> list[str]:
    """Return the flags of a doctor where no daemon runs; its other findings are of no interest."""
    return ["--listen", f"127.0.0.1:{free_port()}", "--data-dir", str(folder), "--redis-url", url]


async def test_a_healthy_redis(tmp_path: Path) -> None:
    with (
        redis_server(tmp_path / "redis") as server,
        running(tmp_path / "data", "--redis-url", server.url) as daemon,
    ):
        assert await look([*flags_of(daemon), "--redis-url", server.url]) == {}
        assert b"doctor" not in server.ask("ZRANGE", "{fawa.files}:keys", "0", "-1")
        assert server.ask("HEXISTS", "{fawa.boards}:saved", "doctor") == b":0\r\n"


def test_redis_is_read_only(tmp_path: Path) -> None:
    with (
        redis_server(tmp_path / "primary") as primary,
        redis_server(tmp_path / "replica", "--replicaof", "127.0.0.1", str(primary.port)) as replica,
    ):
        code, report = fawad_doctor(*with_redis(tmp_path, replica.url))
    assert code == 1
    [problem] = problems(report, "Redis")
    assert problem.startswith(f"Redis at {replica.url} can be read but not written (")
    assert "Name the primary in redis.url, not a replica" in problem


async def test_redis_lets_a_user_read_alone(tmp_path: Path) -> None:
    rules = ("on", ">secret", "~*", "+@read", "+eval", "+evalsha", "+hello", "+client", "+info", "+ping")
    with redis_server(tmp_path / "redis") as server:
        assert server.ask("ACL", "SETUSER", "reader", *rules) == b"+OK\r\n"
        told = await look(with_redis(tmp_path, f"redis://reader:secret@127.0.0.1:{server.port}"))
    assert told["Redis"].startswith(f"Redis at redis://reader:***@127.0.0.1:{server.port} refused")
    assert "secret" not in told["Redis"]


async def test_the_password_of_redis_is_wrong(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis", "--requirepass", "right") as server:
        told = await look(with_redis(tmp_path, f"redis://:wrong@127.0.0.1:{server.port}"))
    assert "Check user and password in redis.url" in told["Redis"]


async def test_nobody_is_where_redis_should_be(tmp_path: Path) -> None:
    told = await look(with_redis(tmp_path, f"redis://127.0.0.1:{free_port()}"))
    assert "cannot be reached" in told["Redis"]


async def test_redis_goes_away_from_a_daemon_that_runs(tmp_path: Path) -> None:
    """The daemon's own readiness says so, too."""
    with (
        redis_server(tmp_path / "redis") as server,
        running(tmp_path / "data", "--redis-url", server.url) as daemon,
    ):
        server.kill()
        told = await look([*flags_of(daemon), "--redis-url", server.url])
    assert "cannot be reached" in told["Redis"]
    assert told["daemon"].startswith("The daemon is not ready: redis: ")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with rclone(tmp_path_factory.mktemp("rclone") / "buckets") as server:
        yield server


def with_s3(server: S3Server, bucket: str, secret_key: str = SECRET_KEY) -> list[str]:
    return [
        *("--s3-endpoint", server.endpoint, "--s3-bucket", bucket),
        *("--s3-access-key", ACCESS_KEY, "--s3-secret-key", secret_key),
    ]


async def test_a_healthy_s3(tmp_path: Path, s3: S3Server) -> None:
    bucket = new_bucket()
    flags = with_s3(s3, bucket)
    with running(tmp_path, *flags) as daemon:
        assert await look([*flags_of(daemon), *flags]) == {}

        # S3 tells the time, and so does whoever answers under the public name.
        told = await look([*flags_of(daemon), *flags], clock=lambda: time.time() - 3600)
        assert told.keys() == {"clock"}
        assert " s behind that of S3\n" in told["clock"]

        # What the daemon was not told of when it started.
        told = await look([*flags_of(daemon), *with_s3(s3, bucket, f"{SECRET_KEY}x")])
        assert "SignatureDoesNotMatch" in told["S3"]
        assert told["S3"].endswith(" Set s3.secret_key to the one that belongs to s3.access_key.")


def test_the_bucket_is_wrong(tmp_path: Path, s3: S3Server) -> None:
    own = ["--listen", f"127.0.0.1:{free_port()}", "--data-dir", str(tmp_path)]
    code, report = fawad_doctor(*own, *with_s3(s3, "no-such-bucket"))
    assert code == 1
    [problem] = problems(report, "S3")
    assert problem.startswith(
        f"Cannot list files in the bucket no-such-bucket at {s3.endpoint}: it answered 404"
    )


async def test_links_lead_straight_to_s3(tmp_path: Path, s3: S3Server) -> None:
    flags = [*with_s3(s3, new_bucket()), "--s3-public-endpoint", s3.endpoint]
    with running(tmp_path, *flags) as daemon:
        assert await look([*flags_of(daemon), *flags]) == {}
