"""The whole daemon with its files in S3, with grpcio: there and back, links, and the service going away."""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest

from tests.client.relay import relaying
from tests.client.running import fawa
from tests.daemon import PATIENCE, Daemon, DaemonError, running
from tests.interop import expect
from tests.interop.grpcio_channel import Conversation, channel_to
from tests.interop.kept import eventually
from tests.interop.target import Target
from tests.interop.test_grpcio_files import download, upload
from tests.redis_server import redis_server
from tests.s3_server import ACCESS_KEY, SECRET_KEY, S3Server, ceph, nginx, rclone

MIB = 1024 * 1024
AWAY = "the server cannot reach its S3 at the moment, try again in a few seconds"


def flags(server: S3Server, *more: str) -> tuple[str, ...]:
    keys = ("--s3-access-key", ACCESS_KEY, "--s3-secret-key", SECRET_KEY)
    return "--s3-endpoint", server.endpoint, "--s3-bucket", "fawa-files", *keys, *more


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    with rclone(tmp_path / "buckets") as server:
        yield server


@pytest.fixture
def daemon(tmp_path: Path, server: S3Server) -> Iterator[Daemon]:
    with running(tmp_path / "data", *flags(server)) as daemon:
        yield daemon


@pytest.fixture
def stub(daemon: Daemon, file_grpc: Any) -> Iterator[Any]:
    with channel_to(Target(daemon.plain, None)) as channel:
        yield file_grpc.FileServiceStub(channel)


def in_bucket(folder: Path) -> list[bytes]:
    """Return what is in the bucket, but for what says whose it is.

    What rclone was writing when it was killed is its own: nobody sees it by S3.
    """
    files = sorted((folder / "buckets" / "fawa-files").rglob("*"))
    others = (".owner", ".rclone_temp_put_")
    found = []
    for path in files:
        if not path.name.startswith(others):
            # A folder has no bytes, and what is removed at this moment is not there.
            with contextlib.suppress(IsADirectoryError, FileNotFoundError):
                found.append(path.read_bytes())
    return found


@pytest.mark.parametrize("size", [0, 1, 100_000, 20 * MIB + 17])
def test_there_and_back(stub: Any, file: Any, daemon: Daemon, tmp_path: Path, size: int) -> None:
    data = expect.content(size)
    sent = stub.SendFile(upload(file, "a b.bin", data, chunk=MIB), timeout=PATIENCE)
    assert download(stub, file, sent.randomkey) == ("a b.bin", data)
    assert in_bucket(tmp_path) == [data]
    assert not (daemon.data_dir / "files").exists()
    link = stub.GetDownloadURL(file.GetDownloadURLRequest(randomkey=sent.randomkey), timeout=PATIENCE)
    assert link.url.startswith(f"http://{daemon.plain}/files/")
    with urllib.request.urlopen(link.url, timeout=PATIENCE) as fetched:
        assert fetched.read() == data
    if size > 1000:
        some = urllib.request.Request(link.url, headers={"Range": "bytes=1000-1999"})
        with urllib.request.urlopen(some, timeout=PATIENCE) as fetched:
            assert (fetched.status, fetched.read()) == (206, data[1000:2000])


def test_files_are_there_after_a_restart(server: S3Server, file: Any, file_grpc: Any, tmp_path: Path) -> None:
    data = expect.content(20 * MIB)
    with running(tmp_path / "data", *flags(server)) as daemon:
        with channel_to(Target(daemon.plain, None)) as channel:
            stub = file_grpc.FileServiceStub(channel)
            key = stub.SendFile(upload(file, "a.bin", data, chunk=MIB), timeout=PATIENCE).randomkey
        daemon.kill()
    with (
        running(tmp_path / "data", *flags(server)) as daemon,
        channel_to(Target(daemon.plain, None)) as channel,
    ):
        assert download(file_grpc.FileServiceStub(channel), file, key) == ("a.bin", data)


def test_the_service_is_killed_in_mid_upload_and_comes_back(
    stub: Any, file: Any, daemon: Daemon, server: S3Server, tmp_path: Path
) -> None:
    data = expect.content(40 * MIB)
    conversation = Conversation()
    sending = stub.SendFile.future(iter(conversation), timeout=2 * PATIENCE)
    messages = upload(file, "a.bin", data, chunk=MIB)
    for _ in range(20):
        conversation.say(next(messages))
    server.kill()
    for message in messages:
        conversation.say(message)
    conversation.hang_up()
    with pytest.raises(grpc.RpcError) as refused:
        sending.result()
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert refused.value.details() == AWAY
    told = daemon.wait_for_event(lambda entry: entry.get("event") == "S3 is out of reach")
    assert "in the bucket fawa-files at http://127.0.0.1:" in told["error"]
    assert "Check that the service runs" in told["error"]

    server.start()
    assert in_bucket(tmp_path) == []
    sent = stub.SendFile(upload(file, "a.bin", data, chunk=MIB), timeout=PATIENCE)
    assert download(stub, file, sent.randomkey) == ("a.bin", data)


