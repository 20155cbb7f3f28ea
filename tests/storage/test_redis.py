"""Records, boards and leases over real Redis and Valkey servers."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from fawa.storage.base import NotFound, OutOfSpace, StorageError
from fawa.storage.redis import RedisBoards, board_store, lease_store, metadata_store
from fawa.storage.redis_link import MAX_CALLS
from fawa.storage.redis_url import parse_redis_url
from tests.redis_server import RedisServer, redis_server
from tests.storage.contract import (
    HUGE,
    KEY,
    BoardStoreContract,
    MetadataOpener,
    MetadataStoreContract,
    kept,
    list_keys,
    make_record,
)

T = TypeVar("T")

# A connection of coredis that was refused leaves its memory channels open. They hold nothing, and are told of
# when they are collected, which `collect` has happen here.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:.*MemoryObject(Send|Receive)Stream:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def collect() -> Iterator[None]:
    yield
    gc.collect()


async def when_back(call: Callable[[], Awaitable[T]]) -> T:
    """Call again and again until Redis is back."""
    with trio.fail_after(20):
        while True:
            try:
                return await call()
            except OutOfSpace:
                raise
            except StorageError:
                await trio.sleep(0.05)


class TestRecords(MetadataStoreContract):
    @pytest.fixture
    def opener(self, server: RedisServer) -> MetadataOpener:
        return lambda: metadata_store(parse_redis_url(server.url))

    async def test_a_record_stays_for_the_sweep_and_then_goes(self, server: RedisServer) -> None:
        async with metadata_store(parse_redis_url(server.url)) as store:
            await store.add(make_record())
            week_and_file = 7 * 86400 + 1500
            left = int(server.ask("TTL", "{fawa.files}:record:" + KEY)[1:])
            assert week_and_file - 60 <= left <= week_and_file
            server.ask("DEL", "{fawa.files}:record:" + KEY)
            with pytest.raises(NotFound):
                await store.get(KEY)
            assert await store.expired(2500.0, 10) == [KEY], "its content is found without its record"
            await store.delete(KEY)
            assert server.ask("DBSIZE") == b":0\r\n"


class TestBoards(BoardStoreContract):
    @pytest.fixture
    async def store(self, server: RedisServer) -> AsyncIterator[RedisBoards]:
        async with board_store(parse_redis_url(server.url)) as store:
            yield store

    async def test_what_has_expired_is_swept_in_batches(self, store: RedisBoards) -> None:
        for number in range(250):
            await store.put(str(number), b"x", 100.0)
        await store.put("a", b"one", 101.0)
        await store.delete("0")
        await store.delete("0")
        assert await store.sweep(100.0, HUGE) == 249
        assert await kept(store, "a", "1") == "a"
        assert await store.sweep(100.0, HUGE) == 0

    async def test_nothing_counts_once_all_is_gone(self, store: RedisBoards, server: RedisServer) -> None:
        await self.test_what_is_too_much_goes_by_expiry(store)
        assert server.ask("GET", "{fawa.boards}:total") == b"$1\r\n0\r\n"


class TestLeases:
    async def test_one_holds_it_until_it_lets_go(self, server: RedisServer) -> None:
        address = parse_redis_url(server.url)
        async with lease_store(address) as one, lease_store(address) as two:
            first = await one.acquire("sweep", 60.0)
            assert first is not None
            assert await two.acquire("sweep", 60.0) is None
            assert await one.acquire("sweep", 60.0) == first, "whoever has it has it for longer"
            assert await one.renew(first, 60.0)
            await two.release(first)
            assert not await two.renew(first, 60.0)
            await one.release(first)
            second = await two.acquire("sweep", 60.0)
            assert second is not None
            assert second.fence > first.fence
            assert not await one.renew(first, 60.0)

    async def test_it_is_lost_when_its_time_is_up(self, server: RedisServer) -> None:
        async with lease_store(parse_redis_url(server.url)) as one:
            lease = await one.acquire("sweep", 60.0)
            assert lease is not None
            server.ask("PEXPIRE", "{fawa.leases}:sweep:holder", "0")
            assert not await one.renew(lease, 60.0)
            again = await one.acquire("sweep", 60.0)
            assert again is not None
            assert again.fence == lease.fence + 1


class TestFailures:
    @pytest.fixture
    def own(self, tmp_path: Path) -> Iterator[RedisServer]:
        with redis_server(tmp_path / "redis") as server:
            yield server

    async def test_a_restart_is_survived(self, own: RedisServer) -> None:
        async with metadata_store(parse_redis_url(own.url)) as store:
            await store.add(make_record())
            own.kill()
            with pytest.raises(StorageError, match=f"127.0.0.1:{own.port} cannot be reached"):
                await store.get(KEY)
            with pytest.raises(StorageError, match="cannot be reached"):
                await store.get(KEY)
            own.start()
            assert await when_back(lambda: store.get(KEY)) == make_record()

    async def test_a_server_that_stands_still_is_not_waited_for(self, own: RedisServer) -> None:
        async with metadata_store(parse_redis_url(own.url)) as store:
            await store.add(make_record())
            own.pause()
            with pytest.raises(StorageError, match=r"did not answer|timed out|cannot be reached"):
                await store.get(KEY)
            own.go_on()
            assert await when_back(lambda: store.get(KEY)) == make_record()

    async def test_an_error_of_whoever_uses_it_comes_as_it_is(self, own: RedisServer) -> None:
        async def fail() -> None:
            async with metadata_store(parse_redis_url(own.url)) as store:
                await store.add(make_record())
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()

    async def test_who_is_cancelled_can_still_clean_up(self, own: RedisServer) -> None:
        with trio.CancelScope() as scope:
            async with metadata_store(parse_redis_url(own.url)) as store:
                await store.add(make_record())
                try:
                    scope.cancel()
                    await trio.sleep_forever()
                finally:
                    with trio.fail_after(5) as cleaning:
                        cleaning.shield = True
                        await store.delete(KEY)
                        own.kill()
                        own.start()
                        await when_back(lambda: store.add(make_record("new")))
        assert own.ask("EXISTS", "{fawa.files}:record:" + KEY) == b":0\r\n"
        assert own.ask("EXISTS", "{fawa.files}:record:new") == b":1\r\n"

    async def test_cancelled_calls_leave_the_connections_usable(self, own: RedisServer) -> None:
        async with metadata_store(parse_redis_url(own.url)) as store:

            async def give_up(n: int) -> None:
                with trio.move_on_after(n / 2000):
                    await store.add(make_record(f"key{n:03}"))

            async with trio.open_nursery() as nursery:
                for n in range(4 * MAX_CALLS):
                    nursery.start_soon(give_up, n)
            for key in await list_keys(store):
                assert await store.get(key) == make_record(key)

    async def test_out_of_memory(self, own: RedisServer) -> None:
        async with metadata_store(parse_redis_url(own.url)) as store:
            own.ask("CONFIG", "SET", "maxmemory", "1")
            with pytest.raises(OutOfSpace, match="memory limit"):
                await store.add(make_record())
            own.ask("CONFIG", "SET", "maxmemory", "0")
            await store.add(make_record())

    async def test_a_password(self, own: RedisServer) -> None:
        own.ask("CONFIG", "SET", "requirepass", "open sesame")
        async with metadata_store(parse_redis_url(f"redis://:wrong@127.0.0.1:{own.port}")) as store:
            with pytest.raises(StorageError, match="Check user and password") as told:
                await store.get(KEY)
            assert "wrong@" not in str(told.value)
        async with metadata_store(parse_redis_url(f"redis://:open%20sesame@127.0.0.1:{own.port}/3")) as store:
            await store.add(make_record())
            assert await store.get(KEY) == make_record()

    async def test_a_user_with_no_more_rights_than_needed(self, own: RedisServer) -> None:
        rights = ("+@read", "+@write", "+@scripting", "+@connection", "~{fawa.*")
        assert own.ask("ACL", "SETUSER", "fawa", "on", ">secret", *rights) == b"+OK\r\n"
        assert own.ask("ACL", "SETUSER", "other", "on", ">secret", *rights[:-1], "~other:*") == b"+OK\r\n"
        async with metadata_store(parse_redis_url(f"redis://fawa:secret@127.0.0.1:{own.port}/2")) as store:
            await store.check()
            await store.add(make_record())
            await store.count_download(KEY)
            assert await store.expired(9e9, 10) == await list_keys(store) == [KEY]
            await store.delete(KEY)
        async with metadata_store(parse_redis_url(f"redis://other:secret@127.0.0.1:{own.port}")) as store:
            with pytest.raises(StorageError, match=r"refused .* keys that begin with \{fawa\."):
                await store.add(make_record())
