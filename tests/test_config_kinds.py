"""Values as text: what is read, what is refused, and that what is written is read back."""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fawa.config.kinds import (
    MASK,
    Address,
    AdminAddress,
    Choice,
    Duration,
    Integer,
    Kind,
    ListenAddress,
    Maybe,
    Networks,
    Origins,
    Place,
    Secret,
    Several,
    Size,
    Switch,
    UnixAddress,
    WebAddress,
    origin_allowed,
)

YEAR = 365 * 86_400
INTEGER = Integer(-5, 100)
DURATION = Duration(0, YEAR)
SIZE = Size(0, 1 << 50)
ADDRESS = Maybe(ListenAddress(), "off")
ADMIN = AdminAddress()
LEVEL = Choice(("info", "warning"), {"warn": "warning"})
SERVICES = Several(("greet", "file"))
SECRET = Maybe(Secret(8))

READ: list[tuple[Kind[Any], str, object]] = [
    (ADMIN, "127.0.0.1:8090", Address("127.0.0.1", 8090)),
    (ADMIN, "unix:/run/fawa/admin.sock", UnixAddress("/run/fawa/admin.sock")),
    (INTEGER, "7", 7),
    (INTEGER, "+7", 7),
    (INTEGER, "-5", -5),
    (INTEGER, "00100", 100),
    (DURATION, "90", 90.0),
    (DURATION, "1.5", 1.5),
    (DURATION, "90s", 90.0),
    (DURATION, "0.25s", 0.25),
    (DURATION, "250ms", 0.25),
    (DURATION, "25m", 1500.0),
    (DURATION, "1h30m", 5400.0),
    (DURATION, "1H 30M", 5400.0),
    (DURATION, "1d1s1ms", 86_401.001),
    (DURATION, "0", 0.0),
    (SIZE, "4194304", 4 << 20),
    (SIZE, "4MiB", 4 << 20),
    (SIZE, "4 mib", 4 << 20),
    (SIZE, "10GB", 10**10),
    (SIZE, "1kB", 1000),
    (SIZE, "1B", 1),
    (SIZE, "0", 0),
    (ADDRESS, "127.0.0.1:8080", Address("127.0.0.1", 8080)),
    (ADDRESS, ":8080", Address("", 8080)),
    (ADDRESS, "[::]:443", Address("::", 443)),
    (ADDRESS, "[fe80::1%eth0]:443", Address("fe80::1%eth0", 443)),
    (ADDRESS, "fawa.example:0", Address("fawa.example", 0)),
    (ADDRESS, "", None),
    (ADDRESS, "Off", None),
    (Switch(), "On", True),
    (Switch(), "0", False),
    (LEVEL, "INFO", "info"),
    (LEVEL, "warn", "warning"),
    (SERVICES, "file, greet,file,", ("file", "greet")),
    (Maybe(Place()), "/a/b", Path("/a/b")),
    (Maybe(Place()), "", None),
    (WebAddress(), "https://cdn.example/files/", "https://cdn.example/files"),
    (WebAddress(), "http://[::1]:8080", "http://[::1]:8080"),
    (WebAddress(), "", ""),
    (Origins(), "HTTPS://App.Example, http://localhost:*", ("https://app.example", "http://localhost:*")),
    (Origins(), "*", ("*",)),
    (Origins(), "off", ()),
    (Origins(), "", ()),
    (Networks(), "10.0.0.0/8, fd00::/8,10.0.0.0/8", ("10.0.0.0/8", "fd00::/8")),
    (Networks(), "127.0.0.1,FD00:0::1", ("127.0.0.1/32", "fd00::1/128")),
    (Networks(), "off", ()),
    (Networks(), "", ()),
    (SECRET, "12345678", "12345678"),
    (SECRET, "", None),
]


@pytest.mark.parametrize(("kind", "text", "value"), READ)
def test_what_is_read(kind: Kind[Any], text: str, value: object) -> None:
    assert kind.parse(text) == value


