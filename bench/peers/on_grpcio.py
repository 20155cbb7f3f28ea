"""The greet and file services on grpcio.aio: gRPC's C core, on uvloop because it is a little faster so.

`python on_grpcio.py [FOLDER]` also serves files, kept in FOLDER, with what fawad promises of an upload: name
checked, written to a temporary file by a worker thread while the SHA-256 is taken, size verified, fsync, then
published by rename and fsync of the folder. Records live in memory (fawad keeps them in SQLite), so the
peer does a little less.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO

import attrs
import grpc.aio  # type: ignore[import-untyped]
import uvloop
from ready import tell_ready

from fawa.proto.file.v1 import file_pb2 as file
from fawa.proto.greet.v1 import greet_pb2 as greet


async def say_hello(request: greet.SayHelloRequest, context: Any) -> greet.SayHelloResponse:
    await context.send_initial_metadata((("greet-version", "v1"),))
    return greet.SayHelloResponse(resp=f"Hello, {request.name}!")


async def greet_bidi_stream(
    requests: AsyncIterator[greet.GreetBidiStreamRequest], context: Any
) -> AsyncIterator[greet.GreetBidiStreamResponse]:
    async for request in requests:
        yield greet.GreetBidiStreamResponse(echo=f"Hello, {request.name}!")


@attrs.frozen
class Stored:
    name: str
    size: int
    sha256: bytes


@attrs.define
class Content:
    """An upload on its way to disk."""

    file: BinaryIO
    size: int = 0
    digest: Any = attrs.field(factory=hashlib.sha256)

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.size += len(data)

    def publish(self, path: Path) -> None:
        """Make it durable, then visible under its key."""
        self.file.flush()
        os.fsync(self.file.fileno())
        Path(self.file.name).rename(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@attrs.frozen
class Files:
    folder: Path
    records: dict[str, Stored] = attrs.field(factory=dict)

    async def send_file(
        self, requests: AsyncIterator[file.SendFileRequest], context: Any
    ) -> file.SendFileResponse:
        first = await anext(requests)
        name = first.info.name
        if first.WhichOneof("payload") != "info" or not name or name.startswith("/") or ".." in name:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "the first message must be info with a plain name"
            )
        key = secrets.token_urlsafe(12)
        partial = self.folder / f"{key}.partial"
        try:
            with partial.open("wb", buffering=0) as opened:
                content = Content(opened)
                async for request in requests:
                    await asyncio.to_thread(content.write, request.chunk_data)
                if content.size != first.info.size:
                    await context.abort(
                        grpc.StatusCode.INVALID_ARGUMENT,
                        f"got {content.size} bytes, announced {first.info.size}",
                    )
                await asyncio.to_thread(content.publish, self.folder / key)
        finally:
            partial.unlink(missing_ok=True)
        self.records[key] = Stored(name, content.size, content.digest.digest())
        return file.SendFileResponse(success=True, message=f"received {name}", randomkey=key)

    async def receive_file(self, request: file.ReceiveFileRequest, context: Any) -> None:
        """Answer in chunks of the size that the request metadata `bench-chunk` asks for, else of 64 KiB."""
        record = self.records.get(request.randomkey)
        if record is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no file {request.randomkey!r}")
            return
        chunk = int(dict(context.invocation_metadata()).get("bench-chunk", 65536))
        await context.write(file.ReceiveFileResponse(filename=record.name, file_size=record.size))
        with (self.folder / request.randomkey).open("rb", buffering=0) as opened:
            while data := await asyncio.to_thread(opened.read, chunk):
                await context.write(file.ReceiveFileResponse(filename=record.name, chunk_data=data))


async def main(folder: Path | None) -> None:
    server = grpc.aio.server()
    services = {
        "greet.v1.GreetService": {
            "SayHello": grpc.unary_unary_rpc_method_handler(
                say_hello,
                request_deserializer=greet.SayHelloRequest.FromString,
                response_serializer=greet.SayHelloResponse.SerializeToString,
            ),
            "GreetBidiStream": grpc.stream_stream_rpc_method_handler(
                greet_bidi_stream,
                request_deserializer=greet.GreetBidiStreamRequest.FromString,
                response_serializer=greet.GreetBidiStreamResponse.SerializeToString,
            ),
        }
    }
    if folder is not None:
        files = Files(folder)
        services["file.v1.FileService"] = {
            "SendFile": grpc.stream_unary_rpc_method_handler(
                files.send_file,
                request_deserializer=file.SendFileRequest.FromString,
                response_serializer=file.SendFileResponse.SerializeToString,
            ),
            "ReceiveFile": grpc.unary_stream_rpc_method_handler(
                files.receive_file,
                request_deserializer=file.ReceiveFileRequest.FromString,
                response_serializer=file.ReceiveFileResponse.SerializeToString,
            ),
        }
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items()]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    tell_ready(port)
    await stop.wait()
    await server.stop(0)


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