async def test_fawa_send_over_lines_that_break(daemon: Daemon, tmp_path: Path) -> None:
    data = expect.content(30 * MIB + 17)
    (tmp_path / "a.bin").write_bytes(data)
    async with relaying(daemon.plain) as relay:
        relay.cuts_up = [12 * MIB, 9 * MIB, 3 * MIB]
        done = await fawa("send", tmp_path / "a.bin", f"--server={relay.url}", "--json")
    assert (done.code, done.err.count("; going on in"), relay.broken) == (0, 3, 3), done
    assert in_bucket(tmp_path) == [data]


def chunks(file: Any, upload_id: str, data: bytes, offset: int, end: int) -> Iterator[Any]:
    complete = end == len(data)
    yield file.SendFileRequest(info=file.FileInfo(upload_id=upload_id, offset=offset, complete=complete))
    for start in range(offset, end, MIB):
        yield file.SendFileRequest(chunk_data=data[start : min(end, start + MIB)])


def test_an_upload_goes_on_after_the_daemon_and_the_service_were_killed(
    server: S3Server, file: Any, file_grpc: Any, tmp_path: Path
) -> None:
    data = expect.content(60 * MIB + 17)
    with (
        running(tmp_path / "data", *flags(server)) as daemon,
        channel_to(Target(daemon.plain, None)) as channel,
    ):
        stub = file_grpc.FileServiceStub(channel)
        request = file.StartUploadRequest(name="a.bin", size=len(data))
        upload_id = stub.StartUpload(request, timeout=PATIENCE).upload_id
        first = stub.SendFile(chunks(file, upload_id, data, 0, 11 * MIB), timeout=PATIENCE)
        assert (first.success, first.offset) == (False, 11 * MIB)
        conversation = Conversation()
        sending = stub.SendFile.future(iter(conversation), timeout=2 * PATIENCE)
        messages = chunks(file, upload_id, data, first.offset, len(data))
        for _ in range(30):
            conversation.say(next(messages))
        eventually(lambda: len(in_bucket(tmp_path)) > 5, "pieces are in the bucket")
        server.kill()
        daemon.kill()
        conversation.hang_up()
        with pytest.raises(grpc.RpcError):
            sending.result()
    server.start()
    with (
        running(tmp_path / "data", *flags(server)) as daemon,
        channel_to(Target(daemon.plain, None)) as channel,
    ):
        stub = file_grpc.FileServiceStub(channel)
        status = stub.GetUpload(file.GetUploadRequest(upload_id=upload_id), timeout=PATIENCE)
        assert 11 * MIB <= status.offset < len(data)
        rest = chunks(file, upload_id, data, status.offset, len(data))
        sent = stub.SendFile(rest, timeout=PATIENCE)
        assert sent.sha256.hex() == expect.sha256(data)
        assert download(stub, file, sent.randomkey) == ("a.bin", data)
        assert in_bucket(tmp_path) == [data]


def test_what_expires_goes(server: S3Server, file: Any, file_grpc: Any, tmp_path: Path) -> None:
    short = ("--file-ttl", "1s", "--file-sweep-interval", "100ms")
    with (
        running(tmp_path / "data", *flags(server, *short)) as daemon,
        channel_to(Target(daemon.plain, None)) as channel,
    ):
        stub = file_grpc.FileServiceStub(channel)
        stub.SendFile(upload(file, "a.bin", expect.content(9 * MIB), chunk=MIB), timeout=PATIENCE)
        eventually(lambda: in_bucket(tmp_path) == [], "the file is removed")


def readiness(daemon: Daemon) -> tuple[int, dict[str, str]]:
    """Return the status of `/readyz` and what it says of each part."""
    connection = http.client.HTTPConnection(daemon.admin, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())["checks"]


def test_the_service_is_away_at_the_start_and_comes(
    server: S3Server, file: Any, file_grpc: Any, tmp_path: Path
) -> None:
    data = expect.content(100_000)
    server.kill()
    with (
        running(tmp_path / "data", *flags(server, "--restart-max-crashes", "0")) as daemon,
        channel_to(Target(daemon.plain, None)) as channel,
    ):
        stub = file_grpc.FileServiceStub(channel)
        status, checks = readiness(daemon)
        assert status == 503
        assert "waits for S3: cannot keep files in the bucket fawa-files at http://127" in checks["file"]
        with pytest.raises(grpc.RpcError) as refused:
            stub.SendFile(upload(file, "a.bin", data), timeout=PATIENCE)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert refused.value.details() == AWAY
        link = pytest.raises(urllib.error.HTTPError, match="503")
        with link as answered:
            urllib.request.urlopen(f"http://{daemon.plain}/files/key/a.bin", timeout=PATIENCE)
        answered.value.close()

        server.start()
        eventually(lambda: readiness(daemon)[0] == 200, "it is ready")
        key = stub.SendFile(upload(file, "a.bin", data), timeout=PATIENCE).randomkey
        assert download(stub, file, key) == ("a.bin", data)

        server.kill()
        status, checks = readiness(daemon)
        assert (status, checks["file"]) == (503, "ok")
        assert "cannot use files in the bucket fawa-files at http://127" in checks["s3"]
        assert "Check that the service runs" in checks["s3"]
        server.start()
        eventually(lambda: readiness(daemon)[0] == 200, "it is ready again")


