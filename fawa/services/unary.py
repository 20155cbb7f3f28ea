"""The request of a method that takes one message."""

from __future__ import annotations

from typing import Any, TypeVar

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.rpc.stream import Stream

Received = TypeVar("Received")


async def receive_one(stream: Stream[Received, Any]) -> Received:
    """Return the request message.

    Raises:
        GRPCError: UNIMPLEMENTED, there is none (https://grpc.github.io/grpc/core/md_doc_statuscodes.html,
            "request cardinality violation").

    """
    message = await stream.recv_message()
    if message is None:
        raise GRPCError(Status.UNIMPLEMENTED, "this method takes one request message, and none came")
    return message
