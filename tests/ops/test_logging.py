"""Log lines: what they look like, and that nobody but fawa decides where one ends."""

from __future__ import annotations

import contextlib
import io
import json
import logging as stdlib_logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import attrs
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fawa.ops import logging
from fawa.ops.logging import Repeats, access_line, configure, dropped_lines, get_logger

NOW = 1_800_000_000.0625
STAMP = "2027-01-15T08:00:00.062Z"

ACCESS: dict[str, Any] = {
    "method": "POST",
    "path": "/greet.v1.GreetService/SayHello",
    "version": "2",
    "status": 200,
    "seconds": 0.0012345,
    "peer": "127.0.0.1:51234",
    "bytes_in": 12,
    "bytes_out": 34,
    "rpc": "grpc",
    "rpc_status": "OK",
}

#: Text that would end a line, forge one, move the cursor, or hide what it is.
HOSTILE = [
    "a\nb",
    "a\r\nb",
    "\x1b[2J\x1b[31m",
    "\x9b31m",
    "\x7f\x08\x00",
    "\u202edlrow",
    "\u2028\u2029\x85",
    "\ud800",
    "\U000e0041",
    f'"}}\n{{"timestamp":"{STAMP}","level":"info"',
    "größe 文件 😀",
]


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave the process's logging as it was."""
    root, before = stdlib_logging.getLogger(), logging._output
    level, handlers = root.level, root.handlers[:]
    yield
    stdlib_logging.captureWarnings(False)
    structlog.reset_defaults()
    root.setLevel(level)
    root.handlers[:] = handlers
    logging._output = before


@attrs.frozen
class Log:
    """What has been written, as bytes went to the stream."""

    raw: io.BytesIO
    stream: TextIO

    def take(self) -> str:
        """Return and forget it."""
        text = self.raw.getvalue().decode()
        self.raw.seek(0)
        self.raw.truncate()
        return text

    def lines(self) -> list[dict[str, Any]]:
        """Take it as JSON lines."""
        text = self.take()
        assert not text or text.endswith("\n")
        return [json.loads(line) for line in text.split("\n")[:-1]]


def start(form: str = "json", level: str = "info", **options: Any) -> Log:
    raw = io.BytesIO()
    log = Log(raw, io.TextIOWrapper(raw, "utf-8"))
    configure(level, form, log.stream, wall_clock=lambda: NOW, **options)
    return log


# What lines look like


def test_json() -> None:
    log = start()
    get_logger("fawa.test").info(
        "listening", address="127.0.0.1:8080", tls=False, port=8080, names=("a", None)
    )
    assert log.take() == (
        f'{{"timestamp":"{STAMP}","level":"info","logger":"fawa.test","event":"listening",'
        '"address":"127.0.0.1:8080","tls":false,"port":8080,"names":["a",null]}\n'
    )


def test_console() -> None:
    log = start("console")
    get_logger("fawa.test").warning("slow call", seconds=1.5, path="/a b", names=("a", None), code="")
    assert log.take() == (
        f"{STAMP} [warning  ] slow call                      [fawa.test] "
        "seconds=1.5 path='/a b' names=['a', None] code=''\n"
    )


def test_an_access_line() -> None:
    log = start()
    access_line(**ACCESS)
    assert log.take() == (
        f'{{"timestamp":"{STAMP}","level":"info","logger":"fawa.access","event":"call","method":"POST",'
        '"path":"/greet.v1.GreetService/SayHello","http":"2","status":200,"rpc":"grpc","rpc_status":"OK",'
        '"ms":1.234,"peer":"127.0.0.1:51234","bytes_in":12,"bytes_out":34}\n'
    )
    log = start("console")
    access_line(**ACCESS)
    assert log.take() == (
        f"{STAMP} [info     ] call                           [fawa.access] method=POST "
        "path=/greet.v1.GreetService/SayHello http=2 status=200 rpc=grpc rpc_status=OK ms=1.234 "
        "peer=127.0.0.1:51234 bytes_in=12 bytes_out=34\n"
    )


