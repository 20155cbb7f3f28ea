"""The settings: one attrs field each, with everything that is known of it. The only table there is.

Flags, environment variables, file keys, parsing, validation, `fawad config` and the documentation are all
made from these classes. A setting's key is its attribute path: `settings.file.ttl` is `file.ttl` in the file,
`--file-ttl` as a flag and `FAWA_FILE_TTL` in the environment.
"""

# ruff: noqa: RUF009  (`setting` and `section` are attrs fields)
from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import attrs

from fawa.config.kinds import (
    Address,
    AdminAddress,
    Choice,
    Duration,
    Integer,
    Kind,
    ListenAddress,
    Maybe,
    Networks,
    Origins,
    Place,
    Ratio,
    RedisUrl,
    Secret,
    Several,
    Size,
    Switch,
    Text,
    UnixAddress,
    WebAddress,
)
from fawa.storage.redis_url import RedisAddress

T = TypeVar("T")

MIB = 1024 * 1024
HOUR = 3600.0
YEAR = 365 * 24 * HOUR


@attrs.frozen
class Setting:
    """One setting's row of the table."""

    kind: Kind[Any]
    #: What it does.
    text: str
    #: As a user would write it; `None` when it depends on the machine.
    default: str | None
    #: Whether a reload changes it in the running daemon.
    live: bool
    #: What files of earlier deployments call it, or "".
    legacy: str
    #: What the environment of earlier deployments calls it, or "".
    earlier: str
    #: Its attribute path. (This and the heading are filled in from where the field stands.)
    key: str = ""
    #: The heading it stands under.
    heading: str = ""

    @property
    def flag(self) -> str:
        """Its command-line flag."""
        return "--" + self.key.replace(".", "-").replace("_", "-")

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return "FAWA_" + self.key.replace(".", "_").upper()

    def value(self, settings: Settings) -> Any:
        """Return its value."""
        return attrgetter(self.key)(settings)

    def show(self, settings: Settings) -> str:
        """Return its value as a user would write it; a secret masked."""
        return self.kind.show(self.value(settings))


def setting(
    kind: Kind[T],
    default: str | None,
    text: str,
    *,
    live: bool = False,
    legacy: str = "",
    earlier: str = "",
) -> T:
    """Declare a setting; the arguments are those of `Setting`."""
    value: Any = attrs.NOTHING if default is None else kind.parse(default)
    field: T = attrs.field(
        default=value,
        metadata={"setting": Setting(kind, text, default, live, legacy, earlier)},
        repr=not kind.secret,
        kw_only=True,
    )
    return field


def section(cls: Callable[[], T], text: str) -> T:
    """Declare a section: settings whose keys begin with the field's name and a dot."""
    field: T = attrs.field(factory=cls, metadata={"section": cls, "text": text}, kw_only=True)
    return field


@attrs.frozen
class TlsSettings:
    """Certificate of the TLS listener."""

    cert: Path | None = setting(
        Maybe(Place()),
        "",
        "PEM file with the certificate and its chain. Without one, fawad makes a development certificate "
        "for localhost and renews it.",
        live=True,
        legacy="certFile",
    )
    key: Path | None = setting(
        Maybe(Place()),
        "",
        "PEM file with the certificate's private key, not encrypted.",
        live=True,
        legacy="keyFile",
    )


@attrs.frozen
class LimitSettings:
    """What one peer, and all together, may take."""

    max_connections: int = setting(
        Integer(1, 1_000_000),
        "10000",
        "Connections open at once; others wait to be accepted.",
        live=True,
    )
    max_streams: int = setting(Integer(1, 128), "128", "Calls at once on one HTTP/2 connection.")
    max_header: int = setting(Size(1024, 64 * 1024), "64KiB", "Size of a request's head.")
    max_message: int = setting(
        Size(1024, 1024 * MIB), "4MiB", "Size of one RPC message, after decompression; file chunks obey it."
    )


@attrs.frozen
class TimeoutSettings:
    """How long a silent or slow peer is waited for."""

    handshake: float = setting(Duration(0.1, HOUR), "10s", "For a TLS handshake.")
    header: float = setting(Duration(0.1, HOUR), "15s", "For a request's head, once it has begun.")
    idle: float = setting(Duration(1, 24 * HOUR), "300s", "For the next request on an open connection.")
    body: float = setting(Duration(0.1, HOUR), "60s", "For the next byte of a request's body.")
    write: float = setting(Duration(0.1, HOUR), "60s", "For the peer to take the next byte of a response.")


