"""Uploads over plain HTTP: which protocol a request speaks, and the file that comes whole.

| request | is |
|---|---|
| `PUT /NAME` | a whole file, as `curl --upload-file` sends it, or the beginning of one by the IETF's draft |
| `POST /uploads` | the beginning of one by tus, or by the IETF's draft |
| `HEAD`, `PATCH`, `DELETE /uploads/ID` | what follows, by either |

An upload's address is a secret: whoever knows it may write. `protocols/uploads.md` has the protocols.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from fawa.net.exchange import Exchange
from fawa.net.router import TOP_LEVEL, Route
from fawa.services import resumption, tus
from fawa.services.fields import content_length, field, media_type
from fawa.services.intake import (
    PREFIX,
    UPLOADS,
    Intake,
    Refused,
    WholeFile,
    checked_name,
    refusing,
    whole_sha256,
)
from fawa.services.names import UNNAMED, disposition_name_untrusted, path_name_untrusted
from fawa.services.resumption import Resumption
from fawa.services.tus import Tus
from fawa.services.uploads import Mismatch, TooLong, Uploads, make_key
from fawa.storage.lifecycle import publish

_METHODS: Final = ("POST", "HEAD", "PATCH", "DELETE", "OPTIONS")
#: What a client of tus that cannot send every method says instead.
_OVERRIDE: Final = b"x-http-method-override"


@attrs.frozen(eq=False)
class HttpUploads:
    """The routes."""

    intake: Intake
    #: `None` where the stores cannot keep interrupted uploads.
    uploads: Uploads | None

    @property
    def routes(self) -> dict[str, Route]:
        """What to serve."""
        if self.uploads is None:
            return {TOP_LEVEL: Route(("PUT",), self.put)}
        kept = KeptUploads(self.intake, Tus(self.intake, self.uploads), Resumption(self.intake, self.uploads))
        return {
            TOP_LEVEL: Route(("PUT",), kept.put),
            UPLOADS: Route(("POST", "OPTIONS"), kept.serve),
            PREFIX: Route(_METHODS, kept.serve),
        }

    async def put(self, exchange: Exchange) -> None:
        """Answer `PUT /NAME`.

        Raises:
            Disconnected: the client is gone.

        """
        await _take(self.intake, exchange, _put_name)


@attrs.frozen(eq=False)
class KeptUploads:
    """What is served where interrupted uploads are kept."""

    intake: Intake
    tus: Tus
    resumption: Resumption

    async def put(self, exchange: Exchange) -> None:
        """Answer `PUT /NAME`.

        Raises:
            Disconnected: the client is gone.

        """
        await self._begin(exchange, _put_name)

    async def serve(self, exchange: Exchange) -> None:
        """Answer what is asked of `/uploads` and what is below.

        Raises:
            Disconnected: the client is gone.

        """
        upload_id = exchange.path[len(PREFIX) :]
        method = exchange.method
        is_tus = field(exchange, b"tus-resumable") is not None
        if is_tus and method == "POST":
            method = field(exchange, _OVERRIDE) or method
        exchange.body_timeout = self.intake.settings().progress_timeout
        if method == "OPTIONS":
            self._offer(exchange)
        elif method not in _METHODS or (method == "POST") is bool(upload_id):
            allow = "HEAD, PATCH, DELETE, OPTIONS" if upload_id else "POST, OPTIONS"
            text = f"{'an upload' if upload_id else UPLOADS} takes {allow}, not {method[:20]}"
            exchange.respond_text(405, text, [(b"allow", allow.encode())])
        elif is_tus or _means_tus(exchange, method):
            await self.tus.serve(exchange, method, upload_id)
        elif method == "POST":
            await self._begin(exchange, _post_name)
        else:
            await self.resumption.serve(exchange, method, upload_id)

    def _offer(self, exchange: Exchange) -> None:
        limits = self.intake.settings().limits
        headers = [(b"tus-resumable", tus.VERSION.encode()), *tus.offers(limits.max_file_size)]
        exchange.start(204, [*headers, *resumption.offers(limits)], end=True)

    async def _begin(self, exchange: Exchange, name_of: Callable[[Exchange], str]) -> None:
        if not resumption.is_wanted(exchange):
            await _take(self.intake, exchange, name_of)
            return
        exchange.body_timeout = self.intake.settings().progress_timeout
        await self.resumption.create(exchange, name_of)


def _means_tus(exchange: Exchange, method: str) -> bool:
    """Whether a request without `Tus-Resumable` is one of tus all the same, to be told of its version."""
    if method == "PATCH":
        return media_type(field(exchange, b"content-type")) == tus.PART
    return method == "POST" and resumption.is_complete(exchange) is None


def _put_name(exchange: Exchange) -> str:
    return path_name_untrusted(exchange.path[1:])


def _post_name(exchange: Exchange) -> str:
    return disposition_name_untrusted(field(exchange, b"content-disposition") or "") or UNNAMED


async def _take(intake: Intake, exchange: Exchange, name_of: Callable[[Exchange], str]) -> None:
    """Store a file that comes in one request; one that does not end well leaves nothing."""
    exchange.body_timeout = intake.settings().progress_timeout
    try:
        with refusing():
            whole = await _take_whole(intake, exchange, checked_name(exchange, name_of))
    except Refused as refused:
        exchange.respond_text(refused.status, refused.text, refused.headers)
    else:
        whole.answer(exchange, [])


async def _take_whole(intake: Intake, exchange: Exchange, name: str) -> WholeFile:
    resumption.check_whole(exchange)
    expected = whole_sha256(exchange)
    base = intake.base(exchange)
    intake.check_size(exchange, None)
    limits = intake.settings().limits
    shared = await intake.share(exchange)
    key, size = make_key(), 0
    address = intake.quotas.address(exchange)
    async with (
        intake.quotas.room(key, content_length(exchange), address) as room,
        intake.transfers.put as flow,
        intake.content.create(key) as upload,
    ):
        while data := await exchange.receive():
            size += len(data)
            flow.bytes += len(data)
            if 0 < limits.max_file_size < size:
                raise TooLong(f"the largest file taken here has {limits.max_file_size} bytes, and more came")
            await room.grow(size)
            await upload.write(data)
        digest = await upload.digest()
        if expected not in {None, digest}:
            raise Mismatch(f"what came has the SHA-256 {digest.hex()}, not the one told: send it again")
        record = shared.record(key, name, size, digest, intake.clock(), limits.ttl)
        await publish(intake.content, intake.metadata, upload, record)
    return intake.with_link(record, base, shared.owner_token)
