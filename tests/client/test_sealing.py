"""Files sealed for those who have the secret."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fawa.client.sealing import CHUNK, HEADER, MAGIC, TAG, Opener, Seal, SealError, read_secret, write_secret

VECTORS = json.loads((Path(__file__).parents[2] / "protocols" / "sealed.json").read_text("utf-8"))["vectors"]

SECRET = bytes(range(32))
SALT = bytes(range(16))


def content(size: int) -> bytes:
    """Return the content that vectors of this size have."""
    return bytes(number * 7 % 251 for number in range(size))


def sealed(plain: bytes, name: str = "a.txt", secret: bytes = SECRET, salt: bytes = SALT) -> bytes:
    seal = Seal(secret, salt, name)
    stream = seal.preface + plain
    chunks = [stream[start : start + CHUNK] for start in range(0, len(stream), CHUNK)]
    assert len(chunks) == seal.chunks(len(plain))
    pieces = [seal.chunk(number, chunk, last=chunk is chunks[-1]) for number, chunk in enumerate(chunks)]
    return seal.header + b"".join(pieces)


def opened(data: bytes, secret: bytes = SECRET, cuts: tuple[int, ...] = ()) -> tuple[str | None, bytes]:
    opener = Opener(secret)
    got, start = b"", 0
    for cut in (*cuts, len(data)):
        got += opener.feed(data[start:cut])
        start = cut
    got += opener.finish()
    return opener.name, got


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["title"] for vector in VECTORS])
def test_vectors(vector: dict[str, Any]) -> None:
    secret, plain = read_secret(vector["secret"]), content(vector["size"])
    data = sealed(plain, vector["name"], secret, bytes.fromhex(vector["salt"]))
    assert len(data) == vector["sealed_size"] == Seal(secret, SALT, vector["name"]).size(len(plain))
    assert hashlib.sha256(data).hexdigest() == vector["sealed_sha256"]
    assert data.hex() == vector.get("sealed", data.hex())
    assert opened(data, secret) == (vector["name"], plain)


@settings(max_examples=50)
@given(
    st.sampled_from([0, 1, CHUNK - 8, CHUNK - 7, CHUNK - 6, 2 * CHUNK - 7, 150_000]),
    st.lists(st.integers(0, 200_000), max_size=6),
)
def test_in_any_pieces(size: int, cuts: list[int]) -> None:
    plain = content(size)
    data = sealed(plain)
    at = tuple(sorted(cut for cut in cuts if cut < len(data)))
    assert opened(data, cuts=at) == ("a.txt", plain)


def test_byte_by_byte() -> None:
    data = sealed(b"hello")
    assert opened(data, cuts=tuple(range(len(data)))) == ("a.txt", b"hello")


@settings(max_examples=200)
@given(st.data())
def test_every_altered_byte_is_noticed(data: st.DataObject) -> None:
    whole = sealed(content(2 * CHUNK))
    at = data.draw(st.integers(0, len(whole) - 1))
    altered = bytearray(whole)
    altered[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SealError):
        opened(bytes(altered))


@settings(max_examples=200)
@given(st.data())
def test_every_missing_end_is_noticed(data: st.DataObject) -> None:
    whole = sealed(content(2 * CHUNK))
    end = data.draw(st.integers(0, len(whole) - 1) | st.sampled_from([HEADER, HEADER + CHUNK + TAG]))
    with pytest.raises(SealError):
        opened(whole[:end])


def test_chunks_cannot_be_exchanged_repeated_or_added() -> None:
    whole = sealed(content(3 * CHUNK))
    size = CHUNK + TAG
    header, chunks = whole[:HEADER], [whole[at : at + size] for at in range(HEADER, len(whole), size)]
    assert len(chunks) == 4
    for order in ([1, 0, 2, 3], [0, 2, 3], [0, 1, 1, 2, 3], [0, 1, 2, 3, 3], [0, 1, 2, 2], [3]):
        with pytest.raises(SealError):
            opened(header + b"".join(chunks[number] for number in order))


def test_what_is_opened_early_is_right() -> None:
    plain = content(3 * CHUNK)
    opener = Opener(SECRET)
    assert opener.feed(sealed(plain)[: HEADER + 2 * (CHUNK + TAG) + 1]) == plain[: 2 * CHUNK - 7]
    assert opener.name == "a.txt"
    with pytest.raises(SealError, match="cut off or altered"):
        opener.finish()


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(SealError, match="no file sealed by fawa"):
        opened(b"%PDF-1.7 and so on")
    with pytest.raises(SealError, match="no file sealed by fawa"):
        opened(MAGIC + SALT[:3])
    with pytest.raises(SealError, match="has another secret"):
        opened(sealed(b"hello"), secret=bytes(32))
    with pytest.raises(SealError, match="1025 bytes; a sealed file takes up to 1024"):
        Seal(SECRET, SALT, "x" * 1025)
    bad = Seal(SECRET, SALT, "")
    for stream, reason in (
        (b"", "no name"),
        (b"\0", "no name"),
        (b"\0\2a", "no name"),
        (b"\0\1\xff", "UTF-8"),
    ):
        with pytest.raises(SealError, match=reason):
            opened(bad.header + bad.chunk(0, stream, last=True))


def test_secrets_in_links() -> None:
    assert read_secret(write_secret(SECRET)) == SECRET
    assert len(write_secret(bytes([255] * 32))) == 43
    for text in ("", "abc", write_secret(SECRET)[:-1], write_secret(SECRET) + "A", "ä" * 43, "+" * 43):
        with pytest.raises(SealError, match="secret"):
            read_secret(text)
