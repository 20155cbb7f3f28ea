"""Logs: structured, one line each; to read on a terminal, JSON otherwise.

Everything goes through one `_Output`: what fawa logs (structlog), what libraries log (the standard library's
`logging`, and warnings), and the access log, which takes a shorter way because it runs for every call.
Loggers may be made before `configure`, and follow each later call of it.

Text that came from the network cannot forge a line or reach a terminal as a command: what is not printable is
escaped. Logging never raises: a line that cannot be written is dropped and counted.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TextIO

import attrs
import msgspec
import structlog
from structlog.dev import Column, ConsoleRenderer, KeyValueColumnFormatter, LogLevelColumnFormatter

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

#: What a line has of itself; a field of such a name gets a `_` behind it.
_RESERVED = frozenset(("timestamp", "level", "logger", "event", "exception", "stack"))

#: Characters of a request's path that the access log keeps.
_PATH_LENGTH = 300

_encode = msgspec.json.Encoder().encode


class Logger(structlog.BoundLoggerBase):
    """Logs events with fields; `bind` makes a logger that adds fields to each."""

    def debug(self, event: str, **fields: Any) -> None:
        """Log what only helps to find a fault."""
        self._log("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Log what happens in the normal course of things."""
        self._log("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log what an operator should look at, though everything is served."""
        self._log("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Log a fault."""
        self._log("error", event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """Log a fault with the exception that is being handled (or the one in `exc_info`)."""
        self._log("error", event, {"exc_info": True} | fields)

    def critical(self, event: str, **fields: Any) -> None:
        """Log why the daemon ends."""
        self._log("critical", event, fields)

    def _log(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if LEVELS[level] >= _output.threshold:
            entry = structlog.contextvars.merge_contextvars(None, level, {**self._context, **fields})
            _output.log(level, str(entry.pop("logger", "")), event, entry)


def get_logger(name: str) -> Logger:
    """Return the logger of the module `name`."""
    return Logger(None, (), {"logger": name})


def configure(
    level: str = "info",
    format: str = "auto",  # noqa: A002  (the setting's name)
    stream: TextIO | None = None,
    *,
    access: bool = True,
    wall_clock: Callable[[], float] = time.time,
) -> None:
    """Say what is logged, in which form and where to; may be called again at any time.

    `level`: debug, info, warning or error. `format`: console, json, or auto: console when the stream is a
    terminal. `stream`: standard error if `None`; whoever reads it must keep up, for writing blocks. `access`:
    whether `access_line` writes. `wall_clock` gives Unix seconds.
    """
    global _output  # noqa: PLW0603  (logging is one per process)
    stream = sys.stderr if stream is None else stream
    terminal = _is_terminal(stream)
    readable = format == "console" or (format == "auto" and terminal)
    console = _console_renderer(colors=terminal) if readable else None
    _output = _Output(stream, console, LEVELS[level], access, wall_clock)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(handler)
    root.addHandler(_Handler())
    root.setLevel(LEVELS[level])
    logging.captureWarnings(True)
    structlog.configure(processors=[], wrapper_class=Logger)


def access_line(
    *,
    method: str,
    path: str,
    version: str,
    status: int,
    seconds: float,
    peer: str,
    bytes_in: int,
    bytes_out: int,
    rpc: str = "",
    rpc_status: str = "",
) -> None:
    """Log one call.

    `path` is without the query, which may hold a signature. `version` is of HTTP ("1.1"), `status` the HTTP
    status (0: none was sent), `rpc` the dialect and `rpc_status` the status by name; both "" when the call
    was plain HTTP.
    """
    if _output.access:
        _output.log(
            "info",
            "fawa.access",
            "call",
            {
                "method": method,
                "path": path if len(path) <= _PATH_LENGTH else f"{path[:_PATH_LENGTH]}…",
                "http": version,
                "status": status,
                "rpc": rpc,
                "rpc_status": rpc_status,
                "ms": round(seconds * 1000, 3),
                "peer": peer,
                "bytes_in": bytes_in,
                "bytes_out": bytes_out,
            },
            plain=True,
        )


def dropped_lines() -> int:
    """Return how many lines could not be written since `configure`."""
    return _output.dropped


@attrs.define
class Repeats:
    """Thins out reports of a fault that repeats: one for each key per `interval` seconds.

    Knows `max_keys` keys; beyond that, the one whose last report is the longest ago is forgotten.
    """

    interval: float
    max_keys: int = 1000
    #: By key, the time of the last report and how often it was held back since; the oldest report first.
    _seen: dict[Hashable, tuple[float, int]] = attrs.field(factory=dict, init=False)

    def due(self, key: Hashable, now: float) -> int | None:
        """Note one occurrence; return how many were held back since the last report, `None` to be silent."""
        reported, held = self._seen.get(key, (now - self.interval, 0))
        if now - reported < self.interval:
            self._seen[key] = (reported, held + 1)
            return None
        self._seen.pop(key, None)
        self._seen[key] = (now, 0)
        if len(self._seen) > self.max_keys:
            del self._seen[next(iter(self._seen))]
        return held


# Output


class _Output:
    """Where lines go and what they look like."""

    def __init__(
        self,
        stream: TextIO | None,
        console: ConsoleRenderer | None,
        threshold: int,
        access: bool,
        wall_clock: Callable[[], float],
    ) -> None:
        self.threshold = threshold
        self.access = access and threshold <= LEVELS["info"]
        self.dropped = 0
        self._stream = stream
        #: The bytes beneath a text stream, which take a line in one write.
        self._raw = getattr(stream, "buffer", None)
        self._encoding = (self._raw is not None and getattr(stream, "encoding", None)) or "utf-8"
        self._console = console
        self._wall_clock = wall_clock
        #: The last second that was written, in Unix time and as text.
        self._second = (-1, "")

    def log(
        self, level: str, logger: str, event: str, fields: Mapping[str, Any], *, plain: bool = False
    ) -> None:
        """Write one line; `plain` says that the fields' values are nothing but text and numbers."""
        entry = {"timestamp": self._timestamp(), "level": level, "logger": logger, "event": event}
        try:
            entry.update(fields if plain else _plain_fields(fields))
            if self._console is None:
                self._write(_json_line(entry))
            else:
                text = _console_line(self._console, entry)
                self._write(text.encode(self._encoding, "backslashreplace"))
        except Exception:  # whatever it is, it must not end the call that is logged
            self.dropped += 1

    def _timestamp(self) -> str:
        """Return the time as ISO 8601 with milliseconds, UTC."""
        second, millis = divmod(int(self._wall_clock() * 1000), 1000)
        known, text = self._second
        if second != known:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = (second, text)
        return f"{text}.{millis:03d}Z"

    def _write(self, line: bytes) -> None:
        if self._raw is not None:
            self._raw.write(line)
            self._raw.flush()
        elif self._stream is not None:
            self._stream.write(line.decode(self._encoding))
            self._stream.flush()
        else:
            self.dropped += 1


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def _plain_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields that any format can write; an exception becomes its type, message and traceback."""
    plain = {
        f"{name}_" if name in _RESERVED else name: _plain(value)
        for name, value in fields.items()
        if name != "exc_info"
    }
    if (exception := _exception(fields.get("exc_info"))) is not None:
        plain["exception"] = {
            "type": type(exception).__qualname__,
            "message": _text(exception, str),
            "traceback": "".join(traceback.format_exception(exception)).rstrip("\n"),
        }
    return plain


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | float():
            return value
        case int():
            return value if abs(value) < 2**63 else str(value)
        case str():
            return str(value)
        case list() | tuple():
            return [_plain(item) for item in value]
        case dict():
            return {_text(key, str): _plain(item) for key, item in value.items()}
    # Never by its attributes: a record may hide some of them, such as secrets, from its repr.
    return _text(value, str if isinstance(value, BaseException) else repr)


def _text(value: object, show: Callable[[object], str]) -> str:
    try:
        return show(value)
    except Exception as error:
        return f"<{type(value).__qualname__} that cannot be shown: {type(error).__qualname__}>"


def _exception(exc_info: Any) -> BaseException | None:
    """Return the exception that `exc_info` means: itself, a tuple's, or for a true value the current one."""
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1] if isinstance(exc_info[1], BaseException) else None
    return sys.exception() if exc_info else None


def _escape(text: str) -> str:
    """Return the text with everything that is not printable written as an escape."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


# JSON


def _json_line(entry: dict[str, Any]) -> bytes:
    try:
        line = _encode(entry)
    except UnicodeEncodeError:  # half of a surrogate pair: undecodable bytes of a file name, for instance
        line = _encode(_without_surrogates(entry))
    if not line.isascii() or b"\x7f" in line:
        line = _json_escape(line.decode()).encode()
    return line + b"\n"


def _without_surrogates(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case list():
            return [_without_surrogates(item) for item in value]
        case dict():
            return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value


def _json_escape(text: str) -> str:
    """Escape what JSON allows but a terminal may act on (RFC 8259 section 7)."""
    return "".join(c if c.isprintable() else _json_character(c) for c in text)


def _json_character(character: str) -> str:
    code = character.encode("utf-16-be").hex()
    return "".join(f"\\u{code[start : start + 4]}" for start in range(0, len(code), 4))


# Console


def _console_renderer(*, colors: bool) -> ConsoleRenderer:
    styles = ConsoleRenderer.get_default_column_styles(colors)
    levels = ConsoleRenderer.get_default_level_styles(colors)

    def column(
        key: str,
        style: str,
        show: Callable[[object], str],
        width: int = 0,
        around: tuple[str, str] = ("", ""),
    ) -> Column:
        return Column(key, KeyValueColumnFormatter(None, style, styles.reset, show, width, *around))

    return ConsoleRenderer(
        sort_keys=False,
        columns=[
            column("timestamp", styles.timestamp, str),
            Column("level", LogLevelColumnFormatter(levels, styles.reset)),
            column("event", styles.bright, lambda event: _escape(str(event)), 30),
            Column(
                "logger", KeyValueColumnFormatter(None, styles.logger_name, styles.reset, str, 0, "[", "]")
            ),
            Column("", KeyValueColumnFormatter(styles.kv_key, styles.kv_value, styles.reset, _console_value)),
        ],
    )


def _console_value(value: object) -> str:
    """Write a field: a word as it is, anything else quoted and escaped."""
    if isinstance(value, str) and value and value.isprintable() and not set(value) & set(" ='\""):
        return value
    return repr(value)


def _console_line(renderer: ConsoleRenderer, entry: dict[str, Any]) -> str:
    """Render; a traceback follows indented, so that no line of it passes for a line of the log."""
    if exception := entry.pop("exception", None):
        lines = exception["traceback"].split("\n")
        entry["exception"] = "\n".join(f"    {_escape(line)}" for line in lines)
    return renderer(None, "", entry) + "\n"


# The standard library's logging


class _Handler(logging.Handler):
    """Brings the records of the standard library's loggers (and so warnings) to the output."""

    def emit(self, record: logging.LogRecord) -> None:
        level = next((name for name in reversed(LEVELS) if record.levelno >= LEVELS[name]), "debug")
        message = _text(record, lambda _: record.getMessage()).rstrip("\n")
        _output.log(level, record.name, message, {"exc_info": record.exc_info})


#: Until `configure` is called.
_output = _Output(sys.stderr, _console_renderer(colors=False), LEVELS["warning"], False, time.time)