def test_an_access_line_is_what_a_logger_would_write() -> None:
    log = start()
    access_line(**ACCESS)
    (line,) = log.lines()
    fields = {key: line[key] for key in line if key not in ("timestamp", "level", "logger", "event")}
    get_logger("fawa.access").info("call", **fields)
    assert log.lines() == [line]


def test_a_long_path_is_cut() -> None:
    log = start()
    access_line(**ACCESS | {"path": "/" + "x" * 60_000})
    assert log.lines()[0]["path"] == "/" + "x" * 299 + "…"


def test_the_time_goes_on() -> None:
    times = iter([0.9999, 1.0, 1.001, 3.5])
    raw = io.StringIO()
    configure("info", "json", raw, wall_clock=lambda: NOW // 1 + next(times))
    for _ in range(4):
        get_logger("x").info("tick")
    stamps = [json.loads(line)["timestamp"][-7:] for line in raw.getvalue().splitlines()]
    assert stamps == ["00.999Z", "01.000Z", "01.001Z", "03.500Z"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("form", "stream", "beginning"),
    [
        ("auto", Terminal(), "\x1b["),
        ("auto", io.StringIO(), "{"),
        ("json", Terminal(), "{"),
        ("console", io.StringIO(), "2027"),
    ],
)
def test_which_form_is_chosen(form: str, stream: io.StringIO, beginning: str) -> None:
    configure("info", form, stream, wall_clock=lambda: NOW)
    get_logger("x").info("hello")
    assert stream.getvalue().startswith(beginning)


# What is logged


def test_levels() -> None:
    log, logger = start(level="warning"), get_logger("x")
    for write in (logger.debug, logger.info, logger.warning, logger.error, logger.critical):
        write("event")
    assert [line["level"] for line in log.lines()] == ["warning", "error", "critical"]


def test_loggers_follow_each_configuration() -> None:
    logger = get_logger("x").bind(service="file")
    first = start(level="error")
    logger.info("one")
    second = start(level="debug")
    logger.debug("two")
    assert first.lines() == []
    assert [(line["event"], line["service"]) for line in second.lines()] == [("two", "file")]


def test_fields_that_belong_to_the_line_cannot_be_replaced() -> None:
    log = start()
    get_logger("x").info("hello", level="none", timestamp=0, exception="none", stack="none")
    (line,) = log.lines()
    assert (line["level"], line["timestamp"]) == ("info", STAMP)
    assert {key: line[key] for key in line if key.endswith("_")} == {
        "level_": "none",
        "timestamp_": 0,
        "exception_": "none",
        "stack_": "none",
    }


def test_fields_of_the_context() -> None:
    log = start()
    with structlog.contextvars.bound_contextvars(call=7):
        get_logger("x").info("hello")
    assert log.lines()[0]["call"] == 7


def test_structlog_s_own_loggers() -> None:
    log = start()
    structlog.get_logger().info("hello", a=1)
    assert log.lines() == [{"timestamp": STAMP, "level": "info", "logger": "", "event": "hello", "a": 1}]


@pytest.mark.parametrize(("level", "access"), [("info", False), ("warning", True)])
def test_access_lines_can_be_left_out(level: str, access: bool) -> None:
    log = start(level=level, access=access)
    access_line(**ACCESS)
    assert log.take() == ""


def test_libraries_and_warnings() -> None:
    log = start()
    library = stdlib_logging.getLogger("library")
    library.debug("nothing")
    library.error("lost %d of %s", 2, "3\n")
    library.log(35, "in between")
    try:
        raise ValueError("wrong")
    except ValueError:
        library.exception("failed")
    # Not through a logger: pytest's own handlers mind such a record.
    wrong = stdlib_logging.LogRecord("library", 40, "file.py", 3, "%d is not a number", ("x",), None)
    logging._Handler().handle(wrong)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        stdlib_logging.captureWarnings(False)
        stdlib_logging.captureWarnings(True)
        warnings.warn_explicit("old", DeprecationWarning, "file.py", 3)
    lines = log.lines()
    assert [(line["logger"], line["level"], line["event"]) for line in lines] == [
        ("library", "error", "lost 2 of 3"),
        ("library", "warning", "in between"),
        ("library", "error", "failed"),
        ("library", "error", "<LogRecord that cannot be shown: TypeError>"),
        ("py.warnings", "warning", "file.py:3: DeprecationWarning: old"),
    ]
    assert lines[2]["exception"]["message"] == "wrong"


def test_configuring_again_does_not_double_lines() -> None:
    start()
    log = start()
    stdlib_logging.getLogger("library").error("once")
    assert len(log.lines()) == 1


# Exceptions


def failure(message: str) -> Exception:
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


def test_an_exception_in_json() -> None:
    log, error = start(), failure("wrong")
    get_logger("x").error("failed", exc_info=error)
    try:
        raise error
    except ValueError:
        get_logger("x").exception("failed")
    get_logger("x").error("failed", exc_info=(ValueError, error, error.__traceback__))
    for line in log.lines():
        assert (line["exception"]["type"], line["exception"]["message"]) == ("ValueError", "wrong")
        assert line["exception"]["traceback"].startswith("Traceback (most recent call last):\n")
        assert line["exception"]["traceback"].endswith("\nValueError: wrong")


@pytest.mark.parametrize("exc_info", [None, False, True, (None, None, None)])
def test_no_exception(exc_info: object) -> None:
    log = start()
    get_logger("x").error("failed", exc_info=exc_info)
    assert "exception" not in log.lines()[0]


def test_an_exception_on_the_console_cannot_forge_a_line() -> None:
    log = start("console")
    get_logger("x").error("failed", exc_info=failure(f"wrong\n{STAMP} [info] all is well\r\x1b[2J"))
    first, *rest = log.take().splitlines()
    assert first == f"{STAMP} [error    ] failed                         [x]"
    assert rest[0] == "    Traceback (most recent call last):"
    assert rest[-2:] == ["    ValueError: wrong", f"    {STAMP} [info] all is well\\r\\x1b[2J"]
    assert all(line.startswith("    ") for line in rest)


def test_a_group_of_exceptions() -> None:
    log = start()
    group = ExceptionGroup("two failed", [failure("one"), failure("other")])
    get_logger("x").error("failed", exc_info=group)
    (line,) = log.lines()
    assert line["exception"]["type"] == "ExceptionGroup"
    assert "ValueError: one\n" in line["exception"]["traceback"]
    assert "ValueError: other\n" in line["exception"]["traceback"]


# Text from the network


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_in_json(text: str) -> None:
    log = start()
    get_logger("x").info(text, field=text, nested=[{"a": (text,)}], other=HasText(text))
    access_line(**ACCESS | {"path": text, "peer": text})
    raw = log.take()
    assert raw.count("\n") == 2
    assert raw.replace("\n", "").isprintable()
    logged, access = (json.loads(line) for line in raw.splitlines())
    shown = text.replace("\ud800", "\\ud800")
    assert (logged["event"], logged["field"], logged["nested"]) == (shown, shown, [{"a": [shown]}])
    assert (access["path"], access["peer"]) == (shown, shown)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_on_the_console(text: str) -> None:
    log = start("console")
    get_logger("x").info(text, field=text, nested=[{"a": (text,)}], other=HasText(text))
    access_line(**ACCESS | {"path": text, "peer": text})
    raw = log.take()
    assert raw.count("\n") == 2
    assert raw.replace("\n", "").isprintable()
    assert f"field={text if text.isalnum() else repr(text)} " in raw


@attrs.frozen
class HasText:
    text: str


@pytest.mark.parametrize("form", ["json", "console"])
@given(event=st.text(), value=st.text() | st.binary() | st.floats() | st.integers() | st.lists(st.text()))
def test_whatever_is_logged_is_one_printable_line(form: str, event: str, value: object) -> None:
    log = start(form)
    get_logger("x").info(event, value=value)
    raw = log.take()
    assert raw.endswith("\n")
    assert raw[:-1].isprintable()
    assert dropped_lines() == 0
    if form == "json" and event.isprintable():
        assert json.loads(raw)["event"] == event


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@attrs.frozen
class Account:
    name: str
    password: str = attrs.field(repr=False)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Path("/a"), "PosixPath('/a')"),
        (b"\x00a", "b'\\x00a'"),
        (2**80, str(2**80)),
        (float("nan"), None),
        ({1: 2}, {"1": 2}),
        (ValueError("wrong"), "wrong"),
        (Account("ann", "secret"), "Account(name='ann')"),
        (Unprintable(), "<Unprintable that cannot be shown: RuntimeError>"),
    ],
)
def test_values_of_any_type(value: object, written: object) -> None:
    log = start()
    get_logger("x").info("hello", value=value)
    assert log.lines()[0]["value"] == written
    log = start("console")
    get_logger("x").info("hello", value=value)
    assert "secret" not in log.take()


