"""Uploads by both protocols, in any order, against a plain model; and faults that this must find."""

from __future__ import annotations

import hashlib
import tempfile
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
import trio
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fawa.net.exchange import Disconnected
from fawa.services import intake, resumption, tus
from fawa.services.resumption import Resumption
from fawa.services.tus import Tus
from fawa.services.uploads import Uploads, Writer
from fawa.storage.filesystem import FilesystemStore, content_store
from fawa.storage.sqlite import metadata_store
from fawa.storage.uploads import upload_store
from tests.services.conftest import Files
from tests.services.uploading import Piece, Sending, Talk

Patch = Callable[[pytest.MonkeyPatch], None]
Protocol = Literal["tus", "draft"]

#: What the conversations have met, to see that they met everything.
reached: Counter[str] = Counter()


@attrs.frozen
class Create:
    """A client begins an upload, perhaps with its first bytes."""

    protocol: Protocol
    size: int | None
    count: int


@attrs.frozen
class Append:
    """A client sends bytes, or wants to."""

    protocol: Protocol
    upload: int
    #: How far from the right place it goes on.
    off_by: int
    #: `None` is what is missing.
    count: int | None
    #: How the request ends.
    end: Literal["well", "breaks", "overtaken"]
    checksum: Literal["none", "right", "wrong"]
    #: By the draft: these are the last bytes.
    complete: bool


@attrs.frozen
class Ask:
    """A client asks how far an upload is, or takes it back."""

    protocol: Protocol
    upload: int
    method: Literal["HEAD", "DELETE"]


protocols: st.SearchStrategy[Protocol] = st.sampled_from(["tus", "draft"])
counts = st.integers(0, 30)
number = st.integers(0, 2)
creates = st.builds(Create, protocols, st.none() | st.integers(0, 60), counts)
appends = st.builds(
    Append,
    protocols,
    number,
    st.sampled_from([0, 0, 0, 0, 0, 0, 0, 0, -1, 1]),
    st.none() | counts,
    st.sampled_from(["well", "well", "breaks", "overtaken"]),
    st.sampled_from(["none", "right", "wrong"]),
    st.booleans(),
)
asks = st.builds(Ask, protocols, number, st.sampled_from(["HEAD", "HEAD", "HEAD", "DELETE"]))
stories = st.tuples(creates, st.lists(appends | appends | appends | asks | creates, min_size=5, max_size=25))


@attrs.define
class Model:
    """What there is of an upload."""

    location: str
    size: int | None
    stored: bytes = b""
    is_whole: bool = False
    is_gone: bool = False