REFUSED: list[tuple[Kind[Any], str, str]] = [
    (INTEGER, "", "is not a whole number"),
    (INTEGER, "7.0", "is not a whole number"),
    (INTEGER, "\u0667", "is not a whole number"),
    (INTEGER, "-6", "is too small"),
    (INTEGER, "101", "is too large"),
    (INTEGER, "9" * 5000, "is too large"),
    (DURATION, "", "is not a duration"),
    (DURATION, "soon", "is not a duration"),
    (DURATION, "-1s", "is not a duration"),
    (DURATION, "30m1h", "is not a duration"),
    (DURATION, "9 0", "is not a duration"),
    (DURATION, "1.2345s", "is not a duration"),
    (DURATION, "1.5h", "is not a duration"),
    (DURATION, "366d", "is too large"),
    (DURATION, "9" * 5000 + "d", "is too large"),
    (Duration(1, 2), "0", "is too small"),
    (SIZE, "", "is not a size"),
    (SIZE, "4M", "is not a size"),
    (SIZE, "-1", "is not a size"),
    (SIZE, "1.5GiB", "is not a size"),
    (SIZE, "2048TiB", "is too large"),
    (SIZE, "9" * 5000, "is too large"),
    (ADDRESS, "localhost", "has no port number at its end"),
    (ADDRESS, "8080", "has no port number at its end"),
    (ADDRESS, "localhost:http", "has no port number at its end"),
    (ADDRESS, "localhost:65536", "has a port above 65535"),
    (ADDRESS, "::1:80", "has an IPv6 address without brackets"),
    (ADDRESS, "[::g]:80", "has a host that is not an IP address"),
    (ADDRESS, "127.0.0.256:80", "has a host that is not an IP address"),
    (ADDRESS, "a b:80", "has a host that is neither a name nor an IP address"),
    (ADDRESS, "a" * 254 + ":80", "has a host that is neither a name nor an IP address"),
    (Switch(), "maybe", "is neither on nor off"),
    (LEVEL, "loud", "is not one of the choices"),
    (SERVICES, "greet,canva", 'has "canva", which is not one of the choices'),
    (SERVICES, " , ", "names none"),
    (Place(), "", "is empty"),
    (Place(), "a\0b", "has a NUL character"),
    (WebAddress(), "cdn.example", "does not start with http:// or https://"),
    (WebAddress(), "ftp://cdn.example", "does not start with http:// or https://"),
    (WebAddress(), "http://", "names no host"),
    (WebAddress(), "http://h:0", "has port 0"),
    (WebAddress(), "http://h:x", "is not a URL"),
    (WebAddress(), "http://[::1", "is not a URL"),
    (WebAddress(), "http://u:p@h", "has a user name or password"),
    (WebAddress(), "http://h/?q", "has a query or a fragment"),
    (WebAddress(), "http://h/#f", "has a query or a fragment"),
    (WebAddress(), "http://h/a b", "has characters that a URL does not have"),
    (Origins(), "https://a.example/", 'has "https://a.example/", which is not an origin'),
    (Origins(), "a.example", 'has "a.example", which is not an origin'),
    (Networks(), "10.0.0.0/8,proxy.example", 'has "proxy.example", which is not a network'),
    (Networks(), "10.0.0.0/33", 'has "10.0.0.0/33", which is not a network'),
    (Networks(), "10.0.0.1/8", 'has "10.0.0.1/8", which has host bits set'),
    (SECRET, "1234567", "has 7 characters"),
]


@pytest.mark.parametrize(("kind", "text", "reason"), REFUSED)
def test_what_is_refused(kind: Kind[Any], text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"\A{re.escape(reason)}\Z"):
        kind.parse(text)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (DURATION, 0.0, "0s"),
        (DURATION, 1500.0, "25m"),
        (DURATION, 5400.0, "1h30m"),
        (DURATION, 1.5, "1s500ms"),
        (SIZE, 4 << 20, "4MiB"),
        (SIZE, 10**10, "10GB"),
        (SIZE, 1025, "1025B"),
        (SIZE, 0, "0"),
        (ADDRESS, Address("::1", 1), "[::1]:1"),
        (ADDRESS, Address("", 1), ":1"),
        (ADDRESS, None, "off"),
        (Switch(), True, "on"),
        (SERVICES, ("greet", "file"), "greet,file"),
        (Maybe(Place()), None, ""),
        (Origins(), (), "off"),
        (Networks(), (), "off"),
        (SECRET, "12345678", MASK),
        (SECRET, None, ""),
    ],
)
def test_what_is_written(kind: Kind[Any], value: object, text: str) -> None:
    assert kind.show(value) == text


