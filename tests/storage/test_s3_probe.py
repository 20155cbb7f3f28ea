"""A bucket as `fawad doctor` tries it: healthy, and with a fault."""

from __future__ import annotations

import time

import attrs
import pytest

from fawa.storage.base import StorageError
from fawa.storage.s3 import content_store
from fawa.storage.s3_client import S3Settings, connect
from fawa.storage.s3_probe import probe_bucket
from fawa.storage.sigv4 import Credentials
from tests.s3_server import ACCESS_KEY, SECRET_KEY, S3Server, free_ports, new_bucket


async def made(server: S3Server) -> S3Settings:
    """Return the settings of a bucket that a daemon has made."""
    settings = server.settings(new_bucket())
    async with content_store(settings):
        pass
    return settings


async def test_a_healthy_bucket_is_left_as_it_was(rclone_server: S3Server) -> None:
    settings = await made(rclone_server)
    assert abs(await probe_bucket(settings)) < 60
    async with connect(settings) as client:
        answer = await client.request("list all there is", "GET", query={"list-type": "2"})
    assert answer.xml().find("Contents") is None


async def test_the_clock_is_told(rclone_server: S3Server) -> None:
    settings = await made(rclone_server)
    ahead = await probe_bucket(settings, lambda: time.time() - 3600)
    assert 3500 < ahead < 3700


async def test_the_secret_key_is_wrong(rclone_server: S3Server) -> None:
    settings = await made(rclone_server)
    wrong = attrs.evolve(settings, credentials=Credentials(ACCESS_KEY, f"{SECRET_KEY}x", "us-east-1"))
    with pytest.raises(StorageError, match=r"SignatureDoesNotMatch.* Set s3\.secret_key to the one that"):
        await probe_bucket(wrong)


async def test_the_access_key_is_wrong(rclone_server: S3Server) -> None:
    settings = await made(rclone_server)
    wrong = attrs.evolve(settings, credentials=Credentials("AKIDOTHER", SECRET_KEY, "us-east-1"))
    with pytest.raises(StorageError, match=r"Set s3\.access_key to one that the service knows"):
        await probe_bucket(wrong)


async def test_the_bucket_is_wrong(rclone_server: S3Server) -> None:
    settings = rclone_server.settings("no-such-bucket")
    with pytest.raises(StorageError, match=r"in the bucket no-such-bucket at .*NoSuchBucket"):
        await probe_bucket(settings)
    with pytest.raises(StorageError, match="NoSuchBucket"):
        await probe_bucket(settings)  # nor was it made


async def test_nobody_is_there() -> None:
    [port] = free_ports(1)
    settings = S3Settings(
        endpoint=f"http://127.0.0.1:{port}", bucket="files", credentials=Credentials("A", "B", "us-east-1")
    )
    with pytest.raises(StorageError, match="Check that the service runs"):
        await probe_bucket(settings)
