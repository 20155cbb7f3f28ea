"""grpcio's clients of the standard services: health checking and reflection."""

from __future__ import annotations

import pytest

from tests.interop.programs import run_client
from tests.interop.target import Target


@pytest.mark.parametrize("scenario", ["check", "watch", "serving_by_health_check"])
def test_health(target: Target, scenario: str) -> None:
    run_client("grpcio_health", scenario, target)


@pytest.mark.parametrize("scenario", ["services", "call_by_reflection", "every_question"])
def test_reflection(target: Target, scenario: str) -> None:
    run_client("grpcio_reflection", scenario, target)
