"""grpclib's own client, on asyncio."""

from __future__ import annotations

import pytest

from tests.interop.programs import run_client
from tests.interop.target import Target


@pytest.mark.parametrize(
    "scenario",
    [
        "all_four_kinds",
        "bidi_answers_each_name_at_once",
        "metadata",
        "deadline_and_cancellation",
        "files_and_errors",
    ],
)
def test_grpclib(target: Target, scenario: str) -> None:
    run_client("grpclib_client", scenario, target)