ADDRESSES = st.builds(
    Address,
    st.one_of(
        st.just(""),
        st.from_regex(r"[a-z][a-z0-9-]{0,10}(\.[a-z]{1,5})?", fullmatch=True),
        st.ip_addresses().map(str),
    ),
    st.integers(0, 65535),
)
ORIGINS = st.from_regex(r"(https?://[a-z0-9.-]{1,12}(:[0-9]{1,5}|:\*)?|\*|loopback)", fullmatch=True)
NETWORKS = st.builds(
    lambda address, bits: str(ip_network((address, min(bits, address.max_prefixlen)), strict=False)),
    st.ip_addresses(),
    st.integers(0, 128),
)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (INTEGER, st.integers(-5, 100)),
        (DURATION, st.integers(0, YEAR * 1000).map(lambda millis: millis / 1000)),
        (SIZE, st.integers(0, 1 << 50)),
        (
            SIZE,
            st.builds(
                lambda n, unit: n * unit, st.integers(0, 1000), st.sampled_from([1000, 1 << 30, 10**9])
            ),
        ),
        (ADDRESS, st.none() | ADDRESSES),
        (Switch(), st.booleans()),
        (LEVEL, st.sampled_from(LEVEL.options)),
        (SERVICES, st.sampled_from([("greet",), ("file",), ("file", "greet")])),
        (Maybe(Place()), st.none() | st.text(st.characters(exclude_characters="\0"), min_size=1).map(Path)),
        (Origins(), st.lists(ORIGINS, unique=True).map(tuple)),
        (Networks(), st.lists(NETWORKS, unique=True).map(tuple)),
    ],
)
@given(data=st.data())
def test_what_is_written_is_read_back(
    kind: Kind[Any], values: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    value = data.draw(values)
    assert kind.parse(kind.show(value)) == value


@pytest.mark.parametrize(
    "kind",
    [
        INTEGER,
        DURATION,
        SIZE,
        ADDRESS,
        Switch(),
        LEVEL,
        SERVICES,
        Place(),
        WebAddress(),
        Origins(),
        Networks(),
    ],
)
@given(text=st.text() | st.text("0123456789.:[]%/@*,hmsdkib off", max_size=12))
def test_any_text_is_read_or_refused(kind: Kind[Any], text: str) -> None:
    try:
        value = kind.parse(text)
    except ValueError:
        return
    assert kind.parse(kind.show(value)) == value


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        (("*",), "https://a.example", True),
        (("*",), "null", True),
        (("loopback",), "http://localhost:5173", True),
        (("loopback",), "http://localhost", True),
        (("loopback",), "https://127.0.0.1:8443", True),
        (("loopback",), "http://[::1]:3000", True),
        (("loopback",), "http://localhost.example:5173", False),
        (("loopback",), "http://127.0.0.1.example", False),
        (("loopback",), "null", False),
        (("loopback",), "", False),
        (("https://a.example",), "https://a.example", True),
        (("https://a.example",), "http://a.example", False),
        (("https://a.example",), "https://a.example:444", False),
        (("https://a.example:*",), "https://a.example:444", True),
        (("https://a.example:*",), "https://a.example", True),
        (("https://a.example:*",), "https://a.example.evil:1", False),
        ((), "https://a.example", False),
    ],
)
def test_which_origins_may_call(origins: tuple[str, ...], origin: str, allowed: bool) -> None:
    assert origin_allowed(origins, origin) is allowed
