"""What flags, environment and file say: text by key, each with its origin. No value is looked at here."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import attrs

from fawa.config.kinds import Origins, Several, Switch, WebAddress
from fawa.config.settings import SECTIONS, TABLE

#: Names for the file itself: ours, and the one that earlier deployments use.
FILE_FLAG = "--config"
FILE_VARIABLES = ("FAWA_CONFIG", "CONFIG_PATH")

#: What the `fawa` command reads; it may be set where the daemon runs too.
CLIENT_VARIABLES = ("FAWA_SERVER",)

#: Says whether the addresses of earlier deployments are to be reached with TLS.
USE_SSL = "MINIO_USE_SSL"

#: The file key of earlier deployments for their one listener.
ADDR = "addr"

# Kubernetes gives every container such variables for each service of its namespace: with a service named
# `fawa` or `fawa-…` they begin as ours do.
_KUBERNETES = re.compile(
    r"FAWA_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_KUBERNETES_LINK = re.compile(r"(tcp|udp|sctp)://.*")


@attrs.frozen
class Given:
    """What a source says about one key."""

    text: str
    #: Such as "flag --listen", "environment FAWA_LISTEN", "file /etc/fawa/config.yaml" or "default".
    origin: str


@attrs.define
class Source:
    """What one source says: settings by key, and what is wrong with it."""

    given: dict[str, Given] = attrs.field(factory=dict)
    problems: list[str] = attrs.field(factory=list)


def nearest(name: str, names: Iterable[str], prefix: str = "") -> str:
    """Return advice for an unknown name: the name that is likely meant, or where all are listed.

    The prefix is what all names have in common, and so makes none nearer.
    """
    from difflib import get_close_matches  # noqa: PLC0415  (only when something is wrong)

    ends = [known.removeprefix(prefix) for known in names]
    if close := get_close_matches(name.removeprefix(prefix), ends, n=1):
        return f"did you mean {prefix}{close[0]}?"
    return "`fawad config --help` lists all"


# Flags


class _FlagError(Exception):
    """The flags cannot be read; the text says why."""


class _FlagParser(argparse.ArgumentParser):
    """Raises instead of exiting."""

    def error(self, message: str) -> NoReturn:
        raise _FlagError(message)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each setting, and `--config`; values arrive as text under the setting's key."""
    general = parser.add_argument_group("Configuration file")
    general.add_argument(
        FILE_FLAG,
        metavar="PATH",
        default=argparse.SUPPRESS,
        help="configuration file, or the folder of a config.yaml [., then /etc/fawa]",
    )
    groups: dict[str, Any] = {}
    for row in TABLE.values():
        group = groups.get(row.heading) or groups.setdefault(
            row.heading, parser.add_argument_group(row.heading)
        )
        text = row.text if not row.default else f"{row.text} [{row.default}]"
        value: dict[str, Any] = {"nargs": "?", "const": "on"} if isinstance(row.kind, Switch) else {}
        group.add_argument(
            row.flag,
            dest=row.key,
            metavar=row.kind.metavar,
            default=argparse.SUPPRESS,
            help=text.replace("%", "%%"),
            **value,
        )


def read_flags(argv: Sequence[str]) -> tuple[Source, str | None]:
    """Read the settings' flags, the last of equal ones; also return what `--config` says."""
    source = Source()
    parser = _FlagParser(add_help=False, allow_abbrev=False)
    add_arguments(parser)
    try:
        namespace, rest = parser.parse_known_args(argv)
    except _FlagError as error:
        source.problems.append(f"flags: {error}")
        return source, None
    values: dict[str, str] = vars(namespace)
    file = values.pop("config", None)
    for key, text in values.items():
        source.given[key] = Given(text, f"flag {TABLE[key].flag}")
    names = [FILE_FLAG, *(row.flag for row in TABLE.values())]
    after_unknown = False
    for word in rest:
        if word.startswith("-") and word != "-":
            name = word.partition("=")[0]
            advice = nearest(name, names, "--")
            source.problems.append(f"{name} (flag) is unknown; {advice}")
            after_unknown = "=" not in word
        else:
            # The first word after an unknown flag is most likely its value, and may be a secret.
            if not after_unknown:
                source.problems.append(f"{word!r} (argument) is not expected; values follow a flag")
            after_unknown = False
    return source, file


# Environment


def read_environment(environ: Mapping[str, str]) -> tuple[Source, Given | None]:
    """Read the settings' variables; also return what says where the file is."""
    source = Source()
    keys = {row.variable: key for key, row in TABLE.items()}
    for name, text in environ.items():
        if name in keys:
            source.given[keys[name]] = Given(text, f"environment {name}")
        elif (
            name.startswith("FAWA_")
            and name not in FILE_VARIABLES + CLIENT_VARIABLES
            and not _from_kubernetes(name, text)
        ):
            advice = nearest(name, [*keys, FILE_VARIABLES[0]], "FAWA_")
            source.problems.append(f"{name} (environment) is unknown; {advice}")
    _read_earlier(environ, source)
    places = [Given(environ[name], f"environment {name}") for name in FILE_VARIABLES if environ.get(name)]
    if len(places) > 1:
        source.problems.append(f"{' and '.join(FILE_VARIABLES)} (environment) mean the same; set one")
    return source, places[0] if places else None


