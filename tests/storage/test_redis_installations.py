"""Redis behind TLS, under Sentinel and as a cluster; and two daemons that share one."""

from __future__ import annotations

import gc
import http.client
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from fawa.net.tls import development_certificate
from fawa.storage.base import StorageError
from fawa.storage.redis import board_store, lease_store, metadata_store
from fawa.storage.redis_url import parse_redis_url
from tests.daemon import Daemon, running
from tests.redis_server import PATIENCE, RedisServer, free_port, redis_server
from tests.storage.contract import KEY, list_keys, make_record
from tests.storage.test_redis import when_back

# As in test_redis.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:.*MemoryObject(Send|Receive)Stream:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def collect() -> Iterator[None]:
    yield
    gc.collect()


def wait_until(server: RedisServer, words: tuple[str, ...], wanted: bytes) -> None:
    deadline = time.monotonic() + PATIENCE
    while wanted not in (answer := server.ask(*words)):
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)


async def test_tls(tmp_path: Path) -> None:
    development_certificate(tmp_path, time.time(), "")
    certificate, key = tmp_path / "dev-cert.pem", tmp_path / "dev-key.pem"
    port = free_port()
    options = ["--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    with redis_server(tmp_path / "redis", *options, "--tls-auth-clients", "no", port=port):
        address = parse_redis_url(f"rediss://127.0.0.1:{port}")
        async with metadata_store(address, certificate) as store:
            await store.add(make_record())
            assert await store.get(KEY) == make_record()
        async with metadata_store(address) as store:
            with pytest.raises(StorageError, match=r"not trusted .* Set redis\.ca"):
                await store.get(KEY)


async def test_a_cluster(tmp_path: Path) -> None:
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                redis_server(
                    tmp_path / str(n), "--cluster-enabled", "yes", "--cluster-port", str(free_port())
                )
            )
            for n in range(3)
        ]
        for n, server in enumerate(servers):
            first, last = n * 16384 // 3, (n + 1) * 16384 // 3 - 1
            assert server.ask("CLUSTER", "ADDSLOTSRANGE", str(first), str(last)) == b"+OK\r\n"
            bus = server.command[server.command.index("--cluster-port") + 1]
            assert servers[0].ask("CLUSTER", "MEET", "127.0.0.1", str(server.port), bus) == b"+OK\r\n"
        for server in servers:
            wait_until(server, ("CLUSTER", "INFO"), b"cluster_state:ok")
            wait_until(server, ("CLUSTER", "INFO"), b"cluster_known_nodes:3")
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
        address = parse_redis_url(f"redis+cluster://{hosts}")
        async with metadata_store(address) as files, board_store(address) as boards:
            for n in range(20):
                await files.add(make_record(f"key{n:02}"))
            assert await list_keys(files) == [f"key{n:02}" for n in range(20)]
            await files.delete("key00")
            await boards.put("ABC123", b"one", 100.0)
            assert await boards.get("ABC123", 0.0) == b"one"
            assert await boards.sweep(100.0, 0) == 1
        async with lease_store(address) as leases:
            assert await leases.acquire("sweep", 60.0)


async def test_sentinel_moves_to_the_replica(tmp_path: Path) -> None:
    with (
        redis_server(tmp_path / "one") as one,
        redis_server(
            tmp_path / "two", "--replicaof", f"127.0.0.1 {one.port}", "--repl-diskless-sync-delay", "0"
        ) as two,
    ):
        wait_until(two, ("INFO", "replication"), b"master_link_status:up")
        port = free_port()
        (tmp_path / "sentinel").mkdir()
        config = tmp_path / "sentinel" / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\nsentinel monitor files 127.0.0.1 {one.port} 1\n"
            "sentinel down-after-milliseconds files 500\nsentinel failover-timeout files 5000\n"
        )
        with redis_server(tmp_path / "sentinel", str(config), "--sentinel", port=port) as sentinel:
            wait_until(sentinel, ("SENTINEL", "REPLICAS", "files"), str(two.port).encode())
            async with metadata_store(parse_redis_url(f"redis+sentinel://127.0.0.1:{port}/files")) as store:
                await store.add(make_record())
                assert two.ask("WAIT", "0", "0")
                wait_until(two, ("EXISTS", "{fawa.files}:record:" + KEY), b":1")
                one.kill()
                assert await when_back(lambda: store.get(KEY)) == make_record()
                await when_back(lambda: store.add(make_record("after")))
                assert await list_keys(store) == [KEY, "after"]


