"""Kinds of setting values: each reads a value from text, writes it back the same way, and tells its limits.

Flags, environment variables and the file all hand over text, so one parser serves the three. `parse` raises
`ValueError` with a reason that reads after the value ("is not a duration"); `allowed` completes the error.
For every value that `parse` returns, `parse(show(value)) == value`.
"""

from __future__ import annotations

import abc
import re
from pathlib import Path
from typing import Generic, TypeVar

import attrs

from fawa.storage.redis_url import SCHEMES, RedisAddress, parse_redis_url

T = TypeVar("T")

#: Of what sockaddr_un holds on Linux and others, see unix(7).
_LONGEST_UNIX_PATH = 103

#: Digits beyond these are refused before a number is made of them.
_MAX_DIGITS = 18

#: What is printed in a secret's place.
MASK = "***"

_NO = ("off", "false", "no", "0")
_YES = ("on", "true", "yes", "1")


class Kind(abc.ABC, Generic[T]):
    """How one kind of value is read, written and described."""

    @property
    @abc.abstractmethod
    def metavar(self) -> str:
        """What stands for the value in `--help`."""

    @property
    def secret(self) -> bool:
        """Whether values must never be printed."""
        return False

    @abc.abstractmethod
    def parse(self, text: str) -> T:
        """Return the value that `text` means.

        Raises:
            ValueError: it means none; the text says why.

        """

    @abc.abstractmethod
    def allowed(self) -> str:
        """Say which values are allowed and how they are written."""

    def show(self, value: T) -> str:
        """Write the value so that `parse` reads it back."""
        return str(value)


@attrs.frozen
class Maybe(Kind[T | None]):
    """A value or none, which is written as the empty text or as `word`."""

    kind: Kind[T]
    word: str = ""

    @property
    def metavar(self) -> str:
        """The value's."""
        return self.kind.metavar

    @property
    def secret(self) -> bool:
        """Whether the value is."""
        return self.kind.secret

    def parse(self, text: str) -> T | None:
        """Read none or a value."""
        return None if text.lower() in ("", self.word) else self.kind.parse(text)

    def show(self, value: T | None) -> str:
        """Write none or a value."""
        return self.word if value is None else self.kind.show(value)

    def allowed(self) -> str:
        """Say what the value may be, and how none is written."""
        return f"{self.kind.allowed()}, or {self.word or 'empty'}"


def _in_range(value: float, minimum: float, maximum: float) -> None:
    if value < minimum:
        raise ValueError("is too small")
    if value > maximum:
        raise ValueError("is too large")


def _number(digits: str | None) -> int:
    digits = (digits or "0").lstrip("0")
    if len(digits) > _MAX_DIGITS:
        raise ValueError("is too large")
    return int(digits or "0")


@attrs.frozen
class Integer(Kind[int]):
    """A whole number."""

    minimum: int
    maximum: int
    metavar = "N"

    def parse(self, text: str) -> int:
        """Read decimal digits."""
        if not re.fullmatch(r"[+-]?[0-9]+", text):
            raise ValueError("is not a whole number")
        value = _number(text.lstrip("+-")) * (-1 if text.startswith("-") else 1)
        _in_range(value, self.minimum, self.maximum)
        return value

    def allowed(self) -> str:
        """Say the range."""
        return f"{self.minimum} to {self.maximum}"


_DURATION = re.compile(
    r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m(?!s))?(?:([0-9]+)(?:\.([0-9]{1,3}))?s)?(?:([0-9]+)ms)?"
)
#: Milliseconds in each unit, the largest first.
_TIME_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}


@attrs.frozen
class Ratio(Kind[float]):
    """A part of a whole."""

    metavar = "RATIO"

    def parse(self, text: str) -> float:
        """Read a decimal number from 0 to 1."""
        if not re.fullmatch(r"[0-9]{1,3}(?:\.[0-9]{1,9})?", text):
            raise ValueError("is not a decimal number")
        value = float(text)
        _in_range(value, 0, 1)
        return value

    def show(self, value: float) -> str:
        """Write it as it is read."""
        return f"{value:.9f}".rstrip("0").rstrip(".")

    def allowed(self) -> str:
        """Say the range."""
        return "0 to 1, such as 0.05"


