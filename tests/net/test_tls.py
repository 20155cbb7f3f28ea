"""Certificates: what handshakes see of them, and how they change under connections that are open."""

from __future__ import annotations

import datetime
import functools
import hashlib
import ipaddress
import json
import shutil
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from io import StringIO
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from fawa.net.tls import (
    DAY,
    Certificate,
    CertificateSource,
    TlsError,
    development_certificate,
    load_certificate,
    renewal_delay,
    rotate,
    server_context,
)
from fawa.ops import logging

NOW = 1_800_000_000.0
EC: Callable[[], ec.EllipticCurvePrivateKey] = functools.partial(ec.generate_private_key, ec.SECP256R1())
RSA: Callable[[], rsa.RSAPrivateKey] = functools.partial(rsa.generate_private_key, 65537, 2048)


def write_pair(
    folder: Path,
    name: str = "own",
    make_key: Callable[[], ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey] = EC,
    *,
    password: bytes | None = None,
    key_format: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8,
    names: Sequence[str] = ("localhost",),
) -> tuple[Path, Path]:
    """Write a self-signed certificate, valid for 10 days from NOW, and its key."""
    key = make_key()
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    start = datetime.datetime.fromtimestamp(NOW, datetime.UTC)
    builder = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=10))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), False)
    cert_path, key_path = folder / f"{name}.crt", folder / f"{name}.key"
    certificate = builder.sign(key, hashes.SHA256())
    cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    encryption: serialization.KeySerializationEncryption = (
        serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    )
    key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, key_format, encryption))
    return cert_path, key_path


# Handshakes

MemoryStream = trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]


@attrs.frozen
class Connected:
    """Both ends of a TLS connection."""

    client: trio.SSLStream[MemoryStream]
    server: trio.SSLStream[MemoryStream]

    @property
    def certificate(self) -> bytes:
        """SHA-256 of the certificate that the client got."""
        der = self.client.getpeercert(binary_form=True)
        return hashlib.sha256(der).digest()

    async def talk(self, message: bytes) -> None:
        """Send a message each way."""
        for sender, receiver in ((self.client, self.server), (self.server, self.client)):
            await sender.send_all(message)
            assert await receiver.receive_some(1000) == message


def client_context(*alpn: str, trust: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=trust)
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python 3.13 does by itself
    if trust is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(alpn)
    return context


@asynccontextmanager
async def connected(
    server: ssl.SSLContext, client: ssl.SSLContext | None = None, name: str | None = "localhost"
) -> AsyncIterator[Connected]:
    client_end, server_end = trio.testing.memory_stream_pair()
    context = client_context("h2") if client is None else client
    pair = Connected(
        trio.SSLStream(client_end, context, server_hostname=name, https_compatible=True),
        trio.SSLStream(server_end, server, server_side=True, https_compatible=True),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.server.do_handshake)
        await pair.client.do_handshake()
    try:
        yield pair
    finally:
        await trio.aclose_forcefully(pair.client)
        await trio.aclose_forcefully(pair.server)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "workstation.example"])
async def test_clients_that_trust_the_development_certificate_accept_every_name(
    tmp_path: Path, name: str
) -> None:
    now = datetime.datetime.now(datetime.UTC).timestamp()  # clients look at the real clock
    certificate = development_certificate(tmp_path, now, "workstation.example")
    client = client_context("h2", trust=tmp_path / "dev-cert.pem")
    async with connected(CertificateSource(certificate).context, client, name) as pair:
        await pair.talk(b"hello")
        assert pair.certificate == certificate.sha256


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["h2", "http/1.1"], "h2"),
        (["http/1.1", "h2"], "h2"),
        (["http/1.1"], "http/1.1"),
        (["h3", "spdy/1"], None),
        ([], None),
    ],
)
@pytest.mark.parametrize("switched", [False, True])
async def test_which_protocol_is_chosen(
    tmp_path: Path, offered: list[str], chosen: str | None, switched: bool
) -> None:
    certificate = load_certificate(*write_pair(tmp_path))
    context = CertificateSource(certificate).context if switched else certificate.context
    async with connected(context, client_context(*offered)) as pair:
        assert pair.client.selected_alpn_protocol() == chosen
        assert pair.server.selected_alpn_protocol() == chosen