@attrs.frozen
class WindowSettings:
    """HTTP/2 receive windows (RFC 9113 section 5.2): what a peer may send ahead of what is read."""

    stream: int = setting(Size(64 * 1024, 1024 * MIB), "1MiB", "Of one stream.")
    connection: int = setting(Size(64 * 1024, 1024 * MIB), "8MiB", "Of all streams of a connection together.")


@attrs.frozen
class QuicSettings:
    """HTTP/3, on UDP at the address and port of listen_tls."""

    enabled: bool = setting(Switch(), "on", "Serve HTTP/3 beside listen_tls, and say so in its answers.")
    retry: str = setting(
        Choice(("auto", "always", "never")),
        "auto",
        "When clients first have to show that they receive at their address (RFC 9000 section 8.1): auto "
        "means while a quarter of max_handshakes are under way.",
    )
    idle_timeout: float = setting(
        Duration(1, HOUR),
        "30s",
        "Without any packet until a connection is over; under 20s browsers that wait for something are "
        "dropped.",
    )
    public_port: int = setting(
        Integer(0, 65535),
        "0",
        "The UDP port by which clients reach it, where something in between has another; 0 is that of "
        "listen_tls.",
    )
    max_handshakes: int = setting(
        Integer(1, 1_000_000), "1000", "Handshakes under way at once; others are not answered."
    )


@attrs.frozen
class CorsSettings:
    """Which web pages may call from a browser."""

    # Not `*`: fawad asks nobody who they are, so with `*` any page that a user visits could fill the disk of
    # a fawad on that user's own machine. Pages from the machine itself (a development server on another
    # port) work at once; the origin that fawad itself serves needs no CORS.
    origins: tuple[str, ...] = setting(
        Origins(),
        "loopback",
        "Origins whose pages may call; pages that fawad serves itself always may. `loopback` means pages "
        "from localhost, 127.0.0.1 and [::1], any port; `*` means every page of the web.",
        live=True,
    )


@attrs.frozen
class FileSettings:
    """The file service."""

    ttl: float = setting(Duration(1, YEAR), "25m", "How long a file is kept.", live=True)
    min_ttl: float = setting(Duration(1, YEAR), "1s", "The least that a sender may ask for.", live=True)
    max_ttl: float = setting(
        Duration(1, YEAR), "24h", "The most that a sender may ask for; never less than file.ttl.", live=True
    )
    # A day: who closes the laptop in the evening goes on in the morning.
    upload_ttl: float = setting(
        Duration(1, YEAR),
        "24h",
        "How long an interrupted upload is kept after its last progress, to be gone on with.",
        live=True,
    )
    link_ttl: float = setting(Duration(1, YEAR), "5m", "How long a download link is valid.", live=True)
    progress_timeout: float = setting(
        Duration(0.1, HOUR), "60s", "How long an upload may stand still before it is given up.", live=True
    )
    max_size: int = setting(Size(0, 2**50), "0", "Size of one file; 0 is no limit.", live=True)
    quota: int = setting(
        Size(0, 2**50),
        "0",
        "Size of all files together, unfinished uploads included; 0 is no limit. Daemons that share records "
        "(redis.url) share it, so set the same for all of them.",
        live=True,
    )
    quota_per_address: int = setting(
        Size(0, 2**50),
        "0",
        "Bytes that one address may send in an hour, and so the size of one file; 0 is no limit. What an "
        "upload says it will have counts from its beginning. Each daemon counts for itself; trusted_proxies "
        "says whose X-Forwarded-For counts.",
        live=True,
    )
    # Small, so that a laptop whose disk is nearly full takes small files, and large enough for the databases
    # and logs that share the disk.
    min_free: int = setting(
        Size(0, 2**50),
        "64MiB",
        "Space that uploads leave free on the disk, where files are kept in a folder; 0 lets them fill it.",
        live=True,
    )
    wrong_keys: int = setting(
        Integer(1, 1_000_000),
        "50",
        "Wrong keys, passwords and owner's tokens from one address at once; then it waits.",
        live=True,
    )
    wrong_keys_rate: int = setting(
        Integer(1, 1_000_000), "10", "Further wrong ones a minute after that.", live=True
    )
    sweep_interval: float = setting(
        Duration(0.1, 24 * HOUR), "30s", "Time between two removals of expired files.", live=True
    )


