"""What the answer to a request for bytes says, and what a server may not make of it."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fawa.client.link import Facts, Slice, range_headers, read_slice_untrusted

SHA256 = hashlib.sha256(b"content").digest()
DIGEST = b"sha-256=:" + base64.b64encode(SHA256) + b":"


def test_what_is_asked() -> None:
    assert range_headers(0) == [(b"range", b"bytes=0-")]
    assert range_headers(0, last=0) == [(b"range", b"bytes=0-0")]
    assert range_headers(7, '"tag"') == [(b"range", b"bytes=7-"), (b"if-range", b'"tag"')]


@pytest.mark.parametrize(
    ("status", "headers", "found"),
    [
        (200, {"etag": '"t"', "content-length": "9"}, Slice(0, Facts('"t"', 9, None))),
        (206, {"etag": '"t"', "content-range": "bytes 3-8/9"}, Slice(3, Facts('"t"', 9, None))),
        (
            206,
            {"etag": '"t"', "content-range": "bytes 0-0/9", "repr-digest": DIGEST.decode()},
            Slice(0, Facts('"t"', 9, SHA256)),
        ),
        (
            200,
            {"etag": '""', "content-length": "0", "repr-digest": f"md5=:AAAA:, {DIGEST.decode()}"},
            Slice(0, Facts('""', 0, SHA256)),
        ),
        # What one cannot build on.
        (206, {"etag": '"t"'}, None),
        (206, {"etag": '"t"', "content-range": "bytes 3-8/*"}, None),
        (206, {"etag": '"t"', "content-range": "bytes */9"}, None),
        (206, {"etag": '"t"', "content-range": "items 3-8/9"}, None),
        (206, {"etag": '"t"', "content-type": "multipart/byteranges"}, None),
        (206, {"content-range": "bytes 3-8/9"}, None),
        (206, {"etag": 'W/"t"', "content-range": "bytes 3-8/9"}, None),
        (206, {"etag": "t", "content-range": "bytes 3-8/9"}, None),
        (200, {"etag": '"t"'}, None),
        (200, {"etag": '"t"', "content-length": "nine"}, None),
        (200, {"etag": '"t"', "content-length": "9", "content-encoding": "gzip"}, None),
        (304, {"etag": '"t"', "content-length": "9"}, None),
        (403, {"etag": '"t"', "content-length": "9"}, None),
        (416, {"etag": '"t"', "content-range": "bytes */9"}, None),
    ],
)
def test_what_is_answered(status: int, headers: dict[str, str], found: Slice | None) -> None:
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert read_slice_untrusted(status, fields) == found


@pytest.mark.parametrize(
    "digest", ["", "sha-256=:!:", "sha-256=:AAAA:", "sha-512=:AAAA:", "sha-256=AAAA", "xsha-256=:AAAA:"]
)
def test_a_digest_that_is_none_is_passed_over(digest: str) -> None:
    fields = [(b"etag", b'"t"'), (b"content-length", b"9"), (b"repr-digest", digest.encode())]
    assert read_slice_untrusted(200, fields) == Slice(0, Facts('"t"', 9, None))


VALUES = st.binary(max_size=40) | st.sampled_from([b'"t"', b"bytes 0-1/2", b"9", DIGEST])
NAMES = st.sampled_from([b"etag", b"content-range", b"content-length", b"repr-digest", b"content-encoding"])


@given(st.sampled_from([200, 206, 404]), st.lists(st.tuples(NAMES, VALUES)))
def test_any_answer_can_be_read(status: int, headers: list[tuple[bytes, bytes]]) -> None:
    found = read_slice_untrusted(status, headers)
    if found is not None:
        assert found.start >= 0
        assert found.facts.size >= 0
        # It can be sent back as it came.
        assert range_headers(0, found.facts.tag)[1][1] == dict(headers)[b"etag"]