def test_from_a_folder_to_s3_and_back(server: S3Server, file: Any, file_grpc: Any, tmp_path: Path) -> None:
    """What was sent before is said not to be there, and is served again when the folder is."""
    data = expect.content(100_000)
    with running(tmp_path / "data") as daemon, channel_to(Target(daemon.plain, None)) as channel:
        stub = file_grpc.FileServiceStub(channel)
        key = stub.SendFile(upload(file, "a.bin", data), timeout=PATIENCE).randomkey
    with (
        running(tmp_path / "data", *flags(server)) as daemon,
        channel_to(Target(daemon.plain, None)) as channel,
    ):
        told = daemon.wait_for_event(lambda entry: "whose content is not here" in entry.get("event", ""))
        assert (told["level"], told["count"]) == ("warning", 1)
        stub = file_grpc.FileServiceStub(channel)
        asks = (
            lambda: list(stub.ReceiveFile(file.ReceiveFileRequest(randomkey=key), timeout=PATIENCE)),
            lambda: stub.GetDownloadURL(file.GetDownloadURLRequest(randomkey=key), timeout=PATIENCE),
        )
        for ask in asks:
            with pytest.raises(grpc.RpcError) as refused:
                ask()
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        other = stub.SendFile(upload(file, "b.bin", data), timeout=PATIENCE).randomkey
        assert download(stub, file, other) == ("b.bin", data)
    with running(tmp_path / "data") as daemon, channel_to(Target(daemon.plain, None)) as channel:
        assert download(file_grpc.FileServiceStub(channel), file, key) == ("a.bin", data)


def test_two_daemons_with_records_of_their_own_on_one_prefix(
    daemon: Daemon, server: S3Server, stub: Any, file: Any, tmp_path: Path
) -> None:
    data = expect.content(100_000)
    key = stub.SendFile(upload(file, "a.bin", data), timeout=PATIENCE).randomkey
    refused = pytest.raises(DaemonError, match=r"'file' cannot start: below fawa/ .*Set another s3\.prefix")
    with refused, running(tmp_path / "other", *flags(server)):
        pass
    with running(tmp_path / "other", *flags(server, "--s3-prefix", "fawa-2/")):
        pass
    assert download(stub, file, key) == ("a.bin", data)


def test_a_link_to_the_service_through_a_proxy_with_a_path(file: Any, file_grpc: Any, tmp_path: Path) -> None:
    data = expect.content(20 * MIB)
    with (
        ceph(tmp_path / "ceph") as server,
        nginx(tmp_path / "nginx", server.address, "/minio") as proxy,
        running(tmp_path / "data", *flags(server, "--s3-public-endpoint", f"http://{proxy}/minio")) as daemon,
        channel_to(Target(daemon.plain, None)) as channel,
    ):
        stub = file_grpc.FileServiceStub(channel)
        key = stub.SendFile(upload(file, "Zoë.bin", data, chunk=MIB), timeout=PATIENCE).randomkey
        assert download(stub, file, key) == ("Zoë.bin", data)
        link = stub.GetDownloadURL(file.GetDownloadURLRequest(randomkey=key), timeout=PATIENCE)
        assert link.url.startswith(f"http://{proxy}/minio/fawa-files/fawa/{key}?")
        with urllib.request.urlopen(link.url, timeout=PATIENCE) as fetched:
            assert fetched.read() == data
            assert "filename*=UTF-8''Zo%C3%AB.bin" in fetched.headers["Content-Disposition"]
        altered = link.url[:-1] + ("1" if link.url.endswith("0") else "0")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(altered, timeout=PATIENCE)
        refused.value.close()
        assert refused.value.code == 403


def test_daemons_that_share_nothing_but_s3_and_redis(
    tmp_path: Path, server: S3Server, file: Any, file_grpc: Any
) -> None:
    with redis_server(tmp_path / "redis") as redis, contextlib.ExitStack() as stack:
        one, other = (
            file_grpc.FileServiceStub(stack.enter_context(channel_to(Target(daemon.plain, None))))
            for daemon in [
                stack.enter_context(running(tmp_path / name, *flags(server, "--redis-url", redis.url)))
                for name in ("one", "other")
            ]
        )
        data = expect.content(MIB)
        sent = one.SendFile(upload(file, "a.bin", data, chunk=MIB), timeout=PATIENCE)
        assert download(other, file, sent.randomkey) == ("a.bin", data)
        with (
            pytest.raises(DaemonError, match="is the content of other records"),
            running(tmp_path / "third", *flags(server)),
        ):
            pass
        assert download(one, file, sent.randomkey) == ("a.bin", data)