@pytest.mark.parametrize("make_key", [EC, RSA])
async def test_tls_1_2_comes_with_forward_secrecy_and_aead_only(
    tmp_path: Path, make_key: Callable[[], ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey]
) -> None:
    context = CertificateSource(load_certificate(*write_pair(tmp_path, make_key=make_key))).context
    client = client_context()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    async with connected(context, client) as pair:
        name, version, _ = pair.server.cipher()
        assert version == "TLSv1.2"
        assert name.startswith("ECDHE-")
        assert "GCM" in name
        assert pair.server.compression() is None
    client.set_ciphers("AES128-SHA:AES256-GCM-SHA384:ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES128-SHA")
    with pytest.RaisesGroup(trio.BrokenResourceError, allow_unwrapped=True, flatten_subgroups=True):
        async with connected(context, client):
            pass


def test_older_versions_are_refused(tmp_path: Path) -> None:
    for context in (server_context(*write_pair(tmp_path)), source_of(tmp_path).context):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_COMPRESSION
        assert context.options & ssl.OP_NO_RENEGOTIATION


# Changing certificates


def source_of(folder: Path) -> CertificateSource:
    return CertificateSource(load_certificate(*write_pair(folder, "first")))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["localhost", None])
async def test_a_reload_changes_new_connections_and_leaves_open_ones(
    tmp_path: Path, version: ssl.TLSVersion, name: str | None
) -> None:
    client = client_context("h2")
    client.maximum_version = version
    source = source_of(tmp_path)
    first, context = source.current, source.context
    async with connected(context, client, name) as before:
        # To another type of key: loaded into the same context, it would stand beside the first one.
        second = await source.reload(*write_pair(tmp_path, "second", RSA))
        assert source.current is second
        assert source.context is context
        async with connected(context, client, name) as after:
            third = await source.reload(*write_pair(tmp_path, "third"))
            for pair, certificate in ((before, first), (after, second), (before, first)):
                await pair.talk(b"still here")
                assert pair.certificate == certificate.sha256
        async with connected(context, client, name) as last:
            assert last.certificate == third.sha256
            assert last.server.selected_alpn_protocol() == "h2"


async def test_a_reload_that_fails_changes_nothing(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    first = source.current
    cert, _ = write_pair(tmp_path, "second")
    with pytest.raises(TlsError):
        await source.reload(cert, tmp_path / "first.key")
    assert source.current is first
    async with connected(source.context) as pair:
        assert pair.certificate == first.sha256


async def test_a_session_is_resumed_across_a_reload(tmp_path: Path) -> None:
    client = client_context()
    client.maximum_version = ssl.TLSVersion.TLSv1_2  # where the ticket comes within the handshake
    source = source_of(tmp_path)
    async with connected(source.context, client) as pair:
        session = pair.client.session
    await source.reload(*write_pair(tmp_path, "second"))
    client_end, server_end = trio.testing.memory_stream_pair()
    resumed = trio.SSLStream(client_end, client, server_hostname="localhost")
    resumed.session = session
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.SSLStream(server_end, source.context, server_side=True).do_handshake)
        await resumed.do_handshake()
    assert resumed.session_reused


# Files that cannot be used


def garbage(folder: Path) -> tuple[Path, Path]:
    cert, key = write_pair(folder)
    cert.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    return cert, key


def swapped(folder: Path) -> tuple[Path, Path]:
    cert, key = write_pair(folder)
    return key, cert


