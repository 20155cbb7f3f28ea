"""Rendered pods, run: configuration, environment, ports, probes, drain."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from signal import SIGKILL, SIGTERM
from urllib.parse import urlsplit

import pytest

from fawa.net import tls
from tests.daemon import PATIENCE
from tests.helm.charts import Object, config, container, of_kind, render, secret_value, the
from tests.helm.pod import ADDRESS, Pod, environment, running

#: Begins a call, says that it has been taken, and sends the rest of it when it is told to; prints the answer.
SLOW_CALL = """
import socket, sys
host, port = sys.argv[1].split(":")
body = b'{"name": "Ada"}'
head = (
    "POST /greet.v1.GreetService/SayHello HTTP/1.1\\r\\nHost: fawa\\r\\nContent-Type: application/json\\r\\n"
    f"Content-Length: {len(body)}\\r\\nExpect: 100-continue\\r\\n\\r\\n"
)
with socket.create_connection((host, int(port)), 30) as sock:
    sock.sendall(head.encode())
    answer = sock.makefile("rb")
    print(answer.readline().decode().strip(), flush=True)
    sock.sendall(body[:5])
    sys.stdin.readline()
    sock.sendall(body[5:])
    print(answer.read().decode(), flush=True)
"""


def ask(pod: Pod, path: str, token: str = "") -> tuple[int, str]:
    """Ask the admin listener from within the cluster."""
    program = """
import sys, urllib.error, urllib.request
request = urllib.request.Request(sys.argv[1], headers={"Authorization": f"Bearer {sys.argv[2]}"})
try:
    with urllib.request.urlopen(request, timeout=30) as answer:
        print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""
    done = pod.python(program, f"http://{ADDRESS}:{pod.port('admin')}{path}", token)
    status, _, text = done.stdout.partition(" ")
    return int(status), text


def test_the_pod_of_the_default_values(tmp_path: Path) -> None:
    rendered = render()
    manifest = the("Deployment", "fawa", rendered)
    with running(manifest, rendered, tmp_path) as pod:
        assert pod.daemon.plain.endswith(f":{pod.port('http')}")
        for which in ("startup", "readiness", "liveness"):
            succeeded, answer = pod.probe(which)
            assert succeeded, answer
        ready = json.loads(pod.probe("readiness")[1])
        assert set(ready["checks"]) >= {"greet", "file", "canva", "canvax"}

        # The Secret's token opens the rest of the admin listener, and nothing else does.
        assert ask(pod, "/metrics", secret_value("fawa", "admin-token", rendered))[0] == 200
        assert ask(pod, "/metrics", "an-admin-token")[0] == 401

        # `helm test` finds the page at the Service's port.
        (test,) = of_kind("Pod", rendered)
        (one,) = test["spec"]["containers"]
        assert one["command"][0] == "python"
        done = pod.python(*one["command"][2:-1], reached(one["command"][-1], pod, rendered))
        assert done.returncode == 0, done.stderr

        # What is kept is on the volume; the root is read-only.
        assert (tmp_path / "data" / "files.sqlite3").exists()
        mounts = Path(f"/proc/{pod.daemon.process.pid}/mounts").read_text()
        assert re.search(r"^\S+ / \S+ ro[, ]", mounts, re.M)
        assert re.search(r"^\S+ /etc/fawa \S+ ro[, ]", mounts, re.M)

        drains(pod)


def reached(url: str, pod: Pod, rendered: list[Object]) -> str:
    """Return the pod's own address for a Service's."""
    match = re.fullmatch(r"http://([a-z-]+):(\d+)(/.*)", url)
    assert match is not None
    service = the("Service", match[1], rendered)
    (target,) = [port["targetPort"] for port in service["spec"]["ports"] if port["port"] == int(match[2])]
    return f"http://{ADDRESS}:{pod.port(target)}{match[3]}"