@pytest.mark.parametrize("of_sentinel", ["", "requirepass secret"])
async def test_the_password_is_for_sentinels_too_if_they_want_one(tmp_path: Path, of_sentinel: str) -> None:
    with redis_server(tmp_path / "one", "--requirepass", "secret") as one:
        port = free_port()
        (tmp_path / "sentinel").mkdir()
        config = tmp_path / "sentinel" / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\nsentinel monitor files 127.0.0.1 {one.port} 1\n"
            f"sentinel auth-pass files secret\n{of_sentinel}\n"
        )
        with redis_server(tmp_path / "sentinel", str(config), "--sentinel", port=port):
            address = parse_redis_url(f"redis+sentinel://:secret@127.0.0.1:{port}/files")
            async with metadata_store(address) as store:
                await store.add(make_record())
                assert await store.get(KEY) == make_record()


def asked(address: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
    """Send a request with or without a body of JSON; return status and answer."""
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    with closing(connection):
        method, headers = ("GET", {}) if body is None else ("POST", {"content-type": "application/json"})
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def test_a_daemon_whose_redis_comes_and_goes(tmp_path: Path) -> None:
    def wait_ready(daemon: Daemon, wanted: bool) -> dict[str, str]:
        deadline = time.monotonic() + PATIENCE
        while (answer := asked(admin, "/readyz"))[0] != (200 if wanted else 503):
            assert time.monotonic() < deadline, answer
            time.sleep(0.05)
        checks: dict[str, str] = answer[1]["checks"]
        return checks

    call = ("/file.v1.FileService/GetDownloadURL", json.dumps({"randomkey": KEY}).encode())
    with redis_server(tmp_path / "redis") as server:
        with running(tmp_path / "data", "--redis-url", server.url):
            pass
        server.kill()
        orphan = tmp_path / "data" / "files" / "content" / "ab" / "abcdefghijklmnop"
        orphan.parent.mkdir()
        orphan.write_bytes(b"nobody knows me")
        with running(
            tmp_path / "data", "--redis-url", server.url, "--file-sweep-interval", "200ms"
        ) as daemon:
            admin = str(daemon.wait_for_event(lambda entry: entry["event"] == "admin")["listen"])
            away = f"Redis at {server.url} cannot be reached"
            for of_file in (f"waits for Redis: {away}", "ok"):
                checks = wait_ready(daemon, False)
                assert checks.pop("redis").startswith(away), "it started all the same"
                assert checks.pop("file").startswith(of_file)
                assert set(checks.values()) == {"ok"}
                status, answer = asked(daemon.plain, *call)
                told = "the server cannot reach its Redis at the moment, try again in a few seconds"
                assert (status, answer["code"], answer["message"]) == (503, "unavailable", told)
                server.start()
                assert wait_ready(daemon, True)["redis"] == "ok"
                assert asked(daemon.plain, *call)[1]["code"] == "not_found"
                daemon.wait_for_event(lambda entry: entry.get("unrecorded") == 1)
                assert not orphan.exists(), "it was repaired once that was possible"
                server.kill()


def test_a_daemon_says_which_databases_answer(tmp_path: Path) -> None:
    with running(tmp_path / "data") as daemon:
        admin = str(daemon.wait_for_event(lambda entry: entry["event"] == "admin")["listen"])
        checks = asked(admin, "/readyz")[1]["checks"]
        assert (checks["files.sqlite3"], checks["boards.sqlite3"]) == ("ok", "ok")


def test_of_two_daemons_one_sweeps_and_the_other_takes_over(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis") as server:
        flags = ["--redis-url", server.url, "--file-sweep-interval", "2s"]
        holder = ("GET", "{fawa.leases}:file-sweep:holder")
        fence = ("GET", "{fawa.leases}:file-sweep:fence")
        with running(tmp_path / "data", *flags) as one:
            wait_until(server, fence, b"\r\n1\r\n")
            first = server.ask(*holder)
            with running(tmp_path / "data", *flags):
                assert server.ask(*holder) == first
                one.kill()
                assert server.ask("PEXPIRE", holder[1], "0") == b":1\r\n", "its time is up"
                wait_until(server, fence, b"\r\n2\r\n")
                assert server.ask(*holder) != first
            assert server.ask(*holder) == b"$-1\r\n", "it let go at its end"