@attrs.frozen
class Duration(Kind[float]):
    """Seconds, to the millisecond."""

    minimum: float
    maximum: float
    metavar = "TIME"

    def parse(self, text: str) -> float:
        """Read `90`, `90s`, `1.5s`, `25m`, `1h30m`, `2d`, `250ms`."""
        compact = re.sub(r"(?<=[a-z]) +(?=[0-9])", "", text.lower())
        match = _DURATION.fullmatch(f"{compact}s" if re.fullmatch(r"[0-9]+(\.[0-9]+)?", compact) else compact)
        if match is None or not compact:
            raise ValueError("is not a duration")
        days, hours, minutes, seconds, fraction, millis = match.groups()
        counts = (days, hours, minutes, seconds, millis)
        total = sum(_number(count) * unit for count, unit in zip(counts, _TIME_UNITS.values(), strict=True))
        value = (total + int((fraction or "0").ljust(3, "0"))) / 1000
        _in_range(value, self.minimum, self.maximum)
        return value

    def show(self, value: float) -> str:
        """Write it in the largest units, such as `1h30m`."""
        left, parts = round(value * 1000), []
        for name, unit in _TIME_UNITS.items():
            count, left = divmod(left, unit)
            if count:
                parts.append(f"{count}{name}")
        return "".join(parts) or "0s"

    def allowed(self) -> str:
        """Say the range and the forms."""
        return f"{self.show(self.minimum)} to {self.show(self.maximum)}, such as 90, 90s, 25m or 1h30m"


#: Bytes in each unit, in the order in which `show` tries them.
_SIZE_UNITS = {
    "TiB": 1 << 40,
    "TB": 10**12,
    "GiB": 1 << 30,
    "GB": 10**9,
    "MiB": 1 << 20,
    "MB": 10**6,
    "KiB": 1 << 10,
    "kB": 10**3,
    "B": 1,
}
_SIZE_NAMES = {name.lower(): unit for name, unit in _SIZE_UNITS.items()} | {"": 1}


@attrs.frozen
class Size(Kind[int]):
    """A number of bytes."""

    minimum: int
    maximum: int
    metavar = "SIZE"

    def parse(self, text: str) -> int:
        """Read `4194304`, `4MiB` (1,024 based), `10GB` (1,000 based)."""
        match = re.fullmatch(r"([0-9]+) ?([A-Za-z]*)", text)
        unit = match and _SIZE_NAMES.get(match[2].lower())
        if match is None or unit is None:
            raise ValueError("is not a size")
        value = _number(match[1]) * unit
        _in_range(value, self.minimum, self.maximum)
        return value

    def show(self, value: int) -> str:
        """Write it in the largest unit that divides it, such as `4MiB`."""
        for name, unit in _SIZE_UNITS.items():
            if value and value % unit == 0:
                return f"{value // unit}{name}"
        return "0"

    def allowed(self) -> str:
        """Say the range and the forms."""
        return f"{self.show(self.minimum)} to {self.show(self.maximum)}, such as 4194304, 4MiB or 10GB"


@attrs.frozen
class Switch(Kind[bool]):
    """Yes or no."""

    metavar = "on|off"

    def parse(self, text: str) -> bool:
        """Read the usual words."""
        word = text.lower()
        if word not in _YES + _NO:
            raise ValueError("is neither on nor off")
        return word in _YES

    def show(self, value: bool) -> str:
        """Write `on` or `off`."""
        return "on" if value else "off"

    def allowed(self) -> str:
        """Say the words."""
        return "on, true, yes, 1 or off, false, no, 0"


@attrs.frozen
class Choice(Kind[str]):
    """One of a few words."""

    options: tuple[str, ...]
    #: Other words for some of the options.
    synonyms: dict[str, str] = attrs.field(factory=dict)

    @property
    def metavar(self) -> str:
        """The options."""
        return "|".join(self.options)

    def parse(self, text: str) -> str:
        """Read one of the options, in any case."""
        word = self.synonyms.get(text.lower(), text.lower())
        if word not in self.options:
            raise ValueError("is not one of the choices")
        return word

    def allowed(self) -> str:
        """Say the options."""
        return ", ".join(self.options)


def _entries(text: str) -> list[str]:
    """Split a list at its commas; entries given twice count once."""
    return list(dict.fromkeys(entry for part in text.split(",") if (entry := part.strip())))


