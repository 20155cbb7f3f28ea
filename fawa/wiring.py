"""The services that settings enable, each over its backends: the only module that names those."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import attrs

from fawa.board.board import BoardLimits
from fawa.config import Settings, origin_allowed
from fawa.rooms.rooms import Rooms, RoomsSettings
from fawa.services.addresses import Proxies
from fawa.services.admission import Admission, AdmissionSettings
from fawa.services.base import Service
from fawa.services.board import BoardService
from fawa.services.canva import CanvaService, CanvaSettings
from fawa.services.canva_client import SocketSettings
from fawa.services.canvax import CanvaxService
from fawa.services.file import FileService
from fawa.services.file_settings import FileSettings
from fawa.services.greet import GreetService
from fawa.services.quotas import QuotaSettings
from fawa.services.ratelimit import Rate
from fawa.services.sharing import SharingSettings
from fawa.storage import boards, filesystem, leases, probing, sqlite, uploads, watched, watching
from fawa.storage.base import BoardStore, ContentStore, MetadataStore, UploadStore
from fawa.storage.secret import load_or_create_secret

if TYPE_CHECKING:
    from fawa.storage.s3_client import S3Settings

S = TypeVar("S")


async def make_services(settings: Settings) -> list[Service]:
    """Return the enabled services over their backends.

    Raises:
        StorageError: the secret that signs links cannot be read or made.

    """
    services: list[Service] = []
    admission: Admission | None = None
    if {"canva", "canvax"} & set(settings.services):
        # One set of boards, on which those who come by either meet.
        rooms = Rooms(await _link_secret(settings), _rooms_settings(settings))
        watch = watching.StoreWatch("boards", _records_backend(settings))
        opener = _watching(watched.watched_boards, watch, _stores(settings).boards)
        services.append(BoardService(rooms, opener, watches=(watch,)))
        admission = Admission(rooms, _admission_settings(settings))
    for name in settings.services:
        if name == "greet":
            services.append(GreetService())
        elif name == "file":
            services.append(_file_service(settings, await _link_secret(settings)))
        elif name == "canva" and admission is not None:
            services.append(CanvaService(admission, _canva_settings(settings)))
        elif name == "canvax" and admission is not None:
            services.append(CanvaxService(admission, _event_rate(settings)))
    return services


def _file_service(settings: Settings, secret: bytes) -> FileService:
    stores, backend = _stores(settings), _records_backend(settings)
    content = watching.StoreWatch("content", "s3" if settings.s3.endpoint else "filesystem")
    records, uploads_, leases_ = (
        watching.StoreWatch(store, backend) for store in ("records", "uploads", "leases")
    )
    return FileService(
        open_content=_watching(watched.watched_content, content, _content_opener(settings)),
        open_metadata=_watching(watched.watched_metadata, records, stores.metadata),
        open_uploads=_watching(watched.watched_uploads, uploads_, stores.uploads),
        open_leases=_watching(watched.watched_leases, leases_, stores.leases),
        secret=secret,
        settings=_file_settings(settings),
        watches=(content, records, uploads_, leases_),
    )


def _watching(
    wrap: Callable[[watching.StoreWatch, AbstractAsyncContextManager[S]], AbstractAsyncContextManager[S]],
    watch: watching.StoreWatch,
    opener: Callable[[], AbstractAsyncContextManager[S]],
) -> Callable[[], AbstractAsyncContextManager[S]]:
    """Return what opens a store that is watched."""
    return lambda: wrap(watch, opener())


def _records_backend(settings: Settings) -> str:
    return "sqlite" if settings.redis.url is None else "redis"


def trace_stores(services: Iterable[Service], trace: watching.Trace) -> None:
    """Have what services ask of their stores traced."""
    for service in services:
        if isinstance(service, FileService | BoardService):
            for watch in service.watches:
                watch.trace = trace


def change_settings(services: Iterable[Service], settings: Settings) -> None:
    """Give running services what is set of them now."""
    for service in services:
        match service:
            case FileService():
                service.settings = _file_settings(settings)
            case BoardService():
                service.rooms.settings = _rooms_settings(settings)
            case CanvaService():
                service.admission.settings = _admission_settings(settings)
                service.settings = _canva_settings(settings)
            case CanvaxService():
                service.admission.settings = _admission_settings(settings)
                service.event_rate = _event_rate(settings)


@attrs.frozen
class _Stores:
    """What opens the stores that daemons may share."""

    metadata: Callable[[], AbstractAsyncContextManager[MetadataStore]]
    uploads: Callable[[], AbstractAsyncContextManager[UploadStore]]
    boards: Callable[[], AbstractAsyncContextManager[BoardStore]]
    leases: Callable[[], AbstractAsyncContextManager[leases.Leases]]


def _stores(settings: Settings) -> _Stores:
    """Return Redis's when it is set, else the embedded ones."""
    folder, address = settings.data_dir, settings.redis.url
    if address is None:
        return _Stores(
            functools.partial(sqlite.metadata_store, folder / "files.sqlite3"),
            functools.partial(uploads.upload_store, folder / "uploads.sqlite3"),
            functools.partial(boards.board_store, folder / "boards.sqlite3"),
            leases.embedded_leases,
        )
    from fawa.storage import redis, redis_uploads  # noqa: PLC0415  (loads coredis, a third of a second)

    at: tuple[Any, ...] = (address, settings.redis.ca)
    return _Stores(
        functools.partial(redis.metadata_store, *at),
        functools.partial(redis_uploads.upload_store, *at),
        functools.partial(redis.board_store, *at),
        functools.partial(redis.lease_store, *at),
    )


