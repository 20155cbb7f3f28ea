"""TCP and UDP on one port: what the daemon does when it gets both, one, or is told to leave UDP alone."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
import trio

from fawa.config import Loaded, load
from fawa.net import tcp
from fawa.net.udp import UdpSocket, bind_udp
from fawa.supervisor import StartError, Supervisor


def secure(folder: Path, address: str, *flags: str) -> Loaded:
    """Return settings for a daemon that listens on one address, with TLS."""
    return load(
        [
            "--data-dir",
            str(folder),
            "--listen",
            "off",
            "--admin-listen",
            "off",
            "--listen-tls",
            address,
            *flags,
        ],
        {},
        folder,
    )


async def start(loaded: Loaded) -> list[str]:
    """Start a daemon and end it at once; return its addresses."""
    async with trio.open_nursery() as nursery:
        endpoints: list[tcp.Endpoint] = await nursery.start(Supervisor(loaded, lambda: loaded, []).run)
        addresses = [endpoint.address for endpoint in endpoints]
        nursery.cancel_scope.cancel()
    return addresses


async def test_a_udp_port_in_use_is_told_with_the_way_out(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        told = re.escape(
            f"cannot listen on {taken} (UDP, for QUIC): Address already in use; "
            "free the port, or set quic.enabled to off"
        )
        with pytest.RaisesGroup(pytest.RaisesExc(StartError, match=f"^{told}$"), flatten_subgroups=True):
            await start(secure(tmp_path, taken))
        # The way out is one, and the failed start has let go of the TCP port.
        assert await start(secure(tmp_path, taken, "--quic-enabled", "off")) == [taken]


async def test_a_free_port_is_one_for_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    bound: list[UdpSocket] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:

        def bind_after_another(host: str, port: int) -> UdpSocket:
            asked.append(port)
            if len(asked) == 1:
                other.bind((host, port))
            bound.append(bind_udp(host, port))
            return bound[-1]

        monkeypatch.setattr(tcp, "bind_udp", bind_after_another)
        [address] = await start(secure(tmp_path, "127.0.0.1:0"))
    assert len(asked) == 2, "the first port was another's on UDP, so a second was tried"
    assert address == f"127.0.0.1:{asked[1]}"
    assert len(bound) == 1
