"""The `fawad` command. Imports little, so that `--help` and configuration errors come at once."""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fawa import __version__
from fawa.config import ConfigError, Loaded, add_arguments, document, load, render

_USAGE = 2
_FAILED = 1

_DESCRIPTION = """\
Serve greetings, file transfer and everything else fawa has, on one plain and one TLS port.

commands:
  fawad                 run the daemon (the default)
  fawad config          print the settings in force and where each comes from (--json for programs)
  fawad config --help   document every setting: flag, environment variable, file key
  fawad check-config    say whether the settings are valid
  fawad doctor          say what is wrong with the set-up, and what to do (--help tells more)
  fawad completions SHELL
                        print what bash, zsh or tcsh needs to complete these words

SIGTERM and SIGINT finish what is under way and stop; a second one stops at once; SIGHUP reads the
configuration and certificates again."""


def fawad() -> int:
    """Run the `fawad` command; returns its exit code (0 fine, 1 cannot run, 2 wrong settings)."""
    argv = sys.argv[1:]
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        "config": _config,
        "check-config": _check,
        "doctor": _doctor,
        "completions": _completions,
    }
    try:
        if argv and argv[0] in commands:
            return commands[argv[0]](argv[1:])
        return _run(argv)
    except ConfigError as error:
        for problem in error.problems:
            print(f"fawad: {problem}", file=sys.stderr)
        return _USAGE


def _load(argv: Sequence[str]) -> Loaded:
    return load(argv, os.environ, Path.cwd())


def _config(argv: Sequence[str]) -> int:
    if "-h" in argv or "--help" in argv:
        print(document())
        return 0
    as_json = "--json" in argv
    print(render(_load([word for word in argv if word != "--json"]), as_json=as_json))
    return 0


def _check(argv: Sequence[str]) -> int:
    loaded = _load(argv)
    print(f"The settings are valid ({loaded.file or 'no file'}).")
    return 0


_DOCTOR = """\
Say what is wrong with the set-up, and what to do about each fault: the data folder and its disk, limits
of the system, the certificate, the running daemon, and what clients do by the public name (fetch a file
by its link, open a WebTransport session over UDP).

It reads the settings that fawad reads: give it the same flags, environment and file, as the user that
fawad runs as, while fawad runs. It sends one file of one byte and makes one board, which expire as others
do.

exit codes: 0 nothing found, 1 a fault found, 2 the command line is wrong"""


def _doctor(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="fawad doctor",
        usage="%(prog)s [--json] [--ca FILE] [--patience SECONDS] [SETTING]...",
        description=_DOCTOR,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="root certificates (PEM) in place of the system's"
    )
    parser.add_argument(
        "--patience", type=_seconds, default=5.0, metavar="SECONDS", help="for each answer [%(default)g]"
    )
    options, flags = parser.parse_known_args(argv)

    from fawa.client.dial import Trust
    from fawa.ops.doctor import report
    from fawa.ops.doctor.findings import Case, Examined, Finding

    try:
        Trust(options.ca).context("h2")
    except ValueError as error:
        parser.error(f"--ca: {error}")
    try:
        settings = _load(flags).settings
    except ConfigError as error:
        faults = (
            Finding(problem, "Set it right: fawad does not start with it") for problem in error.problems
        )
        examined = [Examined("settings", tuple(faults))]
    else:
        import trio

        from fawa.ops.doctor.examination import examine
        from fawa.ops.logging import configure
        from fawa.wiring import probes

        configure(stream=io.StringIO())  # what is wrong stands in the report
        case = Case(settings, options.ca, time.time, options.patience, probes(settings, time.time))
        examined = [Examined("settings"), *trio.run(examine, case)]
    print(report.as_json(examined) if options.json else report.as_text(examined))
    return 0 if report.is_healthy(examined) else _FAILED


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 3600:
        raise argparse.ArgumentTypeError(f"{value!r} is not a number of seconds above 0 and below 3600")
    return seconds


def _completions(argv: Sequence[str]) -> int:
    from fawa import completions

    own = argparse.ArgumentParser(
        prog="fawad completions", description="Print a script for a shell to source."
    )
    own.add_argument("shell", choices=completions.SHELLS)
    shell = own.parse_args(argv).shell
    parser = argparse.ArgumentParser(prog="fawad")
    parser.add_argument("command", nargs="?", choices=("config", "check-config", "completions", "doctor"))
    add_arguments(parser)
    print(completions.script(parser, shell))
    return 0


def _run(argv: Sequence[str]) -> int:
    if "-h" in argv or "--help" in argv or "--version" in argv:
        parser = argparse.ArgumentParser(
            prog="fawad", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument("--version", action="version", version=f"fawad {__version__}")
        add_arguments(parser)
        parser.parse_args(argv)
    loaded = _load(argv)

    # What follows costs half a second of imports.
    import trio

    from fawa.ops.logging import configure
    from fawa.storage.base import StorageError
    from fawa.supervisor import StartError, Supervisor
    from fawa.wiring import make_services

    async def run() -> int:
        services = await make_services(loaded.settings)
        return await Supervisor(loaded, lambda: _load(argv), services).run()

    log = loaded.settings.log
    configure(log.level, log.format, access=log.access)
    try:
        return trio.run(run)
    except* (StartError, StorageError) as group:
        for error in _leaves(group):
            print(f"fawad: {error}", file=sys.stderr)
    except* KeyboardInterrupt:
        pass
    return _FAILED


def _leaves(group: BaseExceptionGroup[Exception]) -> list[BaseException]:
    """Return the exceptions inside nested groups."""
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves


if __name__ == "__main__":
    sys.exit(fawad())
