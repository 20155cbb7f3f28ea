"""What an operator asks of a running daemon, on a listener of its own.

`/healthz` says that the event loop turns, `/readyz` whether clients should be sent here and if not why; both
answer anybody, as probes have no secret. Everything else asks for the token, where there is one.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import attrs
import msgspec
import trio

from fawa.net.exchange import Exchange, Headers
from fawa.net.router import Handle, Route
from fawa.ops.tasks import task_tree

#: Seconds that a dependency has to answer whether it is there.
CHECK_TIMEOUT: Final = 2.0
#: A level's name and a line's end.
_MOST_BODY: Final = 64

_NO_STORE: Final = (b"cache-control", b"no-store")
_FINE: Final = "ok"

#: Returns when a dependency can be used; raises what the operator should read when it cannot.
Check = Callable[[], Awaitable[None]]


@attrs.frozen(kw_only=True)
class Admin:
    """The listener's routes."""

    #: Why this process should get no new clients, by what is wrong; empty when it should.
    reasons: Callable[[], Mapping[str, str]]
    #: The dependencies by their names.
    checks: Callable[[], Mapping[str, Check]]
    #: Returns the metrics and their content type for an `Accept` header.
    metrics: Callable[[str], tuple[bytes, str]]
    get_level: Callable[[], str]
    #: Raises `ValueError` for what is no level.
    set_level: Callable[[str], None]
    #: What `Authorization: Bearer` must say; `None`: nothing is asked.
    token: str | None = attrs.field(default=None, repr=False)

    @property
    def routes(self) -> dict[str, Route]:
        """The routes by path."""
        return {
            "/": Route(("GET", "HEAD"), self._index),
            "/healthz": Route(("GET", "HEAD"), self._healthz),
            "/readyz": Route(("GET", "HEAD"), self._readyz),
            "/metrics": Route(("GET", "HEAD"), self._guarded(self._metrics)),
            "/debug/tasks": Route(("GET", "HEAD"), self._guarded(self._tasks)),
            "/log-level": Route(("GET", "HEAD", "PUT"), self._guarded(self._log_level)),
        }

    def _guarded(self, handle: Handle) -> Handle:
        async def guarded(exchange: Exchange) -> None:
            if self._is_allowed(exchange):
                await handle(exchange)
            else:
                text = "this needs the token of admin.token: Authorization: Bearer TOKEN"
                exchange.respond_text(401, text, [(b"www-authenticate", b"Bearer"), _NO_STORE])

        return guarded

    def _is_allowed(self, exchange: Exchange) -> bool:
        if self.token is None:
            return True
        scheme, _, given = exchange.fields.get(b"authorization", b"").partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self.token.encode())

    async def _index(self, exchange: Exchange) -> None:
        exchange.respond_text(200, "\n".join(path for path in self.routes if path != "/"), [_NO_STORE])

    async def _healthz(self, exchange: Exchange) -> None:
        exchange.respond_text(200, _FINE, [_NO_STORE])

    async def _readyz(self, exchange: Exchange) -> None:
        found: dict[str, str] = {}

        async def look(name: str, check: Check) -> None:
            found[name] = await _look(check)

        async with trio.open_nursery() as nursery:
            for name, check in self.checks().items():
                nursery.start_soon(look, name, check)
        found |= self.reasons()
        ready = all(text == _FINE for text in found.values())
        body = msgspec.json.encode({"ready": ready, "checks": dict(sorted(found.items()))}) + b"\n"
        headers: Headers = [(b"content-type", b"application/json"), _NO_STORE]
        exchange.respond(200 if ready else 503, headers, body)

    async def _metrics(self, exchange: Exchange) -> None:
        content, content_type = self.metrics(exchange.fields.get(b"accept", b"").decode("latin-1"))
        exchange.respond(200, [(b"content-type", content_type.encode()), _NO_STORE], content)

    async def _tasks(self, exchange: Exchange) -> None:
        exchange.respond_text(200, task_tree().rstrip("\n"), [_NO_STORE])

    async def _log_level(self, exchange: Exchange) -> None:
        if exchange.method == "PUT":
            body = b""
            while (piece := await exchange.receive()) and len(body) <= _MOST_BODY:
                body += piece
            try:
                self.set_level(body[:_MOST_BODY].decode().strip())
            except ValueError as error:
                exchange.respond_text(400, str(error), [_NO_STORE])
                return
        exchange.respond_text(200, self.get_level(), [_NO_STORE])


async def _look(check: Check) -> str:
    """Return that a dependency is fine, or what is wrong with it."""
    try:
        with trio.fail_after(CHECK_TIMEOUT):
            await check()
    except trio.TooSlowError:
        return f"no answer within {CHECK_TIMEOUT:g} s"
    except Exception as error:
        return str(error) or type(error).__qualname__
    return _FINE
