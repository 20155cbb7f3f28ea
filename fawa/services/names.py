"""File names: which are taken, and how they are told over HTTP. Pure.

A name is the user's own text. It is never used as a path here, but a client may save the file under it, so
a name that reaches out of a folder, or that reads differently from what it is, is refused at the door.
"""

from __future__ import annotations

import mimetypes
import re
import unicodedata
from typing import Final
from urllib.parse import quote, unquote_to_bytes

#: Bytes of UTF-8: what file systems take in one name.
MAX_NAME: Final = 255

#: Of what came without a name.
UNNAMED: Final = "unnamed"

DEFAULT_TYPE: Final = "application/octet-stream"

#: Change the direction of text, so that `photo_gpj.exe` can be made to read `photo_exe.jpg`
#: (Unicode Standard Annex 9, section 2).
_BIDI: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

#: What is compressed by these is not of the type that the rest of the name tells.
_COMPRESSED: Final = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
}

#: What a quoted filename may hold to be read alike by all browsers (RFC 6266, appendix D).
_NOT_PLAIN: Final = re.compile(r"[^ !#$&+\-.^_`|~0-9A-Za-z()\[\]{},;=@\']")

#: attr-char of RFC 8187, section 3.2.1, without letters and digits.
_ATTR_CHARS: Final = "!#$&+-.^_`|~"

#: One parameter of a `Content-Disposition`.
_PARAMETER: Final = re.compile(
    r"""[ \t]*;[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*
        (?:"((?:[^"\\]|\\.)*)"|([!#$%&'*+.^_`|~0-9A-Za-z-]+))""",
    re.VERBOSE,
)
_EXTENDED: Final = re.compile(
    r"utf-8'[A-Za-z0-9-]*'((?:%[0-9A-Fa-f]{2}|[!#$&+.^_`|~0-9A-Za-z-])*)", re.IGNORECASE
)


def check_name_untrusted(name: str) -> None:
    """Refuse a name that cannot be kept or would be dangerous to whoever saves the file under it.

    A relative path such as `photos/cat.jpg` is a name.

    Raises:
        ValueError: the text says which rule the name breaks.

    """
    if not name.strip():
        raise ValueError("the file name is empty")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError("the file name is not valid Unicode text") from None
    if size > MAX_NAME:
        raise ValueError(f"the file name has {size} bytes of UTF-8, the longest allowed has {MAX_NAME}")
    for character in name:
        if character in _BIDI:
            raise ValueError(f"the file name holds U+{ord(character):04X}, which changes the text direction")
        if unicodedata.category(character) in {"Cc", "Zl", "Zp"}:
            raise ValueError(f"the file name holds the control character U+{ord(character):04X}")
    # Windows takes both slashes, and a drive even without one.
    if name[0] in "/\\" or re.match(r"[A-Za-z]:", name):
        raise ValueError(f"the file name {name!r} is an absolute path, send a relative one")
    if ".." in name:
        raise ValueError(f"the file name {name!r} contains '..'")
    if last_segment(name) in {"", "."}:
        raise ValueError(f"the file name {name!r} names a folder")


def last_segment(name: str) -> str:
    """Return what follows the last slash of either kind."""
    return re.split(r"[/\\]", name)[-1]


def guess_type(name: str) -> str:
    """Return the media type that the ending of a name tells, from a fixed list of types.

    Reads the system's list of types on first use; `mimetypes.init` does so earlier.
    """
    # "./" keeps `data:` URLs and the like from being taken for what they say they are.
    guessed, compression = mimetypes.guess_type("./" + last_segment(name))
    if compression is not None:
        return _COMPRESSED.get(compression, DEFAULT_TYPE)
    return guessed or DEFAULT_TYPE


def content_disposition(name: str) -> str:
    """Return a `Content-Disposition` value that saves under the last segment of `name`.

    RFC 6266 with the extended parameter of RFC 8187; ASCII without control characters, whatever the name.
    """
    segment = last_segment(name)
    plain = _NOT_PLAIN.sub("_", segment)
    disposition = f'attachment; filename="{plain}"'
    if plain != segment:
        extended = quote(segment, safe=_ATTR_CHARS, errors="replace")
        disposition += f"; filename*=UTF-8''{extended}"
    return disposition


def disposition_name_untrusted(value: str) -> str | None:
    """Return the file name in a `Content-Disposition` (RFC 6266), `None` when it has none.

    `filename*` (RFC 8187) goes before `filename`, whose bytes are read as UTF-8 if they are.

    Args:
        value: as ISO 8859-1, as header fields are read here.

    Raises:
        ValueError: it is malformed.

    """
    found: dict[str, str] = {}
    place = value.find(";") if ";" in value else len(value)
    while place < len(value.rstrip(" \t;")):
        match = _PARAMETER.match(value, place)
        if match is None:
            raise ValueError(f"the Content-Disposition {value[:80]!r} is malformed")
        name, quoted, token = match.groups()
        found.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) if token is None else token)
        place = match.end()
    if (extended := found.get("filename*")) is not None:
        match = _EXTENDED.fullmatch(extended)
        if match is None:
            raise ValueError(
                f"filename*={extended[:80]!r} is malformed: it is UTF-8'' and percent-encoded UTF-8"
            )
        return _utf8(unquote_to_bytes(match[1]))
    plain = found.get("filename")
    if plain is None:
        return None
    try:
        return plain.encode("latin-1").decode()
    except UnicodeDecodeError:
        return plain


def path_name_untrusted(segment: str) -> str:
    """Return the file name in a percent-encoded segment of a path.

    Raises:
        ValueError: it is not UTF-8.

    """
    return _utf8(unquote_to_bytes(segment.encode("latin-1")))


def _utf8(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError("the file name is not valid UTF-8") from None
