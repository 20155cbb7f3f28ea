"""Uploads over HTTP without a network: requests whose bodies come in pieces, and the stores behind."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs
import trio

from fawa.net.exchange import BodyTimeout, Exchange, Headers
from fawa.net.router import Router
from fawa.services.figures import Transfers
from fawa.services.http_uploads import HttpUploads
from fawa.services.intake import Intake, IntakeSettings
from fawa.services.uploads import UploadLimits, Uploads
from fawa.storage.base import UploadStore
from fawa.storage.filesystem import FilesystemStore
from tests.services.conftest import SECRET, Files
from tests.services.memory import MemoryExchange, Stall

DATA = random.Random(5).randbytes(400_000)
DAY = 86_400

#: A part of a body: bytes, an end that is none, or something that happens before the next part.
Piece = bytes | Stall | Exception | Callable[[], Any]


def pieces(data: bytes, length: int = 65_536) -> Iterator[bytes]:
    for start in range(0, len(data), length):
        yield data[start : start + length]


class Sending(MemoryExchange):
    """A request with a body."""

    def __init__(
        self, target: str, method: str, headers: Iterable[tuple[str, str]], body: Iterable[Piece]
    ) -> None:
        fields = dict(headers)
        host = fields.pop("host", "files.example:8080")
        super().__init__(target, method=method, headers=list(fields.items()), host=host)
        self._left = iter(body)
        #: How many pieces the handler asked for.
        self.taken = 0

    async def receive(self) -> bytes:
        for piece in self._left:
            self.taken += 1
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, Stall):
                with trio.move_on_after(self.body_timeout):
                    await trio.sleep_forever()
                raise BodyTimeout(f"no byte of the request body came for {self.body_timeout:g} s")
            if isinstance(piece, bytes):
                await trio.lowlevel.checkpoint()
                return piece
            await piece()
        return b""

    def start(self, status: int, headers: Headers, *, end: bool = False) -> None:
        super().start(status, [*headers, *self.extra_headers], end=end)


async def nothing(exchange: Exchange) -> None:
    exchange.respond_text(404, f"nothing at {exchange.path}")


@attrs.define
class Talk:
    """Clients of the routes."""

    files: Files
    records: UploadStore
    public_url: str = ""
    has_uploads: bool = True
    transfers: Transfers = attrs.field(factory=Transfers)
    #: All requests, the last one last.
    asked: list[Sending] = attrs.field(factory=list)

    @property
    def uploads(self) -> Uploads:
        assert isinstance(self.files.content, FilesystemStore)
        limits = self._settings().limits
        return Uploads(
            self.files.content,
            self.files.metadata,
            self.records,
            lambda: limits,
            lambda: self.files.now,
            self.files.quotas,
        )

    def _settings(self) -> IntakeSettings:
        settings = self.files.settings
        return IntakeSettings(
            limits=UploadLimits(upload_ttl=DAY, ttl=settings.ttl, max_file_size=settings.max_file_size),
            progress_timeout=settings.progress_timeout,
            link_ttl=settings.link_ttl,
            public_url=self.public_url,
        )

    @property
    def router(self) -> Router:
        intake = Intake(
            self.files.content,
            self.files.metadata,
            SECRET,
            self._settings,
            lambda: self.files.now,
            self.files.quotas,
            self.files.sharing,
            self.transfers,
        )
        router = Router(nothing)
        router.add(HttpUploads(intake, self.uploads if self.has_uploads else None).routes)
        return router

    async def ask(
        self, method: str, target: str, body: bytes | Iterable[Piece] = b"", /, **headers: str | None
    ) -> Sending:
        """Return a request once it is answered; a body of bytes has its length, unless that is given."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, bytes):
            named.setdefault("content-length", str(len(body)))
            body = pieces(body)
        fields = [(name, value) for name, value in named.items() if value is not None]
        exchange = Sending(target, method, fields, body)
        self.asked.append(exchange)
        await self.router.handler(exchange)(exchange)
        assert exchange.ended
        return exchange

    async def content(self, key: str | None) -> bytes:
        """Return what is stored under a key."""
        assert key
        async with self.files.content.open(key) as content:
            return b"".join([piece async for piece in content.read(0, content.size)])

    def unfinished(self) -> list[str]:
        """What there is of uploads that are not whole."""
        return [path for path in self.files.stored() if not path.startswith("content/")]
