"""On what terms files that come over plain HTTP are shared, whichever the protocol, as conversations."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from grpclib.const import Status

from fawa.services import resumption, tus
from fawa.services.sharing import SharingSettings
from fawa.storage.base import Terms
from fawa.storage.uploads import upload_store
from tests.services.conftest import Files
from tests.services.talk import refused, settings
from tests.services.test_sharing import delete, follow, link, receive
from tests.services.uploading import DATA, Sending, Talk

TUS = {"tus_resumable": "1.0.0"}
DRAFT = {"upload_draft_interop_version": "8"}
PASSWORD = "Schlüssel, 50%"
NAMES = {"fawa_ttl": "Fawa-Ttl", "fawa_max_downloads": "Fawa-Max-Downloads", "fawa_password": "Fawa-Password"}

#: Answers to what began an upload, and to what ended it.
Answers = tuple[Sending, Sending]
#: Sends a file.
Way = Callable[..., Awaitable[Answers]]


async def put(talk: Talk, **terms: str) -> Answers:
    answer = await talk.ask("PUT", "/a.txt", DATA, **terms)
    return answer, answer


async def by_tus(talk: Talk, **terms: str) -> Answers:
    begun = await talk.ask("POST", "/uploads", **TUS, upload_length=str(len(DATA)), **terms)
    if begun.status != 201:
        return begun, begun
    place = begun.answer("location") or ""
    # Its clients send fields of their own with all requests: they count where an upload begins.
    later = {"fawa_ttl": "1", "fawa_max_downloads": "x", "fawa_password": "another"} | TUS
    ended = await talk.ask("PATCH", place, DATA, content_type=tus.PART, upload_offset="0", **later)
    return begun, ended


async def by_tus_at_once(talk: Talk, **terms: str) -> Answers:
    more = {"content_type": tus.PART, "upload_length": str(len(DATA))}
    answer = await talk.ask("POST", "/uploads", DATA, **TUS, **more, **terms)
    return answer, answer


async def by_draft(talk: Talk, **terms: str) -> Answers:
    begun = await talk.ask("POST", "/uploads", DATA[:9], upload_complete="?0", **terms)
    if begun.status != 201:
        return begun, begun
    place = begun.answer("location") or ""
    more = {"content_type": resumption.PART, "upload_offset": "9", "upload_complete": "?1"}
    return begun, await talk.ask("PATCH", place, DATA[9:], **more)


async def by_draft_at_once(talk: Talk, **terms: str) -> Answers:
    answer = await talk.ask("PUT", "/a.txt", DATA, upload_complete="?1", **DRAFT, **terms)
    return answer, answer


WAYS = (put, by_tus, by_tus_at_once, by_draft, by_draft_at_once)
of_all_ways = pytest.mark.parametrize("send", WAYS)


@pytest.fixture
async def talk(files: Files, tmp_path: Path) -> AsyncIterator[Talk]:
    async with upload_store(tmp_path / "uploads.sqlite3") as records:
        yield Talk(files, records)


def key_of(answer: Sending) -> str:
    assert answer.status in {201, 204}, answer.text
    return answer.answer("fawa-key") or ""


def link_of(answer: Sending) -> str:
    return (answer.answer("fawa-link") or "").removeprefix("http://files.example:8080")


@of_all_ways
class TestHeld:
    async def test_the_usual_ones(self, talk: Talk, send: Way) -> None:
        _, answer = await send(talk)
        record = await talk.files.metadata.get(key_of(answer))
        assert record.terms == Terms(owner=record.terms.owner)
        assert record.expires == talk.files.now + talk.files.settings.ttl

    async def test_for_how_long(self, talk: Talk, send: Way) -> None:
        _, answer = await send(talk, fawa_ttl="90")
        assert answer.answer("fawa-expires") == f"{(talk.files.now + 90) * 1000:.0f}"
        talk.files.now += 89
        assert (await follow(talk.files, link_of(answer))).body == DATA
        talk.files.now += 1
        with refused(Status.NOT_FOUND, "no file"):
            await receive(talk.files, key_of(answer))

    async def test_how_often(self, talk: Talk, send: Way) -> None:
        _, answer = await send(talk, fawa_max_downloads="1")
        assert (await follow(talk.files, link_of(answer))).body == DATA
        assert (await follow(talk.files, link_of(answer))).status == 404
        with refused(Status.NOT_FOUND, "no file"):
            await receive(talk.files, key_of(answer))
        assert talk.unfinished() == talk.files.stored() == []

    async def test_with_a_password(self, talk: Talk, send: Way) -> None:
        _, answer = await send(talk, fawa_password=quote(PASSWORD))
        key = key_of(answer)
        with refused(Status.PERMISSION_DENIED, "needs a password"):
            await receive(talk.files, key)
        with refused(Status.PERMISSION_DENIED, "the password is wrong"):
            await link(talk.files, key, quote(PASSWORD))
        assert await receive(talk.files, key, password=PASSWORD) == DATA
        # A link needs none, and the sender's is one.
        for target in (await link(talk.files, key, PASSWORD), link_of(answer)):
            assert (await follow(talk.files, target)).body == DATA

    async def test_the_owner_removes_it(self, talk: Talk, send: Way) -> None:
        begun, answer = await send(talk)
        token = begun.answer("fawa-token") or ""
        assert len(token) == 26
        for status, head in begun.informed:
            assert (status, dict(head)[b"fawa-token"]) == (104, token.encode())
        with refused(Status.PERMISSION_DENIED, "not the one"):
            await delete(talk.files, key_of(answer), "a" * 26)
        await delete(talk.files, key_of(answer), token)
        assert talk.files.stored() == []

    async def test_the_token_is_told_once(self, talk: Talk, send: Way) -> None:
        begun, ended = await send(talk, accept="application/json")
        token = begun.answer("fawa-token") or ""
        told = begun.answer("content-type") == "application/json"
        assert json.loads(begun.text)["token"] == token if told else token not in begun.text
        later = [] if ended is begun else [ended]
        places = {dict(head)[b"location"].decode() for _, head in begun.informed}
        places |= {place for place in [begun.answer("location") or ""] if place.startswith("/uploads/")}
        for place in places:
            later += [await talk.ask("HEAD", place), await talk.ask("HEAD", place, **TUS)]
        for answer in later:
            assert answer.status < 300
            assert "token" not in f"{answer.text} {answer.response}"


BAD = [
    ("fawa_ttl", value, f"seconds from 1 to 2147483647, not '{value}'")
    for value in ("0", "-1", "1.5", "2h", "", "9, 9", "2147483648", "9" * 16)
]
BAD += [("fawa_ttl", value, f"10 to 3600 seconds here, not for {value}") for value in ("9", "3601")]
BAD += [
    ("fawa_max_downloads", value, f"downloads from 1 to 2147483647, not '{value}'")
    for value in ("0", "-1", "once", "1;q=1", "2147483648")
]
BAD += [("fawa_password", "", "it is empty: leave it out")]
BAD += [
    ("fawa_password", value, "%25 for %, %C3%BC for ü")
    for value in ("100%hunter", "hunter%2", "hunter\xfc", "hunter\t22", "%FFhunter")
]
BAD += [("fawa_password", "hunter" * 200, "a password has at most 1024 bytes")]


@of_all_ways
class TestRefused:
    @pytest.mark.parametrize(("name", "value", "why"), BAD)
    async def test_what_cannot_be(self, talk: Talk, send: Way, name: str, value: str, why: str) -> None:
        talk.files.settings = settings(sharing=SharingSettings(min_ttl=10, max_ttl=3600))
        answer, _ = await send(talk, **{name: value})
        assert answer.status == 400
        problem: Any = json.loads(answer.text) if "draft" in send.__name__ else {"detail": answer.text}
        assert problem["detail"].startswith(f"{NAMES[name]}: ")
        assert why in problem["detail"]
        assert "hunter" not in answer.text
        assert (answer.taken, answer.informed) == (0, [])
        assert talk.files.stored() == []
        # Not even a record: here are all that will ever expire.
        assert await talk.records.expired(talk.files.now + 1e9, 10) == []


@pytest.mark.parametrize("name", list(NAMES))
async def test_twice(talk: Talk, name: str) -> None:
    field = NAMES[name].lower().encode()
    exchange = Sending("/a.txt", "PUT", [], [DATA])
    exchange.headers += [(field, b"1"), (field, b"1")]
    await talk.router.handler(exchange)(exchange)
    assert (exchange.status, exchange.text) == (400, f"{NAMES[name]}: it is there more than once\n")
    assert (exchange.taken, talk.files.stored()) == (0, [])