def mismatched(folder: Path) -> tuple[Path, Path]:
    return write_pair(folder)[0], write_pair(folder, "other")[1]


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda d: (d / "no.crt", write_pair(d)[1]), "the certificate {}/no.crt does not exist"),
        (lambda d: (write_pair(d)[0], d / "no.key"), "the key {}/no.key does not exist"),
        (lambda d: (d, write_pair(d)[1]), "the certificate {} cannot be read: Is a directory"),
        (lambda d: (write_pair(d)[0], d), "the key {} cannot be read: Is a directory"),
        (swapped, "the certificate {}/own.key has no PEM certificate in it"),
        (lambda d: (write_pair(d)[0],) * 2, "the key {}/own.crt has no PEM private key in it"),
        (mismatched, "the key {}/other.key does not belong to the certificate {}/own.crt"),
        (garbage, "the certificate {}/own.crt and the key {}/own.key cannot be loaded: damaged PEM"),
        (
            functools.partial(write_pair, password=b"open sesame"),
            "the key {0}/own.key is encrypted; decrypt it with: openssl pkey -in {0}/own.key -out NEW",
        ),
        (
            functools.partial(
                write_pair,
                password=b"open sesame",
                key_format=serialization.PrivateFormat.TraditionalOpenSSL,
            ),
            "the key {0}/own.key is encrypted; decrypt it with: openssl pkey -in {0}/own.key -out NEW",
        ),
    ],
)
def test_files_that_cannot_be_used(
    tmp_path: Path, make: Callable[[Path], tuple[Path, Path]], problem: str
) -> None:
    with pytest.raises(TlsError) as caught:
        load_certificate(*make(tmp_path))
    assert str(caught.value) == problem.replace("{}", "{0}").format(tmp_path)


@pytest.mark.parametrize(
    ("day", "warning"),
    [
        (-1, "the certificate {} is not valid before 2027-01-15 08:00 UTC"),
        (0, None),
        (9.99, None),
        (10, "the certificate {} expired on 2027-01-25 08:00 UTC; clients will refuse it"),
    ],
)
def test_dates_that_clients_will_mind(tmp_path: Path, day: float, warning: str | None) -> None:
    cert, key = write_pair(tmp_path)
    told = load_certificate(cert, key).warning(NOW + day * DAY)
    assert told == (warning and warning.format(cert))


def test_a_certificate_without_alternative_names(tmp_path: Path) -> None:
    assert load_certificate(*write_pair(tmp_path, names=())).names == ()


# The development certificate


def test_what_the_development_certificate_is(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "tls"
    made = development_certificate(folder, NOW, "workstation")
    certificate = x509.load_pem_x509_certificate((folder / "dev-cert.pem").read_bytes())
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "workstation"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("127.0.0.1"),
        ipaddress.ip_address("::1"),
    ]
    assert made.names == ("localhost", "127.0.0.1", "::1", "workstation")
    assert made.sha256 == hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest()
    assert made.not_before < NOW
    assert made.not_after - made.not_before == 13 * DAY
    assert made.warning(NOW) is None
    modes = {path.name: path.stat().st_mode & 0o777 for path in (folder, *folder.glob("*.pem"))}
    files = {"dev-cert.pem", "dev-key.pem", "dev-next-cert.pem", "dev-next-key.pem"}
    assert modes == {"tls": 0o700, **dict.fromkeys(files, 0o600)}
    assert {path.name for path in folder.iterdir()} == {*files, "lock"}


@pytest.mark.parametrize("hostname", ["", "localhost", "größe"])
def test_host_names_that_add_nothing(tmp_path: Path, hostname: str) -> None:
    assert development_certificate(tmp_path, NOW, hostname).names == ("localhost", "127.0.0.1", "::1")


def make_again(folder: Path, now: float = NOW, hostname: str = "host") -> bool:
    """Ask again for the certificate made at NOW; return whether it is another one."""
    kept = (folder / "dev-cert.pem").read_bytes()
    certificate = development_certificate(folder, now, hostname)
    assert certificate.warning(now) is None
    return (folder / "dev-cert.pem").read_bytes() != kept


