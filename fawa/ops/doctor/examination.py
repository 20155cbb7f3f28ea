"""All checks, one after the other."""

from __future__ import annotations

from typing import Final

from fawa.ops.doctor import certificate, daemon, machine, public, stores, udp
from fawa.ops.doctor.findings import Case, Check, Examined, Finding, NotLookedAt

#: In the order in which they are made: what others need comes first.
CHECKS: Final[tuple[tuple[str, Check], ...]] = (
    ("data folder", machine.data_folder),
    ("S3", stores.s3),
    ("Redis", stores.redis),
    ("certificate", certificate.certificate),
    ("daemon", daemon.daemon),
    ("file descriptors", machine.descriptors),
    ("UDP buffers", machine.udp_buffers),
    ("public link", public.public_link),
    ("WebTransport", udp.webtransport),
    ("clock", public.clocks),
)


async def examine(case: Case) -> list[Examined]:
    """Make all checks; each takes a few times `case.timeout` at most."""
    return [await _examine(name, check, case) for name, check in CHECKS]


async def _examine(name: str, check: Check, case: Case) -> Examined:
    try:
        return Examined(name, tuple(await check(case)))
    except NotLookedAt as reason:
        return Examined(name, skipped=str(reason))
    except Exception as error:
        # One check that comes upon what it does not know must not hide what the others find.
        problem = f"this check itself failed: {type(error).__name__}: {error}"
        return Examined(name, (Finding(problem, "Report it, with this text; the other checks were made"),))
