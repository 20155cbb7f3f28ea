"""tus 1.0.0, as conversations."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest

from fawa.net.exchange import Disconnected
from fawa.services.tus import PART, name_untrusted
from fawa.storage.uploads import upload_store
from tests.services.conftest import Files
from tests.services.memory import Stall
from tests.services.talk import settings
from tests.services.uploading import DATA, DAY, Piece, Sending, Talk, pieces

VERSION = "1.0.0"


@attrs.define
class Tus(Talk):
    """A client of tus."""

    async def create(self, size: int | None = len(DATA), name: str = "a.txt", **headers: str | None) -> str:
        """Begin an upload; return where it is."""
        told = {"upload_defer_length": "1"} if size is None else {"upload_length": str(size)}
        metadata = f"filename {b64encode(name.encode()).decode()}"
        answer = await self.ask(
            "POST", "/uploads", tus_resumable=VERSION, upload_metadata=metadata, **told, **headers
        )
        assert answer.status == 201, answer.text
        location = answer.answer("location")
        assert location is not None
        return location

    async def patch(
        self, location: str, offset: int | str, body: bytes | list[Piece], **headers: str | None
    ) -> Sending:
        named: dict[str, str | None] = {
            "tus_resumable": VERSION,
            "content_type": PART,
            "upload_offset": str(offset),
        }
        return await self.ask("PATCH", location, body, **(named | headers))

    async def head(self, location: str, **headers: str | None) -> Sending:
        return await self.ask("HEAD", location, **({"tus_resumable": VERSION} | headers))

    async def offset(self, location: str) -> int:
        answer = await self.head(location)
        assert answer.status == 200
        return int(answer.answer("upload-offset") or "")


@pytest.fixture
async def tus(files: Files, tmp_path: Path) -> AsyncIterator[Tus]:
    async with upload_store(tmp_path / "uploads.sqlite3") as records:
        yield Tus(files, records)


def checksum(data: bytes, algorithm: str = "sha1") -> str:
    return f"{algorithm} {b64encode(hashlib.new(algorithm, data).digest()).decode()}"


class TestUpload:
    async def test_in_parts(self, tus: Tus) -> None:
        location = await tus.create(name="report 1.pdf")
        answer = await tus.patch(location, 0, DATA[:1000])
        assert (answer.status, answer.body) == (204, b"")
        assert {name.decode(): value.decode() for name, value in answer.response} == {
            "upload-offset": "1000",
            "upload-expires": "Mon, 24 Nov 2025 12:13:20 GMT",
            "tus-resumable": "1.0.0",
        }
        answer = await tus.head(location)
        assert (answer.status, answer.body) == (200, b"")
        assert {name.decode(): value.decode() for name, value in answer.response} == {
            "cache-control": "no-store",
            "upload-offset": "1000",
            "upload-length": "400000",
            "upload-metadata": "filename cmVwb3J0IDEucGRm",
            "upload-expires": "Mon, 24 Nov 2025 12:13:20 GMT",
            "tus-resumable": "1.0.0",
        }
        answer = await tus.patch(location, 1000, DATA[1000:])
        key = answer.answer("fawa-key")
        assert (answer.status, answer.answer("upload-offset")) == (204, "400000")
        assert (answer.answer("fawa-link") or "").startswith(
            f"http://files.example:8080/files/{key}/report%201"
        )
        assert await tus.content(key) == DATA
        # Whoever lost that answer may ask again.
        for again in (await tus.head(location), await tus.patch(location, len(DATA), b"")):
            assert again.answer("fawa-key") == key
            assert again.answer("upload-offset") == "400000"
            assert again.answer("upload-expires") is None

    async def test_what_came_before_the_line_broke_is_kept(self, tus: Tus) -> None:
        location = await tus.create()
        with pytest.raises(Disconnected):
            await tus.patch(location, 0, [DATA[:5000], Disconnected("gone")])
        assert await tus.offset(location) == 5000
        assert (await tus.patch(location, 5000, DATA[5000:])).answer("fawa-key")

    async def test_with_its_first_part(self, tus: Tus) -> None:
        told = {"tus_resumable": VERSION, "upload_length": "400000", "content_type": PART}
        answer = await tus.ask("POST", "/uploads/", DATA[:9], **told)
        assert (answer.status, answer.answer("upload-offset")) == (201, "9")
        location = answer.answer("location") or ""
        assert (await tus.patch(location, 9, DATA[9:])).answer("fawa-key")
        answer = await tus.ask("POST", "/uploads", DATA, **told)
        assert await tus.content(answer.answer("fawa-key")) == DATA

    async def test_of_a_length_that_comes_later(self, tus: Tus) -> None:
        location = await tus.create(None)
        assert (await tus.head(location)).answer("upload-defer-length") == "1"
        await tus.patch(location, 0, DATA[:9])
        answer = await tus.patch(location, 9, DATA[9:18], upload_length="400000")
        assert answer.answer("fawa-key") is None
        assert (await tus.head(location)).answer("upload-length") == "400000"
        assert (await tus.patch(location, 18, DATA[18:], upload_length="399999")).status == 400
        assert (await tus.patch(location, 18, DATA[18:], upload_length="400000")).answer("fawa-key")
        location = await tus.create(None)
        await tus.patch(location, 0, DATA)
        assert (await tus.patch(location, len(DATA), b"", upload_length="400000")).answer("fawa-key")

    async def test_an_empty_file(self, tus: Tus) -> None:
        answer = await tus.ask("POST", "/uploads", tus_resumable=VERSION, upload_length="0")
        assert answer.status == 201
        assert await tus.content(answer.answer("fawa-key")) == b""
        assert (await tus.files.metadata.get(answer.answer("fawa-key") or "")).name == "unnamed"

    async def test_a_public_url(self, tus: Tus) -> None:
        tus.public_url = "https://files.example/fawa/"
        assert (await tus.create()).startswith("https://files.example/fawa/uploads/")

    async def test_terminated(self, tus: Tus) -> None:
        location = await tus.create()
        await tus.patch(location, 0, DATA[:9])
        answer = await tus.ask("DELETE", location, tus_resumable=VERSION)
        assert (answer.status, answer.answer("tus-resumable")) == (204, VERSION)
        assert tus.files.stored() == []
        for answer in (
            await tus.head(location),
            await tus.patch(location, 9, DATA[9:]),
            await tus.ask("DELETE", location, tus_resumable=VERSION),
        ):
            assert answer.status == 404
            assert answer.answer("tus-resumable") == VERSION

    async def test_terminated_once_it_is_whole(self, tus: Tus) -> None:
        location = await tus.create()
        key = (await tus.patch(location, 0, DATA)).answer("fawa-key")
        assert (await tus.ask("DELETE", location, tus_resumable=VERSION)).status == 204
        assert (await tus.head(location)).status == 404
        assert await tus.content(key) == DATA  # the file is whose who has its key

    async def test_methods_by_another_name(self, tus: Tus) -> None:
        location = await tus.create(9)
        told = {"tus_resumable": VERSION, "upload_offset": "0", "content_type": PART}
        answer = await tus.ask("POST", location, DATA[:9], x_http_method_override="PATCH", **told)
        assert (answer.status, answer.answer("upload-offset")) == (204, "9")
        for method in ("PUT", "POST", "GET", "patch", "X" * 1000):
            answer = await tus.ask("POST", location, x_http_method_override=method, **told)
            assert answer.status == 405
            assert len(answer.text) < 100

    async def test_what_is_offered(self, tus: Tus) -> None:
        tus.files.settings = settings(max_file_size=5_000_000)
        for path in ("/uploads", "/uploads/some"):
            answer = await tus.ask("OPTIONS", path)
            assert answer.status == 204
            assert answer.answer("tus-version") == "1.0.0"
            assert answer.answer("tus-max-size") == "5000000"
            assert answer.answer("tus-checksum-algorithm") == "sha1,sha256"
            assert answer.answer("tus-extension") == (
                "creation,creation-with-upload,creation-defer-length,checksum,expiration,termination"
            )
        tus.files.settings = settings()
        assert (await tus.ask("OPTIONS", "/uploads")).answer("tus-max-size") is None


class TestTime:
    async def test_an_upload_expires(self, tus: Tus) -> None:
        location = await tus.create()
        tus.files.now += DAY
        assert (await tus.head(location)).status == 404
        assert await tus.uploads.sweep() == 1
        assert tus.files.stored() == []

    async def test_a_file_expires(self, tus: Tus) -> None:
        location = await tus.create(9)
        await tus.patch(location, 0, DATA[:9])
        tus.files.now += 1500
        for answer in (await tus.head(location), await tus.patch(location, 9, b"")):
            assert answer.status == 410
        assert "has expired" in answer.text

    async def test_a_client_that_stands_still(self, tus: Tus) -> None:
        tus.files.settings = settings(progress_timeout=0.01)
        location = await tus.create()
        answer = await tus.patch(location, 0, [DATA[:9], Stall()])
        assert (answer.status, answer.text) == (408, "no byte of the request body came for 0.01 s\n")
        assert await tus.offset(location) == 9


class TestChecksum:
    @pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
    async def test_parts_that_are_right(self, tus: Tus, algorithm: str) -> None:
        location = await tus.create()
        first, rest = DATA[:100_000], DATA[100_000:]
        await tus.patch(location, 0, first, upload_checksum=checksum(first, algorithm))
        answer = await tus.patch(location, len(first), rest, upload_checksum=checksum(rest, algorithm))
        assert await tus.content(answer.answer("fawa-key")) == DATA

    async def test_a_part_that_is_wrong_is_dropped(self, tus: Tus) -> None:
        location = await tus.create()
        await tus.patch(location, 0, DATA[:100])
        for wrong in (DATA[:5000], DATA[101:]):
            answer = await tus.patch(location, 100, wrong, upload_checksum=checksum(DATA[100:]))
            assert (answer.status, answer.answer("tus-resumable")) == (460, VERSION)
            assert await tus.offset(location) == 100
        # The last part may be wrong too, and the file is none yet.
        answer = await tus.patch(location, 100, bytes(399_900), upload_checksum=checksum(DATA[100:]))
        assert (answer.status, await tus.offset(location)) == (460, 100)
        answer = await tus.patch(location, 100, DATA[100:], upload_checksum=checksum(DATA[100:]))
        assert await tus.content(answer.answer("fawa-key")) == DATA

    async def test_a_part_whose_end_is_missing_is_dropped(self, tus: Tus) -> None:
        location = await tus.create()
        body: list[Piece] = [DATA[:9], Disconnected("gone")]
        with pytest.raises(Disconnected):
            await tus.patch(location, 0, body, upload_checksum=checksum(DATA))
        assert await tus.offset(location) == 0

    async def test_a_first_part_that_is_wrong_leaves_no_upload(self, tus: Tus) -> None:
        answer = await tus.ask(
            "POST",
            "/uploads",
            DATA[:9],
            tus_resumable=VERSION,
            upload_length="9",
            content_type=PART,
            upload_checksum=checksum(DATA),
        )
        assert (answer.status, tus.files.stored()) == (460, [])
        assert await tus.records.expired(float("inf"), 9) == []

    @pytest.mark.parametrize(
        "value", ["md5 AAAA", "sha1", "sha1 ", "sha1 AAAA", "sha1 !", "SHA1 AAAA", "", " "]
    )
    async def test_checksums_that_are_none(self, tus: Tus, value: str) -> None:
        location = await tus.create()
        answer = await tus.patch(location, 0, DATA, upload_checksum=value)
        assert (answer.status, answer.taken) == (400, 0)
        assert await tus.offset(location) == 0


class TestTwoAtOnce:
    async def test_the_newer_goes_on_and_the_older_is_told(self, tus: Tus) -> None:
        location = await tus.create()
        newer: list[Sending] = []

        async def overtake() -> None:
            offset = await tus.offset(location)
            newer.append(await tus.patch(location, offset, DATA[offset:]))

        older = await tus.patch(location, 0, [DATA[:65_536], overtake, b"x" * 300_000, b"y"])
        assert older.status == 409
        assert "another request" in older.text
        assert newer[0].status == 204
        assert await tus.content(newer[0].answer("fawa-key")) == DATA

    async def test_terminated_under_way(self, tus: Tus) -> None:
        location = await tus.create()

        async def terminate() -> None:
            assert (await tus.ask("DELETE", location, tus_resumable=VERSION)).status == 204

        answer = await tus.patch(location, 0, [DATA[:9], terminate, DATA[9:]])
        assert (answer.status, tus.files.stored()) == (409, [])


class TestRefused:
    @pytest.mark.parametrize("version", [None, "", "0.2.2", "1.0.1", "1.0.0, 1.0.0"])
    async def test_other_versions(self, tus: Tus, version: str | None) -> None:
        location = await tus.create()
        asked = [
            await tus.ask("POST", "/uploads", tus_resumable=version, upload_length="9"),
            await tus.patch(location, 0, DATA, tus_resumable=version),
        ]
        if version is not None:  # without a version these are requests of the IETF's
            asked.append(await tus.head(location, tus_resumable=version))
            asked.append(await tus.ask("DELETE", location, tus_resumable=version))
        for answer in asked:
            assert (answer.status, answer.taken) == (412, 0)
            assert answer.answer("tus-version") == VERSION
        assert await tus.offset(location) == 0

    @pytest.mark.parametrize(
        "value", ["-1", "+1", "1.5", "0x10", "ten", "", "1, 1", "9" * 16, "9" * 5000, "\xb2"]
    )
    async def test_numbers_that_are_none(self, tus: Tus, value: str) -> None:
        location = await tus.create()
        for answer in (
            await tus.ask("POST", "/uploads", tus_resumable=VERSION, upload_length=value),
            await tus.patch(location, value, DATA),
            await tus.patch(location, 0, DATA, upload_length=value),
        ):
            assert (answer.status, answer.taken) == (400, 0)
            assert len(answer.text) < 250
        assert await tus.offset(location) == 0

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"upload_length": "9", "upload_defer_length": "1"},
            {"upload_defer_length": "0"},
            {"upload_length": "9", "upload_concat": "partial"},
            {"upload_concat": "final;/uploads/a /uploads/b"},
            {"upload_length": "9", "upload_metadata": "filename !"},
            {"upload_length": "9", "upload_metadata": "filename YQ"},
            {"upload_length": "9", "upload_metadata": "filename YQ==,filename YQ=="},
            {"upload_length": "9", "upload_metadata": "filename /w=="},
            {"upload_length": "9", "upload_metadata": "a b c"},
            {"upload_length": "9", "upload_metadata": "filename Li4vLi4vZXRjL3Bhc3N3ZA=="},
            {"upload_length": "9", "upload_metadata": "filename YQ0KYjogYw=="},
        ],
    )
    async def test_creations(self, tus: Tus, headers: dict[str, str]) -> None:
        answer = await tus.ask("POST", "/uploads", tus_resumable=VERSION, **headers)
        assert answer.status == 400
        assert answer.text.strip()
        assert tus.files.stored() == []

    @pytest.mark.parametrize("content_type", [None, "text/plain", "application/octet-stream"])
    async def test_other_types(self, tus: Tus, content_type: str | None) -> None:
        location = await tus.create()
        answer = await tus.patch(location, 0, DATA, content_type=content_type)
        assert (answer.status, answer.taken) == (415, 0)
        assert "application/offset+octet-stream" in (answer.answer("accept-patch") or "")
        answer = await tus.ask(
            "POST", "/uploads", DATA, tus_resumable=VERSION, upload_length="9", content_type=content_type
        )
        assert answer.status == 415
        assert await tus.offset(location) == 0

    @pytest.mark.parametrize("offset", [0, 99, 101, 399_999, 999_999_999_999_999])
    async def test_wrong_offsets(self, tus: Tus, offset: int) -> None:
        location = await tus.create()
        await tus.patch(location, 0, DATA[:100])
        answer = await tus.patch(location, offset, DATA)
        assert (answer.status, answer.taken, answer.answer("upload-offset")) == (409, 0, "100")
        await tus.patch(location, 100, DATA[100:])
        answer = await tus.patch(location, offset, DATA)
        assert (answer.status, answer.taken, answer.answer("upload-offset")) == (409, 0, "400000")

    async def test_more_than_the_upload_has(self, tus: Tus) -> None:
        location = await tus.create(100)
        answer = await tus.patch(location, 0, DATA)
        assert (answer.status, answer.taken) == (413, 0)
        answer = await tus.patch(location, 0, list(pieces(DATA, 70)))
        assert (answer.status, answer.taken) == (413, 2)
        assert (await tus.patch(location, await tus.offset(location), DATA[70:100])).answer("fawa-key")
        assert (await tus.patch(location, 100, DATA)).status == 413

    async def test_more_than_is_taken(self, tus: Tus) -> None:
        tus.files.settings = settings(max_file_size=100)
        answer = await tus.ask("POST", "/uploads", tus_resumable=VERSION, upload_length="101")
        assert answer.status == 413
        location = await tus.create(None)
        assert (await tus.patch(location, 0, DATA)).status == 413
        assert (await tus.patch(location, 0, b"", upload_length="101")).status == 413
        assert (await tus.patch(location, 0, list(pieces(DATA, 70)))).status == 413
        assert (await tus.head(location)).answer("upload-defer-length") == "1"

    @pytest.mark.parametrize("upload_id", ["unknown", "a" * 129, "..", "%2e%2e", "a/b", "%ff", "\xff"])
    async def test_uploads_that_there_are_not(self, tus: Tus, upload_id: str) -> None:
        location = f"/uploads/{upload_id}"
        for answer in (await tus.head(location), await tus.patch(location, 0, DATA)):
            assert (answer.status, answer.taken) == (404, 0)

    async def test_a_missing_offset(self, tus: Tus) -> None:
        location = await tus.create()
        assert (await tus.patch(location, 0, DATA, upload_offset=None)).status == 400

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [("PATCH", "/uploads/", 405), ("POST", "/uploads/x", 405), ("GET", "/uploads/x", 405)],
    )
    async def test_methods(self, tus: Tus, method: str, path: str, status: int) -> None:
        answer = await tus.ask(method, path, tus_resumable=VERSION)
        assert answer.status == status
        assert answer.answer("allow")


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ("", "unnamed"),
        ("is_confidential", "unnamed"),
        ("filename ", "unnamed"),
        ("filename d29ybGQ=", "world"),
        ("filetype dGV4dA==, filename d29ybGQ= ,is_confidential", "world"),
        ("name YQ==,filename Yg==", "b"),
        ("name YQ==,filename", "a"),
        ("filename Wm/Dqw==", "Zoë"),
    ],
)
def test_names_in_metadata(metadata: str, name: str) -> None:
    assert name_untrusted(metadata) == name