def test_it_is_kept_until_two_days_remain(tmp_path: Path) -> None:
    made = development_certificate(tmp_path, NOW, "host")
    assert not make_again(tmp_path)
    assert not make_again(tmp_path, made.not_after - 2 * DAY - 1)
    assert make_again(tmp_path, made.not_after - 2 * DAY)


def corrupt(folder: Path) -> None:
    (folder / "dev-cert.pem").write_text("not a certificate")


def crashed_between_key_and_certificate(folder: Path) -> None:
    _, key = write_pair(folder, "new")
    key.replace(folder / "dev-key.pem")


@pytest.mark.parametrize(
    "spoil",
    [
        corrupt,
        crashed_between_key_and_certificate,
        lambda folder: (folder / "dev-key.pem").unlink(),
    ],
)
def test_it_is_made_anew_when_it_is_unusable(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    development_certificate(tmp_path, NOW, "host")
    spoil(tmp_path)
    assert make_again(tmp_path)
    assert not make_again(tmp_path)


def test_it_is_made_anew_for_another_host_or_a_clock_set_back(tmp_path: Path) -> None:
    development_certificate(tmp_path, NOW, "host")
    assert make_again(tmp_path, hostname="renamed")
    assert make_again(tmp_path, NOW - 30 * DAY, "renamed")


def test_what_a_crash_left_behind_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "dev-key.pem.new").write_text("half a k")
    development_certificate(tmp_path, NOW, "host")
    assert not (tmp_path / "dev-key.pem.new").exists()


def test_the_successor_is_known_before_it_is_used(tmp_path: Path) -> None:
    first = development_certificate(tmp_path, NOW, "host")
    own, successor = first.pins
    assert own == first.sha256
    # Asking again, as a restart does, changes neither.
    assert development_certificate(tmp_path, NOW + 5 * DAY, "host").pins == first.pins
    turn = first.not_after - 2 * DAY
    second = development_certificate(tmp_path, turn, "host")
    assert second.sha256 == successor == second.pins[0]
    assert second.pins[1] not in first.pins
    assert second.warning(turn) is None
    assert second.not_after - second.not_before == 13 * DAY
    assert development_certificate(tmp_path, turn + DAY, "host").pins == second.pins


def test_a_successor_takes_over_late(tmp_path: Path) -> None:
    first = development_certificate(tmp_path, NOW, "host")
    # A machine that was off until both but the successor had expired, then until that had too.
    late = development_certificate(tmp_path, first.not_after + DAY, "host")
    assert late.sha256 == first.pins[1]
    later = development_certificate(tmp_path, late.not_after + 30 * DAY, "host")
    assert not {*later.pins} & {*late.pins}
    assert later.warning(late.not_after + 30 * DAY) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "dev-next-cert.pem").write_text("not a certificate"),
        lambda folder: (folder / "dev-next-key.pem").unlink(),
        lambda folder: shutil.copy(folder / "dev-key.pem", folder / "dev-next-key.pem"),
    ],
)
def test_a_spoilt_successor_is_made_anew(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    first = development_certificate(tmp_path, NOW, "host")
    spoil(tmp_path)
    again = development_certificate(tmp_path, NOW, "host")
    assert again.sha256 == first.sha256
    assert again.pins[1] not in first.pins
    assert development_certificate(tmp_path, NOW, "host").pins == again.pins


def test_a_crash_in_the_middle_of_the_turn(tmp_path: Path) -> None:
    first = development_certificate(tmp_path, NOW, "host")
    (tmp_path / "dev-next-key.pem").replace(tmp_path / "dev-key.pem")
    turn = first.not_after - 2 * DAY
    second = development_certificate(tmp_path, turn, "host")
    assert second.warning(turn) is None
    assert development_certificate(tmp_path, turn, "host").pins == second.pins


def test_a_certificate_of_somebody_else_is_not_pinned(tmp_path: Path) -> None:
    assert load_certificate(*write_pair(tmp_path)).pins == ()


async def test_those_who_ask_at_once_get_the_same(tmp_path: Path) -> None:
    hashes_seen = set()

    async def ask() -> None:
        certificate = await trio.to_thread.run_sync(development_certificate, tmp_path, NOW, "host")
        hashes_seen.add(certificate.pins)

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(ask)
    assert len(hashes_seen) == 1


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TlsError) as caught:
        development_certificate(tmp_path / "file" / "tls", NOW, "host")
    assert str(caught.value) == (
        f"the development certificate cannot be kept in {tmp_path}/file/tls: Not a directory; "
        "set data_dir to a folder of your own, or tls.cert and tls.key"
    )


