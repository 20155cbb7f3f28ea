"""Settings of the property tests here: how long an example takes decides nothing."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("rpc", deadline=None)
settings.load_profile("rpc")
