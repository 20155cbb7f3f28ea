"""Settings from their sources: flag over environment over file over default, validated all at once."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from fawa.config.kinds import MASK, Address, UnixAddress
from fawa.config.settings import TABLE, Settings, build
from fawa.config.sources import FILE_FLAG, Given, Source, read_environment, read_flags, read_yaml
from fawa.storage.redis_url import RedisAddress

FILE_NAME = "config.yaml"
SYSTEM_FOLDER = Path("/etc/fawa")


class ConfigError(Exception):
    """The settings cannot be used. The text has one line for each problem, as has `problems`."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@attrs.frozen
class Loaded:
    """Valid settings and where each comes from."""

    settings: Settings
    #: By key: such as "flag --listen", "environment FAWA_LISTEN", "file /etc/fawa/config.yaml", "default".
    origin: Mapping[str, str]
    #: The configuration file, if there is one.
    file: Path | None


def read_text(path: Path) -> str:
    """Return a configuration file's text.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is not UTF-8.

    """
    return path.read_text(encoding="utf-8")


def load(
    argv: Sequence[str],
    environ: Mapping[str, str],
    cwd: Path,
    *,
    root: bool | None = None,
    read: Callable[[Path], str] = read_text,
    system: Path = SYSTEM_FOLDER,
) -> Loaded:
    """Return the settings that flags, environment and file give.

    `argv` has the settings' flags and nothing else. `root` says whether to choose the defaults of the
    superuser (`None`: as the process runs), `read` reads the file, `system` is the folder where it is looked
    for after `cwd`.

    Raises:
        ConfigError: something is unknown, not allowed or does not fit together; it names all of it.

    """
    flags, file_flag = read_flags(argv)
    environment, file_variable = read_environment(environ)
    chosen = file_variable if file_flag is None else Given(file_flag, f"flag {FILE_FLAG}")
    path, file = _read_file(chosen, cwd, system, read)
    problems = [*flags.problems, *environment.problems, *file.problems]

    effective = _defaults(environ, os.geteuid() == 0 if root is None else root)
    for source in (file, environment, flags):
        effective.update(source.given)
    values: dict[str, Any] = {}
    for key, given in effective.items():
        try:
            values[key] = _resolved(TABLE[key].kind.parse(given.text.strip()), environ, cwd)
        except ValueError as error:
            allowed = TABLE[key].kind.allowed()
            problems.append(f"{_told(key, given)} {error}; allowed: {allowed}")
    problems += _misfits(values, effective)
    if "data_dir" not in effective:
        problems.append("data_dir (default): there is no HOME in the environment to find it; set data_dir")
    if problems:
        raise ConfigError(problems)
    origin = {key: effective[key].origin for key in TABLE}
    return Loaded(build(values), origin, path)


def _defaults(environ: Mapping[str, str], root: bool) -> dict[str, Given]:
    texts = {key: row.default for key, row in TABLE.items()}
    data, home = environ.get("XDG_DATA_HOME", ""), environ.get("HOME", "")
    if root:
        texts["data_dir"] = "/var/lib/fawa"
    elif data.startswith("/"):  # a relative one is to be ignored (XDG Base Directory Specification)
        texts["data_dir"] = f"{data}/fawa"
    elif home:
        texts["data_dir"] = f"{home}/.local/share/fawa"
    return {key: Given(text, "default") for key, text in texts.items() if text is not None}


def _resolved(value: Any, environ: Mapping[str, str], cwd: Path) -> Any:
    """Make a path absolute; other values stay as they are."""
    if not isinstance(value, Path):
        return value
    first, *rest = value.parts or (".",)
    if first == "~":
        if not environ.get("HOME"):
            raise ValueError("begins with ~, but there is no HOME in the environment")
        return cwd.joinpath(environ["HOME"], *rest)
    return cwd / value


def _told(key: str, given: Given) -> str:
    """Write a setting for an error: key, value (masked where it is secret), origin."""
    text = given.text if len(given.text) <= 200 else f"{given.text[:200]}…"
    text = repr(MASK if TABLE[key].kind.secret and text else re.sub(r"//[^/@]*@", f"//{MASK}@", text))
    return f"{key}: {text} ({given.origin})"


# The file


def _read_file(
    chosen: Given | None, cwd: Path, system: Path, read: Callable[[Path], str]
) -> tuple[Path | None, Source]:
    """Read the file that was chosen, or else the first that is there."""
    if chosen is not None:
        if not chosen.text:
            return None, Source(problems=[f"{chosen.origin} is empty; name a file or a folder"])
        candidates = [cwd / chosen.text]
    else:
        candidates = [cwd / FILE_NAME, system / FILE_NAME]
    for path in candidates:
        try:
            try:
                text = read(path)
            except IsADirectoryError:
                path = path / FILE_NAME  # noqa: PLW2901
                text = read(path)
        except (FileNotFoundError, NotADirectoryError):
            if chosen is not None:
                return None, Source(problems=[f"{path} ({chosen.origin}) does not exist"])
        except OSError as error:
            return None, Source(problems=[f"file {path} cannot be read: {error.strerror}"])
        except UnicodeDecodeError as error:
            return None, Source(problems=[f"file {path} is not UTF-8 text (byte {error.start})"])
        else:
            return path, read_yaml(text, f"file {path}")
    return None, Source()


