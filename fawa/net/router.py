"""Which handler answers a path: exact routes, prefixes, the top level, and the errors for everything else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import attrs

from fawa.net.exchange import Exchange

Handle = Callable[[Exchange], Awaitable[None]]

#: Stands for every path of one segment that has no route of its own.
TOP_LEVEL: Final = "/*"


@attrs.frozen
class Route:
    """A handler and the HTTP methods it takes; others are answered 405 with `Allow`."""

    methods: tuple[str, ...]
    handle: Handle

    async def refuse(self, exchange: Exchange) -> None:
        """Answer a method that the route does not take."""
        allow = ", ".join(self.methods)
        text = f"{exchange.path} takes {allow}, not {exchange.method}"
        exchange.respond_text(405, text, [(b"allow", allow.encode())])


@attrs.define
class Router:
    """Routes by exact path, else by the path's first segment.

    Services add their routes when they start, and routes that say so when they are away.
    """

    #: Answers for paths without a route.
    not_found: Handle
    _exact: dict[str, Route] = attrs.field(factory=dict, init=False)
    _prefixes: dict[str, Route] = attrs.field(factory=dict, init=False)
    _top_level: Route | None = attrs.field(default=None, init=False)

    def add(self, routes: Mapping[str, Route]) -> None:
        """Add routes, replacing those of the same path.

        `/segment/` stands for all paths below it, and `TOP_LEVEL` for what is left of one segment; there, a
        method that the route does not take is one for which nothing is there.
        """
        for path, route in routes.items():
            if path == TOP_LEVEL:
                self._top_level = route
            else:
                (self._prefixes if path.endswith("/") and path != "/" else self._exact)[path] = route

    def serves(self, shown: str) -> bool:
        """Whether a path, as `Exchange.shown_path` has it, is a route's."""
        below = shown[:-1] if shown[-1:] == "…" else ""
        return (
            shown in self._exact or below in self._prefixes or (below == "/" and self._top_level is not None)
        )

    def handler(self, exchange: Exchange) -> Handle:
        """Return what answers an exchange: its route's handler, or one that says 404 or 405."""
        path = exchange.path
        route = self._exact.get(path)
        if route is None:
            prefix = path[: path.find("/", 1) + 1]
            route = self._prefixes.get(prefix)
            if route is None:
                return self._unnamed(exchange)
            # What follows may be a secret, such as a file's key.
            exchange.shown_path = f"{prefix}…"
        return route.handle if exchange.method in route.methods else route.refuse

    def _unnamed(self, exchange: Exchange) -> Handle:
        top_level = self._top_level
        if top_level is None or exchange.method not in top_level.methods or exchange.path.count("/") != 1:
            return self.not_found
        # The segment is the user's own.
        exchange.shown_path = "/…"
        return top_level.handle
