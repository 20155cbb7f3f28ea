"""HTTP/3 by clients of other code bases: `buf curl` (quic-go) and niquests (qh3), on a real daemon."""

from __future__ import annotations

import base64
import hashlib
import signal
import ssl
import time
from pathlib import Path
from typing import Any

import niquests
import pytest

from fawa.net.tls import development_certificate
from tests.daemon import running
from tests.interop import expect
from tests.interop.programs import program, run
from tests.interop.target import Target
from tests.interop.test_buf_curl import call, flags, names


@pytest.mark.parametrize("protocol", ["connect", "grpc", "grpcweb"])
def test_all_four_kinds(tls: Target, protocol: str) -> None:
    options = [*flags(tls, f"{protocol}-h3"), "--http3"]
    two = ("Zoë", "李雷 🦊")
    assert call(tls, options, expect.UNARY, *names("Zoë")) == [{"resp": expect.greeting("Zoë")}]
    parts = call(tls, options, expect.SERVER_STREAM, *names("Zoë"))
    assert [message["part"] for message in parts] == expect.parts("Zoë")
    assert call(tls, options, expect.CLIENT_STREAM, *names(*two)) == [{"summary": expect.summary(*two)}]
    echoes = call(tls, options, expect.BIDI, *names(*two))
    assert [message["echo"] for message in echoes] == [expect.greeting(name) for name in two]


def test_errors_keep_their_codes(tls: Target) -> None:
    options = [*flags(tls, "grpc-h3"), "--http3"]
    ended = run(
        program("buf"), "curl", *options, "-d", '{"randomkey": "nobody"}', tls.url + expect.DOWNLOAD_URL
    )
    assert ended.returncode == 5 * 8, ended.stderr.decode()


def session(target: Target) -> Any:
    asking = niquests.Session(disable_http1=True, disable_http2=True)
    asking.quic_cache_layer[_place(target)] = _place(target)
    # Its TLS takes no certificate for a root that says it is none; `buf curl` and curl check ours.
    asking.verify = False
    asking.trust_env = False
    return asking


def _place(target: Target) -> tuple[str, int]:
    host, _, port = target.url.removeprefix("https://").partition(":")
    return host, int(port)


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_a_unary_call_and_a_file(tls: Target) -> None:
    data = expect.content(300_000)
    with session(tls) as asking:
        answer = asking.post(tls.url + expect.UNARY, json={"name": "Ada"})
        assert answer.http_version == 30
        assert answer.json() == {"resp": expect.greeting("Ada")}
        head = asking.head(tls.url + "/")
        assert (head.status_code, head.http_version, head.content) == (200, 30, b"")
        key = _upload(tls, data)
        link = asking.post(tls.url + expect.DOWNLOAD_URL, json={"randomkey": key}).json()["url"]
        path = "/" + link.split("/", 3)[3]
        got = asking.get(tls.url + path)
        assert got.http_version == 30
        assert hashlib.sha256(got.content).digest() == hashlib.sha256(data).digest()
        part = asking.get(tls.url + path, headers={"range": "bytes=1000-1999"})
        assert (part.status_code, part.content) == (206, data[1000:2000])


def _upload(target: Target, data: bytes) -> str:
    options = [*flags(target, "grpc-h3"), "--http3"]
    upload: list[dict[str, Any]] = [{"info": {"name": "a.bin", "size": len(data)}}]
    upload += [
        {"chunkData": base64.b64encode(data[at : at + 50_000]).decode()} for at in range(0, len(data), 50_000)
    ]
    [sent] = call(target, options, expect.SEND_FILE, *upload)
    key: str = sent["randomkey"]
    return key


def test_answers_over_tcp_say_that_there_is_http3(tls: Target, plain: Target) -> None:
    secure = run("curl", "-sS", "-D-", "--cacert", str(tls.certificate), tls.url + "/")
    port = _place(tls)[1]
    assert f'alt-svc: h3=":{port}"; ma=86400'.encode() in secure.stdout
    assert b"alt-svc" not in run("curl", "-sS", "-D-", plain.url + "/").stdout


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_a_reload_brings_the_new_certificate(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def renew(name: str) -> bytes:
        """Put a new certificate where the settings say; return it as DER."""
        folder = tmp_path / name
        development_certificate(folder, time.time(), "localhost")
        key.write_bytes((folder / "dev-key.pem").read_bytes())
        cert.write_bytes((folder / "dev-cert.pem").read_bytes())
        return ssl.PEM_cert_to_DER_cert(cert.read_text())

    def shown(asking: Any, target: Target) -> bytes:
        answer = asking.post(target.url + expect.UNARY, json={"name": "Ada"})
        assert (answer.status_code, answer.http_version) == (200, 30)
        der: bytes = answer.conn_info.certificate_der
        return der

    old = renew("old")
    with running(tmp_path / "data", "--tls-cert", str(cert), "--tls-key", str(key)) as daemon:
        target = Target(daemon.tls, cert)
        with session(target) as before:
            assert shown(before, target) == old
            new = renew("new")
            daemon.signal(signal.SIGHUP)
            daemon.wait_for_event(lambda entry: entry["event"] == "settings reloaded")
            assert shown(before, target) == old, "the open connection goes on"
            with session(target) as after:
                assert shown(after, target) == new
