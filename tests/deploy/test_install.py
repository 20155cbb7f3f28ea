"""What is built, installed as the container and the unit have it, and run as they run it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.daemon import Daemon, started

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "scripts" / "deploy"
PATIENCE = 300.0

#: What the image and the unit have the daemon run as.
USER = 10001


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def served_files() -> set[str]:
    """Return what the repository has below `fawa/`."""
    return set(run("git", "ls-files", "fawa").split())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is made from that rather than from the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    hatchling = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    run(*hatchling, "--target", "sdist")
    (sdist,) = folder.glob("fawa-*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "from-sdist", filter="data")
    (source,) = (folder / "from-sdist").iterdir()
    subprocess.run([*hatchling, "--target", "wheel"], cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("fawa-*.whl")
    return sdist, wheel


def test_the_sdist_and_the_wheel_have_all_of_fawa_and_the_page(built: tuple[Path, Path]) -> None:
    sdist, wheel = built
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    wanted = served_files()
    assert {"fawa/web/index.html", "fawa/web/board/board.js", "fawa/py.typed"} <= wanted
    assert wanted - in_sdist == set()
    assert wanted - in_wheel == set()
    assert {name for name in in_wheel if not name.startswith("fawa/")} == {
        f"fawa-{wheel.name.split('-')[1]}.dist-info/{name}"
        for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    }


def test_what_the_image_is_built_from_gives_the_same_wheel(built: tuple[Path, Path], tmp_path: Path) -> None:
    stage = (DEPLOY / "Dockerfile").read_text().split("\nFROM ")[1]
    for line in re.findall(r"^COPY (.+)$", stage, re.M):
        *sources, target = line.split()
        for source in sources:
            place = tmp_path / target / source if target == "./" else tmp_path / target
            place.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            copy(ROOT / source, place)
    hatchling = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", "dist"]
    subprocess.run(hatchling, cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")

    def content(path: Path) -> dict[str, bytes]:
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist() if "__pycache__" not in name}

    assert content(wheel).keys() == content(built[1]).keys()
    assert content(wheel) == content(built[1])


def dockerfile() -> dict[str, list[str]]:
    """Return the arguments of each instruction of the image's last stage."""
    stage = (DEPLOY / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    found: dict[str, list[str]] = {}
    for line in stage.replace("\\\n", " ").splitlines()[1:]:
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            found.setdefault(name, []).append(rest)
    return found


@contextmanager
def sealed(prefix: Path, data: Path) -> Iterator[Daemon]:
    """Run what is installed as a container does: no root, nothing writable but its data and /tmp, no rights.

    An ordinary user gets the same by a user namespace.
    """
    (data / "config.yaml").write_text((DEPLOY / "config.yaml").read_text())
    environment = {"PATH": f"{prefix}/bin:/usr/bin:/bin", "HOME": str(data), "PYTHONDONTWRITEBYTECODE": "1"}
    flags = ["--config", str(data / "config.yaml"), "--data-dir", str(data)]
    for setting in ("listen", "listen-tls", "admin-listen"):
        flags += [f"--{setting}", "127.0.0.1:0"]
    fawad = [*dockerfile_words("ENTRYPOINT"), *flags]
    if os.geteuid() == 0:
        os.chown(data, USER, USER)
        rights = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"]
        rights += ["--bounding-set=-all", "--inh-caps=-all"]
        namespace = ["unshare", "--mount"]
    else:
        rights, namespace = ["setpriv", "--no-new-privs"], ["unshare", "--map-root-user", "--mount"]
    seal = (
        f"mount --bind {shlex.quote(str(data))} {shlex.quote(str(data))} && mount -o remount,bind,ro / && "
        f'exec {shlex.join(rights)} "$@"'
    )
    command = [*namespace, "sh", "-c", seal, "sh", *fawad]
    with started(command, data, environment) as daemon:
        yield daemon


def dockerfile_words(name: str) -> list[str]:
    """Return an instruction in its exec form as words."""
    (text,) = dockerfile()[name]
    words = yaml.safe_load(text)
    assert isinstance(words, list)
    return [str(word) for word in words]


def read(url: str) -> str:
    request = urllib.request.Request(url, headers={"Accept": "text/html"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200
        return str(answer.read().decode())


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other users can reach, as they cannot those of pytest."""
    with tempfile.TemporaryDirectory(prefix="fawa-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def test_what_is_built_serves_the_page_from_a_read_only_root(built: tuple[Path, Path], place: Path) -> None:
    prefix = place / "opt" / "fawa"
    run(DEPLOY / "install", prefix, built[1], PYTHON=everybodys_python())
    # No compiler is needed (pip took wheels alone), and neither pip nor a checkout is left in the result.
    assert not (prefix / "bin" / "pip").exists()
    where = run(prefix / "bin" / "python", "-I", "-c", "import fawa; print(fawa.__file__)").strip()
    assert Path(where).is_relative_to(prefix)
    assert "is there and not empty" in refused(DEPLOY / "install", prefix)

    before = {path: path.stat().st_mtime_ns for path in prefix.rglob("*")}
    data = place / "data"
    data.mkdir()
    with sealed(prefix, data) as daemon:
        assert '<script type="module" src="web/main.js">' in read(f"http://{daemon.plain}/")
        read(f"http://{daemon.plain}/web/main.js")
        status = Path(f"/proc/{daemon.process.pid}/status").read_text()
        assert re.search(r"^NoNewPrivs:\s1$", status, re.M)
        if os.geteuid() == 0:
            assert re.search(rf"^Uid:\s{USER}\s", status, re.M)
            assert re.search(r"^CapEff:\s0+$", status, re.M)
        # Its root is read-only in earnest.
        probe = Path(f"/proc/{daemon.process.pid}/mounts").read_text()
        assert re.search(r"^\S+ / \S+ ro[, ]", probe, re.M)
    assert {path: path.stat().st_mtime_ns for path in prefix.rglob("*")} == before


def everybodys_python() -> str:
    """Return a Python that other users may run too: that of the tests may lie in somebody's home."""
    return "/usr/bin/python3" if os.geteuid() == 0 else os.path.realpath(sys.executable)


def refused(*command: str | Path) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 1
    return done.stderr
