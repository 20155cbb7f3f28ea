"""The nursery tree: signals, services, listeners.

    daemon ─┬─ signals
            ├─ admin listener
            └─ services ─┬─ one task each, restarted when it crashes
                         └─ front doors (TCP, QUIC) ── connections ── calls

The front doors stand inside the services' nursery, so calls end before what they use. The admin listener
is there before the services and goes after them, and tells how far they are.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import hmac
import random
import resource
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import trio
from grpclib._typing import IServable

from fawa import __version__, restarts, wiring
from fawa.calls import serve
from fawa.config import Loaded, Settings, UnixAddress, live_changes, origin_allowed
from fawa.net import tls
from fawa.net.connection import Limits
from fawa.net.cors import Cors
from fawa.net.exchange import Exchange
from fawa.net.quic import QuicListener, QuicSettings
from fawa.net.router import Router
from fawa.net.tcp import Access, Endpoint, FrontDoor, Root, bind, bind_unix, bind_with_udp
from fawa.net.udp import UdpSocket
from fawa.ops import descriptors
from fawa.ops.admin import Admin, Check
from fawa.ops.exposition import Exposition
from fawa.ops.logging import access_line, configure, dropped_lines, get_logger
from fawa.ops.memory import keep_freed_memory
from fawa.ops.meters import Figure, Meters, counter, gauge
from fawa.ops.notify import Manager
from fawa.rpc.dialect import Limits as CallLimits
from fawa.services.base import Dependent, Offer, Service, merge_checks
from fawa.services.health import NOT_SERVING, SERVING, Health, HealthState
from fawa.services.page import Page
from fawa.services.reflection import reflection
from fawa.services.wellknown import WebTransportOffer, WellKnown
from fawa.storage.base import OutOfReach

_log = get_logger("fawa.supervisor")

#: Seconds between two starts of a service that waits for what it stands on, at most.
_LONGEST_WAIT: Final = 5.0
#: Seconds to send the last spans when all else has ended.
_FLUSH: Final = 5.0
#: What one client of the admin listener may take: it is a program or two that read a few pages.
_ADMIN_LIMITS: Final = Limits(
    header_timeout=10.0,
    idle_timeout=300.0,
    body_timeout=10.0,
    write_timeout=10.0,
    max_header=16 * 1024,
    max_streams=16,
)
_ADMIN_CONNECTIONS: Final = 64
#: Where `fawa.services.canva` answers.
WEBTRANSPORT_PATH: Final = "/webtransport/canva"
#: Seconds for which clients may remember that there is HTTP/3.
_ALTERNATIVE_AGE: Final = 86_400


if TYPE_CHECKING:
    from fawa.ops.tracing import Tracing


class StartError(Exception):
    """The daemon cannot start; the text says what is wrong and what to do."""


def _door_limits(settings: Settings) -> Limits:
    return Limits(
        header_timeout=settings.timeouts.header,
        idle_timeout=settings.timeouts.idle,
        body_timeout=settings.timeouts.body,
        write_timeout=settings.timeouts.write,
        max_header=settings.limits.max_header,
        max_streams=settings.limits.max_streams,
        stream_window=settings.window.stream,
        connection_window=settings.window.connection,
    )


def _access(settings: Settings, meters: Meters) -> Access:
    """Return what every exchange that is over is told to."""
    if not settings.log.access:
        return meters.call_ended

    def both(exchange: Exchange, seconds: float) -> None:
        meters.call_ended(exchange, seconds)
        _log_access(exchange, seconds)

    return both


def _log_access(exchange: Exchange, seconds: float) -> None:
    access_line(
        method=exchange.method,
        path=exchange.shown_path,
        version=exchange.version,
        status=exchange.status,
        seconds=seconds,
        peer=exchange.peer,
        bytes_in=exchange.bytes_in,
        bytes_out=exchange.bytes_out,
        rpc=exchange.label,
        rpc_status=exchange.code.name if exchange.code is not None else "",
    )


def _quic_settings(settings: Settings) -> QuicSettings:
    return QuicSettings(
        retry=settings.quic.retry,
        idle_timeout=settings.quic.idle_timeout,
        handshake_timeout=settings.timeouts.handshake,
        max_handshakes=settings.quic.max_handshakes,
    )


def _cors(settings: Settings) -> Cors:
    return Cors(functools.partial(origin_allowed, settings.cors.origins))


def _allowed_connections(most: int) -> int:
    """Return how many connections the process's file descriptors allow, at most `most`.

    The soft limit is raised to the hard one first: 1,024, the usual soft limit, is for programs that use
    select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    room = soft - descriptors.SPARE
    if soft == resource.RLIM_INFINITY or most <= room:
        return most
    room = max(room, soft // 2)
    _log.warning("fewer connections than limits.max_connections", wanted=most, allowed=room, descriptors=soft)
    return room


def _rpc_names(offer: Offer) -> set[str]:
    """Return the full names of the RPC services in an offer."""
    return {path.split("/")[1] for implementation in offer.rpc for path in implementation.__mapping__()}


def _innermost(error: Exception) -> Exception:
    """Return the one exception inside nested groups of one."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _quic_figures(quic: QuicListener) -> Iterator[Figure]:
    """Return what is known of QUIC before there is a connection."""
    counts = quic.counts
    yield gauge("fawa_quic_connections", "Open QUIC connections.", lambda: quic.connections)
    yield gauge("fawa_quic_handshakes", "QUIC handshakes under way.", lambda: quic.handshakes)
    yield counter("fawa_quic_handshakes_completed", "QUIC handshakes complete.", lambda: counts.completed)
    yield counter("fawa_quic_handshakes_expired", "Not complete in time.", lambda: counts.expired)
    yield counter("fawa_quic_connections_refused", "QUIC connections over a limit.", lambda: counts.refused)
    yield counter("fawa_quic_retries", "Clients that had to show their address.", lambda: counts.retried)
    yield counter("fawa_quic_stateless_resets", "Packets of forgotten connections.", lambda: counts.reset)
    yield counter("fawa_quic_stray_datagrams", "Datagrams of no connection.", lambda: counts.strays)


@attrs.define
class Supervisor:
    """Starts services and the front door, restarts what crashes, drains at the end."""

    loaded: Loaded
    #: Reads the settings anew, for SIGHUP.
    reload: Callable[[], Loaded]
    services: Sequence[Service]
    #: Who started the process.
    manager: Manager = attrs.field(factory=Manager.of)
    health: HealthState = attrs.field(factory=HealthState, init=False)
    _router: Router = attrs.field(init=False)
    _root: Root = attrs.field(init=False)
    _door: FrontDoor = attrs.field(init=False)
    _call_limits: CallLimits = attrs.field(init=False)
    #: What serves HTTP/3, unless it is turned off.
    _quic: QuicListener | None = attrs.field(default=None, init=False)
    _udp: list[UdpSocket] = attrs.field(factory=list, init=False)
    _certificate: tls.CertificateSource | None = attrs.field(default=None, init=False)
    _meters: Meters = attrs.field(init=False)
    _admin: FrontDoor | None = attrs.field(default=None, init=False)
    _tracing: Tracing | None = attrs.field(default=None, init=False)
    #: The log level that was asked for since the settings were read.
    _level: str | None = attrs.field(default=None, init=False)
    _crashes: Counter[str] = attrs.field(factory=Counter, init=False)
    #: Services that do not run now, and why.
    _away: dict[str, str] = attrs.field(factory=dict, init=False)
    _is_up: bool = attrs.field(default=False, init=False)
    _served: set[str] = attrs.field(factory=set, init=False)
    #: What the services offer, by their names; of one that has not run yet, its outline.
    _offers: dict[str, Offer] = attrs.field(factory=dict, init=False)
    _stop: trio.Event = attrs.field(factory=trio.Event, init=False)
    _given_up: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        settings = self.settings
        self._router = Router(serve.not_found)
        self._meters = Meters(self._router.serves)
        self._root = Root(self._traced(self._router), _cors(settings), _access(settings, self._meters))
        self._call_limits = CallLimits(max_message=settings.limits.max_message)
        most = _allowed_connections(settings.limits.max_connections)
        self._door = FrontDoor(self._root, _door_limits(settings), settings.timeouts.handshake, most)

    def _traced(self, router: Router) -> Router:
        """Return the router, or one whose answers are traced."""
        given = self.settings.tracing
        if not given.endpoint:
            return router
        try:
            from fawa.ops.tracing import TracedRouter, Tracing  # noqa: PLC0415  (an optional extra)
        except ImportError as error:
            text = f"tracing.endpoint is set, but not all that it needs is installed ({error}): "
            text += "pip install 'fawa[tracing]'"
            raise StartError(text) from error
        self._tracing = Tracing(given.endpoint, given.service, given.ratio)
        wiring.trace_stores(self.services, self._tracing.operation)
        return TracedRouter(router, self._tracing)

    @property
    def max_connections(self) -> int:
        """How many connections are let in at once."""
        return self._door.max_connections

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return self._door.connections + (0 if self._quic is None else self._quic.connections)

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.loaded.settings

    async def run(self, task_status: trio.TaskStatus[list[Endpoint]] = trio.TASK_STATUS_IGNORED) -> int:
        """Run the daemon to its end; returns the exit code.

        Raises:
            StartError: it cannot start.

        """
        async with trio.open_nursery() as daemon:
            await daemon.start(self._watch_signals, daemon.cancel_scope)
            await self._start_admin(daemon)
            async with trio.open_nursery() as services:
                for service in self.services:
                    await services.start(self._keep, service)
                self._serve_own()
                endpoints = await self._bind(services)
                async with trio.open_nursery() as listeners:
                    await listeners.start(self._door.run, endpoints)
                    if self._quic is not None:
                        await listeners.start(self._quic.run, self._udp)
                    # What has been made until now stays to the end: no collection need look at it again.
                    gc.collect()
                    gc.freeze()
                    keep_freed_memory()
                    self._is_up = True
                    self._announce(endpoints)
                    task_status.started(endpoints)
                    await self._stop.wait()
                    grace = self.settings.drain_grace
                    _log.info("draining", connections=self.connections, grace=grace)
                    self.manager.stopping(f"draining, for up to {grace:g} s")
                    self.health.close()
                    self._door.drain(grace)
                    if self._quic is not None:
                        self._quic.drain(grace)
                    for offer in self._offers.values():
                        offer.drain()
                services.cancel_scope.cancel()
            daemon.cancel_scope.cancel()
        if self._tracing is not None:
            await self._tracing.close(_FLUSH)
        _log.info("stopped")
        return 1 if self._given_up else 0

    # Services

    async def _keep(self, service: Service, task_status: trio.TaskStatus[None]) -> None:
        """Run a service and start it again when it crashes, until it has crashed too often.

        One that cannot start because what it stands on is away is no crash: it is tried again and again.
        """
        crashes = restarts.CrashCount(self.settings.restart.max_crashes, self.settings.restart.window)
        offer = service.outline() if isinstance(service, Dependent) else Offer()
        self._offers[service.name] = offer
        has_run, told, waits = False, False, 0
        while True:
            try:
                async with trio.open_nursery() as nursery:
                    offer = await nursery.start(service.run)
                    self._open(service.name, offer)
                    has_run, waits = True, 0
                    if not told:
                        told = True
                        task_status.started()
                fault: Exception = RuntimeError("it ended by itself")
            except Exception as error:
                fault = _innermost(error)
            if isinstance(fault, OutOfReach):
                waits += 1
                seconds = self._put_off(service.name, offer, fault, waits)
                if not told:
                    told = True
                    task_status.started()
                await trio.sleep(seconds)
                continue
            if not has_run:
                raise StartError(f"service {service.name!r} cannot start: {fault}") from fault
            text = f"service {service.name!r} is starting again, try later"
            self._close(service.name, offer, text, "starting again after a crash")
            self._crashes[service.name] += 1
            try:
                number = crashes.add(trio.current_time())
            except restarts.GivenUp as given_up:
                _log.error("service given up", service=service.name, reason=str(given_up), exc_info=fault)
                self._given_up = True
                self._stop.set()
                return
            seconds = restarts.pause(number, random.random())  # noqa: S311 - jitter, not a secret
            _log.error(
                "service crashed",
                service=service.name,
                crashes=number,
                restart_in=round(seconds, 3),
                exc_info=fault,
            )
            await trio.sleep(seconds)

    def _put_off(self, name: str, offer: Offer, fault: OutOfReach, number: int) -> float:
        """Say what a service waits for, the `number`th time; return the seconds until it is tried again."""
        self._close(name, offer, fault.told, f"waits for {fault.backend}: {fault}")
        if number == 1:
            _log.warning("service waits", service=name, backend=fault.backend, reason=str(fault))
        return min(restarts.pause(number, random.random()), _LONGEST_WAIT)  # noqa: S311 - jitter

    def _open(self, name: str, offer: Offer) -> None:
        """Serve what a service offers."""
        self._offers[name] = offer
        self._away.pop(name, None)
        self._router.add({**offer.http, **serve.routes(offer.rpc, self._call_limits)})
        for rpc_name in _rpc_names(offer):
            self._served.add(rpc_name)
            self.health.set(rpc_name, SERVING)
        _log.info("service started", service=name)

    def _close(self, name: str, offer: Offer, text: str, reason: str) -> None:
        """Answer that a service is away: clients with `text`, operators with `reason`."""
        self._away[name] = reason
        self._router.add(serve.unavailable(offer.rpc, offer.http, self._call_limits, text))
        for rpc_name in _rpc_names(offer):
            self.health.set(rpc_name, NOT_SERVING)

    def _serve_own(self) -> None:
        """Serve what belongs to the daemon itself: health, reflection, the page."""
        own: tuple[IServable, ...] = (Health(self.health),)
        if self.settings.reflection:
            own += reflection(lambda: self._served)
        page = Page.load(self._webtransport_port)
        self._open("daemon", Offer(rpc=own, http={**page.routes, **WellKnown(self._webtransport).routes}))

    def _webtransport_port(self) -> int | None:
        """Return where clients reach WebTransport, if it is there."""
        if self._quic is None or "canva" not in self.settings.services:
            return None
        return self._public_udp_port

    def _webtransport(self) -> WebTransportOffer | None:
        port = self._webtransport_port()
        if port is None or self._certificate is None:
            return None
        return WebTransportOffer(port, WEBTRANSPORT_PATH, self._certificate.current.pins)

    @property
    def _public_udp_port(self) -> int:
        """The port by which clients reach QUIC, whatever stands in between."""
        return self.settings.quic.public_port or int(self._udp[0].address.rpartition(":")[2])

    # The admin listener

    async def _start_admin(self, nursery: trio.Nursery) -> None:
        settings = self.settings.admin
        nursery.start_soon(self._meters.watch_lag)
        if settings.listen is None:
            return
        router = Router(serve.not_found)
        router.add(self._make_admin(settings.token).routes)
        # No page of the web may read this, and nothing of it is logged: probes come every second.
        root = Root(router, Cors(lambda origin: False), None)
        try:
            if isinstance(settings.listen, UnixAddress):
                endpoints = [bind_unix(Path(settings.listen.path))]
            else:
                endpoints = await bind(settings.listen.host, settings.listen.port)
        except OSError as error:
            raise StartError(f"admin.listen: {error.strerror or error}") from error
        self._admin = FrontDoor(root, _ADMIN_LIMITS, _ADMIN_LIMITS.header_timeout, _ADMIN_CONNECTIONS)
        await nursery.start(self._admin.run, endpoints)
        _log.info("admin", listen=" ".join(endpoint.address for endpoint in endpoints))

    def _make_admin(self, token: str | None) -> Admin:
        return Admin(
            reasons=self._reasons,
            checks=self._checks,
            metrics=Exposition(self._meters, self._figures).render,
            get_level=lambda: self._level or self.settings.log.level,
            set_level=self._set_level,
            token=token,
        )

    def _reasons(self) -> Mapping[str, str]:
        """Return why no new clients should be sent here."""
        found = {service.name: "ok" for service in self.services}
        found |= self._away
        if not self._is_up:
            found["daemon"] = "starting"
        if self._stop.is_set():
            found["daemon"] = "draining"
        return found

    def _checks(self) -> Mapping[str, Check]:
        """Return what the services depend on."""
        return merge_checks(named for offer in self._offers.values() for named in offer.checks.items())

    def _set_level(self, level: str) -> None:
        if level not in ("debug", "info", "warning", "error"):
            raise ValueError(f"{level!r} is no log level: debug, info, warning or error")
        self._level = level
        log = self.settings.log
        configure(level, log.format, access=log.access)
        _log.warning("log level changed", level=level)

    def _figures(self) -> Iterator[Figure]:
        """Return the numbers that are read when somebody asks for metrics."""
        door = self._door
        yield Figure("fawa_build_info", "The version.", lambda: [((__version__,), 1)], ("version",))
        yield gauge("fawa_ready", "Whether clients should be sent here.", self._is_ready)
        yield Figure(
            "fawa_service_up",
            "Whether a service runs.",
            lambda: [((service.name,), service.name not in self._away) for service in self.services],
            ("service",),
        )
        yield Figure(
            "fawa_service_crashes",
            "Crashes of a service.",
            lambda: [((service.name,), self._crashes[service.name]) for service in self.services],
            ("service",),
            counts=True,
        )
        yield gauge("fawa_tcp_connections", "Open TCP connections.", lambda: door.connections)
        yield counter("fawa_tcp_connections_accepted", "TCP connections let in.", lambda: door.accepted)
        yield counter("fawa_tcp_connections_refused", "TCP connections over the limit.", lambda: door.refused)
        if (quic := self._quic) is not None:
            yield from _quic_figures(quic)
        yield counter("fawa_log_lines_dropped", "Log lines that could not be written.", dropped_lines)
        for offer in self._offers.values():
            yield from offer.figures

    def _is_ready(self) -> bool:
        return all(text == "ok" for text in self._reasons().values())

    # Listeners

    async def _bind(self, nursery: trio.Nursery) -> list[Endpoint]:
        settings = self.settings
        endpoints: list[Endpoint] = []
        try:
            if settings.listen is not None:
                endpoints += await bind(settings.listen.host, settings.listen.port)
            if settings.listen_tls is not None:
                certificate = tls.CertificateSource(await self._load_certificate())
                self._certificate = certificate
                # Leaves alone what is not the development certificate.
                nursery.start_soon(tls.rotate, certificate, self._tls_folder)
                if settings.quic.enabled:
                    secure, self._udp = await bind_with_udp(
                        settings.listen_tls.host, settings.listen_tls.port, certificate.context
                    )
                    self._quic = self._make_quic(certificate)
                    self._root.alternative = b'h3=":%d"; ma=%d' % (self._public_udp_port, _ALTERNATIVE_AGE)
                else:
                    secure = await bind(
                        settings.listen_tls.host, settings.listen_tls.port, certificate.context
                    )
                endpoints += secure
        except OSError as error:
            raise StartError(error.strerror or str(error)) from error
        except tls.TlsError as error:
            raise StartError(str(error)) from error
        return endpoints

    def _make_quic(self, certificate: tls.CertificateSource) -> QuicListener:
        # A daemon that starts again under the same key can so reset the connections of its predecessor.
        secret = hmac.digest(certificate.current.key, b"fawa stateless reset", hashlib.sha256)
        return QuicListener(
            self._root,
            _door_limits(self.settings),
            _quic_settings(self.settings),
            certificate,
            secret,
            self._door.max_connections,
        )

    async def _load_certificate(self) -> tls.Certificate:
        """Return the configured certificate, or the development one.

        Raises:
            tls.TlsError: it cannot be used.

        """
        cert, key = self.settings.tls.cert, self.settings.tls.key
        if cert is None or key is None:
            name = socket.gethostname()
            make = functools.partial(tls.development_certificate, self._tls_folder, time.time(), name)
            return await trio.to_thread.run_sync(make)
        certificate = await trio.to_thread.run_sync(tls.load_certificate, cert, key)
        if warning := certificate.warning(time.time()):
            _log.warning("certificate", reason=warning)
        return certificate

    @property
    def _tls_folder(self) -> Path:
        return self.settings.data_dir / "tls"

    def _announce(self, endpoints: Sequence[Endpoint]) -> None:
        plain = [endpoint.address for endpoint in endpoints if endpoint.tls is None]
        secure = [endpoint.address for endpoint in endpoints if endpoint.tls is not None]
        scheme, first = ("http", plain[0]) if plain else ("https", secure[0])
        _log.info(
            "ready",
            url=f"{scheme}://{first}/",
            listen=" ".join(plain),
            listen_tls=" ".join(secure),
            listen_quic=" ".join(sock.address for sock in self._udp),
            version=__version__,
        )
        self.manager.ready(f"serving at {scheme}://{first}/")

    # Signals

    async def _watch_signals(self, daemon: trio.CancelScope, task_status: trio.TaskStatus[None]) -> None:
        """SIGTERM and SIGINT drain, a second one ends at once; SIGHUP reads the settings again."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    await self.reload_now()
                elif self._stop.is_set():
                    _log.warning("stopping at once", signal=signal.Signals(number).name)
                    daemon.cancel()
                else:
                    _log.info("stopping", signal=signal.Signals(number).name)
                    self._stop.set()

    async def reload_now(self) -> None:
        """Read settings and certificates again; the log names what cannot change in a running daemon."""
        self.manager.reloading()
        reloaded = await self._reload()
        # A signal may come before the start is done, or in the drain: then this is not what is to be said.
        if self._is_up and not self._stop.is_set():
            self.manager.ready("serving" if reloaded else "serving by the settings as they were: see the log")

    async def _reload(self) -> bool:
        try:
            new = await trio.to_thread.run_sync(self.reload)
        except Exception as error:
            _log.error("settings not reloaded", reason=str(error))
            return False
        live, later = live_changes(self.settings, new.settings)
        self.loaded = new
        self._level = None
        configure(new.settings.log.level, new.settings.log.format, access=new.settings.log.access)
        self._root.cors = _cors(new.settings)
        self._root.access = _access(new.settings, self._meters)
        self._door.max_connections = _allowed_connections(new.settings.limits.max_connections)
        if self._quic is not None:
            self._quic.max_connections = self._door.max_connections
        wiring.change_settings(self.services, new.settings)
        if self._certificate is not None:
            try:
                self._certificate.replace(await self._load_certificate())
            except tls.TlsError as error:
                _log.error("certificate not reloaded", reason=str(error))
        _log.info("settings reloaded", changed=list(live), need_restart=list(later))
        return True
