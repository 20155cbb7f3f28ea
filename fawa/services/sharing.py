"""On what terms a file is shared: read from outside, and held against those who want it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from fawa.net.exchange import Exchange
from fawa.services import passwords
from fawa.services.addresses import Proxies, sender
from fawa.services.attempts import Attempts
from fawa.services.names import guess_type
from fawa.services.ratelimit import Rate
from fawa.storage.base import FileRecord, NotFound, Terms

#: Bytes of randomness in an owner's token.
_TOKEN: Final = 16
#: Passwords tried at once: each takes 16 MiB and a core for a moment.
_AT_ONCE: Final = 2
#: Wrong passwords of one file, from whatever address.
_WRONG_PASSWORDS: Final = Rate(100, 10 / 60)


class Denied(Exception):  # noqa: N818 - said as it is
    """Whoever asks does not have what it takes."""


class BadTerms(ValueError):  # noqa: N818
    """A file cannot be shared on such terms."""

    def __init__(self, term: str, text: str) -> None:
        super().__init__(text)
        #: Which of `file.v1.Terms` it is.
        self.term = term


class TooOften(Exception):  # noqa: N818
    """Too many wrong keys, passwords or tokens came from this address, or for this file."""

    def __init__(self, text: str, wait: float) -> None:
        super().__init__(f"{text}: try again in {math.ceil(wait)} s")


@attrs.frozen(kw_only=True)
class SharingSettings:
    """What can be set about it."""

    #: Seconds a file is kept if its sender says nothing, and between which its sender may choose.
    ttl: float = 1500.0
    min_ttl: float = 1.0
    max_ttl: float = 86_400.0
    #: Wrong keys, passwords and tokens of one address.
    wrong_keys: Rate = attrs.field(factory=lambda: Rate(50, 10 / 60))
    proxies: Proxies = attrs.field(factory=Proxies)


@attrs.frozen
class Shared:
    """The terms of a new file."""

    #: Seconds that it is kept, `None` for as long as files are.
    ttl: float | None
    terms: Terms
    #: For the sender alone.
    owner_token: str = attrs.field(repr=False)

    def record(
        self, key: str, name: str, size: int, sha256: bytes, now: float, usual_ttl: float
    ) -> FileRecord:
        """Return the record of a file that is whole `now`, a Unix time; `usual_ttl` is in seconds."""
        return FileRecord(
            key=key,
            name=name,
            size=size,
            content_type=guess_type(name),
            sha256=sha256,
            created=now,
            expires=now + (self.ttl or usual_ttl),
            terms=self.terms,
        )


class Sharing:
    """Makes terms and holds people to them."""

    def __init__(
        self, settings: Callable[[], SharingSettings], clock: Callable[[], float] = trio.current_time
    ) -> None:
        """Ask `settings` each time; `clock` counts seconds."""
        self._settings = settings
        self._wrong = Attempts(settings().wrong_keys, clock)
        self._wrong_passwords = Attempts(_WRONG_PASSWORDS, clock)
        self._limiter = trio.CapacityLimiter(_AT_ONCE)

    async def terms(self, ttl: int, max_downloads: int, password: str) -> Shared:
        """Return the terms for a new file; 0, 0 and "" are the usual ones.

        Raises:
            BadTerms: they cannot be.

        """
        settings = self._settings()
        longest = max(settings.max_ttl, settings.ttl)
        if ttl and not settings.min_ttl <= ttl <= longest:
            text = f"a file is kept for {settings.min_ttl:g} to {longest:g} seconds here, not for {ttl}"
            raise BadTerms("ttl_seconds", text)
        if max_downloads < 0:
            raise BadTerms("max_downloads", f"max_downloads cannot be {max_downloads}")
        if len(password.encode()) > passwords.MAX:
            raise BadTerms("password", f"a password has at most {passwords.MAX} bytes")
        kept = b""
        if password:
            salt = secrets.token_bytes(passwords.SALT)
            kept = await trio.to_thread.run_sync(passwords.protect, password, salt, limiter=self._limiter)
        token = base64.b32encode(secrets.token_bytes(_TOKEN)).decode().rstrip("=").lower()
        terms = Terms(max_downloads=max_downloads, owner=_hash(token), password=kept)
        return Shared(float(ttl) if ttl else None, terms, token)

    @asynccontextmanager
    async def guessing(self, exchange: Exchange) -> AsyncIterator[None]:
        """Let an address try a key: what comes to nothing (`NotFound`, `Denied`) counts against it.

        Raises:
            TooOften: it has tried too often.

        """
        settings = self._settings()
        self._wrong.rate = settings.wrong_keys
        address = sender(settings.proxies, exchange.peer, exchange.headers)
        async with self._wrong.one(address, _from_address, NotFound, Denied):
            yield

    async def check_password(self, record: FileRecord, password: str) -> None:
        """See that a password is right, where one is needed.

        Raises:
            Denied: it is not.
            TooOften: too many were wrong.

        """
        kept = record.terms.password
        if not kept:
            return
        if not password:
            raise Denied("this file needs a password: give the one that came with its key")
        async with self._wrong_passwords.one(record.key, _for_file, Denied):
            is_right = len(password.encode()) <= passwords.MAX and await trio.to_thread.run_sync(
                passwords.is_right, kept, password, limiter=self._limiter
            )
            if not is_right:
                raise Denied("the password is wrong")

    def check_owner(self, record: FileRecord, token: str) -> None:
        """See that a token is the owner's.

        Raises:
            Denied: it is not.

        """
        if not hmac.compare_digest(_hash(token), record.terms.owner):
            raise Denied("the token is not the one that came with the key when the file was sent")


def _from_address(wait: float) -> TooOften:
    return TooOften("too many wrong keys, passwords or tokens came from your address", wait)


def _for_file(wait: float) -> TooOften:
    return TooOften("too many wrong passwords were given for this file", wait)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