@attrs.frozen
class Several(Kind[tuple[str, ...]]):
    """One or more of a few words."""

    options: tuple[str, ...]
    metavar = "NAME,..."

    def parse(self, text: str) -> tuple[str, ...]:
        """Read a list with commas."""
        entries = _entries(text)
        if not entries:
            raise ValueError("names none")
        for entry in entries:
            if entry not in self.options:
                raise ValueError(f'has "{entry}", which is not one of the choices')
        return tuple(entries)

    def show(self, value: tuple[str, ...]) -> str:
        """Write a list with commas."""
        return ",".join(value)

    def allowed(self) -> str:
        """Say the options."""
        return f"one or more of {', '.join(self.options)}, with commas between"


@attrs.frozen
class Address:
    """Where to listen. Port 0 lets the system choose one."""

    #: A name or an IP address without brackets; "" is every interface.
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@attrs.frozen
class ListenAddress(Kind[Address]):
    """An address to listen on."""

    metavar = "HOST:PORT"

    def parse(self, text: str) -> Address:
        """Read `host:port`, `:port` (every interface) or `[::1]:port`."""
        host, colon, port = text.rpartition(":")
        if not colon or not re.fullmatch(r"[0-9]{1,5}", port):
            raise ValueError("has no port number at its end")
        if int(port) > 65535:
            raise ValueError("has a port above 65535")
        return Address(_host(host), int(port))

    def allowed(self) -> str:
        """Say the forms."""
        return "host:port, :port (every interface), [IPv6 address]:port, port 0 (any free one)"


@attrs.frozen
class UnixAddress:
    """A Unix socket to listen on."""

    #: Absolute.
    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@attrs.frozen
class AdminAddress(Kind[Address | UnixAddress]):
    """An address to listen on, or a Unix socket."""

    metavar = "HOST:PORT|unix:PATH"

    def parse(self, text: str) -> Address | UnixAddress:
        """Read `host:port` and its forms, or `unix:/path`."""
        scheme, colon, path = text.partition(":")
        if scheme.lower() != "unix" or not colon or not path.startswith("/"):
            return ListenAddress().parse(text)
        if len(path.encode()) > _LONGEST_UNIX_PATH or "\0" in path:
            raise ValueError(f"has a path that is no socket's: at most {_LONGEST_UNIX_PATH} bytes")
        return UnixAddress(path)

    def allowed(self) -> str:
        """Say the forms."""
        return f"{ListenAddress().allowed()}, unix:/path"


def _host(host: str) -> str:
    """Return the host without brackets once it can be one."""
    from ipaddress import AddressValueError, IPv4Address, IPv6Address  # noqa: PLC0415  (keeps the start fast)

    try:
        if host.startswith("[") and host.endswith("]"):
            IPv6Address(host[1:-1])
            return host[1:-1]
        if re.fullmatch(r"[0-9.]+", host):
            IPv4Address(host)
    except AddressValueError:
        raise ValueError("has a host that is not an IP address") from None
    if ":" in host:
        raise ValueError("has an IPv6 address without brackets")
    if not re.fullmatch(r"[A-Za-z0-9._-]*", host) or len(host) > 253:
        raise ValueError("has a host that is neither a name nor an IP address")
    return host


@attrs.frozen
class Place(Kind[Path]):
    """A path of a file or folder."""

    metavar = "PATH"

    def parse(self, text: str) -> Path:
        """Read a path."""
        if not text or "\0" in text:
            raise ValueError("has a NUL character" if text else "is empty")
        return Path(text)

    def allowed(self) -> str:
        """Say the forms."""
        return "a path, relative to the working folder, or with ~ for the home folder"


@attrs.frozen
class Text(Kind[str]):
    """Characters that a pattern takes; the pattern says whether the empty text is one."""

    pattern: str
    #: Completes "allowed: …".
    told: str
    metavar = "TEXT"

    def parse(self, text: str) -> str:
        """Read it as it stands."""
        if not re.fullmatch(self.pattern, text):
            raise ValueError("has characters or a length that cannot be")
        return text

    def allowed(self) -> str:
        """Say what the pattern takes."""
        return self.told


