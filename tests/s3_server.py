"""Real S3 services on free loopback ports, started for tests and stopped by their process ids.

`rclone serve s3` starts in a moment and is lax; the Ceph object gateway takes half a minute and enforces what
S3 says of signatures, payload hashes and parts. nginx stands before them as operators have it.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from fawa.storage.s3_client import S3Settings
from fawa.storage.sigv4 import Credentials

ACCESS_KEY = "AKIDTEST"
SECRET_KEY = "secretkey12345678"

#: Seconds for all there is of Ceph to start on a busy machine.
_PATIENCE = 180.0

_CEPH = """
[global]
fsid = {fsid}
keyring = {folder}/keyring
mon_initial_members = a
mon_host = [v2:127.0.0.1:{ports[1]},v1:127.0.0.1:{ports[2]}]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_data_avail_crit = 1
mon_max_pg_per_osd = 1000
run_dir = {folder}/run
admin_socket = {folder}/run/$name.asok
log_file = {folder}/$name.log
mon_cluster_log_file = {folder}/cluster.log
crash_dir = {folder}/crash
mon_data = {folder}/mon
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = 4294967296
rgw_data = {folder}/rgw
rgw_frontends = beast endpoint=127.0.0.1:{ports[0]} tcp_nodelay=1
[osd]
keyring = {folder}/osd/keyring
"""

_NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location {prefix}/ {{
      proxy_pass http://{behind}/;
      proxy_set_header Host $http_host;
    }}
  }}
}}
"""


@attrs.define
class S3Server:
    """A running service, or what answers for it: the rest of Ceph runs on behind its gateway."""

    #: Such as `127.0.0.1:9000`.
    address: str
    command: list[str]
    log: Path
    _process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}"

    def settings(self, bucket: str, **changes: Any) -> S3Settings:
        given = S3Settings(
            endpoint=self.endpoint,
            bucket=bucket,
            credentials=Credentials(ACCESS_KEY, SECRET_KEY, "us-east-1"),
        )
        return attrs.evolve(given, **changes)

    def start(self) -> None:
        """Start the process, once more if it was killed, and wait until it answers."""
        assert self._process is None
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        _wait_until_answering(self.address, self._process, self.log)

    def kill(self) -> None:
        """End the process as a power cut would; does nothing when it has been ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def new_bucket() -> str:
    """Return a name that no other test has."""
    return f"test-{uuid.uuid4().hex}"


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as reserved:
        sockets = [reserved.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def rclone(folder: Path) -> Iterator[S3Server]:
    """Run `rclone serve s3` over `folder`, which is made if it is not there."""
    folder.mkdir(exist_ok=True)
    address = f"127.0.0.1:{free_ports(1)[0]}"
    executable = Path(sys.executable).parent / "rclone"
    command = [str(executable), "--config", os.devnull, "serve", "s3", "--addr", address]
    command += ["--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--vfs-cache-mode", "off", str(folder)]
    with _running(S3Server(address, command, folder.with_name(f"{folder.name}.log"))) as server:
        yield server


@contextlib.contextmanager
def ceph(folder: Path) -> Iterator[S3Server]:
    """Run the Ceph object gateway with all it stands on, in memory; `folder` is for its small files."""
    for name in ("mon", "osd", "rgw", "run", "crash"):
        (folder / name).mkdir(parents=True)
    ports = free_ports(3)
    settings = folder / "ceph.conf"
    settings.write_text(_CEPH.format(folder=folder, fsid=uuid.uuid4(), ports=ports))
    fsid = settings.read_text().split("fsid = ")[1].split()[0]
    keyring, osd = str(folder / "keyring"), str(uuid.uuid4())

    def run(*command: str) -> None:
        deadline = max(1.0, started + _PATIENCE - time.monotonic())
        done = subprocess.run(command, capture_output=True, text=True, timeout=deadline, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"

    def ceph_tool(*arguments: str) -> None:
        run("ceph", "-c", str(settings), *arguments)

    def start(name: str, number: str) -> None:
        command = [name, "-c", str(settings), "-i", number, "-f"]
        running.enter_context(_process(command, folder / f"{name}.out"))

    started = time.monotonic()
    addresses = f"[v2:127.0.0.1:{ports[1]},v1:127.0.0.1:{ports[2]}]"
    osd_keyring = str(folder / "osd" / "keyring")
    run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
    rights = ("--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *")
    run("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *rights)
    monmap = str(folder / "monmap")
    run("monmaptool", "--create", "--clobber", "--addv", "a", addresses, "--fsid", fsid, monmap)
    mkfs = ("--mkfs", "--monmap", monmap, "--keyring", keyring)
    run("ceph-mon", "-c", str(settings), "-i", "a", *mkfs)
    with contextlib.ExitStack() as running:
        start("ceph-mon", "a")
        ceph_tool("osd", "new", osd)
        run("ceph-authtool", "--create-keyring", osd_keyring, "--gen-key", "-n", "osd.0")
        caps = ("osd", "allow *", "mon", "allow rwx", "mgr", "allow *")
        ceph_tool("auth", "add", "osd.0", *caps, "-i", osd_keyring)
        run("ceph-osd", "-c", str(settings), "-i", "0", "--mkfs", "--osd-uuid", osd)
        ceph_tool("osd", "crush", "add-bucket", "h", "host")
        ceph_tool("osd", "crush", "move", "h", "root=default")
        ceph_tool("osd", "crush", "add", "osd.0", "1.0", "host=h")
        start("ceph-osd", "0")
        user = ("--uid", "u", "--display-name", "u", "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY)
        run("radosgw-admin", "-c", str(settings), "user", "create", *user)
        address = f"127.0.0.1:{ports[0]}"
        command = ["radosgw", "-c", str(settings), "--keyring", keyring, "-f"]
        yield running.enter_context(_running(S3Server(address, command, folder / "radosgw.out")))


@contextlib.contextmanager
def nginx(folder: Path, behind: str, prefix: str) -> Iterator[str]:
    """Give the address of an nginx that takes `prefix` off paths and asks `behind`, the Host as it came."""
    folder.mkdir()
    port = free_ports(1)[0]
    settings = folder / "nginx.conf"
    settings.write_text(_NGINX.format(folder=folder, port=port, prefix=prefix, behind=behind))
    executable = shutil.which("nginx") or "/usr/sbin/nginx"
    command = [executable, "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(settings)]
    address = f"127.0.0.1:{port}"
    with _running(S3Server(address, command, folder / "nginx.out")):
        yield address


@contextlib.contextmanager
def _running(server: S3Server) -> Iterator[S3Server]:
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def _process(command: list[str], log: Path) -> Iterator[None]:
    """Run what stands behind a server; nothing of it is kept, so that it may be killed in the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _wait_until_answering(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        connection = http.client.HTTPConnection(address, timeout=5)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
        except OSError:
            failed = process.poll() is not None or time.monotonic() > deadline
            assert not failed, f"{address} does not answer\n{log.read_text(errors='replace')[-4000:]}"
            time.sleep(0.05)
        else:
            return
        finally:
            connection.close()
