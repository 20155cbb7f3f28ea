"""Records of uploads in real Redis and Valkey: the contract, and the machine of interrupted uploads."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from fawa.services.uploads import UploadLimits, Uploads
from fawa.storage import redis_uploads
from fawa.storage.filesystem import content_store
from fawa.storage.redis import metadata_store
from fawa.storage.redis_uploads import upload_store
from fawa.storage.redis_url import parse_redis_url
from tests.redis_server import RedisServer, redis_server
from tests.storage.contract_resumable import ID, UploadsOpener, UploadStoreContract, make_upload
from tests.storage.disk import Disk
from tests.storage.uploads_machine import TTL, UPLOAD_TTL, Process, UploadsMachine, reached
from tests.storage.wrapped import WrappedMetadata, WrappedUploads

# As in test_redis.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:.*MemoryObject(Send|Receive)Stream:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def collect() -> Iterator[None]:
    yield
    gc.collect()


class TestContract(UploadStoreContract):
    @pytest.fixture
    def opener(self, server: RedisServer) -> UploadsOpener:
        return lambda: upload_store(parse_redis_url(server.url))

    async def test_nothing_stays_of_what_was_deleted(self, server: RedisServer) -> None:
        async with upload_store(parse_redis_url(server.url)) as store:
            await store.add(make_upload())
            await store.claim(ID, 0.0, 3000.0)
            await store.delete(ID)
            await store.extend(ID, 9000.0)
        assert server.ask("DBSIZE") == b":0\r\n"

    async def test_the_sweep_passes_over_what_another_removed(self, server: RedisServer) -> None:
        async with upload_store(parse_redis_url(server.url)) as store:
            for upload_id in "ab":
                await store.add(make_upload(upload_id, expires=10.0))
            server.ask("DEL", "{fawa.uploads}:upload:a")
            assert [record.id for record in await store.expired(20.0, 10)] == ["b"]


@attrs.define(eq=False)
class RedisProcess(Process):
    """A daemon whose records are in Redis; a task of its own has the stores, as they have nurseries."""

    url: str = attrs.field(kw_only=True)
    _over: trio.Event = attrs.field(factory=trio.Event, init=False)
    _ended: trio.Event = attrs.field(factory=trio.Event, init=False)

    async def start(self) -> None:
        started = trio.Event()
        trio.lowlevel.spawn_system_task(self._live, started)
        await started.wait()

    async def _live(self, started: trio.Event) -> None:
        self.disk = Disk(self.folder / "files")
        address = parse_redis_url(self.url)
        async with (
            content_store(self.folder / "files") as content,
            metadata_store(address) as metadata,
            upload_store(address) as records,
        ):
            with self.disk.installed():
                self.uploads = Uploads(
                    content,
                    WrappedMetadata(metadata, self.disk.step),
                    WrappedUploads(records, self.disk.step),
                    lambda: UploadLimits(upload_ttl=UPLOAD_TTL, ttl=TTL, max_file_size=0),
                    self.clock,
                )
                started.set()
                await self._over.wait()
        self._ended.set()

    async def end(self) -> None:
        self._over.set()
        await self._ended.wait()


def run(server: RedisServer, max_examples: int) -> None:
    class RedisUploadsMachine(UploadsMachine):
        def __init__(self) -> None:
            assert server.ask("FLUSHALL") == b"+OK\r\n"
            super().__init__()

        def begin_process(self) -> Process:
            process = RedisProcess(self.folder, lambda: self.now, url=server.url)
            self.loop.run(process.start)
            return process

    run_state_machine_as_test(
        RedisUploadsMachine,
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],
            report_multiple_bugs=False,
        ),
    )


def test_uploads_against_a_model(tmp_path: Path) -> None:
    reached.clear()
    with redis_server(tmp_path / "redis") as server:
        run(server, 30)
    assert {"finish", "fenced", "ask: a file", "wrong offset", "sweep", "restart"} <= reached.keys()
    assert any(rule.endswith(" dies") for rule in reached)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("redis.call('HINCRBY', KEYS[1], 'epoch', 1)", "redis.call('HSET', KEYS[1], 'epoch', 1)"),
        ("if not expires or tonumber(expires) <= tonumber(ARGV[2]) then", "if not expires then"),
    ],
    ids=["one epoch for all", "expired and claimed"],
)
def test_a_fault_is_found(right: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert right in redis_uploads._CLAIM
    monkeypatch.setattr(redis_uploads, "_CLAIM", redis_uploads._CLAIM.replace(right, wrong))
    with redis_server(tmp_path / "redis") as server, pytest.raises(AssertionError):
        run(server, 200)
