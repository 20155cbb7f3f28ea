"""grpclib's own client, on asyncio, with the stubs that `scripts/generate` makes.

It has a process of its own because it closes connections without waiting for their end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from grpclib.client import Channel
from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.proto.file.v1.file_grpc import FileServiceStub
from fawa.proto.file.v1.file_pb2 import (
    FileInfo,
    GetDownloadURLRequest,
    ReceiveFileRequest,
    SendFileRequest,
)
from fawa.proto.greet.v1.greet_grpc import GreetServiceStub
from fawa.proto.greet.v1.greet_pb2 import (
    GreetBidiStreamRequest,
    GreetClientStreamRequest,
    GreetStreamRequest,
    SayHelloRequest,
)
from tests.daemon import PATIENCE
from tests.interop import expect
from tests.interop.clients import scenarios
from tests.interop.target import Target


@asynccontextmanager
async def channel_to(target: Target) -> AsyncIterator[Channel]:
    context = target.ssl_context("h2") if target.certificate else None
    async with Channel("127.0.0.1", target.port, ssl=context, config=Configuration()) as channel:
        yield channel


def all_four_kinds(target: Target) -> None:
    async def main() -> None:
        async with channel_to(target) as channel:
            stub = GreetServiceStub(channel)
            for name in expect.NAMES:
                assert (await stub.SayHello(SayHelloRequest(name=name), timeout=PATIENCE)).resp == (
                    expect.greeting(name)
                )
                parts = await stub.GreetStream(GreetStreamRequest(name=name), timeout=PATIENCE)
                assert [message.part for message in parts] == expect.parts(name)
                said = [GreetClientStreamRequest(name=one) for one in (name, "Bob")]
                reply = await stub.GreetClientStream(said, timeout=PATIENCE)
                assert reply.summary == expect.summary(name, "Bob")

    asyncio.run(main())


def bidi_answers_each_name_at_once(target: Target) -> None:
    async def main() -> None:
        async with (
            channel_to(target) as channel,
            GreetServiceStub(channel).GreetBidiStream.open(timeout=PATIENCE) as stream,
        ):
            for name in expect.NAMES:
                await stream.send_message(GreetBidiStreamRequest(name=name))
                answer = await stream.recv_message()
                assert answer is not None
                assert answer.echo == expect.greeting(name)
            await stream.end()
            assert await stream.recv_message() is None

    asyncio.run(main())


def metadata(target: Target) -> None:
    async def main() -> None:
        async with channel_to(target) as channel:
            sent: dict[str, str | bytes] = {"x-plain": "a", "x-raw-bin": bytes(range(256))}
            async with GreetServiceStub(channel).SayHello.open(timeout=PATIENCE, metadata=sent) as stream:
                await stream.send_message(SayHelloRequest(name="Ada"), end=True)
                await stream.recv_initial_metadata()
                assert stream.initial_metadata is not None
                assert expect.VERSION_HEADER in list(stream.initial_metadata.items())
                answer = await stream.recv_message()
                assert answer is not None
                assert answer.resp == expect.greeting("Ada")
                await stream.recv_trailing_metadata()

    asyncio.run(main())


def deadline_and_cancellation(target: Target) -> None:
    async def main() -> None:
        async with channel_to(target) as channel:
            stub = GreetServiceStub(channel)

            async def wait_for_more(timeout: float) -> None:
                async with stub.GreetBidiStream.open(timeout=timeout) as stream:
                    await stream.send_message(GreetBidiStreamRequest(name="Ada"))
                    assert await stream.recv_message() is not None
                    await stream.recv_message()

            with pytest.raises((GRPCError, asyncio.TimeoutError)) as failed:
                await wait_for_more(0.5)
            if isinstance(failed.value, GRPCError):
                assert failed.value.status is Status.DEADLINE_EXCEEDED

            async with stub.GreetBidiStream.open(timeout=PATIENCE) as stream:
                await stream.send_message(GreetBidiStreamRequest(name="Ada"))
                assert await stream.recv_message() is not None
                await stream.cancel()

            reply = await stub.SayHello(SayHelloRequest(name="Bob"), timeout=PATIENCE)
            assert reply.resp == expect.greeting("Bob")

    asyncio.run(main())


def files_and_errors(target: Target) -> None:
    data = expect.content(2_000_003)

    async def main() -> None:
        async with channel_to(target) as channel:
            stub = FileServiceStub(channel)
            chunks = [data[start : start + 65536] for start in range(0, len(data), 65536)]
            requests = [
                SendFileRequest(info=FileInfo(name="a.bin", size=len(data))),
                *(SendFileRequest(chunk_data=chunk) for chunk in chunks),
            ]
            sent = await stub.SendFile(requests, timeout=PATIENCE)
            received = await stub.ReceiveFile(ReceiveFileRequest(randomkey=sent.randomkey), timeout=PATIENCE)
            assert (received[0].filename, received[0].file_size) == ("a.bin", len(data))
            assert expect.sha256(b"".join(m.chunk_data for m in received[1:])) == expect.sha256(data)

            with pytest.raises(GRPCError) as failed:
                await stub.GetDownloadURL(GetDownloadURLRequest(randomkey="nobody"), timeout=PATIENCE)
            assert failed.value.status is Status.NOT_FOUND
            with pytest.raises(GRPCError) as failed:
                await stub.SendFile(requests[1:], timeout=PATIENCE)
            assert failed.value.status is Status.INVALID_ARGUMENT

    asyncio.run(main())


if __name__ == "__main__":
    scenarios.main(
        all_four_kinds, bidi_answers_each_name_at_once, metadata, deadline_and_cancellation, files_and_errors
    )
