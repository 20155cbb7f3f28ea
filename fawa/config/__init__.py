"""Settings: what can be set, where it comes from, and whether it makes sense.

Flag over environment over file over default. `settings` is the table that everything is made from, `kinds`
reads and writes values, `sources` reads flags, environment and file, `loading` brings them together and
`showing` prints them.
"""

from fawa.config.kinds import Address, UnixAddress, origin_allowed
from fawa.config.loading import ConfigError, Loaded, load
from fawa.config.settings import (
    AdminSettings,
    CorsSettings,
    FileSettings,
    LimitSettings,
    LogSettings,
    QuicSettings,
    RestartSettings,
    Settings,
    TimeoutSettings,
    TlsSettings,
    WindowSettings,
    live_changes,
)
from fawa.config.showing import document, render
from fawa.config.sources import add_arguments

__all__ = [
    "Address",
    "AdminSettings",
    "ConfigError",
    "CorsSettings",
    "FileSettings",
    "LimitSettings",
    "Loaded",
    "LogSettings",
    "QuicSettings",
    "RestartSettings",
    "Settings",
    "TimeoutSettings",
    "TlsSettings",
    "UnixAddress",
    "WindowSettings",
    "add_arguments",
    "document",
    "live_changes",
    "load",
    "origin_allowed",
    "render",
]
