"""What the supervisor knows of a service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol, runtime_checkable

import attrs
import trio
from grpclib._typing import IServable

from fawa.net.router import Route
from fawa.ops.meters import Figure
from fawa.storage.base import Dependency

#: Returns when something that a service depends on answers; raises what the operator should read if not.
Check = Callable[[], Awaitable[None]]


@attrs.frozen
class Offer:
    """What a started service serves: RPC implementations (grpclib-generated bases) and plain HTTP routes."""

    rpc: tuple[IServable, ...] = ()
    http: Mapping[str, Route] = attrs.field(factory=dict)
    #: What else is asked whether the daemon is ready, by name; each raises what the operator should read.
    checks: Mapping[str, Check] = attrs.field(factory=dict)
    #: Numbers for `/metrics`.
    figures: tuple[Figure, ...] = ()
    #: Ends, soon, what would not come to an end by itself; called when the daemon begins to drain.
    drain: Callable[[], None] = lambda: None


def checks(*dependencies: Dependency) -> dict[str, Check]:
    """Return what an offer has as `checks`."""
    return merge_checks((dependency.backend, dependency.check) for dependency in dependencies)


def merge_checks(named: Iterable[tuple[str, Check]]) -> dict[str, Check]:
    """Return one check for each name, which makes all of that name, one after the other.

    Several stores may be in the same Redis, each with connections of its own: all must have found it again.
    """
    of: dict[str, list[Check]] = {}
    for name, check in named:
        of.setdefault(name, []).append(check)

    def all_of(name: str) -> Check:
        async def check() -> None:
            for each in of[name]:
                await each()

        return check

    return {name: all_of(name) for name in of}


class Service(Protocol):
    """A service the supervisor starts, restarts after a crash, and stops by cancellation."""

    name: str

    async def run(self, task_status: trio.TaskStatus[Offer]) -> None:
        """Serve until cancelled; calls `task_status.started(offer)` once it can answer.

        May be called again after a crash, so everything it opens it also closes. Raising before it has
        started, at the daemon's own start, ends the daemon with that error's text; only for what is
        `OutOfReach` the daemon comes up without it and tries again, for as long as it takes.
        """


@runtime_checkable
class Dependent(Service, Protocol):
    """A service that cannot start while something that it stands on is away."""

    def outline(self) -> Offer:
        """Return what it would serve, so that it can be said to be away; nothing of it is called."""
