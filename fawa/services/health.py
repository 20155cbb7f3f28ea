"""`grpc.health.v1`: what the supervisor knows of each service, for clients to ask and to watch."""

from __future__ import annotations

from typing import Final

import attrs
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.health.v1.health_grpc import HealthBase
from grpclib.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from fawa.rpc.stream import Stream

SERVING: Final = HealthCheckResponse.SERVING
NOT_SERVING: Final = HealthCheckResponse.NOT_SERVING
UNKNOWN: Final = HealthCheckResponse.SERVICE_UNKNOWN

Serving = HealthCheckResponse.ServingStatus


@attrs.define
class HealthState:
    """The serving status of every RPC service by its full name, and of the whole server under ""."""

    _status: dict[str, Serving.ValueType] = attrs.field(factory=dict, init=False)
    _changed: trio.Event = attrs.field(factory=trio.Event, init=False)
    #: Watchers are told no more: the server is shutting down.
    closed: bool = attrs.field(default=False, init=False)

    def set(self, service: str, status: Serving.ValueType) -> None:
        """Set a service's status and tell who watches; "" follows the others."""
        self._status[service] = status
        rest = [value for name, value in self._status.items() if name]
        self._status[""] = SERVING if rest and all(value == SERVING for value in rest) else NOT_SERVING
        self._tell()

    def close(self) -> None:
        """Set everything to NOT_SERVING for good; watchers get that and then the end of their stream."""
        self._status = dict.fromkeys(self._status, NOT_SERVING)
        self.closed = True
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def get(self, service: str) -> Serving.ValueType:
        """Return the status of a service, `UNKNOWN` where there is none of that name."""
        return self._status.get(service, UNKNOWN)

    async def wait_change(self, service: str, known: Serving.ValueType) -> Serving.ValueType:
        """Return the status of a service once it is no longer `known`, or at once when closed.

        A watcher that is slow sees the latest status and not each one between.
        """
        while self.get(service) == known and not self.closed:
            await self._changed.wait()
        return self.get(service)


@attrs.frozen
class Health(HealthBase):
    """The standard health service."""

    state: HealthState

    async def Check(self, stream: Stream[HealthCheckRequest, HealthCheckResponse]) -> None:
        """Answer the status now; NOT_FOUND for a service that is not known."""
        request = await stream.recv_message()
        service = request.service if request is not None else ""
        status = self.state.get(service)
        if status == UNKNOWN:
            raise GRPCError(Status.NOT_FOUND, f"there is no service {service!r}")
        await stream.send_message(HealthCheckResponse(status=status))

    async def Watch(self, stream: Stream[HealthCheckRequest, HealthCheckResponse]) -> None:
        """Answer the status now and at each change, until the client goes or the server shuts down."""
        request = await stream.recv_message()
        service = request.service if request is not None else ""
        status = self.state.get(service)
        await stream.send_message(HealthCheckResponse(status=status))
        while not self.state.closed:
            changed = await self.state.wait_change(service, status)
            if changed != status:
                status = changed
                await stream.send_message(HealthCheckResponse(status=status))
        raise GRPCError(Status.UNAVAILABLE, "the server is shutting down")