# Rotation: each test names the fixture `mock_clock` itself, else pytest-trio does not run under it.


def test_when_it_is_time() -> None:
    assert renewal_delay(NOW + 13 * DAY, NOW) == 11 * DAY
    assert renewal_delay(NOW + 2 * DAY, NOW) == 0
    assert renewal_delay(NOW - DAY, NOW) == 0


@attrs.define
class Rotation:
    """A running `rotate`, under a clock that only the test moves."""

    clock: trio.testing.MockClock
    source: CertificateSource
    log: StringIO

    async def advance(self, seconds: float) -> None:
        """Let time pass, in steps no longer than the loop's own sleeps."""
        while seconds > 0:
            step = min(seconds, 600.0)
            self.clock.jump(step)
            seconds -= step
            await trio.testing.wait_all_tasks_blocked()

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait, without time passing, for what a thread does."""
        while not done():
            await trio.testing.wait_all_tasks_blocked(0.001)

    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.log.getvalue().splitlines()]


@pytest.fixture
async def rotation(
    tmp_path: Path, mock_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> AsyncIterator[Rotation]:
    log = StringIO()
    start = mock_clock.current_time()

    def wall_clock() -> float:
        return NOW + mock_clock.current_time() - start

    source = CertificateSource(development_certificate(tmp_path / "tls", NOW, "host"))
    logging.configure("info", "json", log)
    nursery.start_soon(
        functools.partial(rotate, source, tmp_path / "tls", hostname="host", wall_clock=wall_clock)
    )
    await trio.testing.wait_all_tasks_blocked()
    yield Rotation(mock_clock, source, log)
    logging.configure()


async def test_rotation_before_expiry(rotation: Rotation, mock_clock: trio.testing.MockClock) -> None:
    first = rotation.source.current
    delay = renewal_delay(first.not_after, NOW)
    await rotation.advance(delay - 1)
    assert rotation.source.current is first
    await rotation.advance(2)
    await rotation.until(lambda: rotation.source.current is not first)
    second = rotation.source.current
    assert second.sha256 == first.pins[1]
    assert second.not_after - first.not_after == pytest.approx(delay, abs=2)
    assert rotation.events() == ["development certificate renewed"]
    async with connected(rotation.source.context) as pair:
        assert pair.certificate == second.sha256


async def test_rotation_that_fails_is_tried_again(
    rotation: Rotation, mock_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    first, folder = rotation.source.current, tmp_path / "tls"
    folder.rename(tmp_path / "away")
    folder.touch()
    await rotation.advance(renewal_delay(first.not_after, NOW) + 1)
    await rotation.until(lambda: bool(rotation.events()))
    assert rotation.events() == ["development certificate not renewed"]
    assert rotation.source.current is first
    folder.unlink()
    await rotation.advance(600)
    await rotation.until(lambda: rotation.source.current is not first)


async def test_rotation_leaves_a_certificate_from_elsewhere_alone(
    rotation: Rotation, mock_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    own: Certificate = await rotation.source.reload(*write_pair(tmp_path))
    await rotation.advance(20 * DAY)
    assert own.warning(NOW + 20 * DAY)
    assert rotation.source.current is own
    assert rotation.events() == []
