"""The `connectrpc` package's client: three protocols, two codecs, both HTTP versions, async and sync."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from connectrpc.client import ResponseMetadata
from connectrpc.code import Code
from connectrpc.codec import proto_binary_codec, proto_json_codec
from connectrpc.compression.gzip import GzipCompression
from connectrpc.errors import ConnectError
from connectrpc.protocol import ProtocolType
from protobuf import Oneof
from pyqwest import Client, HTTPTransport, HTTPVersion, SyncClient, SyncHTTPTransport

from tests.daemon import PATIENCE
from tests.interop import expect
from tests.interop.target import Target


@attrs.frozen
class Style:
    """A way this client can speak."""

    protocol: ProtocolType
    codec: str
    version: HTTPVersion

    def __str__(self) -> str:
        return f"{self.protocol.name.lower()}-{self.codec}-h{1 if self.version == HTTPVersion.HTTP1 else 2}"

    def settings(self) -> dict[str, Any]:
        codec = proto_json_codec() if self.codec == "json" else proto_binary_codec()
        return {"protocol": self.protocol, "codec": codec, "timeout_ms": int(PATIENCE * 1000)}


STYLES = [
    Style(ProtocolType.CONNECT, "proto", HTTPVersion.HTTP1),
    Style(ProtocolType.CONNECT, "json", HTTPVersion.HTTP1),
    Style(ProtocolType.CONNECT, "proto", HTTPVersion.HTTP2),
    Style(ProtocolType.CONNECT, "json", HTTPVersion.HTTP2),
    # Over HTTP/1.1 this client speaks no gRPC: its transport reads no trailers there.
    Style(ProtocolType.GRPC, "proto", HTTPVersion.HTTP2),
    Style(ProtocolType.GRPC_WEB, "proto", HTTPVersion.HTTP1),
    Style(ProtocolType.GRPC_WEB, "proto", HTTPVersion.HTTP2),
]
styles = pytest.mark.parametrize("style", STYLES, ids=str)


@pytest.fixture(scope="session")
def greet(generated: Path) -> Any:
    return importlib.import_module("greet.v1.greet_pb")


@pytest.fixture(scope="session")
def greet_connect(generated: Path) -> Any:
    return importlib.import_module("greet.v1.greet_connect")


@pytest.fixture(scope="session")
def file(generated: Path) -> Any:
    return importlib.import_module("file.v1.file_pb")


@pytest.fixture(scope="session")
def file_connect(generated: Path) -> Any:
    return importlib.import_module("file.v1.file_connect")


def trust(target: Target) -> dict[str, bytes]:
    return {"tls_ca_cert": target.certificate.read_bytes()} if target.certificate else {}


@asynccontextmanager
async def http_client(target: Target, version: HTTPVersion) -> AsyncIterator[Client]:
    async with HTTPTransport(http_version=version, **trust(target)) as transport:  # type: ignore[arg-type]
        yield Client(transport)


async def each(messages: list[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message


@styles
def test_all_four_kinds(target: Target, style: Style, greet: Any, greet_connect: Any) -> None:
    async def converse(client: Any, name: str) -> None:
        with ResponseMetadata() as answered:
            assert (await client.say_hello(greet.SayHelloRequest(name=name))).resp == expect.greeting(name)
        assert expect.VERSION_HEADER in list(answered.headers.allitems())

        stream = client.greet_stream(greet.GreetStreamRequest(name=name))
        assert [message.part async for message in stream] == expect.parts(name)

        said = [greet.GreetClientStreamRequest(name=one) for one in (name, "Bob", name)]
        assert (await client.greet_client_stream(each(said))).summary == expect.summary(name, "Bob", name)

        said = [greet.GreetBidiStreamRequest(name=one) for one in (name, "Bob")]
        echoes = [message.echo async for message in client.greet_bidi_stream(each(said))]
        assert echoes == [expect.greeting(name), expect.greeting("Bob")]

    async def main() -> None:
        async with (
            http_client(target, style.version) as http,
            greet_connect.GreetServiceClient(target.url, http_client=http, **style.settings()) as client,
        ):
            for name in expect.NAMES:
                await converse(client, name)

    asyncio.run(main())


@pytest.mark.parametrize("style", [style for style in STYLES if style.version == HTTPVersion.HTTP2], ids=str)
def test_bidi_answers_each_name_at_once(target: Target, style: Style, greet: Any, greet_connect: Any) -> None:
    async def main() -> None:
        answered = asyncio.Event()

        async def say() -> AsyncIterator[Any]:
            for name in expect.NAMES:
                yield greet.GreetBidiStreamRequest(name=name)
                await answered.wait()
                answered.clear()

        async with (
            http_client(target, style.version) as http,
            greet_connect.GreetServiceClient(target.url, http_client=http, **style.settings()) as client,
        ):
            echoes = []
            async for message in client.greet_bidi_stream(say()):
                echoes.append(message.echo)
                answered.set()
            assert echoes == [expect.greeting(name) for name in expect.NAMES]

    asyncio.run(main())


@pytest.mark.parametrize("style", STYLES[:4], ids=str)
@pytest.mark.parametrize("compression", [None, GzipCompression()], ids=["identity", "gzip"])
def test_unary_by_get(target: Target, style: Style, compression: Any, greet: Any, greet_connect: Any) -> None:
    async def main() -> None:
        async with (
            http_client(target, style.version) as http,
            greet_connect.GreetServiceClient(
                target.url, http_client=http, send_compression=compression, **style.settings()
            ) as client,
        ):
            for name in (*expect.NAMES, "Ada " * 500):
                reply = await client.say_hello(greet.SayHelloRequest(name=name), use_get=True)
                assert reply.resp == expect.greeting(name)

    asyncio.run(main())


@styles
def test_file_there_and_back(target: Target, style: Style, file: Any, file_connect: Any) -> None:
    data = expect.content(2_500_001)

    async def upload() -> AsyncIterator[Any]:
        info = file.FileInfo(name="Zoë.bin", size=len(data))
        yield file.SendFileRequest(payload=Oneof("info", info))
        for start in range(0, len(data), 100_000):
            yield file.SendFileRequest(payload=Oneof("chunk_data", data[start : start + 100_000]))

    async def main() -> None:
        async with (
            http_client(target, style.version) as http,
            file_connect.FileServiceClient(target.url, http_client=http, **style.settings()) as client,
        ):
            sent = await client.send_file(upload())
            stream = client.receive_file(file.ReceiveFileRequest(randomkey=sent.randomkey))
            first, *rest = [message async for message in stream]
            assert (first.filename, first.payload) == ("Zoë.bin", Oneof("file_size", len(data)))
            assert expect.sha256(b"".join(message.payload.value for message in rest)) == expect.sha256(data)
            link = await client.get_download_url(file.GetDownloadURLRequest(randomkey=sent.randomkey))
            assert link.filename == "Zoë.bin"
            assert link.url.startswith(target.url + "/")

    asyncio.run(main())


@styles
def test_errors(target: Target, style: Style, file: Any, file_connect: Any) -> None:
    async def main() -> None:
        async with (
            http_client(target, style.version) as http,
            file_connect.FileServiceClient(target.url, http_client=http, **style.settings()) as client,
        ):
            with pytest.raises(ConnectError) as failed:
                await client.get_download_url(file.GetDownloadURLRequest(randomkey="nobody"))
            assert failed.value.code is Code.NOT_FOUND
            assert failed.value.message

            with pytest.raises(ConnectError) as failed:
                await client.get_download_url(file.GetDownloadURLRequest(randomkey=""))
            assert failed.value.code is Code.INVALID_ARGUMENT

            with pytest.raises(ConnectError) as failed:
                await anext(client.receive_file(file.ReceiveFileRequest(randomkey="nobody")))
            assert failed.value.code is Code.NOT_FOUND

            chunk = file.SendFileRequest(payload=Oneof("chunk_data", b"no info before"))
            with pytest.raises(ConnectError) as failed:
                await client.send_file(each([chunk]))
            assert failed.value.code is Code.INVALID_ARGUMENT

    asyncio.run(main())


@styles
def test_limits(target: Target, style: Style, greet: Any, greet_connect: Any) -> None:
    async def main() -> None:
        async with (
            http_client(target, style.version) as http,
            greet_connect.GreetServiceClient(target.url, http_client=http, **style.settings()) as client,
        ):
            # Compressed by this client, so small on the wire and large in memory.
            huge = "x" * (expect.MAX_MESSAGE + 1)
            with pytest.raises(ConnectError) as failed:
                await client.say_hello(greet.SayHelloRequest(name=huge))
            assert failed.value.code is Code.RESOURCE_EXHAUSTED
            with pytest.raises(ConnectError) as failed:
                await client.greet_client_stream(each([greet.GreetClientStreamRequest(name=huge)]))
            assert failed.value.code is Code.RESOURCE_EXHAUSTED

            never = asyncio.Event()

            async def say_and_wait() -> AsyncIterator[Any]:
                yield greet.GreetClientStreamRequest(name="Ada")
                await never.wait()

            with pytest.raises(ConnectError) as failed:
                await client.greet_client_stream(say_and_wait(), timeout_ms=300)
            assert failed.value.code is Code.DEADLINE_EXCEEDED

            assert (await client.say_hello(greet.SayHelloRequest(name="Bob"))).resp == expect.greeting("Bob")

    asyncio.run(main())


@styles
def test_the_sync_client(target: Target, style: Style, greet: Any, greet_connect: Any) -> None:
    def said(kind: Any) -> Iterator[Any]:
        return (kind(name=name) for name in expect.NAMES)

    with (
        SyncHTTPTransport(http_version=style.version, **trust(target)) as transport,  # type: ignore[arg-type]
        greet_connect.GreetServiceClientSync(
            target.url, http_client=SyncClient(transport), **style.settings()
        ) as client,
    ):
        assert client.say_hello(greet.SayHelloRequest(name="Ada")).resp == expect.greeting("Ada")
        stream = client.greet_stream(greet.GreetStreamRequest(name="Ada"))
        assert [message.part for message in stream] == expect.parts("Ada")
        reply = client.greet_client_stream(said(greet.GreetClientStreamRequest))
        assert reply.summary == expect.summary(*expect.NAMES)
        echoes = [message.echo for message in client.greet_bidi_stream(said(greet.GreetBidiStreamRequest))]
        assert echoes == [expect.greeting(name) for name in expect.NAMES]
