"""Settings for people to read: the effective ones with their origins, and the documentation."""

from __future__ import annotations

import re
import textwrap

from fawa.config.kinds import Switch
from fawa.config.loading import Loaded
from fawa.config.settings import TABLE

_PLAIN = re.compile(r"[A-Za-z0-9/.][A-Za-z0-9/._,+-]*(:[A-Za-z0-9/._,+-]+)*")


def render(loaded: Loaded, *, as_json: bool = False) -> str:
    """Write the effective settings and where each comes from; secrets are masked.

    The plain form is a configuration file that gives the same settings (but for the secrets). JSON is one
    object: by key, an object of `value` (as it would be written in the file) and `origin`.
    """
    import json  # noqa: PLC0415  (keeps the start fast)

    values = {key: row.show(loaded.settings) for key, row in TABLE.items()}
    if as_json:
        rows = {key: {"value": value, "origin": loaded.origin[key]} for key, value in values.items()}
        return json.dumps(rows, indent=2)
    lines = [f"{key}: {_scalar(value)}" for key, value in values.items()]
    width = max(len(line) for line in lines if len(line) < 60)
    return "\n".join(
        f"{line:<{width}}  # {_printable(origin)}"
        for line, origin in zip(lines, (loaded.origin[key] for key in values), strict=True)
    )


def _scalar(text: str) -> str:
    """Write a YAML scalar; in double quotes (YAML 1.1 section 5.6) unless it is surely plain."""
    if _PLAIN.fullmatch(text):
        return text
    return '"' + _printable(text.replace("\\", r"\\").replace('"', r"\"")) + '"'


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else _escape(ord(c)) for c in text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_INTRODUCTION = """\
A setting is taken from its flag, else from its environment variable, else from the configuration file, else \
it has its default. All are checked at the start; anything unknown is an error.

The configuration file is YAML: the one that --config, FAWA_CONFIG or CONFIG_PATH names (a file, or a folder \
with a config.yaml), else config.yaml in the working folder, else /etc/fawa/config.yaml. Sections may be \
written as such (a line `file:` with `ttl: 25m` indented below it) or with a dot (`file.ttl: 25m`).

Settings marked "live" change in the running daemon when it is sent SIGHUP; the others need a restart.

Files of earlier versions work as they are: certFile, keyFile and logLevel have the meaning of tls.cert, \
tls.key and log.level; addr is the one address to listen on, with TLS when certFile and keyFile are given, \
and turns the other listener off unless the file sets it.

Variables of earlier versions work too: DRAGONFLY_ADDR, MINIO_ACCESS_KEY_ID, MINIO_SECRET_ACCESS_KEY, \
MINIO_BUCKET_NAME, MINIO_PUBLIC_ENDPOINT and MINIO_ENDPOINT. The last two may lack a scheme: then it is \
https:// if MINIO_USE_SSL is true and http:// if not."""


def document() -> str:
    """Write the documentation of every setting, from the table."""
    blocks = [textwrap.fill(part, 100) for part in _INTRODUCTION.split("\n\n")]
    heading = ""
    for row in TABLE.values():
        if row.heading != heading:
            heading = row.heading
            blocks.append(f"{heading}\n{'-' * len(heading)}")
        facts = [f"Allowed: {row.kind.allowed()}."]
        if row.default is not None:
            facts.append(f"Default: {row.default or 'empty'}.")
        value = f"[{row.kind.metavar}]" if isinstance(row.kind, Switch) else row.kind.metavar
        names = ", ".join(filter(None, (f"{row.flag} {value}", row.variable, row.legacy, row.earlier)))
        paragraphs = (row.text, " ".join(facts), names)
        body = "\n".join(textwrap.fill(text, 96, break_on_hyphens=False) for text in paragraphs)
        blocks.append(f"{row.key}{' (live)' if row.live else ''}\n{textwrap.indent(body, '    ')}")
    return "\n\n".join(blocks)
