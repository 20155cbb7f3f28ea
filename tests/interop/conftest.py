"""What the tests with foreign clients share."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import PATIENCE, Daemon
from tests.interop.target import Target

REPOSITORY = Path(__file__).parents[2]
PROTOCOLS = REPOSITORY / "protocols"


@pytest.fixture(scope="session", autouse=True)
def no_proxy() -> Iterator[None]:
    """Clients reach the daemon directly also where the environment names a proxy."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "127.0.0.1,localhost")
        yield


@pytest.fixture
def plain(daemon: Daemon) -> Target:
    """The port for HTTP/1.1 and HTTP/2 with prior knowledge."""
    return Target(daemon.plain, None)


@pytest.fixture
def tls(daemon: Daemon) -> Target:
    """The port for HTTPS, the version by ALPN."""
    return Target(daemon.tls, daemon.certificate)


@pytest.fixture(params=["plain", "tls"])
def target(request: pytest.FixtureRequest) -> Target:
    """Each of the two ports in turn."""
    chosen: Target = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the clients' own generators make of `protocols/`; Python finds it as `greet.v1` and so on."""
    out = tmp_path_factory.mktemp("generated")
    programs = Path(sys.executable).parent
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOCOLS}"),
            *(f"--plugin={programs / name}" for name in ("protoc-gen-py", "protoc-gen-connectrpc")),
            # grpcio's stubs; then connectrpc's; then the descriptors alone, for Node.
            *(f"--python_out={out}", f"--grpc_python_out={out}"),
            *(f"--py_out={out}", f"--connectrpc_out={out}"),
            *(f"--descriptor_set_out={out / 'descriptors.binpb'}", "--include_imports"),
            *("greet/v1/greet.proto", "file/v1/file.proto", "canva/v1/canva.proto"),
        ],
        check=True,
        timeout=PATIENCE,
    )
    sys.path.insert(0, str(out))
    yield out
    sys.path.remove(str(out))


@pytest.fixture(scope="session")
def greet(generated: Path) -> Any:
    """Messages of `greet.v1` for grpcio."""
    return importlib.import_module("greet.v1.greet_pb2")


@pytest.fixture(scope="session")
def greet_grpc(generated: Path) -> Any:
    """Stubs of `greet.v1` for grpcio."""
    return importlib.import_module("greet.v1.greet_pb2_grpc")


@pytest.fixture(scope="session")
def file(generated: Path) -> Any:
    """Messages of `file.v1` for grpcio."""
    return importlib.import_module("file.v1.file_pb2")


@pytest.fixture(scope="session")
def file_grpc(generated: Path) -> Any:
    """Stubs of `file.v1` for grpcio."""
    return importlib.import_module("file.v1.file_pb2_grpc")


@pytest.fixture(scope="session")
def canva(generated: Path) -> Any:
    """Messages of `canva.v1` for grpcio."""
    return importlib.import_module("canva.v1.canva_pb2")


@pytest.fixture(scope="session")
def canva_grpc(generated: Path) -> Any:
    """Stubs of `canva.v1` for grpcio."""
    return importlib.import_module("canva.v1.canva_pb2_grpc")
