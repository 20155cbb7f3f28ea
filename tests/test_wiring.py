"""What settings become of the services that they enable."""

from __future__ import annotations

from pathlib import Path

import pytest

from fawa.config import load
from fawa.services.canva import CanvaService
from fawa.wiring import make_services


@pytest.mark.parametrize(
    ("public_url", "origin", "may"),
    [
        ("https://fawa.example", "https://fawa.example", True),
        ("https://fawa.example:443/under", "https://fawa.example", True),
        ("https://fawa.example:8443", "https://fawa.example:8443", True),
        ("https://[2001:db8::1]/", "https://[2001:db8::1]", True),
        ("https://fawa.example", "http://fawa.example", False),
        ("https://fawa.example", "https://fawa.example:8443", False),
        ("https://fawa.example", "https://evil.example", False),
        ("", "https://fawa.example", False),
        ("", "http://localhost:3000", True),
    ],
)
async def test_which_pages_may_come_to_boards(
    tmp_path: Path, public_url: str, origin: str, may: bool
) -> None:
    flags = ["--services", "canva", "--data-dir", str(tmp_path), "--public-url", public_url]
    services = await make_services(load(flags, {}, tmp_path).settings)
    (canva,) = [service for service in services if isinstance(service, CanvaService)]
    assert canva.settings.allows(origin) is may
