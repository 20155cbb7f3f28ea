"""Channels of grpcio, sync and aio, as an application opens them."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import grpc  # type: ignore[import-untyped]

from tests.interop.target import Target


def _arguments(target: Target, options: dict[str, Any]) -> tuple[str, list[tuple[str, Any]]]:
    # A channel with its own pool of connections: what one test leaves in the connection, no other finds.
    settings = {"grpc.use_local_subchannel_pool": 1} | {f"grpc.{name}": options[name] for name in options}
    return target.address, list(settings.items())


def _trust(target: Target) -> Any:
    assert target.certificate is not None
    return grpc.ssl_channel_credentials(target.certificate.read_bytes())


def channel_to(target: Target, **options: Any) -> Any:
    """Open a channel with the client's default settings but for `options`."""
    address, settings = _arguments(target, options)
    if target.certificate is None:
        return grpc.insecure_channel(address, settings)
    return grpc.secure_channel(address, _trust(target), settings)


def aio_channel_to(target: Target, **options: Any) -> Any:
    """Open a channel of `grpc.aio` with the client's default settings but for `options`."""
    address, settings = _arguments(target, options)
    if target.certificate is None:
        return grpc.aio.insecure_channel(address, settings)
    return grpc.aio.secure_channel(address, _trust(target), settings)


class Conversation:
    """Requests of a stream, said one by one."""

    def __init__(self) -> None:
        self._said: queue.Queue[Any] = queue.Queue()

    def say(self, message: Any) -> None:
        self._said.put(message)

    def hang_up(self) -> None:
        self._said.put(None)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._said.get, None)