# Streams that cannot be written to


def closed() -> TextIO:
    stream = io.StringIO()
    stream.close()
    return stream


def broken() -> TextIO:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def full() -> TextIO:
    return Path("/dev/full").open("w")


@pytest.mark.parametrize("make", [closed, broken, full])
@pytest.mark.parametrize("form", ["auto", "console", "json"])
def test_lines_that_cannot_be_written_are_dropped_and_counted(make: Callable[[], TextIO], form: str) -> None:
    stream = make()
    configure("info", form, stream)
    get_logger("x").info("one")
    access_line(**ACCESS)
    stdlib_logging.getLogger("library").error("three")
    assert dropped_lines() == 3
    with contextlib.suppress(OSError):
        stream.close()


def test_without_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    configure()
    get_logger("x").info("one")
    assert dropped_lines() == 1


def test_a_terminal_that_does_not_know_all_characters() -> None:
    raw = io.BytesIO()
    configure("info", "console", io.TextIOWrapper(raw, "ascii"))
    get_logger("x").info("größe")
    assert b"gr\\xf6\\xdfe" in raw.getvalue()
    assert dropped_lines() == 0


def test_a_value_that_contains_itself_costs_its_line_only() -> None:
    log, endless = start(), list[Any]()
    endless.append(endless)
    get_logger("x").info("one", value=endless)
    get_logger("x").info("two")
    assert [line["event"] for line in log.lines()] == ["two"]
    assert dropped_lines() == 1


