"""A call in a task of its own, so that a test can speak for the server meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio
from grpclib.exceptions import GRPCError

from fawa.client import Channel
from fawa.proto.greet.v1.greet_pb2 import SayHelloRequest
from tests.client.greet import SAY_HELLO


@attrs.define(eq=False)
class Asked:
    """A call under way; `await asked` is its answer, or raises its error."""

    _done: trio.Event = attrs.field(factory=trio.Event)
    _result: Any = None
    _error: GRPCError | None = None

    async def run(self, call: Callable[[], Awaitable[Any]]) -> None:
        try:
            self._result = await call()
        except GRPCError as error:
            self._error = error
        self._done.set()

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    async def answer(self) -> Any:
        with trio.fail_after(60):
            await self._done.wait()
        if self._error is not None:
            raise self._error
        return self._result


def start(nursery: trio.Nursery, call: Callable[[], Awaitable[Any]]) -> Asked:
    """Begin a call."""
    asked = Asked()
    nursery.start_soon(asked.run, call)
    return asked


def ask(nursery: trio.Nursery, channel: Channel, name: str = "Ada") -> Asked:
    """Begin a unary call; its answer is the greeting."""

    async def call() -> str:
        return (await channel.unary(SAY_HELLO, SayHelloRequest(name=name))).message.resp

    return start(nursery, call)
