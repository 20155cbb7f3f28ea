"""What each source of settings says: flags, environment and file, and the names of earlier deployments."""

from __future__ import annotations

import pytest

from fawa.config.sources import Given, Source, read_environment, read_flags, read_yaml

# Flags


def test_a_switch_needs_no_value_and_the_last_of_equal_flags_counts() -> None:
    source, file = read_flags(["--reflection", "--log-access=off", "--file-ttl", "1m", "--file-ttl=2m"])
    assert source.given == {
        "reflection": Given("on", "flag --reflection"),
        "log.access": Given("off", "flag --log-access"),
        "file.ttl": Given("2m", "flag --file-ttl"),
    }
    assert (source.problems, file) == ([], None)


def test_the_file_is_not_a_setting() -> None:
    source, file = read_flags(["--config", "a.yaml", "--listen="])
    assert source.given == {"listen": Given("", "flag --listen")}
    assert file == "a.yaml"


@pytest.mark.parametrize(
    ("flags", "problems"),
    [
        (["--lisen", ":80"], ["--lisen (flag) is unknown; did you mean --listen?"]),
        (["--lisen=:80"], ["--lisen (flag) is unknown; did you mean --listen?"]),
        (["--list", ":80"], ["--list (flag) is unknown; did you mean --listen?"]),
        (["--frobnicate"], ["--frobnicate (flag) is unknown; `fawad config --help` lists all"]),
        (["stray"], ["'stray' (argument) is not expected; values follow a flag"]),
        (["--listen"], ["flags: argument --listen: expected one argument"]),
        (
            ["--lnk-secret", "value", "stray", "-x"],
            [
                "--lnk-secret (flag) is unknown; did you mean --link-secret?",
                "'stray' (argument) is not expected; values follow a flag",
                "-x (flag) is unknown; `fawad config --help` lists all",
            ],
        ),
    ],
)
def test_wrong_flags(flags: list[str], problems: list[str]) -> None:
    assert read_flags(flags)[0].problems == problems


# Environment


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("FAWA_FILE_TTLS", "did you mean FAWA_FILE_TTL?"),
        ("FAWA_CONFIGS", "did you mean FAWA_CONFIG?"),
        ("FAWA_PORT", "`fawad config --help` lists all"),
        ("FAWA_", "`fawad config --help` lists all"),
    ],
)
def test_unknown_variables(name: str, advice: str) -> None:
    source, _ = read_environment({name: "8080", "PATH": "/bin", "fawa_listen": ":1"})
    assert source.given == {}
    assert source.problems == [f"{name} (environment) is unknown; {advice}"]


def test_variables_of_the_client_and_of_kubernetes_for_a_service_named_fawa_are_let_be() -> None:
    source, _ = read_environment(
        {
            "FAWA_LISTEN": ":1",
            "FAWA_SERVER": "http://10.0.0.1:8080",
            "FAWA_SERVICE_HOST": "10.0.0.1",
            "FAWA_SERVICE_PORT": "8080",
            "FAWA_SERVICE_PORT_HTTP": "8080",
            "FAWA_PORT": "tcp://10.0.0.1:8080",
            "FAWA_PORT_8080_TCP": "tcp://10.0.0.1:8080",
            "FAWA_PORT_8080_TCP_ADDR": "10.0.0.1",
            "FAWA_REDIS_PORT_6379_TCP_PROTO": "tcp",
        }
    )
    assert source.given == {"listen": Given(":1", "environment FAWA_LISTEN")}
    assert source.problems == []


