"""What the supervisor knows of a service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, runtime_checkable

import attrs
import trio
from grpclib._typing import IServable

from fawa.net.router import Route
from fawa.ops.meters import Figure


@attrs.frozen
class Offer:
    """What a started service serves: RPC implementations (grpclib-generated bases) and plain HTTP routes."""

    rpc: tuple[IServable, ...] = ()
    http: Mapping[str, Route] = attrs.field(factory=dict)
    #: What else is asked whether the daemon is ready, by name; each raises what the operator should read.
    checks: Mapping[str, Callable[[], Awaitable[None]]] = attrs.field(factory=dict)
    #: Numbers for `/metrics`.
    figures: tuple[Figure, ...] = ()
    #: Ends, soon, what would not come to an end by itself; called when the daemon begins to drain.
    drain: Callable[[], None] = lambda: None


class Service(Protocol):
    """A service the supervisor starts, restarts after a crash, and stops by cancellation."""

    name: str

    async def run(self, task_status: trio.TaskStatus[Offer]) -> None:
        """Serve until cancelled; calls `task_status.started(offer)` once it can answer.

        May be called again after a crash, so everything it opens it also closes. Raising before it has
        started, at the daemon's own start, ends the daemon with that error's text; only for what is
        `Unreachable` the daemon comes up without it and tries again, for as long as it takes.
        """


@runtime_checkable
class Dependent(Service, Protocol):
    """A service that cannot start while something that it stands on is away."""

    def outline(self) -> Offer:
        """Return what it would serve, so that it can be said to be away; nothing of it is called."""
