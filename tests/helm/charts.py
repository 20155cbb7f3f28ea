"""The chart as the real Helm renders it."""

from __future__ import annotations

import base64
import functools
import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "fawa"
GOLDEN = Path(__file__).with_name("golden")
#: Given in place of what would be made by chance.
SECRETS = Path(__file__).with_name("golden-secrets.yaml")
#: The files of values that the chart brings, by the names of their golden renders.
VALUES = {
    path.stem.removeprefix("values-"): path for path in (CHART / "values.yaml", *CHART.glob("values-*.yaml"))
}

Object = dict[str, Any]


def helm(*arguments: str | Path) -> str:
    """Return what Helm prints.

    Raises:
        AssertionError: it failed; the text is what it says.

    """
    command = [str(ROOT / "scripts" / "helm"), *(str(argument) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def template(name: str = "values", *settings: str, api: str = "1.37.0") -> str:
    """Return the manifests for a file of values, and settings such as `replicas=2`."""
    arguments: list[str | Path] = [word for setting in settings for word in ("--set", setting)]
    arguments += ["--namespace", "fawa", "--kube-version", api, "--values", VALUES[name], "--values", SECRETS]
    return helm("template", "fawa", CHART, *arguments)


def objects(manifests: str) -> list[Object]:
    """Return the objects in manifests."""
    return [document for document in yaml.safe_load_all(manifests) if document]


def render(name: str = "values", *settings: str) -> list[Object]:
    """Return the objects for a file of values."""
    return objects(template(name, *settings))


def of_kind(kind: str, among: list[Object]) -> list[Object]:
    return [found for found in among if found["kind"] == kind]


def the(kind: str, name: str, among: list[Object]) -> Object:
    """Return one object."""
    (found,) = [one for one in of_kind(kind, among) if one["metadata"]["name"] == name]
    return found


def secret_value(name: str, key: str, among: list[Object]) -> str:
    return base64.b64decode(the("Secret", name, among)["data"][key]).decode()


def container(deployment: Object) -> Object:
    """Return the one container of a deployment."""
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def config(deployment: Object, among: list[Object]) -> dict[str, str]:
    """Return fawad's configuration file in the ConfigMap that a deployment mounts."""
    volumes = {volume["name"]: volume for volume in deployment["spec"]["template"]["spec"]["volumes"]}
    text = the("ConfigMap", volumes["config"]["configMap"]["name"], among)["data"]["config.yaml"]
    found = yaml.safe_load(text)
    assert all(isinstance(value, str) for value in found.values()), "fawad takes text alone"
    return dict(found)


def schema(chart: Path = CHART) -> dict[str, Any]:
    return dict(json.loads((chart / "values.schema.json").read_text()))