def drains(pod: Pod) -> None:
    """SIGTERM: not ready at once, the call under way is answered, and all within the grace."""
    call = subprocess.Popen(
        pod.inside(sys.executable, "-c", SLOW_CALL, f"{ADDRESS}:{pod.port('http')}"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert call.stdout is not None
        assert call.stdout.readline() == "HTTP/1.1 100 Continue\n"
        pod.daemon.signal(SIGTERM)
        began = time.monotonic()
        pod.daemon.wait_for_event(lambda entry: entry.get("event") == "draining")
        succeeded, answer = pod.probe("readiness")
        assert not succeeded
        assert '"daemon":"draining"' in answer
        assert pod.probe("liveness")[0]
        answered, _ = call.communicate("\n", PATIENCE)
        assert "HTTP/1.1 200 OK" in answered
        assert '{"resp": "Hello, Ada!"}' in answered
        assert pod.daemon.wait(pod.grace) == 0
        assert time.monotonic() - began < pod.grace
    finally:
        call.kill()
        call.communicate()


def test_the_pod_with_tls_and_quic(tmp_path: Path) -> None:
    rendered = render("quic")
    manifest = the("Deployment", "fawa", rendered)
    issued = the("Certificate", "fawa", rendered)["spec"]["secretName"]
    development = tmp_path / "issued"
    tls.development_certificate(development, time.time(), "fawa.example.com")
    secrets = {
        issued: {
            "tls.crt": (development / "dev-cert.pem").read_bytes(),
            "tls.key": (development / "dev-key.pem").read_bytes(),
        }
    }
    with running(manifest, rendered, tmp_path, secrets=secrets) as pod:
        assert "grpc" in pod.container["readinessProbe"]
        for which in ("startup", "readiness", "liveness"):
            succeeded, answer = pod.probe(which)
            assert succeeded, answer
        # Browsers are told the port of the Service, not that of the pod.
        service = the("Service", "fawa-quic", rendered)
        (port,) = service["spec"]["ports"]
        assert pod.daemon._ready["listen_quic"].split()[0].endswith(f":{pod.port(port['targetPort'])}")
        curl = ["curl", "--silent", "--insecure", "--head", f"https://{ADDRESS}:{pod.port('https')}/"]
        head = subprocess.run(pod.inside(*curl), capture_output=True, text=True, check=True, timeout=PATIENCE)
        assert f'alt-svc: h3=":{port["port"]}"' in head.stdout
        pod.daemon.signal(SIGTERM)
        assert pod.daemon.wait(pod.grace) == 0


@pytest.mark.parametrize("name", ["greet", "board"])
def test_a_pod_of_a_service_apart(name: str, tmp_path: Path) -> None:
    rendered = render("values", "layout=apart")
    manifest = the("Deployment", f"fawa-{name}", rendered)
    with running(manifest, rendered, tmp_path) as pod:
        served = config(manifest, rendered)["services"].split(",")
        ready = json.loads(pod.probe("readiness")[1])["checks"]
        assert set(served) <= set(ready)
        assert not {"greet", "file", "canva", "canvax"} - set(served) & set(ready)
        # What is routed to it answers: a call with its own word, a path with anything but "no such path".
        for path in routed(f"fawa-{name}"):
            status, _ = ask_http(pod, path)
            assert status != 404, path
    assert container(manifest)["command"][0] == "fawad"


def test_files_apart_take_what_has_no_other_place(tmp_path: Path) -> None:
    assert routed("fawa-file") == ["/file.v1.FileService/", "/files/", "/uploads", "/"]
    rendered = render("values", "layout=apart")
    manifest = the("Deployment", "fawa-file", rendered)
    with running(manifest, rendered, tmp_path) as pod:
        assert ask_http(pod, "/")[0] == 200
        base = f"http://{ADDRESS}:{pod.port('http')}"
        put = subprocess.run(
            pod.inside("curl", "--silent", "--fail", "--data-binary", "hello", "-X", "PUT", f"{base}/a.txt"),
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
        )
        link = urlsplit(put.stdout.strip())
        assert link.path.startswith("/files/")
        get = pod.inside("curl", "--silent", "--fail", f"{base}{link.path}?{link.query}")
        assert subprocess.run(get, capture_output=True, check=True, timeout=PATIENCE).stdout == b"hello"


def test_a_pod_with_the_charts_own_redis(tmp_path: Path) -> None:
    rendered = render("values", "redis.enabled=true", "services={canva,canvax}")
    manifest = the("Deployment", "fawa", rendered)
    redis = the("StatefulSet", "fawa-redis", rendered)["spec"]["template"]["spec"]["containers"][0]
    password = environment(redis, rendered)["REDISCLI_AUTH"]
    assert environment(container(manifest), rendered)["REDIS_PASSWORD"] == password
    service = the("Service", "fawa-redis", rendered)
    kept = tmp_path / "redis"
    kept.mkdir()
    words = [*redis["command"], *redis["args"]]
    command = [word.replace("/data", str(kept)).replace("$(REDISCLI_AUTH)", password) for word in words]
    command += ["--daemonize", "yes", "--pidfile", str(kept / "pid"), "--bind", ADDRESS]
    # It has mounts of its own, as those that it writes to cannot be made read-only for fawad.
    command = ["unshare", "--mount", *command]
    name = f"{ADDRESS} {service['metadata']['name']}"
    before = (f"echo {name} >>/etc/hosts", f"{shlex.join(command)} >/dev/null")
    try:
        with running(manifest, rendered, tmp_path, before=before) as pod:
            succeeded, answer = pod.probe("readiness")
            assert succeeded, answer
            cli = pod.inside("env", f"REDISCLI_AUTH={password}", *redis["readinessProbe"]["exec"]["command"])
            cli[-1:] = ["-h", ADDRESS, cli[-1]]
            pong = subprocess.run(cli, capture_output=True, text=True, check=True, timeout=PATIENCE)
            assert pong.stdout == "PONG\n"
            # Nobody comes in without the password.
            bare = pod.inside("redis-cli", "-h", ADDRESS, "ping")
            refused = subprocess.run(bare, capture_output=True, text=True, check=False, timeout=PATIENCE)
            assert "NOAUTH" in refused.stdout + refused.stderr
            os.kill(int((kept / "pid").read_text()), SIGKILL)
            succeeded, answer = pod.probe("readiness")
            assert not succeeded
            assert "redis" in answer.lower()
            assert pod.probe("liveness")[0]
            pod.daemon.signal(SIGTERM)
            assert pod.daemon.wait(pod.grace) == 0
    finally:
        if (kept / "pid").exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int((kept / "pid").read_text()), SIGKILL)


def routed(name: str) -> list[str]:
    """Return a path for each that the ingress routes to a Service."""
    settings = "layout=apart,ingress.enabled=true,ingress.host=fawa.example.com"
    (ingress,) = of_kind("Ingress", render("values", settings))
    paths = [
        entry["path"]
        for entry in ingress["spec"]["rules"][0]["http"]["paths"]
        if entry["backend"]["service"]["name"] == name
    ]
    methods = {"/greet.v1.GreetService/": "SayHello", "/canva.v1.CanvaService/": "Collaborate"}
    return [f"{path}{methods.get(path, '')}" for path in paths]


def ask_http(pod: Pod, path: str) -> tuple[int, str]:
    path += "canva" if path == "/webtransport/" else ""
    done = pod.python(
        """
import sys, urllib.error, urllib.request
try:
    with urllib.request.urlopen(sys.argv[1], timeout=30) as answer:
        print(answer.status)
except urllib.error.HTTPError as error:
    print(error.code)
""",
        f"http://{ADDRESS}:{pod.port('http')}{path}",
    )
    return int(done.stdout), done.stderr
