"""The S3 store over the Ceph object gateway, which enforces what rclone lets pass."""

from __future__ import annotations

import hashlib
import random
import time
import urllib.error
import urllib.request
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from fawa.storage.base import (
    AlreadyExists,
    ContentStore,
    Damaged,
    Fenced,
    NotFound,
    ResumableUpload,
    StorageError,
)
from fawa.storage.s3 import S3Settings, S3Store, content_store
from fawa.storage.s3_client import Answer, S3Client, connect
from fawa.storage.sigv4 import Credentials
from tests.s3_server import S3Server, new_bucket, nginx
from tests.storage.contract import (
    KEY,
    ContentOpener,
    ContentStoreContract,
    fetch_content,
    knows,
    list_keys,
    read_content,
    store_content,
    write_in_pieces,
)
from tests.storage.contract_resumable import ResumableOpener, ResumableStoreContract

#: The smallest part that S3 takes.
PART = 5 * 1024 * 1024

#: After how long an upload without a new part is old: the service tells the present in whole seconds, rounded
#: down.
AT_ONCE = -1.0

#: Three parts and a bit.
LONG = random.Random(5).randbytes(3 * PART + 12_345)


class TestContract(ContentStoreContract):
    @pytest.fixture
    def opener(self, ceph_server: S3Server) -> ContentOpener:
        place = ceph_server.settings(new_bucket())
        return lambda: content_store(place)


class TestResumableContract(ResumableStoreContract):
    @pytest.fixture
    def opener(self, ceph_server: S3Server) -> ResumableOpener:
        place = ceph_server.settings(new_bucket())
        return lambda: content_store(place)


@pytest.fixture
def place(ceph_server: S3Server) -> S3Settings:
    return ceph_server.settings(new_bucket(), part=PART)


async def uploads_under_way(place: S3Settings) -> int:
    async with connect(place) as client:
        answer = await client.request("list", "GET", query={"uploads": ""})
        return len(answer.xml().findall("Upload"))


async def objects_in(place: S3Settings) -> list[str]:
    async with connect(place) as client:
        answer = await client.request("list", "GET", query={"list-type": "2"})
        return [element.text or "" for element in answer.xml().iterfind("Contents/Key")]


async def test_parts(place: S3Settings) -> None:
    async with content_store(place) as store:
        async with store.create(KEY) as upload:
            await write_in_pieces(upload, LONG)
            assert await uploads_under_way(place) == 1
            assert await list_keys(store) == []
            assert await store.sweep_uncommitted() == 0
            await upload.commit()
        assert await fetch_content(store, KEY) == LONG
        assert await uploads_under_way(place) == 0


async def test_an_upload_in_parts_that_is_given_up_or_cancelled_leaves_nothing(place: S3Settings) -> None:
    async with content_store(place) as store:
        async with store.create(KEY) as upload:
            await write_in_pieces(upload, LONG)
        assert await uploads_under_way(place) == 0
        with trio.CancelScope() as scope:
            async with store.create(KEY) as upload:
                await write_in_pieces(upload, LONG)
                scope.cancel()
                while True:
                    await upload.write(LONG)
        assert scope.cancelled_caught
        assert await uploads_under_way(place) == 0
        assert await list_keys(store) == []


async def test_uploads_in_parts_under_one_key_do_not_overwrite(place: S3Settings) -> None:
    async with content_store(place) as store:
        async with store.create(KEY) as early, store.create(KEY) as late:
            await write_in_pieces(early, LONG[::-1])
            await write_in_pieces(late, LONG)
            await late.commit()
            with pytest.raises(AlreadyExists):
                await early.commit()
        assert await fetch_content(store, KEY) == LONG
        assert await uploads_under_way(place) == 0


async def test_content_that_is_replaced_is_not_mixed(place: S3Settings) -> None:
    async with content_store(place) as store:
        await store_content(store, KEY, b"first")
        async with store.open(KEY) as content:
            await store.delete(KEY)
            await store_content(store, KEY, b"other")
            with pytest.raises(Damaged, match="was replaced while it was read"):
                await read_content(content)


async def test_of_many_that_claim_the_content_at_once_one_gets_it(place: S3Settings) -> None:
    won: list[str] = []

    async def claim(store: S3Store, owner: str) -> None:
        with suppress(StorageError):
            await store.claim(owner, knows())
            won.append(owner)

    async with content_store(place) as store:
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(claim, store, f"owner-{number}")
        assert len(won) == 1
        await store.claim(won[0], knows())