@pytest.mark.parametrize(
    ("endpoint", "public", "use_ssl", "read"),
    [
        ("minio:9000", "cdn.example/minio", "", ("http://minio:9000", "http://cdn.example/minio")),
        (
            "minio:9000",
            "https://cdn.example/minio",
            "false",
            ("http://minio:9000", "https://cdn.example/minio"),
        ),
        ("s3.example", "cdn.example", "true", ("https://s3.example", "https://cdn.example")),
        ("https://s3.example", "http://10.0.0.1:9000", "1", ("https://s3.example", "http://10.0.0.1:9000")),
    ],
)
def test_the_variables_of_earlier_deployments(
    endpoint: str, public: str, use_ssl: str, read: tuple[str, str]
) -> None:
    source, _ = read_environment(
        {
            "MINIO_ENDPOINT": endpoint,
            "MINIO_PUBLIC_ENDPOINT": public,
            "MINIO_USE_SSL": use_ssl,
            "MINIO_ACCESS_KEY_ID": "minioadmin",
            "MINIO_SECRET_ACCESS_KEY": "a secret",
            "MINIO_BUCKET_NAME": "files",
        }
    )
    assert source.problems == []
    assert source.given == {
        "s3.endpoint": Given(read[0], "environment MINIO_ENDPOINT"),
        "s3.public_endpoint": Given(read[1], "environment MINIO_PUBLIC_ENDPOINT"),
        "s3.access_key": Given("minioadmin", "environment MINIO_ACCESS_KEY_ID"),
        "s3.secret_key": Given("a secret", "environment MINIO_SECRET_ACCESS_KEY"),
        "s3.bucket": Given("files", "environment MINIO_BUCKET_NAME"),
    }


def test_empty_variables_of_earlier_deployments_are_not_given() -> None:
    source, _ = read_environment({"MINIO_ENDPOINT": "", "MINIO_USE_SSL": "", "MINIO_BUCKET_NAME": " "})
    assert source == Source()


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        (
            {"MINIO_BUCKET_NAME": "a", "FAWA_S3_BUCKET": "a"},
            "FAWA_S3_BUCKET and MINIO_BUCKET_NAME (environment) mean the same; set one",
        ),
        (
            {"MINIO_ENDPOINT": "https://s3.example", "MINIO_USE_SSL": "false"},
            "MINIO_ENDPOINT and MINIO_USE_SSL (environment) contradict each other; unset the second",
        ),
        (
            {"MINIO_ENDPOINT": "s3.example", "MINIO_USE_SSL": "perhaps"},
            "MINIO_USE_SSL: 'perhaps' (environment) is neither on nor off; "
            "allowed: on, true, yes, 1 or off, false, no, 0",
        ),
        (
            {"MINIO_USE_SSL": "true", "FAWA_S3_ENDPOINT": "https://s3.example"},
            "MINIO_USE_SSL (environment) belongs to MINIO_ENDPOINT, which is not set; unset it, or set both",
        ),
    ],
)
def test_variables_of_earlier_deployments_that_do_not_fit(environ: dict[str, str], problem: str) -> None:
    assert read_environment(environ)[0].problems == [problem]


def test_the_redis_of_earlier_deployments() -> None:
    source, _ = read_environment({"DRAGONFLY_ADDR": " db:6379 "})
    assert source == Source({"redis.url": Given("db:6379", "environment DRAGONFLY_ADDR")})
    assert read_environment({"DRAGONFLY_ADDR": " "})[0] == Source()
    source, _ = read_environment({"FAWA_REDIS_URL": "redis://other", "DRAGONFLY_ADDR": "db"})
    assert source.problems == ["FAWA_REDIS_URL and DRAGONFLY_ADDR (environment) mean the same; set one"]


@pytest.mark.parametrize("name", ["FAWA_CONFIG", "CONFIG_PATH"])
def test_where_the_file_is(name: str) -> None:
    source, place = read_environment({name: "/a.yaml"})
    assert place == Given("/a.yaml", f"environment {name}")
    assert source.problems == []


def test_where_the_file_is_said_twice() -> None:
    source, _ = read_environment({"FAWA_CONFIG": "/a", "CONFIG_PATH": "/a"})
    assert source.problems == ["FAWA_CONFIG and CONFIG_PATH (environment) mean the same; set one"]
    assert read_environment({"FAWA_CONFIG": "/a", "CONFIG_PATH": ""})[0].problems == []


# The file