@attrs.frozen
class WebAddress(Kind[str]):
    """An http or https URL under which paths are appended, or ""."""

    metavar = "URL"

    def parse(self, text: str) -> str:
        """Read a URL; a slash at its end is left out."""
        from urllib.parse import urlsplit  # noqa: PLC0415  (keeps the start fast)

        if not text:
            return ""
        if not re.fullmatch(r"[!-~]+", text):
            raise ValueError("has characters that a URL does not have")
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise ValueError("is not a URL") from None
        if parts.scheme not in ("http", "https"):
            raise ValueError("does not start with http:// or https://")
        if not parts.hostname or port == 0:
            raise ValueError("names no host" if not parts.hostname else "has port 0")
        if "@" in parts.netloc:
            raise ValueError("has a user name or password")
        if "?" in text or "#" in text:
            raise ValueError("has a query or a fragment")
        return text.rstrip("/")

    def allowed(self) -> str:
        """Say the forms."""
        return "an http or https URL, with or without a path, or empty"


@attrs.frozen
class RedisUrl(Kind[RedisAddress]):
    """Where Redis is. It may have a password, which `show` masks, so such a value is not read back."""

    metavar = "URL"
    secret = True

    def parse(self, text: str) -> RedisAddress:
        """Read a URL, or `host[:port]`."""
        return parse_redis_url(text)

    def allowed(self) -> str:
        """Say the forms."""
        return (
            f"a URL that begins with {', '.join(f'{name}://' for name in SCHEMES)}, such as "
            "redis://user:password@host:6379/0, redis+sentinel://host,host/service or "
            "rediss+cluster://host,host; or host:port"
        )


@attrs.frozen
class Networks(Kind[tuple[str, ...]]):
    """IP networks in CIDR notation (RFC 4632, RFC 4291 section 2.3), or none."""

    metavar = "CIDR,..."

    def parse(self, text: str) -> tuple[str, ...]:
        """Read a list with commas of networks and addresses; the empty text and `off` are none."""
        from ipaddress import ip_network  # noqa: PLC0415  (keeps the start fast)

        networks = []
        for entry in [] if text.lower() == "off" else _entries(text):
            try:
                networks.append(str(ip_network(entry)))
            except ValueError as error:
                why = "has host bits set" if "host bits" in str(error) else "is not a network"
                raise ValueError(f'has "{entry}", which {why}') from None
        return tuple(dict.fromkeys(networks))

    def show(self, value: tuple[str, ...]) -> str:
        """Write a list with commas, or `off`."""
        return ",".join(value) or "off"

    def allowed(self) -> str:
        """Say the forms."""
        return "networks such as 10.0.0.0/8 or fd00::/8, or addresses, with commas between; or off"


_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_ORIGIN = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5}|:\*)?")


@attrs.frozen
class Origins(Kind[tuple[str, ...]]):
    """Web origins (RFC 6454) that may call from a browser; see `origin_allowed`."""

    metavar = "ORIGIN,..."

    def parse(self, text: str) -> tuple[str, ...]:
        """Read a list with commas of origins, `loopback` or `*`; the empty text and `off` are none."""
        entries = [] if text.lower() == "off" else _entries(text.lower())
        for entry in entries:
            if entry not in ("*", "loopback") and not _ORIGIN.fullmatch(entry):
                raise ValueError(f'has "{entry}", which is not an origin')
        return tuple(entries)

    def show(self, value: tuple[str, ...]) -> str:
        """Write a list with commas, or `off`."""
        return ",".join(value) or "off"

    def allowed(self) -> str:
        """Say the forms."""
        return (
            "origins such as https://app.example or http://localhost:* (any port), with commas between; "
            "loopback; * (every origin); or off"
        )


def origin_allowed(origins: tuple[str, ...], origin: str) -> bool:
    """Say whether a browser's page of `origin` (the request header's value) may call.

    `loopback` stands for http and https on localhost, 127.0.0.1 and [::1] with any port.
    """
    if "*" in origins or origin in origins:
        return True
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        return False
    return ("loopback" in origins and match[2] in _LOOPBACK) or f"{match[1]}://{match[2]}:*" in origins


@attrs.frozen
class Secret(Kind[str]):
    """Characters that nobody else may know. `show` masks them, so this kind is not read back."""

    minimum: int
    metavar = "SECRET"
    secret = True

    def parse(self, text: str) -> str:
        """Read it as it stands."""
        if len(text) < self.minimum:
            raise ValueError(f"has {len(text)} characters")
        return text

    def show(self, value: str) -> str:
        """Write the mask."""
        return MASK

    def allowed(self) -> str:
        """Say the length."""
        return f"at least {self.minimum} characters"