@attrs.frozen
class S3Settings:
    """Files in an S3 bucket: AWS, MinIO, Ceph and others."""

    endpoint: str = setting(
        WebAddress(),
        "",
        "Where the S3 service is, such as http://minio:9000; files are then kept in a bucket there. Without "
        "it, they are in data_dir.",
        earlier="MINIO_ENDPOINT",
    )
    bucket: str = setting(
        Text(r"|[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "3 to 63 of a-z, 0-9, dots and hyphens, or empty"),
        "",
        "The bucket, made when it is not there.",
        earlier="MINIO_BUCKET_NAME",
    )
    access_key: str = setting(
        Text(r"[!-.0-~]{0,128}", "up to 128 printable characters without / and space"),
        "",
        "Access key; it needs the right to list, read, write and delete in the bucket.",
        earlier="MINIO_ACCESS_KEY_ID",
    )
    secret_key: str | None = setting(
        Maybe(Secret(8)),
        "",
        "Secret key. Set it in the environment or the file: flags can be seen by every user of the machine.",
        earlier="MINIO_SECRET_ACCESS_KEY",
    )
    region: str = setting(
        Text(r"[A-Za-z0-9-]{1,64}", "1 to 64 letters, digits and hyphens"),
        "us-east-1",
        "Region of the bucket; most services but AWS take the default.",
    )
    prefix: str = setting(
        Text(r"([A-Za-z0-9_-]+/)+", "names of A-Z, a-z, 0-9, _ and -, each with a / after it"),
        "fawa/",
        "What the names of our objects begin with. Everything below it belongs to one fawad alone, or to all "
        "that share their records; what they do not know is removed. Two on one bucket need two prefixes. "
        "On a prefix that is another's, fawad does not start.",
    )
    public_endpoint: str = setting(
        WebAddress(),
        "",
        "Where clients reach the service, perhaps with a path that a proxy takes off: download links then "
        "lead straight there. Without it, fawad itself serves them.",
        earlier="MINIO_PUBLIC_ENDPOINT",
    )
    virtual_host: bool = setting(
        Switch(), "off", "Call the bucket as a subdomain of the endpoint, as AWS likes it, not in the path."
    )
    ca: Path | None = setting(
        Maybe(Place()), "", "PEM file with certificates that are trusted for it beside the system's."
    )
    abort_after: float = setting(
        Duration(60, YEAR),
        "24h",
        "How long an upload that another process began, and left, may be without a new part (8 MiB) before "
        "it is removed.",
    )


@attrs.frozen
class BoardSettings:
    """The whiteboard, over WebSocket, gRPC and Connect."""

    tick: float = setting(
        Duration(0, 1),
        "4ms",
        "How long further events of a board are gathered after some have gone out; 0 sends each at once.",
        live=True,
    )
    idle: float = setting(
        Duration(1, YEAR),
        "10m",
        "How long a board stays in memory with nobody on it. A reload changes it for new boards.",
        live=True,
    )
    grace: float = setting(
        Duration(0, YEAR),
        "24h",
        "How long a copy of a board is kept that nobody is on, so that who comes by its code finds it as it "
        "was, also after fawad was started again. 0 keeps none.",
        live=True,
    )
    autosave: float = setting(
        Duration(0.1, HOUR), "5s", "Time between two copies of a board that changes.", live=True
    )
    max_kept: int = setting(
        Size(0, 2**50),
        "1GiB",
        "Size of all copies together; those that would expire next go first.",
        live=True,
    )
    max_boards: int = setting(Integer(1, 10_000_000), "10000", "Boards in memory at once.", live=True)
    max_peers: int = setting(
        Integer(1, 1_000_000),
        "2000",
        "Clients on one board at once. A reload changes it for new boards.",
        live=True,
    )
    max_message: int = setting(
        Size(1024, 16 * MIB), "64KiB", "Size of one message of a WebSocket client.", live=True
    )
    max_event_rate: int = setting(
        Integer(1, 1_000_000),
        "1000",
        "Events a second of one client, with a burst of twice as many; more are read later, not lost.",
        live=True,
    )
    history: int = setting(
        Integer(1, 1_000_000),
        "1000",
        "Newest events of a board that are kept one by one, for clients that return. A reload changes it for "
        "new boards.",
        live=True,
    )
    snapshot: int = setting(
        Size(16 * 1024, 256 * MIB),
        "1MiB",
        "Size of what is kept of a board's older events; its oldest strokes go. A reload changes it for new "
        "boards.",
        live=True,
    )
    backlog: int = setting(
        Size(64 * 1024, 256 * MIB),
        "1MiB",
        "What may wait to be sent to one client; then it gets a snapshot in place of the events. A reload "
        "changes it for new boards.",
        live=True,
    )
    stall: float = setting(
        Duration(0.1, HOUR),
        "15s",
        "How long a client may take to read 256 KiB, or less if less was sent, before it is closed. A reload "
        "changes it for new boards.",
        live=True,
    )
    wrong_codes: int = setting(
        Integer(1, 1_000_000), "20", "Wrong board codes one address may try before it has to wait.", live=True
    )
    wrong_codes_rate: int = setting(
        Integer(1, 1_000_000), "10", "Further wrong codes a minute after that.", live=True
    )
    creates: int = setting(
        Integer(1, 1_000_000), "100", "Boards one address may create before it has to wait.", live=True
    )
    creates_rate: int = setting(Integer(1, 1_000_000), "60", "Further boards a minute after that.", live=True)


@attrs.frozen
class RedisSettings:
    """Records of files and copies of boards in Redis, Valkey or Dragonfly."""

    # With a content folder of its own, each daemon would repair away the records of the others.
    url: RedisAddress | None = setting(
        Maybe(RedisUrl()),
        "",
        "Where it is; without it, records and copies are in data_dir. Daemons that share one must share what "
        "files hold (the S3 bucket and prefix, or data_dir) and link_secret too. Have it keep what it is "
        "told (appendonly yes, maxmemory-policy noeviction), or files can be lost. Set a password in the "
        "environment or the file: flags can be seen by every user of the machine.",
        earlier="DRAGONFLY_ADDR",
    )
    ca: Path | None = setting(
        Maybe(Place()),
        "",
        "PEM file with the authorities that may have signed its certificate (rediss://), in place of the "
        "system's.",
    )


@attrs.frozen
class LogSettings:
    """What is logged, on standard error."""

    level: str = setting(
        Choice(("debug", "info", "warning", "error"), {"warn": "warning"}),
        "info",
        "The least severe level that is logged.",
        live=True,
        legacy="logLevel",
    )
    format: str = setting(
        Choice(("auto", "console", "json")),
        "auto",
        "Lines to read or JSON lines; auto means console on a terminal, else json.",
        live=True,
    )
    access: bool = setting(Switch(), "on", "Log one line (level info) for each call.", live=True)


@attrs.frozen
class AdminSettings:
    """What operators and their programs ask: /healthz, /readyz, /metrics, /debug/tasks, /log-level."""

    listen: Address | UnixAddress | None = setting(
        Maybe(AdminAddress(), "off"),
        "127.0.0.1:8090",
        "Where to listen for them, in plain HTTP; beyond this machine only with admin.token.",
    )
    token: str | None = setting(
        Maybe(Secret(16)),
        "",
        "What they show as Authorization: Bearer; /healthz and /readyz answer without. Set it in the "
        "environment or the file: flags can be seen by every user of the machine.",
    )


@attrs.frozen
class TracingSettings:
    """Spans of calls and of what they ask of storage, for OpenTelemetry; needs fawa[tracing]."""

    endpoint: str = setting(
        WebAddress(),
        "",
        "The collector that takes them (OTLP over HTTP), such as http://collector:4318. Without it, "
        "nothing is traced.",
    )
    service: str = setting(
        Text(r"[!-~]{1,64}", "1 to 64 visible ASCII characters"), "fawa", "The name they appear under."
    )
    ratio: float = setting(
        Ratio(),
        "1",
        "How many of the traces that begin here are kept; those that clients begin are kept if they keep "
        "them.",
    )


@attrs.frozen
class RestartSettings:
    """When a service that crashes is no longer restarted."""

    max_crashes: int = setting(
        Integer(0, 1000), "5", "Crashes of a service within the window; at one more, fawad exits."
    )
    window: float = setting(Duration(1, 24 * HOUR), "5m", "The window in which crashes are counted.")


@attrs.frozen
class Settings:
    """Everything that can be set."""

    services: tuple[str, ...] = setting(
        Several(("greet", "file", "canva", "canvax")),
        "greet,file,canva,canvax",
        "Services to run: greetings, files, the whiteboard for browsers (canva) and over gRPC and Connect "
        "(canvax).",
    )
    listen: Address | None = setting(
        Maybe(ListenAddress(), "off"),
        "127.0.0.1:8080",
        "Where to listen without TLS (HTTP/1.1 and HTTP/2).",
    )
    listen_tls: Address | None = setting(
        Maybe(ListenAddress(), "off"),
        "127.0.0.1:8443",
        "Where to listen with TLS (HTTP/1.1, HTTP/2, HTTP/3).",
    )
    public_url: str = setting(
        WebAddress(),
        "",
        "What links begin with, when clients reach fawad by another address than the one it listens on.",
        live=True,
    )
    trusted_proxies: tuple[str, ...] = setting(
        Networks(),
        "off",
        "Networks of the proxies in front of fawad whose X-Forwarded-For is believed, where what one address "
        "may do is limited.",
        live=True,
    )
    data_dir: Path = setting(
        Place(),
        None,
        "Folder for everything that is kept. Default: fawa in the user's data folder (XDG_DATA_HOME, "
        "else ~/.local/share), as root /var/lib/fawa.",
    )
    drain_grace: float = setting(
        Duration(0, 24 * HOUR), "30s", "How long calls may take to finish after SIGTERM.", live=True
    )
    link_secret: str | None = setting(
        Maybe(Secret(32)),
        "",
        "Key that signs download links; without one, fawad makes its own and keeps it in data_dir. Set it "
        "in the environment or the file: flags can be seen by every user of the machine.",
    )
    reflection: bool = setting(Switch(), "on", "Serve gRPC reflection (v1 and v1alpha).")
    tls: TlsSettings = section(TlsSettings, "TLS")
    limits: LimitSettings = section(LimitSettings, "Limits")
    timeouts: TimeoutSettings = section(TimeoutSettings, "Timeouts")
    window: WindowSettings = section(WindowSettings, "HTTP/2 windows")
    quic: QuicSettings = section(QuicSettings, "QUIC")
    cors: CorsSettings = section(CorsSettings, "Browsers")
    file: FileSettings = section(FileSettings, "Files")
    s3: S3Settings = section(S3Settings, "S3")
    board: BoardSettings = section(BoardSettings, "Whiteboard")
    redis: RedisSettings = section(RedisSettings, "Redis")
    admin: AdminSettings = section(AdminSettings, "Admin listener")
    log: LogSettings = section(LogSettings, "Log")
    tracing: TracingSettings = section(TracingSettings, "Tracing")
    restart: RestartSettings = section(RestartSettings, "Restarts")


def _walk(cls: type, prefix: str, heading: str) -> Iterator[Setting]:
    for field in attrs.fields(cls):
        key = prefix + field.name
        if inner := field.metadata.get("section"):
            yield from _walk(inner, f"{key}.", field.metadata["text"])
        else:
            yield attrs.evolve(field.metadata["setting"], key=key, heading=heading)


#: Every setting by its key, in the order of the classes.
TABLE: dict[str, Setting] = {row.key: row for row in _walk(Settings, "", "General")}
#: The names of the sections.
SECTIONS: frozenset[str] = frozenset(key.partition(".")[0] for key in TABLE if "." in key)


def build(values: dict[str, Any]) -> Settings:
    """Make the settings from the value of each key."""

    def make(cls: type, prefix: str) -> Any:
        arguments = {}
        for field in attrs.fields(cls):
            key, inner = prefix + field.name, field.metadata.get("section")
            arguments[field.name] = make(inner, f"{key}.") if inner else values[key]
        return cls(**arguments)

    settings: Settings = make(Settings, "")
    return settings


def live_changes(old: Settings, new: Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Compare: keys that changed and can change in a running daemon, and keys that changed but cannot."""
    changed = [row for row in TABLE.values() if row.value(old) != row.value(new)]
    live = tuple(row.key for row in changed if row.live)
    return live, tuple(row.key for row in changed if not row.live)
