"""Seconds from a new process to ready, and to the end of --help, beside what Python and the peers take."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from report import Report, arguments, say
from servers import EVERY_CORE, fawad, peer, serving, tool

READY, READY_DEFAULT, HELP = "ready", "ready, TLS with a new certificate", "--help"
FAWAD, FAWA, PYTHON, GRPCLIB, GRPCIO = "fawad", "fawa", "python -c pass", "grpclib on uvloop", "grpcio.aio"


def main() -> int:
    parser = arguments("Start-up times of fawad and fawa.")
    parser.add_argument("--rounds", type=int, default=9, help="default %(default)s")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    return measure(options).tell(options)


def measure(options: argparse.Namespace) -> Report:
    report = Report("bench/start.py: from a new process to ready", {"rounds": options.rounds})
    for number in range(1, options.rounds + 1):
        say(f"round {number} of {options.rounds}")
        report.record(HELP, "s", FAWAD, run([tool("fawad"), "--help"]))
        report.record(HELP, "s", FAWA, run([tool("fawa"), "--help"]))
        report.record(HELP, "s", PYTHON, run([sys.executable, "-c", "pass"]))
        for server in (FAWAD, GRPCLIB, GRPCIO):
            report.record(READY, "s", server, ready(server))
        report.record(
            READY_DEFAULT, "s", FAWAD, ready(FAWAD, "--listen-tls=127.0.0.1:0", "--admin-listen=127.0.0.1:0")
        )
    report.bound(READY, FAWAD, 1)
    report.bound(READY_DEFAULT, FAWAD, 1)
    report.bound(HELP, FAWAD, 0.3)
    report.bound(HELP, FAWA, 0.3)
    for server in (GRPCLIB, GRPCIO):
        report.compare(READY, FAWAD, server)
    report.compare(HELP, FAWAD, PYTHON)
    return report


def run(command: Sequence[str]) -> float:
    """Return the seconds a command takes."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def ready(name: str, *extra: str) -> float:
    """Return the seconds a server takes from process start to its ready line, its data folder new."""
    with tempfile.TemporaryDirectory(prefix="fawa-bench-") as folder:
        commands = {
            FAWAD: [*fawad(Path(folder)), *extra],
            GRPCLIB: peer("on_grpclib.py"),
            GRPCIO: peer("on_grpcio.py", folder),
        }
        with serving(name, commands[name], cores=EVERY_CORE) as server:
            return server.startup


if __name__ == "__main__":
    sys.exit(main())
