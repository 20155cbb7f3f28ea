"""Settings that what operators deploy names, perhaps before `fawad` has them: those of S3."""

from __future__ import annotations

from typing import Final

from fawa.config.settings import TABLE

#: Their keys.
KEYS: Final = frozenset(
    (
        *("s3.endpoint", "s3.bucket", "s3.access_key", "s3.secret_key", "s3.region", "s3.prefix"),
        *("s3.public_endpoint", "s3.virtual_host", "s3.ca"),
    )
)
#: Their variables.
AWAITED: Final = frozenset("FAWA_" + key.replace(".", "_").upper() for key in KEYS if key not in TABLE)
