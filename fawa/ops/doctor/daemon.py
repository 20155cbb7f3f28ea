"""The running daemon: whether it answers, whether it calls itself ready, and what else it says of itself."""

from __future__ import annotations

import re
from typing import Final

import msgspec
import trio
from grpclib.exceptions import GRPCError

from fawa.client.dial import Origin, Trust
from fawa.client.errors import CannotReach
from fawa.client.link import fetch
from fawa.config import UnixAddress
from fawa.ops.doctor.findings import Case, Finding, reached

#: Bytes of the largest answer of the admin listener that is looked at.
_MOST: Final = 4 * 1024 * 1024
_DESCRIPTORS: Final = re.compile(rb"^process_max_fds ([0-9.e+]+)$", re.MULTILINE)


class _Ready(msgspec.Struct):
    """What `/readyz` answers."""

    ready: bool
    checks: dict[str, str]


async def daemon(case: Case) -> list[Finding]:
    """Ask the daemon where it listens."""
    origin = case.own()
    try:
        # By this address no certificate need know it.
        await get(f"{origin}/", Trust(insecure=True), case.timeout)
    except GRPCError as error:
        return [
            Finding(
                f"The daemon does not answer: {error.message}", "Start it; its log says why if it does not"
            )
        ]
    case.answers = True
    return await _admin(case)


async def _admin(case: Case) -> list[Finding]:
    admin = case.settings.admin
    if admin.listen is None or isinstance(admin.listen, UnixAddress) or not admin.listen.port:
        return []
    origin = Origin("http", reached(admin.listen), admin.listen.port)
    bearer = [] if admin.token is None else [(b"authorization", b"Bearer " + admin.token.encode())]
    try:
        _, metrics = await get(f"{origin}/metrics", Trust(), case.timeout, bearer)
        _, told = await get(f"{origin}/readyz", Trust(), case.timeout)
        ready = msgspec.json.decode(told, type=_Ready)
    except (GRPCError, msgspec.DecodeError) as error:
        why = error.message if isinstance(error, GRPCError) else "something else than fawad answers there"
        return [Finding(f"The admin listener does not answer: {why}", "See admin.listen, and fawad's log")]
    if found := _DESCRIPTORS.search(metrics):
        case.descriptors = int(float(found[1]))
    return [
        Finding(
            f"The daemon is not ready: {name}: {text}", "Mend that; until then no clients should be sent here"
        )
        for name, text in ready.checks.items()
        if text != "ok"
    ]


async def get(
    url: str, trust: Trust, timeout: float, headers: list[tuple[bytes, bytes]] | None = None
) -> tuple[dict[bytes, bytes], bytes]:
    """Return the headers of an answer, its status under `:status`, and its body, up to a bound.

    Raises:
        GRPCError: there is none, `CannotReach` where there is nobody to answer.

    """
    with trio.move_on_after(timeout):
        async with fetch(url, headers or [], trust) as response:
            fields = dict(response.headers) | {b":status": b"%d" % response.status}
            body = b""
            while len(body) < _MOST and (piece := await response.receive()):
                body += piece
            return fields, body
    raise CannotReach(f"{url} does not answer in {timeout:g} s")
