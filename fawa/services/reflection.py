"""Server reflection, `grpc.reflection.v1` and `v1alpha`: the same messages under two names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, Final

import attrs
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpclib._typing import IServable
from grpclib.const import Status
from grpclib.reflection.v1 import reflection_pb2
from grpclib.reflection.v1.reflection_grpc import ServerReflectionBase
from grpclib.reflection.v1alpha import reflection_pb2 as alpha_pb2
from grpclib.reflection.v1alpha.reflection_grpc import ServerReflectionBase as AlphaBase

from fawa.rpc.stream import Stream

#: Returns the full names of the services that are served now.
ServiceNames = Callable[[], Iterable[str]]

_POOL: Final = descriptor_pool.Default()


def reflection(names: ServiceNames) -> tuple[IServable, ...]:
    """Return both versions of the reflection service."""
    return (_Reflection(names), _AlphaReflection(names))


def _answer(request: Any, names: ServiceNames, pb2: ModuleType) -> Any:
    """Answer one reflection request, a message of `pb2`, with another."""
    response = pb2.ServerReflectionResponse(valid_host=request.host, original_request=request)
    kind = request.WhichOneof("message_request")
    try:
        match kind:
            case "list_services":
                for name in sorted(names()):
                    response.list_services_response.service.add(name=name)
            case "file_by_filename":
                _add_files(response, _POOL.FindFileByName(request.file_by_filename))
            case "file_containing_symbol":
                _add_files(response, _file_with(request.file_containing_symbol))
            case "file_containing_extension":
                asked = request.file_containing_extension
                extended = _POOL.FindMessageTypeByName(asked.containing_type)
                found_extension: Any = _POOL.FindExtensionByNumber(extended, asked.extension_number)
                _add_files(response, found_extension.file)
            case "all_extension_numbers_of_type":
                extended = _POOL.FindMessageTypeByName(request.all_extension_numbers_of_type)
                found = response.all_extension_numbers_response
                found.base_type_name = extended.full_name
                found.extension_number.extend(e.number for e in _POOL.FindAllExtensions(extended))
            case _:
                _fail(
                    response, Status.INVALID_ARGUMENT, "the request asks for nothing: set one of its fields"
                )
    except KeyError:
        _fail(response, Status.NOT_FOUND, f"{kind}: there is no {getattr(request, kind)!s}")
    return response


def _file_with(symbol: str) -> FileDescriptor:
    """Return the file that defines a symbol.

    Raises:
        KeyError: none does.

    """
    try:
        return _POOL.FindFileContainingSymbol(symbol)
    except KeyError:
        # The pool knows services, but not their methods, as symbols.
        service, _, method = symbol.rpartition(".")
        return _POOL.FindServiceByName(service).methods_by_name[method].containing_service.file


def _fail(response: Any, status: Status, text: str) -> None:
    response.error_response.error_code = status.value
    response.error_response.error_message = text


def _add_files(response: Any, file: FileDescriptor) -> None:
    """Add a file and all it imports, so that the client need not ask for each."""
    seen: dict[str, bytes] = {}
    waiting = [file]
    while waiting:
        current = waiting.pop(0)
        if current.name not in seen:
            seen[current.name] = current.serialized_pb
            waiting.extend(current.dependencies)
    response.file_descriptor_response.file_descriptor_proto.extend(seen.values())


@attrs.frozen
class _Reflection(ServerReflectionBase):
    names: ServiceNames

    async def ServerReflectionInfo(self, stream: Stream[Any, Any]) -> None:
        async for request in stream:
            await stream.send_message(_answer(request, self.names, reflection_pb2))


@attrs.frozen
class _AlphaReflection(AlphaBase):
    names: ServiceNames

    async def ServerReflectionInfo(self, stream: Stream[Any, Any]) -> None:
        async for request in stream:
            await stream.send_message(_answer(request, self.names, alpha_pb2))
