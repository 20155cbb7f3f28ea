"""Settings: precedence, the file, errors, and what is printed of them."""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from fawa.config import (
    Address,
    ConfigError,
    Loaded,
    Settings,
    add_arguments,
    document,
    live_changes,
    load,
    render,
)
from fawa.config.kinds import Choice, Duration, Integer, Kind, Size, Switch, Text
from fawa.config.settings import TABLE
from fawa.net.tls import development_certificate

SECRET = "correct horse battery staple, and more"
CWD = Path("/a folder")
NO_SYSTEM = Path("/no such folder")


def load_here(
    flags: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    file: str | None = None,
    *,
    root: bool = False,
) -> Loaded:
    """Load with `file` as the text of config.yaml in the working folder."""

    def read(path: Path) -> str:
        if file is None or path != CWD / "config.yaml":
            raise FileNotFoundError
        return file

    environ = {"HOME": "/home/ann"} | dict(environ or {})
    return load(flags, environ, CWD, root=root, read=read, system=NO_SYSTEM)


def problems(
    flags: Sequence[str] = (), environ: Mapping[str, str] | None = None, file: str | None = None
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_here(flags, environ, file)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return list(caught.value.problems)


FILE = f"file {CWD}/config.yaml"


# Precedence


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same certificate and key under three names each."""
    folder = tmp_path_factory.mktemp("tls")
    development_certificate(folder, 1_700_000_000, "")
    for part, number in itertools.product(("cert", "key"), range(3)):
        (folder / f"{part}{number}.pem").write_bytes((folder / f"dev-{part}.pem").read_bytes())
    return folder


def examples(key: str, kind: Kind[Any], pairs: Path) -> list[str]:
    """Return three values for a setting, as they are shown."""
    special = {
        "services": ["greet", "file", "file,greet"],
        "listen": [":1", "off", "[::1]:3"],
        "listen_tls": ["localhost:1", "off", ":3"],
        "public_url": ["https://a.example", "http://b.example/path", ""],
        "data_dir": ["/a", "/b", "/c"],
        "tls.cert": [f"{pairs}/cert{number}.pem" for number in range(3)],
        "tls.key": [f"{pairs}/key{number}.pem" for number in range(3)],
        "link_secret": [SECRET, SECRET[::-1], SECRET * 2],
        "redis.url": ["redis://a:1/2", "rediss+cluster://a,b:2", ""],
        "redis.ca": ["/a", "/b", "/c"],
        "admin.listen": ["127.0.0.1:1", "off", "unix:/run/fawa.sock"],
        "admin.token": [SECRET, SECRET[::-1], SECRET * 2],
        "trusted_proxies": ["10.0.0.0/8", "off", "127.0.0.1/32,fd00::/8"],
        "s3.endpoint": ["http://s3:9000", "https://s3.example", "http://[::1]:9000"],
        "s3.secret_key": [SECRET, SECRET[::-1], SECRET * 2],
        "s3.public_endpoint": ["https://a.example", "http://b.example/path", ""],
        "s3.ca": ["/a.pem", "/b.pem", "/c.pem"],
        "s3.abort_after": ["1m", "1h", "2d"],
        "board.tick": ["1ms", "2ms", "1s"],
        "cors.origins": ["*", "off", "https://a.example,loopback"],
        "window.connection": ["2MiB", "3MiB", "4MiB"],
        "tracing.endpoint": ["http://one:4318", "https://two", "http://three:4318/otlp"],
        "tracing.ratio": ["0.5", "0", "0.001"],
    }
    if key in special:
        return special[key]
    match kind:
        case Duration():
            return ["11s", "12s", "13s"]
        case Integer() | Size():
            return [kind.show(kind.minimum + number) for number in (1, 2, 3)]
        case Switch():
            return ["off", "on", "off"]
        case Choice():
            return list(kind.options[-3:])
        case Text():
            return [f"name-{number}{'/' * key.endswith('prefix')}" for number in (1, 2, 3)]
    raise AssertionError(f"no examples for {key}")


@pytest.mark.parametrize("key", TABLE)
def test_flag_over_environment_over_file_over_default(key: str, pairs: Path) -> None:
    row = TABLE[key]
    flag, variable, line = examples(key, row.kind, pairs)
    s3 = {
        "s3.endpoint": ["--s3-endpoint", "http://s3:9000"],
        "s3.bucket": ["--s3-bucket", "bucket"],
        "s3.access_key": ["--s3-access-key", "access"],
        "s3.secret_key": ["--s3-secret-key", "secret key"],
    }
    other = {part: [word for name in s3 if name != part for word in s3[name]] for part in s3}
    other["redis.ca"] = ["--redis-url", "rediss://a"]
    other["s3.public_endpoint"] = [word for words in s3.values() for word in words]
    other["redis.ca"] = ["--redis-url", "rediss://a"]
    other |= {"tls.cert": ["--tls-key", f"{pairs}/key0.pem"], "tls.key": ["--tls-cert", f"{pairs}/cert0.pem"]}
    default = "/home/ann/.local/share/fawa" if row.default is None else row.default
    for by_flag, by_environment, by_file in itertools.product((True, False), repeat=3):
        loaded = load_here(
            other.get(key, []) * (by_flag or by_environment or by_file) + [row.flag, flag] * by_flag,
            {row.variable: variable} if by_environment else {},
            f"{key}: '{line}'" if by_file else None,
        )
        if by_flag:
            expected = flag, f"flag {row.flag}"
        elif by_environment:
            expected = variable, f"environment {row.variable}"
        elif by_file:
            expected = line, FILE
        else:
            expected = default, "default"
        assert (row.value(loaded.settings), loaded.origin[key]) == (row.kind.parse(expected[0]), expected[1])


def test_defaults_are_those_of_the_classes() -> None:
    loaded = load_here()
    assert loaded.settings == Settings(data_dir=Path("/home/ann/.local/share/fawa"))
    assert set(loaded.origin.values()) == {"default"}
    assert loaded.file is None


def test_every_setting_has_its_own_key_flag_and_variable() -> None:
    assert TABLE["file.link_ttl"].flag == "--file-link-ttl"
    assert TABLE["file.link_ttl"].variable == "FAWA_FILE_LINK_TTL"
    assert len({row.flag for row in TABLE.values()}) == len(TABLE)
    assert len({row.variable for row in TABLE.values()}) == len(TABLE)
    assert all(row.text for row in TABLE.values())


@pytest.mark.parametrize(
    ("environ", "root", "folder"),
    [
        ({}, False, "/home/ann/.local/share/fawa"),
        ({"XDG_DATA_HOME": "/data/ann"}, False, "/data/ann/fawa"),
        ({"XDG_DATA_HOME": "relative"}, False, "/home/ann/.local/share/fawa"),
        ({"XDG_DATA_HOME": "/data/ann"}, True, "/var/lib/fawa"),
        ({"FAWA_DATA_DIR": "~/fawa"}, False, "/home/ann/fawa"),
        ({"FAWA_DATA_DIR": "~"}, True, "/home/ann"),
        ({"FAWA_DATA_DIR": "data"}, False, f"{CWD}/data"),
    ],
)
def test_where_data_goes(environ: dict[str, str], root: bool, folder: str) -> None:
    assert load_here((), environ, root=root).settings.data_dir == Path(folder)


def test_without_a_home_the_data_folder_must_be_said() -> None:
    assert problems((), {"HOME": ""}) == [
        "data_dir (default): there is no HOME in the environment to find it; set data_dir"
    ]
    assert load_here(["--data-dir", "/d"], {"HOME": ""}).settings.data_dir == Path("/d")
    assert problems(["--data-dir", "~/d"], {"HOME": ""}) == [
        "data_dir: '~/d' (flag --data-dir) begins with ~, but there is no HOME in the environment; "
        "allowed: a path, relative to the working folder, or with ~ for the home folder"
    ]


# Flags


def test_flags_can_be_added_to_any_parser() -> None:
    parser = argparse.ArgumentParser("fawad")
    add_arguments(parser)
    text = parser.format_help()
    assert all(row.flag in text for row in TABLE.values())
    assert vars(parser.parse_args(["--file-ttl", "1m"])) == {"file.ttl": "1m"}


# The file


def test_which_file_is_read(tmp_path: Path) -> None:
    cwd, system, chosen = tmp_path / "cwd", tmp_path / "system", tmp_path / "chosen"
    for folder in (cwd, system, chosen):
        folder.mkdir()
        (folder / "config.yaml").write_text(f"public_url: http://{folder.name}")
    (chosen / "other.yaml").write_text("public_url: http://other")

    def read(*flags: str, **environ: str) -> tuple[str, Path | None]:
        loaded = load(flags, {"HOME": "/", **environ}, cwd, root=False, system=system)
        return loaded.settings.public_url, loaded.file

    assert read() == ("http://cwd", cwd / "config.yaml")
    assert read(CONFIG_PATH=f"{chosen}") == ("http://chosen", chosen / "config.yaml")
    assert read(FAWA_CONFIG=f"{chosen}/other.yaml") == ("http://other", chosen / "other.yaml")
    assert read("--config", "../system", FAWA_CONFIG=f"{chosen}")[0] == "http://system"
    assert read("--config", "/dev/null") == ("", Path("/dev/null"))
    (cwd / "config.yaml").unlink()
    assert read() == ("http://system", system / "config.yaml")
    (system / "config.yaml").unlink()
    assert read() == ("", None)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    def wrong(*flags: str, **environ: str) -> str:
        with pytest.raises(ConfigError) as caught:
            load(flags, {"HOME": "/", **environ}, tmp_path, root=False, system=NO_SYSTEM)
        return str(caught.value)

    assert wrong("--config", "a.yaml") == f"{tmp_path}/a.yaml (flag --config) does not exist"
    assert wrong(CONFIG_PATH=f"{tmp_path}") == (
        f"{tmp_path}/config.yaml (environment CONFIG_PATH) does not exist"
    )
    assert wrong("--config", "") == "flag --config is empty; name a file or a folder"
    assert wrong(CONFIG_PATH="a", FAWA_CONFIG="a").splitlines()[0] == (
        "FAWA_CONFIG and CONFIG_PATH (environment) mean the same; set one"
    )
    (tmp_path / "config.yaml").write_bytes(b"listen: \xff")
    assert wrong() == f"file {tmp_path}/config.yaml is not UTF-8 text (byte 8)"
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "config.yaml").symlink_to("config.yaml")
    assert wrong() == f"file {tmp_path}/config.yaml cannot be read: Too many levels of symbolic links"


def test_names_of_earlier_deployments(pairs: Path) -> None:
    file = f"addr: :8443\ncertFile: {pairs}/cert0.pem\nkeyFile: {pairs}/key0.pem\nlogLevel: WARN\n"
    settings = load_here(file=file).settings
    assert (settings.listen, settings.listen_tls) == (None, Address("", 8443))
    assert (settings.tls.cert, settings.log.level) == (pairs / "cert0.pem", "warning")
    overridden = load_here(["--listen", ":1"], {"FAWA_LISTEN_TLS": ":2"}, file).settings
    assert (overridden.listen, overridden.listen_tls) == (Address("", 1), Address("", 2))


# What must fit together


def test_all_problems_are_told_at_once() -> None:
    assert problems(
        ["--listn", ":80", "--file-ttl", "soon"],
        {"FAWA_LOG_LEVEL": "loud", "FAWA_LINK_SECRET": "too short"},
        "services: greet,whale\nwindow: {stream: 16MiB}\ntll: 1\n",
    ) == [
        "--listn (flag) is unknown; did you mean --listen?",
        f"tll ({FILE}) is an unknown key; did you mean tls?",
        f"services: 'greet,whale' ({FILE}) has \"whale\", which is not one of the choices; "
        "allowed: one or more of greet, file, canva, canvax, with commas between",
        "link_secret: '***' (environment FAWA_LINK_SECRET) has 9 characters; "
        "allowed: at least 32 characters, or empty",
        "file.ttl: 'soon' (flag --file-ttl) is not a duration; "
        "allowed: 1s to 365d, such as 90, 90s, 25m or 1h30m",
        "log.level: 'loud' (environment FAWA_LOG_LEVEL) is not one of the choices; "
        "allowed: debug, info, warning, error",
        f"window.stream: '16MiB' ({FILE}) and window.connection: '8MiB' (default) "
        "let one stream have more than its connection; allowed: at most window.connection",
    ]


def test_there_must_be_a_listener() -> None:
    assert problems(["--listen", ""], {"FAWA_LISTEN_TLS": "off"}) == [
        "listen: '' (flag --listen) and listen_tls: 'off' (environment FAWA_LISTEN_TLS) leave nothing to "
        "listen on; allowed: an address for at least one of them"
    ]


@pytest.mark.parametrize(
    ("plain", "tls", "meet"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        (":80", "[::1]:80", True),
        ("10.0.0.1:80", "0.0.0.0:80", True),
        ("[::]:80", "[::1]:80", True),
        ("0.0.0.0:80", "[::1]:80", False),
        ("[::]:80", "127.0.0.1:80", False),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        (":80", ":81", False),
        (":0", ":0", False),
    ],
)
def test_listeners_must_not_meet(plain: str, tls: str, meet: bool) -> None:
    flags = ["--listen", plain, "--listen-tls", tls]
    if meet:
        assert problems(flags) == [
            f"listen: '{plain}' (flag --listen) and listen_tls: '{tls}' (flag --listen-tls) would listen on "
            "the same port; allowed: different ports, or port 0"
        ]
    else:
        assert load_here(flags)


def test_the_admin_listener_is_for_operators() -> None:
    open_to_all = ["--admin-listen", ":8090"]
    assert problems(open_to_all) == [
        "admin.listen: ':8090' (flag --admin-listen) and admin.token: '' (default) would let everybody see "
        "and change what only operators may; allowed: an address of this machine, a Unix socket, a token"
    ]
    assert load_here([*open_to_all, "--admin-token", SECRET])


def test_who_signs_for_redis_is_asked_over_tls_alone() -> None:
    flags = ["--redis-ca", "/ca.pem", "--redis-url"]
    assert load_here([*flags, "rediss+sentinel://:password@a/files"])
    (problem,) = problems([*flags, "redis://:password@a"])
    assert problem.endswith("allowed: redis.ca only with a redis.url that begins with rediss")
    assert "password" not in problem
    assert load_here(["--admin-listen", "unix:/run/fawa.sock"])
    assert "would listen on the same port" in problems(["--admin-listen", "127.0.0.1:8080"])[0]


def test_certificate_and_key_come_together_and_must_be_usable(pairs: Path, tmp_path: Path) -> None:
    cert = f"{pairs}/cert0.pem"
    assert problems(["--tls-cert", cert]) == [
        f"tls.cert: '{cert}' (flag --tls-cert) and tls.key: '' (default) are half a pair; "
        "allowed: both or neither"
    ]
    assert problems(["--tls-cert", cert], {"FAWA_TLS_KEY": "key.pem"}) == [
        f"tls.cert: '{cert}' (flag --tls-cert) and tls.key: 'key.pem' (environment FAWA_TLS_KEY) cannot be "
        f"used: the key {CWD}/key.pem does not exist; "
        "allowed: a PEM certificate and its unencrypted PEM key"
    ]


def test_values_of_any_length_and_passwords_in_them_are_told_with_care() -> None:
    (long,) = problems(["--file-ttl", "x" * 1000])
    assert long.startswith(f"file.ttl: '{'x' * 200}…' (flag --file-ttl) is not")
    (url,) = problems(["--public-url", f"https://ann:{SECRET}@host/"])
    assert url.startswith("public_url: 'https://***@host/' (flag --public-url) has")
    (control,) = problems(["--file-ttl", "1\n\x1b[2J"])
    assert control.startswith("file.ttl: '1\\n\\x1b[2J' (flag --file-ttl) is not")


# Printing


def test_what_is_printed_is_a_file_that_gives_the_same_settings(pairs: Path) -> None:
    flags = {
        "--services": "file",
        "--listen": "[::1]:0",
        "--listen-tls": ":8443",
        "--public-url": "https://cdn.example/minio",
        "--data-dir": '/a b/"c"\\\x7f\u202e\U0001f600\U000e0001#: x',
        "--tls-cert": f"{pairs}/cert1.pem",
        "--tls-key": f"{pairs}/key1.pem",
        "--cors-origins": "*",
        "--file-ttl": "1h30m",
        "--reflection": "off",
    }
    loaded = load_here([word for pair in flags.items() for word in pair], {"FAWA_LOG_LEVEL": "debug"})
    text = render(loaded)
    assert all(line.isprintable() for line in text.splitlines())
    assert load_here(file=text).settings == loaded.settings
    assert "file.ttl: 1h30m " in text
    assert {line.partition("  # ")[2].strip() for line in text.splitlines()} == {
        *(f"flag {flag}" for flag in flags),
        "environment FAWA_LOG_LEVEL",
        "default",
    }


def test_json_has_values_and_origins() -> None:
    rows = json.loads(render(load_here(["--file-ttl", "90"]), as_json=True))
    assert list(rows) == list(TABLE)
    assert rows["file.ttl"] == {"value": "1m30s", "origin": "flag --file-ttl"}


@pytest.mark.parametrize("source", ["flag", "environment", "file"])
def test_secrets_are_never_printed(source: str) -> None:
    loaded = load_here(
        ["--link-secret", SECRET] if source == "flag" else [],
        {"FAWA_LINK_SECRET": SECRET} if source == "environment" else {},
        f"link_secret: {SECRET}" if source == "file" else None,
    )
    assert loaded.settings.link_secret == SECRET
    printed = render(loaded), render(loaded, as_json=True), repr(loaded), str(loaded.settings)
    assert not any(SECRET in text for text in printed)
    assert 'link_secret: "***"' in printed[0]


def test_secrets_are_not_told_in_errors() -> None:
    told = problems(
        ["--link-secrt", SECRET],
        {"FAWA_LINK_SECRT": SECRET, "FAWA_LINK_SECRET": SECRET[:20], "MINIO_SECRET_ACCESS_KEY": SECRET},
        f"link_secrte: {SECRET}\n",
    )
    assert len(told) == 5
    assert not any(SECRET[:20] in text for text in told)


def test_the_documentation_names_everything() -> None:
    text = document()
    for row in TABLE.values():
        assert f"\n{row.key}{' (live)' if row.live else ''}\n" in text
        assert f"{row.flag} " in text
        assert row.variable in text
        assert row.legacy in text
        assert row.earlier in text
    assert "Allowed: 1s to 365d, such as 90, 90s, 25m or 1h30m. Default: 25m." in text
    assert all(len(line) <= 100 for line in text.splitlines())


# Reload


def test_what_changes_in_a_running_daemon() -> None:
    old = load_here().settings
    assert live_changes(old, old) == ((), ())
    new = attrs.evolve(
        old,
        services=("greet",),
        log=attrs.evolve(old.log, level="debug"),
        file=attrs.evolve(old.file, ttl=1.0),
        limits=attrs.evolve(old.limits, max_connections=1, max_streams=1),
        listen=None,
    )
    assert live_changes(old, new) == (
        ("limits.max_connections", "file.ttl", "log.level"),
        ("services", "listen", "limits.max_streams"),
    )


# The start


def test_importing_and_documenting_needs_no_slow_library() -> None:
    code = (
        "import argparse, sys, fawa.config as config; config.add_arguments(argparse.ArgumentParser());"
        "config.document(); print(*sys.modules)"
    )
    modules = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"yaml", "structlog", "trio", "cryptography", "ssl", "msgspec", "asyncio"} & set(modules)