def test_sections_dots_lists_and_keys_without_a_value() -> None:
    source = read_yaml(
        """\
services: [file, greet]
listen: off
listen_tls: :8443
reflection: no
file:
  ttl: 12:30
  link_ttl:
file.max_size: 10GB
timeouts:
log: {level: ~, format: "json"}
""",
        "file f",
    )
    assert source.problems == []
    assert {key: given.text for key, given in source.given.items()} == {
        "services": "file,greet",
        "listen": "off",
        "listen_tls": ":8443",
        "reflection": "no",
        "file.ttl": "12:30",
        "file.max_size": "10GB",
        "log.format": "json",
    }
    assert {given.origin for given in source.given.values()} == {"file f"}


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n", "file:\n", "file: {}\n"])
def test_files_that_say_nothing(text: str) -> None:
    source = read_yaml(text, "file f")
    assert (source.given, source.problems) == ({}, [])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("file:\n  tll: 1m\n", "file.tll (file f) is an unknown key; did you mean file.ttl?"),
        ("certfile: x\n", "certfile (file f) is an unknown key; did you mean certFile?"),
        ("timeout: {idle: 1}\n", "timeout (file f) is an unknown key; did you mean timeouts?"),
        ("file: 25m\n", "file (file f) is a section; write its keys below it"),
        ("listen: {port: 1}\n", "listen (file f) takes a value, not keys below it"),
        ("listen: [a, b]\n", "listen (file f) takes one value, not a list"),
        ("addr: [a, b]\n", "addr (file f) takes one value, not a list"),
        ("services: [[greet]]\n", "services (file f) takes a value, not keys below it"),
        ("listen: :1\nlisten: :2\n", "file f: line 2, column 1: the key listen is given twice"),
        ("file: {ttl: 1m}\nfile.ttl: 1m\n", "file.ttl (file f) is given twice"),
        ("logLevel: a\nlog.level: b\n", "log.level (file f) is given twice; logLevel means the same"),
        ("tls: {key: a}\nkeyFile: a\n", "tls.key (file f) is given twice; keyFile means the same"),
        ("- listen\n", "file f: holds no keys; write one `key: value` on each line"),
        ("listen\n", "file f: holds no keys; write one `key: value` on each line"),
        ("a: [\n", "file f: line 2, column 1: expected the node content, but found '<stream end>'"),
        ("[a]: 1\n", "file f: line 1, column 1: found unhashable key"),
        ("listen: \0\n", "file f: unacceptable character #x0000: special characters are not allowed"),
        ("[" * 10_000, "file f: maximum recursion depth exceeded"),
        (
            "listen: !!python/object/apply:os.getcwd []\n",
            "file f: line 1, column 9: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object/apply:os.getcwd'",
        ),
        ("x: &x {y: *x}\n", "x (file f) is an unknown key; `fawad config --help` lists all"),
    ],
)
def test_wrong_files(text: str, problem: str) -> None:
    (told,) = read_yaml(text, "file f").problems
    assert told.startswith(problem) if "recursion" in problem else told == problem


# Names of earlier deployments

ADDR = "file f, key addr"


@pytest.mark.parametrize(
    ("text", "plain", "tls"),
    [
        ("addr: :8080\n", Given(":8080", ADDR), Given("off", ADDR)),
        ("addr: :8080\ncertFile: c\nkeyFile: k\n", Given("off", ADDR), Given(":8080", ADDR)),
        ("addr: :8080\ntls: {cert: c, key: k}\n", Given("off", ADDR), Given(":8080", ADDR)),
        ("addr: :1\ncertFile: c\nkeyFile: k\nlisten: :2\n", Given(":2", "file f"), Given(":1", ADDR)),
        ("addr: :1\nlisten_tls: :2\n", Given(":1", ADDR), Given(":2", "file f")),
    ],
)
def test_addr_is_the_one_listener(text: str, plain: Given, tls: Given) -> None:
    source = read_yaml(text, "file f")
    assert source.problems == []
    assert (source.given["listen"], source.given["listen_tls"]) == (plain, tls)


def test_old_names_of_settings() -> None:
    source = read_yaml("certFile: c\nkeyFile: k\nlogLevel: warn\n", "file f")
    assert source.problems == []
    assert source.given == {
        "tls.cert": Given("c", "file f, key certFile"),
        "tls.key": Given("k", "file f, key keyFile"),
        "log.level": Given("warn", "file f, key logLevel"),
    }


@pytest.mark.parametrize(
    ("text", "listener"),
    [
        ("addr: :1\nlisten: :1\n", "listen"),
        ("addr: :1\nlisten_tls: :1\ncertFile: c\nkeyFile: k\n", "listen_tls"),
    ],
)
def test_addr_beside_the_listener_that_it_means(text: str, listener: str) -> None:
    assert read_yaml(text, "file f").problems == [
        f"addr and {listener} (file f) mean the same here; keep {listener}"
    ]