# What must fit together


def _misfits(values: Mapping[str, Any], effective: Mapping[str, Given]) -> Iterator[str]:
    """Tell which settings do not fit together; those that are wrong by themselves are left out."""
    for keys, reason_of, allowed in _RULES:
        if all(key in values for key in keys) and (reason := reason_of(*(values[key] for key in keys))):
            told = " and ".join(_told(key, effective[key]) for key in keys)
            yield f"{told} {reason}; allowed: {allowed}"


def _nothing_to_listen_on(plain: Address | None, tls: Address | None) -> str | None:
    return "leave nothing to listen on" if plain is None and tls is None else None


def _same_port(plain: Address | None, tls: Address | None) -> str | None:
    if plain is None or tls is None or plain.port != tls.port or plain.port == 0:
        return None
    for one, other in ((plain.host, tls.host), (tls.host, plain.host)):
        if one in ("", other) or (one == "0.0.0.0" and ":" not in other) or (one == "::" and ":" in other):
            return "would listen on the same port"
    return None


def _half_a_pair(cert: Path | None, key: Path | None) -> str | None:
    return "are half a pair" if (cert is None) != (key is None) else None


def _unusable_pair(cert: Path | None, key: Path | None) -> str | None:
    if cert is None or key is None:
        return None
    from fawa.net.tls import TlsError, server_context  # noqa: PLC0415  (keeps the start fast)

    try:
        server_context(cert, key)
    except TlsError as error:
        return f"cannot be used: {error}"
    return None


def _stream_above_connection(stream: int, connection: int) -> str | None:
    return "let one stream have more than its connection" if stream > connection else None


def _admin_in_the_open(listen: Address | UnixAddress | None, token: str | None) -> str | None:
    if token is not None or listen is None or isinstance(listen, UnixAddress):
        return None
    is_local = listen.host in ("localhost", "::1") or listen.host.startswith("127.")
    return None if is_local else "would let everybody see and change what only operators may"


def _same_port_as_admin(
    plain: Address | None, tls: Address | None, admin: Address | UnixAddress | None
) -> str | None:
    if isinstance(admin, UnixAddress):
        return None
    return _same_port(plain, admin) or _same_port(tls, admin)


def _ca_without_tls(redis: RedisAddress | None, ca: Path | None) -> str | None:
    if ca is None or (redis is not None and redis.tls):
        return None
    return "trust somebody with a connection that has no TLS"


def _half_of_s3(endpoint: str, bucket: str, access_key: str, secret_key: str | None) -> str | None:
    given = [bool(value) for value in (endpoint, bucket, access_key, secret_key)]
    return "are not all that S3 takes" if any(given) and not all(given) else None


def _endpoint_with_path(endpoint: str) -> str | None:
    return "has a path" if endpoint.count("/") > 2 else None


def _public_alone(endpoint: str, public: str) -> str | None:
    return "lack the service itself" if public and not endpoint else None


#: Keys, what finds fault with their values, and what is allowed.
_RULES: tuple[tuple[tuple[str, ...], Callable[..., str | None], str], ...] = (
    (("listen", "listen_tls"), _nothing_to_listen_on, "an address for at least one of them"),
    (("listen", "listen_tls"), _same_port, "different ports, or port 0"),
    (("tls.cert", "tls.key"), _half_a_pair, "both or neither"),
    (("tls.cert", "tls.key"), _unusable_pair, "a PEM certificate and its unencrypted PEM key"),
    (
        ("admin.listen", "admin.token"),
        _admin_in_the_open,
        "an address of this machine, a Unix socket, a token",
    ),
    (("listen", "listen_tls", "admin.listen"), _same_port_as_admin, "different ports, or port 0"),
    (("redis.url", "redis.ca"), _ca_without_tls, "redis.ca only with a redis.url that begins with rediss"),
    (
        ("s3.endpoint", "s3.bucket", "s3.access_key", "s3.secret_key"),
        _half_of_s3,
        "all four of them, or none to keep files in data_dir",
    ),
    (("s3.endpoint",), _endpoint_with_path, "scheme, host and port; a bucket has a setting of its own"),
    (("s3.endpoint", "s3.public_endpoint"), _public_alone, "s3.public_endpoint only with s3.endpoint"),
    (("window.stream", "window.connection"), _stream_above_connection, "at most window.connection"),
)