def probes(
    settings: Settings, clock: Callable[[], float]
) -> dict[str, Callable[[], Awaitable[float | None]]]:
    """Return what tries whether the services that are set can be used, by their names.

    Each raises `StorageError` when not, and returns how many seconds the service's clock is ahead of `clock`,
    which gives Unix seconds; `None` where it does not tell the time.
    """
    found: dict[str, Callable[[], Awaitable[float | None]]] = {}
    if settings.redis.url is not None:
        stores = _stores(settings)

        async def redis() -> None:
            await probing.probe_records(stores.metadata, clock())
            await probing.probe_boards(stores.boards, clock())
            await probing.probe_leases(stores.leases)

        found["Redis"] = redis
    if settings.s3.endpoint:
        from fawa.storage.s3_probe import probe_bucket  # noqa: PLC0415

        found["S3"] = functools.partial(probe_bucket, _bucket(settings), clock)
    return found


async def _link_secret(settings: Settings) -> bytes:
    if settings.link_secret is not None:
        return settings.link_secret.encode()
    return await load_or_create_secret(settings.data_dir / "link-secret")


def _content_opener(settings: Settings) -> Callable[[], AbstractAsyncContextManager[ContentStore]]:
    """Return what opens the place where files are kept."""
    if not settings.s3.endpoint:
        return functools.partial(filesystem.content_store, settings.data_dir / "files")
    # Those who keep files in a folder need no HTTP client in memory.
    from fawa.storage import s3  # noqa: PLC0415

    return functools.partial(s3.content_store, _bucket(settings))


def _bucket(settings: Settings) -> S3Settings:
    """Return where the bucket is."""
    from fawa.storage.s3_client import S3Settings  # noqa: PLC0415
    from fawa.storage.sigv4 import Credentials  # noqa: PLC0415

    given = settings.s3
    return S3Settings(
        endpoint=given.endpoint,
        bucket=given.bucket,
        credentials=Credentials(given.access_key, given.secret_key or "", given.region),
        prefix=given.prefix,
        virtual_host=given.virtual_host,
        ca=given.ca,
        public_endpoint=given.public_endpoint,
        abort_after=given.abort_after,
    )


def _file_settings(settings: Settings) -> FileSettings:
    """Return what is set of the file service."""
    return FileSettings(
        ttl=settings.file.ttl,
        upload_ttl=settings.file.upload_ttl,
        link_ttl=settings.file.link_ttl,
        sweep_interval=settings.file.sweep_interval,
        progress_timeout=settings.file.progress_timeout,
        max_file_size=settings.file.max_size,
        public_url=settings.public_url,
        sharing=SharingSettings(
            min_ttl=settings.file.min_ttl,
            max_ttl=settings.file.max_ttl,
            wrong_keys=Rate(settings.file.wrong_keys, settings.file.wrong_keys_rate / 60),
            proxies=Proxies.of(settings.trusted_proxies),
        ),
        quotas=QuotaSettings(
            total=settings.file.quota,
            per_address=settings.file.quota_per_address,
            min_free=settings.file.min_free,
            proxies=Proxies.of(settings.trusted_proxies),
            lease=2 * settings.file.progress_timeout + 60,
        ),
    )


def _rooms_settings(settings: Settings) -> RoomsSettings:
    """Return what is set of boards."""
    board = settings.board
    limits = BoardLimits(
        history=board.history,
        snapshot=board.snapshot,
        backlog=board.backlog,
        stall=board.stall,
        peers=board.max_peers,
        idle=board.idle,
    )
    return RoomsSettings(
        limits=limits,
        tick=board.tick,
        grace=board.grace,
        autosave=board.autosave,
        max_kept=board.max_kept,
        max_boards=board.max_boards,
    )


def _admission_settings(settings: Settings) -> AdmissionSettings:
    """Return what is set of who comes to a board."""
    board = settings.board
    return AdmissionSettings(
        wrong_codes=Rate(board.wrong_codes, board.wrong_codes_rate / 60),
        creates=Rate(board.creates, board.creates_rate / 60),
        proxies=Proxies.of(settings.trusted_proxies),
    )


def _canva_settings(settings: Settings) -> CanvaSettings:
    """Return what is set of boards for browsers."""
    return CanvaSettings(
        # The page itself, too: over WebTransport it comes to another port than it was got from.
        allows=functools.partial(origin_allowed, (*settings.cors.origins, *_public_origin(settings))),
        socket=SocketSettings(max_message=settings.board.max_message, event_rate=_event_rate(settings)),
    )


def _public_origin(settings: Settings) -> tuple[str, ...]:
    """Return the origin of what is served under `public_url`, if that is set (RFC 6454, section 6.1)."""
    parts = urlsplit(settings.public_url)
    if not parts.hostname:
        return ()
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    default = {"http": 80, "https": 443}.get(parts.scheme)
    port = "" if parts.port in (None, default) else f":{parts.port}"
    return (f"{parts.scheme}://{host}{port}",)


def _event_rate(settings: Settings) -> Rate:
    """Return how fast one client may draw; it may draw two seconds' worth at once."""
    rate = settings.board.max_event_rate
    return Rate(2 * rate, rate)
