"""File names: those refused, and how the others are told over HTTP."""

from __future__ import annotations

import re
from email.message import Message
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fawa.services.names import (
    check_name_untrusted,
    content_disposition,
    disposition_name_untrusted,
    guess_type,
    last_segment,
)

GOOD = [
    "a.txt",
    "a",
    ".profile",
    "photos/2025/cat.jpg",
    "photos\\cat.jpg",
    "with spaces and 'quotes\".txt",
    "semi;colon, comma=equals%41.txt",
    "naïve 文件 שלום \U0001f98a.txt",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467.png",
    "ab:c",
    "12:30 minutes.txt",
    "dot. dot",
    "x" * 255,
    "ä" * 127,
]

BAD = [
    ("", "is empty"),
    (" ", "is empty"),
    ("\t\n", "is empty"),
    ("/etc/passwd", "absolute path"),
    ("/", "absolute path"),
    ("\\windows\\system32", "absolute path"),
    ("\\\\server\\share\\a", "absolute path"),
    ("C:\\a.txt", "absolute path"),
    ("c:/a.txt", "absolute path"),
    ("C:a.txt", "absolute path"),
    ("..", "contains '..'"),
    ("../a", "contains '..'"),
    ("a/../b", "contains '..'"),
    ("a\\..\\b", "contains '..'"),
    ("a..b", "contains '..'"),
    ("folder/", "names a folder"),
    ("folder\\", "names a folder"),
    (".", "names a folder"),
    ("a/.", "names a folder"),
    ("a\0b", r"control character U\+0000"),
    ("a\nb", r"control character U\+000A"),
    ("a\r\nset-cookie: x", r"control character U\+000D"),
    ("a\x1b[2Jb", r"control character U\+001B"),
    ("a\x7f", r"control character U\+007F"),
    ("a\x85b", r"control character U\+0085"),
    ("a\u2028b", r"control character U\+2028"),
    ("a\u2029b", r"control character U\+2029"),
    ("photo_\u202egpj.exe", r"U\+202E, which changes the text direction"),
    *[(f"a{mark}b", "text direction") for mark in "\u061c\u200e\u200f\u202a\u202b\u202c\u202d"],
    *[(f"a{mark}b", "text direction") for mark in "\u2066\u2067\u2068\u2069"],
    ("x" * 256, "256 bytes of UTF-8, the longest allowed has 255"),
    ("ä" * 128, "256 bytes"),
    ("x" * 5000, "5000 bytes"),
    ("a\ud800", "not valid Unicode"),
]


@pytest.mark.parametrize("name", GOOD)
def test_a_good_name(name: str) -> None:
    check_name_untrusted(name)


@pytest.mark.parametrize(("name", "rule"), BAD)
def test_a_bad_name_and_the_rule_it_breaks(name: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule) as caught:
        check_name_untrusted(name)
    # The text goes to terminals and into headers.
    assert str(caught.value).isprintable()


@given(st.text())
def test_whatever_is_taken_stays_inside_a_folder(name: str) -> None:
    try:
        check_name_untrusted(name)
    except ValueError:
        return
    assert 0 < len(name.encode()) <= 255
    assert ".." not in name
    assert name[0] not in "/\\"
    assert name[1:2] != ":" or not re.match("[A-Za-z]", name)
    assert last_segment(name)
    assert not any(ord(character) < 32 for character in name)


@pytest.mark.parametrize(
    ("name", "segment"), [("a", "a"), ("a/b", "b"), ("a\\b", "b"), ("a/b\\c d", "c d"), ("a/", "")]
)
def test_the_last_segment(name: str, segment: str) -> None:
    assert last_segment(name) == segment


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.txt", "text/plain"),
        ("a.HTML", "text/html"),
        ("folder/photo.jpg", "image/jpeg"),
        ("a.tar.gz", "application/gzip"),
        ("a.svg.xz", "application/x-xz"),
        ("a.bz2", "application/x-bzip2"),
        ("a.txt.br", "application/octet-stream"),
        ("a", "application/octet-stream"),
        ("a.nobody-knows", "application/octet-stream"),
        ("html", "application/octet-stream"),
        ("data:text/html,x", "application/octet-stream"),
        ("http://[x/a.txt", "text/plain"),
    ],
)
def test_the_type_a_name_tells(name: str, media_type: str) -> None:
    assert guess_type(name) == media_type


