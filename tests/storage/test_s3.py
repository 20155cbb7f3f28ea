"""The S3 store over `rclone serve s3`: the contract, and what happens when the service fails."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from httpcore import AsyncConnectionPool

from fawa.storage.base import ContentStore, NotFound, OutOfReach, OutOfSpace, StorageError, Upload
from fawa.storage.s3 import S3Settings, content_store
from fawa.storage.s3_client import S3Client, connect
from fawa.storage.s3_upload import (
    FIRST_PARTS,
    IN_FLIGHT,
    MAX_PARTS,
    PARTS,
    S3Upload,
    Uploads,
    max_size,
    part_size,
)
from fawa.storage.sigv4 import Credentials
from tests.client.relay import relaying
from tests.s3_server import S3Server, new_bucket
from tests.storage.contract import (
    KEY,
    LONG,
    ContentOpener,
    ContentStoreContract,
    fetch_content,
    knows,
    list_keys,
    read_content,
    store_content,
    write_in_pieces,
)

MIB = 1024 * 1024

#: Bytes of a part in tests: rclone takes smaller ones than others do.
PART = 600_000


@pytest.fixture(params=[8 * MIB, PART], ids=["put at once", "in parts"])
def part(request: pytest.FixtureRequest) -> int:
    size: int = request.param
    return size


@pytest.fixture
def place(rclone_server: S3Server) -> S3Settings:
    """A bucket that is not there yet."""
    return rclone_server.settings(new_bucket(), part=PART)


class TestContract(ContentStoreContract):
    @pytest.fixture
    def opener(self, rclone_server: S3Server, part: int) -> ContentOpener:
        place = rclone_server.settings(new_bucket(), part=part)
        return lambda: content_store(place)


# Uploads


def test_the_largest_upload_has_exactly_the_parts_that_s3_takes() -> None:
    sizes = [part_size(number, 8 * MIB) for number in range(1, MAX_PARTS + 1)]
    assert sum(sizes) == max_size(8 * MIB)
    assert sizes[: FIRST_PARTS + 1] == [8 * MIB] * FIRST_PARTS + [16 * MIB]
    assert max_size(8 * MIB) > 148 * 1024 * MIB
    assert max(sizes) + IN_FLIGHT * 8 * MIB <= 40 * MIB


async def test_parts_may_grow_and_there_is_a_last_one(
    place: S3Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fawa.storage.s3_upload.FIRST_PARTS", 2)
    monkeypatch.setattr("fawa.storage.s3_upload.MAX_PARTS", 4)
    data = random.Random(2).randbytes(6 * PART)
    async with content_store(place) as store:
        await store_content(store, KEY, data)
        assert await fetch_content(store, KEY) == data
        async with store.create("longer") as upload:
            await write_in_pieces(upload, data)
            with pytest.raises(OutOfSpace, match=r"set file.max_size"):
                await write_in_pieces(upload, data)
        assert await list_keys(store) == [KEY]


async def test_what_is_on_its_way_is_bounded_for_one_upload_and_for_all(place: S3Settings) -> None:
    """Nobody runs the parts, so that every upload comes to where it has to wait."""
    async with connect(place) as client, trio.open_nursery() as nursery:
        idle = _Idle()
        uploads = Uploads(client, idle)  # type: ignore[arg-type]
        async with content_store(place):
            many = [S3Upload(uploads, f"{KEY}{number}") for number in range(PARTS)]
            for upload in many:
                nursery.start_soon(write_in_pieces, upload, bytes(20 * PART))
            while uploads.limiter.statistics().tasks_waiting < PARTS - PARTS // IN_FLIGHT - 1:
                await trio.sleep(0.01)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert uploads.limiter.borrowed_tokens == len(idle.started) == PARTS
            for upload in many:
                sent = sum(1 for started in idle.started if started[0] is upload)
                assert sent <= IN_FLIGHT
            nursery.cancel_scope.cancel()


async def upload_until_killed(store: ContentStore, server: S3Server) -> None:
    async with store.create(KEY) as upload:
        await upload.write(LONG[:PART])
        server.kill()
        while True:
            await upload.write(LONG)


async def test_a_part_that_fails_fails_the_upload_and_gives_its_place_back(own_server: S3Server) -> None:
    async with content_store(own_server.settings(new_bucket(), part=PART)) as store:
        with pytest.raises(StorageError, match=r"cannot send a part.*Check that the service runs"):
            await upload_until_killed(store, own_server)
        assert store.parts_on_their_way == 0
        own_server.start()
        assert await list_keys(store) == []
        assert await store.sweep_uncommitted() == 0
        await store_content(store, KEY, LONG)
        assert await fetch_content(store, KEY) == LONG


async def test_the_answer_to_a_commit_is_lost(place: S3Settings, part: int) -> None:
    """The commit is done, and only the answer does not come: the second try finds its own work."""
    data = LONG if part == PART else b"small"
    async with content_store(place) as store:  # which makes the bucket
        async with relaying(place.endpoint.removeprefix("http://")) as relay:
            passing = attrs.evolve(place, endpoint=relay.url, part=part)
            async with content_store(passing) as behind, behind.create(KEY) as upload:
                await write_in_pieces(upload, data)
                await upload.digest()
                while behind.parts_on_their_way:
                    await trio.sleep(0.01)
                relay.cuts += [0, 0]
                await upload.commit()
            assert relay.broken == 2
        assert await fetch_content(store, KEY) == data
        assert await store.sweep_uncommitted() == 0


# Reads


async def drain(pieces: AsyncIterator[bytes]) -> None:
    async for _ in pieces:
        pass


async def test_a_read_that_breaks_off_goes_on_where_it_was(place: S3Settings) -> None:
    data = random.Random(3).randbytes(8 * MIB)
    async with content_store(place) as store:
        await store_content(store, KEY, data)
    async with (
        relaying(place.endpoint.removeprefix("http://"), 3 * MIB, 2 * MIB, MIB) as relay,
        content_store(attrs.evolve(place, endpoint=relay.url)) as store,
        store.open(KEY) as content,
    ):
        assert await read_content(content, 1, len(data) - 1) == data[1:]
    assert relay.broken == 3


@pytest.mark.parametrize("more", [0, PART])
async def test_an_upload_that_the_service_has_forgotten_may_be_tried_again(
    own_server: S3Server, more: int
) -> None:
    async def finish(upload: Upload) -> None:
        await upload.write(LONG[:more])
        await upload.commit()

    async with content_store(own_server.settings(new_bucket(), part=PART)) as store:
        async with store.create(KEY) as upload:
            await upload.write(LONG[:PART])
            while store.parts_on_their_way:
                await trio.sleep(0.01)
            own_server.kill()
            own_server.start()
            with pytest.raises(OutOfReach, match=f"the upload of {KEY} was forgotten"):
                await finish(upload)
        await store_content(store, KEY, LONG)
        assert await fetch_content(store, KEY) == LONG


async def test_a_read_that_breaks_off_again_and_again_is_given_up(own_server: S3Server) -> None:
    data = random.Random(4).randbytes(16 * MIB)
    async with content_store(own_server.settings(new_bucket())) as store:
        await store_content(store, KEY, data)
        async with store.open(KEY) as content:
            pieces = content.read(0, len(data))
            assert data.startswith(await anext(pieces))
            own_server.kill()
            with pytest.raises(StorageError, match="Check that the service runs"):
                await drain(pieces)


async def test_content_that_is_replaced_is_not_mixed(own_server: S3Server, tmp_path: Path) -> None:
    place = own_server.settings(new_bucket())
    async with content_store(place) as store:
        await store_content(store, KEY, b"first")
        async with store.open(KEY) as content:
            (tmp_path / "buckets" / place.bucket / "fawa" / KEY).write_bytes(b"2nd")
            with pytest.raises(StorageError, match="with another range than the one asked for"):
                await read_content(content)


# What else is in the bucket


async def test_two_prefixes_in_one_bucket_do_not_meet(place: S3Settings) -> None:
    async with content_store(place) as one, content_store(attrs.evolve(place, prefix="fawa-2/x/")) as other:
        await store_content(one, KEY, b"one")
        assert await list_keys(other) == []
        await store_content(other, KEY, b"other")
        await other.delete(KEY)
        assert await fetch_content(one, KEY) == b"one"
        with pytest.raises(NotFound):
            await fetch_content(other, KEY)


async def test_other_records_do_not_get_the_content(place: S3Settings) -> None:
    async with content_store(place) as store:
        await store.claim("owner-1", knows())
        text = rf"^below fawa/ in the bucket {place.bucket} at http://\S+ is the content of other records "
        with pytest.raises(
            StorageError, match=rf"{text}\(owner-1\) than ours \(owner-2\).*another s3\.prefix"
        ):
            await store.claim("owner-2", knows())
        await store.claim("owner-1", knows())
    async with content_store(attrs.evolve(place, prefix="fawa/2/")) as store:
        await store.claim("owner-2", knows())


async def test_objects_that_nobody_has_claimed_are_left_alone(place: S3Settings) -> None:
    async with content_store(place) as store:
        await store_content(store, KEY, b"a photograph")
        with pytest.raises(
            StorageError, match=rf"no fawad has put there, such as fawa/{KEY}, .* or remove them"
        ):
            await store.claim("owner-1", knows())
        assert await fetch_content(store, KEY) == b"a photograph"
        await store.delete(KEY)
        await store.claim("owner-1", knows())


async def test_objects_that_are_not_ours_are_passed_over(place: S3Settings) -> None:
    async with content_store(place) as store, connect(attrs.evolve(place, prefix="")) as client:
        for name in ("a.txt", "fawa/a.txt", "fawa/deeper/a", "other/a"):
            await client.request("put", "PUT", name, body=b"x")
        await store_content(store, KEY, b"abc")
        assert await list_keys(store) == [KEY]


# Links


def link(public: str, *, virtual_host: bool = False, seconds: int = 60) -> str | None:
    credentials = Credentials("AKIDTEST", "secretkey12345678", "eu-1")
    place = S3Settings(
        endpoint="http://minio:9000",
        bucket="files",
        credentials=credentials,
        public_endpoint=public,
        virtual_host=virtual_host,
    )
    client = S3Client(place, AsyncConnectionPool())  # nothing is sent
    return client.link(KEY, {"response-content-type": "text/plain"}, 1763900000.9, seconds)


@pytest.mark.parametrize(
    ("public", "virtual_host", "begin"),
    [
        ("https://cdn.example", False, "https://cdn.example/files/fawa/"),
        ("https://cdn.example:443", False, "https://cdn.example/files/fawa/"),
        ("http://cdn.example:8443/minio", False, "http://cdn.example:8443/minio/files/fawa/"),
        ("https://s3.example", True, "https://files.s3.example/fawa/"),
        ("http://[::1]:9000", False, "http://[::1]:9000/files/fawa/"),
    ],
)
def test_a_link_leads_to_the_public_endpoint(public: str, virtual_host: bool, begin: str) -> None:
    made = link(public, virtual_host=virtual_host)
    assert made is not None
    assert made.startswith(
        f"{begin}{KEY}?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDTEST%2F20251123"
    )
    assert "&X-Amz-Date=20251123T121320Z&X-Amz-Expires=60&" in made
    assert "&response-content-type=text%2Fplain&X-Amz-Signature=" in made


def test_there_is_no_link_without_a_public_endpoint_or_for_longer_than_services_take() -> None:
    assert link("") is None
    assert link("https://cdn.example", seconds=8 * 24 * 3600) is None


# Errors that operators read


async def test_the_secret_key_is_wrong(rclone_server: S3Server) -> None:
    wrong = Credentials("AKIDTEST", "another secret", "us-east-1")
    with pytest.raises(
        StorageError, match=r"^cannot keep files in the bucket \S+ at http://\S+: it answered 403"
    ):
        async with content_store(rclone_server.settings(new_bucket(), credentials=wrong)):
            pass


async def test_the_service_is_away(own_server: S3Server) -> None:
    own_server.kill()
    with pytest.raises(StorageError, match=r"ConnectError.*Check that the service runs and try again\.$"):
        async with content_store(own_server.settings(new_bucket())):
            pass


async def test_the_trusted_certificates_cannot_be_read(tmp_path: Path) -> None:
    place = S3Settings(
        endpoint="https://localhost:1",
        bucket="files",
        credentials=Credentials("a", "b", "c"),
        ca=tmp_path / "ca.pem",
    )
    with pytest.raises(StorageError, match=r"ca\.pem \(setting s3\.ca\)"):
        async with content_store(place):
            pass


@attrs.define
class _Idle:
    """Takes the place of a nursery and starts nothing."""

    started: list[tuple[S3Upload, int]] = attrs.field(factory=list)

    def start_soon(self, function: object, number: int, *_: object) -> None:
        self.started.append((function.__self__, number))  # type: ignore[attr-defined]
