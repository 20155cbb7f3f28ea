"""What tests of the file service say and expect."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.proto.file.v1.file_pb2 import FileInfo, SendFileRequest
from fawa.services.file_settings import FileSettings
from fawa.storage.base import PIECE

KEY = "aebagbafaydqqcik"
DATA = random.Random(4).randbytes(3 * PIECE + 1)


def info(name: str = "a.txt", size: int = len(DATA)) -> SendFileRequest:
    return SendFileRequest(info=FileInfo(name=name, size=size))


def chunks(data: bytes = DATA, length: int = 100_000) -> Iterator[SendFileRequest]:
    for start in range(0, len(data), length):
        yield SendFileRequest(chunk_data=data[start : start + length])


@contextmanager
def refused(status: Status, text: str) -> Iterator[None]:
    """Expect a status; `text` is looked for in the message."""
    with pytest.raises(GRPCError) as caught:
        yield
    assert caught.value.status is status
    assert re.search(text, caught.value.message or "")


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what a thread is about to do; only a failing test waits for all of the ten seconds."""
    for _ in range(10_000):
        if condition():
            return
        await trio.testing.wait_all_tasks_blocked(cushion=0.001)
    raise AssertionError("it did not come to pass")


def settings(**changes: Any) -> FileSettings:
    return FileSettings(**changes)
