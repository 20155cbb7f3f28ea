"""Whole files by `PUT`, and what all uploads over HTTP share, as conversations."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fawa.net.exchange import Disconnected
from fawa.services.links import make_link
from fawa.services.names import (
    check_name_untrusted,
    content_disposition,
    path_name_untrusted,
)
from fawa.storage.base import OutOfSpace, StorageError
from fawa.storage.filesystem import FilesystemUpload
from fawa.storage.uploads import upload_store
from tests.services.conftest import SECRET, Files
from tests.services.memory import MemoryExchange, Stall
from tests.services.talk import settings
from tests.services.uploading import DATA, Talk, pieces

SHA256 = hashlib.sha256(DATA)
DIGEST = b64encode(SHA256.digest()).decode()


@pytest.fixture
async def talk(files: Files, tmp_path: Path) -> AsyncIterator[Talk]:
    async with upload_store(tmp_path / "uploads.sqlite3") as records:
        yield Talk(files, records)


class TestPut:
    async def test_a_file(self, talk: Talk) -> None:
        answer = await talk.ask("PUT", "/report%201.pdf", DATA)
        assert answer.status == 201
        link = answer.answer("location")
        assert answer.text == f"{link}\n"
        assert answer.answer("content-type") == "text/plain; charset=utf-8"
        key = answer.answer("fawa-key")
        assert link is not None
        assert link.startswith(f"http://files.example:8080/files/{key}/report%201.pdf?expires=1763900301&")
        assert answer.answer("fawa-link") == link
        assert answer.answer("fawa-expires") == "1763901500250"
        assert answer.answer("repr-digest") == f"sha-256=:{DIGEST}:"
        assert await talk.content(key) == DATA
        record = await talk.files.metadata.get(key or "")
        assert (record.name, record.size, record.content_type) == ("report 1.pdf", 400_000, "application/pdf")
        # The link is one that works.
        download = MemoryExchange(link.removeprefix("http://files.example:8080"))
        await talk.files.links.serve(download)
        assert (download.status, download.body) == (200, DATA)

    async def test_as_json(self, talk: Talk) -> None:
        answer = await talk.ask("PUT", "/Zo%C3%AB", DATA, accept="application/json, text/plain;q=0.5")
        assert answer.answer("content-type") == "application/json"
        assert json.loads(answer.text) == {
            "key": answer.answer("fawa-key"),
            "link": answer.answer("location"),
            "name": "Zoë",
            "size": 400_000,
            "sha256": SHA256.hexdigest(),
            "expires_at": 1763901500250,
            "link_expires_at": 1763900301000,
            "token": answer.answer("fawa-token"),
        }
        for accept in ("*/*", "application/json;q=0", "text/plain"):
            answer = await talk.ask("PUT", "/a", DATA, accept=accept)
            assert answer.answer("content-type") == "text/plain; charset=utf-8"

    async def test_of_a_length_that_nobody_told(self, talk: Talk) -> None:
        answer = await talk.ask("PUT", "/a", pieces(DATA))
        assert await talk.content(answer.answer("fawa-key")) == DATA

    async def test_an_empty_file(self, talk: Talk) -> None:
        answer = await talk.ask("PUT", "/empty")
        assert (answer.status, await talk.content(answer.answer("fawa-key"))) == (201, b"")

    async def test_a_public_url(self, talk: Talk) -> None:
        talk.public_url = "https://files.example/fawa/"
        answer = await talk.ask("PUT", "/a", DATA)
        assert (answer.answer("location") or "").startswith("https://files.example/fawa/files/")

    async def test_a_digest_that_fits(self, talk: Talk) -> None:
        answer = await talk.ask("PUT", "/a", DATA, repr_digest=f"md5=:AAAA:, sha-256=:{DIGEST}:")
        assert answer.status == 201

    async def test_a_digest_that_does_not_fit(self, talk: Talk) -> None:
        other = b64encode(bytes(32)).decode()
        answer = await talk.ask("PUT", "/a", DATA, repr_digest=f"sha-256=:{other}:")
        assert (answer.status, talk.files.stored()) == (400, [])
        assert SHA256.hexdigest() in answer.text

    async def test_where_interrupted_uploads_are_not_kept(self, talk: Talk) -> None:
        talk.has_uploads = False
        assert (await talk.ask("PUT", "/a", DATA, upload_complete="?0")).status == 201
        assert (await talk.ask("POST", "/uploads", tus_resumable="1.0.0", upload_length="1")).status == 404


class TestRefused:
    @pytest.mark.parametrize(
        ("path", "why"),
        [
            ("/..", "contains '..'"),
            ("/%2e%2e", "contains '..'"),
            ("/..%2f..%2fetc%2fpasswd", "contains '..'"),
            ("/a%2F..%2Fb", "contains '..'"),
            ("/..%5Cwin.ini", "contains '..'"),
            ("/%2Fetc%2Fpasswd", "absolute path"),
            ("/%5Cserver%5Cshare", "absolute path"),
            ("/C:autoexec.bat", "absolute path"),
            ("/dir%2F", "names a folder"),
            ("/.", "names a folder"),
            ("/a%0d%0aset-cookie:%20x=1", "U+000D"),
            ("/a%00b", "U+0000"),
            ("/photo%E2%80%AEgpj.exe", "text direction"),
            ("/%20", "is empty"),
            ("/%ff", "not valid UTF-8"),
            ("/%ed%a0%80", "not valid UTF-8"),
            ("/" + "a" * 256, "256 bytes"),
        ],
    )
    async def test_names(self, talk: Talk, path: str, why: str) -> None:
        answer = await talk.ask("PUT", path, DATA)
        assert answer.status == 400
        assert why in answer.text
        assert answer.taken == 0
        assert talk.files.stored() == []

    @given(st.text(min_size=1, max_size=300))
    def test_any_name_is_refused_or_makes_whole_headers(self, name: str) -> None:
        segment = quote(name, safe="", errors="surrogatepass")
        with suppress(ValueError):
            check_name_untrusted(path_name_untrusted(segment))
            assert path_name_untrusted(segment) == name
            link = make_link("http://files.example", SECRET, "key", name, 1)
            head = f"{link} {content_disposition(name)}"
            assert head.isascii()
            assert head.isprintable()

    async def test_too_large(self, talk: Talk) -> None:
        talk.files.settings = settings(max_file_size=len(DATA) - 1)
        answer = await talk.ask("PUT", "/a", DATA)
        assert (answer.status, answer.taken) == (413, 0)
        assert "the file has 400000 bytes, the largest taken here has 399999" in answer.text
        answer = await talk.ask("PUT", "/a", pieces(DATA))
        assert (answer.status, talk.files.stored()) == (413, [])
        talk.files.settings = settings(max_file_size=len(DATA))
        assert (await talk.ask("PUT", "/a", pieces(DATA))).status == 201

    async def test_a_client_that_stands_still(self, talk: Talk) -> None:
        talk.files.settings = settings(progress_timeout=0.01)
        answer = await talk.ask("PUT", "/a", [DATA, Stall()])
        assert (answer.status, answer.text) == (408, "no byte of the request body came for 0.01 s\n")
        assert talk.files.stored() == []

    async def test_a_line_that_breaks_leaves_nothing(self, talk: Talk) -> None:
        with pytest.raises(Disconnected):
            await talk.ask("PUT", "/a", [DATA, Disconnected("gone")])
        assert talk.files.stored() == []
        assert await talk.files.records() == []

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"content_range": "bytes 0-99/400000"}, 400),
            ({"content_encoding": "gzip"}, 415),
            ({"repr_digest": "sha-256=abc"}, 400),
            ({"repr_digest": "sha-256=:AAAA:"}, 400),
            ({"repr_digest": "sha-256=:A:"}, 400),
            ({"repr_digest": "sha-256=:AAAA:,"}, 400),
            ({"host": "files.example:8080, evil.example/"}, 400),
        ],
    )
    async def test_headers(self, talk: Talk, headers: dict[str, str], status: int) -> None:
        answer = await talk.ask("PUT", "/a", DATA, **headers)
        assert (answer.status, answer.taken) == (status, 0)

    @pytest.mark.parametrize(
        ("error", "status"),
        [(StorageError("/secret/path broke"), 503), (OutOfSpace("/secret/path full"), 507)],
    )
    async def test_storage_that_fails(
        self, talk: Talk, error: StorageError, status: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(upload: FilesystemUpload, data: bytes) -> None:
            raise error

        monkeypatch.setattr(FilesystemUpload, "write", fail)
        answer = await talk.ask("PUT", "/a", DATA)
        assert answer.status == status
        assert "secret" not in answer.text
        assert (answer.answer("retry-after") == "5") == (status == 503)
