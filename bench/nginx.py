"""nginx as the peer of signed links: one worker, sendfile, no access log, one folder."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from servers import SERVER_CORES, Server, StartError, pin, stop

_CONFIGURATION = """
daemon off;
master_process off;
worker_processes 1;
pid {state}/nginx.pid;
error_log {state}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  client_body_temp_path {state}/body;
  proxy_temp_path {state}/proxy;
  fastcgi_temp_path {state}/fastcgi;
  uwsgi_temp_path {state}/uwsgi;
  scgi_temp_path {state}/scgi;
  server {{
    listen 127.0.0.1:{port};
    root {root};
  }}
}}
"""


@contextmanager
def nginx(root: Path, state: Path, *, cores: Collection[int] = SERVER_CORES) -> Iterator[Server]:
    """Serve the files in `root`; `state` is an existing folder for its own.

    Raises:
        StartError: it does not listen within 10 s.

    """
    executable = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if executable is None:
        raise SystemExit("nginx is not installed (Debian: apt-get install nginx-light)")
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    settings = state / "nginx.conf"
    settings.write_text(_CONFIGURATION.format(state=state, root=root, port=port))
    started = time.perf_counter()
    command = [executable, "-e", str(state / "error.log"), "-p", str(state), "-c", str(settings)]
    process = subprocess.Popen(
        pin(command, cores), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    )
    try:
        while not _listens(port):
            if process.poll() is not None or time.perf_counter() > started + 10:
                raise StartError(f"nginx did not start:\n{(state / 'error.log').read_text()}")
            time.sleep(0.01)
        yield Server("nginx", process.pid, f"127.0.0.1:{port}", time.perf_counter() - started)
    finally:
        stop(process)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
