"""Which handler answers a path: exact routes, prefixes, and the errors for everything else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import attrs

from fawa.net.exchange import Exchange

Handle = Callable[[Exchange], Awaitable[None]]


@attrs.frozen
class Route:
    """A handler and the HTTP methods it takes; others are answered 405 with `Allow`."""

    methods: tuple[str, ...]
    handle: Handle


@attrs.define
class Router:
    """Routes by exact path, else by the path's first segment.

    Services add their routes when they start, and routes that say so when they are away.
    """

    #: Answers for paths without a route.
    not_found: Handle
    _exact: dict[str, Route] = attrs.field(factory=dict, init=False)
    _prefixes: dict[str, Route] = attrs.field(factory=dict, init=False)

    def add(self, routes: Mapping[str, Route]) -> None:
        """Add routes, replacing those of the same path; `/segment/` stands for all paths below it."""
        for path, route in routes.items():
            (self._prefixes if path.endswith("/") and path != "/" else self._exact)[path] = route

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one exchange: by its route's handler, or 404 or 405."""
        path = exchange.path
        route = self._exact.get(path)
        if route is None:
            prefix = path[: path.find("/", 1) + 1]
            route = self._prefixes.get(prefix)
            if route is None:
                await self.not_found(exchange)
                return
            # What follows may be a secret, such as a file's key.
            exchange.shown_path = f"{prefix}…"
        if exchange.method in route.methods:
            await route.handle(exchange)
            return
        allow = ", ".join(route.methods)
        exchange.respond_text(
            405, f"{path} takes {allow}, not {exchange.method}", [(b"allow", allow.encode())]
        )
