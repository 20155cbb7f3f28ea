"""The `fawa` command: its command line and exit codes. Imports little, so that `--help` comes at once."""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fawa import __version__, completions
from fawa.client.text import complain, tell_json

OK = 0
FAILED = 1
USAGE = 2
UNREACHABLE = 3
#: 128 + SIGINT, as shells have it.
INTERRUPTED = 130

DEFAULT_SERVER = "http://127.0.0.1:8080"
DIALECTS = ("grpc", "grpc-web", "connect", "connect-json")
TRANSPORTS = ("auto", "webtransport", "websocket")
MODES = ("unary", "server-stream", "client-stream", "bidi")

_DESCRIPTION = "Greet people, send and receive files, draw on whiteboards by way of a fawad server."

_EPILOG = """\
exit codes:
  0    done
  1    failed: the server said no, or a file cannot be read or written; the text says why
  2    the command line is wrong
  3    the server cannot be reached
  130  interrupted (Ctrl-C); run `fawa receive` again to go on with a download

With --json, standard output has one JSON object a line: one for each result, and on failure one with the
members "error" (with "status" and "message") and "exit_code"."""

_WATCHED = """\
With --json the lines are documents of the board's wire protocol: {"snapshot": ...}, {"event": ...},
{"presence": ...}, {"cursors": ...} and {"status": ...}."""

_DRAWN = """\
A line is {"points": [[10, 10], [200, 120]], "color": "#e91e63", "size": 3}, or what `fawa board watch --json`
prints of another board; what that says of people and cursors is passed over."""