# Faults that repeat


def test_a_fault_that_repeats_is_told_once_per_interval() -> None:
    repeats = Repeats(interval=60)
    assert repeats.due("disk full", now=0) == 0
    assert [repeats.due("disk full", now) for now in (0, 1, 59.9)] == [None, None, None]
    assert repeats.due("another", now=59.9) == 0
    assert repeats.due("disk full", now=60) == 3
    assert repeats.due("disk full", now=61) is None
    assert repeats.due("disk full", now=1000) == 1


class RepeatsMachine(RuleBasedStateMachine):
    """`Repeats` beside the plain list of all that happened."""

    def __init__(self) -> None:
        super().__init__()
        self.repeats = Repeats(interval=10, max_keys=3)
        self.now = 0.0
        self.told: dict[str, float] = {}
        self.held: dict[str, int] = {}

    @rule(key=st.sampled_from("abcde"))
    def happens(self, key: str) -> None:
        answer = self.repeats.due(key, self.now)
        if key in self.told and self.now - self.told[key] < 10:
            assert answer is None
            self.held[key] += 1
            return
        assert answer == self.held.get(key, 0)
        self.told.pop(key, None)
        self.told[key], self.held[key] = self.now, 0
        if len(self.told) > 3:
            oldest = min(self.told, key=lambda known: self.told[known])
            del self.told[oldest], self.held[oldest]

    @rule(seconds=st.sampled_from([1.0, 9.0, 10.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def is_bounded(self) -> None:
        assert len(self.repeats._seen) <= 3


TestRepeats = RepeatsMachine.TestCase
