"""grpcio's client of `grpc.health.v1`; its descriptors clash with grpclib's in one pool."""

from __future__ import annotations

import sys

import grpc  # type: ignore[import-untyped]
import pytest
from grpc_health.v1 import health_pb2_grpc  # type: ignore[import-untyped]
from grpc_health.v1.health_pb2 import (  # type: ignore[import-untyped]
    HealthCheckRequest,
    HealthCheckResponse,
)

from tests.daemon import PATIENCE
from tests.interop import expect
from tests.interop.clients import scenarios
from tests.interop.grpcio_channel import channel_to
from tests.interop.target import Target

SERVING = HealthCheckResponse.SERVING


def check(target: Target) -> None:
    with channel_to(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", *expect.SERVICES):
            assert stub.Check(HealthCheckRequest(service=service), timeout=PATIENCE).status == SERVING
        with pytest.raises(grpc.RpcError) as failed:
            stub.Check(HealthCheckRequest(service="nobody.v1.Nobody"), timeout=PATIENCE)
        assert failed.value.code() is grpc.StatusCode.NOT_FOUND


def watch(target: Target) -> None:
    with channel_to(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", *expect.SERVICES):
            watched = stub.Watch(HealthCheckRequest(service=service), timeout=PATIENCE)
            assert next(watched).status == SERVING
            watched.cancel()
        watched = stub.Watch(HealthCheckRequest(service="nobody.v1.Nobody"), timeout=PATIENCE)
        assert next(watched).status == HealthCheckResponse.SERVICE_UNKNOWN
        watched.cancel()
        watched = stub.Watch(HealthCheckRequest(), timeout=0.5)
        assert next(watched).status == SERVING
        with pytest.raises(grpc.RpcError) as failed:
            next(watched)
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def serving_by_health_check(target: Target) -> None:
    """A channel that balances by health asks the server itself before it sends calls."""
    config = (
        '{"loadBalancingConfig": [{"round_robin": {}}],'
        ' "healthCheckConfig": {"serviceName": "greet.v1.GreetService"}}'
    )
    with channel_to(target, service_config=config) as channel:
        grpc.channel_ready_future(channel).result(PATIENCE)
        # A SayHelloRequest and the SayHelloResponse that belongs to it, as bytes.
        answer = channel.unary_unary(expect.UNARY)(b"\n\x03Ada", timeout=PATIENCE)
        assert answer == b"\n\x0b" + expect.greeting("Ada").encode()


def watch_shutdown(target: Target) -> None:
    """Write each status that is told, and how the stream ends."""
    with channel_to(target) as channel:
        watched = health_pb2_grpc.HealthStub(channel).Watch(HealthCheckRequest(), timeout=PATIENCE)
        try:
            for answer in watched:
                sys.stdout.write(HealthCheckResponse.ServingStatus.Name(answer.status) + "\n")
                sys.stdout.flush()
        except grpc.RpcError as ended:
            sys.stdout.write(ended.code().name + "\n")


if __name__ == "__main__":
    scenarios.main(check, watch, serving_by_health_check, watch_shutdown)