@given(st.text())
def test_the_type_is_always_a_media_type(name: str) -> None:
    assert re.fullmatch(r"[a-z]+/[A-Za-z0-9.+-]+", guess_type(name))


@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        ("a.txt", 'attachment; filename="a.txt"'),
        ("with space.txt", 'attachment; filename="with space.txt"'),
        ("folder/a.txt", 'attachment; filename="a.txt"'),
        ("naïve.txt", "attachment; filename=\"na_ve.txt\"; filename*=UTF-8''na%C3%AFve.txt"),
        ('"; x="y', "attachment; filename=\"_; x=_y\"; filename*=UTF-8''%22%3B%20x%3D%22y"),
        ("100%.txt", "attachment; filename=\"100_.txt\"; filename*=UTF-8''100%25.txt"),
        ("a*b'c", "attachment; filename=\"a_b'c\"; filename*=UTF-8''a%2Ab%27c"),
    ],
)
def test_how_a_name_is_told(name: str, disposition: str) -> None:
    assert content_disposition(name) == disposition


@given(st.text())
@example("a\r\nset-cookie: x=y")
@example('a"; filename="b')
@example("\ud800")
def test_no_name_breaks_out_of_its_header_and_all_names_arrive(name: str) -> None:
    value = content_disposition(name)
    assert re.fullmatch(
        r'attachment; filename="[^"\\%\x00-\x1f\x7f-\U0010ffff]*"'
        r"(; filename\*=UTF-8''[A-Za-z0-9!#$&+\-.^_`|~%]*)?",
        value,
    )
    # Read by somebody else's parser.
    message = Message()
    message["content-disposition"] = value
    assert message.get_content_disposition() == "attachment"
    segment = last_segment(name)
    extended = value.partition("filename*=UTF-8''")[2]
    if extended:
        assert unquote(extended, errors="strict") == segment.encode("utf-8", "replace").decode()
        assert len(value.partition("filename*=")[0]) == len('attachment; filename=""; ') + len(segment)
    else:
        assert value == f'attachment; filename="{segment}"'


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("", None),
        ("inline", None),
        ("inline;", None),
        ('attachment; filename="a b.txt"', "a b.txt"),
        ("attachment;filename=a.txt", "a.txt"),
        (r'inline; filename="a\"b\\c"', 'a"b\\c'),
        ("inline; filename*=UTF-8''Zo%C3%AB.txt; filename=x", "Zoë.txt"),
        ("inline; FILENAME=\"x\"; filename*=utf-8'en'%e2%82%ac%20rates", "€ rates"),
        ('inline; filename="Zo\xc3\xab"', "Zoë"),
        ('inline; filename="Zo\xeb"', "Zoë"),
        ('form-data; name="f;x"; filename="y;z"', "y;z"),
    ],
)
def test_names_in_content_disposition(value: str, name: str | None) -> None:
    assert disposition_name_untrusted(value) == name


@pytest.mark.parametrize(
    "value",
    [
        'inline; filename="a',
        "inline; filename",
        "inline; =a",
        "inline; filename=a b",
        "inline; filename*=a",
        "inline; filename*=latin1''a",
        "inline; filename*=UTF-8''%ff",
        "inline; filename*=UTF-8''%4",
    ],
)
def test_malformed_content_dispositions(value: str) -> None:
    with pytest.raises(ValueError, match=r"malformed|not valid UTF-8"):
        disposition_name_untrusted(value)
