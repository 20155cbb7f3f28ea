"""The IETF's resumable uploads, as conversations."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from fawa.net.exchange import Disconnected
from fawa.services.resumption import PART
from fawa.storage.uploads import upload_store
from tests.services.conftest import Files
from tests.services.talk import settings
from tests.services.uploading import DATA, DAY, Piece, Sending, Talk, pieces

PROBLEM = "https://iana.org/assignments/http-problem-types#"


@attrs.define
class Draft(Talk):
    """A client of the draft."""

    async def create(
        self,
        body: bytes | list[Piece] = b"",
        complete: str = "?0",
        path: str = "/a.txt",
        **headers: str | None,
    ) -> Sending:
        named: dict[str, str | None] = {"upload_complete": complete, "upload_draft_interop_version": "8"}
        method = "POST" if path == "/uploads" else "PUT"
        return await self.ask(method, path, body, **(named | headers))

    async def location(self, body: bytes = b"", **headers: str) -> str:
        """Begin an upload; return where it is."""
        answer = await self.create(body, "?0", "/a.txt", **headers)
        assert answer.status == 201, answer.text
        location = answer.answer("location")
        assert location is not None
        return location

    async def patch(
        self,
        location: str,
        offset: int | str | None,
        body: bytes | list[Piece],
        complete: str | None = "?1",
        **headers: str | None,
    ) -> Sending:
        named = {
            "content_type": PART,
            "upload_offset": None if offset is None else str(offset),
            "upload_complete": complete,
        }
        return await self.ask("PATCH", location, body, **(named | headers))

    async def offset(self, location: str) -> int:
        answer = await self.ask("HEAD", location)
        assert answer.status == 204
        return int(answer.answer("upload-offset") or "")


@pytest.fixture
async def draft(files: Files, tmp_path: Path) -> AsyncIterator[Draft]:
    async with upload_store(tmp_path / "uploads.sqlite3") as records:
        yield Draft(files, records)


def problem(answer: Sending) -> Any:
    assert answer.answer("content-type") == "application/problem+json"
    told = json.loads(answer.text)
    assert told["status"] == answer.status
    assert told["title"]
    assert told["detail"]
    return told


def informed(answer: Sending) -> list[tuple[int, dict[str, str]]]:
    return [(status, {n.decode(): v.decode() for n, v in head}) for status, head in answer.informed]


def sha256(data: bytes) -> str:
    return f"sha-256=:{b64encode(hashlib.sha256(data).digest()).decode()}:"


class TestUpload:
    async def test_in_one_request(self, draft: Draft) -> None:
        answer = await draft.create(DATA, "?1", "/report%201.pdf")
        [(status, told)] = informed(answer)
        location = told.pop("location")
        assert location.startswith("/uploads/")
        assert told.pop("fawa-token") == answer.answer("fawa-token")
        assert (status, told) == (104, {"upload-limit": "max-age=86400", "upload-draft-interop-version": "8"})
        # The answer is that of a PUT.
        assert answer.status == 201
        assert answer.text == f"{answer.answer('location')}\n"
        assert (answer.answer("upload-complete"), answer.answer("upload-offset")) == ("?1", "400000")
        assert await draft.content(answer.answer("fawa-key")) == DATA
        # Whoever lost it may ask.
        told_later = await draft.ask("HEAD", location)
        assert told_later.status == 204
        assert {name.decode(): value.decode() for name, value in told_later.response} == {
            "cache-control": "no-store",
            "upload-offset": "400000",
            "upload-complete": "?1",
            "upload-limit": "max-age=86400",
            "upload-length": "400000",
            "fawa-key": answer.answer("fawa-key"),
            "fawa-link": answer.answer("fawa-link"),
            "fawa-expires": "1763901500250",
            "repr-digest": sha256(DATA),
        }

    async def test_interrupted_and_resumed(self, draft: Draft) -> None:
        async def look() -> None:
            # Before the first byte.
            assert len(draft.asked[-1].informed) == 1

        body: list[Piece] = [look, DATA[:5000], Disconnected("gone")]
        with pytest.raises(Disconnected):
            await draft.create(body, "?1", content_length="400000")
        [(_, told)] = informed(draft.asked[-1])
        location = told["location"]
        head = await draft.ask("HEAD", location)
        assert (head.answer("upload-offset"), head.answer("upload-complete")) == ("5000", "?0")
        assert head.answer("upload-length") == "400000"
        answer = await draft.patch(location, 5000, DATA[5000:])
        assert answer.status == 201
        assert answer.text == f"{answer.answer('location')}\n"
        assert answer.answer("upload-complete") == "?1"
        assert await draft.content(answer.answer("fawa-key")) == DATA

    async def test_in_parts(self, draft: Draft) -> None:
        created = await draft.create(
            DATA[:9], path="/uploads", content_disposition='inline; filename="b.txt"'
        )
        assert (created.status, created.answer("upload-complete")) == (201, "?0")
        assert created.answer("upload-offset") == "9"
        assert created.answer("upload-limit") == "max-age=86400"
        location = created.answer("location") or ""
        assert informed(created)[0][1]["location"] == location
        head = await draft.ask("HEAD", location)
        assert (head.answer("upload-length"), head.answer("upload-complete")) == (None, "?0")
        answer = await draft.patch(location, 9, DATA[9:18], "?0")
        assert (answer.status, answer.answer("upload-complete"), answer.answer("upload-offset")) == (
            204,
            "?0",
            "18",
        )
        answer = await draft.patch(location, 18, list(pieces(DATA[18:])), accept="application/json")
        assert (answer.status, json.loads(answer.text)["name"]) == (201, "b.txt")
        assert await draft.content(answer.answer("fawa-key")) == DATA

    async def test_all_bytes_are_not_yet_a_whole_file(self, draft: Draft) -> None:
        location = await draft.location(DATA, upload_length="400000")
        head = await draft.ask("HEAD", location)
        assert (head.answer("upload-offset"), head.answer("upload-complete")) == ("400000", "?0")
        answer = await draft.patch(location, 400_000, b"")
        assert (answer.status, await draft.content(answer.answer("fawa-key"))) == (201, DATA)

    async def test_an_empty_file(self, draft: Draft) -> None:
        answer = await draft.create(b"", "?1")
        assert await draft.content(answer.answer("fawa-key")) == b""

    async def test_a_public_url(self, draft: Draft) -> None:
        draft.public_url = "https://files.example/fawa"
        assert (await draft.location()).startswith("https://files.example/fawa/uploads/")

    async def test_cancelled(self, draft: Draft) -> None:
        location = await draft.location(DATA[:9])
        assert (await draft.ask("DELETE", location)).status == 204
        assert draft.files.stored() == []
        for answer in (
            await draft.ask("HEAD", location),
            await draft.patch(location, 9, DATA[9:]),
            await draft.ask("DELETE", location),
        ):
            assert answer.status == 404

    async def test_an_upload_by_tus_goes_on_by_the_draft(self, draft: Draft) -> None:
        created = await draft.ask("POST", "/uploads", tus_resumable="1.0.0", upload_length="400000")
        assert (await draft.patch(created.answer("location") or "", 0, DATA)).status == 201

    async def test_what_is_offered(self, draft: Draft) -> None:
        draft.files.settings = settings(max_file_size=5_000_000)
        answer = await draft.ask("OPTIONS", "/uploads")
        assert answer.answer("upload-limit") == "max-size=5000000, max-age=86400"
        assert answer.answer("accept-patch") == "application/partial-upload, application/offset+octet-stream"

    async def test_how_long_it_is_kept(self, draft: Draft) -> None:
        location = await draft.location(DATA[:9])
        draft.files.now += DAY - 1
        # Asking is progress.
        assert (await draft.ask("HEAD", location)).answer("upload-limit") == "max-age=86400"
        draft.files.now += DAY
        assert (await draft.ask("HEAD", location)).status == 404


class TestWhoIsNotInformed:
    @pytest.mark.parametrize("version", [None, "7", "9", "eight", "8, 8", "-8"])
    async def test_what_is_sent_whole_is_not_kept(self, draft: Draft, version: str | None) -> None:
        with pytest.raises(Disconnected):
            await draft.create([DATA, Disconnected("gone")], "?1", upload_draft_interop_version=version)
        assert draft.files.stored() == []
        answer = await draft.create(DATA, "?1", upload_draft_interop_version=version)
        assert (answer.status, answer.informed) == (201, [])
        for path in ("/uploads", "/a"):
            assert (await draft.create(DATA, "?1", path, upload_draft_interop_version=version)).status == 201

    async def test_what_is_sent_in_parts_is(self, draft: Draft) -> None:
        answer = await draft.create(DATA[:9], upload_draft_interop_version=None)
        assert (answer.status, answer.informed) == (201, [])
        assert await draft.offset(answer.answer("location") or "") == 9

    async def test_a_first_part_that_breaks_off_is_not(self, draft: Draft) -> None:
        with pytest.raises(Disconnected):
            await draft.create([DATA, Disconnected("gone")], upload_draft_interop_version=None)
        assert draft.files.stored() == []


class TestDigests:
    async def test_of_the_whole(self, draft: Draft) -> None:
        location = await draft.location(DATA[:9], repr_digest=sha256(DATA))
        assert (await draft.patch(location, 9, DATA[9:])).status == 201
        location = await draft.location(DATA[:9], repr_digest=sha256(b""))
        assert (await draft.patch(location, 9, DATA[9:])).status == 400
        assert (await draft.ask("HEAD", location)).status == 404

    async def test_of_a_part(self, draft: Draft) -> None:
        location = await draft.location(DATA[:9], content_digest=sha256(DATA[:9]))
        answer = await draft.patch(location, 9, DATA[9:], content_digest=sha256(DATA))
        assert (answer.status, await draft.offset(location)) == (400, 9)
        assert (await draft.patch(location, 9, DATA[9:], content_digest=sha256(DATA[9:]))).status == 201

    @pytest.mark.parametrize("value", ["sha-256", "sha-256=:AAAA", "sha-256=AAAA", "sha-256=:!:"])
    async def test_that_are_none(self, draft: Draft, value: str) -> None:
        location = await draft.location()
        answer = await draft.patch(location, 0, DATA, content_digest=value)
        assert (problem(answer)["type"], answer.status, answer.taken) == ("about:blank", 400, 0)


class TestTwoAtOnce:
    async def test_the_newer_goes_on_and_the_older_is_told(self, draft: Draft) -> None:
        location = await draft.location()
        newer: list[Sending] = []

        async def overtake() -> None:
            offset = await draft.offset(location)
            newer.append(await draft.patch(location, offset, DATA[offset:]))

        older = await draft.patch(location, 0, [DATA[:65_536], overtake, b"x" * 300_000, b"y"])
        assert (older.status, problem(older)["type"]) == (409, "about:blank")
        assert await draft.content(newer[0].answer("fawa-key")) == DATA

    async def test_the_first_request_too_is_overtaken(self, draft: Draft) -> None:
        seen: list[Sending] = []

        async def overtake() -> None:
            [record] = await draft.records.expired(float("inf"), 9)
            location = f"/uploads/{record.id}"
            offset = await draft.offset(location)
            seen.append(await draft.patch(location, offset, DATA[offset:]))

        older = await draft.create([DATA[:9], overtake, bytes(300_000)], "?1")
        assert older.status == 409
        assert await draft.content(seen[0].answer("fawa-key")) == DATA


class TestRefused:
    @pytest.mark.parametrize("offset", [0, 99, 101, 999_999_999_999_999])
    async def test_wrong_offsets(self, draft: Draft, offset: int) -> None:
        location = await draft.location(DATA[:100])
        for stored in (100, 400_000):
            answer = await draft.patch(location, offset, DATA)
            assert (answer.status, answer.taken, answer.answer("upload-offset")) == (409, 0, str(stored))
            told = problem(answer)
            assert told["type"] == f"{PROBLEM}mismatching-upload-offset"
            assert (told["expected-offset"], told["provided-offset"]) == (stored, offset)
            await draft.patch(location, 100, DATA[100:])

    async def test_more_for_an_upload_that_is_whole(self, draft: Draft) -> None:
        location = await draft.location()
        await draft.patch(location, 0, DATA)
        answer = await draft.patch(location, 400_000, b"")
        assert (answer.status, answer.answer("upload-complete")) == (400, "?1")
        assert problem(answer)["type"] == f"{PROBLEM}completed-upload"
        answer = await draft.patch(location, 400_000, DATA)
        assert problem(answer)["type"] == f"{PROBLEM}inconsistent-upload-length"

    async def test_two_lengths(self, draft: Draft) -> None:
        lengths = f"{PROBLEM}inconsistent-upload-length"
        answer = await draft.create(DATA, "?1", upload_length="399999")
        assert (answer.status, answer.taken, problem(answer)["type"]) == (400, 0, lengths)
        location = await draft.location(upload_length="400000")
        answer = await draft.patch(location, 0, DATA[:9], "?0", upload_length="399999")
        assert (answer.status, answer.taken, problem(answer)["type"]) == (400, 0, lengths)
        answer = await draft.patch(location, 0, DATA[:9])
        assert (answer.status, answer.taken, problem(answer)["type"]) == (400, 0, lengths)
        answer = await draft.patch(location, 0, list(pieces(DATA[:9])))
        assert (answer.status, problem(answer)["type"]) == (400, lengths)
        assert await draft.offset(location) == 9

    @pytest.mark.parametrize("body", [DATA, list(pieces(DATA, 70))])
    async def test_more_than_the_upload_has(self, draft: Draft, body: bytes | list[Piece]) -> None:
        location = await draft.location(upload_length="100")
        answer = await draft.patch(location, 0, body, "?0")
        assert (answer.status, problem(answer)["type"]) == (400, f"{PROBLEM}inconsistent-upload-length")
        # Nothing more may follow (section 4.4.2).
        assert (await draft.ask("HEAD", location)).status == 404
        assert draft.files.stored() == []
        answer = await draft.create(body, upload_length="100")
        assert (answer.status, draft.files.stored()) == (400, [])

    async def test_more_than_is_taken(self, draft: Draft) -> None:
        draft.files.settings = settings(max_file_size=100)
        for answer in (
            await draft.create(b"", upload_length="101"),
            await draft.create(DATA, "?1"),
            await draft.create(list(pieces(DATA, 70)), "?1"),
            await draft.create(list(pieces(DATA, 70))),
        ):
            assert (answer.status, problem(answer)["type"]) == (413, "about:blank")
            assert answer.answer("upload-limit") == "max-size=100, max-age=86400"
        assert draft.files.stored() == []
        location = await draft.location()
        assert (await draft.patch(location, 0, DATA, "?0")).status == 413
        assert (await draft.patch(location, 0, b"", "?0", upload_length="101")).status == 413
        assert await draft.offset(location) == 0

    @pytest.mark.parametrize(
        ("offset", "complete"),
        [
            (None, "?1"),
            ("-1", "?1"),
            ("1.0", "?1"),
            ("0, 0", "?1"),
            ("9" * 16, "?1"),
            ("", "?1"),
            ("?1", "?1"),
            ("0", None),
            ("0", "1"),
            ("0", "true"),
            ("0", "?1, ?0"),
        ],
    )
    async def test_fields_that_count_as_missing(
        self, draft: Draft, offset: str | None, complete: str | None
    ) -> None:
        location = await draft.location()
        answer = await draft.patch(location, offset, DATA, complete)
        assert (answer.status, answer.taken) == (400, 0)
        assert "Upload-" in problem(answer)["detail"]

    @pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/octet-stream"])
    async def test_other_types(self, draft: Draft, content_type: str | None) -> None:
        location = await draft.location()
        answer = await draft.patch(location, 0, DATA, content_type=content_type)
        assert (answer.status, answer.taken) == (415, 0)
        assert answer.answer("accept-patch") == "application/partial-upload, application/offset+octet-stream"

    async def test_a_post_that_says_nothing(self, draft: Draft) -> None:
        # tus, as far as anybody can tell; a page of another origin cannot send more without being asked.
        answer = await draft.ask("POST", "/uploads", DATA)
        assert (answer.status, answer.taken) == (412, 0)

    @pytest.mark.parametrize(
        ("path", "headers"),
        [
            ("/..%2fx", {}),
            ("/uploads", {"content_disposition": 'inline; filename="../x"'}),
            ("/uploads", {"content_disposition": 'inline; filename="x'}),
            ("/uploads", {"content_disposition": "inline; filename*=UTF-8''a%0d%0ab"}),
            ("/a", {"content_range": "bytes 0-9/10"}),
            ("/a", {"content_encoding": "gzip"}),
            ("/a", {"repr_digest": "sha-256=:AAAA:"}),
            ("/a", {"host": "a b"}),
        ],
    )
    async def test_creations(self, draft: Draft, path: str, headers: dict[str, str]) -> None:
        for complete in ("?0", "?1"):
            answer = await draft.create(DATA, complete, path, **headers)
            assert answer.status in {400, 415}
            assert (answer.taken, answer.informed) == (0, [])
            assert problem(answer)["detail"]
        assert draft.files.stored() == []

    async def test_a_file_that_has_expired(self, draft: Draft) -> None:
        location = await draft.location()
        await draft.patch(location, 0, DATA)
        draft.files.now += 1500
        assert (await draft.ask("HEAD", location)).status == 410
        answer = await draft.patch(location, 400_000, b"")
        assert (answer.status, problem(answer)["title"]) == (410, "Gone")