def _read_earlier(environ: Mapping[str, str], source: Source) -> None:
    """Read the variables of earlier deployments; empty ones count as not given."""
    scheme = ""
    if use_ssl := environ.get(USE_SSL):
        try:
            scheme = "https" if Switch().parse(use_ssl.strip()) else "http"
        except ValueError as error:
            source.problems.append(
                f"{USE_SSL}: {use_ssl!r} (environment) {error}; allowed: {Switch().allowed()}"
            )
    for key, row in TABLE.items():
        text = environ.get(row.earlier, "").strip() if row.earlier else ""
        if not text:
            continue
        if key in source.given:
            source.problems.append(f"{row.variable} and {row.earlier} (environment) mean the same; set one")
        if isinstance(row.kind, WebAddress) and "://" not in text:
            text = f"{scheme or 'http'}://{text}"
        elif key == "s3.endpoint" and scheme and not text.startswith(f"{scheme}://"):
            source.problems.append(
                f"{row.earlier} and {USE_SSL} (environment) contradict each other; unset the second"
            )
        source.given[key] = Given(text, f"environment {row.earlier}")
    if use_ssl and not environ.get(TABLE["s3.endpoint"].earlier):
        source.problems.append(
            f"{USE_SSL} (environment) belongs to {TABLE['s3.endpoint'].earlier}, which is not set; "
            "unset it, or set both"
        )


def _from_kubernetes(name: str, text: str) -> bool:
    return bool(_KUBERNETES.fullmatch(name)) or (
        name.endswith("_PORT") and bool(_KUBERNETES_LINK.fullmatch(text))
    )


# File


def read_yaml(text: str, origin: str) -> Source:
    """Read the file's text: keys in sections (`file: {ttl: 25m}`) or with dots (`file.ttl: 25m`).

    A key without a value counts as not given.
    """
    import yaml  # noqa: PLC0415  (keeps the start fast)

    source = Source()
    try:
        document = yaml.load(text, _loader(yaml))  # noqa: S506  (a SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        what = getattr(error, "problem", None) or str(error).partition("\n")[0]
        source.problems.append(f"{origin}:{place} {what}")
        return source
    if document is None:
        return source
    if not isinstance(document, dict):
        source.problems.append(f"{origin}: holds no keys; write one `key: value` on each line")
        return source
    keys = {row.legacy: key for key, row in TABLE.items() if row.legacy} | {key: key for key in TABLE}
    legacy: dict[str, Given] = {}
    for name, value in _flatten(document, origin, source.problems):
        if name != ADDR and name not in keys:
            advice = nearest(name, [*keys, ADDR, *SECTIONS])
            source.problems.append(f"{name} ({origin}) is an unknown key; {advice}")
        elif (text_of := _as_text(name, value, origin, source.problems)) is None:
            continue
        elif name == ADDR:
            legacy[name] = Given(text_of, f"{origin}, key {name}")
        else:
            key = keys[name]
            if key in source.given:
                source.problems.append(f"{key} ({origin}) is given twice{_also_called(key)}")
            source.given[key] = Given(text_of, origin if name == key else f"{origin}, key {name}")
    if ADDR in legacy:
        _map_addr(legacy[ADDR], origin, source)
    return source


def _also_called(key: str) -> str:
    return f"; {TABLE[key].legacy} means the same" if TABLE[key].legacy else ""


def _map_addr(addr: Given, origin: str, source: Source) -> None:
    """Give `addr` its meaning: the one listener of earlier deployments, TLS when there is a certificate."""
    target, other = "listen", "listen_tls"
    if "tls.cert" in source.given and "tls.key" in source.given:
        target, other = other, target
    if target in source.given:
        source.problems.append(f"{ADDR} and {target} ({origin}) mean the same here; keep {target}")
        return
    source.given[target] = addr
    source.given.setdefault(other, Given("off", addr.origin))


def _flatten(document: dict[Any, Any], origin: str, problems: list[str]) -> Iterable[tuple[str, Any]]:
    for name, value in document.items():
        if str(name) not in SECTIONS:
            yield str(name), value
        elif isinstance(value, dict):
            for inner, inner_value in value.items():
                yield f"{name}.{inner}", inner_value
        elif value is not None:
            problems.append(f"{name} ({origin}) is a section; write its keys below it")


def _as_text(name: str, value: Any, origin: str, problems: list[str]) -> str | None:
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        if name in TABLE and isinstance(TABLE[name].kind, (Several, Origins)):
            return ",".join(value)
        problems.append(f"{name} ({origin}) takes one value, not a list")
    elif isinstance(value, (dict, list)):
        problems.append(f"{name} ({origin}) takes a value, not keys below it")
    elif value is not None:
        return str(value)
    return None


def _loader(yaml: Any) -> Any:
    """Make a YAML loader that leaves every value as the text it is, and refuses a key given twice.

    With YAML's own rules, `off` would be a truth value, `12:30` a number in base 60 and the second of two
    equal keys would win in silence.
    """

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        yaml_implicit_resolvers = {  # noqa: RUF012  (the name is the library's)
            first: [(tag, pattern) for tag, pattern in resolvers if tag == "tag:yaml.org,2002:null"]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[str] = set()
            for key, _ in node.value:
                if not isinstance(key.value, str):
                    continue  # refused below
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value} is given twice", key.start_mark
                    )
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    return Loader
