"""The public link: one byte, sent as clients send files and fetched as they fetch them."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import Final

import trio
from grpclib.exceptions import GRPCError

from fawa.client import connect, rpc
from fawa.client.dial import Origin, parse_link
from fawa.client.errors import CannotReach
from fawa.client.files import get_link
from fawa.ops.doctor.daemon import get
from fawa.ops.doctor.findings import Case, Finding, NotLookedAt
from fawa.proto.file.v1.file_grpc import FileServiceBase
from fawa.proto.file.v1.file_pb2 import FileInfo, SendFileRequest

#: What the doctor's file is called, and has in it.
NAME: Final = "fawad-doctor.txt"
CONTENT: Final = b"+"

#: Seconds that clocks may differ: Date headers have whole seconds, and answers take their time.
MOST_APART: Final = 30.0


async def public_link(case: Case) -> list[Finding]:
    """Send a file of one byte, which expires like any other, and fetch it by its link."""
    if "file" not in case.settings.services:
        raise NotLookedAt("file is not among the services")
    case.need_daemon()
    own = case.own()
    try:
        url = await _share(own, case.timeout)
    except GRPCError as error:
        return [
            Finding(f"The daemon does not take a file: {error.message}", "See fawad's log for the reason")
        ]
    origin, _ = parse_link(url)
    public = case.settings.public_url
    # Links to a bucket may lead straight there, by a name of its own.
    if public and not case.settings.s3.public_endpoint and not url.startswith(f"{public}/"):
        problem = f"The daemon makes links to {origin}, and public_url is {public}"
        return [Finding(problem, "Send it SIGHUP, so that it reads its settings anew, and see its log")]
    name = f"The public link ({origin})"
    try:
        trust = case.trust(origin)
        headers, body = await get(url, trust, case.timeout, [(b"range", b"bytes=0-0")])
    except GRPCError as error:
        if case.settings.public_url:
            advice = "See that public_url is the address by which clients come, and that it leads here"
        else:
            advice = "Set public_url to the address by which clients come"
        return [Finding(f"{name} cannot be followed: {error.message}", advice)]
    case.clocks |= clock_of(str(origin), headers, case.clock())
    status = int(headers[b":status"])
    if status in (200, 206) and body == CONTENT:
        return []
    return [_refused(name, status, origin, own)]


async def _share(own: Origin, timeout: float) -> str:
    """Return a link to a new file.

    Raises:
        GRPCError: there is none.

    """
    with trio.move_on_after(2 * timeout):
        # By this address no certificate need know it.
        async with connect(str(own), insecure=True) as channel:
            async with channel.client_stream(rpc(FileServiceBase.SendFile)) as upload:
                await upload.send(SendFileRequest(info=FileInfo(name=NAME, size=len(CONTENT))))
                await upload.send(SendFileRequest(chunk_data=CONTENT))
                key = (await upload.reply()).randomkey
            return (await get_link(channel, key)).url
    raise CannotReach(f"no answer in {2 * timeout:g} s")


def _refused(name: str, status: int, link: Origin, own: Origin) -> Finding:
    if status == 403:
        problem = f"{name} is refused with HTTP status 403, as if its signature were wrong"
        advice = (
            "A proxy on the way is to pass the path, the query and the Host header on as they come; fawads "
            "that serve under one name need the same link_secret"
        )
    elif status in (200, 206):
        problem = f"{name} leads to another content than was sent"
        advice = "A proxy on the way, or another server under that name, answers in fawad's place"
    elif status == 404 and link != own:
        problem = f"{name} leads nowhere: HTTP status 404"
        advice = (
            "See that public_url leads to this fawad, and that a path in it is taken off on the way; fawads "
            "that serve under one name have to share their storage"
        )
    else:
        problem = f"{name} answers with HTTP status {status}"
        advice = "See the logs of fawad, and of the proxy on the way if there is one"
    return Finding(problem, advice)


def clock_of(whose: str, headers: dict[bytes, bytes], now: float) -> dict[str, float]:
    """Return how far the clock of who answered is ahead of `now`, by its owner; nothing if it did not say."""
    try:
        told = parsedate_to_datetime(headers[b"date"].decode("latin-1")).timestamp()
    except (KeyError, ValueError):
        return {}
    return {whose: told - now}


async def clocks(case: Case) -> list[Finding]:
    """Compare this machine's clock with those of others."""
    await trio.lowlevel.checkpoint()
    if not case.clocks:
        raise NotLookedAt("nobody who answered told the time")
    return [
        Finding(
            f"This machine's clock is {abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} "
            f"that of {whose}",
            "Have the clocks of both machines set by NTP (timedatectl set-ntp true): how long links and "
            "certificates are valid is counted by them",
        )
        for whose, ahead in case.clocks.items()
        if abs(ahead) > MOST_APART
    ]
