"""h2load as the load client, its answers checked, and the wire form of what it sends.

h2load is written in C and replays a prepared body from a file, so that it costs far less than any server
measured here. It does not connect again after a GOAWAY: keep requests per connection below what the server
allows (fawad rotates a connection after about 3,500).
"""

from __future__ import annotations

import re
import resource
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import attrs
from latency import percentile

GRPC_HEADERS = ("content-type: application/grpc", "te: trailers")
JSON_HEADERS = ("content-type: application/json",)
#: Requests we give one connection at most.
PER_CONNECTION = 2500


class LoadError(Exception):
    """The server did not answer every request with 200 and the bytes expected."""


class Message(Protocol):
    """A protobuf message, as far as sending it goes."""

    def SerializeToString(self) -> bytes:
        """Return its wire form."""


def frame(message: Message) -> bytes:
    """Return the message as gRPC sends it: not compressed, four bytes of length, the message."""
    data = message.SerializeToString()
    return struct.pack(">BI", 0, len(data)) + data


@attrs.frozen
class Load:
    """What one run of h2load saw."""

    requests: int
    #: From the start of the first request to the end of the last response.
    seconds: float
    #: Seconds from the start of each request to the end of its response, sorted.
    latencies: list[float] = attrs.field(repr=False)
    #: Body bytes received.
    data: int
    #: Seconds of CPU that h2load itself used: near `seconds`, the client was the limit.
    client_cpu: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @property
    def client_busy(self) -> float:
        """Share of its core that h2load used, 0 to 1."""
        return self.client_cpu / self.seconds

    def percentile(self, percent: float) -> float:
        """Return the latency, in seconds, that `percent` of the requests stayed within."""
        return percentile(self.latencies, percent)


def h2load(
    url: str,
    *,
    body: Path,
    headers: Sequence[str],
    requests: int = 1,
    connections: int = 1,
    streams: int = 1,
    http1: bool = False,
    response_bytes: int | None = None,
    patience: float = 300,
) -> Load:
    """Post `body` `requests` times over `connections` with `streams` each; return what was seen.

    `response_bytes` is what each response body must have, or `None` to leave that check to the caller.

    Raises:
        LoadError: a request failed, was answered other than 2xx, or with a body of another length.

    """
    executable = shutil.which("h2load")
    if executable is None:
        raise SystemExit("h2load is not installed (Debian: apt-get install nghttp2-client)")
    with tempfile.NamedTemporaryFile("r", suffix=".tsv") as log:
        command = [executable, f"-n{requests}", f"-c{connections}", f"-m{streams}", f"-d{body}"]
        command += [
            f"--log-file={log.name}",
            *(f"-H{header}" for header in headers),
            *(["--h1"] if http1 else []),
            url,
        ]
        before = _children_cpu()
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience, check=False)
        cpu = _children_cpu() - before
        rows = [line.split("\t") for line in log]
    data = _check(done.stdout + done.stderr, requests, response_bytes)
    starts = [int(row[0]) for row in rows]
    ends = [int(row[0]) + int(row[2]) for row in rows]
    return Load(
        requests=requests,
        seconds=(max(ends) - min(starts)) / 1e6,
        latencies=sorted(int(row[2]) / 1e6 for row in rows),
        data=data,
        client_cpu=cpu,
    )


def _check(output: str, requests: int, response_bytes: int | None) -> int:
    """Return the body bytes that h2load received, after checking its counters."""
    succeeded = re.search(r"(\d+) succeeded", output)
    status = re.search(r"status codes: (\d+) 2xx", output)
    traffic = re.search(r"traffic: .*\((\d+)\) data", output)
    if not (succeeded and status and traffic):
        raise LoadError(f"h2load said what this script cannot read:\n{output}")
    if not int(succeeded[1]) == int(status[1]) == requests:
        raise LoadError(f"not every one of {requests} requests was answered 2xx:\n{output}")
    data = int(traffic[1])
    if response_bytes is not None and data != requests * response_bytes:
        raise LoadError(f"got {data} body bytes instead of {requests} x {response_bytes}:\n{output}")
    return data


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
