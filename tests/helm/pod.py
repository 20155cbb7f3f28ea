"""A rendered pod, run: its command, environment, files, user rights, ports and grace, but on this machine.

It has a network of its own with the pod's address, so that ports are those of the manifest, and a file system
of its own that is read-only but for what the manifest mounts. The kubelet's part is played with `nsenter`.
"""

from __future__ import annotations

import base64
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from tests.daemon import PATIENCE, Daemon, started
from tests.helm.charts import Object, container, the

#: The pod's address: not loopback, where a listener would be that nobody else can reach.
ADDRESS = "10.99.0.7"

#: What the image sets (scripts/deploy/Dockerfile).
_IMAGE = {"HOME": "/var/lib/fawa", "PYTHONDONTWRITEBYTECODE": "1"}


def environment(one: Object, among: list[Object]) -> dict[str, str]:
    """Return a container's variables as the kubelet makes them of the manifest and its Secrets."""
    found: dict[str, str] = {}
    for entry in one["env"]:
        if "valueFrom" in entry:
            reference = entry["valueFrom"]["secretKeyRef"]
            value = base64.b64decode(
                the("Secret", reference["name"], among)["data"][reference["key"]]
            ).decode()
        else:
            value = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], entry["value"])
        found[entry["name"]] = value
    return found


@attrs.frozen
class Pod:
    """A running pod."""

    manifest: Object
    daemon: Daemon

    @property
    def container(self) -> Object:
        return container(self.manifest)

    @property
    def grace(self) -> float:
        """Seconds from SIGTERM, which follows preStop, until the kubelet kills it."""
        hook = self.container.get("lifecycle", {}).get("preStop", {"sleep": {"seconds": 0}})
        whole = self.manifest["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        return float(whole - hook["sleep"]["seconds"])

    def port(self, name: str | int) -> int:
        """Return the number of a port of the container."""
        if isinstance(name, int):
            return name
        (found,) = [port["containerPort"] for port in self.container["ports"] if port["name"] == name]
        return int(found)

    def inside(self, *command: str) -> list[str]:
        """Return the command that runs another one in the pod's network."""
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", "--target", str(self.daemon.process.pid), "--net", *user, *command]

    def python(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.inside(sys.executable, "-c", program, *arguments),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )

    def probe(self, which: str) -> tuple[bool, str]:
        """Ask as the kubelet would; returns whether the probe succeeds, and what was answered."""
        probe = self.container[f"{which}Probe"]
        if "grpc" in probe:
            done = self.python(_GRPC_PROBE, f"{ADDRESS}:{self.port(probe['grpc']['port'])}")
        else:
            http = probe["httpGet"]
            done = self.python(_HTTP_PROBE, f"http://{ADDRESS}:{self.port(http['port'])}{http['path']}")
        return done.returncode == 0, done.stdout + done.stderr


_HTTP_PROBE = """
import sys, urllib.error, urllib.request
try:
    with urllib.request.urlopen(sys.argv[1], timeout=10) as answer:
        print(answer.read().decode())
except urllib.error.HTTPError as error:
    sys.exit(f"{error.code} {error.read().decode()}")
"""

_GRPC_PROBE = """
import sys, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
with grpc.insecure_channel(sys.argv[1]) as channel:
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
print(answer.status)
sys.exit(answer.status != health_pb2.HealthCheckResponse.SERVING)
"""


@contextmanager
def running(
    manifest: Object,
    among: list[Object],
    folder: Path,
    *,
    secrets: dict[str, dict[str, bytes]] | None = None,
    before: tuple[str, ...] = (),
) -> Iterator[Pod]:
    """Run the pod of a deployment, with its volumes below `folder`.

    `secrets` has the content of Secrets that are not among the objects, by their names; `before` are lines of
    the shell, run in the pod's network while its files can still be written.
    """
    one = container(manifest)
    pod = manifest["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = [
        (_content(volumes[mount["name"]], among, secrets or {}, folder / mount["name"]), mount)
        for mount in one["volumeMounts"]
    ]
    command = [str(Path(sys.executable).with_name(one["command"][0])), *one["command"][1:]]
    sealed = [*_namespaces(), "sh", "-c", _seal(mounts, folder, before), "sh", *command]
    variables = {"PATH": os.environ["PATH"], **_IMAGE, **environment(one, among)}
    with started(sealed, folder, variables) as daemon:
        yield Pod(manifest, daemon)


def _content(volume: Object, among: list[Object], secrets: dict[str, dict[str, bytes]], folder: Path) -> Path:
    """Return a folder with what a volume holds."""
    folder.mkdir()
    if "configMap" in volume:
        for name, text in the("ConfigMap", volume["configMap"]["name"], among)["data"].items():
            (folder / name).write_text(text)
    elif "secret" in volume:
        for name, content in secrets[volume["secret"]["secretName"]].items():
            (folder / name).write_bytes(content)
    return folder


def _namespaces() -> list[str]:
    """Return what makes a network and mounts of its own, for an ordinary user too."""
    own = ["unshare", "--net", "--mount", "--propagation", "private"]
    return own if os.geteuid() == 0 else [*own, "--map-root-user"]


def _seal(mounts: list[tuple[Path, Object]], folder: Path, before: tuple[str, ...]) -> str:
    """Return the shell's lines that make the pod, and then become the command without any rights."""
    layers = shlex.quote(str(folder / "layers"))
    lines = [
        "set -e",
        "ip link set lo up",
        f"ip address add {ADDRESS}/32 dev lo",
        f"mkdir -p {layers} && mount -t tmpfs tmpfs {layers}",
    ]
    # The image's folders are made in a layer over those of this machine.
    for number, top in enumerate(
        sorted({Path(mount["mountPath"]).parts[1] for _, mount in mounts} - {"tmp"})
    ):
        upper, work = f"{layers}/{number}/upper", f"{layers}/{number}/work"
        options = f"lowerdir=/{top},upperdir={upper},workdir={work}"
        lines.append(f"mkdir -p {upper} {work} && mount -t overlay overlay -o {options} /{top}")
    for content, mount in mounts:
        if mount["mountPath"] != "/tmp":  # where the tests' own files are
            flags = "ro,bind" if mount.get("readOnly") else "rw,bind"
            path = mount["mountPath"]
            lines.append(f"mkdir -p {path} && mount --bind {shlex.quote(str(content))} {path}")
            lines.append(f"mount -o remount,{flags} {path}")
    lines += before
    for top in sorted({Path(mount["mountPath"]).parts[1] for _, mount in mounts} - {"tmp"}):
        lines.append(f"mount -o remount,ro /{top}")
    lines.append("mount -o remount,bind,ro /")
    drop = "--bounding-set=-all --inh-caps=-all" if os.geteuid() == 0 else ""
    lines.append(f'exec setpriv --no-new-privs {drop} "$@"')
    return "\n".join(lines)
