"""Tells a service manager how far the daemon is: the protocol of sd_notify(3), for units of `Type=notify`."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

import attrs

from fawa.ops.logging import get_logger

_log = get_logger("fawa.ops.notify")


@attrs.frozen
class Manager:
    """The service manager, or nobody. What it does not take is logged: the daemon serves all the same."""

    #: Its datagram socket: a path, or a name in the abstract namespace after an `@`; "" for nobody.
    address: str = ""

    @classmethod
    def of(cls, environ: Mapping[str, str] = os.environ) -> Manager:
        """Return whoever started this process and wants to know."""
        return cls(environ.get("NOTIFY_SOCKET", ""))

    def ready(self, status: str) -> None:
        """Say that the daemon serves: after the start, and after each reload."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Say that the settings are being read; `ready` ends it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        """Say that the daemon ends."""
        self._tell("STOPPING=1", f"STATUS={status}")

    def _tell(self, *assignments: str) -> None:
        if not self.address:
            return
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)  # a manager that is busy does not hold up the daemon
                sock.sendto("\n".join(assignments).encode(), address)
        except OSError as error:
            _log.warning("service manager not told", socket=self.address, reason=str(error))
