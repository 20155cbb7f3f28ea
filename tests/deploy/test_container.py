"""The Dockerfile and the compose files, as far as they can be read without an engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from fawa.config.settings import TABLE, Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "scripts" / "deploy"


def compose(name: str) -> dict[str, Any]:
    document = yaml.safe_load((DEPLOY / name).read_text())
    assert isinstance(document, dict)
    return document


def stages() -> list[list[tuple[str, str]]]:
    """Return the Dockerfile's instructions, stage by stage."""
    found: list[list[tuple[str, str]]] = []
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            if name == "FROM":
                found.append([])
            if found:
                found[-1].append((name, rest))
    return found


def test_what_the_image_is_built_from_is_there_and_reaches_the_engine() -> None:
    build, final = stages()
    sources = [
        source
        for name, rest in (*build, *final)
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert {"pyproject.toml", "scripts/deploy/install", "fawa"} <= set(sources)
    allowed = re.findall(r"^!(\S+)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.M)
    for source in sources:
        assert (ROOT / source).exists()
        assert any(source == path or source.startswith(f"{path}/") for path in allowed), source
    # The installation is one script, which tests/deploy/test_install.py runs.
    assert [rest for name, rest in build if name == "RUN"] == ["scripts/deploy/install /opt/fawa"]


def test_the_result_has_no_tools_no_root_and_listens_where_it_says() -> None:
    _, final = stages()
    instructions = dict(final)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", instructions["USER"])
    (command,) = [rest for name, rest in final if name == "RUN"]
    assert "apt" not in command
    assert "uninstall --yes --root-user-action ignore pip" in command
    config = yaml.safe_load((DEPLOY / "config.yaml").read_text())
    assert set(config) <= set(TABLE)
    plain, secure = config["listen"].lstrip(":"), config["listen_tls"].lstrip(":")
    assert instructions["EXPOSE"] == f"{plain}/tcp {secure}/tcp {secure}/udp"
    assert instructions["VOLUME"] == config["data_dir"]
    # fawad looks for a config.yaml where it is started, too: not where it writes.
    assert instructions["WORKDIR"] == "/"
    assert f"http://{config['admin.listen']}/healthz" in instructions["HEALTHCHECK"]


def test_compose_seals_the_container_and_waits_for_its_drain() -> None:
    (fawad,) = compose("compose.yaml")["services"].values()
    assert fawad["read_only"]
    assert fawad["cap_drop"] == ["ALL"]
    assert (ROOT / fawad["build"]["dockerfile"]).exists()
    assert (DEPLOY / fawad["build"]["context"]).resolve() == ROOT
    grace = TABLE["drain_grace"].kind.parse(fawad["environment"]["FAWA_DRAIN_GRACE"])
    assert grace == Settings(data_dir=DEPLOY).drain_grace
    assert int(fawad["stop_grace_period"].removesuffix("s")) >= grace + 10
    assert all(port.startswith("127.0.0.1:") for port in fawad["ports"])
    instructions = dict(stages()[1])
    exposed = {port.partition(":")[2].partition(":")[2] for port in fawad["ports"]}
    assert exposed == set(instructions["EXPOSE"].split())


def test_compose_sets_what_fawad_knows() -> None:
    known = {row.variable for row in TABLE.values()}
    for name in ("compose.yaml", "compose.shared.yaml"):
        for service in compose(name)["services"].values():
            variables = {name for name in service.get("environment", {}) if name.startswith("FAWA")}
            assert variables - known == set()
