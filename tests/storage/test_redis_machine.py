"""The state machine of the two stores, its records in a Redis that is killed at every restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fawa.storage.base import ContentStore, MetadataStore
from fawa.storage.filesystem import content_store
from fawa.storage.redis import metadata_store
from fawa.storage.redis_url import parse_redis_url
from tests.redis_server import redis_server
from tests.storage.test_machine import StoresMachine, run_machine


def test_the_stores_against_a_dict(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis") as server:

        class RedisMachine(StoresMachine):
            def __init__(self) -> None:
                if server.process is None:
                    server.start()
                assert server.ask("FLUSHALL") == b"+OK\r\n"
                server.kill()
                super().__init__()

            def boot(self) -> None:
                server.start()

            def shut(self) -> None:
                server.kill()

            @asynccontextmanager
            async def opened(self) -> AsyncIterator[tuple[ContentStore, MetadataStore]]:
                async with (
                    content_store(self.folder / "files") as content,
                    metadata_store(parse_redis_url(server.url)) as metadata,
                ):
                    yield content, metadata

        run_machine(RedisMachine, 20)
