from __future__ import annotations

import pytest
from hypothesis import given
from multidict import MultiDict

from fawa.rpc.metadata import decode_base64, decode_metadata, encode_base64, encode_metadata
from fawa.rpc.stream import MetadataLike
from tests.rpc.conversation import as_dict, metadatas


def test_text_and_binary_on_the_wire() -> None:
    metadata: dict[str, str | bytes] = {"greet-version": "v1", "trace-bin": b"\x00\xff"}
    assert encode_metadata(metadata) == [
        (b"greet-version", b"v1"),
        (b"trace-bin", b"AP8"),
    ]


def test_one_key_with_several_values() -> None:
    several = MultiDict([("a", "1"), ("b", "2"), ("a", "3")])
    assert encode_metadata(several) == [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]
    assert encode_metadata([("a", "1"), ("a", "2")]) == [(b"a", b"1"), (b"a", b"2")]


def test_fields_of_http_and_of_the_protocols_are_no_metadata() -> None:
    fields = [
        (b":path", b"/"),
        (b"host", b"example.com"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"content-length", b"5"),
        (b"grpc-timeout", b"1S"),
        (b"grpc-tags-bin", b"!"),
        (b"connect-timeout-ms", b"1"),
        (b"x-grpc-web", b"1"),
        (b"user-agent", b"curl/8"),
        (b"authorization", b"Bearer x"),
    ]
    assert as_dict(decode_metadata(fields)) == {"user-agent": ["curl/8"], "authorization": ["Bearer x"]}


def test_binary_with_and_without_padding_and_joined_by_commas() -> None:
    fields = [(b"k-bin", b"AA=="), (b"k-bin", b"AQ"), (b"k-bin", b"AgM=, BA"), (b"empty-bin", b"")]
    assert as_dict(decode_metadata(fields)) == {
        "k-bin": [b"\x00", b"\x01", b"\x02\x03", b"\x04"],
        "empty-bin": [b""],
    }


@pytest.mark.parametrize("value", [b"!", b"A", b"AA=A", b"\xff\xff", b"AAAA,*"])
def test_binary_that_is_not_base64(value: bytes) -> None:
    with pytest.raises(ValueError, match="metadata 'k-bin' is not valid base64"):
        decode_metadata([(b"k-bin", value)])


def test_a_value_that_is_no_ascii_can_be_sent_back() -> None:
    fields = [(b"x-city", "Zürich".encode())]
    assert encode_metadata(decode_metadata(fields)) == fields


@given(metadatas)
def test_metadata_survives(metadata: list[tuple[str, str | bytes]]) -> None:
    assert as_dict(decode_metadata(encode_metadata(metadata))) == as_dict(metadata)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"Upper": "x"}, "key 'Upper'"),
        ({"": "x"}, "key ''"),
        ({"a b": "x"}, "key 'a b'"),
        ({"a\r\nb": "x"}, "key"),
        ({"a:": "x"}, "key 'a:'"),
        ({"ключ": "x"}, "key"),
        ({"grpc-status": "0"}, "reserved"),
        ({"connect-foo": "0"}, "reserved"),
        ({"content-type": "text/html"}, "reserved"),
        ({"content-length": "0"}, "reserved"),
        ({"te": "x"}, "reserved"),
        ({"a": "x\r\nset-cookie: y"}, "no header can carry"),
        ({"a": "x\0"}, "no header can carry"),
        ({"a": "x\n"}, "no header can carry"),
        ({"a": " x"}, "no header can carry"),
        ({"a": "x\t"}, "no header can carry"),
        ({"a": "\x7f"}, "no header can carry"),
        ({"a": "€"}, "no header can carry"),
        ({"a": b"bytes"}, "must be str"),
        ({"a-bin": "text"}, "must be bytes"),
    ],
)
def test_metadata_that_cannot_be_sent(metadata: MetadataLike, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        encode_metadata(metadata)


def test_base64_has_no_padding() -> None:
    assert encode_base64(b"a") == b"YQ"
    assert decode_base64("YQ") == decode_base64("YQ==") == b"a"
