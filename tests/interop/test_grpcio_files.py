"""Files with grpcio: there and back, the link, and every refusal."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest

from tests.daemon import PATIENCE, Daemon
from tests.interop import expect
from tests.interop.grpcio_channel import Conversation, channel_to
from tests.interop.kept import Kept, eventually
from tests.interop.target import Target

Code = grpc.StatusCode


@pytest.fixture
def stub(target: Target, file_grpc: Any) -> Iterator[Any]:
    with channel_to(target) as channel:
        yield file_grpc.FileServiceStub(channel)


def upload(file: Any, name: str, data: bytes, *, chunk: int = 65536) -> Iterator[Any]:
    yield file.SendFileRequest(info=file.FileInfo(name=name, size=len(data)))
    for start in range(0, len(data), chunk):
        yield file.SendFileRequest(chunk_data=data[start : start + chunk])


def download(stub: Any, file: Any, key: str) -> tuple[str, bytes]:
    """Return name and content, having checked what every message must carry."""
    first, *rest = stub.ReceiveFile(file.ReceiveFileRequest(randomkey=key), timeout=PATIENCE)
    assert first.WhichOneof("payload") == "file_size"
    assert {message.filename for message in rest} <= {first.filename}
    assert {message.WhichOneof("payload") for message in rest} <= {"chunk_data"}
    data = b"".join(message.chunk_data for message in rest)
    assert first.file_size == len(data)
    return first.filename, data


@pytest.mark.parametrize(
    ("name", "size", "chunk"),
    [
        ("a.bin", 5 * 1024 * 1024 + 17, 1024 * 1024),
        ("small chunks.bin", 300_001, 997),
        ("empty.txt", 0, 1),
        ("one", 1, 1),
        ("Zoë's 李雷 🦊.tar.gz", 100_000, 4096),
    ],
)
def test_there_and_back(stub: Any, file: Any, target: Target, name: str, size: int, chunk: int) -> None:
    data = expect.content(size)
    sent = stub.SendFile(upload(file, name, data, chunk=chunk), timeout=PATIENCE)
    assert sent.success
    assert len(sent.randomkey) >= 10, "a key that could be guessed"

    received_name, received = download(stub, file, sent.randomkey)
    assert received_name == name
    assert expect.sha256(received) == expect.sha256(data)

    link = stub.GetDownloadURL(file.GetDownloadURLRequest(randomkey=sent.randomkey), timeout=PATIENCE)
    assert link.filename == name
    assert link.url.startswith(target.url + "/")
    context = target.ssl_context() if target.certificate else None
    with urllib.request.urlopen(link.url, timeout=PATIENCE, context=context) as fetched:
        assert expect.sha256(fetched.read()) == expect.sha256(data)


def test_two_uploads_of_one_name_at_once(stub: Any, file: Any) -> None:
    """Both are open before either goes on, and their chunks alternate."""
    contents = [expect.content(300_000, seed=1), expect.content(300_000, seed=2)]
    uploads = [Conversation(), Conversation()]
    sent = [stub.SendFile.future(iter(conversation), timeout=PATIENCE) for conversation in uploads]
    for messages in zip(*(upload(file, "a.txt", data, chunk=1000) for data in contents), strict=True):
        for conversation, message in zip(uploads, messages, strict=True):
            conversation.say(message)
    for conversation in uploads:
        conversation.hang_up()
    keys = [call.result().randomkey for call in sent]
    assert keys[0] != keys[1]
    assert [download(stub, file, key) for key in keys] == [("a.txt", data) for data in contents]


def test_the_same_key_many_times_at_once(stub: Any, file: Any) -> None:
    data = expect.content(700_000)
    key = stub.SendFile(upload(file, "many", data), timeout=PATIENCE).randomkey
    streams = [stub.ReceiveFile(file.ReceiveFileRequest(randomkey=key), timeout=PATIENCE) for _ in range(8)]
    for stream in streams:
        assert b"".join(message.chunk_data for message in stream) == data


@pytest.mark.parametrize("method", ["ReceiveFile", "GetDownloadURL"])
@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("", Code.INVALID_ARGUMENT),
        ("nobody", Code.NOT_FOUND),
        ("../../etc/passwd", Code.NOT_FOUND),
        ("a\0b", Code.NOT_FOUND),
        ("x" * 5_000, Code.NOT_FOUND),
    ],
)
def test_keys_that_are_none(stub: Any, file: Any, method: str, key: str, code: Any) -> None:
    def ask() -> None:
        answer = getattr(stub, method)(getattr(file, f"{method}Request")(randomkey=key), timeout=PATIENCE)
        if method == "ReceiveFile":
            next(answer)

    with pytest.raises(grpc.RpcError) as failed:
        ask()
    assert failed.value.code() is code
    assert failed.value.details()


def test_a_slow_reader_gets_the_whole_file(stub: Any, file: Any) -> None:
    """Far more than the windows hold is waiting when the client begins to read."""
    data = expect.content(8 * 1024 * 1024)
    key = stub.SendFile(upload(file, "slow", data, chunk=1024 * 1024), timeout=PATIENCE).randomkey
    stream = stub.ReceiveFile(file.ReceiveFileRequest(randomkey=key), timeout=PATIENCE)
    assert next(stream).file_size == len(data)
    # Other calls go on meanwhile on the same connection.
    for _ in range(20):
        stub.GetDownloadURL(file.GetDownloadURLRequest(randomkey=key), timeout=PATIENCE)
    assert expect.sha256(b"".join(message.chunk_data for message in stream)) == expect.sha256(data)


def test_an_upload_given_up_leaves_nothing(stub: Any, file: Any, daemon: Daemon) -> None:
    """By cancellation or by deadline: either reaches the handler, which forgets what it has."""
    before = Kept.of(daemon.data_dir)
    for timeout in (None, 4.0):
        upload = Conversation()
        sent = stub.SendFile.future(iter(upload), timeout=timeout)
        upload.say(file.SendFileRequest(info=file.FileInfo(name="half.bin", size=2_000_000)))
        upload.say(file.SendFileRequest(chunk_data=expect.content(1_000_000)))
        eventually(lambda: Kept.of(daemon.data_dir) != before, "the upload has begun")
        if timeout is None:
            sent.cancel()
            assert sent.code() is Code.CANCELLED
        else:
            assert sent.exception().code() is Code.DEADLINE_EXCEEDED
        eventually(lambda: Kept.of(daemon.data_dir) == before, "the upload is forgotten")
        upload.hang_up()
