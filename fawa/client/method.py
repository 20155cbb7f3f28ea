"""RPC methods with their types, from the service bases that grpclib generates."""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import attrs
from google.protobuf.message import Message

from fawa.rpc.face import Method

if TYPE_CHECKING:
    from grpclib._typing import IServable
    from grpclib.server import Stream

Sent = TypeVar("Sent", bound=Message)
Received = TypeVar("Received", bound=Message)


@attrs.frozen
class Rpc(Generic[Sent, Received]):
    """A method that is called with messages of the type `Sent` and answers with `Received`."""

    method: Method


def rpc(function: Callable[[Any, Stream[Sent, Received]], Awaitable[None]]) -> Rpc[Sent, Received]:
    """Return the method that a generated service base declares, such as `rpc(GreetServiceBase.SayHello)`.

    Raises:
        KeyError: `function` is no method of a generated base.

    """
    class_name, _, name = function.__qualname__.rpartition(".")
    return methods(getattr(sys.modules[function.__module__], class_name))[name]


@functools.cache
def methods(base: type[IServable]) -> Mapping[str, Rpc[Any, Any]]:
    """Return all methods of a service by their names, from the base that grpclib generated for it."""
    # The mapping only looks the methods up, and finds them on the class as on an instance.
    mapping = base.__mapping__(cast("IServable", base))
    return MappingProxyType(
        {handler.func.__name__: Rpc(Method.from_handler(path, handler)) for path, handler in mapping.items()}
    )
