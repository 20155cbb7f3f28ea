"""From an exchange to a handler and back: negotiation, deadline, errors, the end of the call."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import attrs
import trio
from grpclib._typing import IServable
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.calls.call import Call, Deadline, answer
from fawa.net.exchange import BodyTimeout, Disconnected, Exchange
from fawa.net.router import Route
from fawa.rpc.dialect import HttpError, Limits, Method, is_rpc_content_type, negotiate

_log = logging.getLogger("fawa.calls")

_INTERNAL: Final = "the server failed to answer; its log says why"


def routes(implementations: Iterable[IServable], limits: Limits) -> dict[str, Route]:
    """Return a route for each method of RPC services, instances of grpclib-generated bases."""
    return {endpoint.method.path: endpoint.route for endpoint in _endpoints(implementations, limits)}


def unavailable(
    implementations: Iterable[IServable], pages: Mapping[str, Route], limits: Limits, text: str
) -> dict[str, Route]:
    """Return routes that say `text` in place of RPC services and HTTP routes that cannot answer now."""

    async def fail(call: Call[Any, Any]) -> None:
        raise GRPCError(Status.UNAVAILABLE, text)

    async def say(exchange: Exchange) -> None:
        exchange.respond_text(503, text, [(b"retry-after", b"1")])

    away = {path: Route(route.methods, say) for path, route in pages.items()}
    for endpoint in _endpoints(implementations, limits):
        away[endpoint.method.path] = attrs.evolve(endpoint, handler=fail).route
    return away


def _endpoints(implementations: Iterable[IServable], limits: Limits) -> Iterator[Endpoint]:
    for implementation in implementations:
        for path, handler in implementation.__mapping__().items():
            yield Endpoint(Method.from_handler(path, handler), handler.func, limits)


async def not_found(exchange: Exchange) -> None:
    """Answer for a path that nothing is served at: in the words of the RPC dialect, if it is one."""
    error = GRPCError(Status.UNIMPLEMENTED, f"there is no method {exchange.path}")
    if exchange.path.count("/") != 2 or not refuse(exchange, error):
        exchange.respond_text(404, f"nothing is served at {exchange.path}")


def refuse(exchange: Exchange, error: GRPCError) -> bool:
    """Answer an RPC with an error without its method; returns False where it is no RPC."""
    if exchange.method != "POST" or not is_rpc_content_type(exchange.header(b"content-type")):
        return False
    dialect = negotiate(exchange.method, exchange.headers, exchange.query, None, Limits())
    error = dialect.refusal or error
    exchange.label = dialect.name
    answer(exchange, dialect, error.status, error.message)
    return True


@attrs.frozen
class Endpoint:
    """One method and its handler."""

    method: Method
    handler: Callable[[Any], Awaitable[None]]
    limits: Limits

    @property
    def route(self) -> Route:
        """The HTTP route of this method."""
        return Route(("GET", "POST") if self.method.no_side_effects else ("POST",), self.serve)

    async def serve(self, exchange: Exchange) -> None:
        """Run one call to its end.

        Raises:
            Disconnected: the client is gone.

        """
        try:
            dialect = negotiate(
                exchange.method, exchange.headers, exchange.query, self.method, self.limits, exchange.fields
            )
        except HttpError as wrong:
            exchange.respond_text(wrong.status, wrong.text, wrong.headers)
            return
        exchange.label = dialect.name
        exchange.code = Status.CANCELLED  # until the call ends otherwise
        call: Call[Any, Any] = Call(exchange, dialect, self.method)
        if self.method.kind.client_streaming:
            # People type, boards rest: only a call of one request message must keep its body coming.
            exchange.body_timeout = math.inf
        error = dialect.refusal
        if error is None:
            try:
                if dialect.timeout is None:
                    await self.handler(call)
                else:
                    error = await self._run_until(call, dialect.timeout)
            except GRPCError as said:
                error = said
            except Disconnected:
                raise
            except BodyTimeout as late:
                error = GRPCError(Status.DEADLINE_EXCEEDED, str(late))
            except Exception:
                _log.exception("%s failed", self.method.path)
                error = GRPCError(Status.INTERNAL, _INTERNAL)
        try:
            call.end(error)
        except ValueError:
            _log.exception("%s left trailing metadata that cannot be sent", self.method.path)
            answer(exchange, dialect, Status.INTERNAL, _INTERNAL)

    async def _run_until(self, call: Call[Any, Any], timeout: float) -> GRPCError | None:
        """Run the handler for at most `timeout` seconds."""
        call.deadline = Deadline(trio.current_time() + timeout)
        with trio.CancelScope(deadline=call.deadline.at) as scope:
            await self.handler(call)
        if scope.cancelled_caught:
            return GRPCError(Status.DEADLINE_EXCEEDED, f"the deadline of {timeout:g} s has passed")
        return None
