"""Transfers that outlive their connections: what is tried again, when, and how often."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import trio
from grpclib.exceptions import GRPCError

from fawa import restarts

#: Failures in a row, without a byte of progress in between, after which a transfer is given up: pauses of up
#: to 25 s in all, in which a server has time to be started anew. Bytes that are lost and come again are none.
TRIES: Final = 9


class Progress(Protocol):
    """Told how a transfer gets on."""

    def begin(self, name: str, total: int) -> None:
        """Begin a transfer of `total` bytes."""

    def at(self, done: int) -> None:
        """So many bytes are done."""

    def note(self, text: str) -> None:
        """Say in one line what goes on."""


async def trying_again(
    attempt: Callable[[], Awaitable[None]],
    may_pass: Callable[[GRPCError], bool],
    done: Callable[[], int],
    progress: Progress,
) -> None:
    """Run an attempt until it succeeds; after a failure that may pass, wait a moment and go on.

    Args:
        attempt: takes up where the one before has ended.
        may_pass: whether another attempt can help.
        done: bytes that no attempt need transfer again.
        progress: told what goes on.

    Raises:
        GRPCError: what cannot pass, or did not.

    """
    failures = 0
    furthest = done()
    while True:
        try:
            await attempt()
        except GRPCError as error:
            failures = 1 if done() > furthest else failures + 1
            furthest = max(furthest, done())
            if failures == TRIES or not may_pass(error):
                raise
            seconds = restarts.pause(failures, random.random())  # noqa: S311 - jitter, not a secret
            progress.note(f"{error.message}; going on in {seconds:.1f} s")
            await trio.sleep(seconds)
        else:
            return