def fawa(arguments: Sequence[str] | None = None) -> int:
    """Run the `fawa` command; returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's encoding lacks must not cost the result.
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if options.command == "completions":
            print(completions.script(parser, options.shell))  # noqa: T201
            return OK
        code = _run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has seen enough; without this the interpreter complains at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return _fail(options, INTERRUPTED, "CANCELLED", "interrupted")
    return code


def _run(options: argparse.Namespace) -> int:
    # What follows costs a third of a second of imports.
    import trio  # noqa: PLC0415
    from grpclib.exceptions import GRPCError  # noqa: PLC0415

    from fawa.client import commands  # noqa: PLC0415
    from fawa.client.errors import CannotReach  # noqa: PLC0415
    from fawa.client.part import TransferError  # noqa: PLC0415

    try:
        trio.run(commands.run, options)
    except CannotReach as error:
        return _fail(options, UNREACHABLE, error.status.name, str(error.message))
    except GRPCError as error:
        return _fail(options, FAILED, error.status.name, error.message or "the server does not say why")
    except commands.UsageError as error:
        return _fail(options, USAGE, "", str(error))
    except TransferError as error:
        return _fail(options, FAILED, "", str(error))
    return OK


def _fail(options: argparse.Namespace, code: int, status: str, message: str) -> int:
    """Say what went wrong; returns `code`."""
    if options.json:
        tell_json({"error": {"status": status, "message": message}, "exit_code": code})
    complain(message if status in ("", "UNAVAILABLE", "CANCELLED") else f"{status}: {message}")
    return code


def _parser() -> argparse.ArgumentParser:
    common = _common()
    group = common.add_argument_group("how to speak")
    group.add_argument("--dialect", choices=DIALECTS, default="grpc", help="default: grpc")
    group.add_argument(
        "--http3", action="store_true", help="speak HTTP/3 (QUIC, over UDP); downloads come over TCP as ever"
    )

    parser = argparse.ArgumentParser(
        prog="fawa",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fawa {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, text: str) -> Any:
        return commands.add_parser(name, parents=[common], help=text, description=text)

    greet = add("greet", "Have names greeted, in any of the four kinds of call.")
    greet.add_argument("names", metavar="NAME", nargs="+", type=_text)
    greet.add_argument("--mode", choices=MODES, default="unary", help="kind of call (default: unary)")

    send = add("send", "Send files and folders; print the key and a link for each.")
    send.add_argument("files", metavar="FILE", nargs="+", help="file or folder to send, - is standard input")
    send.add_argument("--name", type=_text, help="name to send under; needed with -")
    send.add_argument(
        "--encrypt",
        action="store_true",
        help="seal it, name and all, for those who get the link: not for the server",
    )

    send.add_argument(
        "--ttl",
        metavar="TIME",
        type=_duration,
        default=0,
        help="how long it is kept, such as 90s, 10m, 2h or 1d; the server has bounds (default: the server's)",
    )
    downloads = send.add_mutually_exclusive_group()
    downloads.add_argument(
        "--max-downloads",
        metavar="N",
        type=_count,
        default=0,
        help="remove it after so many (default: never)",
    )
    downloads.add_argument("--once", action="store_true", help="remove it after the first download")
    first_line = "file whose first line is the password"
    send.add_argument("--password-file", metavar="FILE", type=Path, help=f"{first_line} that it is to have")

    receive = add("receive", "Receive a file; an interrupted download goes on where it was.")
    receive.add_argument(
        "key", metavar="KEY", type=_text, help="the file's key, or the link of one that was sent encrypted"
    )
    receive.add_argument("-o", "--output", metavar="PATH", type=Path, help="file or folder to save in")
    receive.add_argument("--force", action="store_true", help="replace what is already there")
    receive.add_argument("--as-is", action="store_true", help="keep a folder as the archive that it came as")

    receive.add_argument("--password-file", metavar="FILE", type=Path, help=f"{first_line} that it has")

    link = add("link", "Print a link to a file, for whoever has no fawa; it is valid for a few minutes.")
    link.add_argument("key", metavar="KEY", type=_text)
    link.add_argument("--password-file", metavar="FILE", type=Path, help=f"{first_line} that it has")

    delete = add("delete", "Delete a file before its time, for who has sent it.")
    delete.add_argument("key", metavar="KEY", type=_text)
    delete.add_argument("token", metavar="TOKEN", type=_text, help="the token that send has printed")

    text = "Create, watch, draw on and export whiteboards."
    board = commands.add_parser("board", help=text, description=text)
    _add_board(board.add_subparsers(dest="action", metavar="ACTION", required=True))

    text = "Print what a shell needs to complete these words: source it, or put it where the shell looks."
    shells = commands.add_parser("completions", help=text, description=text)
    shells.add_argument("shell", choices=completions.SHELLS)
    return parser


def _common() -> argparse.ArgumentParser:
    """Return the options that all commands have."""
    common = argparse.ArgumentParser(add_help=False)
    server = os.environ.get("FAWA_SERVER") or DEFAULT_SERVER
    group = common.add_argument_group("common options")
    group.add_argument(
        "--server", metavar="URL", default=server, help=f"default: $FAWA_SERVER, else {DEFAULT_SERVER}"
    )
    group.add_argument("--ca", metavar="FILE", type=Path, help="trust the certificates in this PEM file")
    group.add_argument("--insecure", action="store_true", help="accept any certificate")
    group.add_argument(
        "--timeout", metavar="SECONDS", type=_seconds, default=math.inf, help="give up after (default: never)"
    )
    group.add_argument("--json", action="store_true", help="print results and errors as JSON, one a line")
    return common


def _add_board(actions: Any) -> None:
    """Add what `fawa board` does."""

    def add(name: str, text: str, more: str = "") -> Any:
        action = actions.add_parser(
            name,
            parents=[_common()],
            help=text,
            description=text,
            epilog=more,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name != "create":
            action.add_argument("code", metavar="CODE", type=_text)
            action.add_argument("--name", type=_text, default="", help="how others on the board see you")
            action.add_argument(
                "--transport",
                choices=TRANSPORTS,
                default="auto",
                help="default: auto, which is WebTransport where it can be had, else WebSocket",
            )
        return action

    add("create", "Create a board; print its code.")
    add("watch", "Print what happens on a board, one thing a line, until interrupted.", _WATCHED)
    add("draw", "Draw what standard input says, one JSON object a line.", _DRAWN)
    export = add("export", "Write a board as it is now, as SVG.")
    export.add_argument("-o", "--output", metavar="FILE", type=Path, help="default: standard output")


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _duration(value: str) -> int:
    if not (value[:-1].isascii() and value[:-1].isdigit() and value[-1] in _UNITS and int(value[:-1])):
        raise argparse.ArgumentTypeError(f"{value!r} is no time such as 90s, 10m, 2h or 1d")
    return int(value[:-1]) * _UNITS[value[-1]]


def _count(value: str) -> int:
    if not (value.isascii() and value.isdigit() and 0 < int(value) < 2**31):
        raise argparse.ArgumentTypeError(f"{value!r} is no whole number above 0")
    return int(value)


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{value!r} is not a number of seconds above 0")
    return seconds


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{value!r} is not valid UTF-8") from None
    return value


if __name__ == "__main__":
    sys.exit(fawa())
