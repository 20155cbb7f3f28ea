"""Which handler answers a path: exact routes, prefixes, and the errors for everything else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping

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
    """Routes by exact path, then by the longest prefix that ends in `/`.

    Services add their routes when they start and take them away when they stop.
    """

    #: Answers for paths without a route.
    not_found: Handle
    _exact: dict[str, Route] = attrs.field(factory=dict, init=False)
    _prefixes: dict[str, Route] = attrs.field(factory=dict, init=False)

    def add(self, routes: Mapping[str, Route]) -> None:
        """Add routes; a path that ends in `/` is a prefix, but for `/` itself."""
        for path, route in routes.items():
            (self._prefixes if path.endswith("/") and path != "/" else self._exact)[path] = route

    def remove(self, paths: Iterable[str]) -> None:
        """Take routes away; paths that are not there are ignored."""
        for path in paths:
            self._exact.pop(path, None)
            self._prefixes.pop(path, None)

    def find(self, path: str) -> Route | None:
        """Return the route for `path`, or `None`."""
        route = self._exact.get(path)
        if route is None and self._prefixes:
            end = path.rfind("/")
            while route is None and end >= 0:
                route = self._prefixes.get(path[: end + 1])
                end = path.rfind("/", 0, end)
        return route

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one exchange: by its route's handler, or 404 or 405."""
        route = self.find(exchange.path)
        if route is None:
            await self.not_found(exchange)
        elif exchange.method not in route.methods:
            allow = ", ".join(route.methods)
            exchange.respond_text(
                405,
                f"{exchange.path} takes {allow}, not {exchange.method}",
                [(b"allow", allow.encode())],
            )
        else:
            await route.handle(exchange)