@attrs.define
class Run:
    """One conversation, and the model beside it."""

    talk: Talk
    uploads: list[Model] = attrs.field(factory=list)
    _byte: int = 0

    async def play(self, first: Create, rest: list[Create | Append | Ask]) -> None:
        for step in (first, *rest):
            match step:
                case Create():
                    await self.create(step)
                case Append():
                    await self.append(step)
                case Ask():
                    await self.ask(step)
        await self.end()

    def fresh(self, count: int) -> bytes:
        """Return bytes that look like no others before."""
        self._byte = self._byte % 251 + 1
        return bytes([self._byte]) * count

    async def create(self, step: Create) -> None:
        data = self.fresh(step.count if step.size is None else min(step.count, step.size))
        if step.protocol == "tus":
            told = {"upload_defer_length": "1"} if step.size is None else {"upload_length": str(step.size)}
            answer = await self.talk.ask(
                "POST", "/uploads", data, tus_resumable="1.0.0", content_type=tus.PART, **told
            )
        else:
            told = {} if step.size is None else {"upload_length": str(step.size)}
            answer = await self.talk.ask("PUT", "/a", data, upload_complete="?0", **told)
        assert answer.status == 201
        assert answer.answer("upload-offset") == str(len(data))
        upload = Model(answer.answer("location") or "", step.size, data)
        self.uploads.append(upload)
        await self.finished(upload, answer, whole=step.protocol == "tus" and step.size == len(data))
        reached[f"create by {step.protocol}"] += 1

    async def finished(self, upload: Model, answer: Sending, *, whole: bool) -> None:
        key = answer.answer("fawa-key")
        assert (key is not None) is whole
        if whole:
            assert await self.talk.content(key) == upload.stored
            upload.is_whole = True
            upload.size = len(upload.stored)

    async def append(self, step: Append) -> None:
        upload = self.uploads[step.upload % len(self.uploads)]
        at = max(0, len(upload.stored) + step.off_by)
        missing = 5 if upload.size is None else max(0, upload.size - len(upload.stored))
        count = missing if step.count is None else step.count
        data = self.fresh(count)
        # Of what is whole no more than the first bytes are read, if there are any.
        step = attrs.evolve(step, count=count, end="well" if upload.is_whole else step.end)
        expected = self.refusal(upload, step, at)
        told: list[int] = []
        answer = None
        try:
            answer = await self.send(upload, step, at, self.body(upload, step, data, told), data)
        except Disconnected:
            assert expected is None
            assert step.end == "breaks"
        after = upload.stored + data
        if expected is not None:
            assert answer is not None
            assert answer.status == expected, answer.text
            assert answer.taken == 0 or (upload.is_whole and step.count)
            reached[f"{step.protocol} {expected}"] += 1
            if expected == 409:
                assert answer.answer("upload-offset") == str(len(upload.stored))
        elif step.end == "overtaken":
            assert answer is not None
            # So few bytes are written at the end, after they have been held against their checksum.
            wrong = 460 if step.protocol == "tus" else 400
            assert answer.status == (wrong if step.checksum == "wrong" else 409)
            assert len(upload.stored) <= told[0] <= len(upload.stored) + len(data) // 2
            self.declared(upload, step, at)
            upload.stored = after[: told[0]]
            reached["overtaken"] += 1
        elif step.end == "breaks":
            self.declared(upload, step, at)
            if step.checksum == "none":
                upload.stored += data[: len(data) // 2]
            reached[f"breaks, with a checksum: {step.checksum != 'none'}"] += 1
        elif step.checksum == "wrong":
            assert answer is not None
            assert answer.status == (460 if step.protocol == "tus" else 400)
            self.declared(upload, step, at)
            reached[f"wrong checksum by {step.protocol}"] += 1
        else:
            assert answer is not None
            self.declared(upload, step, at)
            upload.stored = after
            whole = step.complete if step.protocol == "draft" else upload.size == len(after)
            assert answer.status == (201 if whole and step.protocol == "draft" else 204)
            assert answer.answer("upload-offset") == str(len(after))
            await self.finished(upload, answer, whole=whole)
            reached[f"append by {step.protocol}, whole: {whole}"] += 1

    def refusal(self, upload: Model, step: Append, at: int) -> int | None:
        """Return the status with which a request is refused before anything is stored, if it is."""
        if upload.is_gone:
            return 404
        if at != len(upload.stored):
            return 409
        is_draft = step.protocol == "draft"
        if upload.is_whole:
            return 400 if is_draft else 413 if step.count else 204
        end = at + (step.count or 0)
        if upload.size is None or (end == upload.size if is_draft and step.complete else end <= upload.size):
            return None
        if is_draft and not step.complete:
            upload.is_gone = True  # nothing may follow on what goes beyond its end
        return 400 if is_draft else 413

    def declared(self, upload: Model, step: Append, at: int) -> None:
        if step.protocol == "draft" and step.complete:
            upload.size = at + (step.count or 0)

    def body(self, upload: Model, step: Append, data: bytes, told: list[int]) -> list[Piece]:
        async def overtake() -> None:
            answer = await self.talk.ask("HEAD", upload.location, tus_resumable="1.0.0")
            told.append(int(answer.answer("upload-offset") or ""))

        middle = len(data) // 2
        first, second = (
            [piece for piece in (data[:middle],) if piece],
            [data[middle:]] if data[middle:] else [],
        )
        match step.end:
            case "well":
                return [*first, *second]
            case "breaks":
                return [*first, Disconnected("gone")]
            case "overtaken":
                return [*first, overtake, *second]

    async def send(self, upload: Model, step: Append, at: int, body: list[Piece], data: bytes) -> Sending:
        named = {"upload_offset": str(at), "content_length": str(len(data))}
        if step.protocol == "tus":
            named |= {"tus_resumable": "1.0.0", "content_type": tus.PART}
        else:
            named |= {"content_type": resumption.PART, "upload_complete": f"?{step.complete:d}"}
        if step.checksum != "none":
            digest = hashlib.sha256(data if step.checksum == "right" else b"other" + data).digest()
            coded = b64encode(digest).decode()
            if step.protocol == "tus":
                named["upload_checksum"] = f"sha256 {coded}"
            else:
                named["content_digest"] = f"sha-256=:{coded}:"
        return await self.talk.ask("PATCH", upload.location, body, **named)

    async def ask(self, step: Ask) -> None:
        upload = self.uploads[step.upload % len(self.uploads)]
        version = {"tus_resumable": "1.0.0"} if step.protocol == "tus" else {}
        answer = await self.talk.ask(step.method, upload.location, **version)
        reached[f"{step.method} by {step.protocol}, gone: {upload.is_gone}"] += 1
        if upload.is_gone:
            assert answer.status == 404
        elif step.method == "DELETE":
            assert answer.status == 204
            upload.is_gone = True
        else:
            assert answer.answer("upload-offset") == str(len(upload.stored))
            assert answer.answer("upload-length") == (None if upload.size is None else str(upload.size))
            await self.finished(upload, answer, whole=upload.is_whole)
            if step.protocol == "draft":
                assert answer.answer("upload-complete") == f"?{upload.is_whole:d}"

    async def end(self) -> None:
        """Finish or take back whatever there is, and see that nothing is left."""
        for place, upload in enumerate(self.uploads):
            if not (upload.is_whole or upload.is_gone):
                await self.append(Append("draft", place, 0, None, "well", "none", complete=True))
                assert upload.is_whole
            await self.ask(Ask("tus", place, "DELETE"))
        assert self.talk.unfinished() == []
        assert await self.talk.records.expired(float("inf"), 99) == []


@asynccontextmanager
async def talking() -> AsyncIterator[Talk]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        async with (
            content_store(folder / "files") as content,
            metadata_store(folder / "files.sqlite3") as metadata,
            upload_store(folder / "uploads.sqlite3") as records,
        ):
            yield Talk(Files(folder, content, metadata), records)


def run(max_examples: int) -> None:
    async def play(first: Create, rest: list[Any]) -> None:
        async with talking() as talk:
            await Run(talk).play(first, rest)

    @settings(
        max_examples=max_examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    @given(stories)
    def each(story: tuple[Create, list[Any]]) -> None:
        trio.run(play, *story)

    each()


def test_both_protocols_against_a_model() -> None:
    reached.clear()
    run(120)
    both = ("tus", "draft")
    wanted = {"create by {}", "{} 404", "{} 409", "wrong checksum by {}"}
    wanted |= {"append by {}, whole: True", "append by {}, whole: False"}
    wanted |= {f"{method} by {{}}, gone: {gone}" for method in ("HEAD", "DELETE") for gone in (True, False)}
    more = {"tus 204", "tus 413", "draft 400", "overtaken"}
    breaks = {f"breaks, with a checksum: {has_one}" for has_one in (True, False)}
    assert reached.keys() == {text.format(protocol) for text in wanted for protocol in both} | more | breaks


# Faults


def nothing_taken_back(patch: pytest.MonkeyPatch) -> None:
    async def rollback(self: Writer) -> None:
        pass

    patch.setattr(Writer, "rollback", rollback)


def offsets_that_nobody_checks(patch: pytest.MonkeyPatch) -> None:
    real = FilesystemStore.resume

    def resume(self: FilesystemStore, key: str, epoch: int, offset: int | None = None) -> Any:
        return real(self, key, epoch, None)

    patch.setattr(FilesystemStore, "resume", resume)


def whole_before_it_is_said(patch: pytest.MonkeyPatch) -> None:
    real = Resumption._outcome

    async def outcome(self: Resumption, writer: Writer, base: str, *, finish: bool) -> Any:
        return await real(self, writer, base, finish=finish or writer.is_whole)

    patch.setattr(Resumption, "_outcome", outcome)


def never_whole(patch: pytest.MonkeyPatch) -> None:
    async def outcome(self: Tus, writer: Writer, base: str) -> Any:
        return [(b"upload-offset", b"%d" % await writer.sync())]

    patch.setattr(Tus, "_outcome", outcome)


def kept_beyond_its_end(patch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def removing(*args: object) -> AsyncIterator[None]:
        yield

    patch.setattr(resumption, "removing", removing)


def read_before_it_is_refused(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(intake, "content_length", lambda exchange: None)


def not_removed(patch: pytest.MonkeyPatch) -> None:
    async def cancel(self: Uploads, upload_id: str) -> None:
        pass

    patch.setattr(Uploads, "cancel", cancel)


def lengths_that_nobody_compares(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(resumption, "_told_size", lambda exchange, offset: None)


@pytest.mark.parametrize(
    "fault",
    [
        nothing_taken_back,
        offsets_that_nobody_checks,
        whole_before_it_is_said,
        never_whole,
        kept_beyond_its_end,
        read_before_it_is_refused,
        not_removed,
        lengths_that_nobody_compares,
    ],
    ids=lambda fault: fault.__name__,
)
def test_a_fault_is_found(fault: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        run(120)