async def test_listings_of_many_pages(place: S3Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fawa.storage.s3.PAGE", 7)
    keys = [f"key{number:02}" for number in range(30)]
    async with content_store(place) as store, connect(place) as client:
        for key in keys:
            await client.request("put", "PUT", key, body=b"x")
            begun = await client.request("begin", "POST", key, {"uploads": ""})
            upload_id = begun.xml().findtext("UploadId") or ""
            for number in range(1, 10 if key == keys[0] else 2):
                query = {"partNumber": str(number), "uploadId": upload_id}
                await client.request("send a part", "PUT", key, query, body=b"x")
        assert await list_keys(store) == keys
        assert await store.sweep_uncommitted() == 0
    async with content_store(attrs.evolve(place, abort_after=AT_ONCE)) as store:
        assert await store.sweep_uncommitted() == len(keys)
    assert await uploads_under_way(place) == 0


async def test_an_upload_by_several_writers_is_copied_by_the_service(
    place: S3Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, str, int]] = []
    real = S3Client.request

    async def request(client: S3Client, doing: str, method: str, *args: Any, **kwargs: Any) -> Answer:
        sent.append((doing, method, len(kwargs.get("body", b""))))
        return await real(client, doing, method, *args, **kwargs)

    cuts = [0, PART - 1, PART + 1, 2 * PART, 3 * PART - 7, len(LONG)]
    async with content_store(place) as store:
        await store.begin(KEY)
        for epoch, (start, end) in enumerate(pairwise(cuts), 1):
            async with store.resume(KEY, epoch, start) as upload:
                await write_in_pieces(upload, LONG[start:end])
    async with content_store(place) as store:
        async with store.resume(KEY, 9, len(LONG)) as upload:
            assert await upload.digest() == hashlib.sha256(LONG).digest()
            monkeypatch.setattr(S3Client, "request", request)
            await upload.commit()
        assert [size for doing, _, size in sent if doing == "send a part"] == [len(LONG) - 3 * PART]
        assert [doing for doing, _, _ in sent].count("copy a part") == 3
        assert await fetch_content(store, KEY) == LONG
        assert await objects_in(place) == [f"fawa/{KEY}"]
        assert await uploads_under_way(place) == 0


async def test_two_writers_commit_at_once(place: S3Settings) -> None:
    """Whoever is told that it is done, the content is there once, and is what both had."""
    outcomes: list[str] = []

    async def commit(upload: ResumableUpload) -> None:
        try:
            await upload.commit()
        except Fenced:
            outcomes.append("fenced")
        else:
            outcomes.append("done")

    async with content_store(place) as store:
        await store.begin(KEY)
        async with store.resume(KEY, 1, 0) as old:
            await write_in_pieces(old, LONG)
            await old.sync()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(commit, old)
                with suppress(NotFound):  # the old one was done before
                    async with store.resume(KEY, 2, len(LONG)) as new:
                        await commit(new)
        assert "done" in outcomes
        assert await fetch_content(store, KEY) == LONG
        assert await objects_in(place) == [f"fawa/{KEY}"]
        assert await uploads_under_way(place) == 0


def get(url: str) -> tuple[int, dict[str, str], bytes]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, dict(answer.headers.items()), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {}, b""


async def test_a_link_through_a_proxy_that_takes_a_path_off(
    place: S3Settings, ceph_server: S3Server, tmp_path: Path
) -> None:
    headers = {"content-disposition": 'attachment; filename="a b.txt"', "content-type": "text/x-test"}
    with nginx(tmp_path / "nginx", ceph_server.address, "/minio") as proxy:
        public = attrs.evolve(place, public_endpoint=f"http://{proxy}/minio")
        async with content_store(public) as store:
            await store_content(store, KEY, LONG)
            link = store.link(KEY, headers, time.time(), 60)
            assert link is not None
            assert link.startswith(f"http://{proxy}/minio/{place.bucket}/fawa/{KEY}?")
            status, answered, data = await trio.to_thread.run_sync(get, link)
            assert (status, data) == (200, LONG)
            assert answered["Content-Disposition"] == headers["content-disposition"]
            assert answered["Content-Type"] == headers["content-type"]

            last = "1" if link[-1] == "0" else "0"
            name = link.replace("a%20b.txt", "b%20b.txt")
            key = link.replace(KEY, KEY[:-1] + "x")
            expired = store.link(KEY, headers, time.time() - 120, 60)
            assert expired is not None
            for altered in (link[:-1] + last, name, key, link.partition("?")[0], expired):
                assert altered != link
                assert (await trio.to_thread.run_sync(get, altered))[0] == 403, altered


@pytest.mark.parametrize(
    ("access_key", "secret_key", "advice"),
    [
        ("AKIDTEST", "another secret", r"Set s3\.secret_key to the one that belongs to s3\.access_key"),
        ("UNKNOWN", "secretkey12345678", r"Set s3\.access_key to one that the service knows"),
    ],
)
async def test_advice_for_wrong_keys(
    place: S3Settings, access_key: str, secret_key: str, advice: str
) -> None:
    async with content_store(place):
        pass
    wrong = attrs.evolve(place, credentials=Credentials(access_key, secret_key, "us-east-1"))
    async with connect(wrong) as client:
        with pytest.raises(StorageError, match=advice):
            await client.request("list content", "GET")


# Last: for half a minute after it, the gateway that makes a bucket waits for an answer of the one that was
# killed.


async def upload_until_killed(store: ContentStore, server: S3Server) -> None:
    async with store.create(KEY) as upload:
        await write_in_pieces(upload, LONG)
        server.kill()
        while True:
            await upload.write(LONG)


async def test_the_service_is_killed_in_mid_upload(place: S3Settings, ceph_server: S3Server) -> None:
    """The uploader is told; what it could not take back goes with the sweep, once it is old enough."""
    async with content_store(place) as store:
        with pytest.raises(StorageError, match=r"cannot send a part in .*Check that the service runs"):
            await upload_until_killed(store, ceph_server)
        ceph_server.start()
        assert await list_keys(store) == []
        assert await uploads_under_way(place) == 1
        assert await store.sweep_uncommitted() == 0, "it may be another process's, which goes on"
    async with content_store(attrs.evolve(place, abort_after=AT_ONCE)) as store:
        assert await store.sweep_uncommitted() == 1
        assert await store.sweep_uncommitted() == 0
        assert await uploads_under_way(place) == 0
        await store_content(store, KEY, LONG)
        assert await fetch_content(store, KEY) == LONG
