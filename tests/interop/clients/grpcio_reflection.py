"""grpcio's client of server reflection; its descriptors clash with grpclib's in one pool."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (  # type: ignore[import-untyped]
    ProtoReflectionDescriptorDatabase,
)

from tests.daemon import PATIENCE
from tests.interop import expect
from tests.interop.clients import scenarios
from tests.interop.grpcio_channel import channel_to
from tests.interop.target import Target


def services(target: Target) -> None:
    with channel_to(target) as channel:
        listed = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert listed >= {
        *expect.SERVICES,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }


def call_by_reflection(target: Target) -> None:
    """Call all that can be called, knowing nothing but what the server tells of itself."""
    with channel_to(target) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        for name in expect.SERVICES:
            assert pool.FindServiceByName(name).methods
        method = pool.FindServiceByName("greet.v1.GreetService").methods_by_name["SayHello"]
        request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        say_hello = channel.unary_unary(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        assert say_hello(request(name="Ada"), timeout=PATIENCE).resp == expect.greeting("Ada")


def every_question(target: Target) -> None:
    with channel_to(target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        by_name = database.FindFileByName("greet/v1/greet.proto")
        assert [service.name for service in by_name.service] == ["GreetService"]
        by_symbol = database.FindFileContainingSymbol("file.v1.FileInfo")
        assert by_symbol.name == "file/v1/file.proto"
        assert list(database.FindAllExtensionNumbers("greet.v1.SayHelloRequest")) == []
        for ask in (database.FindFileByName, database.FindFileContainingSymbol):
            with pytest.raises(KeyError):
                ask("nobody.v1.Nobody")


if __name__ == "__main__":
    scenarios.main(services, call_by_reflection, every_question)
