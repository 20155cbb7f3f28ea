"""Connect's JavaScript clients under Node: `connect-node` and, on Node's fetch, `connect-web`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.interop import expect
from tests.interop.programs import program, run
from tests.interop.target import Target

FOLDER = Path(__file__).parent / "node"

#: Transports that can stream requests, as `run.mjs` names them.
NODE = [
    "node connect h1",
    "node connect h1 json",
    "node connect h1 get",
    "node connect h2",
    "node connect h2 json",
    "node connect h2 gzip",
    "node grpc h2",
    "node grpc h2 gzip",
    "node grpcweb h1",
    "node grpcweb h2",
]
#: Transports of browsers, which cannot.
WEB = ["web connect", "web connect json", "web connect get", "web grpcweb"]


@pytest.fixture(scope="session")
def packages() -> None:
    """The npm packages; scripts/test has installed them, a run of pytest alone may have to."""
    if not (FOLDER / "node_modules" / "@connectrpc" / "connect-node").is_dir():
        command = (program("npm"), "ci", "--no-audit", "--no-fund", "--loglevel=error")
        subprocess.run(command, cwd=FOLDER, check=True, timeout=300)


@pytest.fixture(scope="session")
def heard(packages: None) -> dict[Target, dict[str, Any]]:
    """What was said on each port, by transport; filled by the first test that asks."""
    return {}


@pytest.fixture
def spoken(target: Target, generated: Path, heard: dict[Target, dict[str, Any]]) -> dict[str, Any]:
    """What all transports, at once and in one process, have heard on a port."""
    if target not in heard:
        script, descriptors = str(FOLDER / "run.mjs"), str(generated / "descriptors.binpb")
        trust = {"NODE_EXTRA_CA_CERTS": str(target.certificate)} if target.certificate else {}
        ended = run(program("node"), script, target.url, descriptors, timeout=90, **trust)
        assert ended.returncode == 0, ended.stderr.decode()
        heard[target] = json.loads(ended.stdout)
    return heard[target]


@pytest.mark.parametrize("style", NODE + WEB)
def test_conversation(spoken: dict[str, Any], style: str) -> None:
    said = spoken[style]
    assert said["unary"] == [{"resp": expect.greeting(name), "version": "v1"} for name in expect.NAMES]
    assert said["serverStream"] == [expect.parts(name) for name in expect.NAMES]
    assert said["metadata"] == expect.greeting("Ada")
    assert said["errors"]["unknownKey"]["code"] == "NotFound"
    assert said["errors"]["emptyKey"]["code"] == "InvalidArgument"
    assert said["errors"]["unknownFile"]["code"] == "NotFound"
    assert all(error["message"] for error in said["errors"].values())
    if not style.endswith("get"):
        assert said["tooLarge"]["code"] == "ResourceExhausted", said["tooLarge"]
        assert said["afterwards"] == expect.greeting("Bob")
    if style in NODE:
        assert said["clientStream"] == expect.summary(*expect.NAMES)
        assert said["bidi"] == [expect.greeting(name) for name in expect.NAMES]
        sent = said["file"]["sent"]
        assert said["file"] == {
            "success": True,
            "filename": "Zoë.bin",
            "size": 40 * 50_001,
            "sent": sent,
            "received": sent,
            "linkName": "Zoë.bin",
            "linked": sent,
        }
        assert said["lateInfo"]["code"] == "InvalidArgument"
        assert said["deadline"]["code"] == "DeadlineExceeded"
        assert said["cancellation"]["heard"] == [expect.greeting("Ada")]
        assert said["cancellation"]["ended"]["code"] == "Canceled"
    if " h2" in style:
        assert said["turns"] == [expect.greeting(name) for name in expect.NAMES]
