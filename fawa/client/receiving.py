"""What `fawa receive` makes of what it receives: sealed files are opened, folders restored."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import attrs
import trio

from fawa.client.channel import Channel
from fawa.client.dial import Trust
from fawa.client.files import Download, Received
from fawa.client.folder import SUFFIX as FOLDER_SUFFIX
from fawa.client.folder import restore
from fawa.client.part import TransferError, already_there, publish_file, safe_name
from fawa.client.retrying import Progress
from fawa.client.sealed import open_sealed
from fawa.client.sealing import SealError, read_secret, write_secret

#: A key with a secret, and what follows `#` in a link of the page.
_PAIR: Final = re.compile(r"([A-Za-z0-9_-]+)/(.*)", re.DOTALL)
_FRAGMENT: Final = re.compile(r"/?files/([^/]+)(?:/([^/]*))?")


@attrs.frozen
class Reference:
    """Which file: as people pass it on."""

    key: str
    #: What opens it, if it is sealed.
    secret: bytes | None = attrs.field(default=None, repr=False)
    #: URL of the server, if that was told.
    server: str | None = None

    @classmethod
    def read(cls, text: str) -> Reference:
        """Read `KEY`, `KEY/SECRET`, or a link of the page with either.

        Raises:
            TransferError: it is none of these.

        """
        text = text.strip()
        server = None
        if "://" in text:
            parts = urlsplit(text)
            match = _FRAGMENT.fullmatch(parts.fragment)
            if match is None:
                raise TransferError(
                    "the link is none of the page's, which end in #/files/KEY: a download link needs no "
                    "fawa, open it with a browser or curl"
                )
            key, secret = match.groups()
            server = parts._replace(fragment="", query="").geturl().rstrip("/")
        elif match := _PAIR.fullmatch(text):
            key, secret = match.groups()
        else:
            key, secret = text, None
        try:
            return cls(key, None if secret is None else read_secret(secret), server)
        except SealError as error:
            raise TransferError(str(error)) from error


def page_link(server: str, key: str, secret: bytes) -> str:
    """Return the link by which the page at `server` opens a sealed file."""
    return f"{server.rstrip('/')}/#/files/{key}/{write_secret(secret)}"


async def receive(
    channel: Channel,
    reference: Reference,
    destination: Path | None,
    trust: Trust,
    progress: Progress,
    *,
    force: bool,
    as_is: bool,
    password: str = "",
) -> Received:
    """Receive a file into `destination`, open it if it is sealed, and restore it if it is a folder.

    Args:
        channel: to the server that has it.
        reference: which file.
        destination: file or folder to save in or as; `None` is the working folder.
        trust: for downloads by link.
        progress: told how it gets on.
        force: replace what is there.
        as_is: keep a folder as the archive that it came as.
        password: of the file, where it has one.

    Raises:
        GRPCError: the server does not give it.
        TransferError: it cannot be written, is damaged, or does not open.

    """
    into = destination
    if reference.secret is not None:
        # Its name is sealed too, so that the target is not known before.
        folder = destination or Path()
        folder = folder if folder.is_dir() else folder.parent
        into = folder / safe_name(f"sealed-{reference.key}.fawa")
    download = Download(channel, reference.key, into, force, trust, progress, password)
    try:
        received = await download.run()
    except BaseException:
        if download.kept is not None:
            progress.note(f"{download.kept} is kept: run the same command to go on from there")
        raise
    name = received.name
    if reference.secret is not None:
        received, name = await _open(received, reference.secret, destination, force=force)
    if name.endswith(FOLDER_SUFFIX) and not as_is:
        received = await _restore(received, name, destination, force=force)
    return received


async def _open(
    received: Received, secret: bytes, destination: Path | None, *, force: bool
) -> tuple[Received, str]:
    try:
        name, opened = await trio.to_thread.run_sync(open_sealed, received.path, secret)
    except SealError as error:
        raise TransferError(f"{error}. It is kept as {received.path}") from error
    target = _target(name, destination)
    size = opened.stat().st_size
    try:
        await trio.to_thread.run_sync(lambda: publish_file(opened, target, force=force))
    except BaseException:
        with contextlib.suppress(OSError):
            opened.unlink(missing_ok=True)
        raise
    received.path.unlink(missing_ok=True)
    return attrs.evolve(received, path=target, size=size), name


async def _restore(received: Received, name: str, destination: Path | None, *, force: bool) -> Received:
    archive = received.path
    target = _target(name.removesuffix(FOLDER_SUFFIX), destination)
    if archive == target:
        # It was saved under the name that the folder is to have.
        aside = archive.with_name(safe_name(f"{archive.name}{FOLDER_SUFFIX}"))
        if aside.exists():
            raise already_there(aside)
        archive = archive.rename(aside)
    try:
        await trio.to_thread.run_sync(lambda: restore(archive, target, force=force))
    except TransferError as error:
        raise TransferError(f"{error}. The archive is kept as {archive}") from error
    archive.unlink(missing_ok=True)
    return attrs.evolve(received, path=target)


def _target(name: str, destination: Path | None) -> Path:
    if destination is not None and not destination.is_dir():
        return destination
    return (destination or Path()) / safe_name(name)
