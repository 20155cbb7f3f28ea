"""The way to Redis while it is there, away, coming back, and not what it should be."""

from __future__ import annotations

import contextlib
import gc
import io
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from fawa.ops.logging import configure
from fawa.storage import redis_link as module
from fawa.storage.base import OutOfReach, StorageError
from fawa.storage.redis_link import CHECK_TIMEOUT, MAX_CALLS, MAX_CONNECTIONS, PATIENCE, RedisLink, redis_link
from fawa.storage.redis_url import parse_redis_url
from tests.redis_server import RedisServer, redis_server
from tests.storage.test_redis import when_back

# As in test_redis.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:.*MemoryObject(Send|Receive)Stream:pytest.PytestUnraisableExceptionWarning"
)

KEY = "{a}:1"


@pytest.fixture(autouse=True)
def collect() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    text = io.StringIO()
    configure("info", "json", text)
    yield text
    configure()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls wait for a Redis that is away for half a second only."""
    monkeypatch.setattr(module, "PATIENCE", 0.5)


def link_to(server: RedisServer) -> AbstractAsyncContextManager[RedisLink]:
    return redis_link(parse_redis_url(server.url), None, KEY)


async def count(link: RedisLink, *, again: bool = True) -> int:
    number: int = await link.run("return redis.call('INCR', KEYS[1])", [KEY], [], again=again)
    return number


def stat(server: RedisServer, section: str, name: str) -> int:
    found = re.search(rf"^{name}[:=]\D*(\d+)", server.ask("INFO", section).decode(), re.MULTILINE)
    return int(found[1]) if found else 0


@attrs.define
class Hole:
    """Listens where Redis should be, and gives no answer that Redis would."""

    #: Closes connections at once, or keeps them.
    hangs: bool
    answer: bytes = b""
    port: int = 0
    accepted: int = 0
    open: int = 0
    most_open: int = 0

    async def _serve(self, stream: trio.SocketStream) -> None:
        self.accepted += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await stream.send_all(self.answer)
            while self.hangs and await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass
        finally:
            self.open -= 1
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def hole(*, hangs: bool, answer: bytes = b"") -> AsyncIterator[Hole]:
    found = Hole(hangs, answer)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, found._serve, 0)
        found.port = listeners[0].socket.getsockname()[1]
        yield found
        nursery.cancel_scope.cancel()


async def test_the_server_is_sent_a_script_once(own: RedisServer) -> None:
    async with link_to(own) as link:
        for number in range(1, 11):
            assert await count(link) == number
        assert stat(own, "commandstats", "cmdstat_eval:calls") == 2, "ours, and that of the first connection"
        assert own.ask("SCRIPT", "FLUSH") == b"+OK\r\n"
        assert await count(link) == 11
        assert stat(own, "commandstats", "cmdstat_eval:calls") == 3


async def test_many_calls_share_few_connections(own: RedisServer) -> None:
    before = stat(own, "stats", "total_connections_received")
    async with link_to(own) as link, trio.open_nursery() as nursery:
        for _ in range(4 * MAX_CALLS):
            nursery.start_soon(count, link)
    asked = stat(own, "stats", "total_connections_received") - before - 1
    assert asked <= MAX_CONNECTIONS
    assert own.ask("GET", KEY).endswith(b"\r\n%d\r\n" % (4 * MAX_CALLS))


async def fail_for(link: RedisLink, seconds: float) -> None:
    with trio.move_on_after(seconds):
        while True:
            with pytest.raises(OutOfReach, match=r"cannot be reached .* Check that it runs"):
                await count(link)
            await trio.sleep(0.005)


async def test_one_that_is_away_is_not_stormed_and_calls_fail_at_once(hurried: None) -> None:
    async with hole(hangs=False) as away:
        began = trio.current_time()
        async with redis_link(parse_redis_url(f"127.0.0.1:{away.port}"), None, KEY) as link:
            async with trio.open_nursery() as nursery:
                for _ in range(MAX_CALLS):
                    nursery.start_soon(fail_for, link, 1.5)
            seconds = trio.current_time() - began
            # Pauses are 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2, 2… s before jitter, which halves them at most.
            assert 2 <= away.accepted <= 7 + seconds
            assert away.most_open == 1

            away.hangs = True
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail_for, link, 60)
                while not away.open:
                    await trio.sleep(0.01)
                tried = away.accepted
                await fail_for(link, 0.1)
                assert (away.open, away.accepted) == (1, tried), "others do not wait for the one that tries"
                nursery.cancel_scope.cancel()


async def test_one_that_hangs_is_not_waited_for(hurried: None) -> None:
    async with hole(hangs=True) as away:
        async with redis_link(parse_redis_url(f"127.0.0.1:{away.port}"), None, KEY) as link:

            async def call() -> None:
                with trio.fail_after(PATIENCE + 5), pytest.raises(OutOfReach):
                    await count(link)

            async with trio.open_nursery() as nursery:
                for _ in range(2 * MAX_CALLS):
                    nursery.start_soon(call)
        assert away.most_open == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"+OK\r\n",
        b"*-7\r\n",
        b"%1\r\n+a\r\n+b\r\n",
    ],
)
async def test_what_is_no_redis_is_told_and_tried_again(answer: bytes, hurried: None) -> None:
    async with hole(hangs=True, answer=answer) as other:
        address = parse_redis_url(f"127.0.0.1:{other.port}")
        async with redis_link(address, None, KEY) as link:
            for _ in range(2):
                with pytest.raises(StorageError, match=rf"Redis at {re.escape(str(address))} .*\. Check"):
                    await count(link)


async def test_a_write_to_a_replica_does_not_storm_it(tmp_path: Path, hurried: None) -> None:
    with redis_server(tmp_path / "redis", "--replicaof", "127.0.0.1 1") as replica:
        before = stat(replica, "stats", "total_connections_received")
        async with link_to(replica) as link:
            began = trio.current_time()
            with pytest.raises(OutOfReach, match="read only replica"):
                await count(link)
            seconds = trio.current_time() - began
        assert stat(replica, "stats", "total_connections_received") - before <= 7 + seconds + 1


@pytest.mark.parametrize("again", [True, False])
async def test_what_may_not_run_twice_does_not(
    own: RedisServer, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 30)
    counted: list[int] = []

    async def call(link: RedisLink) -> None:
        with contextlib.suppress(OutOfReach):
            counted.append(await count(link, again=again))

    async with link_to(own) as link:
        await link.check()
        own.pause()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, link)
            await trio.testing.wait_all_tasks_blocked()
            own.kill()
            own.start()
        assert counted == [1] * again


async def test_one_that_was_sent_and_cancelled_has_run(own: RedisServer) -> None:
    async with link_to(own) as link:
        await link.check()
        own.pause()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count, link)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            own.go_on()
        assert await count(link) == 2


async def test_the_log_says_when_it_goes_and_when_it_is_back(
    own: RedisServer, log: io.StringIO, hurried: None
) -> None:
    async with link_to(own) as link:
        await count(link)
        own.kill()
        for _ in range(5):
            with pytest.raises(OutOfReach):
                await count(link)
        own.start()
        await when_back(lambda: count(link))
    lines = log.getvalue().splitlines()
    assert [re.search('"event":"([^"]*)"', line)[1] for line in lines] == ["Redis is away", "Redis is back"]  # type: ignore[index]


async def test_a_check_tells_in_time_and_leaves_the_calls_alone(own: RedisServer) -> None:
    async with link_to(own) as link:
        await link.check()
        own.pause()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count, link)
            with trio.fail_after(CHECK_TIMEOUT + 1), pytest.raises(OutOfReach, match="no answer within"):
                await link.check()
            own.go_on()
        await link.check()
        assert stat(own, "clients", "connected_clients") <= 2 + 1, "the client is the same"
        own.kill()
        with trio.fail_after(CHECK_TIMEOUT + 1), pytest.raises(OutOfReach, match=r"redis\.url"):
            await link.check()
        own.start()
        await when_back(link.check)


async def test_no_password_is_told(tmp_path: Path, log: io.StringIO) -> None:
    """A server that does not know HELLO quotes what came with it: the password."""
    with redis_server(tmp_path / "redis", "--rename-command", "HELLO", "") as server:
        url = f"redis://ann:a%20secret@127.0.0.1:{server.port}"
        async with redis_link(parse_redis_url(url), None, KEY) as link:
            with pytest.raises(StorageError, match=r"lacks a command .*'\*\*\*'.* needs Redis") as told:
                await count(link)
    shown = [*map(str, (told.value, told.value.__cause__, told.value.__context__)), log.getvalue()]
    assert not any("secret" in text for text in shown)


async def test_a_refusal_is_told_at_once(own: RedisServer) -> None:
    own.ask("CONFIG", "SET", "requirepass", "open sesame")
    async with link_to(own) as link:
        began = time.monotonic()
        for call in (lambda: count(link), link.check, lambda: count(link)):
            with pytest.raises(
                StorageError, match=r"refused .* Check user and password in redis\.url"
            ) as told:
                await call()
            assert not isinstance(told.value, OutOfReach), "waiting does not help"
        assert time.monotonic() - began < PATIENCE


async def test_a_file_of_authorities_that_is_none(tmp_path: Path) -> None:
    for text in (None, "nothing"):
        if text is not None:
            (tmp_path / "ca").write_text(text)
        with pytest.raises(StorageError, match=r"cannot be read: .* Check redis\.ca"):
            async with redis_link(parse_redis_url("rediss://a"), tmp_path / "ca", KEY):
                pass
