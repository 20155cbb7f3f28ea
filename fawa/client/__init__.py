"""The trio client library: the same dialects and HTTP engine in their client role.

    async with connect("http://127.0.0.1:8080") as channel:
        reply = await channel.unary(rpc(GreetServiceBase.SayHello), SayHelloRequest(name="Ada"))
        print(reply.message.resp)

Names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fawa.client.call import Call, Reply
    from fawa.client.channel import Channel, connect
    from fawa.client.errors import CallFailed, CannotReach, ConnectionLost
    from fawa.client.method import Rpc, methods, rpc

__all__ = [
    "Call",
    "CallFailed",
    "CannotReach",
    "Channel",
    "ConnectionLost",
    "Reply",
    "Rpc",
    "connect",
    "methods",
    "rpc",
]


def __getattr__(name: str) -> Any:
    # The `fawa` command lies in this package too, and its --help should not wait for trio and protobuf.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fawa.client.call import Call, Reply  # noqa: PLC0415
    from fawa.client.channel import Channel, connect  # noqa: PLC0415
    from fawa.client.errors import CallFailed, CannotReach, ConnectionLost  # noqa: PLC0415
    from fawa.client.method import Rpc, methods, rpc  # noqa: PLC0415

    names = (Call, CallFailed, CannotReach, Channel, ConnectionLost, Reply, Rpc, connect, methods, rpc)
    globals().update(zip(__all__, names, strict=True))
    return globals()[name]
